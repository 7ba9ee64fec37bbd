"""Find the images of a run: read all headers, and see whether they are in one space."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.data.compressed import is_named_compressed
from nipype_blm.data.kinds import find_kind, look_at, read_mask
from nipype_blm.data.manifest import ImageEntry
from nipype_blm.data.space import Header, Kind
from nipype_blm.errors import InputError, Problem, Problems, about
from nipype_blm.model.planning import check_image
from nipype_blm.model.request import ListedPath

# Reading headers waits for the disk: more threads than cores.
_HEADER_THREADS = 8
_MOST_REPORTED = 20


class FoundImages(NamedTuple):
    """The images that a field names."""

    entries: list[ImageEntry]
    headers: list[Header]  # of those that could be read
    n_listed: int | None  # None where the list, or the only image, could not be read
    paths: list[Path]  # of all that are listed
    expected: Header | None = None  # one of the space that all images should have, if known


def find_images(
    listed: Sequence[ListedPath] | None,
    field: str,
    problems: Problems,
    expected: Header | None = None,
) -> FoundImages:
    """Read the headers of all images; a single one stands for all volumes that it has."""
    if not listed:
        return FoundImages([], [], None, [])
    kind = find_kind(listed[0].path)
    found = _read_entries(listed, kind)
    faults: list[str] = [item for item in found if isinstance(item, str)]
    good = [item for item in found if not isinstance(item, str)]
    is_only = len(good) == len(listed) == 1
    if is_only:
        [(entry, header)] = good
        good = [(entry._replace(volume=i), header) for i in range(header.n_volumes)]
        listed = list(listed) * header.n_volumes
    entries = [entry._replace(row=i, listed=i + 1) for i, (entry, _) in enumerate(good)]
    headers = [header for _, header in good]
    if expected is None and good:
        expected = problems.attempt(kind.choose, field, entries, headers)
    faults += _find_differences(entries, headers, expected, is_only)
    more = len(faults) - _MOST_REPORTED
    if more > 0:
        rest = Problem(field, f"... and {more} more files of {{{field}}}.")
        faults = [*faults[:_MOST_REPORTED], rest]
    problems += about(field, faults)
    # The only one may have any number of volumes.
    n_listed = len(listed) if good or len(listed) > 1 else None
    return FoundImages(entries, headers, n_listed, [item.path for item in listed], expected)


def _read_entries(
    listed: Sequence[ListedPath], kind: Kind
) -> list[tuple[ImageEntry, Header] | str]:
    """Read all headers, in several threads; return what is wrong in the place of an image."""
    size = -(-len(listed) // _HEADER_THREADS)
    parts = [listed[i : i + size] for i in range(0, len(listed), size)]
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        found = pool.map(lambda part: [_read_entry(item, kind) for item in part], parts)
        return list(chain.from_iterable(found))


def _read_entry(listed: ListedPath, kind: Kind) -> tuple[ImageEntry, Header] | str:
    try:
        state, header = look_at(listed.path, kind)
    except InputError as error:
        return f"{listed.where}: {error}"
    return ImageEntry(0, listed.path, 0, state, listed.where), header


def _find_differences(
    entries: Sequence[ImageEntry],
    headers: Sequence[Header],
    expected: Header | None,
    is_only: bool,
) -> list[str]:
    """Return which images are not in the space expected, or have several volumes."""
    # Equal headers are one object, which is compared once.
    differences = {
        id(header): f"it has {header.n_volumes} volumes, expected 1"
        if header.n_volumes > 1 and not is_only
        else header.describe_difference(expected)
        for header in list_distinct(headers)
    }
    return [
        f"{entry.where}: {entry.image}: {differences[id(header)]}."
        for entry, header in zip(entries, headers, strict=True)
        if differences[id(header)] is not None
    ]


def list_distinct(headers: Sequence[Header]) -> list[Header]:
    """Return each header once; equal ones are parsed once, so that there are few."""
    return list({id(header): header for header in headers}.values())


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
    expected: Header | None, path: Path | None, field: str
) -> NDArray[np.bool_] | None:
    """Read a mask; all voxels without one; None where there is no image to compare it with."""
    if expected is None:
        return None
    if path is None:
        return np.ones(expected.n_values, bool)
    return read_mask(path, expected, field)


def fit_image(images: FoundImages, max_bytes: int) -> Header | None:
    """Return what all images should be like, if memory holds one of them."""
    expected = images.expected
    if expected is not None:
        value_bytes = max(header.bytes_to_read for header in list_distinct(images.headers))
        value_bytes *= 1 + has_compressed(images)
        check_image(max_bytes, expected.n_values, value_bytes, expected.describe_size())
    return expected


def has_compressed(images: FoundImages) -> bool:
    """Return whether any image is compressed as a whole, by its name."""
    return any(is_named_compressed(entry.image) for entry in images.entries)
