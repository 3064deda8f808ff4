"""Philox4x32-10 (Salmon et al., 2011) on the device: the bits of :mod:`accelkit.random.philox`.

The generator is a function of a counter and a key, so a random number is an elementwise function
of its place: kernels draw it where they use it, and draw it again where they use it again. One
call gives four words, for four neighbours. Loops draw the numbers of a run of elements, or of a
tile, before they go through it; elsewhere, and on GPUs, every element makes a call of its own.
"""

from __future__ import annotations

from typing import Final

from accelkit.dtypes import DType
from accelkit.random.philox import keep_threshold
from accelkit_opencl.kernels.loops import RUN, Run, vector_hint
from accelkit_opencl.kernels.source import ceil_div, ctype
from accelkit_opencl.views import Draw

__all__ = ["FUNCTIONS", "drawn_element", "drawn_run", "drawn_tile"]

_GROUP = 8  # blocks that loops draw side by side
_PER_BLOCK: Final = {"uchar": 4, "float": 4, "double": 2}  # elements

# The four words of one block.
_BLOCK = """static inline uint4 ak_philox_block(uint key0, uint key1, const ulong block) {
  uint c0 = (uint)block, c1 = (uint)(block >> 32), c2 = key0, c3 = key1;
  for (int round = 0; round < 10; round++) {
    const ulong p0 = (ulong)c0 * 0xD2511F53UL, p1 = (ulong)c2 * 0xCD9E8D57UL;
    c0 = (uint)(p1 >> 32) ^ c1 ^ key0; c1 = (uint)p1;
    c2 = (uint)(p0 >> 32) ^ c3 ^ key1; c3 = (uint)p0;
    key0 += 0x9E3779B9U; key1 += 0xBB67AE85U;
  }
  return (uint4)(c0, c1, c2, c3);
}
"""

# The same as c0..c3, for many blocks side by side. Every word is in the lower half of 64 bits,
# where a vector multiplies it without moving halves about; what is left in the upper half is
# masked off before it matters.
_ROUND = """{ const ulong p0 = (c0 & 0xFFFFFFFFUL) * 0xD2511F53UL; \\
  const ulong p1 = (c2 & 0xFFFFFFFFUL) * 0xCD9E8D57UL; \\
  c0 = (p1 >> 32) ^ c1 ^ k0; c1 = p1; c2 = (p0 >> 32) ^ c3 ^ k1; c3 = p0; \\
  k0 = (k0 + 0x9E3779B9UL) & 0xFFFFFFFFUL; k1 = (k1 + 0xBB67AE85UL) & 0xFFFFFFFFUL; } \\
"""
_ROUNDS = f"""#define ak_philox_rounds(low, high) \\
  ulong k0 = key0, k1 = key1, c0 = (low), c1 = (high), c2 = key0, c3 = key1; \\
  {_ROUND * 10}
"""


_FLOAT = "(float)({} >> 8) * 0x1.0p-24f"
_DOUBLE = "((double)({} >> 5) * 67108864.0 + (double)({} >> 6)) * 0x1.0p-53"

# What loops store of a block in ``out[b]`` and what follows it, by the type that they make: masks
# are bytes, four of which are stored at a time.
_STORES: Final = {
    "uchar": "out[b] = "
    + " | ".join(f"(uint)((uint)c{w} >= threshold) << ak_byte({w})" for w in range(4))
    + ";",
    "float": " ".join(f"out[4 * b + {w}] = {_FLOAT.format(f'(uint)c{w}')};" for w in range(4)),
    "double": " ".join(
        f"out[2 * b + {i}] = {_DOUBLE.format(f'(uint)c{2 * i}', f'(uint)c{2 * i + 1}')};"
        for i in range(2)
    ),
}


def _parameters(kind: str) -> str:
    stored, threshold = ("uint", "const uint threshold, ") if kind == "uchar" else (kind, "")
    return f"__private {stored}* out, {threshold}const uint key0, const uint key1"


def _groups(kind: str, count: str, low: str, high: str) -> str:
    """A loop over ``count`` blocks ``b``, and some more of no meaning to fill a group."""
    return f"""for (int group = 0; group < {count}; group += {_GROUP}) {{
{vector_hint(["const ulong c0 = 0;"], _GROUP)}  for (int e = 0; e < {_GROUP}; e++) {{
    const int b = group + e;
    ak_philox_rounds({low}, {high})
    {_STORES[kind]}
  }}
}}
"""


def _run(kind: str) -> str:
    """``count`` blocks; the outer loop turns again where the upper word of a counter changes."""
    step = 1 if kind == "uchar" else _PER_BLOCK[kind]
    return f"""static inline void ak_run_{kind}({_parameters(kind)}, ulong block, int count) {{
  while (count > 0) {{
    const ulong high = block >> 32, low = block & 0xFFFFFFFFUL, left = 0x100000000UL - low;
    const int n = left < (ulong)count ? (int)left : count;
{_groups(kind, "n", "low + b", "high")}    out += n * {step}; block += n; count -= n;
  }}
}}
"""


def _tile(kind: str) -> str:
    """``width`` blocks of each row of a tile, from that of element ``first + row * step`` on.

    There are few: a product and a shift divide their number by the width.
    """
    shift = _PER_BLOCK[kind].bit_length() - 1
    index = f"(((first + (ulong)row * step) >> {shift}) + (ulong)(b - row * width))"
    loop = _groups(kind, "rows * width", f"{index} & 0xFFFFFFFFUL", f"{index} >> 32")
    loop = loop.replace("group + e;", "group + e, row = (b * inverse) >> 16;")
    return f"""static inline void ak_tile_{kind}({_parameters(kind)},
    const ulong first, const ulong step, const int rows, const int width) {{
  const int inverse = (65535 + width) / width;
{loop}}}
"""


FUNCTIONS: Final[dict[str, str]] = {
    "philox_block": _BLOCK,
    "philox_word": """static inline uint ak_philox_word(const uint key0, const uint key1,
    const ulong place) {
  const uint4 c = ak_philox_block(key0, key1, place >> 2);
  return place & 2 ? (place & 1 ? c.s3 : c.s2) : (place & 1 ? c.s1 : c.s0);
}
""",
    "draw_float": f"""static inline float ak_draw_float(const uint key0, const uint key1,
    const ulong place) {{
  const uint word = ak_philox_word(key0, key1, place);
  return {_FLOAT.format("word")};
}}
""",
    "draw_double": f"""static inline double ak_draw_double(const uint key0, const uint key1,
    const ulong place) {{
  const uint4 c = ak_philox_block(key0, key1, place >> 1);
  const uint a = place & 1 ? c.s2 : c.s0, b = place & 1 ? c.s3 : c.s1;
  return {_DOUBLE.format("a", "b")};
}}
""",
    "philox_rounds": _ROUNDS,
    "byte": """#ifdef __ENDIAN_LITTLE__
#define ak_byte(w) (8 * (w))
#else
#define ak_byte(w) (24 - 8 * (w))
#endif
""",
    **{f"run_{kind}": _run(kind) for kind in _STORES},
    **{f"tile_{kind}": _tile(kind) for kind in _STORES},
}


def _key(draw: Draw, argument: str) -> str:
    return f"{argument}[{draw.key[0]}], {argument}[{draw.key[1]}]"


def drawn_element(draw: Draw, dtype: DType, argument: str, place: str) -> str:
    """The expression of the element at ``place`` of a random tensor.

    Args:
        draw: What it is.
        dtype: Of the tensor.
        argument: The buffer that holds the key.
        place: Index of the element in the tensor, as an expression.
    """
    where = f"{_key(draw, argument)}, (ulong)({place}) + {draw.first}UL"
    if draw.rate is not None:
        return f"(ak_philox_word({where}) >= {keep_threshold(draw.rate)}U)"
    return f"ak_draw_{ctype(dtype.name)}({where})"


def drawn_run(name: str, draw: Draw, dtype: DType, argument: str, start: str) -> Run:
    """The elements of a random tensor for a loop through neighbours.

    Args:
        name: The variable that is the element.
        draw, dtype, argument: As in :func:`drawn_element`.
        start: Place of the element of the loop's index 0, as an expression.
    """
    kind = ctype(dtype.name)
    most = _PER_BLOCK[kind] - 1  # elements of the first block that come before the run
    shift = most.bit_length()
    code = f"""const ulong f_{name} = (ulong)({start} + block) + {draw.first}UL;
const int s_{name} = (int)(f_{name} & {most});
{_array(name, kind, RUN // (most + 1) + 1)}
ak_run_{kind}({_arguments(name, draw, argument)}, f_{name} >> {shift},
  (s_{name} + (int)(stop - block) + {most}) >> {shift});
const __private {kind}* const e_{name} = (const __private {kind}*)d_{name} + s_{name};
"""
    return Run(name, code, f"e_{name}[k - block]")


def drawn_tile(
    name: str,
    draw: Draw,
    dtype: DType,
    argument: str,
    start: str,
    step: int,
    shape: tuple[int, int],
) -> tuple[str, Run]:
    """The elements of a random tensor for a tile of rows ``r``, all drawn side by side.

    Args:
        name, draw, dtype, argument: As in :func:`drawn_run`.
        start: Place of the tile's first element, as an expression.
        step: From one of its rows to the next.
        shape: Rows and columns.

    Returns:
        What comes before the loop over rows, and what replaces the variable within.
    """
    kind = ctype(dtype.name)
    most = _PER_BLOCK[kind] - 1
    rows, columns = shape
    aligned, width = (ceil_div(columns + extra, most + 1) for extra in (0, most))
    before = f"""const ulong f_{name} = {start} + {draw.first}UL;
const int w_{name} = (f_{name} | {step}) & {most} ? {width} : {aligned};
{_array(name, kind, rows * width)}
ak_tile_{kind}({_arguments(name, draw, argument)}, f_{name}, {step}, {rows}, w_{name});
"""
    row = f"(r * w_{name} * {most + 1} + (int)((f_{name} + (ulong)r * {step}) & {most}))"
    code = f"const __private {kind}* const e_{name} = (const __private {kind}*)d_{name} + {row};\n"
    return before, Run(name, code, f"e_{name}[k]")


def _array(name: str, kind: str, blocks: int) -> str:
    """An array for so many blocks, which are drawn in groups."""
    filled = blocks + _GROUP - 1
    if kind == "uchar":  # the four of a block are one number
        return f"uint d_{name}[{filled}];"
    return f"{kind} d_{name}[{filled * _PER_BLOCK[kind]}];"


def _arguments(name: str, draw: Draw, argument: str) -> str:
    threshold = "" if draw.rate is None else f"{keep_threshold(draw.rate)}U, "
    return f"d_{name}, {threshold}{_key(draw, argument)}"
