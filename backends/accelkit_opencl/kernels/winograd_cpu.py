"""Convolutions by Winograd's transforms for CPU devices; see :mod:`accelkit.winograd`.

One work-item takes its share of all tiles, a block of them at a time: it transforms their images,
multiplies each position by the transformed weights in register tiles, and transforms the products
back. Everything between is a few hundred kilobytes in its own part of the workspace, which stays
in its cache. Vectors run along channels, so that transforms are sums of whole vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

from accelkit.winograd import Winograd, winograd
from accelkit_opencl.kernels.epilogue import Epilogue, result_code
from accelkit_opencl.kernels.source import KernelSource, ceil_div, double_pragma
from accelkit_opencl.kernels.tile import ONE_ITEM, Tile, panel_cases, prelude
from accelkit_opencl.kernels.transforms import linear, transform

__all__ = [
    "Tiling",
    "convolution_kernel",
    "convolution_slot",
    "position_stride",
    "tiles_code",
    "transform_weights_kernel",
    "transformed_weights_size",
]

_LINE = 16  # elements between positions, so that they do not all fall into the same cache sets
_STEPS = 16  # channels whose weights one work-item transforms


@dataclass(frozen=True)
class Tiling:
    """A convolution whose window moves by one, in tiles of its result.

    Attributes:
        tile, window: Of :func:`accelkit.winograd.winograd`.
        batch: Images.
        source: (height, width, channels) of the source in memory.
        corner: Zeros above and left of it.
        out: (height, width, channels) of the result.
        turned: Whether the window is turned around and maps features to channels: a gradient by
            images.
    """

    tile: int
    window: int
    batch: int
    source: tuple[int, int, int]
    corner: tuple[int, int]
    out: tuple[int, int, int]
    turned: bool = False

    @property
    def form(self) -> Winograd:
        """The transforms."""
        return winograd(self.tile, self.window)

    @property
    def positions(self) -> int:
        """Products per tile."""
        return self.form.extent**2

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles in an image."""
        return ceil_div(self.out[0], self.tile), ceil_div(self.out[1], self.tile)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.batch * self.grid[0] * self.grid[1]

    @property
    def flops(self) -> int:
        """Floating-point operations of the products."""
        return 2 * self.positions * self.tiles * self.source[2] * self.out[2]


def position_stride(rows: int, columns: int) -> int:
    """Elements between positions of ``rows`` tiles with that many channels in a workspace."""
    return rows * columns + _LINE


def _place_code(tiling: Tiling, number: str) -> str:
    """Definitions of ``image``, ``top`` and ``left``: where a tile begins in the result."""
    rows, columns = tiling.grid
    return f"""const int image = {number} / {rows * columns};
const int top = {number} % {rows * columns} / {columns} * {tiling.tile};
const int left = {number} % {columns} * {tiling.tile};
"""


def tiles_code(
    tiling: Tiling,
    width: int,
    buffer: str,
    target: str,
    channels: tuple[str, str],
    strides: tuple[int, int],
    *,
    gradient: bool = False,
) -> str:
    """Code that transforms ``count`` tiles from ``first_tile`` on.

    Tiles behind the last one are copies of it.

    Args:
        tiling: The convolution.
        width: Elements of a vector, which divide all channels.
        buffer: The source, or the gradient of the result.
        target: Where [position][tile][channel] go.
        channels: The first and the end of those that are transformed, as expressions.
        strides: Elements between positions and between tiles of the target.
        gradient: Whether tiles are of the gradient of the result, and spread to positions.
    """
    form = tiling.form
    matrix = form.axis.results.T if gradient else form.axis.images
    height, breadth, depth = tiling.out if gradient else tiling.source
    above, before = (0, 0) if gradient else tiling.corner
    first, end = channels

    def load(i: int) -> str:
        return (
            f"vec d{i} = (vec)(0);\n"
            f"if ((uint)(y + {i}) < {height} && (uint)(x + j) < {breadth}) "
            f"d{i} = LOAD(from + ({i * breadth} + j) * {depth});\n"
        )

    store = "".join(
        f"STORE(to + (size_t)(i * {form.extent} + {j}) * {strides[0]}, h{j});\n"
        for j in range(form.extent)
    )
    return f"""for (int t = 0; t < count; t++) {{
const int number = first_tile + t < {tiling.tiles} ? first_tile + t : {tiling.tiles - 1};
{_place_code(tiling, "number")}const int y = top - {above}, x = left - {before};
for (int at_channel = {first}; at_channel < {end}; at_channel += {width}) {{
const __global real* const from = {buffer}
    + ((long)(image * {height} + y) * {breadth} + x) * {depth} + at_channel;
__global real* const to = {target} + (size_t)t * {strides[1]} + (at_channel - {first});
{transform(matrix, width, load, store)}}} }}
"""


# --- weights -----------------------------------------------------------------------------------


def transformed_weights_size(tiling: Tiling, tile: Tile) -> int:
    """Elements of the transformed weights, [position][panel][channel][column]."""
    panels = ceil_div(tiling.out[2], tile.columns)
    return tiling.positions * panels * tiling.source[2] * tile.columns


def transform_weights_kernel(tiling: Tiling, tile: Tile) -> KernelSource:
    """``(weights, transformed)``: HWIO weights to panels of every position, rounded once.

    In double precision, since an error here is the same in every tile: it would not average out
    in what sums over pixels, such as the gradient of a bias.
    """
    window, extent = tiling.window, tiling.form.extent
    channels, features = tiling.source[2], tiling.out[2]
    panels, nr = ceil_div(features, tile.columns), tile.columns
    taps = [(i, j) for i in range(window) for j in range(window)]
    code = ""
    for i, j in taps:
        row, column = (window - 1 - i, window - 1 - j) if tiling.turned else (i, j)
        at = (row * window + column) * channels * features
        code += f"const double g{i}_{j} = from[{at}];\n"
    matrix = tiling.form.axis.weights
    for j in range(window):
        names = [f"g{i}_{j}" for i in range(window)]
        code += linear(matrix, names, lambda i, j=j: f"t{i}_{j}", kind="double", dtype="double")
    for i in range(extent):
        names = [f"t{i}_{j}" for j in range(window)]
        code += linear(matrix, names, lambda j, i=i: f"u{i}_{j}", kind="double", dtype="double")
        for j in range(extent):
            place = (i * extent + j) * panels * channels * nr
            code += f"to[(size_t){place} + e] = (real)u{i}_{j};\n"
    # The window of a gradient by images maps features to channels: here they are the columns.
    at = f"(first + e) * {channels} + c" if tiling.turned else f"c * {features} + first + e"
    source = f"""{double_pragma("double")}#define real {tile.dtype}
{ONE_ITEM}void KERNEL(const __global real* restrict weights,
            __global real* restrict transformed) {{
  const int panel = get_global_id(1), first = panel * {nr};
  const int columns = {features} - first < {nr} ? {features} - first : {nr};
  const int start = get_global_id(0) * {_STEPS};
  const int end = start + {_STEPS} < {channels} ? start + {_STEPS} : {channels};
  for (int c = start; c < end; c++) {{
    __global real* const to = transformed + ((size_t)panel * {channels} + c) * {nr};
    for (int e = 0; e < columns; e++) {{
      const __global real* const from = weights + {at};
{code}    }}
  }}
}}
"""
    size = (ceil_div(channels, _STEPS), panels)
    arguments = ("weights", "transformed")
    return KernelSource.of("winograd_weights", source, arguments, size, (1, 1))


# --- the convolution ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocking:
    """How a convolution's tiles are shared and cut.

    Attributes:
        slots: Work-items that share the tiles.
        parts: Work-items that share the panels of features of the same tiles.
        rows: Tiles of a block.
        panels: Panels of features whose products wait for their transform together.
    """

    slots: int
    parts: int
    rows: int
    panels: int


def convolution_slot(tiling: Tiling, tile: Tile, blocking: Blocking) -> tuple[int, int]:
    """Elements of a block's transformed images, and of its products."""
    images = tiling.positions * position_stride(blocking.rows, tiling.source[2])
    width = blocking.panels * tile.columns
    return images, tiling.positions * position_stride(blocking.rows, width)


def convolution_kernel(
    tiling: Tiling,
    tile: Tile,
    blocking: Blocking,
    *,
    epilogue: Epilogue | None = None,
) -> KernelSource:
    """``(source, weights, workspace, out)`` with transformed weights.

    Args:
        tiling: The convolution.
        tile: Rows run over tiles, columns over features.
        blocking: How the work is shared.
        epilogue: What becomes of the result; its arguments then take the place of ``out``.
    """
    channels, features = tiling.source[2], tiling.out[2]
    panels = ceil_div(features, tile.columns)
    images, products = convolution_slot(tiling, tile, blocking)
    row_tiles = ceil_div(tiling.tiles, tile.rows)
    share = ceil_div(row_tiles, blocking.slots) * tile.rows
    part = ceil_div(panels, blocking.parts)
    of_images = position_stride(blocking.rows, channels)
    group = blocking.panels * tile.columns
    of_products = position_stride(blocking.rows, group)

    def multiply(panel_tile: Tile, count: int) -> str:
        step = panel_tile.step(lambda r: f"a[{r * channels}]", lambda v: f"b + {v * tile.width}")
        last = panel_tile.finish(lambda r, v: f"c + {r * group + v * tile.width}", count)
        return f"""for (int row = 0; row < count; row += {tile.rows}) {{
const __global real* a = tiles + (size_t)position * {of_images} + row * {channels};
const __global real* b = weights
    + ((size_t)position * {panels} + panel) * {channels * tile.columns};
__global real* const c = products + (size_t)position * {of_products} + row * {group}
    + (panel - first_panel) * {tile.columns};
{panel_tile.declare()}
#pragma unroll 4
for (int k = 0; k < {channels}; k++) {{
{step}a++; b += {tile.columns}; }}
{last}}}
"""

    names, definitions, result = result_code(epilogue, tile.dtype, "result")
    source = f"""{definitions}{prelude(tile.dtype, tile.width)}
{ONE_ITEM}void KERNEL(const __global real* restrict source, const __global real* restrict weights,
            __global real* restrict workspace, {result}) {{
  const int slot = get_global_id(0), part = get_global_id(1);
  __global real* const tiles = workspace
      + ((size_t)part * {blocking.slots} + slot) * {images + products};
  __global real* const products = tiles + {images};
  const int part_end = (part + 1) * {part} < {panels} ? (part + 1) * {part} : {panels};
  const int rest = {tiling.tiles} - slot * {share};
  const int share = rest < {share} ? rest : {share};
  for (int done = 0; done < share; done += {blocking.rows}) {{
    const int first_tile = slot * {share} + done;
    const int present = share - done < {blocking.rows} ? share - done : {blocking.rows};
    const int count = (present + {tile.rows - 1}) / {tile.rows} * {tile.rows};
{tiles_code(tiling, tile.width, "source", "tiles", ("0", str(channels)), (of_images, channels))}
    for (int first_panel = part * {part}; first_panel < part_end;
         first_panel += {blocking.panels}) {{
      const int end_panel = first_panel + {blocking.panels} < part_end
          ? first_panel + {blocking.panels} : part_end;
      for (int position = 0; position < {tiling.positions}; position++)
      for (int panel = first_panel; panel < end_panel; panel++) {{
{panel_cases(features, tile, multiply)}      }}
{_results_code(tiling, tile, group, of_products, epilogue)}    }}
  }}
}}
"""
    arguments = ("source", "weights", "workspace", *names)
    size = (blocking.slots, blocking.parts)
    name = "winograd" if epilogue is None else "winograd_fused"
    return KernelSource.of(name, source, arguments, size, (1, 1), tiling.flops)


def _results_code(
    tiling: Tiling, tile: Tile, group: int, of_products: int, epilogue: Epilogue | None
) -> str:
    """Code that transforms the products of a group of panels back and passes on the results."""
    height, breadth, features = tiling.out
    form, width = tiling.form, tile.width

    def load(i: int) -> str:
        return f"const vec d{i} = LOAD(from + ({i * form.extent} + j) * (size_t){of_products});\n"

    def finish(count: int) -> str:
        pixels = Tile(count, 1, width, tile.dtype)
        if epilogue is not None:
            return epilogue.finish(pixels, width, "out_pixel", "feature")
        return pixels.finish(
            lambda r, v: f"result + (out_pixel + {r}) * {features} + feature", width
        )

    store = f"const size_t out_pixel = ((size_t)image * {height} + top + i) * {breadth} + left;\n"
    if breadth % tiling.tile:
        store += f"if (left + {tiling.tile} <= {breadth}) {{\n{finish(tiling.tile)}}} else {{\n"
        store += f"{finish(breadth % tiling.tile)}}}\n"
    else:
        store += finish(tiling.tile)
    rows = f"({height} - top < {tiling.tile} ? {height} - top : {tiling.tile})"
    code = transform(form.axis.results, width, load, store, output="c{}_0".format, rows=rows)
    return f"""const int end_feature = end_panel * {tile.columns} < {features}
    ? end_panel * {tile.columns} : {features};
for (int t = 0; t < present; t++) {{
const int number = first_tile + t;
{_place_code(tiling, "number")}for (int feature = first_panel * {tile.columns};
    feature < end_feature; feature += {width}) {{
const __global real* const from = products + (size_t)t * {group}
    + (feature - first_panel * {tile.columns});
{code}}} }}
"""
