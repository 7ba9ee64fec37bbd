"""Big Linear Mixed Models: the stages that differ from those of BLM, and the whole model."""

from typing import ClassVar

from nipype_blm.interfaces.base import MixedInputSpec, MixedMapsOutputSpec
from nipype_blm.interfaces.blm import BLM, AssembleMaps, BLMInputSpec, PlanBLM, PlanBLMInputSpec


class _PlanBLMMInputSpec(MixedInputSpec, PlanBLMInputSpec):
    pass


class PlanBLMM(PlanBLM):
    """Check a mixed model and its images, and cut the work into batches and blocks.

    Runs every time, and notes size and time of every image; what it wrote before stays as it
    is where nothing changed.
    """

    input_spec = _PlanBLMMInputSpec
    _model: ClassVar[str] = "blmm"


class AssembleMixedMaps(AssembleMaps):
    """Put all blocks together into maps, which appear only when all are complete."""

    output_spec = MixedMapsOutputSpec
    folder = "blmm"


class _BLMMInputSpec(MixedInputSpec, BLMInputSpec):
    pass


class BLMM(BLM):
    """Fit a Big Linear Mixed Model in one process.

    Give `in_files` as a list of images rather than as a text file, so that Nipype notices
    when one of them changes.

    Examples
    --------
    >>> from nipype_blm.interfaces import BLMM
    >>> blmm = BLMM(n_procs=2)
    >>> blmm.inputs.in_files = [f"scan-{i}.nii.gz" for i in range(12)]
    >>> blmm.inputs.design_file = "design.csv"
    >>> blmm.inputs.random_factors = [
    ...     {"name": "subject", "factor": "subject.txt", "design": "intercept.csv"}
    ... ]
    >>> blmm.inputs.contrasts = [{"name": "mean", "vector": [1]}]
    >>> result = blmm.run()  # doctest: +SKIP
    """

    input_spec = _BLMMInputSpec
    output_spec = MixedMapsOutputSpec
    _model: ClassVar[str] = "blmm"
