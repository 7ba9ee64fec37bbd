"""The workflow of a comparison of two models."""

from pathlib import Path

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from nipype_blm.interfaces.compare import OUTPUTS, CompareModels

from .nodes import FreshNode

INPUTS = ("smaller_dir", "larger_dir")


def init_compare_wf(
    *, out_dir: str | Path | None = None, overwrite: bool = False, name: str = "compare_wf"
) -> Workflow:
    """Build a workflow that tests one model against another at every voxel.

    It takes the folders of results of two runs, such as the `out_dir` of two workflows that
    fit them.

    Parameters
    ----------
    out_dir : path, optional
        Folder for the maps; by default they stay in the working directory.
    overwrite : bool
        Replace a comparison of other models that another node wrote to `out_dir`.
    name : str
        Name of the workflow.

    Inputs
    ------
    smaller_dir, larger_dir
        Folders of results: of the model with fewer random effects, and of that with more.

    Outputs
    -------
    blmm_vox_mask, blmm_vox_status, blmm_vox_Chi2, blmm_vox_Chi2lp
        Maps of the likelihood-ratio test.
    dofs, criterion, counts, notices, out_dir
        Mixture, likelihood, voxels of each status, what is to be known, folder of the maps.
    """
    # By default beside the node's own folder, which is emptied whenever the node runs.
    folder = "../comparison" if out_dir is None else str(Path(out_dir).absolute())
    inputnode = Node(IdentityInterface(fields=list(INPUTS)), name="inputnode")
    outputnode = Node(IdentityInterface(fields=list(OUTPUTS)), name="outputnode")
    compare = FreshNode(
        CompareModels(out_dir=folder, overwrite=overwrite), name="compare", mem_gb=1
    )
    workflow = Workflow(name=name)
    workflow.connect(
        [
            (inputnode, compare, [(field, field) for field in INPUTS]),
            (compare, outputnode, [(field, field) for field in OUTPUTS]),
        ]
    )
    return workflow
