"""Estimate how smooth the residuals of a finished run are."""

from collections.abc import Iterator

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
from nipype_blm.errors import InputError
from nipype_blm.results.results import Results
from nipype_blm.stages.compiling import READING_S, announcing_compilation
from nipype_blm.stages.reopened import Values


@quiet_libraries()
def estimate_smoothness(results: Results, values: Values, n_threads: int = 1) -> Smoothness:
    """Return FWHM, resels and resels per voxel of the residuals of a run.

    Residuals are y - X beta, in a mixed model too: what random effects explain is a part of them.
    Where nothing is missing, a linear model gives the numbers of SPM, but for voxels at the border
    of the images, which SPM takes as perfectly smooth.

    Parameters
    ----------
    results : Results
        Of volumes.
    values : Values
        Of its images.
    n_threads : int
        Threads that compute.

    Raises
    ------
    InputError
        If the results are not of volumes, columns of X depend on each other, or no voxel and its
        neighbours have enough images.

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
    with Threads(n_threads) as threads, announcing_compilation("estimates smoothness", READING_S):
        for residuals in _iterate_residuals(results, values):
            add_residuals(sums, cells, residuals, threads)
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


def _iterate_residuals(results: Results, values: Values) -> Iterator[FloatArray]:
    """Yield y - X beta of each image, NaN where it has no data."""
    numbers = range(results.X.shape[1])
    beta = results.read_volumes("beta", results.inside, numbers, np.dtype(float))
    # Where X has a lower rank at the images that are there, beta has zeros for what is unknown.
    beta[:, _find_deficient(results)] = np.nan
    for row, image in zip(results.X, values.iterate(), strict=True):
        yield image - row @ beta


def _find_deficient(results: Results) -> NDArray[np.bool_]:
    rank = results.vector("n") - results.vector("edf")
    return np.asarray(rank < results.X.shape[1])
