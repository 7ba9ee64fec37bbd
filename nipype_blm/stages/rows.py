"""Bring the rows of X and Z and the images together, by the names that both have."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.data.kinds import strip_ending
from nipype_blm.errors import Problem, Problems
from nipype_blm.model.names import (
    Key,
    NameMatch,
    agree_as_written,
    find_id_columns,
    is_id_header,
    match_names,
    may_name_images,
    varying_parts,
)
from nipype_blm.model.random import name_design, name_labels
from nipype_blm.model.request import Factor, Request, Table

_MOST_SHOWN = 3
_PLURAL = {"image": "images", "row of X": "rows of X"}
_SUBJECT = re.compile(r"\bsub-[^\W_]+", re.IGNORECASE)


class ModelRows(NamedTuple):
    """X and the random factors, None for what could not be read, in the order of the images."""

    X: Table | None
    factors: Sequence[Factor | None]
    order: NDArray[np.intp] | None = None  # the row of X of each image; None: as they come


class ImageNames(NamedTuple):
    """The paths of images, in full, and from the folder that holds all of them."""

    full: list[str]
    short: list[str]
    kind: str = "image"  # what has these names; or: "row of X"


class _NamedRows:
    """The rows of a table, or of a file of labels, and their names among those of images."""

    def __init__(
        self,
        what: str,
        names: list[str] | None,
        content: NDArray[Any],
        images: ImageNames,
        may_be_counts: bool = False,
    ) -> None:
        self.what = what  # such as "X /study/design.csv"
        self.names = names
        self.content = content
        self._images = images
        self._may_be_counts = may_be_counts

    @cached_property
    def match(self) -> NameMatch:
        """Where the names are found; empty without any."""
        if self.names is None or not self._images.full:
            return NameMatch([], [])
        return _match(self.names, self._images.full, self._may_be_counts)

    @cached_property
    def agrees(self) -> bool:
        """Whether every image has the name of its row, as it is written."""
        names, images = self.names or [], self._images.full
        return 0 < len(names) == len(images) and agree_as_written(names, images)

    def describe_contradictions(self) -> list[Problem]:
        """Return which rows are not those of their images, by their names."""
        names, (full, short, kind) = self.names or [], self._images
        rows = [] if self.agrees or len(names) != len(full) else self.match.find_contradictions()
        if not rows:
            return []
        some = [
            f"row {i + 1} is {names[i]}, but its {kind} is {short[i]}" for i in rows[:_MOST_SHOWN]
        ]
        how, advice = "do not have the same names", "Correct one of them"
        if self.match.is_permutation:
            how = "have the same names in different orders"
            advice = "Set {match_rows=by_name} to sort rows" if kind == "image" else advice
        return [
            Problem(
                "match_rows",
                "{what} contradicts the names of {n} of {n_all} {rows}: {some}.  They "
                f"{how}.  {advice}, or set {{match_rows=by_order}} if the order is right as it is.",
                what=self.what,
                n=len(rows),
                n_all=len(names),
                rows=_PLURAL[kind],
                some="; ".join(some) + "; ..." * (len(rows) > len(some)),
            )
        ]

    @cached_property
    def _contents(self) -> NDArray[np.intp]:
        """Numbers that are the same for rows of the same content."""
        return np.unique(self.content, axis=0, return_inverse=True)[1].reshape(-1)

    def find_order(self, problems: Problems) -> NDArray[np.intp] | None:
        """Return the row of each image by its name; None if there is not exactly one."""
        match = self.match
        if not match.is_permutation:
            problems.append(
                f"{self.what} cannot be matched by name: {self._describe_gaps()}.  Every image "
                "needs one row, and every row one image."
            )
            return None
        several = Counter(
            key for key, _ in dict.fromkeys(zip(match.keys, self._contents, strict=True))
        )
        [(key, n_different)] = several.most_common(1)
        if n_different > 1:
            problems.append(
                f"{self.what} cannot be matched by name: {self._labels[key]} names rows that "
                "differ.  Give each row a name of its own, such as sub-01_ses-1."
            )
            return None
        return match.sort_rows()

    def stays(self, order_of_X: NDArray[np.intp]) -> bool:
        """Return whether it makes no difference if rows follow the images or those of X."""
        is_same = not self._contents.any()
        return is_same or bool((order_of_X == np.arange(len(order_of_X))).all())

    @cached_property
    def _labels(self) -> dict[Key, str]:
        """How the rows themselves write each name."""
        return dict(zip(self.match.keys, self.names or [], strict=True))

    def _describe_gaps(self) -> str:
        match = self.match
        n_rows = Counter(match.keys)
        n_images = Counter(key for here in match.found for key in here)
        gaps = []
        for name, here in zip(self._images.short, match.found, strict=True):
            if len(here) != 1:
                labels = ", ".join(sorted(self._labels[key] for key in here))
                gaps.append(f"{name} has the names of {labels}" if here else f"{name} has no row")
        for key, n in n_rows.items():
            if n != n_images[key]:
                counts = f"{_count(n, 'row')} and {_count(n_images[key], 'image')}"
                gaps.append(f"{self._labels[key] or 'no name'} names {counts}")
        more = f"; and {len(gaps) - _MOST_SHOWN} more" if len(gaps) > _MOST_SHOWN else ""
        return "; ".join(gaps[:_MOST_SHOWN]) + more


def _match(labels: Sequence[str], images: Sequence[str], may_be_counts: bool = False) -> NameMatch:
    names = [strip_ending(label) for label in labels]
    return match_names(names, images, may_be_counts=may_be_counts)


def _count(n: int, what: str) -> str:
    return f"{n or 'no'} {what}{'s' * (n > 1)}"


def name_images(paths: Sequence[Path]) -> ImageNames:
    """Return the names of images; none for the volumes of one image."""
    full = [str(path) for path in paths]
    if len(set(full)) <= 1:
        return ImageNames([], [])
    start = len(os.path.commonpath(full).rstrip(os.sep)) + 1
    return ImageNames(full, [path[start:] for path in full])


def check_rows(request: Request, images: ImageNames, problems: Problems) -> None:
    """Note columns that look like names of rows, and names that contradict those of images."""
    if request.may_ask:
        if request.X is not None:
            problems += _question_columns(_name_X(request.X), request.X, images, is_X=True)
        for number, factor in enumerate(request.factors, 1):
            if factor is not None:
                what = name_design(factor, number)
                problems += _question_columns(what, factor.design, images, is_X=False)
    if request.match_rows == "check":
        for named in _list_checked(request, images):
            problems += named.describe_contradictions()


def _list_checked(request: Request, images: ImageNames) -> Iterator[_NamedRows]:
    """Yield all rows beside the images; and Z beside X, where the names of images say nothing."""
    of_images = list(_list_named(request, images))
    yield from of_images
    names = list(request.X.row_names or []) if request.X is not None else None
    if names and len(of_images) > 1 and not (of_images[0].agrees or of_images[0].match.is_telling):
        of_X = _list_named(request, ImageNames(names, names, "row of X"))
        yield from islice(of_X, 1, None)


def sort_rows(request: Request, images: ImageNames, problems: Problems) -> ModelRows:
    """Return X and Z with their rows in the order of the images, if these are matched by name.

    Tables and labels whose names are found in those of images are sorted by them.  The order
    of others is known only if that of X is the order of the images, or if they do not vary.
    """
    rows = ModelRows(request.X, request.factors)
    if request.match_rows != "by_name" or request.X is None:
        return rows
    if not images.full:
        problems.add(
            "match_rows",
            "{match_rows} is by_name, but the volumes of one image have no names; leave it out.",
        )
        return rows
    if request.X.row_names is None:
        problems.add(
            "match_rows",
            "{match_rows} is by_name, but {X} has no names of rows; give it a first column of "
            "text, or name one with {row_names}.",
            X=_name_X(request.X),
        )
        return rows
    n_before = len(problems)
    first, *others = _list_named(request, images)
    order = first.find_order(problems)
    orders = [None if order is None else _find_order_of(each, order, problems) for each in others]
    if order is None or len(problems) > n_before:
        return rows
    factors = iter(zip(orders[::2], orders[1::2], strict=True))
    return ModelRows(
        request.X.sort(order),
        [None if each is None else _sort_factor(each, *next(factors)) for each in request.factors],
        order,
    )


def _find_order_of(
    named: _NamedRows, order_of_X: NDArray[np.intp], problems: Problems
) -> NDArray[np.intp] | None:
    if named.match.is_telling:
        return named.find_order(problems)
    if not named.stays(order_of_X):
        problems.add(
            "match_rows",
            "{what} has no names that are found in those of the images, while {X} is sorted by "
            "its own: its order is not known.  List the images in the order of {X}, and leave "
            "{match_rows} out; or, in a design, name the rows.",
            what=named.what,
        )
    return None


def _sort_factor(
    factor: Factor, of_labels: NDArray[np.intp] | None, of_design: NDArray[np.intp] | None
) -> Factor:
    labels, design = factor.labels, factor.design
    if of_labels is not None:
        labels = [labels[i] for i in of_labels]
    return replace(
        factor, labels=labels, design=design if of_design is None else design.sort(of_design)
    )


def _list_named(request: Request, images: ImageNames) -> Iterator[_NamedRows]:
    """Yield X, and the labels and the design of each random factor."""

    def make(what: str, table: Table) -> _NamedRows:
        may_be_counts = not table.row_header  # as R and pandas number rows
        names = None if table.row_names is None else list(table.row_names)
        return _NamedRows(what, names, table.values, images, may_be_counts)

    if request.X is not None:
        yield make(_name_X(request.X), request.X)
    for number, factor in enumerate(request.factors, 1):
        if factor is not None:
            labels = list(factor.labels)
            names = labels if may_name_images(labels) else None
            yield _NamedRows(name_labels(factor, number), names, np.array(labels), images)
            yield make(name_design(factor, number), factor.design)


def _name_X(X: Table) -> str:
    return X.source or "X"


def _question_columns(what: str, table: Table, images: ImageNames, is_X: bool) -> Iterator[Problem]:
    """Yield what has to be asked: whether columns are names of rows, or regressors."""
    names, header = table.row_names, table.row_header
    if names is not None and _may_be_values(table, images):
        more = "" if is_X else " ({X} needs such a column, too), or leave it out"
        yield Problem(
            "row_names",
            "{what}: found {first} in line {line}, column 1{header}.  A first column of text names "
            "the rows and is no regressor, but this one repeats and is found in no names of "
            "images.  If it is a regressor, write it as numbers; if it names rows, set "
            f"{{row_names=column}}{more}.",
            what=what,
            first=repr(names[0]),
            line=table.first_line,
            header=f" ({header})" * bool(header),
            column=header or "1",
        )
    for i, reason in find_id_columns(table.values, list(table.names), images.full):
        drop = "set {row_names=column}" if is_X and names is None else "leave it out"
        yield Problem(
            "row_names",
            "{what}: column {column} would be a regressor, but looks like names of rows "
            f"({{reason}}).  If it names rows, {drop}; if it is a regressor, set "
            "{row_names=kept}.",
            what=what,
            column=table.names[i] if table.has_header else str(i + 1 + (names is not None)),
            reason=reason,
            kept="none" if names is None else header or "1",
        )


def _may_be_values(table: Table, images: ImageNames) -> bool:
    """Return whether the names of rows may as well be a regressor in words, such as a sex."""
    names = list(table.row_names or [])
    is_named = is_id_header(table.row_header) or (table.has_header and not table.row_header)
    if is_named or len(set(names)) == len(names):
        return False
    return not (images.full and _match(names, images.full).is_telling)


def check_masks(
    request: Request, images: Sequence[Path], masks: Sequence[Path], problems: Problems
) -> None:
    """Note masks of data that are named after other images than their own."""
    if request.match_rows == "by_order" or len(images) != len(masks):
        return
    named, full = name_images(images), name_images(masks).full
    for match in _match_masks(full, named.full) if named.full and full else ():
        rows = match.find_contradictions()
        if rows:
            some = [f"{named.short[i]} has {masks[i].name}" for i in rows[:_MOST_SHOWN]]
            problems.add(
                "data_masks",
                "{data_masks} contradicts {images} at {n} of {n_all} images, by the names of the "
                "files: {some}.  List the masks in the order of the images, or set "
                "{match_rows=by_order} if the order is right as it is.",
                n=len(rows),
                n_all=len(masks),
                some="; ".join(some) + "; ..." * (len(rows) > len(some)),
            )
            return


def _match_masks(masks: list[str], images: list[str]) -> Iterator[NameMatch]:
    """Yield matches of masks and images by subject, and by all in which the masks differ."""
    subjects = [_SUBJECT.findall(mask)[-1:] for mask in masks]
    if all(subjects):
        yield match_names([subject for [subject] in subjects], images)
    for with_word_before in (True, False):
        match = match_names(varying_parts(masks, with_word_before), images)
        if match.is_permutation:  # else one mask may serve several images
            yield match
