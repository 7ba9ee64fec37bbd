"""A model inside a workflow of niworkflows, whose results a DerivativesDataSink names.

Run it where there is a data set `bids`, such as the one that examples/make_bids.py makes:

    python examples/niworkflows_pipeline.py

It needs niworkflows: `pip install 'nipype_blm[niworkflows]'`, on Python 3.12 or later.
"""

from pathlib import Path

from nipype import MapNode, Node
from niworkflows.engine.workflows import LiterateWorkflow
from niworkflows.interfaces.bids import DerivativesDataSink

from nipype_blm.interfaces import BLM, FindImages

FORMULA = "~ age + sex"
CONTRASTS = ["age", "sex"]  # letters and digits only, as a label of BIDS
FOLDER = "group/"
START = "[task-{task}_][space-{space}_]contrast-{contrast}_"
PATTERNS = [
    FOLDER + START + "stat-{stat<effect|variance|t|F|z|p>}_{suffix<statmap>}{extension<.nii.gz>}",
    FOLDER + START + "desc-{desc}_{suffix<mask>}{extension<.nii.gz>}",
]


class StatMapSink(DerivativesDataSink):
    """Names statistical maps of a group, for which niworkflows has no pattern."""

    out_path_base = ""
    # What is here gets no place of its own in a name that has none for it, such as a session.
    _config_entities = DerivativesDataSink._config_entities | {"contrast", "stat"}
    _config_entities_dict = (
        *DerivativesDataSink._config_entities_dict,
        *({"name": name, "pattern": f"_{name}-([a-zA-Z0-9]+)"} for name in ("contrast", "stat")),
    )
    _file_patterns = PATTERNS


def init_group_wf(study: Path) -> LiterateWorkflow:
    """Build the workflow: find images, fit, sink the z map of each contrast."""
    workflow = LiterateWorkflow(name="group_wf", base_dir=study / "niworkflows_work")
    workflow.__desc__ = f"The linear model {FORMULA} was fitted at every voxel by nipype_blm.\n"
    find = Node(FindImages(bids=study / "bids"), name="find")
    find.inputs.filters = {"contrast": "faces", "stat": "effect", "session": "1"}
    fit = Node(BLM(formula=FORMULA, contrasts=CONTRASTS, compress=True), name="fit")
    sink = MapNode(
        StatMapSink(
            base_directory=study / "derivatives",
            stat="z",
            suffix="statmap",
            compress=True,
            check_hdr=False,
        ),
        iterfield=["in_file", "contrast"],
        name="sink",
    )
    sink.inputs.contrast = CONTRASTS
    workflow.connect(
        [
            (find, fit, [("table", "table")]),
            # What all images share, such as task and space, is in the names of the maps.
            (find, sink, [("images", "source_file")]),
            (fit, sink, [("zscore_maps", "in_file")]),
        ]
    )
    return workflow


if __name__ == "__main__":
    workflow = init_group_wf(Path.cwd())
    workflow.run()
    print(workflow.visit_desc())
