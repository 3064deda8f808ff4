"""Elementwise primitives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from accelkit.dtypes import DType
from accelkit_numpy.precision import widen_bfloat16_1, widen_bfloat16_2, widen_half
from accelkit_numpy.special import erf


def _sigmoid(x: Any) -> Any:
    e = np.exp(-np.abs(x))  # never overflows
    one = x.dtype.type(1)
    return np.where(x < 0, e, one) / (e + one)


def _rsqrt(x: Any) -> Any:
    return np.reciprocal(np.sqrt(x))


def _power(x: Any, y: Any) -> Any:
    result = np.power(x, y)
    if x.dtype.kind == "f" and (root := y == 0.5).any():
        # NumPy may take a square root; IEEE 754 has (-inf)^0.5 = inf and (-0.0)^0.5 = 0.0.
        return np.where(root, np.where(np.isneginf(x), -x, np.abs(result)), result)
    return result


def _cast(x: Any, *, dtype: DType) -> Any:
    target = dtype.numpy
    if x.dtype == target:
        return x
    if target.kind == "b":
        return x != x.dtype.type(0)
    return x.astype(target)


def _relu(x: Any) -> Any:
    zero = x.dtype.type(0)
    return np.where(x < zero, zero, x)


def _relu_grad(y: Any, g: Any) -> Any:
    zero = y.dtype.type(0)
    return np.where(y <= zero, zero, g)


def _identity(x: Any) -> Any:
    return x


_UNARY: dict[str, Callable[..., Any]] = {
    "negative": np.negative,
    "absolute": np.absolute,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "arcsin": np.arcsin,
    "arccos": np.arccos,
    "arctan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "arcsinh": np.arcsinh,
    "arccosh": np.arccosh,
    "arctanh": np.arctanh,
    "erf": erf,
    "logical_not": np.logical_not,
    "bitwise_not": np.invert,
    "is_nan": np.isnan,
    "is_finite": np.isfinite,
}
_BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "floor_divide": np.floor_divide,
    "remainder": np.remainder,
    "power": _power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "arctan2": np.arctan2,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor,
    "shift_left": np.left_shift,
    "shift_right": np.right_shift,
}
ELEMENTWISE: dict[str, Callable[..., Any]] = {
    **{name: widen_bfloat16_1(function) for name, function in _UNARY.items()},
    **{name: widen_bfloat16_2(function) for name, function in _BINARY.items()},
    "rsqrt": widen_half(_rsqrt),
    "sigmoid": widen_half(_sigmoid),
    "select": np.where,
    "cast": _cast,
    "relu": _relu,
    "relu_grad": _relu_grad,
    "alias": _identity,
    "stop_gradient": _identity,
}
