"""Powers in plain OpenCL C: templates of :mod:`~accelkit_opencl.kernels.elementary`.

What is rounded off ``y log x`` shows in ``x^y``, up to ``log(largest number)`` times. The general
function therefore carries the logarithm in two words. A known exponent that is small needs less:
with ``x = 2^e m`` the product ``e y`` takes two words, both of them short, but ``y log m`` is as
small as ``y`` and one word holds it well enough. A known exponent of medium size has its multiples
of the logarithm's constants in two words before the loop begins; what is left per element takes two
words only where it leads, after the result's own exponent has gone from it.

Errors in float32, of all arguments with normal results: for known exponents at most 1.2 units of
the last place up to 16, 1.8 up to 32 and 2.5 up to 64 (root mean squares 0.31, 0.35 and 0.38;
without a fused multiply-add up to 1.5, 1.8 and 2.7), and 1.6 in the general function.
"""

from __future__ import annotations

from typing import Final

__all__ = ["DOUBLE_POWERS", "POWERS", "SINGLE_POWERS", "constant_power"]

_SMALL: Final = 2.0  # exponents up to this have errors below 1.5 units of the last place
_MEDIUM: Final = 64.0  # the same, 2.5 units with a fused multiply-add

POWERS: Final[dict[str, str]] = {
    # What is rounded off p = a b: one operation where the processor has a fused multiply-add.
    "product_error": """#if defined(__FMA__) && !defined(AK_STANDARD_FUNCTIONS)
static inline T ak_product_error(T a, T b, T p) {
  return $FMA(a, b, -p);
}
#else
static inline T ak_product_error(T a, T b, T p) {
  const T ah = as_T(as_U(a) & $UPPER_HALF), bh = as_T(as_U(b) & $UPPER_HALF);
  const T al = a - ah, bl = b - bh;
  return ((ah * bh - p) + ah * bl + al * bh) + al * bl;
}
#endif
""",
}

# What powers are for arguments that are no positive normal numbers, by C99's Annex F: ``sized`` is
# |x|^y for finite numbers.
_ENDS: Final = """const T half_y = 0.5 * y;
  const int whole = ak_floor(y) == y, odd = whole & (ak_floor(half_y) != half_y);
  const T ended = ((a == 0) | (a == INFINITY)) ? ((a == 0) == (y < 0) ? INFINITY : 0.0) : sized;
  const T valid = ((x < 0) & !whole & (a != INFINITY)) ? NAN : ended;
  const T found = odd ? as_T(as_U(valid) | (as_U(x) & $SIGN)) : valid;
  return ((y == 0) | (x == 1.0)) ? 1.0 : (((x != x) | (y != y)) ? x + y : found);"""

DOUBLE_POWERS: Final[dict[str, str]] = {
    # x^y = e^(y log x), with log x and its product in two words (high + low): what is rounded off
    # them shows in the result, up to EXP_MOST times. log(1 + f) = head + tail of terms
    # 2 s + (2/3) s^3 + s^5 p(s^2); the second is at most 1 % and still takes two words.
    "power": """static inline T ak_power(T x, T y) {
  const T a = as_T(as_U(x) & ~$SIGN);
  const int tiny = a < $TINY;
  const U u = as_U(tiny ? a * $UP : a) + ($ONE - $SQRT_HALF);
  const T e = as_T((u >> $MANTISSA) | $INTEGER) - $INTEGER_BIAS - (tiny ? $UP_BITS : 0.0);
  const T v = as_T((u & $FRACTION) + $SQRT_HALF), f = v - 1.0, d = v + 1.0;
  const T inverse = 1.0 / d, s = f * inverse;
  const T sd = s * d;
  const T s_low = (((f - sd) - ak_product_error(s, d, sd)) - s * (v - (d - 1.0))) * inverse;
  const T z = s * s;
  const T z_low = ak_product_error(s, s, z) + 2.0 * s * s_low;
  const T cube = s * z, third = cube * $TWO_THIRDS;
  const T cube_low = ak_product_error(s, z, cube) + (s * z_low + s_low * z);
  const T third_low = ak_product_error(cube, $TWO_THIRDS, third) + (cube_low * $TWO_THIRDS
    + cube * $TWO_THIRDS_LOW);
  const T head = (s + s) + third;
  const T tail = (third - (head - (s + s))) + ((s_low + s_low)
    + (cube * z * $POWER(z) + third_low));
  const T lead = e * $LN2_HIGH, sum = lead + head;
  const T rest = (head - (sum - lead)) + (e * $LN2_LOW + tail);
  const T high = sum + rest, low = rest - (high - sum);
  const T b = y > $POWER_MOST ? $POWER_MOST : (y < -$POWER_MOST ? -$POWER_MOST : y);
  const T w = b * high, w_low = ak_product_error(b, high, w) + b * low;
  const T t = w * $LOG2E + $SHIFT;
  const T n = t - $SHIFT;
  const T r = ((w - n * $LN2_HIGH) - n * $LN2_LOW) + w_low;
  const T p = ($EXPM1(r) * r + 1.0) * r + 1.0;
  const T normal = as_T(as_U(p) + (as_U(t) << $MANTISSA));
  const T sized = w <= $EXP_MOST ? (w < $EXP_LEAST ? 0.0 : normal) : INFINITY;
  """
    + _ENDS
    + """
}
""",
}

SINGLE_POWERS: Final[dict[str, str]] = {
    # a + b c, exactly, where 12 bits of b times c have no more bits than a number, nor has the sum.
    "add_product": """#if defined(__FMA__) && !defined(AK_STANDARD_FUNCTIONS)
static inline T ak_add_product(T a, T b, T c) {
  return $FMA(b, c, a);
}
#else
static inline T ak_add_product(T a, T b, T c) {
  const T bh = as_T(as_U(b) & $UPPER_HALF);
  return (a + bh * c) + (b - bh) * c;
}
#endif
""",
    # x^y for x 2^e0 positive and normal: x = 2^e m, m (1 + d) = 1 + r with one of three d, so that
    # log x = e log 2 - log(1 + d) + log(1 + r), the first two of them short and exact in their sum.
    # Of log(1 + r) = r - r^2 / 2 + r^2 c the last term is below 0.6 % of the first and takes one
    # word.
    "power_normal": """static inline T ak_power_normal(T x, T e0, T y) {
  const int i = as_int(x), j = i - (int)$POWER_LEAST;
  const T e = (T)(j >> $MANTISSA) - e0;
  const T m = as_T(i - (j & (int)$SIGN_EXPONENT));
  const int below = m < 0.894, above = m > 1.109;
  const T d = below ? 0.25 : (above ? -0.1875 : 0.0);
  const T head = below ? -0x1.c9p-3 : (above ? 0x1.a94p-3 : 0.0);
  const T head_low = below ? 9.79935790242e-7 : (above ? -2.2367842555e-6 : 0.0);
  const T r = ak_add_product(m - 1.0, m, d);
  const T z = r * r, z_low = ak_product_error(r, r, z);
  const T c = r * $THIRD + z * $LOG_SHORT(r);
  const T g = r - 0.5 * z, g_low = (((r - g) - 0.5 * z) + z * c) + z_low * (c - 0.5);
  const T lead = e * $LN2_HIGH + head, high = lead + g;
  const T low = ((g - (high - lead)) + g_low) + (e * $LN2_LOW + head_low);
  const T w = y * high, w_low = ak_product_error(y, high, w) + y * low, v = w + w_low;
  const T t = v * $LOG2E + $SHIFT;
  const T n = t - $SHIFT;
  const T q = ((w - n * $LN2_HIGH) - n * $LN2_LOW) + w_low;
  const T p = ($EXPM1(q) * q + 1.0) * q + 1.0;
  const T normal = as_T(as_U(p) + (as_U(t) << $MANTISSA));
  return v <= $EXP_MOST ? (v < $EXP_LEAST ? 0.0 : normal) : INFINITY;
}
""",
    "power_near": """static inline T ak_power_near(T x, T y) {
  return ak_power_normal(x, 0.0, y);
}
""",
    "power_far": """static inline int ak_power_far(T x, T y) {
  return (as_U(x) - $TINY_BITS >= $NORMALS) | !(as_T(as_U(y) & ~$SIGN) <= $POWER_MOST);
}
""",
    "power": """static inline T ak_power(T x, T y) {
  const T a = as_T(as_U(x) & ~$SIGN);
  const int tiny = a < $TINY;
  const T b = y > $POWER_MOST ? $POWER_MOST : (y < -$POWER_MOST ? -$POWER_MOST : y);
  const T sized = ak_power_normal(tiny ? a * $UP : a, tiny ? $UP_BITS : 0.0, b);
  """
    + _ENDS
    + """
}
""",
    # y (high + low) - rounded, for a high of 12 bits.
    "rest_of_multiple": """static inline T ak_rest_of_multiple(T y, T high, T low, T rounded) {
  const T upper = as_T(as_U(y) & $UPPER_HALF);
  return ((upper * high - rounded) + (y - upper) * high) + y * low;
}
""",
    # For exponents up to 64 that are known: x = 2^e m, m p = 1 + r with p = 3/4, 1 or 5/4, of which
    # -log2 p is a quadratic polynomial with coefficients a, b and -(a + b). With y, a and b in two
    # words, of which the high ones are multiples of 2^-15 at least, u = y (e - log2 p) has no
    # rounding but for what low takes. Then y log2 x = u + low + c r + c r^2 p(r) = n + q.
    "power_medium_normal": """static inline T ak_power_medium_normal(T x, T y) {
  const T y_high = (y + 384.0) - 384.0;
  const T b_high = (y * 0.7448752351318517 + 6144.0) - 6144.0;
  const T a_high = (y * -2.963681658596116 + 1536.0) - 1536.0;
  const T b_low = ak_rest_of_multiple(y, 0.744873046875, 2.1882568517654075e-6, b_high);
  const T a_low = ak_rest_of_multiple(y, -2.9638671875, 1.8552890388413636e-4, a_high);
  const T c = y * $LOG2E, c_high = as_T(as_U(c) & $UPPER_HALF);
  const T c_low = ak_rest_of_multiple(y, $LOG2E_HIGH, $LOG2E_LOW, c_high);
  const int i = as_int(x), j = (i - (int)$POWER_LEAST) & (int)$SIGN_EXPONENT;
  const T m = as_T(i - j), e = (T)j;
  const T p = (m * -0.985 + 3145728.0) - 3145726.0;
  const T r = ak_add_product(-1.0, m, p);
  const T u = p * (p * b_high + a_high) + (e * (y_high * 0x1p-23) - (a_high + b_high));
  const T low = p * (p * b_low + a_low) + (e * ((y - y_high) * 0x1p-23) - (a_low + b_low));
  const T rest = r * (r * $LOG_REST(r, c) + c_low) + low;
  const T w = (r * c_high + u) + rest;
  const T t = w + $SHIFT;
  const T n = t - $SHIFT;
  const T q = ak_add_product(u - n, r, c_high) + rest;
  const T normal = as_T(as_U($EXP2(q) * q + 1.0) + (as_U(t) << $MANTISSA));
  return w < 128.0 ? (w < -126.00003 ? 0.0 : normal) : INFINITY;
}
""",
    "power_medium_near": """static inline T ak_power_medium_near(T x, T y) {
  return ak_power_medium_normal(x, y);
}
""",
    "power_medium_far": """static inline int ak_power_medium_far(T x, T y) {
  return as_U(x) - $TINY_BITS >= $NORMALS;
}
""",
    "power_medium": """static inline T ak_power_medium(T x, T y) {
  return ak_power(x, y);
}
""",
    # For finite exponents up to 2 that are no integers:
    # log(1 + f) = f - f^2 / 2 + f^3 p(f) = g; then y log2 x = n + r.
    "power_small_normal": """static inline T ak_power_small_normal(T x, T e0, T y) {
  const int i = as_int(x), j = i - (int)$SQRT_HALF;
  const T e = (T)(j >> $MANTISSA) - e0;
  const T f = as_T(i - (j & (int)$SIGN_EXPONENT)) - 1.0;
  const T g = f - f * f * (0.5 - f * $LOG_DIRECT(f));
  const T y_high = as_T(as_U(y) & $UPPER_HALF), y_low = y - y_high;
  const T c = y * $LOG2E;
  const T c_low = (y_high * $LOG2E_HIGH - c) + (y_high * $LOG2E_LOW + y_low * $LOG2E);
  const T t = (y * e + c * g) + $SHIFT;
  const T n = t - $SHIFT;
  const T r = ((y_high * e - n) + c * g) + (y_low * e + c_low * g);
  const T p = $EXP2(r) * r + 1.0;
  const T above = t > $SHIFT - 200.0 ? t : $SHIFT - 200.0;
  const int bits = as_int(as_U(p) + (as_U(above) << $MANTISSA));
  const int finite = bits < 0x7f800000 ? bits : 0x7f800000;
  const T sized = as_T(finite < 0x00800000 ? 0 : finite);
  return t > $SHIFT + 128.0 ? INFINITY : sized;
}
""",
    "power_small_near": """static inline T ak_power_small_near(T x, T y) {
  return ak_power_small_normal(x, 0.0, y);
}
""",
    "power_small_far": """static inline int ak_power_small_far(T x, T y) {
  return as_U(x) - $TINY_BITS >= $NORMALS;
}
""",
    "power_small": """static inline T ak_power_small(T x, T y) {
  const T a = as_T(as_U(x) & ~$SIGN);
  const int tiny = a < $TINY;
  const T normal = ak_power_small_normal(tiny ? a * $UP : a, tiny ? $UP_BITS : 0.0, y);
  const T ended = y > 0 ? a : (a == 0 ? INFINITY : (a == INFINITY ? 0.0 : a));
  const T other = ((x < 0) & (a != INFINITY)) ? NAN : ended;
  return as_U(x) - 1U < 0x7f7fffffU ? normal : other;
}
""",
}


def constant_power(x: str, exponent: float, literal: str, kind: str) -> str:
    """Expression of a power whose exponent is known.

    Args:
        x: Name of the variable.
        exponent: The number.
        literal: The number in OpenCL C.
        kind: "f" for float, "d" for double.
    """
    if exponent == 2.0:
        return f"{x} * {x}"
    if exponent == 3.0:
        return f"{x} * {x} * {x}"
    if exponent == -1.0:
        return f"1 / {x}"
    if exponent == 0.5:  # unlike a square root's, the power of -0 is +0 and that of -inf is inf
        return f"({x} == -INFINITY ? INFINITY : ak_sqrt_{kind}({x}) + 0)"
    if kind == "f" and abs(exponent) < _SMALL and exponent != int(exponent):
        return f"ak_power_small_f({x}, {literal})"
    if kind == "f" and _SMALL <= abs(exponent) <= _MEDIUM:
        return f"ak_power_medium_f({x}, {literal})"
    return f"ak_power_{kind}({x}, {literal})"
