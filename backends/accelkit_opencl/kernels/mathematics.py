"""Elementary functions in plain OpenCL C.

On some CPU runtimes every builtin is a function call that blocks vectorisation; a polynomial
inlines and vectorises. The float functions are within 2 ulp over their whole range (tested);
double falls back to the builtins. Rounding and square roots use the compiler's own intrinsics
where it offers them, which become one instruction; with ``AK_STANDARD_FUNCTIONS`` defined, for
interpreters that lack them, OpenCL's own functions.

Formulas: S. L. Moshier, Cephes Mathematical Library (1992), for the polynomials of exp, log and
tanh in single precision; the argument reductions are Cody and Waite's (1980).
"""

from __future__ import annotations

import re

__all__ = ["definitions_for"]

_INTRINSICS = """
#ifndef ak_intrinsics
#define ak_intrinsics
#ifndef __has_builtin
#define __has_builtin(x) 0
#endif
#if __has_builtin(__builtin_sqrtf) && !defined(AK_STANDARD_FUNCTIONS)
#define ak_sqrt_f(x) __builtin_sqrtf(x)
#define ak_sqrt_d(x) __builtin_sqrt(x)
#define ak_floor_f(x) __builtin_floorf(x)
#define ak_floor_d(x) __builtin_floor(x)
#define ak_ceil_f(x) __builtin_ceilf(x)
#define ak_ceil_d(x) __builtin_ceil(x)
#define ak_trunc_f(x) __builtin_truncf(x)
#define ak_trunc_d(x) __builtin_trunc(x)
#define ak_rint_f(x) __builtin_rintf(x)
#define ak_rint_d(x) __builtin_rint(x)
#define ak_fabs_f(x) __builtin_fabsf(x)
#define ak_fabs_d(x) __builtin_fabs(x)
#else
#define ak_sqrt_f(x) sqrt(x)
#define ak_sqrt_d(x) sqrt(x)
#define ak_floor_f(x) floor(x)
#define ak_floor_d(x) floor(x)
#define ak_ceil_f(x) ceil(x)
#define ak_ceil_d(x) ceil(x)
#define ak_trunc_f(x) trunc(x)
#define ak_trunc_d(x) trunc(x)
#define ak_rint_f(x) rint(x)
#define ak_rint_d(x) rint(x)
#define ak_fabs_f(x) fabs(x)
#define ak_fabs_d(x) fabs(x)
#endif
#endif
#define SAFE(b) ((b) == 0 ? 1 : (b))
#define FLOOR_DIVIDE(a, b) ((a) / (b) - (((a) % (b) != 0) && (((a) < 0) != ((b) < 0))))
#define REMAINDER(a, b) ((a) % (b) + ((((a) % (b) != 0) && (((a) < 0) != ((b) < 0))) ? (b) : 0))
"""

_FUNCTIONS: dict[str, str] = {
    # x = n ln 2 + r; e^r by a polynomial on |r| <= ln 2 / 2; 2^n in two factors, so that results
    # near the ends of the range neither overflow nor lose their last bits too early.
    "exp_f": """static inline float ak_exp_f(float x) {
  const float c = x > 89.0f ? 89.0f : (x < -104.0f ? -104.0f : x);
  const float shifted = c * 1.44269504088896341f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (c - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int i = (int)n, half_i = i >> 1;
  const float a = as_float((half_i + 127) << 23), b = as_float((i - half_i + 127) << 23);
  const float y = p * a * b;
  return x != x ? x : (x > 89.0f ? INFINITY : (x < -104.0f ? 0.0f : y));
}
""",
    # x = 2^e m with m in [sqrt(1/2), sqrt(2)); log m by a polynomial in m - 1.
    "log_f": """static inline float ak_log_f(float x) {
  const int tiny = x < 1.17549435e-38f;
  const int bits = as_int(tiny ? x * 8388608.0f : x);
  int e = ((bits >> 23) & 255) - 126 - (tiny ? 23 : 0);
  float m = as_float((bits & 0x007fffff) | 0x3f000000);
  const int low = m < 0.707106781186547524f;
  e -= low;
  m = (low ? m + m : m) - 1.0f;
  const float z = m * m;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const float f = (float)e;
  float y = p * m * z;
  y = y + f * -2.12194440e-4f;
  y = y - 0.5f * z;
  const float result = (m + y) + f * 0.693359375f;
  return x != x ? x : (x < 0 ? NAN : (x == 0 ? -INFINITY : (x == INFINITY ? x : result)));
}
""",
    # Near 0 a polynomial; elsewhere 1 - 2 / (e^2|x| + 1).
    "tanh_f": """static inline float ak_tanh_f(float x) {
  const float a = x < 0 ? -x : x, z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float near = p * z * x + x;
  const float big = 1.0f - 2.0f / (ak_exp_f(a + a) + 1.0f);
  return x != x ? x : (a < 0.625f ? near : (x < 0 ? -big : big));
}
""",
    "sigmoid_f": """static inline float ak_sigmoid_f(float x) {
  const float e = ak_exp_f(x < 0 ? x : -x);
  return (x < 0 ? e : 1.0f) / (1.0f + e);
}
""",
    "sigmoid_d": """static inline double ak_sigmoid_d(double x) {
  const double e = exp(x < 0 ? x : -x);
  return (x < 0 ? e : 1.0) / (1.0 + e);
}
""",
    "exp_d": "#define ak_exp_d(x) exp(x)\n",
    "log_d": "#define ak_log_d(x) log(x)\n",
    "tanh_d": "#define ak_tanh_d(x) tanh(x)\n",
    "erf_f": "#define ak_erf_f(x) erf(x)\n",
    "erf_d": "#define ak_erf_d(x) erf(x)\n",
    "expm1_f": "#define ak_expm1_f(x) expm1(x)\n",
    "expm1_d": "#define ak_expm1_d(x) expm1(x)\n",
    "log1p_f": "#define ak_log1p_f(x) log1p(x)\n",
    "log1p_d": "#define ak_log1p_d(x) log1p(x)\n",
}
for _suffix, _type in (("f", "float"), ("d", "double")):
    _FUNCTIONS[f"remainder_{_suffix}"] = f"""static inline {_type} ak_remainder_{_suffix}(
    {_type} a, {_type} b) {{
  const {_type} r = fmod(a, b);
  return r != 0 && ((r < 0) != (b < 0)) ? r + b : (r == 0 ? (b < 0 ? -({_type})0 : ({_type})0) : r);
}}
"""
    _FUNCTIONS[f"floor_divide_{_suffix}"] = f"""static inline {_type} ak_floor_divide_{_suffix}(
    {_type} a, {_type} b) {{
  if (b == 0) return a / b;
  const {_type} r = fmod(a, b);
  const {_type} q = (a - r) / b - (r != 0 && ((r < 0) != (b < 0)) ? 1 : 0);
  const {_type} f = ak_floor_{_suffix}(q);
  return q - f > ({_type})0.5 ? f + 1 : f;
}}
"""

_NEEDS = {"tanh_f": ("exp_f",), "sigmoid_f": ("exp_f",)}


def definitions_for(code: str) -> str:
    """The functions that ``code`` calls, in order, with what they call themselves."""
    wanted: list[str] = []
    for name in _FUNCTIONS:
        if re.search(rf"\bak_{name}\b", code):
            wanted += [n for n in (*_NEEDS.get(name, ()), name) if n not in wanted]
    intrinsics = _INTRINSICS if re.search(r"\bak_|\bSAFE\b", code) else ""
    guarded = (
        f"#ifndef ak_has_{name}\n#define ak_has_{name}\n{_FUNCTIONS[name]}#endif\n"
        for name in wanted
    )
    return intrinsics + "".join(guarded)
