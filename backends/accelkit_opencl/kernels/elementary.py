"""Elementary functions in plain OpenCL C, straight-line code without calls.

On some CPU runtimes every builtin is a function call, which blocks vectorisation and costs 20 to
100 times the arithmetic; polynomials inline and vectorise. One template serves both precisions:
``T`` is the type, ``U`` the unsigned integer of its width, ``$NAME`` a constant of the precision,
``$NAME(v)`` or, times ``c``, ``$NAME(v, c)`` a polynomial of
:mod:`~accelkit_opencl.kernels.polynomials`, and literals take the
precision's suffix. The functions need no fused multiply-add, and may get it. Special values follow
C99's Annex F; results below the smallest normal number are zero.

Sources: W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980), for the
reductions of arguments; T. J. Dekker (1971) for products in two words; the forms of log, log1p
and atan are those of Sun's fdlibm (1993).
"""

from __future__ import annotations

import re
from typing import Final

from accelkit_opencl.kernels.polynomials import POLYNOMIALS, horner
from accelkit_opencl.kernels.powers import DOUBLE_POWERS, POWERS, SINGLE_POWERS

__all__ = ["FUNCTIONS", "NEAR_MOST", "RANGED"]

# name: (float, double)
_CONSTANTS: Final[dict[str, tuple[str, str]]] = {
    "MANTISSA": ("23", "52"),
    "BIAS": ("127", "1023"),
    "ONE": ("0x3f800000U", "0x3ff0000000000000UL"),
    "SQRT_HALF": ("0x3f3504f3U", "0x3fe6a09e667f3bcdUL"),
    "FRACTION": ("0x007fffffU", "0x000fffffffffffffUL"),
    "SIGN": ("0x80000000U", "0x8000000000000000UL"),
    "SIGN_EXPONENT": ("0xff800000U", "0xfff0000000000000UL"),
    "UPPER_HALF": ("0xfffff000U", "0xfffffffff8000000UL"),  # of a significand
    "SHIFT": ("12582912.0", "6755399441055744.0"),  # x + SHIFT has the nearest integer last
    "SHIFT_BIAS": ("12583039.0", "6755399441056767.0"),  # the same, with the bias on it
    "INTEGER": ("0x4b000000U", "0x4330000000000000UL"),  # bits of ...
    "INTEGER_BIAS": ("8388735.0", "4503599627371519.0"),  # ... this minus the bias
    "TINY": ("1.17549435e-38", "2.2250738585072014e-308"),
    "TINY_BITS": ("0x00800000U", "0x0010000000000000UL"),
    "NORMALS": ("0x7f000000U", "0x7fe0000000000000UL"),  # positive numbers from TINY on
    "UP": ("33554432.0", "18014398509481984.0"),  # 2^25, 2^54: makes subnormals normal
    "UP_BITS": ("25.0", "54.0"),
    "LOG2E": ("1.4426950408889634", "1.4426950408889634"),
    "LN2": ("0.6931471805599453", "0.6931471805599453"),
    "LN2_HIGH": ("0.693359375", "0x1.62e42fefa2p-1"),  # exact times any exponent
    "LN2_LOW": ("-2.12194440e-4", "0x1.9ef35793c7673p-41"),
    "LOG2E_HIGH": ("1.4423828125", "1.4423828125"),  # few bits: exact times half a significand
    "LOG2E_LOW": ("3.122284e-4", "3.122283889634074e-4"),
    "EXP_MOST": ("88.72283172607422", "709.782712893384"),
    "EXP_LEAST": ("-87.33654022216797", "-708.3964185322641"),
    "EXP_ZERO": ("-88.0", "-709.0"),  # the nearest multiple of log(2) is -bias times it
    "EXPM1_LEAST": ("-18.0", "-38.0"),
    "SINH_MOST": ("89.41598510742188", "710.4758600739439"),
    "TANH_MOST": ("10.0", "20.0"),
    "ERF_MOST": ("3.93", "5.9"),
    "SQUARE_MOST": ("1e9", "1e17"),  # beyond, x^2 + 1 is x^2 and may overflow
    "POWER_LEAST": ("0x3f3126e9U", ""),  # of a significand, 0.692
    "POWER_MOST": ("1e12", "1e21"),  # an exponent beyond acts like this one
    "TWO_OVER_PI": ("0.6366197723675814", "0.6366197723675814"),
    # pi / 2 in four pieces; multiples up to 2^12 (2^20) of the first three are exact
    "PIO2_1": ("0x1.92p+0", "0x1.921fb54400000p+0"),
    "PIO2_2": ("0x1.fb4p-12", "0x1.0b4611a600000p-34"),
    "PIO2_3": ("0x1.444p-24", "0x1.3198a2e000000p-69"),
    "PIO2_4": ("0x1.68c234p-39", "0x1.b839a252049c1p-104"),
    "NEAR_MOST": ("6400.0", "1.6e6"),
    "PI_HIGH": ("0x1.921fb6p+1", "0x1.921fb54442d18p+1"),
    "PI_LOW": ("-0x1.777a5cp-24", "0x1.1a62633145c07p-53"),
    "TAN_PIO8": ("0.41421356237309503", "0.41421356237309503"),
    "TAN_3PIO8": ("2.414213562373095", "2.414213562373095"),
    "LARGE": ("1e38", "1e308"),
    "THIRD": ("0.3333333333333333", "0.3333333333333333"),
    "TWO_THIRDS_LOW": ("-0x1.555556p-26", "0x1.5555555555555p-55"),
    "TWO_THIRDS": ("0x1.555556p-1", "0x1.5555555555555p-1"),
}

# Reduction of x to n and r with x = n log(2) + r; the integer n is in the last bits of t.
_REDUCE = """const T t = c * $LOG2E + $SHIFT;
  const T n = t - $SHIFT;
  const T r = (c - n * $LN2_HIGH) - n * $LN2_LOW;"""

_TEMPLATES: Final[dict[str, str]] = {
    # e^c for normal results.
    "exp_core": f"""static inline T ak_exp_core(T c) {{
  {_REDUCE}
  const T p = ($EXP(r) * r + 1.0) * r + 1.0;
  return as_T(as_U(p) + (as_U(t) << $MANTISSA));
}}
""",
    "exp": """static inline T ak_exp(T x) {
  const T y = ak_exp_core(x);
  return !(x <= $EXP_MOST) ? x + INFINITY : (x < $EXP_LEAST ? 0.0 : y);
}
""",
    # For arguments that are at most 0, or NaN: it needs no comparison, only a bound from below, at
    # which the factor's exponent bits are all zero.
    "exp_nonpositive": f"""static inline T ak_exp_nonpositive(T x) {{
  const T c = x < $EXP_ZERO ? $EXP_ZERO : x;
  {_REDUCE.replace("$SHIFT", "$SHIFT_BIAS")}
  return (($EXP(r) * r + 1.0) * r + 1.0) * as_T(as_U(t) << $MANTISSA);
}}
""",
    # (e^c - 1) / 2: so scaled, nothing overflows before the result does.
    "expm1_half": f"""static inline T ak_expm1_half(T c) {{
  {_REDUCE}
  const T m = $EXPM1(r) * (r * r) + r;
  const T s = as_T((as_U(t) + ($BIAS - 1)) << $MANTISSA);
  return s * m + (s - 0.5);
}}
""",
    "expm1": """static inline T ak_expm1(T x) {
  const T y = 2.0 * ak_expm1_half(x < $EXPM1_LEAST ? $EXPM1_LEAST : x);
  return !(x <= $EXP_MOST) ? x + INFINITY : (x == 0 ? x : y);
}
""",
    # With h = (e^(2 x) - 1) / 2.
    "tanh": """static inline T ak_tanh(T x) {
  const T a = as_T(as_U(x) & ~$SIGN);
  const T c = a > $TANH_MOST ? $TANH_MOST : a;
  const T h = ak_expm1_half(c + c);
  const T y = h / (h + 1.0);
  return as_T(as_U(y) | (as_U(x) & $SIGN));
}
""",
    "sigmoid": """static inline T ak_sigmoid(T x) {
  const T c = x > -$EXP_LEAST ? -$EXP_LEAST : x;
  const T y = 1.0 / (1.0 + ak_exp_core(-c));
  return x < -$EXP_MOST ? 0.0 : y;
}
""",
    # (e^c - 1) / 4 and e^c / 4 for 0 <= c up to where sinh overflows.
    "quarter": f"""#define ak_quarter(constant) \\
  {_REDUCE.replace(chr(10), " " + chr(92) + chr(10))} \\
  const T m = $EXPM1(r) * (r * r) + r; \\
  const T s = as_T((as_U(t) + ($BIAS - 2)) << $MANTISSA); \\
  const T h = s * m + (s - constant);
""",
    "sinh": """static inline T ak_sinh(T x) {
  const T a = as_T(as_U(x) & ~$SIGN), c = a;
  ak_quarter(0.25)
  const T y = a <= $SINH_MOST ? 2.0 * h + 0.5 * (h / (h + 0.25)) : a + INFINITY;
  return as_T(as_U(y) | (as_U(x) & $SIGN));
}
""",
    "cosh": """static inline T ak_cosh(T x) {
  const T a = as_T(as_U(x) & ~$SIGN), c = a;
  ak_quarter(0.0)
  return a <= $SINH_MOST ? 2.0 * h + 0.125 / h : a + INFINITY;
}
""",
    # log(x) + low for positive normal x = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2).
    "log_core": """static inline T ak_log_core(T x, T e0, T low) {
  const U u = as_U(x) + ($ONE - $SQRT_HALF);
  const T e = as_T((u >> $MANTISSA) | $INTEGER) - $INTEGER_BIAS - e0;
  const T f = as_T((u & $FRACTION) + $SQRT_HALF) - 1.0;
  const T s = f / (2.0 + f), z = s * s, h = 0.5 * f * f;
  const T p = $LOG(z) * z;
  return e * $LN2_HIGH + (f - (h - (s * (h + p) + (e * $LN2_LOW + low))));
}
""",
    "log": """static inline T ak_log(T x) {
  const int tiny = x < $TINY;
  const T y = ak_log_core(tiny ? x * $UP : x, tiny ? $UP_BITS : 0.0, 0.0);
  return x > 0 ? (x < INFINITY ? y : x) : (x == 0 ? -INFINITY : NAN);
}
""",
    # log(u) and the rounding error of u = 1 + x, over u.
    "log1p": """static inline T ak_log1p(T x) {
  const T u = 1.0 + x;
  const T y = ak_log_core(u, 0.0, (x - (u - 1.0)) / u);
  return x > -1.0 ? (((x < INFINITY) & (x != 0)) ? y : x) : (x == -1.0 ? -INFINITY : NAN);
}
""",
    "arcsinh": """static inline T ak_arcsinh(T x) {
  const T a = as_T(as_U(x) & ~$SIGN);
  const int large = a > $SQUARE_MOST;
  const T v = large ? a : a + a * a / (1.0 + ak_sqrt(a * a + 1.0));
  const T y = ak_log1p(v) + (large ? $LN2 : 0.0);
  return as_T(as_U(y) | (as_U(x) & $SIGN));
}
""",
    "arccosh": """static inline T ak_arccosh(T x) {
  const int large = x > $SQUARE_MOST;
  const T t = x - 1.0;
  const T v = large ? x : t + ak_sqrt(t * (t + 2.0));
  return x < 1.0 ? NAN : ak_log1p(v) + (large ? $LN2 : 0.0);
}
""",
    "arctanh": """static inline T ak_arctanh(T x) {
  const T a = as_T(as_U(x) & ~$SIGN);
  const T y = 0.5 * ak_log1p((a + a) / (1.0 - a));
  return as_T(as_U(y) | (as_U(x) & $SIGN));
}
""",
    # atan(a / b) for a, b >= 0: about 0, 1 or infinity.
    "arctan_ratio": """static inline T ak_arctan_ratio(T a, T b) {
  const int steep = a > b * $TAN_3PIO8, middle = a > b * $TAN_PIO8;
  const T p = steep ? -b : (middle ? a - b : a);
  const T q = steep ? a : (middle ? a + b : b);
  const T share = steep ? 0.5 : (middle ? 0.25 : 0.0);
  const T t = p / q, z = t * t;
  return share * $PI_HIGH + (t + (t * z * $ATAN(z) + share * $PI_LOW));
}
""",
    "arctan": """static inline T ak_arctan(T x) {
  const T y = ak_arctan_ratio(as_T(as_U(x) & ~$SIGN), 1.0);
  return as_T(as_U(y) | (as_U(x) & $SIGN));
}
""",
    "arctan2": """static inline T ak_arctan2(T y, T x) {
  const T a = as_T(as_U(y) & ~$SIGN), b = as_T(as_U(x) & ~$SIGN);
  const int infinite = (a == INFINITY) & (b == INFINITY);
  const T scale = a + b > $LARGE ? 0.25 : 1.0;
  const T p = infinite ? 1.0 : a * scale, q = infinite ? 1.0 : (a + b == 0 ? 1.0 : b * scale);
  const T r = ak_arctan_ratio(p, q);
  const T angle = (as_U(x) & $SIGN) != 0 ? $PI_HIGH - (r - $PI_LOW) : r;
  return as_T(as_U(angle) | (as_U(y) & $SIGN));
}
""",
    # asin(a) by a polynomial up to 1/2, pi/2 - 2 asin(sqrt((1 - a) / 2)) beyond.
    "arcsin": """static inline T ak_arcsin(T x) {
  const T a = as_T(as_U(x) & ~$SIGN);
  const int far = a > 0.5;
  const T z = far ? 0.5 * (1.0 - a) : a * a;
  const T w = far ? ak_sqrt(z) : a;
  const T p = w + w * z * $ASIN(z);
  const T y = far ? 0.5 * $PI_HIGH - (p + p - 0.5 * $PI_LOW) : p;
  return as_T(as_U(y) | (as_U(x) & $SIGN));
}
""",
    "arccos": """static inline T ak_arccos(T x) {
  const T a = as_T(as_U(x) & ~$SIGN);
  const int far = a > 0.5;
  const T z = far ? 0.5 * (1.0 - a) : a * a;
  const T w = far ? ak_sqrt(z) : a;
  const T p = w + w * z * $ASIN(z);
  const T signed_p = as_T(as_U(p) | (as_U(x) & $SIGN));
  const T outer = x < 0 ? $PI_HIGH - (p + p - $PI_LOW) : p + p;
  return far ? outer : 0.5 * $PI_HIGH - (signed_p - 0.5 * $PI_LOW);
}
""",
    # Sine and cosine of the rest after the nearest multiple of pi/2, whose number ends in q.
    "quadrant": """#define ak_quadrant(x) \\
  const T t = x * $TWO_OVER_PI + $SHIFT; \\
  const T n = t - $SHIFT; \\
  const U q = as_U(t); \\
  const T r = (((x - n * $PIO2_1) - n * $PIO2_2) - n * $PIO2_3) - n * $PIO2_4; \\
  const T z = r * r; \\
  const T s = r * ($SIN(z) * z + 1.0); \\
  const T c = (1.0 - 0.5 * z) + $COS(z) * (z * z);
""",
    "sin_near": """static inline T ak_sin_near(T x) {
  ak_quadrant(x)
  return as_T(as_U(q & 1 ? c : s) ^ ((q & 2) << ($WIDTH - 2)));
}
""",
    "cos_near": """static inline T ak_cos_near(T x) {
  ak_quadrant(x)
  return as_T(as_U(q & 1 ? s : c) ^ (((q + 1) & 2) << ($WIDTH - 2)));
}
""",
    "tan_near": """static inline T ak_tan_near(T x) {
  ak_quadrant(x)
  return (q & 1 ? -c : s) / (q & 1 ? s : c);
}
""",
    "sin": """static inline T ak_sin(T x) {
  return ak_sin_far(x) ? sin(x) : ak_sin_near(x);
}
""",
    "cos": """static inline T ak_cos(T x) {
  return ak_sin_far(x) ? cos(x) : ak_cos_near(x);
}
""",
    "tan": """static inline T ak_tan(T x) {
  return ak_sin_far(x) ? tan(x) : ak_tan_near(x);
}
""",
    "sin_far": """static inline int ak_sin_far(T x) {
  return as_T(as_U(x) & ~$SIGN) > $NEAR_MOST;
}
""",
    "cos_far": """static inline int ak_cos_far(T x) {
  return ak_sin_far(x);
}
""",
    "tan_far": """static inline int ak_tan_far(T x) {
  return ak_sin_far(x);
}
""",
    # 1 - e^-g with g = -log(1 - erf(a)), which is as smooth near 0 as far from it.
    "erf": f"""static inline T ak_erf(T x) {{
  const T a = as_T(as_U(x) & ~$SIGN), b = a > $ERF_MOST ? $ERF_MOST : a;
  const T c = -(b + b * $ERF(b));
  {_REDUCE.replace("$SHIFT", "$SHIFT_BIAS")}
  const T m = $EXPM1(r) * (r * r) + r;
  const T s = as_T(as_U(t) << $MANTISSA);
  const T y = (1.0 - s) - s * m;
  return as_T(as_U(y) | (as_U(x) & $SIGN));
}}
""",
    "remainder": """static inline T ak_remainder(T a, T b) {
  const T r = fmod(a, b);
  return r != 0 && ((r < 0) != (b < 0)) ? r + b : (r == 0 ? (b < 0 ? -0.0 : 0.0) : r);
}
""",
    "floor_divide": """static inline T ak_floor_divide(T a, T b) {
  if (b == 0) return a / b;
  const T r = fmod(a, b);
  const T q = (a - r) / b - (r != 0 && ((r < 0) != (b < 0)) ? 1 : 0);
  const T f = ak_floor(q);
  return q - f > 0.5 ? f + 1 : f;
}
""",
}

# What differs by more than constants.
_PARTS: Final[dict[str, tuple[str, str]]] = {
    "WIDTH": ("32", "64"),
    "FMA": ("__builtin_fmaf", "__builtin_fma"),
}


def _instance(code: str, precision: int) -> str:
    """A template for float (0) or double (1)."""
    for name, parts in _PARTS.items():
        code = code.replace(f"${name}", parts[precision])
    for name, coefficients in POLYNOMIALS.items():
        code = re.sub(
            rf"\${name}\((\w+)(?:, (\w+))?\)",
            lambda m, c=coefficients[precision]: horner(c, m[1], m[2]),  # type: ignore[misc]
            code,
        )
    code = re.sub(r"\$(\w+)", lambda m: f"({_CONSTANTS[m[1]][precision]})", code)
    if precision == 0:
        code = re.sub(
            r"(?<![\w.])(\d+\.\d*(?:e[-+]?\d+)?|\d+e[-+]?\d+|0x[\da-f.]+p[-+]\d+)\b", r"\1f", code
        )
    code = re.sub(r"\bak_(\w+)\(", rf"ak_\1_{'fd'[precision]}(", code)
    kind = ("float", "double")[precision]
    unsigned = ("uint", "ulong")[precision]
    code = code.replace("as_T", f"as_{kind}").replace("as_U", f"as_{unsigned}")
    return re.sub(r"\bU\b", unsigned, re.sub(r"\bT\b", kind, code))


NEAR_MOST: Final = dict(zip("fd", _CONSTANTS["NEAR_MOST"], strict=True))
FUNCTIONS: Final[dict[str, str]] = {
    f"{name}_{suffix}": _instance(template, precision)
    for precision, suffix in enumerate("fd")
    for name, template in {
        **_TEMPLATES,
        **POWERS,
        **(DOUBLE_POWERS if precision else SINGLE_POWERS),
    }.items()
}
# Functions with a shorter form, ``ak_NAME_near``, for arguments of which ``ak_NAME_far`` says 0.
RANGED: Final = frozenset(
    name.replace("_far", "") for name in FUNCTIONS if name.endswith(("_far_f", "_far_d"))
)
