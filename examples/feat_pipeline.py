"""Copes of FEAT, a mixed model with sites, and clusters by FSL.

Run it where there is a table `subjects.tsv` with the columns subject, site and age, and for each
row the folder {subject}.feat whose copes featregapply has brought into standard space:

    python examples/feat_pipeline.py

Its last two nodes, smoothest and cluster, need FSL.
"""

from pathlib import Path

from nipype import Node, Workflow

from nipype_blm.interfaces import BLMM
from nipype_blm.workflows import init_fsl_handover_wf


def init_site_wf(study: Path) -> Workflow:
    """Build the workflow: fit, hand over, find clusters."""
    fit = Node(BLMM(table=study / "subjects.tsv", formula="~ age + (1 | site)"), name="fit")
    fit.inputs.images = study / "{subject}.feat/reg_standard/stats/cope1.nii.gz"
    fit.inputs.contrasts = [{"name": "mean", "expression": "emm(1)"}, "age"]
    fit.inputs.out_dir = study / "site_maps"

    to_fsl = init_fsl_handover_wf(out_dir=study / "site_fsl", z_threshold=2.3, name="to_fsl")

    workflow = Workflow("site_wf", base_dir=study / "site_work")
    workflow.connect(fit, "out_dir", to_fsl, "inputnode.results_dir")
    return workflow


if __name__ == "__main__":
    init_site_wf(Path.cwd()).run()
