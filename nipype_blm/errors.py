"""The one exception for input that a user can correct, and in whose words it is told."""

import json
import reprlib
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_LONGEST_SHOWN = 160  # characters
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _LONGEST_SHOWN


def show(value: Any) -> str:
    """Return what a user gave as a message shows it: its start and end, if it is long."""
    try:
        return shorten(" ".join(_short.repr(value).split("\n")))
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"


def shorten(text: str, longest: int = _LONGEST_SHOWN) -> str:
    """Return text, or its start and end if it is too long for a message."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"


def join_some(items: Iterable[Any], most: int = 20, separator: str = ", ") -> str:
    """Return items as a message lists them: of many the first, and how many more there are."""
    texts = [str(item) for item in items]
    more = f" ... and {len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def count(n: int, what: str) -> str:
    """Return how many things there are, such as "3 rows"."""
    return f"{n} {what}{'s' * (n != 1)}"


class Words:
    """How messages call fields, memory and settings: here, as `Request` does.

    A front end has its own, so that its users read what they wrote.

    Parameters
    ----------
    names : mapping of str to str
        What the front end calls a field of `Request`; others keep their names.
    """

    memory_hint = "give bytes, such as 2**32"

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self.names = names or {}

    def name(self, field: str) -> str:
        """Return what a field is called; ``factors.correlated`` is an entry of one."""
        return self.names.get(field, field.rpartition(".")[2])

    def entry(self, field: str, number: int) -> str:
        """Return what an entry of a list is called; the first has number 1."""
        return f"{self.name(field)} {number}"

    def memory(self, n_bytes: int) -> str:
        """Return memory as a user would say it."""
        return f"{n_bytes:,} bytes"

    def budget(self, n_bytes: int) -> str:
        """Return memory as it can be given."""
        return str(n_bytes)

    def setting(self, field: str, value: Any) -> str:
        """Return how a field is given a value.

        A column has the kind "name: kind"; filters are "space=T1w/stat=t", since no label has a
        slash.
        """
        if field == "columns":
            name, _, kind = str(value).rpartition(": ")
            value = {name: kind}
        if field == "filters":
            value = dict(each.split("=", 1) for each in str(value).split("/"))
        return f"{self.name(field)}={value!r}"

    def write(self, template: str, values: Mapping[str, Any]) -> str:
        """Return a sentence in these words, see `Problem`."""
        return _Writer(self).vformat(template, (), values)


class _Writer(string.Formatter):
    """Fills in what stands in braces."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def get_field(self, field_name: str, _: Any, kwargs: Mapping[str, Any]) -> Any:
        if field_name in kwargs:
            return kwargs[field_name], field_name
        field, is_entry, number = field_name.partition("[")
        if is_entry:
            return self._words.entry(field, int(number.rstrip("]"))), field_name
        field, is_setting, value = field_name.partition("=")
        if not is_setting:
            return self._words.name(field), field_name
        given = kwargs.get(value, _TRUTHS.get(value, value))
        return self._words.setting(field, given), field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec in ("memory", "budget"):
            return str(getattr(self._words, format_spec)(value))
        return str(super().format_field(value, format_spec))


_TRUTHS = {"true": True, "false": False}


class Problem(str):
    """One fault: a sentence that names fields as `Request` does, until it is worded otherwise.

    Parameters
    ----------
    field : str or None
        The field of `Request` that it is about.
    template : str
        The sentence: what came, what was expected and what to do.  In braces are fields
        (``{max_bytes}``), entries (``{factors[1]}``), what is set (``{match_rows=by_name}``), and
        values
        (``{given:memory}``, memory that came; ``{least:budget}``, memory to be given).
    **values : str, int or float
        What users gave goes here, never into the template; anything else becomes text.
    """

    field: str | None
    template: str
    values: Mapping[str, Any]

    def __new__(cls, field: str | None, template: str, /, **values: Any) -> "Problem":
        """Write the sentence."""
        plain = {key: _simplify(value) for key, value in values.items()}
        return _write(field, template, plain, Words())

    def worded(self, words: Words) -> "Problem":
        """Return the same, told in other words."""
        return _write(self.field, self.template, self.values, words)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (str(self), self.field, self.template, self.values)


def _simplify(value: Any) -> int | float | str:
    """Return what JSON can hold: numbers, of NumPy too, as they are, anything else as text."""
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, int | float | str) else str(value)


def _write(field: str | None, template: str, values: Mapping[str, Any], words: Words) -> Problem:
    return _restore(words.write(template, values), field, template, values)


def _restore(text: str, field: str | None, template: str, values: Mapping[str, Any]) -> Problem:
    problem = str.__new__(Problem, text)
    problem.field, problem.template, problem.values = field, template, values
    return problem


def tell(text: str, words: Words) -> str:
    """Return a sentence in the words of a front end; one that is no `Problem` has its own."""
    return text.worded(words) if isinstance(text, Problem) else text


def about(field: str | None, texts: Iterable[str]) -> list[Problem]:
    """Return sentences that name no field as problems of one."""
    return [
        text if isinstance(text, Problem) else Problem(field, "{text}", text=text) for text in texts
    ]


class InputError(ValueError):
    """Input that cannot be used; holds every problem found, one sentence each.

    Parameters
    ----------
    problems : str or iterable of str
        A `Problem`, or plain text that names no field, for each fault.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = about(None, [problems] if isinstance(problems, str) else problems)
        super().__init__("\n".join(self.problems))

    def reword(self, words: Words) -> None:
        """Tell every problem in the words of a front end."""
        self.problems = [problem.worded(words) for problem in self.problems]
        self.args = ("\n".join(self.problems),)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


def pack_problems(problems: Iterable[Problem]) -> bytes:
    """Return problems as JSON, which can be told in any words again."""
    data = [{"field": p.field, "template": p.template, "values": dict(p.values)} for p in problems]
    return json.dumps(data, indent=1).encode()


def unpack_problems(content: bytes) -> list[Problem]:
    """Return what `pack_problems` was given.

    Raises
    ------
    ValueError
        If that is not what the content is.
    """
    try:
        data = json.loads(content)
        return [Problem(each["field"], each["template"], **each["values"]) for each in data]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a list of problems") from error


class Problems(list[str]):
    """Every fault found so far."""

    def add(self, field: str | None, template: str, /, **values: Any) -> None:
        """Note a `Problem`."""
        self.append(Problem(field, template, **values))

    def attempt(self, function: Callable[..., T], *arguments: Any) -> T | None:
        """Return what a function returns; None after an InputError, which is noted."""
        try:
            return function(*arguments)
        except InputError as error:
            self.extend(error.problems)
            return None
