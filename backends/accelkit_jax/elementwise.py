"""Elementwise primitives on :mod:`jax.lax`, which neither broadcasts nor promotes by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from accelkit.dtypes import DType

Function = Callable[..., Any]


def number(value: bool | int | float, like: Any) -> Any:
    """A scalar constant of the dtype of ``like``: never a weak type, which would leak."""
    return lax.full((), value, like.dtype)


def broadcast(*arrays: Any) -> list[Any]:
    """All arrays in their common shape, by NumPy's rules."""
    shape = jnp.broadcast_shapes(*(x.shape for x in arrays))
    return [x if x.shape == shape else broadcast_to(x, shape) for x in arrays]


def broadcast_to(x: Any, shape: tuple[int, ...]) -> Any:
    """One array repeated to ``shape``; axes of extent 1 are dropped first, as XLA wants it."""
    offset = len(shape) - x.ndim
    kept = [axis for axis in range(x.ndim) if x.shape[axis] == shape[offset + axis]]
    squeezed = lax.squeeze(x, [axis for axis in range(x.ndim) if axis not in kept])
    return lax.broadcast_in_dim(squeezed, shape, [offset + axis for axis in kept])


def is_float(x: Any) -> bool:
    """Whether an array holds floating-point numbers (bfloat16 is one that NumPy does not know)."""
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _binary(function: Function) -> Function:
    def run(a: Any, b: Any) -> Any:
        return function(*broadcast(a, b))

    return run


def _round(x: Any) -> Any:
    return lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)


def _trunc(x: Any) -> Any:
    return lax.select(lax.lt(x, lax.full_like(x, 0)), lax.ceil(x), lax.floor(x))


def _opposite_signs(remainder: Any, b: Any) -> Any:
    """Where the remainder of truncated division is not that of floored division."""
    zero = lax.full_like(b, 0)
    differs = lax.ne(lax.lt(remainder, zero), lax.lt(b, zero))
    return lax.bitwise_and(differs, lax.ne(remainder, zero))


def _remainder(a: Any, b: Any) -> Any:
    remainder = lax.rem(a, b)
    return lax.select(_opposite_signs(remainder, b), lax.add(remainder, b), remainder)


def _floor_divide(a: Any, b: Any) -> Any:
    one = lax.full_like(b, 1)
    remainder = lax.rem(a, b)
    if not is_float(a):
        quotient = lax.div(a, b)
        return lax.select(_opposite_signs(remainder, b), lax.sub(quotient, one), quotient)
    # From the exact remainder: a / b itself may round up to the next integer.
    quotient = lax.div(lax.sub(a, remainder), b)
    quotient = lax.select(_opposite_signs(remainder, b), lax.sub(quotient, one), quotient)
    return lax.select(lax.eq(b, lax.full_like(b, 0)), lax.div(a, b), _round(quotient))


def _shift_right(a: Any, b: Any) -> Any:
    signed = jnp.issubdtype(a.dtype, jnp.signedinteger)
    shift = lax.shift_right_arithmetic if signed else lax.shift_right_logical
    return shift(a, b)


def _is_nan(x: Any) -> Any:
    return lax.ne(x, x)


def _select(condition: Any, a: Any, b: Any) -> Any:
    return lax.select(*broadcast(condition, a, b))


def _cast(x: Any, *, dtype: DType) -> Any:
    if dtype.kind == "b":
        return lax.ne(x, lax.full_like(x, 0))
    if x.dtype == jnp.bool_ and dtype.is_floating:
        # XLA takes the product of a converted bool and x for a selection, which drops x's NaN.
        return lax.select(x, *(lax.full(x.shape, number, dtype.numpy) for number in (1, 0)))
    return lax.convert_element_type(x, dtype.numpy)


def _identity(x: Any) -> Any:
    return x


ELEMENTWISE: dict[str, Function] = {
    "negative": lax.neg,
    "absolute": lax.abs,
    "sign": lax.sign,
    "floor": lax.floor,
    "ceil": lax.ceil,
    "round": _round,
    "trunc": _trunc,
    "exp": lax.exp,
    "expm1": lax.expm1,
    "log": lax.log,
    "log1p": lax.log1p,
    "sqrt": lax.sqrt,
    "rsqrt": lax.rsqrt,
    "sin": lax.sin,
    "cos": lax.cos,
    "tan": lax.tan,
    "arcsin": lax.asin,
    "arccos": lax.acos,
    "arctan": lax.atan,
    "sinh": lax.sinh,
    "cosh": lax.cosh,
    "tanh": lax.tanh,
    "arcsinh": lax.asinh,
    "arccosh": lax.acosh,
    "arctanh": lax.atanh,
    "erf": lax.erf,
    "sigmoid": lax.logistic,
    "logical_not": lax.bitwise_not,
    "bitwise_not": lax.bitwise_not,
    "is_nan": _is_nan,
    "is_finite": lax.is_finite,
    "add": _binary(lax.add),
    "subtract": _binary(lax.sub),
    "multiply": _binary(lax.mul),
    "divide": _binary(lax.div),
    "floor_divide": _binary(_floor_divide),
    "remainder": _binary(_remainder),
    "power": _binary(lax.pow),
    "maximum": _binary(lax.max),
    "minimum": _binary(lax.min),
    "arctan2": _binary(lax.atan2),
    "equal": _binary(lax.eq),
    "not_equal": _binary(lax.ne),
    "less": _binary(lax.lt),
    "less_equal": _binary(lax.le),
    "greater": _binary(lax.gt),
    "greater_equal": _binary(lax.ge),
    "logical_and": _binary(lax.bitwise_and),
    "logical_or": _binary(lax.bitwise_or),
    "logical_xor": _binary(lax.bitwise_xor),
    "bitwise_and": _binary(lax.bitwise_and),
    "bitwise_or": _binary(lax.bitwise_or),
    "bitwise_xor": _binary(lax.bitwise_xor),
    "shift_left": _binary(lax.shift_left),
    "shift_right": _binary(_shift_right),
    "select": _select,
    "cast": _cast,
    "alias": _identity,
    "stop_gradient": _identity,
}
