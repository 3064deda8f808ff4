"""Pooling over windows of NHWC images: one strip of channels of one row or image per work-item.

Loops over channels are innermost, where memory is contiguous; on GPUs a strip is one channel.
"""

from __future__ import annotations

from dataclasses import dataclass

from accelkit_opencl.kernels.source import KernelSource, ceil_div, double_pragma

__all__ = ["Pooling", "pooling_kernel"]

_STRIP = 64


@dataclass(frozen=True)
class Pooling:
    """Static description: image (N, H, W, C), result (N, OH, OW, C).

    Attributes:
        image: (N, H, W, C).
        result: (OH, OW).
        window, strides: Per axis.
        padding: (top, left).
        dtype: OpenCL type of the elements.
    """

    image: tuple[int, int, int, int]
    result: tuple[int, int]
    window: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int]
    dtype: str


# Each body runs for one window at (i, j) and a strip of channels; `out` and `in` rows are at the
# strip's first channel. WINDOW opens a loop over the positions inside of the image: `p` is the
# row-major position in the window, `at` the element offset of the pixel. CHANNELS loops over c.
_BODIES = {
    "max_pool2d": (
        ("x", "out"),
        """int first = 1;
WINDOW {
  if (first) CHANNELS out[to + c] = x[at + c];
  else CHANNELS {
    const real v = x[at + c], best = out[to + c];
    out[to + c] = v > best || v != v ? v : best;
  }
  first = 0;
}
if (first) CHANNELS out[to + c] = -INFINITY;  // an image without pixels
""",
    ),
    "max_pool2d_winners": (
        ("x", "winners"),
        """int first = 1;
real best[STRIP];
WINDOW {
  if (first) CHANNELS { best[c] = x[at + c]; winners[to + c] = p; }
  else CHANNELS {
    const real v = x[at + c];
    const int better = v > best[c] || v != v;
    best[c] = better ? v : best[c];
    winners[to + c] = better ? p : winners[to + c];
  }
  first = 0;
}
if (first) CHANNELS winners[to + c] = 0;
""",
    ),
    "max_pool2d_gather": (
        ("winners", "x", "out"),
        """CHANNELS out[to + c] = 0;
WINDOW CHANNELS out[to + c] = winners[to + c] == p ? x[at + c] : out[to + c];
""",
    ),
    "avg_pool2d": (
        ("x", "out"),
        """CHANNELS out[to + c] = 0;
WINDOW CHANNELS out[to + c] += x[at + c];
CHANNELS out[to + c] /= COUNT;
""",
    ),
    "max_pool2d_grad": (
        ("x", "y", "g", "image"),
        """real rest[STRIP];
CHANNELS rest[c] = g[to + c];
int taken[STRIP];
CHANNELS taken[c] = 0;
WINDOW CHANNELS {
  const real v = x[at + c], m = y[to + c];
  const int hit = (v == m || (v != v && m != m)) && !taken[c];
  image[at + c] += hit ? rest[c] : 0;
  taken[c] |= hit;
}
""",
    ),
    "max_pool2d_scatter": (
        ("winners", "g", "image"),
        "WINDOW CHANNELS image[at + c] += winners[to + c] == p ? g[to + c] : 0;\n",
    ),
    "avg_pool2d_grad": (
        ("g", "image"),
        "WINDOW CHANNELS image[at + c] += g[to + c] / COUNT;\n",
    ),
}


def pooling_kernel(name: str, pooling: Pooling, *, cpu: bool) -> KernelSource:
    """The kernel of one pooling primitive; arguments are its operands and then its result.

    Results with the shape of the image are sums over windows: one work-item owns a strip of
    channels of a whole image and adds windows in order, so results are deterministic.
    """
    arguments, body = _BODIES[name]
    batch, height, width, channels = pooling.image
    rows, columns = pooling.result
    strip = min(_STRIP, channels) if cpu else 1
    strips = ceil_div(channels, strip)
    scatters = arguments[-1] == "image"
    (sh, sw), (top, left), (kh, kw) = pooling.strides, pooling.padding, pooling.window

    def argument(position: int, argument_name: str) -> str:
        kind = "int" if argument_name == "winners" else "real"
        const = "" if position == len(arguments) - 1 else "const "
        return f"__global {const}{kind}* restrict {argument_name}_all"

    def start(argument_name: str, position: int) -> str:
        whole = argument_name in ("x", "image")
        size = height * width * channels if whole else rows * columns * channels
        kind = "int" if argument_name == "winners" else "real"
        const = "" if position == len(arguments) - 1 else "const "
        return (
            f"__global {const}{kind}* const {argument_name} = {argument_name}_all"
            f" + (size_t)n * {size} + strip * {strip};"
        )

    parameters = ", ".join(argument(i, name) for i, name in enumerate(arguments))
    starts = "\n  ".join(start(name, i) for i, name in enumerate(arguments))
    clear = (
        f"for (int e = 0; e < {height * width}; e++) CHANNELS image[e * {channels} + c] = 0;"
        if scatters
        else ""
    )
    row_loop = (
        f"for (int i = 0; i < {rows}; i++)" if scatters else "const int i = get_global_id(1);"
    )
    size = (strips, 1 if scatters else rows, batch)
    source = f"""{double_pragma(pooling.dtype)}#define real {pooling.dtype}
#define STRIP {strip}
#define COUNT {kh * kw}
#define CHANNELS for (int c = 0; c < count; c++)
#define WINDOW for (int a = 0; a < {kh}; a++) for (int b = 0; b < {kw}; b++) \\
  for (int h = i * {sh} + a - {top}, w = j * {sw} + b - {left}, p = a * {kw} + b, \\
       at = (h * {width} + w) * {channels}, once = 1; \\
       once && h >= 0 && h < {height} && w >= 0 && w < {width}; once = 0)
__kernel void KERNEL({parameters}) {{
  const int strip = get_global_id(0), n = get_global_id(2);
  const int count = {channels} - strip * {strip} < {strip} ? {channels} - strip * {strip} : {strip};
  {starts}
  {clear}
  {row_loop}
  for (int j = 0; j < {columns}; j++) {{
    const int to = (i * {columns} + j) * {channels};
{body}  }}
}}
"""
    return KernelSource.of(name, source, arguments, size, (1, 1, 1))
