"""Convolutions by Winograd's transforms: when, in which register tiles and blocks.

``python -m accelkit.opencl tune`` measures whether they are faster than the direct sum; without it
:func:`accelkit.winograd.choose` tells by the shapes. Only forms for CPUs have them. Vectors run
along channels, whose number they must divide.
"""

from __future__ import annotations

import math

from accelkit import dtypes
from accelkit.winograd import choose
from accelkit_opencl.kernels import winograd_cpu, winograd_gradient_cpu
from accelkit_opencl.kernels.convolution import Convolution
from accelkit_opencl.kernels.epilogue import Epilogue, result_names
from accelkit_opencl.kernels.source import ceil_div, itemsize_of
from accelkit_opencl.kernels.tile import MOST_VECTORS, Tile, best_tile, tiled_cost
from accelkit_opencl.kernels.winograd_cpu import Blocking, Tiling
from accelkit_opencl.kernels.winograd_gradient_cpu import Shares
from accelkit_opencl.lowering import Choice, Launch, Lowering, Profile

__all__ = ["lower_gather", "lower_sums", "transforms"]

_TILES_BYTES = 2 << 20  # of a block of transformed images, which is read once per panel of features
_PRODUCTS_BYTES = 1 << 18  # of a block's products that wait for their transform
_SUMMED_TILES = 64  # of a block, so that sums are seldom fetched
# An element's transform takes as long as this many operations of a product, see `choose`. Weights
# that are transformed come from memory again for every block of tiles; their gradients do not.
_TRANSFORM_FLOPS = 50.0
_WEIGHTS_FLOPS = {"forward": 150.0, "input gradient": 150.0, "weight gradient": 75.0}


def transforms(kind: str, conv: Convolution, profile: Profile, choice: Choice) -> Tiling | None:
    """The tiles of a convolution or of one of its gradients; None for the direct sum.

    Args:
        kind: "forward", "input gradient" or "weight gradient".
        conv: The forward convolution.
        profile: Of the device.
        choice: The tuner's.
    """
    by_images, forced = kind == "input gradient", choice.algorithm == "winograd"
    width = profile.width(conv.dtype)
    if (
        not (profile.cpu and profile.winograd)
        or choice.algorithm == "direct"
        or conv.channels % width
        or conv.features % width
    ):
        return None
    size = (conv.height, conv.width) if by_images else (conv.out_height, conv.out_width)
    found = choose(
        conv.batch,
        size,
        conv.channels,
        conv.features,
        conv.kernel,
        dtype=dtypes.float32 if conv.dtype == "float" else dtypes.float64,
        padding=conv.padding,
        strides=conv.stride,
        dilation=conv.dilation,
        groups=conv.groups,
        transform_flops=0.0 if forced else _TRANSFORM_FLOPS,
        weights_flops=0.0 if forced else _WEIGHTS_FLOPS[kind],
    )
    if found is None:
        return None
    image = conv.height, conv.width, conv.channels
    out = conv.out_height, conv.out_width, conv.features
    low = conv.padding[0][0], conv.padding[1][0]
    if not by_images:
        return Tiling(found.tile, found.window, conv.batch, image, low, out)
    corner = found.window - 1 - low[0], found.window - 1 - low[1]
    return Tiling(found.tile, found.window, conv.batch, out, corner, image, turned=True)


def lower_gather(
    names: tuple[str, str],
    tiling: Tiling,
    profile: Profile,
    choice: Choice,
    *,
    epilogue: Epilogue | None = None,
) -> Lowering:
    """Buffers ``names``, the images and the weights, and "out" or the epilogue's instead."""
    dtype, features = "float", tiling.out[2]
    tile = best_tile(tiling.tiles, features, profile.width(dtype), profile.registers, dtype)
    blocking = _blocking(tiling, tile, profile, choice)
    kernel = winograd_cpu.convolution_kernel(tiling, tile, blocking, epilogue=epilogue)
    slot = sum(winograd_cpu.convolution_slot(tiling, tile, blocking))
    scratch = {
        "transformed": winograd_cpu.transformed_weights_size(tiling, tile),
        "workspace": blocking.slots * blocking.parts * slot,
    }
    source, weights = names
    return Lowering(
        (
            Launch(winograd_cpu.transform_weights_kernel(tiling, tile), (weights, "transformed")),
            Launch(kernel, (source, "transformed", "workspace", *result_names(epilogue))),
        ),
        {name: size * itemsize_of(dtype) for name, size in scratch.items()},
    )


def _blocking(tiling: Tiling, tile: Tile, profile: Profile, choice: Choice) -> Blocking:
    """As many work-items as units, tiles shared evenly, in blocks that stay in the cache."""
    itemsize = itemsize_of(tile.dtype)
    row_tiles, panels = ceil_div(tiling.tiles, tile.rows), ceil_div(tiling.out[2], tile.columns)
    slots = min(profile.compute_units, row_tiles)
    parts = min(panels, ceil_div(profile.compute_units, slots))
    share = ceil_div(row_tiles, slots)
    row_bytes = tiling.positions * tile.rows * itemsize
    most = max(1, (choice.block_bytes or _TILES_BYTES) // (row_bytes * tiling.source[2]))
    block = ceil_div(share, ceil_div(share, most))
    waiting = max(1, _PRODUCTS_BYTES // (row_bytes * block * tile.columns))
    return Blocking(slots, parts, block * tile.rows, min(waiting, ceil_div(panels, parts)))


def lower_sums(tiling: Tiling, profile: Profile) -> Lowering:
    """Buffers "x", "g" and "out"."""
    tile, shares = _shares(tiling, profile)
    items = math.prod(shares.counts(tiling, tile))
    slot = sum(winograd_gradient_cpu.gradient_slot(tiling, tile, shares))
    scratch = {
        "sums": winograd_gradient_cpu.sums_size(tiling, tile),
        "workspace": items * slot,
    }
    kernel = winograd_gradient_cpu.sums_kernel(tiling, tile, shares)
    gather = winograd_gradient_cpu.gather_weights_kernel(tiling, tile)
    return Lowering(
        (
            Launch(kernel, ("x", "g", "workspace", "sums")),
            Launch(gather, ("sums", "out")),
        ),
        {name: size * itemsize_of(tile.dtype) for name, size in scratch.items()},
    )


def _shares(tiling: Tiling, profile: Profile) -> tuple[Tile, Shares]:
    """The register tile, and the parts of features (and channels) that keep all units busy."""
    dtype, units = "float", profile.compute_units
    width, channels, features = profile.width(dtype), tiling.source[2], tiling.out[2]
    tiles = [
        best_tile(channels, min(features, vectors * width), width, profile.registers, dtype)
        for vectors in range(1, MOST_VECTORS + 1)
    ]

    def shared(tile: Tile) -> Shares:
        panels = ceil_div(features, tile.columns)
        each = ceil_div(panels, min(units, panels))
        parts = ceil_div(units, ceil_div(panels, each))
        of_channels = ceil_div(ceil_div(channels, parts), width) * width
        rows = min(_SUMMED_TILES, tiling.tiles)
        return Shares(each, of_channels, rows)

    def time(tile: Tile) -> float:
        found = shared(tile)
        return tiled_cost(found.channels, min(features, found.panels * tile.columns), tile)

    best = min(tiles, key=time)
    return best, shared(best)
