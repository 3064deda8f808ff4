"""How a weight gradient is shared among work-items."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from typing import NamedTuple

from accelkit_opencl.kernels.convolution import Gather
from accelkit_opencl.kernels.source import ceil_div, itemsize_of
from accelkit_opencl.kernels.tile import Tile, tile_cost

__all__ = ["Shares", "best_shares", "heights"]

# In the units of tile_cost:
_COPY_COST = 30.0  # of one vector of a gradient
_LINE_COST = 4.0  # of a line of the image from the second-level cache
_MANY = 64  # work-items per unit, whose order no longer matters
_LINE_BYTES = 64  # of a cache


class Shares(NamedTuple):
    """How a weight gradient is shared among work-items."""

    time: float
    tile: Tile
    taps: int
    chunks: int


def best_shares(gather: Gather, tiles: Iterable[Tile], compute_units: int, taps: int) -> Shares:
    """The tile, the filter taps per work-item (``taps``, if not 0) and the parts of a tap's tiles
    with the least estimated time of the unit that has most to do.

    Every work-item copies its panel of the output gradient once: few and long ones copy least,
    many and short ones keep all units busy.
    """
    all_taps, length = gather.rows.count * gather.runs[0], gather.runs[1]
    best: Shares | None = None
    for tile in tiles:
        full, rest = divmod(gather.features, tile.columns)
        panels = [tile.vectors] * full + [ceil_div(rest, tile.width)] * bool(rest)
        count = max(1, ceil_div(length, tile.rows))
        for share in [min(taps, all_taps)] if taps else range(1, all_taps + 1):
            works = [min(share, all_taps - first) for first in range(0, all_taps, share)]
            for chunk in {ceil_div(count, c) for c in range(1, min(count, 8) + 1)}:
                parts = [min(chunk, count - first) for first in range(0, count, chunk)]
                least = best.time if best is not None else math.inf
                time = _time(tile, panels * gather.groups, works, parts, compute_units, least)
                if time < least:
                    best = Shares(time, tile, share, len(parts))
    assert best is not None
    return best


def _time(
    tile: Tile,
    panels: list[int],
    works: list[int],
    parts: list[int],
    units: int,
    least: float,
) -> float:
    """Estimated time of work-items for all panels, taps and parts of a tap's tiles; any time that
    is not below ``least`` if this is not either."""
    step = {v: tile_cost(tile.rows, v) + _LINE_COST * _lines(tile) for v in set(panels)}
    total = sum(works) * sum(parts) * sum(step[v] for v in panels)
    total += _COPY_COST * sum(panels) * len(works) * len(parts)
    if total / units >= least:
        return total / units
    if len(panels) * len(works) * len(parts) > _MANY * units:
        largest = max(works) * max(parts) * max(step.values()) + _COPY_COST * max(panels)
        return total / units + largest
    items = [w * p * step[v] + _COPY_COST * v for v in panels for w in works for p in parts]
    return _makespan(items, units)


def heights(length: int, most: int, dtype: str) -> set[int]:
    """Rows of tiles worth considering for that many, at most ``most``: few tiles of equal height,
    and tiles that never lie across two cache lines."""
    most = min(most, length)
    aligned = _LINE_BYTES // itemsize_of(dtype)
    while aligned > most:
        aligned //= 2
    return {ceil_div(length, ceil_div(length, most)), max(1, aligned)}


def _lines(tile: Tile) -> float:
    """Cache lines that a pixel's rows of a tile lie on, on average."""
    line = _LINE_BYTES // itemsize_of(tile.dtype)
    return 1.0 if line % tile.rows == 0 else 1 + (tile.rows - 1) / line


def _makespan(items: list[float], units: int) -> float:
    """Time until all are done when a unit that is free takes its share of what is left.

    So do PoCL's threads ("guided" scheduling); other runtimes are at least as even.
    """
    busy, first = [0.0] * units, 0
    while first < len(items):
        end = first + ceil_div(len(items) - first, units)
        heapq.heapreplace(busy, busy[0] + sum(items[first:end]))
        first = end
    return max(busy)
