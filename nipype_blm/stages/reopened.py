"""The model of a folder of results once more, to read the values of its images again."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import factorise_design
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.core.voxels import ValueCounts
from nipype_blm.data.kinds import find_kind, look_at, open_space
from nipype_blm.data.manifest import ImageEntry, format_manifest
from nipype_blm.data.space import Header
from nipype_blm.data.spec import ModelSpec
from nipype_blm.data.specfile import pack_model
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import FileState, write_if_changed
from nipype_blm.model.inference import plan_batch
from nipype_blm.results.results import Results
from nipype_blm.results.saved import SavedImage
from nipype_blm.stages.growth import EarlierPlaces
from nipype_blm.stages.tiles import Stored, Tiles, compute_tiles

_HEADER_THREADS = 8
_ROWS_PER_CHUNK = 32
_MOST_REPORTED = 20
# Of options that models and results have in common.
_SAME = ("minimum_n", "zero_is_missing", "deficient")


@dataclass(frozen=True)
class Reopened:
    """A model as it was fitted, and its images, unchanged since."""

    results: Results
    spec: ModelSpec  # its mask is that of the analysis, `allowed` the voxels of the result
    images: list[ImageEntry]
    kept: Path  # folder of tiles, if a run has left any

    @property
    def manifests(self) -> list[str]:
        """The list of images of each batch."""
        spec = self.spec
        return [format_manifest(self.images[spec.batch(i)]) for i in range(spec.n_batches)]

    @cached_property
    def stamp(self) -> str:
        """Fingerprint of the model and all images, however they are cut."""
        spec = replace(self.spec, images_per_batch=0, voxels_per_block=0, rows_per_chunk=0, ends=())
        return fingerprint(pack_model(spec)[0], repr(self.results.images))

    def write(self, folder: Path) -> tuple[Path, list[Path]]:
        """Write the model, and the list of images of each batch, as a plan of a run has them."""
        model_file = folder / "model.blm"
        batch_files = [folder / f"batch_{i:04d}.tsv" for i in range(self.spec.n_batches)]
        write_if_changed(model_file, pack_model(self.spec)[1])
        for path, text in zip(batch_files, self.manifests, strict=True):
            write_if_changed(path, text.encode())
        return model_file, batch_files


class Pieces(NamedTuple):
    """How a model is cut."""

    images_per_batch: int
    voxels_per_block: int


class Values:
    """The values of all images of a folder of results, by voxel or by image.

    Voxels are those of the analysis mask, and images in the order of `Results.images`.
    """

    def __init__(self, spec: ModelSpec, tiles: Tiles) -> None:
        self.spec, self._tiles = spec, tiles
        self._place = np.flatnonzero(self.spec.allowed)

    def read(self, columns: slice) -> NDArray[np.floating]:
        """Return the values at some voxels of the result, (n_obs, n_columns), NaN where missing."""
        places = self._place[columns]
        if not places.size:
            return np.empty((self.spec.n_obs, 0), self.spec.staged_dtype)
        first, stop = int(places[0]), int(places[-1]) + 1
        return self._tiles.read(slice(first, stop))[:, places - first]

    def iterate(self) -> Iterator[NDArray[np.floating]]:
        """Yield each image at the voxels of the result, (n_voxels,), NaN where missing."""
        for batch in range(self.spec.n_batches):
            n_rows = len(range(*self.spec.batch(batch).indices(self.spec.n_obs)))
            for first in range(0, n_rows, _ROWS_PER_CHUNK):
                rows = slice(first, min(first + _ROWS_PER_CHUNK, n_rows))
                yield from self._tiles.read_rows(batch, rows)[:, self._place]

    @property
    def infinite(self) -> NDArray[np.int64]:
        """How many infinite values each image has, in the analysis mask."""
        column = ValueCounts._fields.index("infinite")
        return self._tiles.read_counts()[:, column]


@contextmanager
def open_values(
    results: Results,
    n_threads: int = 1,
    parent: Path | None = None,
    work_dir: Path | None = None,
) -> Iterator[Values]:
    """Give the values of all images, each of which is read once, unless a run has kept them.

    Parameters
    ----------
    results : Results
    n_threads : int
    parent : Path, optional
        Folder for a temporary one, as large as the images; default: that of the results, if it can
        be written, or else the system's.
    work_dir : Path, optional
        Where the intermediate files of the fit are, if any; default: work in the folder of results.

    Raises
    ------
    InputError
        If an image is gone, has changed since the model was fitted, or is damaged.
    """
    if parent is None and os.access(results.folder, os.W_OK):
        parent = results.folder
    with TemporaryDirectory(prefix=".nipype_blm_", dir=parent) as name:
        pieces = Pieces(plan_batch(len(results.images), 1), results.n_fitted)
        reopened = reopen(results, pieces, work_dir)
        model_file, batch_files = reopened.write(Path(name))
        tiles = []
        for number, batch in enumerate(batch_files):
            out_file = Path(name, f"tiles_{number:04d}.blm")
            tiles.append(compute_tiles(model_file, batch, out_file, n_threads, reopened.kept))
        yield Values(reopened.spec, Tiles(reopened.spec, batch_files, tiles))


def _find_kept(results: Results, work_dir: Path) -> Path:
    """Return where a command leaves the tiles of a model."""
    return EarlierPlaces.of_workflow(work_dir / f"{results.model}_wf").tiles


def reopen(results: Results, pieces: Pieces, work_dir: Path | None = None) -> Reopened:
    """Return the model of a folder of results, once its images have been looked at.

    Raises
    ------
    InputError
        If images are gone, or have changed since the model was fitted; all of them together.
    """
    kept = _find_kept(results, results.folder / "work" if work_dir is None else work_dir)
    found = _look_at_all(results.images)
    entries = [_make_entry(row, image, found) for row, image in enumerate(results.images)]
    first = entries[0].image
    headers = list(found.values())
    of_maps = look_at(results.path("status"))[1]
    if type(of_maps) is not type(headers[0][1]):
        raise InputError(f"{first} is no longer of the kind that the maps of {results.folder} are.")
    difference = headers[0][1].describe_difference(of_maps)
    if difference is not None:
        raise InputError(f"{first} and the maps of {results.folder} differ: {difference}.")
    itemsize = 4 if all(header.fits_float32 for _, header in headers) else 8
    mask = np.asarray(results.array("status") != 0).ravel(order="F")
    spec = _make_spec(results, first, mask, itemsize, pieces)
    ends = Stored(spec, kept).find_ends(entries)
    return Reopened(results, replace(spec, ends=ends), entries, kept)


def _make_spec(
    results: Results, image: Path, mask: NDArray[np.bool_], itemsize: int, pieces: Pieces
) -> ModelSpec:
    options = results.options
    threshold = options["threshold"]
    is_mixed = results.model == "blmm"
    return ModelSpec(
        design=factorise_design(results.X),
        names=results.column_names,
        space=open_space(image, mask),
        allowed=results.inside[mask],
        threshold=-np.inf if threshold is None else threshold,
        staged_dtype=f"float{8 * itemsize}",
        map_dtype=str(results.dtype("llh")),
        with_cov=False,
        images_per_batch=pieces.images_per_batch,
        voxels_per_block=pieces.voxels_per_block,
        rows_per_chunk=min(_ROWS_PER_CHUNK, pieces.images_per_batch),
        factors=results.factors,
        effect_names=results.effect_names,
        level_names=results.level_names,
        options=MixedOptions(**{name: options[name] for name in MixedOptions._fields})
        if is_mixed
        else None,
        **{name: options[name] for name in _SAME},
    )


def _look_at_all(images: Sequence[SavedImage]) -> dict[Path, tuple[FileState, Header]]:
    """Return the state and the header of each file; of a mask, too."""
    kind = find_kind(Path(images[0].image))
    expected = {Path(each.image): (each.size, each.mtime_ns) for each in images}
    expected |= {
        Path(each.mask): (each.mask_size, each.mask_mtime_ns) for each in images if each.mask
    }

    gone: list[bool] = []

    def look(path: Path) -> tuple[FileState, Header] | str:
        try:
            state, header = look_at(path, kind)
        except InputError as error:
            gone.append(not path.exists())
            return str(error)
        if state[:2] != expected[path]:
            return f"{path} has changed since the model was fitted; fit it again."
        return state, header

    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        found = dict(zip(expected, pool.map(look, expected), strict=True))
    faults = [each for each in found.values() if isinstance(each, str)]
    if faults:
        more = f"... and {len(faults) - _MOST_REPORTED} more of the {len(found)} files."
        moved = (
            "Where images have moved, links at their old places do, as from: ln -s NEW_FOLDER "
            f"{Path(images[0].image).parent}; or fit the model again."
        )
        raise InputError(
            faults[:_MOST_REPORTED] + [more] * (len(faults) > _MOST_REPORTED) + [moved] * any(gone)
        )
    return {path: each for path, each in found.items() if not isinstance(each, str)}


def _make_entry(
    row: int, image: SavedImage, found: Mapping[Path, tuple[FileState, Header]]
) -> ImageEntry:
    path = Path(image.image)
    entry = ImageEntry(row, path, image.volume, found[path][0], f"image {row + 1}")
    if image.mask is None:
        return entry
    mask = Path(image.mask)
    return entry._replace(mask=mask, mask_volume=image.mask_volume, mask_state=found[mask][0])
