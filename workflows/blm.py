"""The workflow of a Big Linear Model."""

from pathlib import Path
from typing import Any

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node, Workflow

from nipype_blm.interfaces.base import MAP_OUTPUTS
from nipype_blm.interfaces.blm import (
    AssembleMaps,
    ComputeContrasts,
    ComputeProducts,
    FitLeastSquares,
    PlanBLM,
)

from .nodes import FileMapNode

INPUTS = ("in_files", "design_file", "contrasts", "mask_file", "data_mask_files", "post_mask_file")


def init_blm_wf(
    *,
    out_dir: str | Path | None = None,
    n_procs: int = 1,
    max_mem_gb: float = 4.0,
    compress: bool = False,
    copy_inputs: bool = True,
    name: str = "blm_wf",
    **options: Any,
) -> Workflow:
    """Build a workflow that fits one linear model at every voxel of many images.

    Workflow Graph
        .. image:: _static/blm_wf.svg

    The images are read once, in batches; voxels are fitted in blocks; contrasts come last,
    from saved estimates, so that a new contrast does not fit anything again.

    Parameters
    ----------
    out_dir : path, optional
        Folder for the maps; by default they stay in the working directory.
    n_procs : int
        Threads of each node that computes.
    max_mem_gb : float
        Memory that each such node may use, in GiB.
    compress : bool
        Write .nii.gz instead of .nii.
    copy_inputs : bool
        Write the complete configuration, inputs.yml, beside the maps.
    name : str
        Name of the workflow.
    **options
        Further traits of `nipype_blm.interfaces.PlanBLM`: ``min_n``, ``min_percent``,
        ``data_mask_thresh``, ``zero_is_missing``, ``two_sided``, ``minlog``, ``output_cov``,
        ``images_per_batch``, ``voxels_per_block``, ``max_blocks``,
        ``recorded_fields``.

    Inputs
    ------
    in_files
        Images, one for each row of the design; or one 4D image; or one text file.
    design_file
        Table with one row for each image.
    contrasts
        List of mappings with ``name`` and ``vector``.
    mask_file, data_mask_files, post_mask_file
        Optional masks: of the analysis, of each image, of the result.

    Outputs
    -------
    blm_vox_*
        BLM's maps; 4D where there is one volume for each coefficient or contrast.
    contrast_metadata, effect_maps, variance_maps, stat_maps, zscore_maps, pvalue_maps, dof_maps
        Lists with one entry for each contrast.
    mask_file, dof, out_dir
        Mask of the result, smallest degrees of freedom, folder of all maps.
    """
    assemble_maps = AssembleMaps(compress=compress)
    if out_dir is not None:
        assemble_maps.inputs.out_dir = str(Path(out_dir).absolute())
        recorded = {"outdir": assemble_maps.inputs.out_dir} | options.get("recorded_fields", {})
        options["recorded_fields"] = recorded
    inputnode = Node(IdentityInterface(fields=list(INPUTS)), name="inputnode")
    outputnode = Node(IdentityInterface(fields=list(MAP_OUTPUTS)), name="outputnode")
    resources: dict[str, Any] = {"n_procs": n_procs, "mem_gb": max_mem_gb}
    # Beside the node's own folder, which is emptied whenever the node runs.
    plan = Node(
        PlanBLM(max_mem_gb=max_mem_gb, compress=compress, plan_dir="../plan_files", **options),
        name="plan",
        mem_gb=0.5,
    )
    products = FileMapNode(
        ComputeProducts(n_procs=n_procs), iterfield=["batch_file"], name="products", **resources
    )
    estimates = FileMapNode(
        FitLeastSquares(n_procs=n_procs), iterfield=["block"], name="estimates", **resources
    )
    contrasts = FileMapNode(
        ComputeContrasts(n_procs=n_procs),
        iterfield=["block", "estimates_file"],
        name="contrasts",
        **resources,
    )
    assemble = Node(assemble_maps, name="assemble", mem_gb=0.5)

    workflow = Workflow(name=name)
    shared = _same("model_file", "fingerprint")
    workflow.connect(
        [
            (inputnode, plan, _same(*INPUTS)),
            (plan, products, [*_same("model_file", "max_threads"), ("batch_files", "batch_file")]),
            (plan, estimates, [*shared, *_same("batch_files"), ("blocks", "block")]),
            (products, estimates, [("out_file", "products_files")]),
            (plan, contrasts, [*shared, *_same("contrasts_file"), ("blocks", "block")]),
            (estimates, contrasts, [("out_file", "estimates_file")]),
            (plan, assemble, [*shared, *_same("contrasts_file")]),
            (estimates, assemble, [("out_file", "estimates_files")]),
            (contrasts, assemble, [("out_file", "statistics_files")]),
            (assemble, outputnode, _same(*MAP_OUTPUTS)),
        ]
    )
    if copy_inputs:
        workflow.connect(plan, "inputs_file", assemble, "inputs_file")
    return workflow


def _same(*names: str) -> list[tuple[str, str]]:
    """Return connections of outputs to inputs of the same name."""
    return [(name, name) for name in names]
