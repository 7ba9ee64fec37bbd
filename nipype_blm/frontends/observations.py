"""Observations: rows of a table that have their images; and those among them that are complete."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nipype_blm.errors import InputError, Problem, count, join_some, show
from nipype_blm.frontends.columns import explain_absence, name_table
from nipype_blm.model.request import ListedPath
from nipype_blm.model.study import Excluded

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Observations:
    """Rows of a table, each with its image, in one order.

    The index of the frame says what rows are called: numbers of lines, or text such as
    "sub-07 ses-2".
    """

    frame: "pd.DataFrame"
    images: Sequence[ListedPath]
    data_masks: Sequence[ListedPath | None] | None = None  # of each image
    excluded: Sequence[Excluded] = ()
    notices: Sequence[str] = ()

    def select(self, rows: Sequence[int]) -> "Observations":
        """Return some rows, by number from 0; levels that none of them has are left out."""
        masks = None if self.data_masks is None else [self.data_masks[i] for i in rows]
        images = [self.images[i] for i in rows]
        return replace(self, frame=pick_rows(self.frame, rows), images=images, data_masks=masks)


def pick_rows(frame: "pd.DataFrame", rows: Sequence[int]) -> "pd.DataFrame":
    """Return some rows of a frame, by number from 0, with the levels that they have."""
    picked = frame.iloc[list(rows)].copy()
    for name in picked.columns:
        if hasattr(picked[name], "cat"):
            picked[name] = picked[name].cat.remove_unused_categories()
    picked.attrs = dict(frame.attrs)
    return picked


def name_rows(frame: "pd.DataFrame") -> list[str]:
    """Return what messages call each row, such as "line 8 of participants.tsv"."""
    source = name_table(frame)
    return [row if isinstance(row, str) else f"line {row} of {source}" for row in frame.index]


def select_complete(
    observations: Observations, variables: Iterable[str], on_missing: str = "refuse"
) -> Observations:
    """Return the observations that have all variables.

    Parameters
    ----------
    observations : Observations
        Whose columns have numbers or levels.
    variables : iterable of str
    on_missing : str
        One of `ON_MISSING`: whether rows with a missing value are an error or left out.

    Raises
    ------
    InputError
        If values are missing and rows may not be dropped, or if no row is left.
    """
    frame = observations.frame
    source = name_table(frame)
    absent = [name for name in dict.fromkeys(variables) if name not in frame.columns]
    if absent:
        raise InputError([explain_absence(name, frame) for name in absent])
    missing = {name: frame[name].isna().to_numpy() for name in dict.fromkeys(variables)}
    empty = [name for name, here in missing.items() if here.all()]
    if empty:
        raise InputError(
            Problem(
                "on_missing",
                "{source}: {columns} {verb} no value in any of the rows that have an image.",
                source=source,
                columns=join_some(map(show, empty), separator=" and "),
                verb="has" if len(empty) == 1 else "have",
            )
        )
    rows = name_rows(frame)
    is_out = [any(here[i] for here in missing.values()) for i in range(len(frame))]
    if not any(is_out):
        return observations
    words = frame.attrs.get("words_for_missing", {})
    found = "; ".join(
        f"{name} in {here.sum()} ({join_some(_shorten_rows(rows, here, source))})"
        f"{_explain_words(name, words.get(name))}"
        for name, here in missing.items()
        if here.any()
    )
    if on_missing == "refuse" or all(is_out):
        advice = (
            "No row is left: leave out the variable that is missing most."
            if all(is_out)
            else "Write the values, or set {on_missing=drop} to leave these rows out."
        )
        raise InputError(
            Problem(
                "on_missing",
                "{source}: values are missing in {n} of {n_all}: {found}.  " + advice,
                source=source,
                n=sum(is_out),
                n_all=count(len(rows), "row"),
                found=found,
            )
        )
    if len(observations.images) != len(rows):
        raise InputError(
            Problem(
                "on_missing",
                "{source}: values are missing in {n} of {n_all}: {found}.  The rows are volumes "
                "of one file, which cannot be left out: write the values, or give images of one "
                "volume.",
                source=source,
                n=sum(is_out),
                n_all=count(len(rows), "row"),
                found=found,
            )
        )
    excluded = [
        Excluded(
            row,
            str(observations.images[i].path),
            f"missing: {join_some(name for name, here in missing.items() if here[i])}",
        )
        for i, row in enumerate(rows)
        if is_out[i]
    ]
    kept = [i for i, out in enumerate(is_out) if not out]
    return replace(observations.select(kept), excluded=[*observations.excluded, *excluded])


def _shorten_rows(rows: Sequence[str], here: Iterable[bool], source: str) -> list[str]:
    """Return what rows are called, where their table has been named before."""
    return [
        row.removesuffix(f" of {source}")
        for row, is_missing in zip(rows, here, strict=True)
        if is_missing
    ]


def _explain_words(name: str, words: Sequence[str] | None) -> str:
    if not words:
        return ""
    some = join_some(map(show, words), separator=" and ")
    verb = "is" if len(words) == 1 else "are"
    return f", where {some} {verb} taken as missing unless {name} is set to categorical"
