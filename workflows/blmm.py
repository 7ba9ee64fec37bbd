"""The workflow of a Big Linear Mixed Model."""

from nipype.pipeline.engine import Workflow

from nipype_blm.interfaces.base import MIXED_MAP_OUTPUTS
from nipype_blm.interfaces.blmm import AssembleMixedMaps, PlanBLMM

from .parameters import MIXED_INPUTS, MixedParameters, taking
from .stages import Model, build_model_wf

BLMM = Model(PlanBLMM, AssembleMixedMaps, MIXED_INPUTS, MIXED_MAP_OUTPUTS)


@taking(MixedParameters, MIXED_INPUTS)
def init_blmm_wf(parameters: MixedParameters) -> Workflow:
    """Build a workflow that fits one linear mixed model at every voxel of many images.

    Workflow Graph
        .. image:: _static/blmm_wf.svg

    It has the nodes of `nipype_blm.workflows.init_blm_wf`, and a few parameters more.

    Parameters
    ----------
    {parameters}

    Inputs
    ------
    in_files, design_file, contrasts, f_contrasts, mask_file, data_mask_files, post_mask_file
        As for `init_blm_wf`.
    random_factors
        List of mappings with ``name``, ``factor``, ``design`` and, if wished, ``correlated``
        and ``nested_in``.

    Outputs
    -------
    blmm_vox_*
        BLMM's maps; 4D where there is one volume for each coefficient or contrast.
    contrast_metadata, effect_maps, ...
        As of `init_blm_wf`.

    Raises
    ------
    InputError
        If a keyword is not known, with the nearest one that is.
    """
    return build_model_wf(BLMM, parameters)
