"""Go on from the products of an earlier run, when it has fewer images or another X or Z.

A file of products has, besides them, what they were made of: the list of its images, and the rows
of X and Z.  So it is worth as much without the plan that it was made for.  A plan looks for such
files, keeps their batches as they are, and lets all other images follow.  What is to be used again
is *put aside*, where no node empties it: a link with a name that tells images and how they
were read.  Whoever makes the products of a batch looks there first.
"""

import os
import secrets
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.rebase import (
    BatchDesign,
    Change,
    NoChangeError,
    find_change,
    select_design,
)
from nipype_blm.data.kinds import pack_space
from nipype_blm.data.manifest import ImageEntry, parse_manifest
from nipype_blm.data.spec import NUMERICS, ModelSpec
from nipype_blm.data.specfile import read_model
from nipype_blm.errors import InputError, Problem
from nipype_blm.io.arrayfile import ArrayFile, fingerprint
from nipype_blm.model.planning import MOST_NODES
from nipype_blm.model.request import CHECKPOINTS, PLAN_FOLDER, PRODUCTS_FOLDER, TILES_FOLDER
from nipype_blm.results.saved import SavedModel, has_model

_NAME = "products_{}.blm"
_PATTERN = "products*.blm"  # of all files of products, wherever they are
_SLICE_BYTES = 2**24  # of products that are changed at a time; three copies of them

Key = tuple[Any, ...]  # by which observations are the same


class EarlierPlaces(NamedTuple):
    """Where an earlier run has left its files, and this one will."""

    plan: Path
    products: Path  # the folder below which they are
    aside: Path  # no node empties it
    tiles: Path  # nor this

    @classmethod
    def of_workflow(cls, folder: Path) -> "EarlierPlaces":
        """Return the places of a workflow with this folder."""
        products = folder / PRODUCTS_FOLDER
        aside = products / CHECKPOINTS
        return cls(folder / PLAN_FOLDER, products, aside, folder / TILES_FOLDER)

    @classmethod
    def of_work_folder(cls, folder: Path) -> "EarlierPlaces":
        """Return the places of a run in one process."""
        return cls(folder, folder, folder / CHECKPOINTS, folder / TILES_FOLDER)


class Origin(NamedTuple):
    """What a file of products was made of."""

    path: Path
    stamp: str
    images: list[ImageEntry]
    design: BatchDesign


# -- What is written with products, and read again -----------------------------------------------


def describe_origin(
    spec: ModelSpec, listed: bytes, rows: slice
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the meta data that tell what products were made of.

    Parameters
    ----------
    spec : ModelSpec
    listed : bytes
        The manifest of the batch.
    rows : slice
        Its rows.
    """
    design = _select(spec, rows)
    arrays: dict[str, NDArray[Any]] = {
        "origin/images": np.frombuffer(listed, np.uint8),
        "origin/Q": design.Q,
        "origin/shift": design.shift,
    }
    for i, factor in enumerate(design.factors):
        arrays |= {f"origin/{i}/level": factor.level, f"origin/{i}/Z": factor.Z}
    names = [factor.name for factor in design.factors]
    return arrays, {"reading": stamp_reading(spec), "factors": names}


Parse = Callable[[bytes, Path], list[ImageEntry]]


def read_origin(path: Path, reading: str, parse: Parse = parse_manifest) -> Origin | None:
    """Return what products were made of; None without them, or if images were read otherwise."""
    try:
        file = ArrayFile(path)
        if file.made or not isinstance(file.meta, dict) or file.meta.get("reading") != reading:
            return None
        factors = tuple(
            RandomFactor(name, file.read(f"origin/{i}/level"), file.read(f"origin/{i}/Z"))
            for i, name in enumerate(file.meta["factors"])
        )
        design = BatchDesign(file.read("origin/Q"), file.read("origin/shift"), factors)
        images = parse(file.read("origin/images").tobytes(), path)
        return Origin(path, file.stamp, images, design)
    except (OSError, InputError, KeyError):  # damaged, or of an earlier version
        return None


def stamp_reading(spec: ModelSpec) -> str:
    """Return a fingerprint of how values are read: which voxels, and what is missing.

    The precision in which they are staged holds them exactly, whichever it is.
    """
    _, options = pack_space(spec.space)
    how = repr((sorted(options.items()), spec.threshold, spec.zero_is_missing, NUMERICS))
    return fingerprint(how, spec.space.positions.tobytes())


def _select(spec: ModelSpec, rows: slice | NDArray[np.intp]) -> BatchDesign:
    return select_design(spec.design.Q, spec.design.shift, spec.factors, rows)


def _key(image: ImageEntry) -> Key:
    """Return what names an observation."""
    return str(image.image), image.volume, str(image.mask), image.mask_volume


def identify(image: ImageEntry) -> Key:
    """Return what the values of an observation depend on: that the files are the same, too."""
    return *_key(image), image.state, image.mask_state


def _name_aside(images: Iterable[ImageEntry], reading: str) -> str:
    return _NAME.format(fingerprint(reading, repr([identify(each) for each in images])))


def take_products(
    spec: ModelSpec, images: list[ImageEntry], rows: slice, folder: Path
) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of a batch, as its images would make them, from what was put aside.

    None if nothing was, or if that is damaged or does not give them.
    """
    reading = stamp_reading(spec)
    path = folder / _name_aside(images, reading)
    origin = read_origin(path, reading) if path.exists() else None
    if origin is None or [*map(identify, origin.images)] != [*map(identify, images)]:
        return None
    try:
        change = find_change(origin.design, _select(spec, rows), spec.design.condition)
        return _change_file(ArrayFile(path), change, spec.n_params)
    except (OSError, InputError, NoChangeError):
        return None


def _change_file(file: ArrayFile, change: Change, n_params: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file with others in the place of Q'y and Z'y."""
    same = ("reference", "YtY", "n_obs", "presence", "zeros")
    arrays = {name: file.read(name) for name in same}
    n_voxels = arrays["YtY"].size
    n_rows = file.shape("QtY")[0] + file.shape("ZtY")[0]
    step = max(1024, _SLICE_BYTES // (8 * n_rows))
    QtY = np.empty((n_params, n_voxels))
    ZtY = np.empty((change.n_columns, n_voxels))
    for start in range(0, n_voxels, step):
        part = slice(start, min(start + step, n_voxels))
        before = file.read("QtY", part), file.read("ZtY", part)
        QtY[:, part], ZtY[:, part] = change.apply(*before)
    return arrays | {"QtY": QtY, "ZtY": ZtY}


def remove_aside(spec: ModelSpec, images: list[ImageEntry], folder: Path) -> None:
    """Remove what was put aside for a batch whose products are there, and a folder left empty."""
    with suppress(OSError):
        (folder / _name_aside(images, stamp_reading(spec))).unlink(missing_ok=True)
        folder.rmdir()


# -- What a plan makes of it -----------------------------------------------------------------------


class Batches(NamedTuple):
    """Observations in the order of batches that stay as they are, and then all others."""

    order: NDArray[np.intp]  # of the observations as they were ordered without them
    kept: list[int]  # observations of each batch that stays


class Taken(NamedTuple):
    """What need not be read."""

    n_images: int
    sources: Mapping[str, Path]  # what has to be put aside, by its name there


_WHY = {
    "kept": "it has kept no products of them.  With {keep=all} a run that has more images later "
    "reads only those",
    "reading": "it has read them otherwise, with another {analysis_mask}, {threshold} or "
    "{zero_is_missing}",
    "images": "in each batch some image is gone or was replaced",
    "X": "the columns of {X} are not made of those that it had; what was added to them, or "
    "corrected, is known of no image",
    "constant": "without an intercept in {X}, here or there, what was subtracted from the images "
    "depends on all of them",
    "Z": "their levels in {factors}, or the effects of these, are others",
    "space": "its batches take more memory or disk than there is",
}


class Earlier:
    """The products that an earlier run has left.

    Parameters
    ----------
    places : EarlierPlaces
    spec : ModelSpec
        The model that is planned, observations in their usual order.
    images : list of ImageEntry
        In the same order.
    """

    def __init__(self, places: EarlierPlaces, spec: ModelSpec, images: list[ImageEntry]) -> None:
        self.places, self._spec, self._images = places, spec, images
        self._reading = stamp_reading(spec)
        self._files: list[Path] = []
        with suppress(OSError):  # another's folder
            self._files = sorted(places.products.rglob(_PATTERN))
        self._origins: dict[str, Origin] = {}  # by their names aside
        parse = _parse_once()
        for path in self._files:
            origin = read_origin(path, self._reading, parse)
            if origin is not None:
                self._origins[_name_aside(origin.images, self._reading)] = origin
        self._last = _read_plan(places.plan, parse) if self._files else None
        self._obstacles: Counter[str] = Counter()  # images of the batches that they hold up

    def choose_batches(self, n_batches: int, can_keep: Callable[[int], bool]) -> Batches | None:
        """Return which batches stay as they are; None if all are as planned.

        Parameters
        ----------
        n_batches : int
            Of a run without an earlier one.
        can_keep : callable
            Whether memory holds a batch of so many images.
        """
        last = self._last
        if last is None or last.keys != Counter(map(_key, self._images)):
            kept = self._list_kept(n_batches, can_keep)
        elif last.spec.ends and last.spec.images_per_batch == self._spec.images_per_batch:
            kept = _Rows(self._images, _key).place(last.batches)  # as it had grown
        else:
            return None  # planned in the same way again, or otherwise because somebody wants so
        if not kept:
            return None
        first = np.concatenate(kept)
        others = np.setdiff1d(np.arange(len(self._images)), first)
        return Batches(np.concatenate([first, others]), [rows.size for rows in kept])

    def _list_kept(self, n_batches: int, can_keep: Callable[[int], bool]) -> list[NDArray[np.intp]]:
        """Return the observations of all batches whose products can be used."""
        rows = _Rows(self._images, identify)
        kept = []
        for origin in sorted(self._origins.values(), key=lambda each: each.images[0].row):
            found = rows.find(origin.images)
            if found is None:
                obstacle = "images"
            elif not can_keep(found.size):
                obstacle = "space"
            else:
                obstacle = _find_obstacle(origin, self._spec, found)
            if obstacle:
                self._obstacles[obstacle] += len(origin.images)
            elif found is not None:
                rows.take(origin.images)
                kept.append(found)
        return _drop_smallest(kept, max(MOST_NODES, 2 * n_batches) - 1)

    def explain(self, out_dir: Path) -> Problem | None:
        """Return why all images are read, though the last run has read some; None if they are new.

        Parameters
        ----------
        out_dir : Path
            Whose maps tell which images a run had that has left nothing else.
        """
        now = {*map(_key, self._images)}
        known = now & (_read_saved(out_dir) if self._last is None else self._last.keys.keys())
        if not known or known == now:
            return None
        if self._origins:
            why = self._obstacles.most_common(1)[0][0] if self._obstacles else "space"
        else:
            why = "kept" if all(map(_is_dropped, self._files)) else "reading"
        template = f"All {{n}} images are read, also the {{known}} of an earlier run: {_WHY[why]}."
        return Problem("images", template, n=len(self._images), known=len(known))

    def find_taken(
        self, spec: ModelSpec, images: list[ImageEntry], stamps: Callable[[], list[str]]
    ) -> Taken:
        """Return which products need not be made of images.

        Parameters
        ----------
        spec, images
            As they will be fitted, in the order of their batches.
        stamps : callable
            Returns the fingerprints that the products will have; it is called if there are any.
        """
        n_images, sources = 0, {}
        for number, stamp in enumerate(stamps() if self._origins else ()):
            rows = spec.batch(number)
            name = _name_aside(images[rows], self._reading)
            origin = self._origins.get(name)
            if origin is None:
                continue
            if origin.stamp != stamp:
                if _find_obstacle(origin, spec, rows):
                    continue
                sources[name] = origin.path
            n_images += rows.stop - rows.start
        return Taken(n_images, sources)


class _LastPlan(NamedTuple):
    spec: ModelSpec
    batches: list[list[ImageEntry]]
    keys: Counter[Key]


class _Rows:
    """Where images stand; one that is listed several times is taken as often."""

    def __init__(self, images: Sequence[ImageEntry], key: Callable[[ImageEntry], Key]) -> None:
        self._name = key
        self._free: defaultdict[Key, list[int]] = defaultdict(list)
        for row, image in enumerate(images):
            self._free[key(image)].append(row)

    def find(self, images: Sequence[ImageEntry]) -> NDArray[np.intp] | None:
        """Return the rows of images; None if any has none that is free."""
        n_before: Counter[Key] = Counter()
        rows = []
        for name in map(self._name, images):
            free = self._free.get(name, [])
            if len(free) <= n_before[name]:
                return None
            rows.append(free[n_before[name]])
            n_before[name] += 1
        return np.array(rows, np.intp)

    def take(self, images: Sequence[ImageEntry]) -> None:
        """Have rows that were found be free no more."""
        for name in map(self._name, images):
            self._free[name].pop(0)

    def place(self, batches: Sequence[Sequence[ImageEntry]]) -> list[NDArray[np.intp]]:
        """Return the rows of the images of each batch; nothing if some have none."""
        placed = []
        for images in batches:
            rows = self.find(images)
            if rows is None:
                return []
            self.take(images)
            placed.append(rows)
        return placed


def _is_dropped(path: Path) -> bool:
    """Return whether there are no products in a file any more, or it is damaged."""
    try:
        return bool(ArrayFile(path).made)
    except (OSError, InputError):
        return True


def _find_obstacle(origin: Origin, spec: ModelSpec, rows: slice | NDArray[np.intp]) -> str:
    """Return why products do not follow for the same images in a model; empty if they do."""
    try:
        find_change(origin.design, _select(spec, rows), spec.design.condition)
    except NoChangeError as error:
        return str(error)
    return ""


def _drop_smallest(kept: list[NDArray[np.intp]], most: int) -> list[NDArray[np.intp]]:
    """Return no more than `most` batches; if there are more, the larger half.

    A study that grows image by image would have a batch for each of them.
    """
    if len(kept) <= most:
        return kept
    largest = sorted(range(len(kept)), key=lambda i: (-kept[i].size, i))[: max(most // 2, 1)]
    return [kept[i] for i in sorted(largest)]


def _parse_once() -> Parse:
    """Return a function that parses each manifest once: products and plan have the same."""
    known: dict[bytes, list[ImageEntry]] = {}

    def parse(content: bytes, path: Path) -> list[ImageEntry]:
        if content not in known:
            known[content] = parse_manifest(content, path)
        return known[content]

    return parse


def _read_plan(folder: Path, parse: Parse) -> _LastPlan | None:
    """Return the last plan; None if there is none, or it was not written to its end."""
    try:
        _, spec = read_model(folder / "model.blm")
        paths = [folder / f"batch_{i:04d}.tsv" for i in range(spec.n_batches)]
        batches = [parse(path.read_bytes(), path) for path in paths]
    except (OSError, InputError, KeyError, TypeError):  # the last two: of an earlier version
        return None
    images = [image for batch in batches for image in batch]
    if [image.row for image in images] != list(range(spec.n_obs)):
        return None
    return _LastPlan(spec, batches, Counter(map(_key, images)))


def _read_saved(out_dir: Path) -> set[Key]:
    """Return the images of the maps in a folder."""
    if not has_model(out_dir):
        return set()
    with suppress(InputError, OSError):
        saved = SavedModel(out_dir).images
        return {(i.image, i.volume, str(i.mask or None), i.mask_volume or 0) for i in saved}
    return set()


def put_aside(sources: Mapping[str, Path], folder: Path) -> None:
    """Keep products where no node empties them, and nothing else that was kept there before."""
    for path in folder.glob(_PATTERN):
        if path.name not in sources:
            path.unlink(missing_ok=True)
    for name, source in sources.items():
        if source != folder / name:
            with suppress(OSError):  # what is not there is read
                link(source, folder / name)


def link(source: Path, target: Path) -> None:
    """Make a file appear under a second name, also if it was another's before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        try:
            os.link(source, part)
        except OSError:  # a disk without links
            shutil.copyfile(source, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
