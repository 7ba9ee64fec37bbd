"""Draw the nodes of each workflow: docs/_static/blm_wf.svg and the like.  Needs Graphviz.

Usage: python docs/make_graph.py [FOLDER]
"""

import shutil
import sys
import tempfile
from pathlib import Path

from nipype.pipeline.engine import Workflow

from nipype_blm.workflows import init_blm_wf, init_blmm_wf, init_compare_wf

DEFAULT = Path(__file__).parent / "_static"


def draw_graph(workflow: Workflow, path: Path) -> None:
    """Write the picture of a workflow."""
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "graph.dot")
        workflow.write_graph(str(graph), graph2use="orig", format="svg", simple_form=True)
        shutil.copy(graph.with_suffix(".svg"), path)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    for init_wf in (init_blm_wf, init_blmm_wf, init_compare_wf):
        workflow = init_wf()
        draw_graph(workflow, folder / f"{workflow.name}.svg")
