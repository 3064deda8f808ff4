"""Standard normals on the host, the same bits on every machine.

A normal is the inverse of the normal distribution function at ``p = (word + 0.5) * 2^-32``, one
Philox word per element, by the rational approximations of Wichura's algorithm AS 241 (*The
percentage points of the normal distribution*, Applied Statistics 37, 1988; relative accuracy
about 1e-16). Everything is computed in float64 with ``+ - * /`` and ``sqrt`` only, which IEEE
754 rounds correctly: NumPy's own ``log`` and ``exp`` give other bits with other SIMD levels.

With 32-bit words, ``|z| <= 6.34`` and ``p`` stays above 2^-33, so that AS 241's third range
(``sqrt(-log p) > 5``) is never reached and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from accelkit import dtypes
from accelkit.errors import DTypeError
from accelkit.random.arguments import Key, check_shape
from accelkit.random.blocks import Words, for_each_chunk

__all__ = ["normals_of_words", "random_normal"]

Float64Array = NDArray[np.float64]

# AS 241, routine PPND16: coefficients from the highest power down, centre (|p - 1/2| <= 0.425)
# and tails.
_CENTRE_SQUARED: Final = 0.180625
_CENTRE_NUMERATOR: Final = (
    2.5090809287301226727e3,
    3.3430575583588128105e4,
    6.7265770927008700853e4,
    4.5921953931549871457e4,
    1.3731693765509461125e4,
    1.9715909503065514427e3,
    1.3314166789178437745e2,
    3.3871328727963666080e0,
)
_CENTRE_DENOMINATOR: Final = (
    5.2264952788528545610e3,
    2.8729085735721942674e4,
    3.9307895800092710610e4,
    2.1213794301586595867e4,
    5.3941960214247511077e3,
    6.8718700749205790830e2,
    4.2313330701600911252e1,
    1.0,
)
_TAIL_NUMERATOR: Final = (
    7.74545014278341407640e-4,
    2.27238449892691845833e-2,
    2.41780725177450611770e-1,
    1.27045825245236838258e0,
    3.64784832476320460504e0,
    5.76949722146069140550e0,
    4.63033784615654529590e0,
    1.42343711074968357734e0,
)
_TAIL_DENOMINATOR: Final = (
    1.05075007164441684324e-9,
    5.47593808499534494600e-4,
    1.51986665636164571966e-2,
    1.48103976427480074590e-1,
    6.89767334985100004550e-1,
    1.67638483018380384940e0,
    2.05319162663775882187e0,
    1.0,
)

# Elements converted at a time (512 KB per work array; see the remark on threads in blocks.py).
_PIECE: Final = 65536

# Numbers for which arrays cost more than one number after the other.
_FEW: Final = 16

# log(2) in two parts; the first has 21 trailing zero bits, so its product with an exponent is
# exact.
_LOG2_HIGH: Final = float.fromhex("0x1.62e42fee00000p-1")
_LOG2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")
# atanh(s)/s = 1 + s^2/3 + s^4/5 + ...; for s <= 3 - 2*sqrt(2) the first term left out is below
# 2^-56 of the sum.
_ATANH: Final = tuple(1.0 / power for power in range(21, 1, -2))


def random_normal(
    key: Key, shape: Sequence[int], dtype: object = dtypes.float32, *, offset: int = 0
) -> NDArray[Any]:
    """Draw standard normals, one 32-bit word each, bit-identical on every machine.

    Args:
        key: Two unsigned 32-bit words.
        shape: Shape of the result.
        dtype: A floating-point dtype. The float64 value is rounded once to float32; float16
            and bfloat16 are rounded from the float32 value, so that they equal the cast of
            float32 weights.
        offset: Index of the result's first element within the stream.

    Returns:
        Array of ``shape``; it does not depend on the number of threads.

    Raises:
        DTypeError: if ``dtype`` is not a floating-point type.
        OptionError: if the key, the shape or the offset is invalid.

    Example:
        >>> [f"{normal:.4f}" for normal in random_normal((0, 0), (3,))]
        ['-0.2558', '1.1776', '0.6302']
    """
    target = dtypes.dtype(dtype)
    if not target.is_floating:
        raise DTypeError(f"Normal numbers need a floating-point dtype, got {target}.")
    shape = check_shape(shape)
    out = np.empty(math.prod(shape), target.numpy)
    narrow = target.itemsize < 4

    def make_convert() -> _Normals:
        return _Normals(out, through_float32=narrow)

    for_each_chunk(key, offset, out.size, make_convert)
    return out.reshape(shape)


def normals_of_words(words: Words) -> Float64Array:
    """The standard normals of 32-bit words, whatever their number, of the same shape.

    The bits are those of :func:`random_normal` with float64.
    """
    if words.size <= _FEW:
        return np.array([_normal(word) for word in words.reshape(-1).tolist()]).reshape(words.shape)
    work = np.empty((3, words.size))
    return _inverse_distribution(words.reshape(-1), *work).reshape(words.shape)


class _Normals:
    """Converts words to normals; one instance, with its work arrays, per thread."""

    def __init__(self, out: NDArray[Any], *, through_float32: bool) -> None:
        self.out = out
        self.through_float32 = through_float32
        self.work = np.empty((3, min(_PIECE, out.size)))

    def __call__(self, words: Words, part: slice) -> None:
        out = self.out[part]
        for begin in range(0, len(words), _PIECE):
            piece = words[begin : begin + _PIECE]
            normals = _inverse_distribution(piece, *self.work[:, : len(piece)])
            out[begin : begin + _PIECE] = (
                normals.astype(np.float32) if self.through_float32 else normals
            )


def _inverse_distribution(
    words: Words, q: Float64Array, r: Float64Array, result: Float64Array
) -> Float64Array:
    """Fill ``result`` with the normals of ``words``; ``q`` and ``r`` are scratch."""
    # q = p - 1/2, exact in float64.
    np.subtract(words, 2.0**31 - 0.5, out=q)
    q *= 2.0**-32
    np.multiply(q, q, out=r)
    np.subtract(_CENTRE_SQUARED, r, out=r)
    tail = np.flatnonzero(r < 0.0)
    q_tail = q[tail]
    # Tails run through the centre's formula too and are overwritten: cheaper than a gather.
    r[tail] = 0.0
    _polynomial(_CENTRE_NUMERATOR, r, out=result)
    result *= q
    _polynomial(_CENTRE_DENOMINATOR, r, out=q)
    result /= q
    result[tail] = _tail(q_tail)
    return result


def _tail(q: Float64Array) -> Float64Array:
    r = np.sqrt(-_log(0.5 - np.abs(q)))
    r -= 1.6
    normals = _polynomial(_TAIL_NUMERATOR, r, out=np.empty_like(r))
    normals /= _polynomial(_TAIL_DENOMINATOR, r, out=np.empty_like(r))
    return np.copysign(normals, q)


def _log(x: Float64Array) -> Float64Array:
    """Natural logarithm of positive normal numbers within 1.5 units in the last place."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < math.sqrt(0.5)
    mantissa[low] *= 2.0
    power = exponent - low
    mantissa -= 1.0
    s = mantissa / (mantissa + 2.0)
    square = s * s
    series = _polynomial(_ATANH, square, out=np.empty_like(s))
    series *= square
    s *= 2.0
    # log(1 + f) = 2s + 2s (s^2/3 + s^4/5 + ...), small parts first.
    series *= s
    series += power * _LOG2_LOW
    series += s
    series += power * _LOG2_HIGH
    return series


def _polynomial(
    coefficients: Sequence[float], x: Float64Array, *, out: Float64Array
) -> Float64Array:
    """Horner's rule, from the highest power down; every product and sum is rounded."""
    np.multiply(x, coefficients[0], out=out)
    for coefficient in coefficients[1:-1]:
        out += coefficient
        out *= x
    out += coefficients[-1]
    return out


def _normal(word: int) -> float:
    """:func:`_inverse_distribution` of one word: the same operations in the same order."""
    q = (word - (2.0**31 - 0.5)) * 2.0**-32
    r = _CENTRE_SQUARED - q * q
    if r >= 0.0:
        return _value(_CENTRE_NUMERATOR, r) * q / _value(_CENTRE_DENOMINATOR, r)
    r = math.sqrt(-_scalar_log(0.5 - abs(q))) - 1.6
    return math.copysign(_value(_TAIL_NUMERATOR, r) / _value(_TAIL_DENOMINATOR, r), q)


def _scalar_log(x: float) -> float:
    """:func:`_log` of one number: the same operations in the same order."""
    mantissa, power = math.frexp(x)
    if mantissa < math.sqrt(0.5):
        mantissa *= 2.0
        power -= 1
    mantissa -= 1.0
    s = mantissa / (mantissa + 2.0)
    series = _value(_ATANH, s * s) * (s * s)
    s *= 2.0
    return ((series * s + power * _LOG2_LOW) + s) + power * _LOG2_HIGH


def _value(coefficients: Sequence[float], x: float) -> float:
    """:func:`_polynomial` of one number."""
    value = coefficients[0] * x
    for coefficient in coefficients[1:-1]:
        value = (value + coefficient) * x
    return value + coefficients[-1]
