"""Gradients by weights by Winograd's transforms for CPU devices; see :mod:`accelkit.winograd`.

The gradient of every position's weights is a matrix product over all tiles. One work-item computes
those of its features (and channels): it transforms a block of tiles of the images and of the
result's gradient, and adds their product to its sums. The transform of the sums comes last.
"""

from __future__ import annotations

from dataclasses import dataclass

from accelkit_opencl.kernels.source import KernelSource, ceil_div
from accelkit_opencl.kernels.tile import ONE_ITEM, Tile, panel_cases, prelude
from accelkit_opencl.kernels.transforms import transform
from accelkit_opencl.kernels.winograd_cpu import (
    Tiling,
    position_stride,
    tiles_code,
    transformed_weights_size,
)

__all__ = ["Shares", "gather_weights_kernel", "gradient_slot", "sums_kernel", "sums_size"]

sums_size = transformed_weights_size  # they lie in the same way


@dataclass(frozen=True)
class Shares:
    """How the sums are shared among work-items, and tiles cut into blocks.

    Attributes:
        panels: Panels of features of a work-item.
        channels: Of a work-item, a multiple of the vectors' width.
        rows: Tiles of a block.
    """

    panels: int
    channels: int
    rows: int

    def counts(self, tiling: Tiling, tile: Tile) -> tuple[int, int]:
        """Parts of the features and of the channels: the launch's size."""
        panels = ceil_div(tiling.out[2], tile.columns)
        return ceil_div(panels, self.panels), ceil_div(tiling.source[2], self.channels)


def gradient_slot(tiling: Tiling, tile: Tile, shares: Shares) -> tuple[int, int]:
    """Elements of a block's transformed images, and of its gradient of the result."""
    return (
        tiling.positions * position_stride(shares.rows, shares.channels),
        tiling.positions * position_stride(shares.rows, shares.panels * tile.columns),
    )


def sums_kernel(tiling: Tiling, tile: Tile, shares: Shares) -> KernelSource:
    """``(source, gradient, workspace, sums)``: sums over tiles, [position][panel][channel][column].

    Args:
        tiling: The forward convolution.
        tile: Rows run over channels, columns over features.
        shares: How the work is shared.
    """
    channels, features = tiling.source[2], tiling.out[2]
    panels, width = ceil_div(features, tile.columns), tile.width
    images, gradients = gradient_slot(tiling, tile, shares)
    parts = shares.counts(tiling, tile)
    depth, breadth = shares.channels, shares.panels * tile.columns
    of_images = position_stride(shares.rows, depth)
    of_gradients = position_stride(shares.rows, breadth)
    last = channels - (parts[1] - 1) * depth

    def body(panel_tile: Tile, count: int) -> str:
        code = f"""int at_channel = first_channel;
for (; at_channel + {tile.rows} <= end_channel; at_channel += {tile.rows}) {{
{at(panel_tile, count)}}}
"""
        for rest in sorted({depth % tile.rows, last % tile.rows} - {0}):
            code += f"if (end_channel - at_channel == {rest}) {{\n"
            code += f"{at(panel_tile.with_rows(rest), count)}}}\n"
        return code

    def at(part: Tile, count: int) -> str:
        def place(r: int, v: int) -> str:
            return f"c + {r * tile.columns + v * width}"

        step = part.step(lambda r: f"a[{r}]", lambda v: f"b + {v * width}")
        # A block's sum is complete before it is added: long chains of additions lose digits.
        earlier = "".join(f"c{r}_{v} += LOAD({place(r, v)});\n" for r, v in part.cells())
        return f"""const __global real* a = tiles + (size_t)position * {of_images}
    + (at_channel - first_channel);
const __global real* b = gradients + (size_t)position * {of_gradients}
    + (panel - first_panel) * {tile.columns};
__global real* const c = sums
    + (((size_t)position * {panels} + panel) * {channels} + at_channel) * {tile.columns};
{part.declare()}
#pragma unroll 4
for (int t = 0; t < count; t++) {{
{step}a += {depth}; b += {breadth}; }}
if (first_tile) {{
{earlier}}}
{part.finish(place, count)}"""

    source = f"""{prelude(tile.dtype, width)}
{ONE_ITEM}void KERNEL(const __global real* restrict source, const __global real* restrict gradient,
            __global real* restrict workspace, __global real* restrict sums) {{
  const int first_panel = get_global_id(0) * {shares.panels};
  const int first_channel = get_global_id(1) * {depth};
  const int end_panel = first_panel + {shares.panels} < {panels}
      ? first_panel + {shares.panels} : {panels};
  const int end_channel = first_channel + {depth} < {channels}
      ? first_channel + {depth} : {channels};
  const int first_feature = first_panel * {tile.columns};
  const int end_feature = end_panel * {tile.columns} < {features}
      ? end_panel * {tile.columns} : {features};
  __global real* const tiles = workspace
      + (get_global_id(1) * {parts[0]} + get_global_id(0)) * {images + gradients};
  __global real* const gradients = tiles + {images};
  for (int first_tile = 0; first_tile < {tiling.tiles}; first_tile += {shares.rows}) {{
    const int rest = {tiling.tiles} - first_tile;
    const int count = rest < {shares.rows} ? rest : {shares.rows};
{
        tiles_code(
            tiling,
            width,
            "source",
            "tiles",
            ("first_channel", "end_channel"),
            (of_images, depth),
        )
    }{
        tiles_code(
            tiling,
            width,
            "gradient",
            "gradients",
            ("first_feature", "end_feature"),
            (of_gradients, breadth),
            gradient=True,
        )
    }    for (int position = 0; position < {tiling.positions}; position++)
    for (int panel = first_panel; panel < end_panel; panel++) {{
{panel_cases(features, tile, body)}    }}
  }}
}}
"""
    arguments = ("source", "gradient", "workspace", "sums")
    return KernelSource.of("winograd_sums", source, arguments, parts, (1, 1), tiling.flops)


def gather_weights_kernel(tiling: Tiling, tile: Tile) -> KernelSource:
    """``(sums, out)``: the sums of all positions to the gradient of HWIO weights."""
    channels, features = tiling.source[2], tiling.out[2]
    panels, nr, width = ceil_div(features, tile.columns), tile.columns, tile.width
    extent, window = tiling.form.extent, tiling.window

    def load(i: int) -> str:
        between = panels * channels * nr
        return f"const vec d{i} = LOAD(from + (size_t)({i * extent} + j) * {between});\n"

    store = "".join(
        f"STORE(to + (size_t)(i * {window} + {j}) * {channels * features}, h{j});\n"
        for j in range(window)
    )
    code = transform(tiling.form.axis.weights.T, width, load, store)
    source = f"""{prelude(tile.dtype, width)}
{ONE_ITEM}void KERNEL(const __global real* restrict sums, __global real* restrict out) {{
  const int at_channel = get_global_id(0), panel = get_global_id(1);
  const int rest = {features} - panel * {nr}, columns = rest < {nr} ? rest : {nr};
  for (int e = 0; e < columns; e += {width}) {{
    const __global real* const from = sums + ((size_t)panel * {channels} + at_channel) * {nr} + e;
    __global real* const to = out + (size_t)at_channel * {features} + panel * {nr} + e;
{code}  }}
}}
"""
    size = (channels, panels)
    return KernelSource.of("winograd_gather", source, ("sums", "out"), size, (1, 1))
