"""Maps of the first level in BIDS, a mixed model of the group, and its maps in BIDS again.

Run it where there is a data set `bids`, such as the one that examples/make_bids.py makes:

    python examples/make_bids.py bids && python examples/bids_pipeline.py
"""

from pathlib import Path

from nipype import Node, Workflow

from nipype_blm.interfaces import BLMM, ExportBIDS, FindImages


def init_group_wf(study: Path) -> Workflow:
    """Build the workflow: find images, fit, export."""
    find = Node(FindImages(bids=study / "bids", out_file=study / "images.tsv"), name="find")
    find.inputs.filters = {"contrast": "faces", "stat": "effect"}

    fit = Node(BLMM(formula="~ age + years + (1 | subject)"), name="fit")
    fit.inputs.contrasts = ["age", "years"]
    fit.inputs.out_dir = study / "group_maps"

    export = Node(ExportBIDS(out_dir=study / "bids" / "derivatives" / "group"), name="export")
    export.inputs.sources = ["bids::derivatives/firstlevel"]

    workflow = Workflow("group_wf", base_dir=study / "group_work")
    workflow.connect(find, "table", fit, "table")
    workflow.connect(fit, "out_dir", export, "results_dir")
    return workflow


if __name__ == "__main__":
    init_group_wf(Path.cwd()).run()
