"""The text of a contrast: sums of coefficients, as a tree; nothing is evaluated but numbers."""

import math
import re
from typing import NamedTuple

from nipype_blm.errors import InputError, show
from nipype_blm.formula.words import refuse

CONTRASTS = "contrasts"  # the field
FUNCTIONS = ("emm", "pairs", "main")

_LONGEST = 10_000  # characters
_DEEPEST = 40  # parentheses within each other
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WORD = re.compile(r"[^\W\d][\w.]*")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_QUOTES = "\"'`"


class Atom(NamedTuple):
    """A column of the table, or a function of some, and one of its levels."""

    name: str
    level: str | None = None


class Reference(NamedTuple):
    """A coefficient or a term: what stands between signs."""

    text: str
    atoms: tuple[Atom, ...]  # joined by colons


class Function(NamedTuple):
    """A call of one of FUNCTIONS."""

    name: str
    text: str
    argument: Reference | None  # None: emm(1)


class Number(NamedTuple):
    """A number."""

    value: float


class Operation(NamedTuple):
    """Two sides, and one of + - * / between them."""

    sign: str
    left: "Node"
    right: "Node"


Node = Reference | Function | Number | Operation


class Equation(NamedTuple):
    """What is said to be zero, and the text of it."""

    text: str
    node: Node


def parse_expression(text: str) -> list[Equation]:
    """Return the equations of a contrast; commas stand between them in the text.

    Raises
    ------
    InputError
        If it cannot be read; the sentence lacks its subject, "The contrast ...".
    """
    if len(text) > _LONGEST:
        raise refuse(
            "has {n:,} characters, and {most:,} is the most; give a shorter one.",
            CONTRASTS,
            n=len(text),
            most=_LONGEST,
        )
    return _Reader(text).read_equations()


def simplify(text: str) -> str:
    """Return a name without spaces and with one kind of quotes, as names are compared."""
    return "".join(text.split()).replace("'", '"').replace("`", "")


class _Reader:
    """Reads from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def read_equations(self) -> list[Equation]:
        equations = [self._read_equation()]
        while self._take(","):
            equations.append(self._read_equation())
        if self.at < len(self.text):
            raise self._refuse(
                "has {rest} where a sign was expected; put + - * / or a comma there, and names "
                "with spaces or signs into backticks"
            )
        return equations

    def _read_equation(self) -> Equation:
        start = self.at
        node = self._read_sum()
        if self._take("="):
            self._take("=")
            node = Operation("-", node, self._read_sum())
        return Equation(self.text[start : self.at].strip(), node)

    def _read_sum(self) -> Node:
        node = self._read_product()
        while sign := self._take("+", "-", "\u2212"):
            node = Operation("+" if sign == "+" else "-", node, self._read_product())
        return node

    def _read_product(self) -> Node:
        node = self._read_factor()
        while sign := self._take("*", "/"):
            node = Operation(sign, node, self._read_factor())
        return node

    def _read_factor(self) -> Node:
        negative = False
        while sign := self._take("+", "-", "\u2212"):
            negative ^= sign != "+"
        node = self._read_value()
        return Operation("*", Number(-1.0), node) if negative else node

    def _read_value(self) -> Node:
        if self._take("("):
            self.depth += 1
            if self.depth > _DEEPEST:
                raise self._refuse("has too many parentheses within each other; leave some out")
            node = self._read_sum()
            self.depth -= 1
            if not self._take(")"):
                raise self._refuse("lacks a closing parenthesis before {rest}; close it")
            return node
        if number := _NUMBER.match(self.text, self.at):
            value = float(number[0])
            if not math.isfinite(value):
                raise self._refuse("has {rest}, which is too large; give a number")
            self.at = number.end()
            return Number(value)
        return self._read_name()

    def _read_name(self) -> Node:
        start = self.at
        word = _WORD.match(self.text, self.at)
        if word and word[0] in FUNCTIONS and self.text[word.end() : word.end() + 1] == "(":
            return self._read_function(word)
        atoms = [self._read_atom()]
        while self._take(":"):
            self._skip()
            if not self._starts_name():
                raise self._refuse(
                    "has {rest} right after a colon; write levels in brackets, such as "
                    "task[a] - task[b], and a:b for an interaction"
                )
            atoms.append(self._read_atom())
        return Reference(self.text[start : self.at].strip(), tuple(atoms))

    def _starts_name(self) -> bool:
        """Whether a name comes next."""
        return bool(re.match(r"[^\W\d]|[`{]", self.text[self.at : self.at + 1]))

    def _read_function(self, word: re.Match[str]) -> Function:
        start = self.at
        end = self._find_end(word.end())
        inner = self.text[word.end() + 1 : end]
        self.at = end + 1
        text = self.text[start : self.at]
        if not inner.strip():
            raise self._refuse("has nothing in {call}; name a term", call=text)
        if inner.strip() == "1" and word[0] == "emm":
            return Function("emm", text, None)
        reader = _Reader(inner)
        try:
            node = reader._read_name()
        except InputError as error:
            raise self._refuse_argument(text) from error
        if reader.at < len(inner) or not isinstance(node, Reference):
            raise self._refuse_argument(text)
        return Function(word[0], text, node)

    def _refuse_argument(self, call: str) -> InputError:
        return self._refuse(
            "has {call}, which takes one term or level, such as emm(sex[M]) or pairs(site)",
            call=call,
        )

    def _read_atom(self) -> Atom:
        self._skip()
        start = self.at
        following = self.text[self.at : self.at + 1]
        if following in ("`", "{"):
            self.at = self._find_end(self.at) + 1
        elif word := _WORD.match(self.text, self.at):
            self.at = word.end()
            if self.text[self.at : self.at + 1] == "(":
                self.at = self._find_end(self.at) + 1
        else:
            raise self._refuse(
                "has {rest} where a name or a number was expected; give one of a coefficient, "
                "such as sex[M]"
            )
        name = self.text[start : self.at]
        if following == "`":
            name = name[1:-1]
        if following == "{":
            name = f"I({name[1:-1]})"
        self._skip()
        level = None
        if self.text[self.at : self.at + 1] == "[":
            end = self._find_end(self.at)
            level = self.text[self.at + 1 : end].strip()
            self.at = end + 1
            self._skip()
        return Atom(name, level)

    def _find_end(self, start: int) -> int:
        """Return where what opens at `start` is closed; quotes hold anything."""
        closing: list[str] = []
        for i in range(start, len(self.text)):
            character = self.text[i]
            if closing and character == closing[-1]:
                closing.pop()
            elif closing and closing[-1] in _QUOTES:
                continue
            elif character in _CLOSING:
                closing.append(_CLOSING[character])
            elif character == "`" or (character in "\"'" and self._opens_quote(i, closing)):
                closing.append(character)
            if not closing:
                return i
        raise self._refuse("does not close {rest}; close it", at=start)

    def _opens_quote(self, i: int, closing: list[str]) -> bool:
        """Whether a quote holds text: in a level without quotes, it may be an apostrophe."""
        return closing[-1:] != ["]"] or self.text[:i].rstrip().endswith("[")

    def _take(self, *signs: str) -> str:
        """Return the sign that comes next, if it is one of these, and pass it."""
        self._skip()
        following = self.text[self.at : self.at + 1]
        if following and following in signs:
            self.at += 1
            return following
        return ""

    def _skip(self) -> None:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1

    def _refuse(self, what: str, *, at: int | None = None, call: str = "") -> InputError:
        rest = self.text[self.at if at is None else at :]
        return refuse(
            f"{what}.",
            CONTRASTS,
            rest=show(rest) if rest else "its end",
            call=call,
        )
