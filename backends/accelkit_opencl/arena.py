"""Memory of a compiled program: what lives in the arena, what in donated inputs.

Blocks are placed largest first at the lowest place that is free for their whole life (Pisarchyk
and Lee, 2020). A device that limits the size of one buffer gets several slabs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from accelkit_opencl.kernels.source import round_up
from accelkit_opencl.runtime import ALIGNMENT_BYTES

__all__ = ["ArenaPlan", "Block", "Place", "plan_arena"]


class Block(NamedTuple):
    """Bytes that are needed from step ``first`` to step ``last`` inclusive."""

    size_bytes: int
    first: int
    last: int


class Place(NamedTuple):
    """Where a block lies."""

    slab: int
    offset: int


class ArenaPlan(NamedTuple):
    """Places of all blocks, sizes of the slabs, and the least that any plan needs."""

    places: list[Place]
    slab_bytes: list[int]
    lower_bound_bytes: int


def plan_arena(blocks: Sequence[Block], *, limit_bytes: int) -> ArenaPlan:
    """Place blocks so that no two overlap while both are needed.

    Args:
        blocks: What is needed when.
        limit_bytes: Largest slab.
    """
    sizes = [round_up(max(block.size_bytes, 1), ALIGNMENT_BYTES) for block in blocks]
    places: list[Place] = [Place(0, 0)] * len(blocks)
    slabs: list[list[int]] = []
    slab_bytes: list[int] = []
    for index in sorted(range(len(blocks)), key=lambda i: (-sizes[i], blocks[i].first)):
        for number in range(len(slabs) + 1):
            if number == len(slabs):
                slabs.append([])
                slab_bytes.append(0)
            offset = _lowest_gap(index, slabs[number], blocks, sizes, places)
            if offset + sizes[index] <= limit_bytes or not slabs[number]:
                break
        places[index] = Place(number, offset)
        slabs[number].append(index)
        slab_bytes[number] = max(slab_bytes[number], offset + sizes[index])
    return ArenaPlan(places, slab_bytes, _lower_bound(blocks, sizes))


def _lowest_gap(
    index: int,
    placed: Sequence[int],
    blocks: Sequence[Block],
    sizes: Sequence[int],
    places: Sequence[Place],
) -> int:
    block = blocks[index]
    taken = sorted(
        (places[other].offset, places[other].offset + sizes[other])
        for other in placed
        if blocks[other].first <= block.last and block.first <= blocks[other].last
    )
    position = 0
    for start, end in taken:
        if start - position >= sizes[index]:
            break
        position = max(position, end)
    return position


def _lower_bound(blocks: Sequence[Block], sizes: Sequence[int]) -> int:
    """The most that is needed at one moment."""
    changes: dict[int, int] = {}
    for block, size in zip(blocks, sizes, strict=True):
        changes[block.first] = changes.get(block.first, 0) + size
        changes[block.last + 1] = changes.get(block.last + 1, 0) - size
    alive = most = 0
    for step in sorted(changes):
        alive += changes[step]
        most = max(most, alive)
    return most
