"""The workflow of a Big Linear Model."""

from pathlib import Path
from typing import Any

from nipype.pipeline.engine import Workflow

from nipype_blm.interfaces.base import MAP_OUTPUTS
from nipype_blm.interfaces.blm import AssembleMaps, FitLeastSquares, PlanBLM

from .stages import Model, build_model_wf

INPUTS = ("in_files", "design_file", "contrasts", "mask_file", "data_mask_files", "post_mask_file")
_MODEL = Model(PlanBLM, FitLeastSquares, AssembleMaps, INPUTS, MAP_OUTPUTS)


def init_blm_wf(
    *,
    out_dir: str | Path | None = None,
    n_procs: int = 1,
    max_mem_gb: float = 4.0,
    mem_gb: float | None = None,
    compress: bool = False,
    overwrite: bool = False,
    allow_empty: bool = False,
    copy_inputs: bool = True,
    keep: str = "all",
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
    mem_gb : float, optional
        Memory that each such node asks a scheduler for, in GiB, if less than it may use.
    compress : bool
        Write .nii.gz instead of .nii.
    overwrite : bool
        Replace the maps of another model that another workflow or node wrote to `out_dir`.
    allow_empty : bool
        Accept a result in which no voxel could be fitted; otherwise the node `assemble` fails.
    copy_inputs : bool
        Write the complete configuration, inputs.yml, beside the maps.
    keep : str
        Intermediate files that stay when the maps are there: ``all``, so that a replaced image
        repeats its batch; or ``contrasts``, what new contrasts need, so that any other change
        reads all images again.
    name : str
        Name of the workflow.
    **options
        Further traits of `nipype_blm.interfaces.PlanBLM`: ``row_names``, ``match_rows``,
        ``min_n``, ``min_percent``, ``data_mask_thresh``, ``zero_is_missing``, ``two_sided``,
        ``minlog``, ``output_cov``, ``images_per_batch``, ``voxels_per_block``, ``max_blocks``,
        ``minutes_per_job``, ``parallel_nodes``, ``recorded_fields``.

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
    mask_file, dof, out_dir, notices
        Mask of the result, median degrees of freedom, folder of all maps, what is to be known.
    """
    return build_model_wf(
        _MODEL,
        out_dir=out_dir,
        n_procs=n_procs,
        max_mem_gb=max_mem_gb,
        mem_gb=mem_gb,
        compress=compress,
        overwrite=overwrite,
        allow_empty=allow_empty,
        copy_inputs=copy_inputs,
        keep=keep,
        name=name,
        options=options,
    )
