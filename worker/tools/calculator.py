"""Arithmetic, read into a tree of a few kinds of node and nothing else: no name, no call, no attribute can be in it.

Numbers and exponents are bounded, so that no expression computes for long.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from worker.tools import Surroundings, Tool, ToolFailed, takes, text_parameter

CHARACTERS_MAX = 200
NUMBER_MAX = 1e60
EXPONENT_MAX = 200
SIGNIFICANT_DIGITS = 15

Number = int | float
_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_WRITTEN_OTHERWISE = str.maketrans({"×": "*", "÷": "/", "−": "-", "^": "**"})  # noqa: RUF001  what people write


class Calculator(Tool):
    """Plain arithmetic."""

    name = "calculator"
    description = "computes an arithmetic expression of numbers, + - * / // % ** and parentheses"
    parameters = takes({"expression": text_parameter("such as (3.5 + 4) * 12", CHARACTERS_MAX)})
    sample: ClassVar[Mapping[str, Any]] = {"expression": "(3.5 + 4) * 12"}

    async def run(self, arguments: Mapping[str, Any], around: Surroundings) -> str:
        """The result, to 15 significant digits where it is not whole."""
        return shown(compute(arguments["expression"]))


def compute(expression: str) -> Number:
    """The value of the expression. Raises ToolFailed for what is no arithmetic or too large."""
    if len(expression) > CHARACTERS_MAX:
        raise ToolFailed(f"The expression is longer than {CHARACTERS_MAX} characters.")
    try:
        tree = ast.parse(expression.strip().translate(_WRITTEN_OTHERWISE), mode="eval")
        return _value(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ToolFailed("This is no arithmetic expression.") from None
    except ZeroDivisionError:
        raise ToolFailed("This divides by zero.") from None
    except OverflowError:
        raise ToolFailed("The numbers are too large.") from None


def shown(value: Number) -> str:
    """The number as people write it."""
    if isinstance(value, int):
        return str(value)
    return str(int(value)) if value.is_integer() and abs(value) < 10**SIGNIFICANT_DIGITS else f"{value:.{SIGNIFICANT_DIGITS}g}"


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=value) if type(value) in (int, float):
            return _bounded(value)
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _bounded(_UNARY[type(sign)](_value(operand)))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            base, other = _value(left), _value(right)
            if isinstance(sign, ast.Pow) and abs(other) > EXPONENT_MAX:
                raise OverflowError
            return _bounded(_BINARY[type(sign)](base, other))
    raise ToolFailed("Only numbers, + - * / // % ** and parentheses can be computed.")


def _bounded(value: Any) -> Number:
    """The number, if it is one: a power of a negative number may be complex. The bound also keeps out infinity and NaN."""
    if type(value) not in (int, float):
        raise ToolFailed("The result is no real number.")
    if not abs(value) <= NUMBER_MAX:
        raise OverflowError
    number: Number = value
    return number


tool = Calculator()
