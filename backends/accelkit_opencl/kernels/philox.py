"""Philox4x32-10 (Salmon et al., 2011) on the device: the bits of :mod:`accelkit.random.philox`."""

from __future__ import annotations

from accelkit.random.philox import keep_threshold
from accelkit_opencl.kernels.loops import vector_hint
from accelkit_opencl.kernels.source import KernelSource, ceil_div, double_pragma

__all__ = ["keep_mask_kernel", "uniform_kernel"]

_BLOCKS = 2048  # of four words, per work-item

# Every 32-bit word is in the lower half of 64 bits, where a vector multiplies it without moving
# halves about; what is left in the upper half is masked off before it matters.
_ROUNDS = """
#define LOW 0xFFFFFFFFUL
#define ROUND { \\
  const ulong p0 = (c0 & LOW) * 0xD2511F53UL, p1 = (c2 & LOW) * 0xCD9E8D57UL; \\
  c0 = (p1 >> 32) ^ c1 ^ k0; c1 = p1; \\
  c2 = (p0 >> 32) ^ c3 ^ k1; c3 = p0; \\
  k0 = (k0 + 0x9E3779B9UL) & LOW; k1 = (k1 + 0xBB67AE85UL) & LOW; }
#define BLOCK(index) \\
  ulong k0 = key0, k1 = key1, c2 = key0, c3 = key1; \\
  ulong c0 = (index) & LOW, c1 = (index) >> 32; \\
  ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND
"""


def _kernel(
    stem: str, size: int, offset: int, kind: str, store: str, words: int, inside: str = ""
) -> KernelSource:
    """``store`` is code for element ``e`` (of the result) from the words c0..c3.

    ``words`` is the number of words of one element; the stream starts at word offset * words.
    ``inside`` may replace ``store`` for block ``b`` where all of its elements exist.
    """
    per_block = 4 // words
    first = offset // per_block
    skip = offset % per_block
    blocks = ceil_div(size + skip, per_block)
    # The first block may begin before the result and the last one end after it. All others store
    # without a question, so that the compiler can run many blocks side by side.
    source = f"""{double_pragma(kind)}{_ROUNDS}
#define PUT(e, x) out[e] = (x);
#define PUT_INSIDE(e, x) {{ const long at = (e); if (at >= 0 && at < {size}L) out[at] = (x); }}
__kernel void KERNEL(const __global uint* restrict key, __global {kind}* restrict out) {{
  const ulong key0 = key[0], key1 = key[1];
  const long start = (long)get_global_id(0) * {_BLOCKS};
  const long end = start + {_BLOCKS} < {blocks}L ? start + {_BLOCKS} : {blocks}L;
  const long head = start == 0 ? 1 : start, tail = end == {blocks}L ? end - 1 : end;
{vector_hint(["const ulong c0 = 0;"])}  for (long b = head; b < tail; b++) {{
    const ulong index = (ulong)b + {first}UL;
    BLOCK(index)
    const long e = b * {per_block} - {skip};
    {inside or store}
  }}
  for (int edge = 0; edge < 2; edge++) {{
    const long b = edge == 0 ? 0 : {blocks}L - 1;
    if (b < start || b >= end || (edge == 1 && b == 0)) continue;
    const ulong index = (ulong)b + {first}UL;
    BLOCK(index)
    const long e = b * {per_block} - {skip};
    {store.replace("PUT(", "PUT_INSIDE(")}
  }}
}}
"""
    count = max(ceil_div(blocks, _BLOCKS), 1)
    return KernelSource.of(stem, source, ("key", "out"), (count,), (1,))


def keep_mask_kernel(size: int, rate: float, offset: int) -> KernelSource:
    """``(key, out)``: bytes, 1 where the word is at least the threshold of ``rate``."""
    threshold = f"{keep_threshold(rate)}UL"
    store = " ".join(f"PUT(e + {w}, (c{w} & LOW) >= {threshold})" for w in range(4))
    joined = " | ".join(f"((c{w} & LOW) >= {threshold} ? {1 << 8 * w}UL : 0UL)" for w in range(4))
    inside = store
    if offset % 4 == 0:  # blocks are aligned: one store instead of four interleaved ones
        inside = f"((__global uint*)out)[b] = (uint)({joined});"
        inside = f"\n#ifdef __ENDIAN_LITTLE__\n{inside}\n#else\n{store}\n#endif"
    return _kernel("random_keep_mask", size, offset, "uchar", store, 1, inside)


def uniform_kernel(size: int, dtype: str, offset: int) -> KernelSource:
    """``(key, out)``: uniform in [0, 1)."""
    if dtype == "float":
        store = " ".join(f"PUT(e + {w}, (float)((uint)c{w} >> 8) * 0x1.0p-24f)" for w in range(4))
        return _kernel("random_uniform", size, offset, "float", store, 1)
    pairs = ((0, 1), (2, 3))
    store = " ".join(
        f"PUT(e + {i}, ((double)((uint)c{a} >> 5) * 67108864.0"
        f" + (double)((uint)c{b} >> 6)) * 0x1.0p-53)"
        for i, (a, b) in enumerate(pairs)
    )
    return _kernel("random_uniform", size, offset, "double", store, 2)
