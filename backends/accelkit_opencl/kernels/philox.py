"""Philox4x32-10 (Salmon et al., 2011) on the device: the bits of :mod:`accelkit.random.philox`.

The generator is a function of a counter and a key, so a random number is an elementwise function
of its place: kernels draw it where they use it, and draw it again where they use it again. One
call gives four words, for four neighbours. Loops draw the numbers of a run of elements before they
go through it; elsewhere, and on GPUs, every element makes a call of its own.
"""

from __future__ import annotations

from typing import Final

from accelkit.dtypes import DType
from accelkit.random.philox import keep_threshold
from accelkit_opencl.kernels.loops import RUN, Run, vector_hint
from accelkit_opencl.kernels.source import ctype
from accelkit_opencl.views import Draw

__all__ = ["FUNCTIONS", "drawn_element", "drawn_run"]

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


def _run(name: str, kind: str, extra: str, per_block: int, store: str) -> str:
    """A function that draws ``count`` blocks; the upper word of a counter hardly ever changes."""
    return f"""static inline void ak_{name}(__private {kind}* out, const uint key0, const uint key1,
    ulong block, int count{extra}) {{
  while (count > 0) {{
    const ulong high = block >> 32, low = block & 0xFFFFFFFFUL, left = 0x100000000UL - low;
    const int n = left < (ulong)count ? (int)left : count;
{vector_hint(["const ulong c0 = 0;"])}    for (int b = 0; b < n; b++) {{
      ak_philox_rounds(low + b, high)
      {store}
    }}
    out += n * {per_block}; block += n; count -= n;
  }}
}}
"""


_FLOAT = "(float)({} >> 8) * 0x1.0p-24f"
_DOUBLE = "((double)({} >> 5) * 67108864.0 + (double)({} >> 6)) * 0x1.0p-53"

_MASKS = " | ".join(f"(uint)((uint)c{w} >= threshold) << ak_byte({w})" for w in range(4))

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
    "run_keep": _run(  # a byte per element, a block at a time
        "run_keep",
        "uint",
        ", const uint threshold",
        1,
        f"out[b] = {_MASKS};",
    ),
    "run_float": _run(
        "run_float",
        "float",
        "",
        4,
        " ".join(f"out[4 * b + {w}] = {_FLOAT.format(f'(uint)c{w}')};" for w in range(4)),
    ),
    "run_double": _run(
        "run_double",
        "double",
        "",
        2,
        " ".join(
            f"out[2 * b + {i}] = {_DOUBLE.format(f'(uint)c{2 * i}', f'(uint)c{2 * i + 1}')};"
            for i in range(2)
        ),
    ),
}


def _per_block(draw: Draw, dtype: DType) -> int:
    return 2 if draw.rate is None and dtype.itemsize == 8 else 4


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
    per_block = _per_block(draw, dtype)
    mask = draw.rate is not None
    stored, kind = ("uint", "uchar") if mask else (ctype(dtype.name), ctype(dtype.name))
    blocks = RUN // per_block + 1  # the run may begin and end within a block
    size = blocks if mask else blocks * per_block
    threshold = f", {keep_threshold(draw.rate)}U" if draw.rate is not None else ""
    shift = per_block.bit_length() - 1
    code = f"""const ulong f_{name} = (ulong)({start} + block) + {draw.first}UL;
const int s_{name} = (int)(f_{name} & {per_block - 1});
{stored} d_{name}[{size}];
ak_run_{"keep" if mask else stored}(d_{name}, {_key(draw, argument)}, f_{name} >> {shift},
  (s_{name} + (int)(stop - block) + {per_block - 1}) >> {shift}{threshold});
const __private {kind}* const e_{name} = (const __private {kind}*)d_{name} + s_{name};
"""
    return Run(name, code, f"e_{name}[k - block]")
