"""Placing blocks of memory with known lives in one arena, or in a few slabs.

Blocks are placed one after the other, each at the lowest place that is free for its whole life.
What matters is the order. Largest first does well where sizes differ, and those of the fullest
moments first where the same program repeats, as in micro-batches (Pisarchyk and Lee, 2020,
"Efficient memory management for deep neural net inference", call these by size and by breadth).
Each of these orders is then changed a few times, so that the blocks that stick out at the top come
earlier. No plan can need less than the most that is alive at one moment: the lower bound.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = [
    "ALIGNMENT_BYTES",
    "ArenaPlan",
    "Interval",
    "Place",
    "aligned",
    "alive_bytes",
    "plan_memory",
]

ALIGNMENT_BYTES = 128  # a cache line pair, and the longest OpenCL vector
_MOST_COMPARISONS = 2_000_000  # of pairs of blocks, in all orders together: about a second
_MOST_ORDERS = 64
_SMALL = 1000  # a block this many times smaller than the lower bound finds a gap
_NEAR = 1.002  # of the lower bound: not worth another order


class Interval(NamedTuple):
    """A block of memory and its life, from step ``first`` to step ``last`` inclusive."""

    memory_bytes: int
    first: int
    last: int


class Place(NamedTuple):
    """Where a block lies."""

    slab: int
    offset: int


_NOWHERE = Place(0, 0)


class ArenaPlan(NamedTuple):
    """Place of each block, sizes of the slabs, and the least that any plan could need."""

    places: list[Place]
    slab_bytes: list[int]
    lower_bound_bytes: int

    @property
    def offsets(self) -> list[int]:
        """Offset of each block in its slab."""
        return [place.offset for place in self.places]

    @property
    def peak_bytes(self) -> int:
        """Size of all slabs together."""
        return sum(self.slab_bytes)


def aligned(memory_bytes: int) -> int:
    """Bytes that a block takes in an arena."""
    return -(-memory_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def alive_bytes(blocks: Iterable[tuple[int, int, int]], steps: int) -> list[int]:
    """How much is alive at each of ``steps`` steps.

    Args:
        blocks: Bytes of each in the arena, and the first and the last step of its life.
        steps: Number of steps; what is alive behind them does not count.
    """
    change = [0] * (steps + 2)
    for memory_bytes, first, last in blocks:
        change[first] += memory_bytes
        change[last + 1] -= memory_bytes
    return list(itertools.accumulate(change))[:steps]


def plan_memory(intervals: Sequence[Interval], *, slab_limit_bytes: int | None = None) -> ArenaPlan:
    """Place blocks so that no two overlap while both are alive.

    Args:
        intervals: Size and life of each block.
        slab_limit_bytes: Largest slab, for devices that limit the size of one buffer; a block
            that is larger gets a slab of its own. One slab holds everything if None.
    """
    return _Packing(intervals, slab_limit_bytes).best()


class _Packing:
    """Blocks, which of them live together, and ways to place them."""

    def __init__(self, intervals: Sequence[Interval], slab_limit_bytes: int | None) -> None:
        self._intervals = intervals
        self._limit = slab_limit_bytes
        self._sizes = [aligned(block.memory_bytes) for block in intervals]
        self._neighbours = _living_together(intervals)
        self._alive = alive_bytes(
            ((aligned(size), first, last) for size, first, last in intervals),
            1 + max((block.last for block in intervals), default=-1),
        )
        self._bound = max(self._alive, default=0)

    def best(self) -> ArenaPlan:
        """The smallest plan of the orders tried; small blocks fill the gaps of the large ones."""
        sizes, blocks = self._sizes, self._intervals
        by_size = sorted(range(len(sizes)), key=lambda i: (-sizes[i], blocks[i].first))
        large = [i for i in by_size if sizes[i] * _SMALL >= self._bound]
        small = by_size[len(large) :]
        pairs = len(large) + sum(
            sizes[j] * _SMALL >= self._bound for i in large for j in self._neighbours[i]
        )
        tries = min(_MOST_ORDERS, max(1, _MOST_COMPARISONS // max(1, pairs)))
        orders = deque([self._by_fullness(large), large])
        found: list[tuple[int, list[int]]] = []
        while len(found) < tries:
            order = orders.popleft()
            plan = self._place(order)
            found.append((plan.peak_bytes, order))
            if plan.peak_bytes <= _NEAR * self._bound:
                break
            orders.append(self._promoted(order, plan))
        _, order = min(found)
        return self._place([*order, *small])

    def _by_fullness(self, chosen: Sequence[int]) -> list[int]:
        blocks, sizes = self._intervals, self._sizes
        fullest = {i: self._fullest(blocks[i]) for i in chosen}
        return sorted(
            chosen, key=lambda i: (-fullest[i], blocks[i].first - blocks[i].last, -sizes[i])
        )

    def _fullest(self, block: Interval) -> int:
        """The most that is alive during a block's life."""
        return max(self._alive[block.first : block.last + 1])

    def _promoted(self, order: Sequence[int], plan: ArenaPlan) -> list[int]:
        """The order with the blocks that end at the top of a slab halfway nearer to the front."""
        changed = list(order)
        for index in order:
            slab, offset = plan.places[index]
            if offset + self._sizes[index] == plan.slab_bytes[slab]:
                position = changed.index(index)
                changed.insert(position // 2, changed.pop(position))
        return changed

    def _place(self, order: Sequence[int]) -> ArenaPlan:
        """Each block at the lowest free place of the first slab that has room."""
        places: list[Place | None] = [None] * len(self._sizes)
        slab_bytes: list[int] = []
        for index in order:
            size = self._sizes[index]
            taken: dict[int, list[tuple[int, int]]] = {}
            for other in self._neighbours[index]:
                place = places[other]
                if place is not None:
                    span = (place.offset, place.offset + self._sizes[other])
                    taken.setdefault(place.slab, []).append(span)
            for slab in range(len(slab_bytes) + 1):
                offset = _lowest_gap(taken.get(slab, []), size)
                if slab == len(slab_bytes):
                    slab_bytes.append(0)
                    break
                if self._limit is None or offset + size <= self._limit:
                    break
            places[index] = Place(slab, offset)
            slab_bytes[slab] = max(slab_bytes[slab], offset + size)
        return ArenaPlan([place or _NOWHERE for place in places], slab_bytes, self._bound)


def _lowest_gap(taken: list[tuple[int, int]], size: int) -> int:
    """The lowest offset with room between spans of memory."""
    position = 0
    for start, end in sorted(taken):
        if start - position >= size:
            break
        position = max(position, end)
    return position


def _living_together(intervals: Sequence[Interval]) -> list[list[int]]:
    """For each block the others that are alive at some step of its life."""
    found: list[list[int]] = [[] for _ in intervals]
    alive: list[int] = []
    for index in sorted(range(len(intervals)), key=lambda i: intervals[i].first):
        alive = [other for other in alive if intervals[other].last >= intervals[index].first]
        for other in alive:
            found[index].append(other)
            found[other].append(index)
        alive.append(index)
    return found
