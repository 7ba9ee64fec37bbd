"""The workflow of a Big Linear Mixed Model."""

from pathlib import Path
from typing import Any

from nipype.pipeline.engine import Workflow

from nipype_blm.interfaces.base import MIXED_MAP_OUTPUTS
from nipype_blm.interfaces.blmm import AssembleMixedMaps, FitMixedModel, PlanBLMM

from .blm import INPUTS as BLM_INPUTS
from .stages import Model, build_model_wf

INPUTS = (*BLM_INPUTS, "random_factors")
_MODEL = Model(PlanBLMM, FitMixedModel, AssembleMixedMaps, INPUTS, MIXED_MAP_OUTPUTS)


def init_blmm_wf(
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
    name: str = "blmm_wf",
    **options: Any,
) -> Workflow:
    """Build a workflow that fits one linear mixed model at every voxel of many images.

    It has the nodes and the parameters of `nipype_blm.workflows.init_blm_wf`.

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
        Further traits of `nipype_blm.interfaces.PlanBLMM`: those of a linear model, and
        ``reml``, ``method``, ``tol``, ``maxnit``, ``n_starts``, ``safe_mode``, ``resms``.

    Inputs
    ------
    in_files, design_file, contrasts, mask_file, data_mask_files, post_mask_file
        As for `init_blm_wf`.
    random_factors
        List of mappings with ``name``, ``factor``, ``design`` and, if wished, ``correlated``
        and ``nested_in``.

    Outputs
    -------
    blmm_vox_*
        BLMM's maps; 4D where there is one volume for each coefficient or contrast.
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
