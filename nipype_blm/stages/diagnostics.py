"""What a finished model leaves: of each block of voxels, then of all, as maps and tables."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm import __version__
from nipype_blm.core.diagnostics import (
    OUTLYING,
    ImageSums,
    LevelSums,
    compute_skewness,
    merge_images,
    merge_levels,
    sum_images,
    sum_levels,
)
from nipype_blm.core.linalg import DesignFactor, FloatArray, factorise_design
from nipype_blm.core.residuals import Residuals, combine_contrasts, compute_residuals
from nipype_blm.core.threads import Threads
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import write_arrays
from nipype_blm.model.request import DEFAULT_MAX_BYTES
from nipype_blm.progress import advance
from nipype_blm.results.diagnostics import (
    DEFAULT_FOLDER,
    OURS,
    SAVED,
    Diagnostics,
    ImageRow,
    check_save,
    format_images,
    format_levels,
    list_images,
    list_levels,
)
from nipype_blm.results.export import check_folder, publish_export
from nipype_blm.results.results import Results
from nipype_blm.stages.compiling import MIXED_S, TESTING_S, announcing_compilation
from nipype_blm.stages.diagnosed import (
    DiagnosedBlocks,
    choose_dtype,
    list_maps,
    list_saved,
    stamp_of,
)
from nipype_blm.stages.reopened import open_values

Arrays = dict[str, NDArray[Any]]
# Gives the values of all images at a slice of the voxels of the result: (n_obs, n_columns), NaN
# where missing.
ReadBlock = Callable[[slice], NDArray[Any]]


def compute_diagnostics(
    results_dir: Path | str,
    read_block: ReadBlock,
    block: slice,
    out_file: Path,
    n_threads: int = 1,
    save: Sequence[str] = (),
) -> Path:
    """Write what a model leaves at a block of voxels: maps, and sums of images and levels.

    Parameters
    ----------
    results_dir : path
        Folder of results of ``blm`` or ``blmm``.
    read_block : callable
        Gives the values of all images, in the order of `Results.images`, at a slice of the voxels
        of the result, in the order of `Results.space`.
    block : slice
        Voxels of the result.
    out_file : Path
    n_threads : int
        The file does not depend on it.
    save : sequence of str
        Of `nipype_blm.results.diagnostics.SAVED`: values of each image, or level, to be kept.

    Raises
    ------
    InputError
        If the values are not those that the model was fitted to.
    """
    results = Results(results_dir)
    save = check_save(save, bool(results.factors))
    Y, infinite, digests = _read_values(results, read_block, block)
    design = factorise_design(results.X)
    arrays: Arrays = {}
    with Threads(n_threads) as threads:
        if results.factors:
            with announcing_compilation("predicts random effects", MIXED_S):
                found = _diagnose_mixed(results, Y, block, design, save, threads, arrays)
        else:
            with announcing_compilation("computes residuals", TESTING_S):
                found = compute_residuals(Y, design, threads)
    sums = sum_images(Y, found)
    arrays |= {f"images/{name}": each for name, each in sums._asdict().items()}
    arrays |= {"infinite": infinite, "digests": digests, "residualSD": found.sigma}
    arrays["residualSkewness"] = compute_skewness(found.residual)
    leverage = [average(found.leverage, axis=1) for average in (np.nanmean, np.nanmax)]
    arrays["leverage"] = np.stack(leverage)
    arrays |= _keep(Y, found, save, choose_dtype(results))
    advance("voxels", len(Y))
    return write_arrays(out_file, stamp_of(results, block, save), arrays, [block.start, block.stop])


def _read_values(
    results: Results, read_block: ReadBlock, block: slice
) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.uint64]]:
    """Return the values of each voxel, and of each image the infinite ones, and a digest of all."""
    values = read_block(block)
    expected = len(results.images), block.stop - block.start
    if values.shape != expected:
        raise InputError(
            f"values of shape {values.shape} were given; expected {expected}: one row for each "
            f"image of {results.folder}, one column for each voxel of the block."
        )
    Y = np.ascontiguousarray(values.T, np.float64)
    is_infinite = np.isinf(Y)
    Y[is_infinite] = np.nan
    n_obs = (~np.isnan(Y)).sum(axis=1)
    expected_n = results.read("n", results.find_voxels(block))
    differs = np.flatnonzero(n_obs != expected_n)
    if differs.size:
        raise InputError(
            f"{differs.size:,} voxels do not have as many images with data as {results.prefix}n of "
            f"{results.folder} says ({n_obs[differs[0]]} and {expected_n[differs[0]]:g} at the "
            "first): the images are not those that were fitted; run the model again."
        )
    return Y, is_infinite.sum(axis=0), np.array([_digest(row) for row in values], np.uint64)


def _digest(values: NDArray[Any]) -> int:
    """Return a number that other values do not have, but by a chance of 1 in 2^64."""
    content = hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=8)
    return int.from_bytes(content.digest())


def _diagnose_mixed(
    results: Results,
    Y: FloatArray,
    block: slice,
    design: DesignFactor,
    save: Sequence[str],
    threads: Threads,
    arrays: Arrays,
) -> Residuals:
    """Return the residuals of a mixed model; add what else there is to `arrays`."""
    from nipype_blm.core.lmm.blups import compute_mixed_residuals

    factors = results.factors
    voxels = results.find_voxels(block)
    n_entries = sum(factor.n_entries for factor in factors)
    D = results.read_volumes("D", voxels, range(n_entries), np.dtype(float))
    contrasts = combine_contrasts(design.R, [each.matrix for each in results.saved_contrasts])
    keeps = "blups" in save
    found = compute_mixed_residuals(
        *(Y, D, design, factors, contrasts, results.options["reml"], keeps, threads)
    )
    widths = [np.full(factor.n_levels, factor.n_effects) for factor in factors]
    width = np.concatenate(widths)
    sums = sum_levels(found.blup, found.is_present, np.repeat(np.arange(width.size), width))
    arrays |= {f"levels/{name}": each for name, each in sums._asdict().items()}
    arrays["seRatio"] = found.se_ratio.T
    if keeps:
        dtype = choose_dtype(results)
        arrays["blup"] = found.blup.T.astype(dtype)
        arrays["blupCovariance"] = found.covariance.T.astype(dtype)
    return found.residuals


def _keep(Y: FloatArray, found: Residuals, save: Sequence[str], dtype: np.dtype[Any]) -> Arrays:
    """Return the values of each image that are to be saved, image by image."""
    made: dict[str, Callable[[], FloatArray]] = {
        "residuals": lambda: found.residual,
        "standardised_residuals": lambda: found.standardised,
        "fitted": lambda: Y - found.residual,
    }
    return {
        kind.kind: make().T.astype(dtype)
        for name, make in made.items()
        if name in save
        for kind in SAVED[name]
    }


def plan_blocks(results: Results, max_bytes: int, save: Sequence[str] = ()) -> list[slice]:
    """Return slices of the voxels of the result that can be diagnosed in so much memory."""
    n_obs, n_voxels = len(results.images), results.n_fitted
    columns = sum(factor.n_columns for factor in results.factors)
    # Values, four arrays of residuals and what sums make of them, in double precision.
    volumes = 16 * n_obs + 4 * columns + 3 * n_obs * len(save)
    entries = sum(f.n_entries * f.n_levels for f in results.factors) if "blups" in save else 0
    size = max(max_bytes // (8 * (volumes + 2 * entries)), 1)
    return [slice(i, min(i + size, n_voxels)) for i in range(0, n_voxels, size)]


def gather_diagnostics(
    results_dir: Path | str,
    block_files: Sequence[Path | str],
    out_dir: Path | None = None,
    save: Sequence[str] = (),
    n_threads: int = 1,
    non_finite: Sequence[int] | None = None,
    overwrite: bool = False,
) -> Diagnostics:
    """Write maps and tables of what a model leaves, all at once.

    Parameters
    ----------
    results_dir : path
        Folder of results of ``blm`` or ``blmm``.
    block_files : sequence of paths
        As `compute_diagnostics` wrote them, in the order of the voxels, all of which they have.
    out_dir : Path, optional
        Default: `DEFAULT_FOLDER` in that of the results.
    save : sequence of str
        As it was given to `compute_diagnostics`.
    n_threads : int
    non_finite : sequence of int, optional
        Values of each image that are infinite, if the blocks do not have them.
    overwrite : bool
        Replace also the diagnostics of other results.

    Raises
    ------
    InputError
        If the files are not of this model, or the folder has files of somebody else.
    """
    results = Results(results_dir)
    save = check_save(save, bool(results.factors))
    blocks = DiagnosedBlocks(results, block_files, save)
    images = merge_images([ImageSums(*each) for each in blocks.sums("images", ImageSums._fields)])
    if non_finite is None:
        non_finite = blocks.count_infinite()
    has_values = {i for i, n in enumerate(images.n) if n}
    same = {i: each for i, each in blocks.find_same().items() if i in has_values}
    rows = list_images(results, images, non_finite, same)
    levels = []
    if results.factors:
        parts = blocks.sums("levels", LevelSums._fields)
        levels = list_levels(results, images, merge_levels([LevelSums(*each) for each in parts]))
    se_ratio = _find_se_ratios(results, blocks)
    texts = format_images(rows) | (format_levels(levels) if levels else {})
    texts["diagnostics.json"] = _describe(results, rows, se_ratio)
    with Threads(n_threads) as threads:
        maps = [*list_maps(results, blocks, threads), *list_saved(results, blocks, save)]
        out_dir = results.folder / DEFAULT_FOLDER if out_dir is None else out_dir
        done = publish_export(results, out_dir, "diagnostics", maps, texts, OURS, overwrite)
    return Diagnostics(*done, rows, levels, se_ratio)


def _find_se_ratios(results: Results, blocks: DiagnosedBlocks) -> dict[str, float]:
    """Return the median ratio of each contrast over the voxels where it is estimable."""
    if not results.factors:
        return {}
    found = {}
    for i, name in enumerate(results.contrasts):
        [ratio] = blocks.rows("seRatio", slice(i, i + 1))
        found[name] = float(np.median(ratio[ratio > 0])) if (ratio > 0).any() else float("nan")
    return found


def _describe(results: Results, rows: Sequence[ImageRow], se_ratio: dict[str, float]) -> str:
    """Return what the tables do not say, as JSON."""
    said: dict[str, Any] = {
        "Description": "What the model leaves. Outlying: images that stand out, see images.json.",
        "Results": str(results.folder),
        "Model": results.stamp,  # of which fit they are
        "Outlying": [row.image for row in rows if row.reason],
        "OutlyingBeyond": OUTLYING,
    }
    if se_ratio:
        known = {name: None if x != x else round(x, 6) for name, x in se_ratio.items()}
        said["MedianSERatio"] = known
    said["GeneratedBy"] = {"Name": "nipype_blm", "Version": __version__}
    return f"{json.dumps(said, indent=2)}\n"


def diagnose(
    results_dir: Path | str,
    out_dir: Path | None = None,
    save: Sequence[str] = (),
    n_threads: int = 1,
    max_bytes: int = DEFAULT_MAX_BYTES,
    overwrite: bool = False,
    work_dir: Path | None = None,
) -> Diagnostics:
    """Write maps and tables of what a model leaves, from its images, in this process.

    Parameters
    ----------
    results_dir, out_dir, save, n_threads, overwrite
        As for `gather_diagnostics`.
    max_bytes : int
        Memory to use.
    work_dir : Path, optional
        Where the intermediate files of the fit are, if any; default: work in the folder of results.

    Raises
    ------
    InputError
        If an image is gone or has changed since the model was fitted, among other reasons.
    """
    results = Results(results_dir)
    save = check_save(save, bool(results.factors))
    if not results.n_fitted:
        raise InputError(f"{results.folder} has no voxel in its result: nothing to diagnose.")
    out_dir = (results.folder / DEFAULT_FOLDER if out_dir is None else out_dir).absolute()
    check_folder(out_dir, OURS)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".nipype_blm_", dir=out_dir.parent) as name:
        folder, files = Path(name), []
        with open_values(results, n_threads, folder, work_dir) as values:
            for i, block in enumerate(plan_blocks(results, max_bytes // 2, save)):
                out_file = folder / f"block{i}.blm"
                args = results.folder, values.read, block, out_file, n_threads, save
                files.append(compute_diagnostics(*args))
            non_finite = values.infinite.tolist()
        return gather_diagnostics(
            results.folder, files, out_dir, save, n_threads, non_finite, overwrite
        )
