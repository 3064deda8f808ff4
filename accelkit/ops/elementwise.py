"""Elementwise functions of the Array API standard, with its type promotion."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from accelkit import dtypes
from accelkit.arguments import require_number
from accelkit.dtypes import DType
from accelkit.errors import DTypeError, OptionError
from accelkit.ops.coercion import cast, floating, on_host, pair, scalar_like, tensor
from accelkit.primitives import elementwise as p
from accelkit.primitives.primitive import Primitive
from accelkit.tensor import Tensor

Operand = Any


def _unary(name: str, primitive: Primitive[Tensor]) -> Callable[[Operand], Tensor]:
    def function(x: Operand, /) -> Tensor:
        result: Tensor = primitive(floating(x, name))
        return result

    _name(function, name, primitive)
    return function


def _binary(
    name: str, primitive: Primitive[Tensor], *, on_bool: Primitive[Tensor] | None = None
) -> Callable[[Operand, Operand], Tensor]:
    def function(x1: Operand, x2: Operand, /) -> Tensor:
        a, b = pair(x1, x2)
        if on_bool is not None and a.dtype is dtypes.bool_:
            return on_bool(a, b)
        return primitive(a, b)

    _name(function, name, primitive)
    return function


def _name(function: Callable[..., Tensor], name: str, primitive: Primitive) -> None:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = primitive.__doc__


add = _binary("add", p.add)
subtract = _binary("subtract", p.subtract)
multiply = _binary("multiply", p.multiply)
divide = _binary("divide", p.divide)
floor_divide = _binary("floor_divide", p.floor_divide)
remainder = _binary("remainder", p.remainder)
maximum = _binary("maximum", p.maximum)
minimum = _binary("minimum", p.minimum)
atan2 = _binary("atan2", p.arctan2)
equal = _binary("equal", p.equal)
not_equal = _binary("not_equal", p.not_equal)
less = _binary("less", p.less)
less_equal = _binary("less_equal", p.less_equal)
greater = _binary("greater", p.greater)
greater_equal = _binary("greater_equal", p.greater_equal)
logical_and = _binary("logical_and", p.logical_and)
logical_or = _binary("logical_or", p.logical_or)
logical_xor = _binary("logical_xor", p.logical_xor)
bitwise_and = _binary("bitwise_and", p.bitwise_and, on_bool=p.logical_and)
bitwise_or = _binary("bitwise_or", p.bitwise_or, on_bool=p.logical_or)
bitwise_xor = _binary("bitwise_xor", p.bitwise_xor, on_bool=p.logical_xor)
bitwise_left_shift = _binary("bitwise_left_shift", p.shift_left)
bitwise_right_shift = _binary("bitwise_right_shift", p.shift_right)

exp = _unary("exp", p.exp)
expm1 = _unary("expm1", p.expm1)
log = _unary("log", p.log)
log1p = _unary("log1p", p.log1p)
sqrt = _unary("sqrt", p.sqrt)
rsqrt = _unary("rsqrt", p.rsqrt)
sin = _unary("sin", p.sin)
cos = _unary("cos", p.cos)
tan = _unary("tan", p.tan)
asin = _unary("asin", p.arcsin)
acos = _unary("acos", p.arccos)
atan = _unary("atan", p.arctan)
sinh = _unary("sinh", p.sinh)
cosh = _unary("cosh", p.cosh)
tanh = _unary("tanh", p.tanh)
asinh = _unary("asinh", p.arcsinh)
acosh = _unary("acosh", p.arccosh)
atanh = _unary("atanh", p.arctanh)
erf = _unary("erf", p.erf)
sigmoid = _unary("sigmoid", p.sigmoid)


def _rounding(name: str, primitive: Primitive[Tensor]) -> Callable[[Operand], Tensor]:
    def function(x: Operand, /) -> Tensor:
        t = tensor(x)
        if t.dtype.is_integer:
            return t
        return primitive(t)

    _name(function, name, primitive)
    return function


floor = _rounding("floor", p.floor)
ceil = _rounding("ceil", p.ceil)
round = _rounding("round", p.round_)
trunc = _rounding("trunc", p.trunc)


def abs(x: Operand, /) -> Tensor:
    """The absolute value of each element."""
    t = tensor(x)
    return t if t.dtype.kind == "u" else p.absolute(t)


def negative(x: Operand, /) -> Tensor:
    """-x; unsigned integers wrap around."""
    t = tensor(x)
    if t.dtype.kind == "u":
        return p.subtract(scalar_like(0, t), t)
    return p.negative(t)


def positive(x: Operand, /) -> Tensor:
    """x itself."""
    return tensor(x)


def sign(x: Operand, /) -> Tensor:
    """-1, 0 or 1 by the sign of each element; NaN for NaN."""
    t = tensor(x)
    if t.dtype.kind == "u":
        return cast(p.not_equal(t, scalar_like(0, t)), t.dtype)
    return p.sign(t)


def square(x: Operand, /) -> Tensor:
    """x * x"""
    t = tensor(x)
    return p.multiply(t, t)


def reciprocal(x: Operand, /) -> Tensor:
    """1 / x"""
    t = floating(x, "reciprocal")
    return p.divide(scalar_like(1.0, t), t)


def log2(x: Operand, /) -> Tensor:
    """Logarithm to the base 2."""
    return log(x) / math.log(2.0)


def log10(x: Operand, /) -> Tensor:
    """Logarithm to the base 10."""
    return log(x) / math.log(10.0)


def logaddexp(x1: Operand, x2: Operand, /) -> Tensor:
    """log(exp(x1) + exp(x2)) without overflow."""
    a, b = pair(x1, x2)
    a, b = floating(a, "logaddexp"), floating(b, "logaddexp")
    high, low = p.maximum(a, b), p.minimum(a, b)
    same = p.equal(high, low)  # equal infinities have no difference
    gap = p.select(same, scalar_like(0.0, a), low - high)
    return high + log1p(exp(gap))


def hypot(x1: Operand, x2: Operand, /) -> Tensor:
    """sqrt(x1^2 + x2^2) without overflow; infinite if either is, even beside a NaN."""
    a, b = pair(x1, x2)
    a, b = abs(floating(a, "hypot")), abs(floating(b, "hypot"))
    high, low = p.maximum(a, b), p.minimum(a, b)
    regular = isfinite(high) & (high > 0.0)
    safe = p.select(regular, high, scalar_like(1.0, high))
    result = p.select(regular, safe * sqrt(square(low / safe) + 1.0), high)
    return p.select(isinf(a) | isinf(b), scalar_like(math.inf, high), result)


def copysign(x1: Operand, x2: Operand, /) -> Tensor:
    """The magnitude of x1 with the sign of x2."""
    a, b = pair(x1, x2)
    magnitude = abs(floating(a, "copysign"))
    return where(signbit(b), -magnitude, magnitude)


def signbit(x: Operand, /) -> Tensor:
    """Whether the sign bit is set, that of -0.0 included; False for NaN."""
    t = floating(x, "signbit")
    one = scalar_like(1.0, t)
    return (t < 0.0) | ((t == 0.0) & (p.divide(one, t) < 0.0))


def isfinite(x: Operand, /) -> Tensor:
    """Whether each element is neither NaN nor infinite."""
    t = tensor(x)
    if not t.dtype.is_floating:
        return p.equal(t, t)
    return p.is_finite(t)


def isnan(x: Operand, /) -> Tensor:
    """Whether each element is NaN."""
    t = tensor(x)
    return p.is_nan(t) if t.dtype.is_floating else p.not_equal(t, t)


def isinf(x: Operand, /) -> Tensor:
    """Whether each element is infinite."""
    t = tensor(x)
    if not t.dtype.is_floating:
        return p.not_equal(t, t)
    return p.equal(p.absolute(t), scalar_like(math.inf, t))


def logical_not(x: Operand, /) -> Tensor:
    """not x"""
    return p.logical_not(tensor(x))


def bitwise_invert(x: Operand, /) -> Tensor:
    """~x; for bool, not x."""
    t = tensor(x)
    return p.logical_not(t) if t.dtype is dtypes.bool_ else p.bitwise_not(t)


def pow(x1: Operand, x2: Operand, /) -> Tensor:
    """x1 ** x2. Integer powers of integers wrap around; their exponent must not be negative.

    Raises:
        OptionError: for an integer tensor and a negative number.
    """
    if isinstance(x2, int) and not isinstance(x2, bool) and isinstance(x1, Tensor):
        if x1.dtype.is_integer and x2 < 0:
            raise OptionError(
                f"An integer tensor has no power {x2}: convert it with `.astype('float32')`."
            )
        if x1.dtype.is_integer or x2 in (1, 2, 3):
            return _repeated_product(x1, x2)
        return p.power(x1, scalar_like(float(x2), x1))
    if isinstance(x2, float) and x2 in (1.0, 2.0, 3.0) and isinstance(x1, Tensor):
        scalar_like(x2, x1)
        return _repeated_product(x1, int(x2))
    a, b = pair(x1, x2)
    return _integer_power(a, b) if a.dtype.is_integer else p.power(a, b)


def _repeated_product(x: Tensor, exponent: int) -> Tensor:
    """x to a known power by repeated squaring."""
    result: Tensor | None = None
    while exponent:
        if exponent & 1:
            result = x if result is None else p.multiply(result, x)
        exponent >>= 1
        if exponent:
            x = p.multiply(x, x)
    return x * 0 + 1 if result is None else result


def _integer_power(base: Tensor, exponent: Tensor) -> Tensor:
    one, zero = scalar_like(1, base), scalar_like(0, base)
    result = p.add(p.multiply(base, zero), p.add(p.multiply(exponent, zero), one))
    for bit in range(base.dtype.bits - (base.dtype.kind == "i")):
        is_set = p.bitwise_and(p.shift_right(exponent, scalar_like(bit, base)), one)
        result = p.select(p.equal(is_set, one), p.multiply(result, base), result)
        base = p.multiply(base, base)
    return result


def where(condition: Operand, x1: Operand, x2: Operand, /) -> Tensor:
    """x1 where condition (bool) holds, x2 elsewhere; all three broadcast.

    Raises:
        DTypeError: for a condition that is not bool.
    """
    c = tensor(condition)
    if c.dtype is not dtypes.bool_:
        raise DTypeError(f"where needs a bool condition, got {c.dtype}. Compare it, e.g. `x != 0`.")
    if not isinstance(x1, Tensor) and not isinstance(x2, Tensor):
        from accelkit.ops.coercion import scalar
        from accelkit.ops.properties import result_type

        dtype = result_type(x1, x2)
        device = None if c.is_traced else c.device
        return p.select(c, scalar(x1, dtype, device), scalar(x2, dtype, device))
    a, b = pair(x1, x2)
    return p.select(c, a, b)


def clip(x: Operand, /, min: Operand = None, max: Operand = None) -> Tensor:
    """x limited to [min, max]; NaN stays NaN. At a limit the derivative is that of x."""
    result = tensor(x)
    if min is not None:
        a, low = pair(result, min)
        result = p.select(p.less(a, low), low, a)
    if max is not None:
        a, high = pair(result, max)
        result = p.select(p.greater(a, high), high, a)
    return result


def isclose(
    x1: Operand,
    x2: Operand,
    /,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-8,
    equal_nan: bool = False,
) -> Tensor:
    """Whether |x1 - x2| <= atol + rtol * |x2|; infinities are close to themselves alone.

    Args:
        x1, x2: Numbers that broadcast.
        rtol, atol: At least 0.
        equal_nan: Whether NaN is close to NaN.
    """
    require_number("rtol", rtol)
    require_number("atol", atol)
    a, b = pair(x1, x2)
    same = p.equal(a, b)
    if equal_nan and a.dtype.is_floating:
        same = p.logical_or(same, logical_and(isnan(a), isnan(b)))
    if not a.dtype.is_floating:
        a, b = cast(a, dtypes.float64), cast(b, dtypes.float64)
    near = abs(a - b) <= abs(b) * float(rtol) + float(atol)
    return logical_or(same, logical_and(near, isfinite(b)))


def nextafter(x1: Operand, x2: Operand, /) -> Tensor:
    """The next number of the dtype after x1 in the direction of x2.

    Computed on the host, by the bits of the numbers: not in a trace.
    """
    a, b = pair(x1, x2)
    a, b = floating(a, "nextafter"), floating(b, "nextafter")
    return on_host("nextafter", np.nextafter, a, b)


def astype(x: Tensor, dtype: DType | str, /, *, copy: bool = True, device: Any = None) -> Tensor:
    """x in another dtype. Tensors are immutable, so nothing is copied if it has it already."""
    converted = cast(tensor(x), dtypes.dtype(dtype))
    return converted if device is None else converted.to(device)
