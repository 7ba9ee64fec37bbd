"""Numbers written as arithmetic, such as ``2**32``, without evaluating code."""

import ast
import operator
from collections.abc import Callable

from nipype_blm.errors import show

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}

_LONGEST = 100  # characters; nesting that exhausts the parser takes more


def parse_number(text: str | int | float) -> float:
    """Return the value of a number or of text with numbers and ``+ - * / **``.

    Raises
    ------
    ValueError
        If the text holds anything else, or its value is not finite.
    """
    is_number = isinstance(text, str | int | float) and not isinstance(text, bool)
    if not is_number or (isinstance(text, str) and len(text) > _LONGEST):
        raise ValueError(f"{show(text)} is not a number")
    try:
        if isinstance(text, str):
            value = _evaluate(ast.parse(text.strip(), mode="eval").body)
        else:
            value = float(text)
    except (ValueError, SyntaxError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"{show(text)} is not a number") from error
    if not abs(value) < float("inf"):
        raise ValueError(f"{show(text)} is not a finite number")
    return value


def _evaluate(node: ast.expr) -> float:
    """Evaluate in floating point, so that no power can exhaust memory."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.Name(id="nan" | "inf" | "NaN" | "Inf" as name):
            return float(name)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            result = _BINARY[type(op)](_evaluate(left), _evaluate(right))
            if isinstance(result, complex):
                raise ValueError("not a real number")
            return result
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_evaluate(operand))
    raise ValueError("not a number")
