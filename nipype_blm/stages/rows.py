"""Read X and Z, and bring their rows and the images together, by the names that both have."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.errors import Problems
from nipype_blm.io.tables import Table, read_labels, read_table, scan_table
from nipype_blm.model.config import BlmmConfig, FactorConfig, ModelConfig
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
from nipype_blm.model.random import FactorTable

_MOST_SHOWN = 3
_PLURAL = {"image": "images", "row of X": "rows of X"}
_SUBJECT = re.compile(r"\bsub-[^\W_]+", re.IGNORECASE)


class FactorRows(NamedTuple):
    """What was read for one random factor."""

    config: FactorConfig
    labels: list[str]
    design: Table

    @property
    def table(self) -> FactorTable:
        """The factor without the names of its rows."""
        return FactorTable(self.config, self.labels, self.design.values, _name_effects(self.design))


class ModelRows(NamedTuple):
    """X and Z; None for what cannot be read."""

    X: Table | None
    factors: list[FactorRows | None]
    order: NDArray[np.intp] | None = None  # the row of X of each image; None: as they come

    @property
    def random(self) -> list[FactorTable | None]:
        """The random factors without the names of their rows."""
        return [None if factor is None else factor.table for factor in self.factors]


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
        return match_names(self.names, self._images.full, may_be_counts=self._may_be_counts)

    @cached_property
    def agrees(self) -> bool:
        """Whether every image has the name of its row, as it is written."""
        names, images = self.names or [], self._images.full
        return 0 < len(names) == len(images) and agree_as_written(names, images)

    def describe_contradictions(self) -> list[str]:
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
            advice = "Set match_rows: by_name to sort rows" if kind == "image" else advice
        return [
            f"{self.what} contradicts the names of {len(rows)} of {len(names)} {_PLURAL[kind]}: "
            f"{'; '.join(some)}{'; ...' * (len(rows) > len(some))}.  They {how}.  {advice}, or set "
            "match_rows: by_order if the order is right as it is."
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


def _count(n: int, what: str) -> str:
    return f"{n or 'no'} {what}{'s' * (n > 1)}"


def read_rows(config: ModelConfig, problems: Problems) -> ModelRows:
    """Read X and Z in the order of their files; X also where single cells are wrong."""
    X = None
    with problems.collect():
        if config.X is not None:  # as it is where a faulty configuration is salvaged
            X, faults = scan_table(config.X, "X", config.row_names)
            problems += faults
    factors = config.Z if isinstance(config, BlmmConfig) else ()
    return ModelRows(
        X,
        [_read_factor(factor, f"Z f{i}", config, problems) for i, factor in enumerate(factors, 1)],
    )


def _read_factor(
    factor: FactorConfig, what: str, config: ModelConfig, problems: Problems
) -> FactorRows | None:
    labels = problems.attempt(read_labels, factor.factor, f"{what} factor")
    design = problems.attempt(read_table, factor.design, f"{what} design", config.row_names, False)
    return None if labels is None or design is None else FactorRows(factor, labels, design)


def _name_effects(design: Table) -> list[str]:
    """Return names of random effects, also where the table has no header."""
    if design.has_header:
        return design.names
    is_constant = (design.values == design.values[0]).all(axis=0)
    return ["intercept" if constant else f"effect {i}" for i, constant in enumerate(is_constant, 1)]


def name_images(paths: Sequence[Path]) -> ImageNames:
    """Return the names of images; none for the volumes of one image."""
    full = [str(path) for path in paths]
    if len(set(full)) <= 1:
        return ImageNames([], [])
    start = len(os.path.commonpath(full).rstrip(os.sep)) + 1
    return ImageNames(full, [path[start:] for path in full])


def check_rows(
    config: ModelConfig, rows: ModelRows, images: ImageNames, problems: Problems
) -> None:
    """Note columns that look like names of rows, and names that contradict those of images."""
    if rows.X is not None and config.row_names is None:
        problems += _question_columns(f"X {config.X}", rows.X, images, is_X=True)
    for number, factor in enumerate(rows.factors, 1):
        if factor is not None and config.row_names is None:
            what = f"Z f{number} design {factor.config.design}"
            problems += _question_columns(what, factor.design, images, is_X=False)
    if config.match_rows == "check":
        for named in _list_checked(config, rows, images):
            problems += named.describe_contradictions()


def _list_checked(config: ModelConfig, rows: ModelRows, images: ImageNames) -> Iterator[_NamedRows]:
    """Yield all rows beside the images; and Z beside X, where the names of images say nothing."""
    of_images = list(_list_named(config, rows, images))
    yield from of_images
    names = rows.X.row_names if rows.X is not None else None
    if names and len(of_images) > 1 and not (of_images[0].agrees or of_images[0].match.is_telling):
        of_X = _list_named(config, rows, ImageNames(names, names, "row of X"))
        yield from islice(of_X, 1, None)


def sort_rows(
    config: ModelConfig, rows: ModelRows, images: ImageNames, problems: Problems
) -> ModelRows:
    """Return X and Z with their rows in the order of the images, if these are matched by name.

    Tables and labels whose names are found in those of images are sorted by them.  The order
    of others is known only if that of X is the order of the images, or if they do not vary.
    """
    if config.match_rows != "by_name" or rows.X is None:
        return rows
    if not images.full or rows.X.row_names is None:
        problems.append(
            f"match_rows is by_name, but X {config.X} has no names of rows; give it a first "
            "column of text, or name one with row_names."
            if images.full
            else "match_rows is by_name, but the volumes of one image have no names; leave it out."
        )
        return rows
    n_before = len(problems)
    first, *others = _list_named(config, rows, images)
    order = first.find_order(problems)
    orders = [None if order is None else _find_order_of(each, order, problems) for each in others]
    if order is None or len(problems) > n_before:
        return rows
    factors = iter(zip(orders[::2], orders[1::2], strict=True))
    return ModelRows(
        rows.X.sort(order),
        [None if each is None else _sort_factor(each, *next(factors)) for each in rows.factors],
        order,
    )


def _find_order_of(
    named: _NamedRows, order_of_X: NDArray[np.intp], problems: Problems
) -> NDArray[np.intp] | None:
    if named.match.is_telling:
        return named.find_order(problems)
    if not named.stays(order_of_X):
        problems.append(
            f"{named.what} has no names that are found in those of the images, while X is sorted "
            "by its own: its order is not known.  List the images in the order of X, and leave "
            "match_rows out; or, in a design, name the rows."
        )
    return None


def _sort_factor(
    factor: FactorRows, of_labels: NDArray[np.intp] | None, of_design: NDArray[np.intp] | None
) -> FactorRows:
    labels, design = factor.labels, factor.design
    if of_labels is not None:
        labels = [labels[i] for i in of_labels]
    return FactorRows(
        factor.config, labels, design if of_design is None else design.sort(of_design)
    )


def _list_named(config: ModelConfig, rows: ModelRows, images: ImageNames) -> Iterator[_NamedRows]:
    """Yield X, and the labels and the design of each random factor."""

    def make(what: str, table: Table) -> _NamedRows:
        may_be_counts = not table.row_header  # as R and pandas number rows
        return _NamedRows(what, table.row_names, table.values, images, may_be_counts)

    if rows.X is not None:
        yield make(f"X {config.X}", rows.X)
    for number, factor in enumerate(rows.factors, 1):
        if factor is not None:
            what = f"Z f{number} factor {factor.config.factor}"
            labels = factor.labels
            names = labels if may_name_images(labels) else None
            yield _NamedRows(what, names, np.array(labels), images)
            yield make(f"Z f{number} design {factor.config.design}", factor.design)


def _question_columns(what: str, table: Table, images: ImageNames, is_X: bool) -> Iterator[str]:
    """Yield what has to be asked: whether columns are names of rows, or regressors."""
    names, header = table.row_names, table.row_header
    if names is not None and _may_be_values(table, images):
        yield (
            f"{what}: found {names[0]!r} in line {table.first_line}, column 1"
            f"{f' ({header})' * bool(header)}.  A first column of text names the rows and is no "
            "regressor, but this one repeats and is found in no names of images.  If it is a "
            f"regressor, write it as numbers; if it names rows, set row_names: {header or 1}"
            f"{'' if is_X else ' (X needs such a column, too), or leave it out'}."
        )
    for i, reason in find_id_columns(table.values, table.names, images.full):
        column = table.names[i] if table.has_header else str(i + 1 + (names is not None))
        drop = f"set row_names: {column}" if is_X and names is None else "leave it out"
        keep = "none" if names is None else header or "1"
        yield (
            f"{what}: column {column} would be a regressor, but looks like names of rows "
            f"({reason}).  If it names rows, {drop}; if it is a regressor, set row_names: {keep}."
        )


def _may_be_values(table: Table, images: ImageNames) -> bool:
    """Return whether the names of rows may as well be a regressor in words, such as a sex."""
    names = table.row_names or []
    is_named = is_id_header(table.row_header) or (table.has_header and not table.row_header)
    if is_named or len(set(names)) == len(names):
        return False
    return not (images.full and match_names(names, images.full).is_telling)


def check_masks(
    config: ModelConfig, images: Sequence[Path], masks: Sequence[Path], problems: Problems
) -> None:
    """Note masks of data that are named after other images than their own."""
    if config.match_rows == "by_order" or len(images) != len(masks):
        return
    named, full = name_images(images), name_images(masks).full
    for match in _match_masks(full, named.full) if named.full and full else ():
        rows = match.find_contradictions()
        if rows:
            some = [f"{named.short[i]} has {masks[i].name}" for i in rows[:_MOST_SHOWN]]
            problems.append(
                f"data_mask_files contradicts Y_files at {len(rows)} of {len(masks)} images, by "
                f"the names of the files: {'; '.join(some)}{'; ...' * (len(rows) > len(some))}.  "
                "List the masks in the order of the images, or set match_rows: by_order if the "
                "order is right as it is."
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
