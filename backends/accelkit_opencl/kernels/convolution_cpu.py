"""Convolutions for CPU devices: register tiles that read the image in place.

In NHWC one filter row meets one contiguous stretch of the image (filter columns x channels), so
nothing is unrolled into a matrix: neighbouring pixels are the rows of a register tile at a
constant distance, and the packed weights are its columns. Zeros around the image are left out of
the sums where a tap reads many channels; elsewhere they are materialised, so that a filter row
stays one stretch.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from accelkit_opencl.kernels.convolution import Gather
from accelkit_opencl.kernels.epilogue import Epilogue, result_code
from accelkit_opencl.kernels.source import KernelSource, ceil_div, double_pragma, itemsize_of
from accelkit_opencl.kernels.tile import ONE_ITEM, Tile, panel_cases, prelude

__all__ = ["gather_kernel", "pad_kernel", "weight_gradient_kernel"]

_SHORT_ROW = 16  # pixels whose loop costs more than it saves in code


def pad_kernel(gather: Gather) -> KernelSource:
    """``(source, padded)``: copy the source into the middle of zeros."""
    height, width, channels = gather.source
    padded_height, padded_width = gather.padded
    row, padded_row = width * channels, padded_width * channels
    source = f"""{double_pragma(gather.dtype)}#define real {gather.dtype}
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


def gather_kernel(
    gather: Gather,
    tile: Tile,
    *,
    block_rows: int = 0,
    unroll: int = 4,
    epilogue: Epilogue | None = None,
) -> KernelSource:
    """``(source, weights, out)``: source, padded like the gather, and packed weights to the result.

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
    rows = gather.batch * gather.grid[0]
    block = min(block_rows or rows, rows)

    def body(panel_tile: Tile, count: int) -> str:
        code = ""
        for tiles in _row_tiles(gather, panel_tile.rows):
            part = panel_tile.with_rows(tiles.rows)
            if tiles.count > 1:
                end = tiles.first + tiles.count * tiles.rows
                code += f"for (int j = {tiles.first}; j < {end}; j += {tiles.rows}) {{\n"
            else:
                code += f"{{ const int j = {tiles.first};\n"
            code += f"{at(part, tiles.reach, count)}}}\n"
        return code

    def at(part: Tile, reach: tuple[range, ...], count: int) -> str:
        code = _gather_tile(gather, part, reach, tile.columns, unroll)
        if epilogue is None:
            return code + _gather_store(gather, part, count)
        row = f"out_pixel + j * {gather.out_step[1]}"
        column = f"g * {gather.features} + panel * {tile.columns}"
        return code + epilogue.finish(part, count, row, column, row_step=gather.out_step[1])

    _, padded_width = gather.padded
    source_channels = gather.source[2]
    out_height, out_width, out_channels = gather.out
    names, definitions, result = result_code(epilogue, gather.dtype, "result")
    out_row = (
        f"__global real* const out_row = result + g * {gather.features}"
        f" + panel * {tile.columns} + out_pixel * {out_channels};\n"
    )
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
{out_row if epilogue is None else ""}{panel_cases(gather.features, tile, body)}}}
"""
    size = (rows * panels, gather.groups)
    arguments = ("source", "weights", *names)
    name = "gather" if epilogue is None else "gather_fused"
    return KernelSource.of(name, source, arguments, size, (1, 1), gather.flops)


class _RowTiles(NamedTuple):
    """Neighbouring tiles of an image row that the filter meets in the same way.

    Attributes:
        first: Grid column of the first tile.
        count: Tiles.
        rows: Grid columns of each tile, which are its rows.
        reach: The rows that each run of the filter meets; outside the image they are left out.
    """

    first: int
    count: int
    rows: int
    reach: tuple[range, ...]


def _row_tiles(gather: Gather, height: int) -> list[_RowTiles]:
    """An image row cut into tiles of at most ``height`` pixels."""
    columns, (runs, _) = gather.grid[1], gather.runs
    whole = not gather.misses(1)
    spans = [range(columns) if whole else gather.reach(1, run) for run in range(runs)]
    found: list[_RowTiles] = []
    for first in range(0, columns, height):
        rows = min(height, columns - first)
        reach = tuple(range(rows)[max(0, s.start - first) : max(0, s.stop - first)] for s in spans)
        if found and (found[-1].rows, found[-1].reach) == (rows, reach):
            found[-1] = found[-1]._replace(count=found[-1].count + 1)
        else:
            found.append(_RowTiles(first, 1, rows, reach))
    return found


def _gather_tile(
    gather: Gather, tile: Tile, reach: tuple[range, ...], packed_columns: int, unroll: int
) -> str:
    """The accumulators of a tile."""
    pixel = gather.step[1] * gather.source[2]
    runs, length = gather.runs
    image_row = gather.rows.step * gather.padded[1] * gather.source[2]
    run_step = gather.columns.step * gather.source[2]
    if not gather.depth:
        return tile.declare()

    loop = ""
    for rows, same in itertools.groupby(reach):
        count = len(list(same))
        if not rows:
            loop += f"a += {count * run_step}; b += {count * length * packed_columns};\n"
            continue
        step = tile.step(
            lambda r: f"a[{r * pixel} + k]", lambda v: f"b + {v * tile.width}", rows=rows
        )
        inner = (
            f"#pragma unroll {unroll}\nfor (int k = 0; k < {length}; k++) {{\n{step}"
            f"b += {packed_columns}; }}\n"
        )
        if runs > 1:
            inner += f"a += {run_step};\n"
        if count > 1:
            inner = f"for (int tc = 0; tc < {count}; tc++) {{\n{inner}}}\n"
        loop += inner
    skip, start = "", gather.rows.start
    if gather.misses(0):
        skip = f"""const int y = i * {gather.step[0]} + tr * {gather.rows.step} + {start};
if (y < 0 || y >= {gather.padded[0]}) {{ b += {runs * length * packed_columns}; continue; }}
"""
    loop = (
        f"for (int tr = 0; tr < {gather.rows.count}; tr++) {{\n{skip}"
        f"const __global real* a = source_row + j * {pixel} + tr * {image_row};\n{loop}}}\n"
    )
    return f"{tile.declare()}const __global real* b = first_b;\n{loop}"


def _gather_store(gather: Gather, tile: Tile, count: int) -> str:
    out_pixel = gather.out_step[1] * gather.out[2]

    def pointer(r: int, v: int) -> str:
        return f"out + {r * out_pixel + v * tile.width}"

    finish = tile.finish(pointer, count)
    return f"__global real* const out = out_row + j * {out_pixel};\n{finish}"


def weight_gradient_kernel(
    gather: Gather,
    tile: Tile,
    *,
    block_bytes: int,
    taps: int = 1,
    chunks: int = 1,
    unroll: int = 0,
) -> KernelSource:
    """``(source, gradient, result)``: source and output gradient to the filter's gradient.

    The output gradient is cut into blocks. A work-item copies its panel of a block into local
    memory, where it lies without gaps, and then visits all of its tiles of the result.

    Args:
        gather: The forward product. Where it is unpadded, so is the source.
        tile: Rows run over (filter column, channel), columns over features.
        block_bytes: Most bytes of a panel of a block.
        taps: Filter rows (or taps, where the image is not contiguous along a filter row) of one
            work-item, which share the blocks of the output gradient.
        chunks: Work-items that share the tiles of a tap; at most as many as there are tiles.
        unroll: Unrolling of the loop over a row of pixels; 0 for all of a short one.
    """
    runs, length = gather.runs
    panels = ceil_div(gather.features, tile.columns)
    tiles = ceil_div(length, tile.rows)
    all_taps = gather.rows.count * runs
    taps = min(taps, all_taps)
    chunk_tiles = ceil_div(tiles, chunks)
    chunks = ceil_div(tiles, chunk_tiles)
    height, width = _gradient_block(gather, tile, block_bytes)
    grid_height, grid_width = gather.grid

    def body(panel_tile: Tile, count: int) -> str:
        code = _copy_gradient(gather, panel_tile, count)
        code += f"for (int tap = first_tap; tap < end_tap; tap++) {{\n{at_tap}"
        for condition, pixels in _pixels_of_runs(gather, width):
            code += f"{condition}{{\n{sweep(panel_tile, count, pixels)}}}\n"
        return code + "}\n"

    def sweep(panel_tile: Tile, count: int, pixels: str) -> str:
        full, rest = divmod(length, tile.rows)
        code = (
            f"for (int t = chunk * {chunk_tiles}; t < (chunk + 1) * {chunk_tiles}"
            f" && t < {full}; t++) {{ const int m = t * {tile.rows};\n"
            f"{_weight_tile(gather, panel_tile, count, pixels, unroll)}}}\n"
        )
        if rest:
            last = panel_tile.with_rows(rest)
            code += (
                f"if (chunk == {chunks - 1}) {{ const int m = {full * tile.rows};\n"
                f"{_weight_tile(gather, last, count, pixels, unroll)}}}\n"
            )
        return code

    channels, features = gather.source[2], gather.out[2]
    at_tap = f"""const int run = tap % {runs};
const int row = {gather.rows.start} + tap / {runs} * {gather.rows.step};
const int column = {gather.columns.start} + run * {gather.columns.step};
{_limits(gather, 0, "row", "top", "bottom")}{_limits(gather, 1, "column", "left", "right")}
__global real* const out_tap = result
    + (size_t)tap * {length * features} + g * {gather.features} + panel * {tile.columns};
const __global real* const first_a = source + g * {gather.channels}
    + ((size_t)n * {gather.padded[0]} + (first_row * {gather.step[0]} + row))
    * {gather.padded[1] * channels} + (first_column * {gather.step[1]} + column) * {channels};
const int first_pixel = (first_row - top) * (right - left) + first_column - left;
"""
    right = f"left + {width} < {grid_width} ? left + {width} : {grid_width}"
    source = f"""{prelude(gather.dtype, tile.width)}
{ONE_ITEM}void KERNEL(const __global real* restrict source, const __global real* restrict gradient,
            __global real* restrict result) {{
  __local real block[{height * width * tile.columns}] __attribute__((aligned(64)));
  const int chunk = get_global_id(0) % {chunks}, first_tap = get_global_id(0) / {chunks} * {taps};
  const int end_tap = first_tap + {taps} < {all_taps} ? first_tap + {taps} : {all_taps};
  const int panel = get_global_id(1), g = get_global_id(2);
  for (int n = 0; n < {gather.batch}; n++)
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
    size = (chunks * ceil_div(all_taps, taps), panels, gather.groups)
    arguments = ("source", "gradient", "result")
    return KernelSource.of("weight_gradient", source, arguments, size, (1, 1, 1), gather.flops)


def _limits(gather: Gather, axis: int, offset: str, first: str, end: str) -> str:
    """Definitions of ``first_row`` and ``end_row`` (or column): the part of a block's positions
    ``first`` to ``end`` at which a tap meets the source; compare :meth:`Gather.reach`."""
    if not gather.misses(axis):
        return f"const int first_{offset} = {first}, end_{offset} = {end};\n"
    step, size = gather.step[axis], gather.padded[axis]
    return f"""const int low_{offset} = {offset} < 0 ? ({step - 1} - {offset}) / {step} : 0;
const int high_{offset} = {offset} < {size} ? ({size + step - 1} - {offset}) / {step} : 0;
const int first_{offset} = low_{offset} > {first} ? low_{offset} : {first};
const int end_{offset} = high_{offset} < {end} ? high_{offset} : {end};
"""


def _pixels_of_runs(gather: Gather, width: int) -> list[tuple[str, str]]:
    """For loops of constant length: a condition on ``run``, and the pixels that it meets."""
    if width != gather.grid[1]:
        return [("", "end_column - first_column")]
    if not gather.misses(1):
        return [("", str(width))]
    runs: dict[int, list[int]] = {}
    for run in range(gather.runs[0]):
        runs.setdefault(len(gather.reach(1, run)), []).append(run)
    *others, (last, _) = runs.items()
    found = []
    for pixels, equal in others:
        condition = " || ".join(f"run == {run}" for run in equal)
        found.append((f"if ({condition}) ", str(pixels)))
    return [
        (("else " if i else "") + condition, pixels) for i, (condition, pixels) in enumerate(found)
    ] + [("else " if found else "", str(last))]


def _gradient_block(gather: Gather, tile: Tile, block_bytes: int) -> tuple[int, int]:
    """Rows and columns of a block of the output gradient: whole rows where they fit."""
    height, width = gather.grid
    pixels = max(1, block_bytes // (tile.columns * itemsize_of(gather.dtype)))
    if pixels < width:
        return 1, ceil_div(width, ceil_div(width, pixels))
    return ceil_div(height, ceil_div(height, pixels // width)), width


def _copy_gradient(gather: Gather, tile: Tile, count: int) -> str:
    """Copy a panel of a block to local memory, with zeros after its last column."""
    features = gather.out[2]
    row = gather.grid[1] * features
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
{copies}in += {features}; packed += {tile.columns}; }} }} }}
"""


def _weight_tile(gather: Gather, tile: Tile, count: int, pixels: str, unroll: int) -> str:
    channels, features = gather.source[2], gather.out[2]
    if not unroll:
        unroll = int(pixels) if pixels.isdigit() and int(pixels) <= _SHORT_ROW else 4
    pixel = gather.step[1] * channels
    image_row = gather.step[0] * gather.padded[1] * channels
    step = tile.step(lambda r: f"a[{r}]", lambda v: f"b + {v * tile.width}", load="LOAD_LOCAL")

    def pointer(r: int, v: int) -> str:
        return f"out + {r * features + v * tile.width}"

    return (
        f"__global real* const out = out_tap + (size_t)m * {features};\n"
        f"{tile.declare()}if (!fresh) {{\n{tile.load(pointer, count)}}}\n"
        f"for (int i = 0; i < end_row - first_row; i++) {{\n"
        f"const __global real* a = first_a + m + i * {image_row};\n"
        f"const __local real* b = block + (first_pixel + i * (right - left)) * {tile.columns};\n"
        f"#pragma unroll {unroll}\nfor (int j = 0; j < {pixels}; j++) {{\n{step}"
        f"a += {pixel}; b += {tile.columns}; }} }}\n{tile.finish(pointer, count)}"
    )
