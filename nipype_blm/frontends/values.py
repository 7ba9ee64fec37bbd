"""Single values, as people write them: paths, memory, counts, shares, words."""

import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo

from nipype_blm.data.kinds import is_image_path
from nipype_blm.errors import Words, show
from nipype_blm.io.paths import resolve_path
from nipype_blm.model.arithmetic import parse_number

MOST = 2**31 - 1  # of anything that is counted
_MOST_BYTES = 2**1000  # more than that no float holds
_LONGEST_FRACTION, _HUGE_EXPONENT = 100, re.compile(r"e[-+]?\d{4}", re.IGNORECASE)

_QUOTED = re.compile(r"""`[^`]*`|"[^"]*"|'[^']*'""")


def _resolve(value: Any, info: ValidationInfo) -> Path:
    """Resolve text against the folder of what names it; an absolute path has been."""
    if isinstance(value, Path) and value.is_absolute():
        return value
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ValueError(f"{show(value)} is not a path")
    return resolve_path(value, (info.context or {}).get("base", Path.cwd()))


def _resolve_all(value: Any, info: ValidationInfo) -> Any:
    """Resolve one path, or several."""
    if isinstance(value, list | tuple) and value:
        return tuple(_resolve(item, info) for item in value)
    return _resolve(value, info)


def is_mixed_formula(text: Any) -> bool:
    """Return whether a formula has a random part, which alone needs a bar; without reading it."""
    return isinstance(text, str) and "|" in _QUOTED.sub("", text)


def words_of(info: ValidationInfo) -> Words:
    """Return the words of the front end whose values are read."""
    words = (info.context or {}).get("words")
    return words if isinstance(words, Words) else Words()


def _parse_bytes(value: Any, info: ValidationInfo) -> int:
    hint = words_of(info).memory_hint
    try:
        n_bytes = parse_number(value)
    except ValueError as error:
        raise ValueError(f"{error}; {hint}") from error
    if n_bytes < 1:
        raise ValueError(f"{show(value)} is not a positive number; {hint}")
    if n_bytes > _MOST_BYTES:
        raise ValueError(f"{show(value)} is more than any machine has; {hint}")
    return int(n_bytes)


def _parse_fraction(value: Any) -> Fraction:
    """Read 0.1 or "10%" exactly, so that 0.28 of 50 images is 14."""
    text = value.strip() if isinstance(value, str) else repr(value)
    percent = text.endswith("%")
    try:
        if len(text) > _LONGEST_FRACTION or _HUGE_EXPONENT.search(text):
            raise ValueError("takes all memory")
        fraction = Fraction(text.rstrip("% "))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{show(value)} is neither a fraction nor a percentage") from error
    fraction = fraction / 100 if percent else fraction
    if not 0 <= fraction <= 1:
        raise ValueError(
            f"{show(value)} is outside 0 to 1; give a fraction such as 0.1, "
            'or a percentage such as "10%"'
        )
    return fraction


def above_zero(what: str) -> BeforeValidator:
    """Return what reads a number, or arithmetic, that must be positive."""

    def parse(value: Any) -> float:
        number = parse_number(value)
        if number <= 0:
            raise ValueError(f"{show(value)} is not {what}")
        return number

    return BeforeValidator(parse)


def one_of(choices: tuple[str, ...], refusal: str = "was given") -> BeforeValidator:
    """Return what reads one of several words, however it is written."""
    known = {choice.lower(): choice for choice in choices}

    def parse(value: Any) -> str:
        choice = known.get(str(value).strip().lower().replace("-", "_"))
        if choice is None:
            raise ValueError(f"{show(value)} {refusal}; choose one of {', '.join(choices)}")
        return choice

    return BeforeValidator(parse)


def _refuse_truth(value: Any) -> Any:
    """Refuse true where a number is expected; it would count as 1."""
    if isinstance(value, bool):
        raise ValueError(f"{show(value)} was given; expected a whole number")
    return value


def _write_text(value: Any) -> str:
    """Return a name as text; not what was written as one, such as on, but read as a truth value."""
    if isinstance(value, bool):
        raise ValueError(f"{value} was read, not text; put the name in quotes")
    if not isinstance(value, str | int | float):
        raise ValueError(f"{show(value)} was given; expected a name")
    return str(value)


def _resolve_pattern(value: Any, info: ValidationInfo) -> str:
    """Resolve a path with names of columns in braces; the name of a column stays."""
    text = _write_text(value)
    is_path = "{" in text or "/" in text or is_image_path(Path(text))
    return str(_resolve(text, info)) if is_path else text


def _find_derivatives(value: Any, info: ValidationInfo) -> tuple[str, ...]:
    """Resolve folders; the name of one in the data set stays."""
    bids = info.data.get("bids")

    def find(text: str) -> str:
        is_name = bids is not None and (bids / "derivatives" / text).is_dir()
        return text if is_name else str(_resolve(text, info))

    return tuple(find(text) for text in _list_text(value))


def _list_text(value: Any) -> Any:
    """Return one text, or several; numbers, as of participants, become text."""
    several = value if isinstance(value, list | tuple) else [value]
    return tuple(_write_text(each) for each in several)


def _read_filters(value: Any) -> dict[str, tuple[str, ...] | None]:
    """Read what entities must be: a value, one of several, or None where there must be none."""
    if not isinstance(value, dict):
        raise ValueError(f"{show(value)} was given; expected entities such as space: T1w")
    return {str(name): None if each is None else _list_text(each) for name, each in value.items()}


def _read_diagnostics(value: Any) -> dict[str, Any] | None:
    """Check how diagnostics are asked for; true asks for what is usual."""
    given = {} if value is True else value
    if given is False:
        return None
    save = given.get("save") if isinstance(given, dict) else None
    names = save.replace(",", " ").split() if isinstance(save, str) else save or []
    if not isinstance(given, dict) or not given.keys() <= {"save"} or not isinstance(names, list):
        raise ValueError(f"{show(value)} was given; expected true, or {{save: [residuals]}}")
    return {"save": [str(name) for name in names]} if names else {}


FilePath = Annotated[Path, BeforeValidator(_resolve)]
# The tuple first: old versions of pydantic write the text of a whole tuple for a Path.
FilePaths = Annotated[tuple[Path, ...] | Path, BeforeValidator(_resolve_all)]
Bytes = Annotated[int, BeforeValidator(_parse_bytes)]
Number = Annotated[float, BeforeValidator(parse_number)]
Count = Annotated[int, BeforeValidator(_refuse_truth), Field(ge=1, le=MOST)]
CountOrNone = Annotated[int, BeforeValidator(_refuse_truth), Field(ge=0, le=MOST)]
Text = Annotated[str, Field(min_length=1), BeforeValidator(_write_text)]
Pattern = Annotated[str, Field(min_length=1), BeforeValidator(_resolve_pattern)]
Derivatives = Annotated[tuple[str, ...], BeforeValidator(_find_derivatives)]
TextList = Annotated[tuple[Text, ...], BeforeValidator(_list_text)]
Filters = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_read_filters)]
Share = Annotated[Fraction, BeforeValidator(_parse_fraction)]
Diagnostics = Annotated[dict[str, Any] | None, BeforeValidator(_read_diagnostics)]
