"""Convolutions for CPU devices: register tiles that read the image in place.

In NHWC one filter row meets one contiguous stretch of the image (filter columns x channels), so
nothing is unrolled into a matrix: neighbouring pixels are the rows of a register tile at a
constant distance, and the packed weights are its columns. Only the zero border is materialised.
"""

from __future__ import annotations

from accelkit_opencl.kernels.convolution import Convolution, Gather
from accelkit_opencl.kernels.epilogue import Epilogue
from accelkit_opencl.kernels.source import KernelSource, ceil_div, itemsize_of
from accelkit_opencl.kernels.tile import ONE_ITEM, WIDE_VECTORS, Tile, panel_cases, prelude

__all__ = ["gather_kernel", "pack_weights_kernel", "pad_kernel", "weight_gradient_kernel"]


def pad_kernel(gather: Gather) -> KernelSource:
    """``(source, padded)``: copy the source into the middle of zeros."""
    height, width, channels = gather.source
    padded_height, padded_width = gather.padded
    row, padded_row = width * channels, padded_width * channels
    source = f"""{_pragma(gather.dtype)}#define real {gather.dtype}
{ONE_ITEM}void KERNEL(const __global real* restrict source,
            __global real* restrict padded) {{
  const int i = get_global_id(0), n = get_global_id(1);
  __global real* const out = padded + ((size_t)n * {padded_height} + i) * {padded_row};
  const int from = i - {gather.low[0]};
  if (from < 0 || from >= {height}) {{
    for (int k = 0; k < {padded_row}; k++) out[k] = 0;
    return;
  }}
  const __global real* const in = source + ((size_t)n * {height} + from) * {row};
  for (int k = 0; k < {gather.low[1] * channels}; k++) out[k] = 0;
  for (int k = 0; k < {row}; k++) out[{gather.low[1] * channels} + k] = in[k];
  for (int k = {gather.low[1] * channels + row}; k < {padded_row}; k++) out[k] = 0;
}}
"""
    size = (padded_height, gather.batch)
    return KernelSource.of("pad_image", source, ("source", "padded"), size, (1, 1))


def _pragma(dtype: str) -> str:
    return "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n" if dtype == "double" else ""


def packed_weights_size(gather: Gather, tile: Tile) -> int:
    """Elements of the packed weights."""
    panels = ceil_div(gather.features, tile.columns)
    return gather.groups * panels * gather.depth * tile.columns


def pack_weights_kernel(gather: Gather, tile: Tile) -> KernelSource:
    """``(weights, packed)``: HWIO weights to panels [group][panel][tap row][tap column][c][NR]."""
    rows, columns, nr = gather.rows, gather.columns, tile.columns
    panels = ceil_div(gather.features, nr)
    filter_row = f"({rows.filter_start} + ({rows.filter_step}) * tr)"
    filter_column = f"({columns.filter_start} + ({columns.filter_step}) * tc)"
    if gather.transposed:  # this product's channels are the filter's features
        inner, total = gather.features, gather.source[2]
        place = f"* {total} + g * {gather.channels} + c + (size_t)first * {total}"
    else:
        inner, total = gather.channels, gather.out[2]
        place = f"* {total} + (size_t)c * {total} + g * {gather.features} + first"
    source = f"""{_pragma(gather.dtype)}#define real {gather.dtype}
__kernel {WIDE_VECTORS}
void KERNEL(const __global real* restrict weights, __global real* restrict packed) {{
  const int c = get_global_id(0), tap = get_global_id(1), gp = get_global_id(2);
  const int tr = tap / {max(columns.count, 1)}, tc = tap % {max(columns.count, 1)};
  const int g = gp / {panels}, first = gp % {panels} * {nr};
  __global real* const out = packed
      + (((size_t)gp * {rows.count * columns.count} + tap) * {gather.channels} + c) * {nr};
  const __global real* const in = weights
      + (size_t)({filter_row} * {gather.kernel[1]} + {filter_column}) * {inner} {place};
  const int count = {gather.features} - first < {nr} ? {gather.features} - first : {nr};
  for (int e = 0; e < count; e++) out[e] = in[(size_t)e * {total if gather.transposed else 1}];
  for (int e = count; e < {nr}; e++) out[e] = 0;
}}
"""
    size = (gather.channels, rows.count * columns.count, gather.groups * panels)
    return KernelSource.of("pack_weights", source, ("weights", "packed"), size, (1, 1, 1))


def gather_kernel(
    gather: Gather,
    tile: Tile,
    *,
    block_rows: int = 0,
    unroll: int = 4,
    epilogue: Epilogue | None = None,
) -> KernelSource:
    """``(source, weights, out)``: padded source and packed weights to the result.

    One work-item computes one row of one image, one panel of features. Work-items of a block of
    rows come one after the other, panel by panel, so that a panel of weights and the block's part
    of the source stay in the second-level cache.

    Args:
        gather: The product.
        tile: Rows run over pixels of an image row, columns over features.
        block_rows: Image rows (of all images, one after the other) of a block; 0 for all.
        unroll: Unrolling of the reduction loop.
        epilogue: What becomes of the result; its arguments then take the place of ``out``.
    """
    panels = ceil_div(gather.features, tile.columns)
    columns = gather.grid[1]
    rows = gather.batch * gather.grid[0]
    block = min(block_rows or rows, rows)

    def body(panel_tile: Tile, count: int) -> str:
        full, rest = divmod(columns, panel_tile.rows)
        code = ""
        if full:
            code += f"for (int j = 0; j < {full * panel_tile.rows}; j += {panel_tile.rows}) {{\n"
            code += f"{at(panel_tile, count)}}}\n"
        if rest:
            code += f"{{ const int j = {full * panel_tile.rows};\n"
            code += f"{at(panel_tile.with_rows(rest), count)}}}\n"
        return code

    def at(part: Tile, count: int) -> str:
        code = _gather_tile(gather, part, tile.columns, unroll)
        if epilogue is None:
            return code + _gather_store(gather, part, count)
        row = f"out_pixel + j * {gather.out_step[1]}"
        column = f"g * {gather.features} + panel * {tile.columns}"
        return code + epilogue.finish(part, count, row, column, row_step=gather.out_step[1])

    _, padded_width = gather.padded
    source_channels = gather.source[2]
    out_height, out_width, out_channels = gather.out
    if epilogue is None:
        definitions, result = "", "__global real* restrict result"
        out_row = (
            f"__global real* const out_row = result + g * {gather.features}"
            f" + panel * {tile.columns} + out_pixel * {out_channels};\n"
        )
    else:
        definitions = _pragma(gather.dtype) + epilogue.definitions
        result, out_row = epilogue.parameters, ""
    source = f"""{definitions}{prelude(gather.dtype, tile.width)}
{ONE_ITEM}void KERNEL(const __global real* restrict source, const __global real* restrict weights,
            {result}) {{
  const int g = get_global_id(1), first_row = get_global_id(0) / {block * panels} * {block};
  const int place = get_global_id(0) % {block * panels};
  const int height = {rows} - first_row < {block} ? {rows} - first_row : {block};
  const int panel = place / height, row = first_row + place % height;
  const int n = row / {gather.grid[0]}, i = row % {gather.grid[0]};
  const __global real* const source_row = source + g * {gather.channels}
      + ((size_t)n * {gather.padded[0]} + i * {gather.step[0]} + {gather.rows.start})
      * {padded_width * source_channels} + {gather.columns.start * source_channels};
  const __global real* const first_b = weights
      + (size_t)(g * {panels} + panel) * {gather.depth * tile.columns};
  const size_t out_pixel = ((size_t)n * {out_height} + i * {gather.out_step[0]}
      + {gather.out_start[0]}) * {out_width} + {gather.out_start[1]};
{out_row}{panel_cases(gather.features, tile, body)}}}
"""
    size = (rows * panels, gather.groups)
    names = ("result",) if epilogue is None else epilogue.arguments
    arguments = ("source", "weights", *names)
    name = "gather" if epilogue is None else "gather_fused"
    return KernelSource.of(name, source, arguments, size, (1, 1), gather.flops)


def _gather_tile(gather: Gather, tile: Tile, packed_columns: int, unroll: int) -> str:
    """The accumulators of a tile."""
    pixel = gather.step[1] * gather.source[2]
    runs, length = gather.runs
    image_row = gather.rows.step * gather.padded[1] * gather.source[2]
    step = tile.step(lambda r: f"a[{r * pixel} + k]", lambda v: f"b + {v * tile.width}")
    inner = (
        f"#pragma unroll {unroll}\nfor (int k = 0; k < {length}; k++) {{\n{step}"
        f"b += {packed_columns}; }}\n"
    )
    if runs > 1:
        inner = (
            f"for (int tc = 0; tc < {runs}; tc++) {{\n{inner}"
            f"a += {gather.columns.step * gather.source[2]}; }}\n"
        )
    loop = ""
    if gather.depth:
        loop = (
            f"for (int tr = 0; tr < {gather.rows.count}; tr++) {{\n"
            f"const __global real* a = source_row + j * {pixel} + tr * {image_row};\n{inner}}}\n"
        )
    return f"{tile.declare()}const __global real* b = first_b;\n{loop}"


def _gather_store(gather: Gather, tile: Tile, count: int) -> str:
    out_pixel = gather.out_step[1] * gather.out[2]

    def pointer(r: int, v: int) -> str:
        return f"out + {r * out_pixel + v * tile.width}"

    finish = tile.finish(pointer, count)
    return f"__global real* const out = out_row + j * {out_pixel};\n{finish}"


def weight_gradient_kernel(
    conv: Convolution,
    tile: Tile,
    *,
    items: int,
    block_bytes: int,
    taps: int = 1,
    unroll: int = 4,
) -> KernelSource:
    """``(source, gradient, result)``: padded input and output gradient to the filter's gradient.

    The output gradient is cut into blocks. A work-item copies its panel of a block into local
    memory, where it lies without gaps, and then visits all of its tiles of the result.

    Args:
        conv: The convolution.
        tile: Rows run over (filter column, channel), columns over features.
        items: Work-items wanted at least; the filter's rows are cut until there are as many.
        block_bytes: Most bytes of a panel of a block.
        taps: Filter rows (or taps, where the image is not contiguous along a filter row) of one
            work-item, which share the blocks of the output gradient.
        unroll: Unrolling of the loop over pixels.
    """
    gather = conv.forward()
    runs, length = gather.runs
    panels = ceil_div(gather.features, tile.columns)
    tiles = ceil_div(length, tile.rows)
    all_taps = conv.kernel[0] * runs
    taps = min(taps, all_taps)
    bases = ceil_div(all_taps, taps) * panels * conv.groups
    chunks = min(tiles, max(1, ceil_div(items, bases)))
    chunk_tiles = ceil_div(tiles, chunks)
    chunks = ceil_div(tiles, chunk_tiles)
    height, width = _gradient_block(gather, tile, block_bytes)
    grid_height, grid_width = gather.grid

    def body(panel_tile: Tile, count: int) -> str:
        full = length // tile.rows
        rest = length % tile.rows
        code = _copy_gradient(conv, panel_tile, count)
        code += f"for (int tap = first_tap; tap < end_tap; tap++) {{\n{at_tap}"
        code += (
            f"for (int t = chunk * {chunk_tiles}; t < (chunk + 1) * {chunk_tiles}"
            f" && t < {full}; t++) {{ const int m = t * {tile.rows};\n"
            f"{_weight_tile(conv, gather, panel_tile, count, width, unroll)}}}\n"
        )
        if rest:
            last = panel_tile.with_rows(rest)
            code += (
                f"if (chunk == {chunks - 1}) {{ const int m = {full * tile.rows};\n"
                f"{_weight_tile(conv, gather, last, count, width, unroll)}}}\n"
            )
        return code + "}\n"

    channels, features = gather.source[2], conv.features
    at_tap = f"""const int kr = tap / {runs}, run = tap % {runs};
__global real* const out_tap = result
    + (size_t)tap * {length * features} + g * {gather.features} + panel * {tile.columns};
const __global real* const source_block = source + g * {gather.channels}
    + ((size_t)n * {gather.padded[0]} + top * {conv.stride[0]} + kr * {conv.dilation[0]})
    * {gather.padded[1] * channels} + left * {conv.stride[1] * channels}
    + run * {gather.columns.step * channels};
"""
    right = f"left + {width} < {grid_width} ? left + {width} : {grid_width}"
    source = f"""{prelude(conv.dtype, tile.width)}
{ONE_ITEM}void KERNEL(const __global real* restrict source, const __global real* restrict gradient,
            __global real* restrict result) {{
  __local real block[{height * width * tile.columns}] __attribute__((aligned(64)));
  const int chunk = get_global_id(0) % {chunks}, first_tap = get_global_id(0) / {chunks} * {taps};
  const int end_tap = first_tap + {taps} < {all_taps} ? first_tap + {taps} : {all_taps};
  const int panel = get_global_id(1), g = get_global_id(2);
  for (int n = 0; n < {conv.batch}; n++)
  for (int top = 0; top < {grid_height}; top += {height})
  for (int left = 0; left < {grid_width}; left += {width}) {{
    const int bottom = top + {height} < {grid_height} ? top + {height} : {grid_height};
    const int right = {grid_width if width == grid_width else right};
    const int fresh = n == 0 && top == 0 && left == 0;
    const __global real* const gradient_block = gradient + g * {gather.features}
        + panel * {tile.columns}
        + (((size_t)n * {grid_height} + top) * {grid_width} + left) * {features};
{panel_cases(gather.features, tile, body)}  }}
}}
"""
    size = (chunks * ceil_div(all_taps, taps), panels, conv.groups)
    arguments = ("source", "gradient", "result")
    return KernelSource.of("weight_gradient", source, arguments, size, (1, 1, 1), conv.flops)


def _gradient_block(gather: Gather, tile: Tile, block_bytes: int) -> tuple[int, int]:
    """Rows and columns of a block of the output gradient: whole rows where they fit."""
    height, width = gather.grid
    pixels = max(1, block_bytes // (tile.columns * itemsize_of(gather.dtype)))
    if pixels < width:
        return 1, ceil_div(width, ceil_div(width, pixels))
    return ceil_div(height, ceil_div(height, pixels // width)), width


def _copy_gradient(conv: Convolution, tile: Tile, count: int) -> str:
    """Copy a panel of a block to local memory, with zeros after its last column."""
    row = conv.out_width * conv.features
    copies = ""
    for v in range(tile.vectors):
        present = min(tile.width, count - v * tile.width)
        at, out = f"in + {v * tile.width}", f"packed + {v * tile.width}"
        if present == tile.width:
            copies += f"STORE_LOCAL({out}, LOAD({at}));\n"
        else:
            copies += f"for (int e = 0; e < {present}; e++) ({out})[e] = ({at})[e];\n"
            copies += f"for (int e = {present}; e < {tile.width}; e++) ({out})[e] = 0;\n"
    return f"""{{ __local real* packed = block;
for (int i = 0; i < bottom - top; i++) {{
  const __global real* in = gradient_block + i * {row};
  for (int j = left; j < right; j++) {{
{copies}in += {conv.features}; packed += {tile.columns}; }} }} }}
"""


def _weight_tile(
    conv: Convolution, gather: Gather, tile: Tile, count: int, width: int, unroll: int
) -> str:
    channels, features = gather.source[2], conv.features
    pixel = conv.stride[1] * channels
    image_row = conv.stride[0] * gather.padded[1] * channels
    step = tile.step(lambda r: f"a[{r}]", lambda v: f"b + {v * tile.width}", load="LOAD_LOCAL")
    pixels = str(width) if width == gather.grid[1] else "right - left"

    def pointer(r: int, v: int) -> str:
        return f"out + {r * features + v * tile.width}"

    return (
        f"__global real* const out = out_tap + (size_t)m * {features};\n"
        f"{tile.declare()}if (!fresh) {{\n{tile.load(pointer, count)}}}\n"
        f"const __local real* b = block;\n"
        f"for (int i = 0; i < bottom - top; i++) {{\n"
        f"const __global real* a = source_block + m + i * {image_row};\n"
        f"#pragma unroll {unroll}\nfor (int j = 0; j < {pixels}; j++) {{\n{step}"
        f"a += {pixel}; b += {tile.columns}; }} }}\n{tile.finish(pointer, count)}"
    )
