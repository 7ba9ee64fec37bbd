"""Make numbers or levels of the columns of a table that a model uses."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from nipype_blm.errors import InputError, Problem, Problems, count, join_some, show
from nipype_blm.io.bids import name_entity
from nipype_blm.model.study import COLUMN_KINDS

if TYPE_CHECKING:
    import pandas as pd

# Compared without case.
MISSING = frozenset({"", "n/a", "na", "nan", "#n/a", "<na>", "null", "none", ".", "-"})
_MISSING_LABELS = frozenset({"", "n/a", "na", "nan"})  # also among labels
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_COMMA = re.compile(r"[-+]?\d+,\d+([eE][-+]?\d+)?")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?")
_PADDED = re.compile(r"0\d+")
_WITH_UNIT = re.compile(r"[<>~=±]*\s*[-+]?\d+([.,]\d+)?\s*([a-zA-Zµ%+°/]+\.?|\+)?")
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}([-/.]\d{1,2})?([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}")
_LOGICAL = {"true", "false"}
_SENTINELS = {9.0, 77.0, 88.0, 99.0, 777.0, 888.0, 999.0, 7777.0, 8888.0, 9999.0, 99999.0}
_MOST_CODES = 30  # whole numbers that may be labels


def type_columns(
    frame: "pd.DataFrame", used: Iterable[str], kinds: Mapping[str, str] | None = None
) -> "tuple[pd.DataFrame, list[str]]":
    """Return the columns that are used, as numbers or as levels.

    A column is numeric if all that is not missing are finite numbers.  Whole numbers with zeros
    before them, such as 01, are labels; and so are the names of subjects, sessions, tasks, runs
    and other entities of BIDS.  What is not used is not looked at.

    Parameters
    ----------
    frame : DataFrame
        Of str, as `read_frame` gives it; columns that have numbers or levels already stay.
    used : iterable of str
        Names of columns.
    kinds : mapping of str to str, optional
        "categorical" or "numeric" for columns that a user has told the kind of.

    Returns
    -------
    typed : DataFrame
        The columns that are used, in their order: float64 with NaN for missing, or categorical of
        str, with the levels in the order of a sidecar that lists them all, or else in natural
        order (2 before 10).  Of `attrs`, "words_for_missing" lists for each column of labels what
        has been taken as missing and may be a label.
    notices : list of str
        What is no fault but may not be meant.

    Raises
    ------
    InputError
        If a column does not exist, or is neither numbers nor labels.
    """
    import pandas as pd

    kinds = kinds or {}
    problems = Problems()
    notices: list[str] = []
    typed = {}
    wanted = list(dict.fromkeys(used))
    for name in dict.fromkeys([*wanted, *kinds]):
        kind = kinds.get(name)
        if kind is not None and kind not in COLUMN_KINDS:
            problems.append(_explain_kind(name, kind))
        elif name not in frame.columns:
            problems.append(explain_absence(name, frame))
        elif name in wanted:
            typed[name] = problems.attempt(_type_column, frame, name, kind, notices)
    if problems:
        raise InputError(problems)
    result = pd.DataFrame(typed, index=frame.index)
    words = {name: _list_words_for_missing(frame[name], typed[name]) for name in wanted}
    result.attrs = {**frame.attrs, "words_for_missing": words}
    return result, notices


def _list_words_for_missing(given: "pd.Series[Any]", typed: "pd.Series[Any]") -> list[str]:
    """Return what stands for missing in a column of labels, and may be one: none, say."""
    if not hasattr(typed, "cat"):
        return []
    found = {str(cell).strip() for cell in given[typed.isna() & given.notna()]}
    return sorted(word for word in found if word.casefold() not in _MISSING_LABELS)


def _explain_kind(name: str, kind: str) -> Problem:
    return Problem(
        "columns",
        "{columns=given} is not known: a column is categorical or numeric.",
        given=f"{name}: {kind}",
    )


def name_table(frame: "pd.DataFrame") -> str:
    """Return what messages call a table."""
    return str(frame.attrs.get("source", "the table"))


def explain_absence(name: str, frame: "pd.DataFrame") -> Problem:
    """Return that a table has no such column, and which it has."""
    source = name_table(frame)
    repeated = frame.attrs.get("repeated", {})
    if name in repeated:
        return Problem(
            "table",
            "{source} has several columns called {name}: give each a name of its own.",
            source=repeated[name],
            name=show(name),
        )
    columns = [str(column) for column in frame.columns]
    folded = {column.casefold(): column for column in columns}
    near = get_close_matches(name.casefold(), folded, n=1)
    ends = [c for c in columns if c.casefold().endswith(f"_{name.casefold()}")]
    advice = "  Is it {nearest}?" if near or ends else ""
    return Problem(
        "table",
        "{source} has no column {name}." + advice + "  Its columns are: {columns}.{aside}",
        aside="".join(f"  {each}" for each in frame.attrs.get("aside", ())),
        source=source,
        name=show(name),
        nearest=join_some(ends, separator=" or ") if ends else folded[near[0]] if near else "",
        columns=join_some(columns),
    )


def _type_column(
    frame: "pd.DataFrame", name: str, kind: str | None, notices: list[str]
) -> "pd.Series[Any]":
    """Return one column as numbers or levels."""
    import pandas as pd

    given = frame[name]
    if isinstance(given.dtype, pd.CategoricalDtype) and kind != "numeric":
        return given
    is_label = kind == "categorical" or (kind is None and name_entity(name) is not None)
    if pd.api.types.is_numeric_dtype(given.dtype) and not is_label:
        return given.astype(float)
    column = _Column(frame, name)
    if kind == "numeric":
        return column.make_numbers(notices)
    if kind == "categorical":
        return column.make_levels(_MISSING_LABELS)
    if name_entity(name) is not None:
        column.note_codes(notices)
        return column.make_levels(_MISSING_LABELS)
    return column.guess(notices)


class _Column:
    """The text of a column, and where it stands."""

    def __init__(self, frame: "pd.DataFrame", name: str) -> None:
        attrs = frame.attrs
        given = frame[name]
        self.name = name
        self.index = frame.index
        self.cells = [str(cell).strip() for cell in given.astype(object).where(given.notna(), "")]
        self.source = attrs.get("sources", {}).get(name, name_table(frame))
        self.levels = attrs.get("levels", {}).get(name, [])
        self._has_semicolons = attrs.get("separator") == ";"

    @property
    def _where(self) -> str:
        return f"{self.source}, column {self.name}"

    def guess(self, notices: list[str]) -> "pd.Series[Any]":
        """Return numbers if all cells have some, levels if they are labels."""
        missing = MISSING - {"-"} if "+" in self.cells else MISSING
        present = [cell for cell in self.cells if cell.casefold() not in missing]
        words = self._list_words(present)
        n_words = sum(cell in words for cell in present)
        if not words and not any(map(_PADDED.fullmatch, present)):
            return self.make_numbers(notices)
        self._check_case(present)
        if {word.casefold() for word in words} <= _LOGICAL:
            if n_words not in (0, len(present)):
                raise InputError(self._explain_words(words))
            return self.make_levels(missing)
        n_numbers = len(present) - n_words
        has_commas = bool(words) and all(map(_THOUSANDS.fullmatch, words))
        if words and (has_commas or 2 * n_numbers >= len(present) or self._may_measure(present)):
            raise InputError(self._explain_words(words))
        if n_numbers and words:
            notices.append(
                f"{self._where} has numbers and words, such as {show(next(iter(words)))}, and is "
                "taken as categorical."
            )
        return self.make_levels(missing)

    def make_numbers(self, notices: list[str]) -> "pd.Series[Any]":
        """Return numbers, NaN for missing; anything else is an InputError."""
        import pandas as pd

        present = [cell for cell in self.cells if cell.casefold() not in MISSING]
        words = self._list_words(present)
        if words:
            raise InputError(self._explain_words(words))
        points = self._has_decimal_commas(present)
        values = [
            math.nan
            if cell.casefold() in MISSING
            else float(cell.replace(",", ".") if points else cell)
            for cell in self.cells
        ]
        self._note_sentinels(values, notices)
        return pd.Series(values, index=self.index, name=self.name, dtype=float)

    def make_levels(self, missing: frozenset[str]) -> "pd.Series[Any]":
        """Return levels in the order of the sidecar, or in natural order."""
        import pandas as pd

        found = {cell for cell in self.cells if cell.casefold() not in missing}
        order = [level for level in dict.fromkeys(self.levels) if level in found]
        if set(order) != found:
            order = sorted(found, key=natural_key)
        cells = [cell if cell in found else None for cell in self.cells]
        return pd.Series(
            pd.Categorical(cells, categories=pd.Index(order, dtype=object)),
            index=self.index,
            name=self.name,
        )

    def note_codes(self, notices: list[str]) -> None:
        """Say that whole numbers are taken as labels, by the name of their column."""
        present = {cell for cell in self.cells if cell.casefold() not in MISSING}
        if not 2 < len(present) <= _MOST_CODES or not all(map(str.isdecimal, present)):
            return
        if name_entity(self.name) == "subject":
            return
        notices.append(
            Problem(
                "columns",
                "{where} has the numbers {numbers} and is taken as categorical, as an entity of "
                "BIDS; if that is not meant, set {columns=given}.",
                where=self._where,
                numbers=join_some(sorted(present, key=natural_key), 5),
                given=f"{self.name}: numeric",
            )
        )

    def _has_decimal_commas(self, present: Sequence[str]) -> bool:
        """Return whether commas, where there are any, stand for decimal points in all cells."""
        with_comma = [cell for cell in present if _COMMA.fullmatch(cell)]
        if not with_comma or any("." in cell for cell in present):
            return False
        # 1,234 may be a thousand and more, unless commas cannot be that in this column.
        return self._has_semicolons or not all(map(_THOUSANDS.fullmatch, with_comma))

    def _list_words(self, present: Sequence[str]) -> dict[str, None]:
        """Return the different cells that are no finite numbers, in their order."""
        points = self._has_decimal_commas(present)
        return {
            cell: None
            for cell in present
            if not (_NUMBER.fullmatch(cell) and math.isfinite(float(cell)))
            and not (points and _COMMA.fullmatch(cell))
        }

    def _check_case(self, present: Sequence[str]) -> None:
        """Refuse labels that differ in case only, such as F and f."""
        counts = Counter(present)
        by_fold: dict[str, list[str]] = defaultdict(list)
        for cell in counts:
            by_fold[cell.casefold()].append(cell)
        twins = [cells for cells in by_fold.values() if len(cells) > 1]
        if twins:
            some = [
                " and ".join(f"{show(cell)} ({count(counts[cell], 'row')})" for cell in cells)
                for cells in twins
            ]
            raise InputError(
                Problem(
                    "columns",
                    "{where}: {some} differ in case only.  Write them alike, or set "
                    "{columns=given} to keep them apart.",
                    where=self._where,
                    some=join_some(some, separator="; "),
                    given=f"{self.name}: categorical",
                )
            )

    def _may_measure(self, present: Sequence[str]) -> bool:
        """Return whether cells are numbers with a unit or dates, and too many to be labels."""
        distinct = set(present)
        n_alike = sum(bool(_WITH_UNIT.fullmatch(x) or _DATE.fullmatch(x)) for x in distinct)
        # 3T and 1.5T are labels, and so are 20-30 and 31-40.
        return (
            len(distinct) > 4 and 2 * n_alike > len(distinct) and 2 * len(distinct) > len(present)
        )

    def _explain_words(self, words: Iterable[str]) -> Problem:
        words = list(words)
        rows = [i for i, cell in zip(self.index, self.cells, strict=True) if cell in set(words)]
        first = f"{show(words[0])} {_name_place(rows[0])}"
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        is_plural = len(rows) > 1
        advice = "write a number or n/a"
        if all(map(_THOUSANDS.fullmatch, words)):
            advice = "write thousands without a comma, and decimals with a point"
        elif any(map(_COMMA.fullmatch, words)):
            advice = "write all decimals with a point"
        elif all(map(_DATE.fullmatch, words)):
            advice = "write a number, such as days since the start"
        elif {word.casefold() for word in words} <= _LOGICAL:
            advice = "write 1 and 0, or TRUE and FALSE only"
        return Problem(
            "columns",
            "{where}: {found} {verb}: " + advice + ", or set {columns=given}.",
            where=self._where,
            found=first + more,
            verb="are no numbers" if is_plural else "is no number",
            given=f"{self.name}: categorical",
        )

    def _note_sentinels(self, values: Sequence[float], notices: list[str]) -> None:
        """Say where a value that often stands for missing lies far from all others."""
        finite = [x for x in values if math.isfinite(x)]
        counts = Counter(x for x in finite if abs(x) in _SENTINELS)
        others = [x for x in finite if abs(x) not in _SENTINELS]
        if not counts or len(others) < 2:
            return
        low, high = min(others), max(others)
        span = high - low
        far = {x: n for x, n in counts.items() if x > high + span or x < min(low - span, 0)}
        for value, n in far.items():
            notices.append(
                f"{self._where} has {value:g} in {count(n, 'row')}, while the others are from "
                f"{low:g} to {high:g}; if it stands for missing, write n/a."
            )


def _name_place(row: Any) -> str:
    return f"of {row}" if isinstance(row, str) else f"in line {row}"


def natural_key(text: str) -> tuple[Any, ...]:
    """Return what sorts 2 before 10, and A beside a."""
    parts = [part for part in re.split(r"(\d+)", text.casefold()) if part]
    keys = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
    return (*keys, (-1, 0, text))  # what is shorter comes first
