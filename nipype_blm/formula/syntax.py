"""The text of a formula as a syntax tree of formulae; nothing is evaluated."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from formulae.expr import Binary, Call, Grouping, Literal, QuotedName, Unary, Variable
from formulae.parser import ParseError, Parser
from formulae.scanner import Scanner
from formulae.token import Token

from nipype_blm.errors import shorten, show
from nipype_blm.formula.words import refuse

Expr = Any  # a node of the tree; formulae has no class for all of them

_MOST_CHARACTERS = 20_000
_MOST_TOKENS = 5_000
_DEEPEST = 20  # parentheses within each other; the parser has about 12 calls for each
_MOST_SIGNS = 10  # in a row; the parser has a call for each
_CLOSING = {"LEFT_PAREN": "RIGHT_PAREN", "LEFT_BRACE": "RIGHT_BRACE"}
_BRACKETS = {"(": ")", "{": "}"}
_QUOTES = ("'", '"', "`")

# What other programs and their users write for what has a plain character here.
_PLAIN = str.maketrans({"\u2212": "-", "\u2013": "-", "\u201c": '"', "\u201d": '"', "\u2018": "'"})
_PLAIN |= str.maketrans({"\u2019": "'", "\u200b": " ", "\ufeff": " ", "\uff5e": "~", "\u223c": "~"})
_PLAIN |= str.maketrans({"\uff08": "(", "\uff09": ")", "\uff0b": "+", "\uff0a": "*", "\uff5c": "|"})

_INSTEAD = {
    "^": "write (a + b)**2 for interactions, and I(age**2) for a power",
    "%": "write (1 | a:b) or a:b for what is nested, in the place of %in%",
    "&": "write a:b for an interaction",
    "$": "give the name of the column only, without that of its table",
    "!": "write I(x != 1) for a comparison",
    ";": "give one formula",
    "#": "leave comments out",
    "_": "put a name that begins with _ into backticks, such as `_x`",
    "]": "close only what was opened",
    ".": "name each column; a dot does not stand for all of them",
}


class _Scanner(Scanner):
    """Formulae's, which ends quoted text at its own quote, and always ends."""

    current: int

    def char(self) -> None:
        self.add_token("STRING", self._take_quoted(self.code[self.start]))

    def backquote(self) -> None:
        if not self._take_quoted("`"):
            raise refuse("The formula has a name of no character in backticks; give the name.")
        self.add_token("BQNAME")

    def _take_quoted(self, quote: str) -> str:
        end = self.code.find(quote, self.current)
        if end < 0:
            raise refuse(
                "The formula has {quote} without its end: {rest}; close what it opens.",
                quote=quote,
                rest=show(self.code[self.start :]),
            )
        text, self.current = self.code[self.current : end], end + 1
        return text


class _Parser(Parser):
    """Formulae's, with powers as in R and Python: -x**2 is -(x**2), and x**2**3 is x**(2**3)."""

    def multiple_interaction(self) -> Expr:
        return self.unary()

    def unary(self) -> Expr:
        if self.match(["PLUS", "MINUS"]):
            return Unary(self.previous(), self.unary())
        base = self.call()
        return Binary(base, self.previous(), self.unary()) if self.match("STAR_STAR") else base


def scan(text: str) -> list[Token]:
    """Return the tokens of a formula, without the one that marks the end.

    Raises
    ------
    InputError
        If it is too long, too deep, or has characters that no formula has.
    """
    if len(text) > _MOST_CHARACTERS:
        raise refuse(
            "The formula has {n:,} characters, and {most:,} is the most; give a shorter one.",
            n=len(text),
            most=_MOST_CHARACTERS,
        )
    scanner = _Scanner(_simplify(text) or " ")
    while not scanner.at_end():
        scanner.start = scanner.current
        first = scanner.code[scanner.start]
        if first.isdigit() and not first.isascii():
            raise _refuse_character(first, text)
        try:
            scanner.scan_token()
        except Exception as error:
            if isinstance(error, ValueError) and hasattr(error, "problems"):
                raise
            raise _refuse_character(first, text) from error
    tokens = _join_bars(scanner.tokens)
    _check_tokens(tokens, text)
    return tokens


def _simplify(text: str) -> str:
    """Return the formula with plain spaces and signs, but for what stands in quotes."""
    pieces: list[str] = []
    quote = ""
    for character in text:
        plain = character if quote else character.translate(_PLAIN)
        if quote:
            quote = "" if character == quote else quote
        elif plain in _QUOTES:
            quote = plain
        pieces.append(" " if plain.isspace() and not quote else plain)
    return "".join(pieces)


def _refuse_character(character: str, text: str) -> Exception:
    instead = _INSTEAD.get(character, "put names of columns that have it into backticks")
    return refuse(
        "The formula {text} has {character}, which means nothing here; {instead}.",
        text=show(text),
        character=show(character),
        instead=instead,
    )


def _join_bars(tokens: Sequence[Token]) -> list[Token]:
    """Return tokens with each || as one bar, which formulae's parser knows as |."""
    joined: list[Token] = []
    for token in tokens:
        if token.kind == "PIPE" and joined and joined[-1].kind == "PIPE":
            joined[-1] = Token("PIPE", joined[-1].lexeme + "|")
        else:
            joined.append(token)
    return joined


def _check_tokens(tokens: Sequence[Token], text: str) -> None:
    if len(tokens) > _MOST_TOKENS:
        raise refuse(
            "The formula has {n:,} names and signs, and {most:,} is the most; give a shorter one.",
            n=len(tokens),
            most=_MOST_TOKENS,
        )
    for token in tokens:
        if token.kind in ("MODULO", "BANG", "PERIOD", "RIGHT_BRACKET"):
            raise _refuse_character(token.lexeme, text)
        if token.kind == "LEFT_BRACKET":
            raise refuse(
                "The formula {text} has a level in brackets; write the column for all levels, "
                'or I(sex == "M") for one.',
                text=show(text),
            )
        if token.lexeme.startswith("|||"):
            raise _refuse_character("|||", text)
    for is_sign, run in groupby(tokens, lambda token: token.kind in ("PLUS", "MINUS")):
        if is_sign and len(list(run)) > _MOST_SIGNS:
            raise refuse("The formula {text} has a long row of signs; give one.", text=show(text))
    _check_brackets(tokens, text)


def _check_brackets(tokens: Sequence[Token], text: str) -> None:
    opened: list[str] = []
    for token in tokens:
        if token.kind in _CLOSING:
            opened.append(token.lexeme)
        elif token.kind in _CLOSING.values() and (
            not opened or _BRACKETS[opened.pop()] != token.lexeme
        ):
            raise refuse(
                "The formula {text} has {bracket} that closes nothing; leave it out, or open it.",
                text=show(text),
                bracket=token.lexeme,
            )
        if len(opened) > _DEEPEST:
            raise refuse(
                "The formula {text} has more than {most} parentheses within each other; "
                "leave out those that are not needed.",
                text=show(text),
                most=_DEEPEST,
            )
    if opened:
        raise refuse(
            "The formula {text} has {bracket} without its end; close it.",
            text=show(text),
            bracket=opened[-1],
        )


def parse(tokens: Sequence[Token], text: str) -> Expr:
    """Return the syntax tree of one side of a formula."""
    parser = _Parser([*tokens, Token("EOF", "")])
    try:
        tree = parser.parse()
    except ParseError as error:
        at = parser.peek().lexeme
        where = f"before {at}" if at else "at its end"
        raise refuse(
            "The formula {text} lacks something {where}; give what belongs there.",
            text=show(text),
            where=shorten(where),
        ) from error
    if not parser.at_end():
        raise _refuse_rest(parser, text)
    return tree


def _refuse_rest(parser: Parser, text: str) -> Exception:
    at = parser.peek().lexeme
    before = parser.previous().lexeme
    if at == ",":
        return refuse(
            "The formula {text} has a comma outside of a function; give one formula and nothing "
            "else, with random effects in it, such as age + (1 | subject).",
            text=show(text),
        )
    return refuse(
        "The formula {text} has {at} right after {before}; put a + between terms, or the name of a "
        "column that has spaces or signs into backticks.",
        text=show(text),
        at=shorten(at),
        before=shorten(before),
    )


def write(expr: Expr) -> str:
    """Return the text of a part of the tree, as messages and names of columns have it."""
    if isinstance(expr, Grouping):
        return f"({write(expr.expression)})"
    if isinstance(expr, Binary):
        sign = expr.operator.lexeme
        space = "" if sign == ":" else " "
        return f"{write(expr.left)}{space}{sign}{space}{write(expr.right)}"
    if isinstance(expr, Unary):
        return f"{expr.operator.lexeme}{write(expr.right)}"
    if isinstance(expr, Call):
        return f"{write(expr.callee)}({', '.join(map(write, expr.args))})"
    if isinstance(expr, QuotedName):
        return str(expr.expression.lexeme)
    if isinstance(expr, Variable):
        return str(expr.name.lexeme)
    if isinstance(expr, Literal):
        return str(expr.value if expr.lexeme is None else expr.lexeme)
    return f"{write(expr.name)}={write(expr.value)}"  # Assign


def find_depth(expr: Expr, most: int) -> int:
    """Return how deep a tree is, or `most` if it is deeper; without recursion."""
    depth, level = 0, [expr]
    while level and depth < most:
        depth += 1
        level = [child for node in level for child in list_children(node)]
    return depth


def list_children(expr: Expr) -> list[Expr]:
    """Return the nodes right below one."""
    if isinstance(expr, Grouping):
        return [expr.expression]
    if isinstance(expr, Binary):
        return [expr.left, expr.right]
    if isinstance(expr, Unary):
        return [expr.right]
    if isinstance(expr, Call):
        return [expr.callee, *expr.args]
    if isinstance(expr, Variable | QuotedName | Literal):
        return []
    return [expr.value]  # Assign


def strip(expr: Expr) -> Expr:
    """Return what stands in parentheses."""
    while isinstance(expr, Grouping):
        expr = expr.expression
    return expr
