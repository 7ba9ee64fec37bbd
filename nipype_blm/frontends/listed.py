"""Find the row of each image of a list, by what is in the names of images."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nipype_blm.data.kinds import look_at
from nipype_blm.errors import InputError, Problem, count, join_some
from nipype_blm.frontends.columns import MISSING, name_table
from nipype_blm.frontends.observations import Observations, name_rows, pick_rows
from nipype_blm.io.bids import name_entity, split_name, strip_label
from nipype_blm.model.names import match_names
from nipype_blm.model.request import ListedPath
from nipype_blm.model.study import Excluded

if TYPE_CHECKING:
    import pandas as pd

# Without case; the second as AFNI calls it, the third as nilearn does.
IMAGE_COLUMNS = ("image", "inputfile", "effects_map_path")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")


def match_listed(frame: "pd.DataFrame", images: Sequence[ListedPath]) -> Observations:
    """Return the row of each image of a list.

    They are matched by a column of paths, if there is one; else by the entities of BIDS that
    are in the names of images and in columns, such as participant_id and session; else by the
    columns whose values are found in the names of images.  Of a 4D image alone, rows are the
    volumes.

    Parameters
    ----------
    frame : DataFrame of str
        As `read_frame` gives it.
    images : sequence of ListedPath

    Returns
    -------
    Observations
        In the order of the list; rows without an image are excluded.

    Raises
    ------
    InputError
        If an image has no row or several, or if images share one.
    """
    if len(images) == 1 and len(frame) > 1:
        volumes = _match_volumes(frame, images)
        if volumes is not None:
            return volumes
    problems = []
    for find in (_find_by_paths, _find_by_entities, _find_by_names):
        match = find(frame, images)
        if match is None:
            continue
        problem = _explain_match(match, frame, images)
        if problem is None:
            return _sort_rows(match, frame, images)
        problems.append(problem)
        if any(match.rows):  # names of another kind may agree by chance
            break
    source = name_table(frame)
    raise InputError(
        problems[0]
        if problems
        else Problem(
            "images",
            "Which row of {source} belongs to which image is not known: no column has what is in "
            "their names, such as {name}.  Add a column called image with the paths, or one such "
            "as participant_id.  The columns are: {columns}.",
            source=source,
            name=images[0].path.name,
            columns=join_some(frame.columns),
        )
    )


class _Match(NamedTuple):
    """The rows that each image may belong to, and by what they were found."""

    rows: list[list[int]]
    by: str


def _match_volumes(frame: "pd.DataFrame", images: Sequence[ListedPath]) -> Observations | None:
    n_volumes = look_at(images[0].path)[1].n_volumes
    if n_volumes == 1:
        return None
    source = name_table(frame)
    if n_volumes != len(frame):
        raise InputError(
            Problem(
                "images",
                "{path} has {n_volumes} volumes, but {source} has {n}: a row for each volume, in "
                "their order, is needed.",
                path=images[0].path,
                n_volumes=n_volumes,
                source=source,
                n=count(len(frame), "row"),
            )
        )
    notice = (
        f"The rows of {source} are taken for the volumes of {images[0].path}, in their order: "
        "nothing in a 4D image says which volume is whose."
    )
    return Observations(frame, list(images), notices=[notice])


def _find_by_paths(frame: "pd.DataFrame", images: Sequence[ListedPath]) -> _Match | None:
    """Match a column of paths: whole ones, or as much of their ends as is given."""
    columns = [name for name in frame.columns if name.casefold() in IMAGE_COLUMNS]
    if len(columns) != 1:
        return None
    ends: dict[str, list[int]] = defaultdict(list)
    for i, cell in enumerate(frame[columns[0]]):
        if str(cell).casefold() not in MISSING:
            ends[os.path.normpath(str(cell)).lstrip("./")].append(i)
    rows = []
    for image in images:
        parts = image.path.parts[1:]
        tails = ("/".join(parts[i:]) for i in range(len(parts)))
        rows.append(next((ends[tail] for tail in tails if tail in ends), []))
    return _Match(rows, f"column {columns[0]}")


def find_entities(path: Path) -> dict[str, str]:
    """Return the entities of the name of an image, and of its folders what that lacks."""
    entities, *_ = split_name(path.name)
    for part in reversed(path.parent.parts):
        if "-" in part:
            found, suffix, extension = split_name(part)
            if not suffix and not extension:
                entities = found | entities
    return entities


def _find_by_entities(frame: "pd.DataFrame", images: Sequence[ListedPath]) -> _Match | None:
    """Match columns that have labels of entities."""
    told = [find_entities(image.path) for image in images]
    columns: dict[str, str] = {}
    for name in frame.columns:
        entity = name_entity(name)
        if entity is not None and all(entity in each for each in told):
            columns.setdefault(entity, name)
    if "subject" not in columns:
        return None
    of_images = {entity: [each[entity] for each in told] for entity in columns}
    of_rows = {
        entity: [strip_label(str(cell), entity) for cell in frame[name]]
        for entity, name in columns.items()
    }
    for fold in (str, fold_label):
        keys = _join_keys(of_images, fold)
        rows: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for i, key in enumerate(_join_keys(of_rows, fold)):
            rows[key].append(i)
        match = _Match([rows.get(key, []) for key in keys], join_some(columns.values()))
        if all(match.rows) or not is_safe_to_fold(of_images, of_rows):
            return match
    return match


def _join_keys(
    labels: Mapping[str, Sequence[str]], fold: Callable[[str], str]
) -> list[tuple[str, ...]]:
    return list(zip(*(map(fold, each) for each in labels.values()), strict=True))


def fold_label(label: str) -> str:
    """Return a label without case, and without zeros before numbers."""
    return _ZEROS.sub("", label).casefold()


def is_safe_to_fold(*sides: Mapping[str, Iterable[str]]) -> bool:
    """Return whether no two labels of one side differ in case or zeros only."""
    return all(
        len(set(labels)) == len(set(map(fold_label, labels)))
        for side in sides
        for labels in side.values()
    )


def _find_by_names(frame: "pd.DataFrame", images: Sequence[ListedPath]) -> _Match | None:
    """Match columns whose values are found in the names: of entities together, or another."""
    names = [str(image.path) for image in images]
    identifying = [name for name in frame.columns if name_entity(name) is not None]
    best = None
    for columns in (identifying, *([name] for name in frame.columns)):
        if not columns:
            continue
        rows = [set(range(len(frame)))] * len(images)
        for name in columns:
            found = _find_labels([str(cell) for cell in frame[name]], names)
            rows = [here & each for here, each in zip(rows, found, strict=True)]
        match = _Match([sorted(each) for each in rows], join_some(columns))
        if all(len(each) == 1 for each in match.rows):
            return match
        if best is None and 2 * sum(map(bool, match.rows)) > len(images):
            best = match
    return best


def _find_labels(labels: list[str], names: list[str]) -> list[set[int]]:
    """Return the rows whose label is in the name of each image."""
    labels = ["" if label.casefold() in MISSING else label for label in labels]
    match = match_names(labels, names)
    rows = defaultdict(set)
    for i, key in enumerate(match.keys):
        rows[key].add(i)
    return [set().union(*(rows[key] for key in here)) for here in match.found]


def _explain_match(
    match: _Match, frame: "pd.DataFrame", images: Sequence[ListedPath]
) -> Problem | None:
    """Return what hinders that every image has a row of its own."""
    rows = name_rows(frame)
    source = name_table(frame)
    without = [
        image.path.name for image, found in zip(images, match.rows, strict=True) if not found
    ]
    if without:
        return Problem(
            "images",
            "{n} of {n_all} {verb} no row in {source}, by {by}: {without}.  Add their rows, or "
            "leave them out of {images}.",
            n=len(without),
            verb="has" if len(without) == 1 else "have",
            n_all=count(len(images), "image"),
            source=source,
            by=match.by,
            without=join_some(without),
        )
    several = [
        f"{image.path.name} ({join_some((rows[i] for i in found), 5)})"
        for image, found in zip(images, match.rows, strict=True)
        if len(found) > 1
    ]
    if several:
        return Problem(
            "images",
            "{n} of {n_all} {verb} several rows in {source}, by {by}: {several}.  Every image "
            "needs one row.",
            n=len(several),
            verb="has" if len(several) == 1 else "have",
            n_all=count(len(images), "image"),
            source=source,
            by=match.by,
            several=join_some(several, separator="; "),
        )
    names: dict[int, list[str]] = defaultdict(list)
    for image, [row] in zip(images, match.rows, strict=True):
        names[row].append(image.path.name)
    shared = [f"{rows[i]} ({join_some(x, 5)})" for i, x in names.items() if len(x) > 1]
    if shared:
        return Problem(
            "images",
            "Images share rows of {source}, by {by}: {shared}.  Every image needs a row of its "
            "own: add rows, and the column that tells them apart, such as the session.",
            source=source,
            by=match.by,
            shared=join_some(shared, separator="; "),
        )
    return None


def _sort_rows(match: _Match, frame: "pd.DataFrame", images: Sequence[ListedPath]) -> Observations:
    order = [i for [i] in match.rows]
    rows = name_rows(frame)
    used = set(order)
    excluded = [
        Excluded(row, "", "none of the images is its")
        for i, row in enumerate(rows)
        if i not in used
    ]
    notices = [*frame.attrs.get("notices", ())]
    if excluded:
        source = name_table(frame)
        some = join_some((each.row for each in excluded), 5)
        notices.append(
            f"{len(excluded)} of {count(len(rows), 'row')} of {source} have no image in the list "
            f"and are left out: {some}."
        )
    return Observations(pick_rows(frame, order), list(images), None, excluded, notices)
