"""Panels: operands copied so that a register tile reads them front to back.

A panel holds ``width`` neighbours of an outer axis for every step of the reduction,
``[panel][step][width]``, with zeros past the end of the axis.
"""

from __future__ import annotations

from accelkit_opencl.kernels.convolution import Gather
from accelkit_opencl.kernels.matmul_cpu import Matmul
from accelkit_opencl.kernels.source import KernelSource, ceil_div
from accelkit_opencl.kernels.tile import ONE_ITEM, Tile, prelude

__all__ = [
    "pack_left_kernel",
    "pack_right_kernel",
    "pack_weights_kernel",
    "packed_sizes",
    "packed_weights_size",
]

_STEPS = 64  # steps of the reduction that one work-item copies


def _copy(width: int, vector: int, outer_stride: int, step_stride: int) -> str:
    """Copy ``steps`` steps from ``a`` to ``out``; ``count`` neighbours of a panel exist.

    Full panels are copied by whole vectors where the neighbours are contiguous.
    """
    element = f"out[t * {width} + e] = a[(size_t)t * {step_stride} + (size_t)e * {outer_stride}];"
    full = f"for (int e = 0; e < {width}; e++) {element}"
    if outer_stride == 1 and width % vector == 0:
        full = " ".join(
            f"STORE(out + t * {width} + {v}, LOAD(a + (size_t)t * {step_stride} + {v}));"
            for v in range(0, width, vector)
        )
    return f"""if (count == {width}) {{
  for (int t = 0; t < steps; t++) {{ {full} }}
}} else {{
  for (int t = 0; t < steps; t++) {{
    for (int e = 0; e < count; e++) {element}
    for (int e = count; e < {width}; e++) out[t * {width} + e] = 0;
  }}
}}
"""


def _pack(
    name: str, product: Matmul, vector: int, outer: int, strides: tuple[int, int], width: int
) -> KernelSource:
    """Copy matrices to panels of ``width``; ``strides`` are along the outer axis and along k."""
    (outer_stride, k_stride), k = strides, product.k
    panels = ceil_div(outer, width)
    source = f"""{prelude(product.dtype, vector)}
{ONE_ITEM}void KERNEL(const __global real* restrict in, __global real* restrict packed) {{
  const int k0 = get_global_id(0) * {_STEPS}, panel = get_global_id(1), batch = get_global_id(2);
  const int steps = {k} - k0 < {_STEPS} ? {k} - k0 : {_STEPS};
  const int rest = {outer} - panel * {width}, count = rest < {width} ? rest : {width};
  const __global real* const a = in + (size_t)batch * {outer * k}
      + (size_t)panel * {width * outer_stride} + (size_t)k0 * {k_stride};
  __global real* const out = packed
      + ((size_t)batch * {panels} + panel) * {k * width} + (size_t)k0 * {width};
{_copy(width, vector, outer_stride, k_stride)}}}
"""
    size = (ceil_div(k, _STEPS), panels, product.batch)
    return KernelSource.of(name, source, ("source", "packed"), size, (1, 1, 1))


def pack_left_kernel(product: Matmul, tile: Tile) -> KernelSource:
    """``(a, packed)``: a to panels of ``tile.rows`` rows."""
    strides = product.left_strides()
    return _pack("pack_left", product, tile.width, product.m, strides, tile.rows)


def pack_right_kernel(product: Matmul, tile: Tile) -> KernelSource:
    """``(b, packed)``: b to panels of ``tile.columns`` columns."""
    k_stride, stride = product.right_strides()
    return _pack("pack_right", product, tile.width, product.n, (stride, k_stride), tile.columns)


def packed_sizes(product: Matmul, tile: Tile) -> tuple[int, int]:
    """Elements of the packed left and right operands."""
    left = ceil_div(product.m, tile.rows) * tile.rows * product.k
    right = ceil_div(product.n, tile.columns) * tile.columns * product.k
    return product.batch * left, product.batch * right


def packed_weights_size(gather: Gather, tile: Tile) -> int:
    """Elements of the packed weights."""
    panels = ceil_div(gather.features, tile.columns)
    return gather.groups * panels * gather.depth * tile.columns


def pack_weights_kernel(gather: Gather, tile: Tile) -> KernelSource:
    """``(weights, packed)``: HWIO weights to panels [group][panel][tap row][tap column][c][NR]."""
    rows, columns, nr = gather.rows, gather.columns, tile.columns
    panels, taps = ceil_div(gather.features, nr), rows.count * columns.count
    filter_row = f"({rows.filter_start} + ({rows.filter_step}) * tr)"
    filter_column = f"({columns.filter_start} + ({columns.filter_step}) * tc)"
    if gather.transposed:  # this product's channels are the filter's features
        inner, total = gather.features, gather.source[2]
        place = f"* {total} + g * {gather.channels} + c0 + (size_t)first * {total}"
        strides = total, 1
    else:
        inner, total = gather.channels, gather.out[2]
        place = f"* {total} + (size_t)c0 * {total} + g * {gather.features} + first"
        strides = 1, total
    source = f"""{prelude(gather.dtype, tile.width)}
{ONE_ITEM}void KERNEL(const __global real* restrict weights, __global real* restrict packed) {{
  const int c0 = get_global_id(0) * {_STEPS}, tap = get_global_id(1), gp = get_global_id(2);
  const int steps = {gather.channels} - c0 < {_STEPS} ? {gather.channels} - c0 : {_STEPS};
  const int tr = tap / {max(columns.count, 1)}, tc = tap % {max(columns.count, 1)};
  const int g = gp / {panels}, first = gp % {panels} * {nr};
  __global real* const out = packed
      + (((size_t)gp * {taps} + tap) * {gather.channels} + c0) * {nr};
  const __global real* const a = weights
      + (size_t)({filter_row} * {gather.kernel[1]} + {filter_column}) * {inner} {place};
  const int count = {gather.features} - first < {nr} ? {gather.features} - first : {nr};
{_copy(nr, tile.width, *strides)}}}
"""
    size = (ceil_div(gather.channels, _STEPS), taps, gather.groups * panels)
    return KernelSource.of("pack_weights", source, ("weights", "packed"), size, (1, 1, 1))
