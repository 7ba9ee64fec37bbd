"""Whether two runs are of the same data, so that their likelihoods can be compared."""

from collections import Counter
from collections.abc import Callable, Sequence
from os.path import commonpath
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.errors import Problem
from nipype_blm.results.results import Results

# Archives and some disks keep times of modification to two seconds only.
_SAME_TIME_NS = 2 * 10**9


class _File(NamedTuple):
    """One volume of a file as it was when it was read."""

    path: str
    volume: int
    size: int
    mtime_ns: int

    def has_changed(self, other: "_File") -> bool:
        """Return whether the same file was another one when it was read the other time."""
        return self.size != other.size or abs(self.mtime_ns - other.mtime_ns) > _SAME_TIME_NS


class Matched(NamedTuple):
    """The images of one run among those of another."""

    order: NDArray[np.intp] | None  # the row of the other run for each row of the one
    problems: list[str]  # why they are not the same


def list_differences(one: Results, other: Results) -> list[str]:
    """Return what two runs do not have in common although the comparison needs it."""
    matched = match_images(one, other)
    problems = [*matched.problems, *_compare_designs(one, other, matched.order)]
    for field in ("threshold", "zero_is_missing"):
        values = [run.options[field] for run in (one, other)]
        if values[0] != values[1]:
            template = (
                f"{{{field}}} is {values[0]} in {{one}}, but {values[1]} in {{other}}; "
                "both models need the same data."
            )
            problems.append(Problem(field, template, one=one.folder, other=other.folder))
    if None not in (one.criterion, other.criterion) and one.criterion != other.criterion:
        problems.append(
            f"{one.folder} was fitted by {one.criterion}, but {other.folder} by "
            f"{other.criterion}; fit both with the same reml."
        )
    difference = one.whole_space.describe_difference(other.whole_space)
    if difference is not None:
        problems.append(
            f"The maps of {other.folder} are not on the grid of those of {one.folder}: "
            f"{difference}."
        )
    return problems


def match_images(one: Results, other: Results) -> Matched:
    """Find the images of one run among those of another, in whichever order they were read.

    Images are the same if their paths are, or what they lead to; or their paths below the folder
    that holds them all, when a study has been moved or copied as a whole.  In every case they
    must have had the same size and time of modification: an image that was made anew between the
    runs, under the same name or in a folder beside it, is another image.
    """
    runs = (one, other)
    images = [[_File(*each[:4]) for each in run.images] for run in runs]
    keys = _find_common_names(*images)
    if keys is None:
        return Matched(None, [_refuse(runs, "images", _explain("images", *images))])
    # Rows of an image that is listed twice are told apart by X.
    first, second = (
        sorted(range(len(key)), key=list(zip(key, run.X.tolist(), strict=True)).__getitem__)
        for key, run in zip(keys, runs, strict=True)
    )
    order = np.empty(len(first), np.intp)
    order[first] = second
    images[1] = [images[1][i] for i in order]
    problems = _list_changed(runs, "images", "images", *images)
    return Matched(order, problems + _compare_masks(one, other, order))


def _compare_masks(one: Results, other: Results, order: NDArray[np.intp]) -> list[str]:
    """Compare the masks of the data of images, which are in the order of `order`."""
    rows = [one.images, [other.images[i] for i in order]]
    masks = [
        [
            _File(each.mask, each.mask_volume, each.mask_size, each.mask_mtime_ns)
            for each in images
            if each.mask is not None
        ]
        for images in rows
    ]
    keys = _find_common_names(*masks)
    if keys is None:
        return [_refuse((one, other), "data_masks", _explain("masks", *masks))]
    if keys[0] != keys[1]:
        reason = "the same masks for other images"
        return [_refuse((one, other), "data_masks", reason)]
    return _list_changed((one, other), "data_masks", "masks", *masks)


def _find_common_names(one: list[_File], other: list[_File]) -> tuple[list[str], list[str]] | None:
    """Return names of files that are the same in both lists, but for their order."""
    for name in (_name_as_given, _name_resolved, _name_below):
        found = name(one), name(other)
        if Counter(found[0]) == Counter(found[1]):
            return found
    return None


def _name(files: list[_File], name: Callable[[str], str]) -> list[str]:
    names = {path: name(path) for path in {file.path for file in files}}
    return [f"{names[file.path]}\0{file.volume}" for file in files]


def _name_as_given(files: list[_File]) -> list[str]:
    return _name(files, str)


def _name_resolved(files: list[_File]) -> list[str]:
    return _name(files, lambda path: str(Path(path).resolve()))


def _name_below(files: list[_File]) -> list[str]:
    """Return paths below the folder that holds all files."""
    folders = [str(Path(file.path).parent) for file in files]
    start = len(commonpath(folders).rstrip("/")) + 1 if folders else 0
    return _name(files, lambda path: path[start:])


def _list_changed(
    runs: Sequence[Results], field: str, what: str, one: list[_File], other: list[_File]
) -> list[str]:
    """Return which files were not the same ones at both times."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a.has_changed(b)]
    if not pairs:
        return []
    a, b = pairs[0]
    reason = (
        f"{what} of which {len(pairs)} had another size or time of modification when the other "
        f"model was fitted, such as {a.path} and {b.path}"
    )
    return [_refuse(runs, field, reason)]


def _explain(what: str, one: list[_File], other: list[_File]) -> str:
    """Return why two lists do not name the same files."""
    if len(one) != len(other):
        return f"{len(one)} and {len(other)} {what}"
    names = [Counter(_name_as_given(files)) for files in (one, other)]
    only = [min(a - b) for a, b in (names, names[::-1])]
    first, second = (name.replace("\0", ", volume ").removesuffix(", volume 0") for name in only)
    return f"different {what}, such as {first} and {second}"


def _refuse(runs: Sequence[Results], field: str, reason: str) -> Problem:
    one, other = runs
    template = (
        f"{{{field}}} of {{one}} and {{other}} name {{reason}}; both models need the same data."
    )
    return Problem(field, template, one=one.folder, other=other.folder, reason=reason)


def _compare_designs(one: Results, other: Results, order: NDArray[np.intp] | None) -> list[str]:
    """Compare X, rows of the same image side by side; in their own order if there is none."""
    if one.X.shape != other.X.shape:
        sizes = [f"{len(run.X)} rows and {run.X.shape[1]} columns" for run in (one, other)]
        reason = " and ".join(sizes)
    else:
        X = other.X if order is None else other.X[order]
        # The same numbers may have been printed with other digits.
        differs = np.argwhere(~np.isclose(one.X, X, rtol=1e-12, atol=0))
        if not differs.size:
            return []
        i, j = differs[0]
        reason = (
            f"{one.X[i, j]:.15g} and {X[i, j]:.15g} in row {i + 1}, column {j + 1} of the numbers"
        )
    return [
        f"X of {one.folder} and of {other.folder} differ: {reason}; a comparison of random "
        "effects needs the same X in both."
    ]
