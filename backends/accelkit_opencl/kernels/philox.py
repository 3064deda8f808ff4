"""Philox4x32-10 (Salmon et al., 2011) on the device: the bits of :mod:`accelkit.random.philox`."""

from __future__ import annotations

from accelkit.random.philox import keep_threshold
from accelkit_opencl.kernels.source import KernelSource, ceil_div

__all__ = ["keep_mask_kernel", "uniform_kernel"]

_BLOCKS = 2048  # of four words, per work-item

_ROUNDS = """
#define ROUND { \\
  const ulong p0 = (ulong)c0 * 0xD2511F53UL, p1 = (ulong)c2 * 0xCD9E8D57UL; \\
  c0 = (uint)(p1 >> 32) ^ c1 ^ k0; c1 = (uint)p1; \\
  c2 = (uint)(p0 >> 32) ^ c3 ^ k1; c3 = (uint)p0; \\
  k0 += 0x9E3779B9U; k1 += 0xBB67AE85U; }
#define BLOCK(index) \\
  uint k0 = key0, k1 = key1, c2 = key0, c3 = key1; \\
  uint c0 = (uint)(index), c1 = (uint)((index) >> 32); \\
  ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND
"""


def _kernel(stem: str, size: int, offset: int, kind: str, store: str, words: int) -> KernelSource:
    """``store`` is code for element ``e`` (of the result) from the words c0..c3.

    ``words`` is the number of words of one element; the stream starts at word offset * words.
    """
    per_block = 4 // words
    first = offset // per_block
    skip = offset % per_block
    blocks = ceil_div(size + skip, per_block)
    pragma = "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n" if kind == "double" else ""
    source = f"""{pragma}{_ROUNDS}
#define PUT(e, x) {{ const long at = (e); if (at >= 0 && at < {size}L) out[at] = (x); }}
__kernel void KERNEL(const __global uint* restrict key, __global {kind}* restrict out) {{
  const uint key0 = key[0], key1 = key[1];
  const long start = (long)get_global_id(0) * {_BLOCKS};
  const long end = start + {_BLOCKS} < {blocks}L ? start + {_BLOCKS} : {blocks}L;
  for (long b = start; b < end; b++) {{
    const ulong index = (ulong)b + {first}UL;
    BLOCK(index)
    const long e = b * {per_block} - {skip};
    {store}
  }}
}}
"""
    count = max(ceil_div(blocks, _BLOCKS), 1)
    return KernelSource.of(stem, source, ("key", "out"), (count,), (1,))


def keep_mask_kernel(size: int, rate: float, offset: int) -> KernelSource:
    """``(key, out)``: bytes, 1 where the word is at least the threshold of ``rate``."""
    threshold = f"{keep_threshold(rate)}UL"
    store = " ".join(f"PUT(e + {w}, (ulong)c{w} >= {threshold})" for w in range(4))
    return _kernel("random_keep_mask", size, offset, "uchar", store, 1)


def uniform_kernel(size: int, dtype: str, offset: int) -> KernelSource:
    """``(key, out)``: uniform in [0, 1)."""
    if dtype == "float":
        store = " ".join(f"PUT(e + {w}, (float)(c{w} >> 8) * 0x1.0p-24f)" for w in range(4))
        return _kernel("random_uniform", size, offset, "float", store, 1)
    pairs = ((0, 1), (2, 3))
    store = " ".join(
        f"PUT(e + {i}, ((double)(c{a} >> 5) * 67108864.0 + (double)(c{b} >> 6)) * 0x1.0p-53)"
        for i, (a, b) in enumerate(pairs)
    )
    return _kernel("random_uniform", size, offset, "double", store, 2)
