"""Estimate how smooth the residuals of a finished run are: reads each image once."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.smoothness import (
    Smoothness,
    add_residuals,
    compute_smoothness,
    find_cells,
    make_sums,
)
from nipype_blm.core.threads import Threads
from nipype_blm.data.lattices import find_lattice
from nipype_blm.data.libraries import quiet_libraries
from nipype_blm.data.manifest import ImageEntry, check_unchanged
from nipype_blm.errors import InputError
from nipype_blm.io.files import FileState
from nipype_blm.progress import advance
from nipype_blm.results.results import Results
from nipype_blm.results.saved import SavedImage
from nipype_blm.stages.compiling import READING_S, announcing_compilation


@quiet_libraries()
def estimate_smoothness(results: Results, n_threads: int = 1) -> Smoothness:
    """Return FWHM, resels and resels per voxel of the residuals of a run.

    Residuals are y - X beta, in a mixed model too: what random effects explain is a part of them.
    Where nothing is missing, a linear model gives the numbers of SPM, but for voxels at the border
    of the images, which SPM takes as perfectly smooth.

    Parameters
    ----------
    results : Results
        Of volumes; the images have to be where they were.
    n_threads : int
        Threads that compute; images are read one at a time.

    Raises
    ------
    InputError
        If the results are not of volumes, an image is gone or has changed, columns of X depend on
        each other, or no voxel and its neighbours have enough images.

    Notes
    -----
    `nipype_blm.core.smoothness.compute_smoothness`.  Memory: the estimates, ten sums at each voxel,
    one image.
    """
    inside = find_lattice(results.space).inside
    n_params = results.X.shape[1]
    if np.linalg.matrix_rank(results.X) < n_params:
        raise InputError(
            f"Columns of X of {results.folder} depend on each other, so that its maps of estimates "
            "do not give residuals; leave out columns that others make up, and run it again."
        )
    cells = find_cells(inside)
    sums = make_sums(cells)
    with Threads(n_threads) as threads, announcing_compilation("reads images", READING_S):
        for residuals in _iterate_residuals(results):
            add_residuals(sums, cells, residuals, threads)
            advance("images", 1)
    least = n_params + len(cells.axes) + 1
    found = compute_smoothness(sums, cells, inside, least)
    if found is None:
        raise InputError(
            f"The smoothness of {results.folder} cannot be estimated: it takes voxels that have, "
            f"together with the next ones along each axis, {least} images or more and residuals "
            "that vary; use more images, or a larger mask."
        )
    return found


def describe_smoothness(results: Results, smoothness: Smoothness) -> str:
    """Return FWHM in mm and resels in one line."""
    fwhm = smoothness.fwhm * find_lattice(results.space).voxel_sizes
    axes = " x ".join(f"{each:.2f}" for each in fwhm)
    return f"Smoothness: FWHM {axes} mm; {smoothness.resel_counts[3]:.1f} resels"


def _iterate_residuals(results: Results) -> Iterator[FloatArray]:
    """Yield y - X beta of each image, NaN where it has no data."""
    X, space = results.X, results.space
    numbers = range(X.shape[1])
    beta = results.read_volumes("beta", results.inside, numbers, np.dtype(float))
    # Where X has a lower rank at the images that are there, beta has zeros for what is unknown.
    beta[:, _find_deficient(results)] = np.nan
    options = results.options
    threshold = -np.inf if options["threshold"] is None else options["threshold"]
    reader = space.make_reader(threshold, options["zero_is_missing"])
    mask_reader = space.make_reader()
    values, inside = np.empty(space.n_features), np.empty(space.n_features)
    for row, image in zip(X, _list_entries(results.images), strict=True):
        try:
            check_unchanged(image)
            if image.mask is not None:
                mask_reader.read(image.mask, image.mask_volume, inside)
            reader.read(image.image, image.volume, values, *([inside] * (image.mask is not None)))
        except InputError as error:
            raise InputError(
                f"Smoothness is estimated from the images, which have to be as they were: {error}"
            ) from error
        yield values - row @ beta


def _find_deficient(results: Results) -> NDArray[np.bool_]:
    rank = results.vector("n") - results.vector("edf")
    return np.asarray(rank < results.X.shape[1])


def _list_entries(images: Sequence[SavedImage]) -> list[ImageEntry]:
    """Return the images of a saved model as they were planned for."""
    return [
        ImageEntry(
            row,
            Path(image.image),
            image.volume,
            FileState(image.size, image.mtime_ns, ""),
            image.image,
            None if image.mask is None else Path(image.mask),
            image.mask_volume,
            FileState(image.mask_size, image.mask_mtime_ns, ""),
        )
        for row, image in enumerate(images)
    ]
