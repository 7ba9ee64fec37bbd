"""Find the images of a run: read all headers, and see whether they are on one grid."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.data.images import (
    ImageHeader,
    check_size,
    describe_affine_fault,
    describe_grid,
    describe_grid_difference,
    find_grids,
    read_header,
    read_mask,
    stat_file,
)
from nipype_blm.data.manifest import ImageEntry
from nipype_blm.errors import InputError, Problem, Problems, about
from nipype_blm.io.files import FileState
from nipype_blm.model.planning import check_grid
from nipype_blm.model.request import ListedPath

# Reading headers waits for the disk: more threads than cores.
_HEADER_THREADS = 8
_MOST_REPORTED = 20
_MOST_GRIDS_SHOWN = 3
_COMPRESSED = (".gz", ".mgz")


class FoundImages(NamedTuple):
    """The images that a field names."""

    entries: list[ImageEntry]
    headers: list[ImageHeader]  # of those that could be read
    n_listed: int | None  # None where the list, or the only image, could not be read
    paths: list[Path]  # of all that are listed
    expected: ImageHeader | None = None  # the grid that all images should have, if that is known


def find_images(
    listed: Sequence[ListedPath] | None,
    field: str,
    problems: Problems,
    expected: ImageHeader | None = None,
) -> FoundImages:
    """Read the headers of all images; a single 4D image stands for its volumes."""
    if not listed:
        return FoundImages([], [], None, [])
    size = -(-len(listed) // _HEADER_THREADS)
    parts = [listed[i : i + size] for i in range(0, len(listed), size)]
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        found_parts = pool.map(lambda part: [_read_entry(item) for item in part], parts)
        found = list(chain.from_iterable(found_parts))
    faults: list[str] = [item for item in found if isinstance(item, str)]
    good = [item for item in found if not isinstance(item, str)]
    if len(good) == len(listed) == 1:
        [(entry, header)] = good
        volume = header._replace(n_volumes=1)  # one object, which is compared once
        good = [(entry._replace(volume=i), volume) for i in range(header.n_volumes)]
        listed = list(listed) * header.n_volumes
    headers = [header for _, header in good]
    if expected is None and good:
        expected = problems.attempt(_choose_grid, field, good)
    differences = {
        id(header): _describe_difference(header, expected)
        for header in {id(header): header for header in headers}.values()
    }
    for entry, header in good:
        if differences[id(header)] is not None:
            faults.append(f"{entry.where}: {entry.image}: {differences[id(header)]}.")
    more = len(faults) - _MOST_REPORTED
    if more > 0:
        rest = Problem(field, f"... and {more} more files of {{{field}}}.")
        faults = [*faults[:_MOST_REPORTED], rest]
    problems += about(field, faults)
    entries = [entry._replace(row=row) for row, (entry, _) in enumerate(good)]
    # The only one may have any number of volumes.
    n_listed = len(listed) if good or len(listed) > 1 else None
    return FoundImages(entries, headers, n_listed, [item.path for item in listed], expected)


def _choose_grid(field: str, images: Sequence[tuple[ImageEntry, ImageHeader]]) -> ImageHeader:
    """Return the grid of most images."""
    grids = find_grids(header for _, header in images)
    if not grids:  # each of them is at fault by itself
        return images[0][1]
    if 2 * len(grids[0]) > sum(map(len, grids)):
        return images[grids[0][0]][1]
    shown = []
    for group in grids[:_MOST_GRIDS_SHOWN]:
        entry, header = images[group[0]]
        shown.append(
            f"{len(group)} with {describe_grid(header)}, such as {entry.image} ({entry.where})"
        )
    more = len(grids) - len(shown)
    raise InputError(
        Problem(
            field,
            f"The images of {{{field}}} are on different grids, and on none are most of them: "
            "{grids}.  Resample them to one.",
            grids="; ".join(shown) + f"; and others on {more} grids or more" * (more > 0),
        )
    )


def _describe_difference(header: ImageHeader, expected: ImageHeader | None) -> str | None:
    if header.n_volumes > 1:
        return f"it has {header.n_volumes} volumes, expected 1"
    if expected is None:
        return describe_affine_fault(header)
    return describe_grid_difference(header, expected)


def _read_entry(listed: ListedPath) -> tuple[ImageEntry, ImageHeader] | str:
    try:
        state = stat_file(listed.path)
    except (OSError, ValueError):  # ValueError: no path can have a null byte
        state = FileState(0, 0, "")  # reading the header says what is wrong
    try:
        header = _read_header_once(listed.path, state)
        check_size(listed.path, header, state.size)
    except InputError as error:
        return f"{listed.where}: {error}"
    return ImageEntry(0, listed.path, 0, state, listed.where), header


@lru_cache(maxsize=2**17)
def _read_header_once(path: Path, state: FileState) -> ImageHeader:
    """Read a header, once in a process that first checks and then plans."""
    return read_header(path)


def attach_masks(images: FoundImages, masks: FoundImages, problems: Problems) -> list[ImageEntry]:
    """Give each image its mask."""
    if None not in (images.n_listed, masks.n_listed) and images.n_listed != masks.n_listed:
        problems.add(
            "data_masks",
            f"{{data_masks}} names {masks.n_listed} masks, but there are {images.n_listed} "
            "images; give one mask for each image.",
        )
    return [
        image._replace(mask=mask.image, mask_volume=mask.volume, mask_state=mask.state)
        for image, mask in zip(images.entries, masks.entries, strict=False)
    ]


def read_optional_mask(
    expected: ImageHeader | None, path: Path | None, field: str
) -> NDArray[np.bool_] | None:
    """Read a mask; all voxels without one; None where there is no image to compare it with."""
    if expected is None:
        return None
    if path is None:
        return np.ones(expected.n_grid, bool)
    return read_mask(path, expected, field)


def fit_grid(images: FoundImages, max_bytes: int) -> ImageHeader | None:
    """Return the grid of the images, if memory holds one of them."""
    grid = images.expected
    if grid is not None:
        itemsize = max(header.bytes_to_read for header in list_kinds(images))
        check_grid(max_bytes, grid.shape, itemsize * (1 + has_compressed(images)))
    return grid


def list_kinds(images: FoundImages) -> list[ImageHeader]:
    """Return the different headers; equal ones are parsed once, so that there are few."""
    return list({id(header): header for header in images.headers}.values())


def has_compressed(images: FoundImages) -> bool:
    """Return whether any image is compressed as a whole, by its name."""
    return any(entry.image.suffix in _COMPRESSED for entry in images.entries)
