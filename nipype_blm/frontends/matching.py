"""Bring rows of a table and images together: by a pattern, a column or names, never by order."""

import fnmatch
import glob
import os
import re
import string
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nipype_blm.data.kinds import is_image_path, strip_ending
from nipype_blm.errors import InputError, Problem, Problems, count, join_some, show
from nipype_blm.frontends.columns import MISSING, explain_absence, name_table, natural_key
from nipype_blm.frontends.listed import IMAGE_COLUMNS
from nipype_blm.frontends.observations import Observations, name_rows, pick_rows
from nipype_blm.io.bids import ENTITIES, LONG_NAMES, name_entity, strip_label
from nipype_blm.io.files import explain_absence as explain_file
from nipype_blm.io.paths import resolve_path
from nipype_blm.model.request import ListedPath
from nipype_blm.model.study import Excluded

if TYPE_CHECKING:
    import pandas as pd

_SPEC = re.compile(r"(0?\d{1,2})?d|\d{0,2}s?")  # such as 02d
_MAGIC = re.compile(r"[*?[]")
_PREFIX = re.compile(r"(?<![a-zA-Z0-9])([a-z]+-)$")
_PART_OF_FILE = re.compile(r"(\[[^]]*\]|,\d+)$")


def match_images(
    frame: "pd.DataFrame",
    pattern_or_column: str | None,
    base: Path,
    on_missing_image: str = "refuse",
) -> Observations:
    """Return the image of each row of a table.

    Parameters
    ----------
    frame : DataFrame of str
        As `read_frame` gives it.
    pattern_or_column : str, optional
        A column of paths; or a path in which columns stand in braces, as in
        ``sub-{participant_id}/run-{run:02d}_*.nii.gz``, where ``*`` and ``?`` stand for what
        leads to exactly one file.  Default: the column called image or InputFile.
    base : Path
        The folder from which relative paths start: that of the table.
    on_missing_image : str
        One of `ON_MISSING`: what becomes of rows whose image does not exist.

    Raises
    ------
    InputError
        If a row has several images, rows share one, or rows have none and may not be dropped.
    """
    text = _find_image_column(frame) if pattern_or_column is None else pattern_or_column
    given = _make_finder(frame, text)
    found = [given.find(row, base) for row in range(len(frame))]
    rows = name_rows(frame)
    absent = [i for i, each in enumerate(found) if not each.paths]
    problems = [*_find_several(text, rows, found), *_find_shared(rows, found)]
    if len(absent) == len(found):
        problems.append(_explain_nothing(text, found))
    elif absent and on_missing_image == "refuse":
        advice = "Correct {pattern}, or set {on_missing_image=drop} to leave these rows out."
        problems.append(_explain_absent(frame, found, advice))
    if problems:
        raise InputError(problems)
    kept = [i for i, each in enumerate(found) if each.paths]
    images = [ListedPath(Path(found[i].paths[0]), rows[i]) for i in kept]
    excluded = [Excluded(rows[i], found[i].tried, found[i].reason) for i in absent]
    notices = [
        *frame.attrs.get("notices", ()),
        *given.notices,
        *_note_others(given, base, images, frame),
    ]
    return Observations(pick_rows(frame, kept), images, None, excluded, notices)


def match_masks(observations: Observations, pattern_or_column: str, base: Path) -> Observations:
    """Return observations with the mask of each one's data, which several may share.

    Parameters
    ----------
    observations : Observations
        Whose columns are still of str.
    pattern_or_column : str
        As `match_images` takes it.
    base : Path
        The folder from which relative paths start.

    Raises
    ------
    InputError
        If a row has no mask, or several.
    """
    frame = observations.frame
    try:
        given = _make_finder(frame, pattern_or_column)
        found = [given.find(row, base) for row in range(len(frame))]
        problems = _find_several(pattern_or_column, name_rows(frame), found)
        if not any(each.paths for each in found):
            problems.append(_explain_nothing(pattern_or_column, found))
        elif not all(each.paths for each in found):
            problems.append(
                _explain_absent(frame, found, "Every row needs one: correct {pattern}.")
            )
        if problems:
            raise InputError(problems)
    except InputError as error:
        raise InputError(map(_tell_of_masks, error.problems)) from error
    pairs = zip(found, observations.images, strict=True)
    masks = [ListedPath(Path(each.paths[0]), image.where) for each, image in pairs]
    return replace(observations, data_masks=masks, notices=[*observations.notices, *given.notices])


def _tell_of_masks(problem: Problem) -> Problem:
    template = problem.template.replace("{pattern}", "{data_masks}").replace(" image", " mask")
    return Problem("data_masks", template, **problem.values)


class _Found(NamedTuple):
    """What is found of the image of a row."""

    paths: list[str]
    tried: str = ""
    reason: str = ""  # why there is none


def _find_image_column(frame: "pd.DataFrame") -> str:
    """Return the column that has the paths of images, by its name."""
    found = [name for name in frame.columns if name.casefold() in IMAGE_COLUMNS]
    if len(found) == 1:
        return str(found[0])
    template = (
        "{source} has no column called image or InputFile: set {pattern} to the column that has "
        "the paths of the images, or to a pattern with columns in braces, such as "
        "maps/{{participant_id}}_cope1.nii.gz."
        if not found
        else "{source} has several columns of images, {found}: set {pattern} to one of them."
    )
    raise InputError(
        Problem(
            "pattern",
            template,
            source=name_table(frame),
            found=join_some(found, separator=" and "),
        )
    )


class _PathColumn:
    """A column that has a path in each row."""

    notices: Sequence[str] = ()
    everyone: str | None = None  # a pattern has one that finds the images of all rows

    def __init__(self, frame: "pd.DataFrame", column: str) -> None:
        self._cells = [str(cell) for cell in frame[column]]
        self._column = column

    def find(self, row: int, base: Path) -> _Found:
        text = self._cells[row]
        if text.casefold() in MISSING:
            return _Found([], "", f"column {self._column} is empty")
        try:
            path = resolve_path(text, base)
        except ValueError as error:
            return _Found([], text, str(error))
        if not path.exists() and _PART_OF_FILE.search(text):
            return _Found([], text, f"{show(text)} names a part of a file; give files of one map")
        return _look_for(str(path))


def _make_finder(frame: "pd.DataFrame", text: str) -> "_PathColumn | _Pattern":
    return _PathColumn(frame, text) if text in frame.columns else _Pattern(frame, text)


class _Piece(NamedTuple):
    """Text of a pattern, and the column whose value follows it."""

    literal: str
    column: str | None
    spec: str
    entity: str | None  # set where the label is wanted without its short name


class _Pattern:
    """A path with columns in braces."""

    def __init__(self, frame: "pd.DataFrame", text: str) -> None:
        self._frame = frame
        self._text = text
        self._pieces = _parse_pattern(text, frame)
        self._has_magic = any(_MAGIC.search(piece.literal) for piece in self._pieces)
        self._columns = {
            piece.column: [str(cell) for cell in frame[piece.column]]
            for piece in self._pieces
            if piece.column is not None
        }
        self._folders = _Folders()
        self._mended: dict[str, str] = {}

    @property
    def notices(self) -> list[str]:
        """What was done to the values to make paths of them."""
        return [
            f"The pattern {show(self._text)} writes {prefix} before values that begin with it, "
            f"such as {show(value)}; it is written once."
            for prefix, value in self._mended.items()
        ]

    @cached_property
    def everyone(self) -> str:
        """The pattern with a star in the place of each column."""
        return "".join(
            f"{piece.literal}{'*' * (piece.column is not None)}" for piece in self._pieces
        )

    def find(self, row: int, base: Path) -> _Found:
        missing = [c for c, cells in self._columns.items() if cells[row].casefold() in MISSING]
        if missing:
            return _Found([], "", f"column {join_some(missing, separator=' and ')} is missing")
        try:
            text = "".join(self._fill(row))
            path = resolve_path(text, base)
        except ValueError as error:
            return _Found([], "", str(error))
        if not self._has_magic:
            return _look_for(str(path))
        paths = [found for found in self._folders.find(str(path)) if is_image_path(Path(found))]
        return _Found(
            _leave_out_headers(paths), str(path), "" if paths else f"{path}: no such file"
        )

    def find_everyone(self, base: Path) -> list[str]:
        """Return all images that have the pattern, whatever the columns say."""
        path = resolve_path(self.everyone, base)
        return [found for found in self._folders.find(str(path)) if is_image_path(Path(found))]

    def _fill(self, row: int) -> Iterable[str]:
        for literal, column, spec, entity in self._pieces:
            yield literal
            if column is None:
                continue
            value = self._columns[column][row]
            if entity is not None:
                value = strip_label(value, entity)
            before = _PREFIX.search(literal)
            if before and value.startswith(before[1]):
                self._mended.setdefault(before[1], value)
                value = value.removeprefix(before[1])
            value = _format(value, spec, column)
            yield glob.escape(value) if self._has_magic else value


def _format(value: str, spec: str, column: str) -> str:
    """Return a value as a pattern wants it, such as 7 with zeros before it."""
    if not spec.endswith("d"):
        return format(value, spec)
    letters, _, digits = value.rpartition("-")  # 7 of sub-7
    if letters.rstrip("abcdefghijklmnopqrstuvwxyz") or not digits.isdecimal():
        raise ValueError(f"{show(value)} in column {column} is no whole number, as {spec} wants it")
    return format(int(digits), spec)


def _parse_pattern(text: str, frame: "pd.DataFrame") -> list[_Piece]:
    """Return the pieces of a pattern, each with a column that exists."""
    problems = Problems()
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise InputError(
            Problem(
                "pattern", "{pattern} {text} is no pattern: {error}.", text=show(text), error=error
            )
        ) from error
    if all(name is None for _, name, *_ in parsed):
        raise InputError(
            Problem(
                "pattern",
                "{pattern} is {text}, which is no column of {source} and has none in braces: "
                "give a column, or a pattern such as maps/{{participant_id}}_cope1.nii.gz.  The "
                "columns are: {columns}.",
                text=show(text),
                source=name_table(frame),
                columns=join_some(frame.columns),
            )
        )
    pieces = []
    for literal, name, spec, conversion in parsed:
        column, entity = _find_column(name, frame) if name is not None else (None, None)
        pieces.append(_Piece(literal, column, spec or "", entity))
        if name is not None and column is None:
            problems.append(explain_absence(name, frame))
        elif conversion or (spec and not _SPEC.fullmatch(spec)):
            problems.add(
                "pattern",
                "{pattern} {text}: after a colon goes how many digits a number has, such as 02d.",
                text=show(text),
            )
    if problems:
        raise InputError(problems)
    return pieces


def _find_column(name: str, frame: "pd.DataFrame") -> tuple[str | None, str | None]:
    """Return the column of a name in braces; it may be called as an entity, such as subject."""
    if name in frame.columns:
        return name, None
    entity = LONG_NAMES.get(name, name)
    found = [column for column in frame.columns if name_entity(column) == entity]
    return (found[0], entity) if entity in ENTITIES and len(found) == 1 else (None, None)


class _Folders:
    """Finds files by patterns; each folder is listed once."""

    def __init__(self) -> None:
        self._listed: dict[str, list[str]] = {}

    def find(self, pattern: str) -> list[str]:
        """Return the files that an absolute path with ``*``, ``?`` and ``[]`` leads to."""
        found = [os.sep]
        for part in Path(pattern).parts[1:]:
            if _MAGIC.search(part):
                found = [
                    os.path.join(folder, name)  # noqa: PTH118
                    for folder in found
                    for name in self._match(folder, part)
                ]
            else:
                found = [os.path.join(folder, part) for folder in found]  # noqa: PTH118
        return [path for path in found if os.path.lexists(path)]

    def _match(self, folder: str, part: str) -> list[str]:
        names = self._list(folder)
        start = _MAGIC.split(part, maxsplit=1)[0]
        first = bisect_left(names, start)
        last = bisect_left(names, f"{start}\U0010ffff", first)
        some = names[first:last]
        if "[" not in part:  # looking for the longest text first is much quicker
            longest = max(_MAGIC.split(part), key=len)
            some = [name for name in some if longest in name]
        is_match = _compile_part(part)
        return [
            name
            for name in some
            if is_match(name) and (start.startswith(".") or not name.startswith("."))
        ]

    def _list(self, folder: str) -> list[str]:
        if folder not in self._listed:
            self._listed[folder] = list_folder(folder)
        return self._listed[folder]


def list_folder(folder: str) -> list[str]:
    """Return the names in a folder in their order; none if it cannot be read."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return []


def _compile_part(part: str) -> Callable[[str], object]:
    """Return a function that says whether a name has the pattern."""
    if "?" in part or "[" in part:
        return re.compile(fnmatch.translate(part)).match
    start, *inner, end = part.split("*")

    def has_parts(name: str) -> bool:  # which is much quicker than to compile each pattern
        if not (name.startswith(start) and name.endswith(end)):
            return False
        at, last = len(start), len(name) - len(end)
        for text in inner:
            at = name.find(text, at, last)
            if at < 0:
                return False
            at += len(text)
        return at <= last

    return has_parts


def _leave_out_headers(paths: list[str]) -> list[str]:
    """Return paths without the headers of images of two files."""
    stems = {strip_ending(path) for path in paths if ".img" in path.lower()}
    return [p for p in paths if ".hdr" not in p.lower() or strip_ending(p) not in stems]


def _look_for(path: str) -> _Found:
    """Return an image, or why it is not there."""
    if not is_image_path(Path(path)):
        return _Found([], path, f"{path}: its name does not end as that of an image, in .nii, say")
    if os.path.isfile(path):  # noqa: PTH113  many times faster than objects
        return _Found([path])
    return _Found([], path, explain_no_image(Path(path)))


def explain_no_image(path: Path) -> str:
    """Return why there is no image at a path."""
    if path.is_dir():
        return f"{path}: a folder"
    found = explain_file(path)
    return f"{path} {found}" if found else f"{path}: no such file"


def _find_several(text: str, rows: Sequence[str], found: Sequence[_Found]) -> list[Problem]:
    """Return which rows have more than one image."""
    several = [
        f"{row} ({join_some(map(os.path.basename, each.paths))})"
        for row, each in zip(rows, found, strict=True)
        if len(each.paths) > 1
    ]
    if not several:
        return []
    return [
        Problem(
            "pattern",
            "{pattern} {text} finds several files for {n}: {rows}.  Make it longer, so that it "
            "finds one.",
            text=show(text),
            n=count(len(several), "row"),
            rows=join_some(several, separator="; "),
        )
    ]


def _explain_absent(frame: "pd.DataFrame", found: Sequence[_Found], advice: str) -> Problem:
    """Return which rows have no image, and why."""
    pairs = zip(name_rows(frame), found, strict=True)
    some = [f"{row} ({each.reason})" for row, each in pairs if not each.paths]
    return Problem(
        "pattern",
        "{n} of {n_all} of {source} {verb} no image: {some}.  " + advice,
        n=len(some),
        n_all=count(len(found), "row"),
        source=name_table(frame),
        verb="has" if len(some) == 1 else "have",
        some=join_some(some, separator="; "),
    )


def _find_shared(rows: Sequence[str], found: Sequence[_Found]) -> list[Problem]:
    """Return which rows have the same image."""
    by_path: dict[str, list[str]] = defaultdict(list)
    for row, each in zip(rows, found, strict=True):
        for path in each.paths:
            by_path[path].append(row)
    shared = [f"{join_some(x, separator=' and ')} ({p})" for p, x in by_path.items() if len(x) > 1]
    if not shared:
        return []
    return [
        Problem(
            "pattern",
            "Several rows have the same image: {shared}.  Leave out rows that are there twice, or "
            "add to {pattern} the column that tells them apart, such as the session.",
            shared=join_some(shared, separator="; "),
        )
    ]


def _explain_nothing(text: str, found: Sequence[_Found]) -> Problem:
    """Return that no row has an image: what was tried first, and what is there instead."""
    tried = next((each for each in found if each.tried), found[0])
    if not tried.tried:
        return Problem(
            "pattern",
            "{pattern} {text} finds an image for none of {n} rows: {reason}.",
            text=show(text),
            n=len(found),
            reason=tried.reason,
        )
    path = Path(tried.tried)
    folder = next(each for each in path.parents if each.is_dir())
    content = sorted(list_folder(str(folder)), key=natural_key)
    return Problem(
        "pattern",
        "{pattern} {text} finds 0 of {n} images.  The first that was tried: {reason}.  What is in "
        "{folder}: {content}.",
        text=show(text),
        n=len(found),
        reason=tried.reason,
        folder=folder,
        content=join_some(content) or "nothing",
    )


def _note_others(
    given: "_Pattern | _PathColumn",
    base: Path,
    images: Sequence[ListedPath],
    frame: "pd.DataFrame",
) -> list[str]:
    """Return which images have the pattern of the others, and no row."""
    if not isinstance(given, _Pattern):
        return []
    known = {str(image.path) for image in images}
    others = [path for path in given.find_everyone(base) if path not in known]
    if not others:
        return []
    source = name_table(frame)
    some = join_some(sorted(others, key=natural_key), 5)
    verb = "has" if len(others) == 1 else "have"
    return [f"{count(len(others), 'image')} of this pattern {verb} no row in {source}: {some}."]
