"""Elementwise primitives as OpenCL C expressions.

Every entry maps operand expressions to one expression; operands are variable names, so they may
appear twice. Signed arithmetic goes through unsigned types, where overflow wraps around.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from accelkit.dtypes import DType
from accelkit.graph import Node
from accelkit_opencl.kernels.powers import constant_power
from accelkit_opencl.kernels.source import ctype
from accelkit_opencl.signs import sign

__all__ = ["EXPRESSIONS", "elementwise_expression", "literal"]

Rule = Callable[..., str]


def literal(value: bool | int | float, dtype: DType) -> str:
    """A constant of the dtype, exact to the last bit."""
    if dtype.kind == "b":
        return "1" if value else "0"
    if dtype.kind == "f":
        number = dtype.numpy.type(value)
        suffix = "f" if dtype.name == "float32" else ""
        if np.isnan(number):
            return f"({ctype(dtype.name)})NAN"
        if np.isinf(number):
            return f"({'-' if number < 0 else ''}({ctype(dtype.name)})INFINITY)"
        return f"({float(number).hex()}{suffix})"
    wrapped = int(value) & ((1 << dtype.bits) - 1)
    return f"(({ctype(dtype.name)}){wrapped}{'UL' if dtype.bits == 64 else 'U'})"


def _wrapping(operator: str) -> Rule:
    def rule(dtype: DType, *operands: str) -> str:
        if dtype.kind == "f":
            return f" {operator} ".join(operands)
        name = ctype(dtype.name)
        unsigned = "ulong" if dtype.bits == 64 else "uint"
        joined = f" {operator} ".join(f"({unsigned}){x}" for x in operands)
        return f"({name})({joined})"

    return rule


def _own(name: str) -> Rule:
    """A function of :mod:`accelkit_opencl.kernels.mathematics`, by element type."""

    def rule(dtype: DType, *operands: str) -> str:
        return f"ak_{name}_{_suffix(dtype)}({', '.join(operands)})"

    return rule


def _suffix(dtype: DType) -> str:
    return "f" if dtype.name == "float32" else "d"


def _rounding(name: str) -> Rule:
    own = _own(name)
    return lambda dtype, x: own(dtype, x) if dtype.kind == "f" else x


def _infix(operator: str) -> Rule:
    return lambda dtype, a, b: f"({a} {operator} {b})"


def _bits(operator: str) -> Rule:
    return lambda dtype, a, b: f"({ctype(dtype.name)})({a} {operator} {b})"


def _sign(dtype: DType, x: str) -> str:
    if dtype.kind == "f":
        one = literal(1.0, dtype)
        return f"({x} > 0 ? {one} : {x} < 0 ? -{one} : {x} == 0 ? {literal(0.0, dtype)} : {x})"
    return f"({ctype(dtype.name)})(({x} > 0) - ({x} < 0))"


def _absolute(dtype: DType, x: str) -> str:
    if dtype.kind == "f":
        return _own("fabs")(dtype, x)
    return f"({x} < 0 ? {_wrapping('-')(dtype, '0', x)} : {x})"


def _negative(dtype: DType, x: str) -> str:
    return f"(-{x})" if dtype.kind == "f" else _wrapping("-")(dtype, "0", x)


def _floor_divide(dtype: DType, a: str, b: str) -> str:
    if dtype.kind == "f":
        return _own("floor_divide")(dtype, a, b)
    if dtype.kind == "u":
        return f"({ctype(dtype.name)})({a} / SAFE({b}))"
    return f"({ctype(dtype.name)})FLOOR_DIVIDE({a}, SAFE({b}))"


def _remainder(dtype: DType, a: str, b: str) -> str:
    if dtype.kind == "f":
        return _own("remainder")(dtype, a, b)
    if dtype.kind == "u":
        return f"({ctype(dtype.name)})({a} % SAFE({b}))"
    return f"({ctype(dtype.name)})REMAINDER({a}, SAFE({b}))"


def _extremum(operator: str) -> Rule:
    """NaN if either is NaN."""

    def rule(dtype: DType, a: str, b: str) -> str:
        if dtype.kind == "f":
            return f"((({a} {operator} {b}) | ({a} != {a})) ? {a} : {b})"
        return f"({a} {operator} {b} ? {a} : {b})"

    return rule


def _zero(dtype: DType) -> str:
    return literal(0, dtype) if dtype.kind != "f" else literal(0.0, dtype)


EXPRESSIONS: dict[str, Rule] = {
    "add": _wrapping("+"),
    "subtract": _wrapping("-"),
    "multiply": _wrapping("*"),
    "divide": _infix("/"),
    "negative": _negative,
    "absolute": _absolute,
    "sign": _sign,
    "floor_divide": _floor_divide,
    "remainder": _remainder,
    "power": _own("power"),
    "maximum": _extremum(">"),
    "minimum": _extremum("<"),
    "arctan2": _own("arctan2"),
    "floor": _rounding("floor"),
    "ceil": _rounding("ceil"),
    "round": _rounding("rint"),
    "trunc": _rounding("trunc"),
    "exp": _own("exp"),
    "expm1": _own("expm1"),
    "log": _own("log"),
    "log1p": _own("log1p"),
    "sqrt": _own("sqrt"),
    "sin": _own("sin"),
    "cos": _own("cos"),
    "tan": _own("tan"),
    "arcsin": _own("arcsin"),
    "arccos": _own("arccos"),
    "arctan": _own("arctan"),
    "sinh": _own("sinh"),
    "cosh": _own("cosh"),
    "tanh": _own("tanh"),
    "arcsinh": _own("arcsinh"),
    "arccosh": _own("arccosh"),
    "arctanh": _own("arctanh"),
    "erf": _own("erf"),
    "sigmoid": _own("sigmoid"),
    "equal": _infix("=="),
    "not_equal": _infix("!="),
    "less": _infix("<"),
    "less_equal": _infix("<="),
    "greater": _infix(">"),
    "greater_equal": _infix(">="),
    "logical_and": _bits("&"),
    "logical_or": _bits("|"),
    "logical_xor": _bits("^"),
    "logical_not": lambda dtype, x: f"(uchar)({x} == 0)",
    "bitwise_and": _bits("&"),
    "bitwise_or": _bits("|"),
    "bitwise_xor": _bits("^"),
    "bitwise_not": lambda dtype, x: f"({ctype(dtype.name)})(~{x})",
    "shift_left": lambda dtype, a, b: (
        f"({ctype(dtype.name)})(({'ulong' if dtype.bits == 64 else 'uint'}){a} << {b})"
    ),
    "shift_right": _bits(">>"),
    "is_nan": lambda dtype, x: f"({x} != {x})",
    "is_finite": lambda dtype, x: f"({x} - {x} == 0)",
    "relu": lambda dtype, x: f"({x} < 0 ? {_zero(dtype)} : {x})",
    "relu_grad": lambda dtype, y, g: f"({y} <= 0 ? {_zero(dtype)} : {g})",
}


def elementwise_expression(
    node: Node, operands: Sequence[str], constants: Sequence[bool | int | float | None]
) -> str:
    """The expression of one elementwise node on named operands.

    ``constants`` are the numbers that operands are known to be, None for others.
    """
    name, dtype = node.primitive.name, node.inputs[0].spec.dtype
    result = node.outputs[0].spec.dtype
    if name == "select":
        condition, a, b = operands
        return f"({condition} ? {a} : {b})"
    if name == "cast":
        return _cast(dtype, result, operands[0])
    if name == "power" and constants[1] is not None:
        return constant_power(operands[0], float(constants[1]), operands[1], _suffix(result))
    if name == "exp" and sign(node.inputs[0]) in (-1, 0):
        return _own("exp_nonpositive")(dtype, *operands)
    return EXPRESSIONS[name](dtype, *operands)


def _cast(source: DType, target: DType, x: str) -> str:
    if source is target:
        return x
    if target.kind == "b":
        return f"({x} != 0)"
    if source.kind == "f" and target.kind in "iu" and target.bits < 32:
        return f"({ctype(target.name)})(int){x}"
    if source.kind == "f" and target.name == "uint64":
        return f"({x} < 0 ? (ulong)(long){x} : (ulong){x})"
    if source.kind == "f" and target.name == "uint32":
        return f"(uint)(long){x}"
    return f"({ctype(target.name)}){x}"
