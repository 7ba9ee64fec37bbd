"""What a report is made of: a folder of results, and all that was saved beside its maps."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from nipype_blm.results.findings import Findings, find_all, find_inference
from nipype_blm.results.inferred import Inferred
from nipype_blm.results.results import Results
from nipype_blm.results.sampled import Sampled, read_sampled
from nipype_blm.stages.voxelfits import VoxelFit, fit_voxels

if TYPE_CHECKING:
    from nipype_blm.report.views import Backdrop


@dataclass(frozen=True)
class Reported:
    """One run of a report; what is costly is read when it is asked for."""

    results: Results
    values: Sampled | None = None  # of images at the highest voxels, where they were not saved
