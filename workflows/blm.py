"""The workflow of a Big Linear Model."""

from nipype.pipeline.engine import Workflow

from nipype_blm.interfaces.base import MAP_OUTPUTS
from nipype_blm.interfaces.blm import AssembleMaps, PlanBLM

from .parameters import INPUTS, Parameters, taking
from .stages import Model, build_model_wf

BLM = Model(PlanBLM, AssembleMaps, INPUTS, MAP_OUTPUTS)


@taking(Parameters, INPUTS)
def init_blm_wf(parameters: Parameters) -> Workflow:
    """Build a workflow that fits one linear model at every voxel of many images.

    Workflow Graph
        .. image:: _static/blm_wf.svg

    The images are read once, in batches; voxels are fitted in blocks; contrasts come last,
    from saved estimates, so that a new contrast does not fit anything again.

    Parameters
    ----------
    {parameters}

    Inputs
    ------
    in_files
        Images, one for each row of the design; or one 4D image; or one text file.
    design_file
        Table with one row for each image.
    contrasts
        List of mappings with ``name`` and ``vector``; or a .con of FSL.
    f_contrasts
        Optional .fts of FSL, which combines rows of the .con to F contrasts.
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

    Raises
    ------
    InputError
        If a keyword is not known, with the nearest one that is.
    """
    return build_model_wf(BLM, parameters)
