"""Read the values of all images at a few voxels of a result."""

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.threads import Threads
from nipype_blm.data.libraries import quiet_libraries
from nipype_blm.errors import InputError
from nipype_blm.model.inference import plan_batch
from nipype_blm.progress import advance
from nipype_blm.results.results import Results
from nipype_blm.results.sampled import Sampled, read_sampled, write_sampled
from nipype_blm.stages.compiling import READING_S, announcing_compilation
from nipype_blm.stages.loading import ImageLoader, make_counts
from nipype_blm.stages.reopened import Pieces, Reopened, reopen
from nipype_blm.stages.tiles import Stored
from nipype_blm.units import GIB

MOST_BYTES = 2 * GIB  # of files of images, which are read for the sake of a few voxels

_log = logging.getLogger(__name__)


def predict_bytes(results: Results) -> int:
    """Return how large the files are that the images of a result, and their masks, are in."""
    files = {each.image: each.size for each in results.images}
    masks = {each.mask: each.mask_size for each in results.images if each.mask}
    return sum(files.values()) + sum(masks.values())


@quiet_libraries()
def sample_values(
    results: Results,
    features: Iterable[int],
    n_threads: int = 1,
    work_dir: Path | None = None,
    most_bytes: int = MOST_BYTES,
) -> Sampled:
    """Return the values that a model was fitted to at some voxels, and save them beside its maps.

    Nothing is read if they are there already.  They come from the tiles that a run has kept, or
    else from the images, each of which is read once.  Where the folder is read-only, they are
    not saved.

    Parameters
    ----------
    results : Results
    features : sequence of int
        Among the voxels of the result, in the order of `Results.space`.
    n_threads : int
    work_dir : Path, optional
        Where the intermediate files of the fit are, if any; default: work in the folder of results.
    most_bytes : int
        Files of images are not read if they are larger than this together.

    Raises
    ------
    InputError
        If an image is gone or has changed since the model was fitted, or there is too much to read.
    """
    wanted = np.unique(np.fromiter(features, np.intp))
    with suppress(InputError):
        saved = read_sampled(results)
        if saved.has(wanted):
            return saved
    if not wanted.size:
        return Sampled(wanted, np.empty((0, 3)), np.empty((len(results.images), 0)))
    values = _read(results, wanted, n_threads, work_dir, most_bytes)
    _check(results, wanted, values)
    sampled = Sampled(wanted, results.space.find_coordinates()[wanted], values)
    try:
        write_sampled(results, sampled)
    except (OSError, InputError) as error:
        _log.info("The values at the highest voxels were read, but not saved: %s", error)
    return sampled


def _read(
    results: Results,
    features: NDArray[np.intp],
    n_threads: int,
    work_dir: Path | None,
    most_bytes: int,
) -> FloatArray:
    """Return values of shape (n_obs, n_voxels), NaN where missing."""
    pieces = Pieces(plan_batch(len(results.images), 1), results.n_fitted)
    reopened = reopen(results, pieces, work_dir)
    values = _read_tiles(reopened, features)
    if values is not None:
        return values
    n_bytes = predict_bytes(results)
    if n_bytes > most_bytes:
        raise InputError(
            f"The images have {n_bytes / GIB:.3g} GB to be read for a few voxels, more than the "
            f"{most_bytes / GIB:.3g} GB that were allowed."
        )
    return _read_images(reopened, features, n_threads)


def _read_tiles(reopened: Reopened, features: NDArray[np.intp]) -> FloatArray | None:
    """Return the values from tiles; None if these do not have all images."""
    spec = reopened.spec
    stored = Stored(spec, reopened.kept)
    places = np.flatnonzero(spec.allowed)[features].tolist()
    values = np.empty((spec.n_obs, features.size))
    for number in range(spec.n_batches):
        rows = spec.batch(number)
        found = stored.find(reopened.images[rows])
        if found is None:
            return None
        for column, place in enumerate(places):  # the chunks between them stay packed
            values[rows, column] = found.read(slice(place, place + 1))[:, 0]
    advance("images", spec.n_obs)
    return values


def _read_images(reopened: Reopened, features: NDArray[np.intp], n_threads: int) -> FloatArray:
    """Return the values as the fit read them, of a space that has these voxels alone."""
    results, images = reopened.results, reopened.images
    allowed = np.ones(features.size, bool)
    spec = replace(reopened.spec, space=results.select(features), allowed=allowed)
    values = np.empty((spec.n_obs, features.size))

    def keep(chunk: NDArray[np.floating], rows: range) -> None:
        values[rows.start : rows.stop] = chunk

    counts = make_counts(len(images))
    compiling = announcing_compilation("reads images", READING_S)
    with Threads(n_threads) as threads, compiling:
        ImageLoader(spec, images, counts).feed(keep, threads)
    return values


def _check(results: Results, features: NDArray[np.intp], values: FloatArray) -> None:
    """Refuse values that are not those that were fitted."""
    found = np.count_nonzero(~np.isnan(values), axis=0)
    expected = results.vector("n")[features]
    differs = np.flatnonzero(found != expected)
    if differs.size:
        first = differs[0]
        raise InputError(
            f"{found[first]} images have data at a voxel where {results.prefix}n of "
            f"{results.folder} says {expected[first]:g}: the images are not those that were "
            "fitted; run the model again."
        )
