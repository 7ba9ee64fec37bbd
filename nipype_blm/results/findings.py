"""What a contrast found: the voxels that survive each correction, their clusters and peaks."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, log10
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, stdtrit

from nipype_blm.core.clusters.fdr import compute_q, correct_bonferroni
from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError
from nipype_blm.results.inferred import Inferred
from nipype_blm.results.results import ContrastResults, Results

ALPHA = 0.05  # of corrected p, and of false discovery rates
UNCORRECTED = 0.001  # p
MOST_CONTRASTS = 30  # that findings are told of: more take too much memory, and nobody reads them
_N_SUB_PEAKS = 3


def find_log_p(contrast: ContrastResults, two_sided: bool) -> FloatArray:
    """Return ln p of the maps of a contrast at the voxels of the result; NaN where not tested."""
    z = contrast.vector("z")
    log_p = log_ndtr(-np.abs(z)) + np.log(2) if two_sided else log_ndtr(-z)
    if contrast.has_gaps:
        log_p[contrast.vector("estimable") == 0] = np.nan
    return np.minimum(log_p, 0.0)


def find_limits(contrast: ContrastResults) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the effect of a T contrast and its 95 % limits at the voxels of the result."""
    effect, variance = contrast.vector("effect"), contrast.vector("variance")
    half = stdtrit(contrast.vector("dof"), 0.975) * np.sqrt(variance)
    return effect, effect - half, effect + half


def format_mm(mm: float, size: float) -> str:
    """Return a coordinate, or the size of something, with the decimals that voxels of a size need.

    Examples
    --------
    >>> format_mm(-107.5, 3.0), format_mm(12.0, 4.0), format_mm(0.35, 0.1)
    ('-107.5', '12', '0.35')
    """
    decimals = max(1, ceil(-log10(size / 10))) if size > 0 else 1
    text = f"{mm:.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


class Place(NamedTuple):
    """A cluster of voxels that survive a correction, or one of its further peaks."""

    cluster: int  # from 1
    peak: int  # from 1: the highest of the cluster
    size_voxels: int
    size_mm3: float
    x: float  # of the peak, mm
    y: float
    z: float
    peak_z: float
    effect: float  # NaN of an F contrast
    lower: float  # 95 % limits of the effect, for this voxel by itself
    upper: float
    p: float  # corrected as the voxels are; q of a false discovery rate
    feature: int  # among the voxels of the result


@dataclass(frozen=True)
class Correction:
    """The voxels of a contrast that survive one correction."""

    name: str  # uncorrected, fdr or fwe
    words: str  # such as "FWE p ≤ 0.05 (voxel, 1,000 resamplings)"
    p: FloatArray  # (n_features,), corrected; 1 where nothing is tested
    alpha: float

    @cached_property
    def survives(self) -> NDArray[np.bool_]:
        """Which voxels do, of shape (n_features,)."""
        return np.asarray(self.p <= self.alpha)

    @property
    def n_voxels(self) -> int:
        """How many do."""
        return int(np.count_nonzero(self.survives))


@dataclass(frozen=True)
class Findings:
    """What one contrast found.

    Voxels are those of the result, in the order of `Results.space`.
    """

    contrast: ContrastResults
    two_sided: bool
    z: FloatArray  # (n_features,); 0 where nothing is tested
    is_tested: NDArray[np.bool_]
    uncorrected: Correction
    fdr: Correction
    fwe: Correction
    is_resampled: bool  # whether the family-wise p are by resampling

    @property
    def corrections(self) -> tuple[Correction, Correction, Correction]:
        """All of them, the most lenient first."""
        return self.uncorrected, self.fdr, self.fwe

    @property
    def voxel_size(self) -> float:
        """How long an edge of a voxel is, in mm; NaN where they have no size in common."""
        return self.contrast.results.space.feature_size ** (1 / 3)

    def write_places(self, coordinates: Iterable[float]) -> list[str]:
        """Return coordinates in mm with as many decimals as tell voxels apart."""
        return [format_mm(float(mm), self.voxel_size) for mm in coordinates]

    @property
    def main(self) -> Correction:
        """The correction that findings are told by.

        By resampling, where that was asked for, and else the false discovery rate.
        """
        return self.fwe if self.is_resampled else self.fdr

    @property
    def test(self) -> str:
        """In words, such as "T, both directions"."""
        return describe_test(self.contrast, self.two_sided)

    @property
    def p_name(self) -> str:
        """What the p of the main correction is called."""
        return "q" if self.main.name == "fdr" else "FWE p"

    @property
    def heights(self) -> FloatArray:
        """What is high where something was found: ``|z|`` of two sides, or z."""
        return np.abs(self.z) if self.two_sided else self.z

    def find_height(self, correction: Correction) -> float:
        """Return the least height that survives; infinite where none does."""
        return float(self.heights[correction.survives].min(initial=np.inf))

    @cached_property
    def nearest(self) -> int | None:
        """The voxel with the least corrected p, the highest of several; None without a test."""
        if not self.is_tested.any():
            return None
        p = np.where(self.is_tested, self.main.p, np.inf)
        return int(np.lexsort((-self.heights, p))[0])

    @cached_property
    def places(self) -> list[Place]:
        """The clusters that survive the main correction, the highest peak first."""
        return self.find_places(self.main)

    @property
    def peaks(self) -> list[Place]:
        """The highest peak of each cluster."""
        return [place for place in self.places if place.peak == 1]

    def find_places(self, correction: Correction) -> list[Place]:
        """Return the clusters that survive a correction and their peaks, the highest first."""
        if not correction.n_voxels:
            return []
        from nipype_blm.core.clusters.graph import make_graph
        from nipype_blm.core.clusters.tables import make_table

        # Of what survives alone: all voxels of a result have many more neighbours.
        features = np.flatnonzero(correction.survives)
        space = self.contrast.results.select(features)
        graph, coordinates = make_graph(space.find_neighbours()), space.find_coordinates()
        z, limits, found = self.z[features], self.limits, []
        for side in (z, -z) if self.two_sided else (z,):
            found += make_table(
                *(side, graph, 0.0, coordinates), n_sub_peaks=_N_SUB_PEAKS, two_sided=False
            ).clusters
        found.sort(key=lambda cluster: -cluster.peak.z)
        return [
            self._describe(
                *(number, place, cluster.size, int(features[peak.feature])),
                *(coordinates[peak.feature], limits, correction),
            )
            for number, cluster in enumerate(found, 1)
            for place, peak in enumerate((cluster.peak, *cluster.sub_peaks), 1)
        ]

    def _describe(
        self,
        cluster: int,
        peak: int,
        size: int,
        feature: int,
        coordinates: FloatArray,
        limits: Sequence[FloatArray],
        correction: Correction,
    ) -> Place:
        effect, lower, upper = (float(each[feature]) for each in limits)
        x, y, z = map(float, coordinates)
        return Place(
            *(cluster, peak, size, size * self.contrast.results.space.feature_size, x, y, z),
            peak_z=float(self.z[feature]),
            effect=effect,
            lower=lower,
            upper=upper,
            p=float(correction.p[feature]),
            feature=feature,
        )

    @property
    def limits(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The effect and its 95 % limits; NaN of an F contrast."""
        if self.contrast.is_f:
            nothing = np.full(self.z.size, np.nan)
            return nothing, nothing, nothing
        return find_limits(self.contrast)


def find_inference(results: Results) -> Inferred | None:
    """Return the inference of a folder of results, if there is one, and of these maps."""
    try:
        return Inferred(results)
    except InputError:
        return None


def choose_first(results: Results, inferred: Inferred | None, most: int) -> list[str]:
    """Return the names of so many contrasts, in their order: those that were resampled, first."""
    names = list(results.contrasts)
    resampled = set() if inferred is None else set(inferred.contrasts)
    first = sorted(names, key=lambda name: name not in resampled)[:most]
    chosen = set(first)
    return [name for name in names if name in chosen]


def find_all(
    results: Results, inferred: Inferred | None = None, names: Sequence[str] | None = None
) -> dict[str, Findings]:
    """Return what each contrast found, by its name; nothing where no voxel was fitted.

    Parameters
    ----------
    results : Results
    inferred : Inferred, optional
        Family-wise p are by its first summary; without it, by Bonferroni's correction.
    names : sequence of str, optional
        Of contrasts; default: all.  Each takes memory of about five maps.
    """
    return {each.contrast.name: each for each in iterate_findings(results, inferred, names)}


def iterate_findings(
    results: Results, inferred: Inferred | None = None, names: Sequence[str] | None = None
) -> Iterator[Findings]:
    """Yield what each contrast found, as of `find_all`, one at a time."""
    if results.n_fitted:
        for name in names or results.contrasts:
            yield _find(results.contrasts[name], inferred)


def is_two_sided(contrast: ContrastResults, inferred: Inferred | None) -> bool:
    """Return whether effects in both directions count: as they were resampled, else all of T."""
    if inferred is not None and contrast.name in inferred.contrasts:
        return bool(inferred.contrasts[contrast.name].description["Tail"] == "two-sided")
    return not contrast.is_f


def describe_test(contrast: ContrastResults, two_sided: bool) -> str:
    """Return which test findings are told by."""
    if contrast.is_f:
        return "F"
    return "T, both directions" if two_sided else "T, greater than 0"


def _find(contrast: ContrastResults, inferred: Inferred | None) -> Findings:
    two_sided = is_two_sided(contrast, inferred)
    is_resampled = inferred is not None and contrast.name in inferred.contrasts
    log_p = find_log_p(contrast, two_sided)
    is_tested = ~np.isnan(log_p)
    p, q, bonferroni = (
        np.exp(np.where(is_tested, each, 0.0))
        for each in (log_p, compute_q(log_p), correct_bonferroni(log_p))
    )
    fwe = Correction("fwe", f"FWE p ≤ {ALPHA:g} (Bonferroni)", bonferroni, ALPHA)
    if is_resampled:
        assert inferred is not None
        fwe = _find_resampled(contrast, inferred)
    return Findings(
        contrast=contrast,
        two_sided=two_sided,
        z=np.where(is_tested, contrast.vector("z"), 0.0),
        is_tested=is_tested,
        uncorrected=Correction("uncorrected", f"p ≤ {UNCORRECTED:g}", p, UNCORRECTED),
        fdr=Correction("fdr", f"FDR q ≤ {ALPHA:g}", q, ALPHA),
        fwe=fwe,
        is_resampled=is_resampled,
    )


def _find_resampled(contrast: ContrastResults, inferred: Inferred) -> Correction:
    """Return the correction by the first summary of an inference."""
    summary = inferred.summaries[0]
    path = inferred.contrasts[contrast.name].path("p", summary)
    values = contrast.results.read_vector(path)
    words = f"FWE p ≤ {ALPHA:g} ({summary}, {inferred.n:,} resamplings)"
    return Correction("fwe", words, np.nan_to_num(values, nan=1.0), ALPHA)
