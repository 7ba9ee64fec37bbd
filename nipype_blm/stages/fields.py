"""Corrected p of a map by the theory of random fields, from how smooth the residuals are."""

from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.randomfield import Field, compute_cluster_p, compute_voxel_p
from nipype_blm.core.smoothness import Smoothness
from nipype_blm.errors import InputError
from nipype_blm.results.results import Results
from nipype_blm.stages.reopened import Values
from nipype_blm.stages.smoothness import estimate_smoothness

_FIELD = Field("Z")
_LOWEST = 2.3  # z; the theory of clusters fails below


class FieldTheory(NamedTuple):
    """The smoothness of a run; p of z maps, which are taken as Gaussian fields."""

    smoothness: Smoothness
    n_voxels: int

    def correct_voxels(self, z: FloatArray, two_sided: bool) -> FloatArray:
        """Return the probability that any voxel is as high; of both sides together, if asked."""
        height = np.abs(z) if two_sided else z
        p = compute_voxel_p(_FIELD, height, self.smoothness.resel_counts, self.n_voxels)
        return np.minimum((1 + two_sided) * p, 1.0)

    def correct_clusters(self, sizes: FloatArray, height: float, two_sided: bool) -> FloatArray:
        """Return the probability of any cluster of so many voxels; NaN if it is not known."""
        if height < _LOWEST:
            return np.full(sizes.shape, np.nan)
        resels = sizes / self.smoothness.fwhm.prod()
        found = compute_cluster_p(_FIELD, height, resels, self.smoothness.resel_counts)
        return np.minimum((1 + two_sided) * found.p, 1.0)

    def describe(self) -> dict[str, Any]:
        """Return what a sidecar says."""
        found = self.smoothness
        return {"FwhmVoxels": found.fwhm.tolist(), "ReselCounts": found.resel_counts.tolist()}


def find_field_theory(results: Results, values: Values, n_threads: int) -> FieldTheory | str:
    """Return the smoothness of a run, or why it cannot be known."""
    try:
        smoothness = estimate_smoothness(results, values, n_threads)
    except InputError as error:
        return str(error)
    return FieldTheory(smoothness, results.n_fitted)
