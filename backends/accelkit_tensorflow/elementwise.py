"""Elementwise primitives. TensorFlow's operations broadcast by themselves.

XLA's maximum and minimum drop NaN as TensorFlow configures them for CPUs; the forms here do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelkit.dtypes import DType
from accelkit_tensorflow.framework import tf

ops = tf.raw_ops
Function = Callable[..., Any]


def number(value: bool | int | float, like: Any) -> Any:
    """A scalar constant of the dtype of ``like``."""
    return tf.constant(value, like.dtype)


def is_nan(x: Any) -> Any:
    """Whether each element is NaN."""
    return ops.NotEqual(x=x, y=x)


def _unary(operation: Function) -> Function:
    def run(x: Any) -> Any:
        return operation(x=x)

    return run


def _binary(operation: Function) -> Function:
    def run(a: Any, b: Any) -> Any:
        return operation(x=a, y=b)

    return run


def _trunc(x: Any) -> Any:
    negative = ops.Less(x=x, y=number(0, x))
    return ops.SelectV2(condition=negative, t=ops.Ceil(x=x), e=ops.Floor(x=x))


def _extremum(compare: Function, operation: Function) -> Function:
    def run(a: Any, b: Any) -> Any:
        if not a.dtype.is_floating:
            return operation(x=a, y=b)
        takes_a = ops.LogicalOr(x=compare(x=a, y=b), y=is_nan(a))
        return ops.SelectV2(condition=takes_a, t=a, e=b)

    return run


def _floor_divide(a: Any, b: Any) -> Any:
    if not a.dtype.is_floating:
        return ops.FloorDiv(x=a, y=b)
    # From the exact remainder: a / b itself may round up to the next integer.
    zero, one = number(0, a), number(1, a)
    remainder = ops.TruncateMod(x=a, y=b)
    quotient = ops.RealDiv(x=ops.Sub(x=a, y=remainder), y=b)
    differs = ops.NotEqual(x=ops.Less(x=remainder, y=zero), y=ops.Less(x=b, y=zero))
    lower = ops.LogicalAnd(x=differs, y=ops.NotEqual(x=remainder, y=zero))
    quotient = ops.SelectV2(condition=lower, t=ops.Sub(x=quotient, y=one), e=quotient)
    by_zero = ops.Equal(x=b, y=zero)
    return ops.SelectV2(condition=by_zero, t=ops.RealDiv(x=a, y=b), e=ops.Rint(x=quotient))


def _arctan2(a: Any, b: Any) -> Any:
    return ops.Atan2(y=a, x=b)


def _select(condition: Any, a: Any, b: Any) -> Any:
    return ops.SelectV2(condition=condition, t=a, e=b)


def _cast(x: Any, *, dtype: DType) -> Any:
    if dtype.kind == "b":
        return x if x.dtype == tf.bool else ops.NotEqual(x=x, y=number(0, x))
    if x.dtype == tf.bool and dtype.is_floating:
        # XLA takes the product of a converted bool and x for a selection, which drops x's NaN.
        one, zero = (tf.constant(value, dtype.name) for value in (1, 0))
        return ops.SelectV2(condition=x, t=one, e=zero)
    return ops.Cast(x=x, DstT=dtype.name)


def _erf(x: Any) -> Any:
    if x.dtype == tf.float64:  # of infinities TensorFlow's kernel makes NaN
        six = number(6, x)  # from there on, one to the last bit
        x = ops.ClipByValue(t=x, clip_value_min=-six, clip_value_max=six)
    return ops.Erf(x=x)


def _identity(x: Any) -> Any:
    return x


ELEMENTWISE: dict[str, Function] = {
    "negative": _unary(ops.Neg),
    "absolute": _unary(ops.Abs),
    "sign": _unary(ops.Sign),
    "floor": _unary(ops.Floor),
    "ceil": _unary(ops.Ceil),
    "round": _unary(ops.Rint),
    "trunc": _trunc,
    "exp": _unary(ops.Exp),
    "expm1": _unary(ops.Expm1),
    "log": _unary(ops.Log),
    "log1p": _unary(ops.Log1p),
    "sqrt": _unary(ops.Sqrt),
    "rsqrt": _unary(ops.Rsqrt),
    "sin": _unary(ops.Sin),
    "cos": _unary(ops.Cos),
    "tan": _unary(ops.Tan),
    "arcsin": _unary(ops.Asin),
    "arccos": _unary(ops.Acos),
    "arctan": _unary(ops.Atan),
    "sinh": _unary(ops.Sinh),
    "cosh": _unary(ops.Cosh),
    "tanh": _unary(ops.Tanh),
    "arcsinh": _unary(ops.Asinh),
    "arccosh": _unary(ops.Acosh),
    "arctanh": _unary(ops.Atanh),
    "erf": _erf,
    "sigmoid": _unary(ops.Sigmoid),
    "logical_not": _unary(ops.LogicalNot),
    "bitwise_not": _unary(ops.Invert),
    "is_nan": is_nan,
    "is_finite": _unary(ops.IsFinite),
    "add": _binary(ops.AddV2),
    "subtract": _binary(ops.Sub),
    "multiply": _binary(ops.Mul),
    "divide": _binary(ops.RealDiv),
    "floor_divide": _floor_divide,
    "remainder": _binary(ops.FloorMod),
    "power": _binary(ops.Pow),
    "maximum": _extremum(ops.GreaterEqual, ops.Maximum),
    "minimum": _extremum(ops.LessEqual, ops.Minimum),
    "arctan2": _arctan2,
    "equal": _binary(ops.Equal),
    "not_equal": _binary(ops.NotEqual),
    "less": _binary(ops.Less),
    "less_equal": _binary(ops.LessEqual),
    "greater": _binary(ops.Greater),
    "greater_equal": _binary(ops.GreaterEqual),
    "logical_and": _binary(ops.LogicalAnd),
    "logical_or": _binary(ops.LogicalOr),
    "logical_xor": _binary(ops.NotEqual),
    "bitwise_and": _binary(ops.BitwiseAnd),
    "bitwise_or": _binary(ops.BitwiseOr),
    "bitwise_xor": _binary(ops.BitwiseXor),
    "shift_left": _binary(ops.LeftShift),
    "shift_right": _binary(ops.RightShift),
    "select": _select,
    "cast": _cast,
    "alias": _identity,
    "stop_gradient": _identity,
}
