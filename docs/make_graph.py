"""Draw the nodes of each workflow: docs/_static/blm_wf.svg and the like.  Needs Graphviz.

Usage: python docs/make_graph.py [FOLDER]

Run it in a folder with a folder bids, which may be empty.
The picture of examples/niworkflows_pipeline.py is drawn only where niworkflows is installed.
"""

import runpy
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from nipype.pipeline.engine import Workflow

from nipype_blm.cli.graph import draw_graph
from nipype_blm.interfaces import PrepareCircuit
from nipype_blm.ngv.layout import Layout
from nipype_blm.ngv.recipe.reading import Recipe
from nipype_blm.ngv.stages import STAGES
from nipype_blm.workflows import (
    init_blm_wf,
    init_blmm_wf,
    init_blockmap_wf,
    init_compare_wf,
    init_fsl_handover_wf,
    init_inference_wf,
    init_tbss_wf,
)
from nipype_blm.workflows.ngv import connect_circuit
from nipype_blm.workflows.nodes import FreshNode

DEFAULT = Path(__file__).parent / "_static"
EXAMPLES = Path(__file__).parents[1] / "examples"
STUDY = Path.cwd()  # which has a folder bids, of which nothing is read

# With the nodes of FSL.
init_clusters_wf = partial(init_fsl_handover_wf, z_threshold=2.3)
init_volume_wf = partial(init_blockmap_wf, out_dir="blocks")
init_all_pairs_wf = partial(init_tbss_wf, out_dir="tracts", target="most_representative")


def init_circuit_wf() -> Workflow:
    """Return the workflow of a circuit, of which nothing is read."""
    folder = Path("circuit")
    recipe = Recipe(folder, folder, {}, list(STAGES), {}, {})
    prepare = FreshNode(PrepareCircuit(), name="prepare")
    return connect_circuit(prepare, recipe, Layout(folder), {}, "ngv_wf")


WORKFLOWS = (
    *(init_blm_wf, init_blmm_wf, init_compare_wf, init_inference_wf, init_clusters_wf),
    *(init_all_pairs_wf, init_volume_wf, init_circuit_wf),
)


def build_example(name: str) -> Workflow:
    """Return the workflow of an example."""
    found = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    return found["init_group_wf"](STUDY)


def list_examples() -> list[str]:
    """Return the names of the examples that are drawn."""
    more = ["niworkflows_pipeline"] if find_spec("niworkflows") else []
    return ["bids_pipeline", *more]


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    for init_wf in WORKFLOWS:
        workflow = init_wf()
        draw_graph(workflow, folder / f"{workflow.name}.svg")
    for example in list_examples():
        draw_graph(build_example(example), folder / f"{example}.svg")
