"""The own functions that generated code calls: which definitions a kernel needs.

Rounding and square roots use the compiler's own intrinsics where it offers them, which become one
instruction; with ``AK_STANDARD_FUNCTIONS`` defined, for interpreters that lack them, OpenCL's own
functions. The elementary functions are those of :mod:`~accelkit_opencl.kernels.elementary`, random
numbers those of :mod:`~accelkit_opencl.kernels.philox`.
"""

from __future__ import annotations

import re

from accelkit_opencl.kernels import elementary, philox

__all__ = ["definitions_for"]

_FUNCTIONS = {**elementary.FUNCTIONS, **philox.FUNCTIONS}
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


def definitions_for(code: str) -> str:
    """The functions that ``code`` calls, what they call themselves first."""
    wanted: list[str] = []
    _collect(code, wanted)
    intrinsics = _INTRINSICS if re.search(r"\bak_|\bSAFE\b", code) else ""
    guarded = (
        f"#ifndef ak_has_{name}\n#define ak_has_{name}\n{_FUNCTIONS[name]}#endif\n"
        for name in wanted
    )
    return intrinsics + "".join(guarded)


def _collect(code: str, wanted: list[str]) -> None:
    """Append the functions that ``code`` calls and are not there yet, callees first."""
    for name in dict.fromkeys(re.findall(r"\bak_(\w+)\(", code)):
        if name in _FUNCTIONS and name not in wanted:
            _collect(_FUNCTIONS[name].replace(f"ak_{name}(", ""), wanted)
            wanted.append(name)
