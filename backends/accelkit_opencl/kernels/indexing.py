"""Scans, searches, sorting and indexing along one axis.

Tensors are seen as (outer, extent, inner). One work-item owns one or more lines along the axis,
so sums over repeated indices are added in order: results are deterministic without atomics.
"""

from __future__ import annotations

from accelkit_opencl.kernels.source import KernelSource, double_pragma

__all__ = [
    "argsort_kernel",
    "argument_kernel",
    "cumulative_sum_kernel",
    "take_along_kernel",
    "take_kernel",
]


def _kernel(
    stem: str, arguments: tuple[tuple[str, str], ...], body: str, size: tuple[int, ...]
) -> KernelSource:
    written = len(arguments) - 1
    parameters = ", ".join(
        f"__global {'' if i >= written or name == 'work' else 'const '}{kind}* restrict {name}"
        for i, (name, kind) in enumerate(arguments)
    )
    code = f"__kernel void KERNEL({parameters}) {{\n{body}}}\n"
    code = double_pragma(code) + code
    names = tuple(name for name, _ in arguments)
    return KernelSource.of(stem, code, names, size, (1,) * len(size))


def argument_kernel(
    outer: int, extent: int, inner: int, kind: str, *, largest: bool
) -> KernelSource:
    """``(x, out)``: int64 index of the first extremum; the first NaN counts as one."""
    better = ">" if largest else "<"
    body = f"""  const int i = get_global_id(0), o = get_global_id(1);
  const __global {kind}* const line = x + (size_t)o * {extent * inner} + i;
  {kind} best = line[0];
  long found = 0;
  for (long j = 1; j < {extent}; j++) {{
    const {kind} v = line[j * {inner}];
    if (best == best && (v {better} best || v != v)) {{ best = v; found = j; }}
  }}
  out[(size_t)o * {inner} + i] = found;
"""
    return _kernel("argument", (("x", kind), ("out", "long")), body, (inner, outer))


def cumulative_sum_kernel(outer: int, extent: int, inner: int, kind: str) -> KernelSource:
    """``(x, out)``: running sums along the axis."""
    body = f"""  const int i = get_global_id(0), o = get_global_id(1);
  const size_t start = (size_t)o * {extent * inner} + i;
  {kind} sum = 0;
  for (size_t j = 0; j < {extent}; j++) {{
    sum += x[start + j * {inner}];
    out[start + j * {inner}] = sum;
  }}
"""
    return _kernel("cumulative_sum", (("x", kind), ("out", kind)), body, (inner, outer))


def argsort_kernel(
    outer: int, extent: int, inner: int, kind: str, *, descending: bool
) -> KernelSource:
    """``(x, work, out)``: a stable bottom-up merge sort per line; ``work`` has the size of out."""
    is_after = "u < v" if descending else "u > v"
    if kind in ("float", "double"):  # NaN is the greatest
        is_after += " || (u == u && v != v)" if descending else " || (u != u && v == v)"
    passes = max(extent - 1, 0).bit_length()
    # The last pass must write to `out`: start in the buffer that makes it so.
    first, second = ("out", "work") if passes % 2 == 0 else ("work", "out")
    body = f"""  const int i = get_global_id(0), o = get_global_id(1);
  const size_t start = (size_t)o * {extent * inner} + i;
  const __global {kind}* const line = x + start;
  __global long *from = {first} + start, *to = {second} + start;
  for (long j = 0; j < {extent}; j++) from[j * {inner}] = j;
  for (long width = 1; width < {extent}; width *= 2) {{
    for (long low = 0; low < {extent}; low += 2 * width) {{
      const long middle = low + width < {extent} ? low + width : {extent};
      const long high = low + 2 * width < {extent} ? low + 2 * width : {extent};
      long a = low, b = middle;
      for (long j = low; j < high; j++) {{
        int take_b = a == middle;
        if (a < middle && b < high) {{
          const {kind} u = line[from[a * {inner}] * {inner}], v = line[from[b * {inner}] * {inner}];
          take_b = {is_after};
        }}
        to[j * {inner}] = from[(take_b ? b : a) * {inner}];
        if (take_b) b++; else a++;
      }}
    }}
    __global long* const swap = from; from = to; to = swap;
  }}
"""
    arguments = (("x", kind), ("work", "long"), ("out", "long"))
    return _kernel("argsort", arguments, body, (inner, outer))


_CLAMP = "j = j < 0 ? 0 : (j >= {extent} ? {extent} - 1 : j);"


def take_kernel(
    outer: int,
    extent: int,
    inner: int,
    count: int,
    kind: str,
    index_kind: str,
    *,
    gradient: bool,
) -> KernelSource:
    """``(x, indices, out)``: out[o, i, :] = x[o, indices[i], :], or the gradient of that.

    The gradient takes g (outer, count, inner) and adds its lines up in ``out``
    (outer, extent, inner).
    """
    clamp = _CLAMP.format(extent=extent)
    if gradient:
        body = f"""  const int e = get_global_id(0), o = get_global_id(1);
  __global {kind}* const line = out + (size_t)o * {extent * inner} + e;
  for (size_t j = 0; j < {extent}; j++) line[j * {inner}] = 0;
  for (size_t i = 0; i < {count}; i++) {{
    long j = indices[i];
    {clamp}
    line[j * {inner}] += x[((size_t)o * {count} + i) * {inner} + e];
  }}
"""
        size: tuple[int, ...] = (inner, outer)
    else:
        body = f"""  const int i = get_global_id(0), o = get_global_id(1);
  long j = indices[i];
  {clamp}
  const __global {kind}* const from = x + ((size_t)o * {extent} + j) * {inner};
  __global {kind}* const to = out + ((size_t)o * {count} + i) * {inner};
  for (int e = 0; e < {inner}; e++) to[e] = from[e];
"""
        size = (count, outer)
    arguments = (("x", kind), ("indices", index_kind), ("out", kind))
    return _kernel("take_grad" if gradient else "take", arguments, body, size)


def take_along_kernel(
    outer: int,
    extent: int,
    inner: int,
    count: int,
    kind: str,
    index_kind: str,
    *,
    gradient: bool,
) -> KernelSource:
    """``(x, indices, out)``: out[o, i, e] = x[o, indices[o, i, e], e], or the gradient of that."""
    clamp = _CLAMP.format(extent=extent)
    clear = move = ""
    if gradient:
        clear = f"for (size_t j = 0; j < {extent}; j++) line[j * {inner}] = 0;"
        move = f"line[j * {inner}] += x[place];"
        line = f"__global {kind}* const line = out"
    else:
        move = f"out[place] = line[j * {inner}];"
        line = f"const __global {kind}* const line = x"
    body = f"""  const int e = get_global_id(0), o = get_global_id(1);
  {line} + (size_t)o * {extent * inner} + e;
  {clear}
  for (size_t i = 0; i < {count}; i++) {{
    const size_t place = ((size_t)o * {count} + i) * {inner} + e;
    long j = indices[place];
    {clamp}
    {move}
  }}
"""
    arguments = (("x", kind), ("indices", index_kind), ("out", kind))
    return _kernel("take_along", arguments, body, (inner, outer))
