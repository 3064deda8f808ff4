"""Local response normalisation over channels (Krizhevsky et al., 2012, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

from accelkit_opencl.kernels.mathematics import definitions_for
from accelkit_opencl.kernels.powers import constant_power
from accelkit_opencl.kernels.source import KernelSource, ceil_div, double_pragma

__all__ = ["ResponseNorm", "response_norm_kernel"]

_PIXELS = 64  # per work-item


@dataclass(frozen=True)
class ResponseNorm:
    """``y_i = x_i / (k + alpha * sum of x_j^2 over the window around i) ** beta``.

    Attributes:
        pixels, channels: Extents; channels are innermost.
        size: Window length: size // 2 channels before, (size - 1) // 2 after.
        alpha, beta, k: Of the formula.
        dtype: "float" or "double".
    """

    pixels: int
    channels: int
    size: int
    alpha: float
    beta: float
    k: float
    dtype: str


def response_norm_kernel(norm: ResponseNorm, *, gradient: bool) -> KernelSource:
    """``(x, out)``, or for the gradient ``(x, g, out)``, where ``out`` may be ``g``.

    The window's sums read a row of squares with a border of zeros, so that the loops over
    channels have no conditions and vectorise.
    """
    channels, size = norm.channels, norm.size
    before, after = size // 2, (size - 1) // 2
    suffix = "f" if norm.dtype == "float" else ""
    kind = "f" if norm.dtype == "float" else "d"

    def number(value: float) -> str:
        return f"({float(value).hex()}{suffix})"

    def window(array: str) -> str:
        return " + ".join(f"{array}[c + {offset}]" for offset in range(size))

    if norm.beta == 0.75:
        root = f"ak_sqrt_{kind}"
        power = f"const real root = {root}(s); const real f = 1 / (root * {root}(root));"
    else:
        power = f"const real f = {constant_power('s', -norm.beta, number(-norm.beta), kind)};"
    scale = (
        f"const real s = ({window('square')}) * {number(norm.alpha)} + {number(norm.k)}; {power}"
    )
    if gradient:
        work = f"""CHANNELS {{ {scale}
      direct[c] = gradient[c] * f;
      inner[c + {after}] = direct[c] * row[c] / s; }}
    CHANNELS to[c] = direct[c]
        - row[c] * ({window("inner")}) * {number(2.0 * norm.alpha * norm.beta)};"""
        arrays = f"real direct[{channels}], inner[{channels + size}];\n  BORDER(inner)"
        extra = ", const __global real* g"
        rows = f"const __global real* const gradient = g + p * {channels};"
    else:
        work = f"CHANNELS {{ {scale} to[c] = row[c] * f; }}"
        arrays = extra = rows = ""
    alone = "" if gradient else "restrict"  # the gradient's result may be written over g
    code = f"""#define real {norm.dtype}
#define CHANNELS for (int c = 0; c < {channels}; c++)
#define BORDER(a) for (int c = 0; c < {channels + size}; c++) a[c] = 0;
__kernel void KERNEL(const __global real* restrict x{extra}, __global real* {alone} out) {{
  const size_t first = (size_t)get_global_id(0) * {_PIXELS};
  const size_t last = first + {_PIXELS} < {norm.pixels} ? first + {_PIXELS} : {norm.pixels};
  real square[{channels + size}];
  BORDER(square)
  {arrays}
  for (size_t p = first; p < last; p++) {{
    const __global real* const row = x + p * {channels};
    {rows}
    __global real* const to = out + p * {channels};
    CHANNELS square[c + {before}] = row[c] * row[c];
    {work}
  }}
}}
"""
    arguments = ("x", "g", "out") if gradient else ("x", "out")
    return KernelSource.of(
        "response_norm",
        double_pragma(norm.dtype) + definitions_for(code) + code,
        arguments,
        (ceil_div(norm.pixels, _PIXELS),),
        (1,),
    )
