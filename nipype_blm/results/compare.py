"""Compare the fits of two models, from the folders of their results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.likelihoods import (
    Likelihood,
    compute_chi2,
    compute_ml,
    compute_reml,
    log_det_of_covariance,
    log_det_of_design,
    read_likelihood,
)
from nipype_blm.core.linalg import FloatArray, find_dependent_columns
from nipype_blm.core.mixtures import log_mixture_sf
from nipype_blm.core.status import VoxelStatus, is_fitted
from nipype_blm.core.tails import compute_log10_p
from nipype_blm.data.kinds import find_map, is_map_ending, pack_space
from nipype_blm.data.maps import MapInfo
from nipype_blm.errors import InputError, Problem
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.publish import Claim, check_claim, publish
from nipype_blm.model.compare import (
    ComparisonStatus,
    choose_mixture,
    count_variances,
    describe_mixture,
)
from nipype_blm.results.declared import Declaration
from nipype_blm.results.differences import list_differences, match_images
from nipype_blm.results.results import Results
from nipype_blm.results.volumes import ONE

# A voxel is left out where the rounding of maps may change Chi2 by more, and p by 5 %.
MOST_ERROR = 0.1
# ... and is worth a word from here on.
NOTABLE_ERROR = 0.01
_VOXELS_AT_ONCE = 2**12


@dataclass(frozen=True)
class Compared:
    """What was found at each voxel, in file order, of which the maps are made."""

    status: NDArray[np.uint8]  # ComparisonStatus
    chi2: FloatArray  # 0 where the models were not compared
    dofs: tuple[int, ...]
    counts: dict[ComparisonStatus, int]
    details: dict[str, Any]  # for every sidecar

    def describe_status(self) -> dict[str, Any]:
        """Return what each value stands for, and how many voxels have it."""
        levels = {str(int(level)): level.meaning for level in ComparisonStatus}
        return {
            "Levels": levels,
            "Voxels": {str(int(level)): n for level, n in self.counts.items()},
        }

    def compute_log10_p(self) -> FloatArray:
        """Return -log10 p of the likelihood ratio."""
        return compute_log10_p(log_mixture_sf(self.chi2, self.dofs)) + 0.0  # no -0


# Their sources take what was found: a `Compared`.
DECLARED = (
    Declaration(
        *("mask", "Voxels at which the models were compared.", "label", ONE),
        source=lambda found: is_fitted(found.status).astype(np.uint8),
    ),
    Declaration(
        *("status", "What happened at each voxel.", "label", ONE),
        source=lambda found: found.status,
        details=Compared.describe_status,
    ),
    Declaration(
        *("Chi2", "Likelihood ratio: twice the gain in log-likelihood.", "chi2", ONE),
        source=lambda found: found.chi2,
    ),
    Declaration(
        *("Chi2lp", "-log10 of the uncorrected p of the likelihood ratio.", "log10 p value", ONE),
        source=Compared.compute_log10_p,
    ),
)


class Comparison(NamedTuple):
    """The maps of a comparison, and what there is to say of it."""

    files: dict[str, Path]  # blmm_vox_Chi2 and the like
    dofs: tuple[int, ...]  # of the equal mixture of chi-square distributions
    criterion: str  # ML or REML
    counts: dict[ComparisonStatus, int]  # voxels of each status that occurs
    notices: list[str]


class Comparable(NamedTuple):
    """Two models that can be compared, and a folder for that."""

    smaller: Results
    larger: Results
    dofs: tuple[int, ...]
    claim: Claim
    notices: list[str]


def check_models(
    first: Path, second: Path, out_dir: Path, work_dir: Path, overwrite: bool = False
) -> Comparable:
    """Check all that `compare_models` needs but the maps themselves; it has the same parameters.

    Raises
    ------
    InputError
    """
    _check_out_dir(out_dir)
    folders = sorted(str(folder.absolute()) for folder in (first, second))
    claim = Claim(fingerprint("comparison", *folders), work_dir, overwrite)
    check_claim(out_dir, claim, is_map_name)
    smaller, larger = Results(first), Results(second)
    notices = []
    if count_variances(smaller.factors) > count_variances(larger.factors):
        smaller, larger = larger, smaller
        notices.append(f"{first} has the larger model: the two were swapped.")
    problems = list_differences(smaller, larger)
    if problems:
        raise InputError(problems)
    dofs = choose_mixture(smaller.factors, _sort_rows(smaller, larger))
    return Comparable(smaller, larger, dofs, claim, notices)


def compare_models(
    first: Path, second: Path, out_dir: Path, work_dir: Path, overwrite: bool = False
) -> Comparison:
    """Test the larger of two nested models against the smaller one at every voxel.

    Parameters
    ----------
    first, second : Path
        Folders of results of ``blm`` or ``blmm``: of the smaller model, and of the larger; in
        the other order they are swapped, with a notice.
    out_dir : Path
        Folder for the maps.
    work_dir : Path
        Where this is run; maps of other models, compared elsewhere, are not replaced.
    overwrite : bool
        Replace them too.

    Raises
    ------
    InputError
        If the models cannot be compared, or nowhere, or maps would be lost.
    """
    smaller, larger, dofs, claim, notices = check_models(
        first, second, out_dir, work_dir, overwrite
    )
    criterion = str(larger.criterion)  # which has random effects by now
    status, chi2 = _compare_voxels(smaller, larger, criterion)
    numbers = np.bincount(status, minlength=max(ComparisonStatus) + 1)
    counts = {level: int(numbers[level]) for level in ComparisonStatus if numbers[level]}
    compared = is_fitted(status)
    if not compared.any():
        raise InputError(
            f"{smaller.folder} and {larger.folder} can be compared at no voxel: "
            f"{'; '.join(_describe_counts(counts))}."
        )
    error = float(chi2.error[compared].max())
    details = {
        "Smaller": str(smaller.folder),
        "Larger": str(larger.folder),
        "Criterion": criterion,
        "Distribution": describe_mixture(dofs),
        "DegreesOfFreedom": list(dofs),
        "LargestErrorOfChi2": float(f"{error:.2g}"),
    }
    found = Compared(status, np.where(compared, chi2.value, 0.0), dofs, counts, details)
    files = _write(larger, out_dir, claim, [_make_map(each, found) for each in DECLARED])
    return Comparison(files, dofs, criterion, counts, [*notices, *_make_notices(counts, error)])


def is_map_name(name: str) -> bool:
    """Return whether a file, relative to the output folder, could be one of ours."""
    stem, dot, ending = name.partition(".")
    is_known = stem in {each.name_file("blmm") for each in DECLARED}
    return is_known and is_map_ending(dot + ending)


def _check_out_dir(out_dir: Path) -> None:
    """Refuse the folder of a run, of which maps would be replaced."""
    for name in ("blm_vox_llh", "blmm_vox_llh"):
        if find_map(out_dir, name) is not None:
            raise InputError(
                f"{out_dir} holds the results of a run ({name}), of which maps would be "
                "replaced; choose another folder for the comparison."
            )


def _sort_rows(one: Results, other: Results) -> list[RandomFactor]:
    """Return the random factors of a run, with their rows in the order of those of another."""
    order = match_images(one, other).order
    return [f._replace(level=f.level[order], Z=f.Z[order]) for f in other.factors]


def _compare_voxels(
    smaller: Results, larger: Results, criterion: str
) -> tuple[NDArray[np.uint8], Likelihood]:
    """Return the status and Chi2 of each voxel of a map."""
    status = np.zeros(smaller.inside.size, np.uint8)
    status[smaller.inside] = ComparisonStatus.NOT_IN_LARGER
    status[larger.inside] = ComparisonStatus.NOT_IN_SMALLER
    both = smaller.inside & larger.inside
    runs = (smaller, larger)
    n_obs = [run.read("n", both) for run in runs]
    for run, n in zip(runs, n_obs, strict=True):
        _check_design_is_unchanged(run, both, n)
    small, large = (
        _read_likelihood(run, both, n, criterion) for run, n in zip(runs, n_obs, strict=True)
    )
    chi2 = compute_chi2(small, large)

    here = np.full(n_obs[0].size, ComparisonStatus.COMPARED, np.uint8)
    for run in runs:
        has_ended = run.read("status", both) != VoxelStatus.NOT_CONVERGED
        here[~has_ended] = ComparisonStatus.NOT_CONVERGED
    here[~np.isfinite(chi2.value)] = ComparisonStatus.NO_LIKELIHOOD
    here[chi2.error > MOST_ERROR] = ComparisonStatus.IMPRECISE
    if criterion == "REML" and not smaller.factors:
        if smaller.find("cov") is None:
            here[n_obs[0] < len(smaller.X)] = ComparisonStatus.NO_COVARIANCE
        is_deficient = smaller.read("edf", both) != n_obs[0] - smaller.X.shape[1]
        here[is_deficient] = ComparisonStatus.DEFICIENT
    here[n_obs[0] != n_obs[1]] = ComparisonStatus.N_DIFFERS

    status[both] = here
    value, error = np.zeros(status.size), np.zeros(status.size)
    value[both], error[both] = chi2
    return status, Likelihood(value, error)


def _check_design_is_unchanged(run: Results, voxels: NDArray[np.bool_], n_obs: FloatArray) -> None:
    """Refuse an X that is not the one that the maps were made with, as far as they tell."""
    n_rows, n_params = run.X.shape
    rank = n_obs - run.read("edf", voxels)
    full = rank[n_obs == n_rows]  # elsewhere images that are missing may have taken columns away
    X_rank = n_params - len(find_dependent_columns(run.X))
    if (rank > X_rank).any() or (full != X_rank).any() or (n_obs > n_rows).any():
        raise InputError(
            f"X of {run.folder} has {n_rows} rows and {n_params} columns, with which its maps "
            f"{run.prefix}n and {run.prefix}edf do not agree: one of them has changed since the "
            "run; run it again."
        )


def _read_likelihood(
    run: Results, voxels: NDArray[np.bool_], n_obs: FloatArray, criterion: str
) -> Likelihood:
    """Return the log-likelihood at the voxels of a mask, NaN where it cannot be known."""
    if run.factors:
        return read_likelihood(run.read("llh", voxels), n_obs, run.dtype("llh"))
    resms, dtype = run.read("resms", voxels), run.dtype("resms")
    n_params = run.X.shape[1]
    if criterion == "ML":
        return compute_ml(resms, n_obs, run.read("edf", voxels), dtype)
    # Where all images are present X itself gives all digits.
    log_det = Likelihood(np.full(n_obs.size, log_det_of_design(run.X)), np.zeros(n_obs.size))
    is_ring = n_obs < len(run.X)
    log_det.value[is_ring] = np.nan
    if is_ring.any() and run.find("cov") is not None:
        ring = voxels.copy()
        ring[voxels] = is_ring
        log_det.value[is_ring], log_det.error[is_ring] = _read_log_det(run, ring, resms[is_ring])
    return compute_reml(resms, n_obs, n_params, log_det, dtype)


def _read_log_det(run: Results, voxels: NDArray[np.bool_], resms: FloatArray) -> Likelihood:
    """Return ln|X_v'X_v| at the voxels of a mask, from the covariances of the estimates."""
    n_params, dtype = run.X.shape[1], run.dtype("cov")
    rows, columns = np.tril_indices(n_params)
    packed = run.read_volumes("cov", voxels, (rows * n_params + columns).tolist(), dtype)
    value, error = np.empty(resms.size), np.empty(resms.size)
    for start in range(0, resms.size, _VOXELS_AT_ONCE):
        part = slice(start, start + _VOXELS_AT_ONCE)
        cov = np.empty((len(resms[part]), n_params, n_params))
        cov[:, rows, columns] = cov[:, columns, rows] = packed[:, part].T
        value[part], error[part] = log_det_of_covariance(cov, resms[part], dtype)
    return Likelihood(value, error)


def _describe_counts(counts: dict[ComparisonStatus, int]) -> list[str]:
    plain = (ComparisonStatus.OUTSIDE, ComparisonStatus.COMPARED)
    return [
        f"{n:,} voxel{'s' * (n > 1)} {level.meaning}"
        for level, n in counts.items()
        if level not in plain
    ]


def _make_notices(counts: dict[ComparisonStatus, int], error: float) -> list[str]:
    """Return what a user has to know of the voxels."""
    notices = [f"{text}." for text in _describe_counts(counts)]
    if ComparisonStatus.NO_COVARIANCE in counts:
        template = "Run blm again with {with_cov=true} to compare those voxels too."
        notices.append(Problem("with_cov", template))
    if error > NOTABLE_ERROR:
        notices.append(f"The rounding of maps may change Chi2 by up to {error:.2g}.")
    return notices


def _make_map(declared: Declaration, found: Compared) -> tuple[MapInfo, NDArray[Any]]:
    """Return a map and its values."""
    is_chi2 = declared.intent == "chi2"
    is_mixture = len(found.dofs) > 1  # of which NIfTI has no intent
    info = MapInfo(
        declared.name_file("blmm"),
        declared.words,
        "none" if is_chi2 and is_mixture else str(declared.intent),
        found.dofs if is_chi2 and not is_mixture else (),
        details=found.details | declared.details(found),
    )
    return info, declared.source(found)


def _write(
    run: Results, out_dir: Path, claim: Claim, volumes: list[tuple[MapInfo, NDArray[Any]]]
) -> dict[str, Path]:
    """Write maps as those of a run are: in their space and type, compressed or not."""
    ending = run.path("llh").name.partition(".")[2]
    real = run.dtype("llh").newbyteorder("=")
    typed = [(info, v if v.dtype == np.uint8 else v.astype(real)) for info, v in volumes]

    def write(folder: Path) -> None:
        for info, values in typed:
            path = folder / f"{info.name}.{ending}"
            run.whole_space.write(path, info, [values], values.dtype)

    arrays, options = pack_space(run.whole_space)
    parts = [repr(options).encode(), *(array.tobytes() for array in arrays.values())]
    parts += [repr(info).encode() + values.tobytes() for info, values in typed]
    publish(out_dir, fingerprint(f".{ending}", *parts), claim, write, is_map_name)
    return {info.name: out_dir / f"{info.name}.{ending}" for info, _ in typed}
