"""How smooth residuals are: FWHM and resels, from differences between neighbouring voxels.

Residuals come one image at a time.  What is kept of them are sums over images, which add up exactly
over batches.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core._jit import inline, kernel
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.threads import ONE_THREAD, Threads

_4_LOG_2 = 4 * math.log(2.0)
# The products of a voxel and its next ones along x, y and z: the upper triangle, row by row.
_PAIRS = np.triu_indices(4)
_PLACES = np.zeros((4, 4), int)
_PLACES[_PAIRS] = _PLACES.T[_PAIRS] = np.arange(len(_PAIRS[0]))


class Cells(NamedTuple):
    """Voxels whose whole cell is inside the mask: they and the next ones along each axis."""

    axes: tuple[int, ...]  # those along which the grid has more than one voxel
    corners: NDArray[np.int32]  # (n_cells, 4): voxel, next along x, y, z; itself where no axis


class ResidualSums(NamedTuple):
    """Sums over images of products of residuals at the corners of cells, 0 where missing."""

    products: FloatArray  # (n_cells, 10)
    n_images: NDArray[np.int32]  # (n_cells,), with data at the voxel itself


class Smoothness(NamedTuple):
    """How smooth residuals are, as SPM says it."""

    fwhm: FloatArray  # (3,), voxels; 1 along an axis of one voxel
    resel_counts: FloatArray  # (4,), of the mask: R of 0, 1, 2, 3 dimensions
    resels_per_voxel: FloatArray  # (n_voxels,), NaN where it cannot be told
    n_used: int  # voxels that the averages are of


def find_cells(inside: NDArray[np.bool_]) -> Cells:
    """Return the voxels of a mask whose cell is inside of it.

    Parameters
    ----------
    inside : Boolean array of shape (x, y, z)
        The mask; its voxels are numbered in the order of files, x fastest.
    """
    axes = tuple(axis for axis, n in enumerate(inside.shape) if n > 1)
    numbers = np.full(inside.shape, -1, np.int32, order="F")
    numbers.ravel(order="F")[np.flatnonzero(inside.ravel(order="F"))] = np.arange(
        np.count_nonzero(inside), dtype=np.int32
    )
    is_whole = inside.copy()
    for axis in axes:  # one axis after the other, so that all eight corners are looked at
        is_whole &= _shift(is_whole, axis, False)
    order = is_whole.ravel(order="F")
    corners = [numbers.ravel(order="F")[order]] * 4
    for axis in axes:
        corners[axis + 1] = _shift(numbers, axis, -1).ravel(order="F")[order]
    return Cells(axes, np.ascontiguousarray(np.transpose(corners)))


def _shift(values: NDArray[Any], axis: int, outside: Any) -> NDArray[Any]:
    """Return at each voxel the value of the next one along an axis."""
    moved = np.full_like(values, outside)
    here, there = [slice(None)] * 3, [slice(None)] * 3
    here[axis], there[axis] = slice(None, -1), slice(1, None)
    moved[tuple(here)] = values[tuple(there)]
    return moved


def make_sums(cells: Cells) -> ResidualSums:
    """Return sums over no image."""
    n = len(cells.corners)
    return ResidualSums(np.zeros((n, len(_PAIRS[0]))), np.zeros(n, np.int32))


def add_residuals(
    sums: ResidualSums, cells: Cells, residuals: FloatArray, threads: Threads = ONE_THREAD
) -> None:
    """Add the residuals of an image to sums.

    Parameters
    ----------
    sums : ResidualSums
        Changed in place.
    cells : Cells
    residuals : array of shape (n_voxels,)
        NaN where the image has no data.
    threads : Threads
    """
    threads.split(lambda a, b: _add(*sums, cells.corners, residuals, a, b), len(cells.corners))


@inline
def _fill(value: float) -> float:
    """Return 0 for what is missing."""
    return 0.0 if np.isnan(value) else value


@kernel
def _add(products: Any, n_images: Any, corners: Any, residuals: Any, start: int, stop: int) -> None:
    """Add products of the values at the corners of cells."""
    for i in range(start, stop):
        v = _fill(residuals[corners[i, 0]])
        x = _fill(residuals[corners[i, 1]])
        y = _fill(residuals[corners[i, 2]])
        z = _fill(residuals[corners[i, 3]])
        n_images[i] += not np.isnan(residuals[corners[i, 0]])
        row = products[i]
        row[0] += v * v
        row[1] += v * x
        row[2] += v * y
        row[3] += v * z
        row[4] += x * x
        row[5] += x * y
        row[6] += x * z
        row[7] += y * y
        row[8] += y * z
        row[9] += z * z


def merge_sums(first: ResidualSums, second: ResidualSums) -> ResidualSums:
    """Return the sums over the images of both."""
    return ResidualSums(first.products + second.products, first.n_images + second.n_images)


def compute_smoothness(
    sums: ResidualSums, cells: Cells, inside: NDArray[np.bool_], least_images: int
) -> Smoothness | None:
    """Return FWHM and resels of sums of residuals; None if no cell has enough images.

    Parameters
    ----------
    sums : ResidualSums
    cells : Cells
    inside : Boolean array of shape (x, y, z)
        The mask.
    least_images : int
        Voxels with fewer images are left out.

    Notes
    -----
    With u the residuals of a voxel divided by their norm, the matrix of the products of
    differences of u between neighbours estimates the covariance of the derivatives of the
    component fields ([1]_, [2]_).  Resels per voxel are the root of its determinant over
    (4 ln 2)^D, D being the number of axes.  FWHM are such that their product is the reciprocal of
    the mean of resels per voxel, and their reciprocals are in the ratio of the means of the roots
    of the diagonal.  Where nothing is missing this is what SPM computes.

    Residuals that are missing are 0 in u.  Then the product of u of two voxels falls with the
    share of the images that they have in common, as the correlation of their statistics does.
    With differences over the common images alone, which are as smooth as the images, statistics
    would seem smoother than they are, and twice too many would pass a corrected threshold.

    References
    ----------
    .. [1] S. J. Kiebel et al. (1999). Robust smoothness estimation in statistical parametric maps
       using standardized residuals from the general linear model. NeuroImage 10, 756-766.
    .. [2] S. Hayasaka et al. (2004). Nonstationary cluster-size inference with random field and
       permutation methods. NeuroImage 22, 676-687.
    """
    resels, along = _compute_resels(sums.products, cells.axes)
    is_used = (sums.n_images >= least_images) & np.isfinite(resels)
    n_used = int(np.count_nonzero(is_used))
    if not cells.axes or not n_used or not resels[is_used].any():
        return None
    per_voxel = np.full(np.count_nonzero(inside), np.nan)
    per_voxel[cells.corners[is_used, 0]] = resels[is_used]
    means = along[is_used].mean(axis=0)
    fwhm = np.ones(3)
    scale = (resels[is_used].mean() / means.prod()) ** (1 / len(cells.axes))
    fwhm[list(cells.axes)] = 1 / (scale * means)
    return Smoothness(fwhm, count_resels(inside, fwhm), per_voxel, n_used)


def _compute_resels(products: FloatArray, axes: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Return resels per voxel, and per voxel along each axis; NaN where a voxel has no variance."""
    norms = np.sqrt(products[:, _PLACES.diagonal()])  # (n_cells, 4)

    def correlate(a: int, b: int) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(products[:, _PLACES[a, b]] / (norms[:, a] * norms[:, b]))

    covariance = np.empty((len(products), len(axes), len(axes)))
    for i, a in enumerate(axes):
        for j, b in enumerate(axes):
            covariance[:, i, j] = (
                correlate(a + 1, b + 1) - correlate(a + 1, 0) - correlate(0, b + 1) + 1
            )
    with np.errstate(invalid="ignore"):
        determinant = np.maximum(np.linalg.det(covariance), 0)
    diagonal = np.maximum(covariance[:, range(len(axes)), range(len(axes))], 0)
    return np.sqrt(determinant / _4_LOG_2 ** len(axes)), np.sqrt(diagonal / _4_LOG_2)


def count_resels(inside: NDArray[np.bool_], fwhm: FloatArray) -> FloatArray:
    """Return the resel counts of a mask in 0, 1, 2 and 3 dimensions.

    Parameters
    ----------
    inside : Boolean array of shape (x, y, z)
    fwhm : array of shape (3,)
        In voxels.

    Returns
    -------
    counts : array of shape (4,)
        Euler characteristic, diameter, half the surface and volume, in resels.

    Notes
    -----
    From the numbers of points, edges, faces and cubes of the lattice of voxels: K. J. Worsley et
    al. (1996). A unified statistical approach for determining significant signals in images of
    cerebral activation. Human Brain Mapping 4, 58-73.
    """
    found = {}
    for key in range(8):
        whole = inside
        for axis in range(3):
            if key >> axis & 1:
                whole = whole & _shift(whole, axis, False)
        found[key] = int(np.count_nonzero(whole))
    x, y, z = 1 / fwhm
    points, cubes = found[0], found[7]
    edge_x, edge_y, edge_z = found[1], found[2], found[4]
    face_xy, face_xz, face_yz = found[3], found[5], found[6]
    return np.array(
        [
            points - edge_x - edge_y - edge_z + face_xy + face_xz + face_yz - cubes,
            (edge_x - face_xy - face_xz + cubes) * x
            + (edge_y - face_xy - face_yz + cubes) * y
            + (edge_z - face_xz - face_yz + cubes) * z,
            (face_xy - cubes) * x * y + (face_xz - cubes) * x * z + (face_yz - cubes) * y * z,
            cubes * x * y * z,
        ]
    )
