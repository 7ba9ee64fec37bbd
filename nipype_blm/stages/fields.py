"""Corrected p of a contrast by the theory of random fields, from how smooth the residuals are."""

from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core.equivalents import convert_f, convert_t
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.randomfield import Field, compute_cluster_p, compute_voxel_p
from nipype_blm.core.smoothness import Smoothness
from nipype_blm.core.tails import compute_f_tails
from nipype_blm.errors import InputError
from nipype_blm.results.results import ContrastResults, Results
from nipype_blm.stages.reopened import Values
from nipype_blm.stages.smoothness import estimate_smoothness

_LOWEST = 2.3  # z; the theory of clusters fails below
_FEWEST_DOF = 3  # of the theory of F


class FieldTheory(NamedTuple):
    """How smooth a run is."""

    smoothness: Smoothness
    n_voxels: int

    def describe(self) -> dict[str, Any]:
        """Return what a sidecar says."""
        found = self.smoothness
        return {"FwhmVoxels": found.fwhm.tolist(), "ReselCounts": found.resel_counts.tolist()}

    def find_field(self, contrast: ContrastResults, two_sided: bool) -> "ContrastField | None":
        """Return the field that a contrast is; None with too few degrees of freedom."""
        statistic, dof = contrast.vector("stat"), contrast.vector("dof")
        is_tested = dof > 0
        erdf = int(np.median(dof[is_tested])) if is_tested.any() else 0
        if erdf < _FEWEST_DOF:
            return None
        q = int(np.linalg.matrix_rank(contrast.weights))
        heights = np.zeros(statistic.shape)
        given = statistic[is_tested], dof[is_tested]
        if contrast.is_f:
            heights[is_tested] = convert_f(given[0], q, given[1], erdf)
            return ContrastField(self, Field("F", erdf, q), heights, 1)
        heights[is_tested] = convert_t(*given, erdf)
        heights = np.abs(heights) if two_sided else heights
        return ContrastField(self, Field("T", erdf), heights, 1 + two_sided)


class ContrastField(NamedTuple):
    """A contrast as a field of one number of degrees of freedom: the median of its voxels."""

    theory: FieldTheory
    field: Field
    heights: FloatArray  # at the voxels of the result: the statistic with that number, and its p
    n_sides: int

    def correct_voxels(self) -> FloatArray:
        """Return the probability that any voxel is as high, at the voxels of the result."""
        resels, n_voxels = self.theory.smoothness.resel_counts, self.theory.n_voxels
        return np.minimum(
            self.n_sides * compute_voxel_p(self.field, self.heights, resels, n_voxels), 1.0
        )

    def correct_clusters(self, sizes: FloatArray, z: float) -> FloatArray:
        """Return the probability of any cluster of so many voxels above z; NaN if not known."""
        if z < _LOWEST:
            return np.full(sizes.shape, np.nan)
        smoothness = self.theory.smoothness
        found = compute_cluster_p(
            self.field,
            self._find_height(z),
            sizes / smoothness.fwhm.prod(),
            smoothness.resel_counts,
        )
        return np.minimum(self.n_sides * found.p, 1.0)

    def _find_height(self, z: float) -> float:
        """Return the statistic with the upper tail of z."""
        if self.field.test == "T":
            return float(convert_t(z, np.inf, self.field.dof))
        low, high = 0.0, 1e6
        for _ in range(100):
            middle = (low + high) / 2
            tails = compute_f_tails(middle, self.field.n_rows, self.field.dof)
            is_below = float(tails.z) < z
            low, high = (middle, high) if is_below else (low, middle)
        return high


def find_field_theory(results: Results, values: Values, n_threads: int) -> FieldTheory | str:
    """Return how smooth a run is, or why it cannot be known."""
    try:
        smoothness = estimate_smoothness(results, values, n_threads)
    except InputError as error:
        return str(error)
    return FieldTheory(smoothness, results.n_fitted)
