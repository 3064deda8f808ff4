"""Planning memory: which tensors are alive when, and where each one goes in one arena.

Each intermediate occupies its bytes from the node that defines it to the last one that reads it.
Offsets are assigned largest first, each at the lowest place that is free for its whole life
(Pisarchyk and Lee, 2020, "Efficient memory management for deep neural net inference"). No plan
can need less than the most that is alive at one moment: the lower bound.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from accelkit.graph import Graph, Node, Value

__all__ = [
    "Interval",
    "Lives",
    "MemoryPlan",
    "peak_bytes",
    "plan_memory",
    "plan_values",
    "updated_in_place",
    "value_lives",
]

ALIGNMENT_BYTES = 128  # a cache line pair, and the longest OpenCL vector
# Results that are their operand under another index: they need no memory.
VIEWS = frozenset({"alias", "barrier", "reshape", "stop_gradient"})
# What a fused kernel does by index arithmetic.
_MOVES = frozenset({"broadcast_to", "full", "iota", "pad", "reverse", "slice", "transpose"})


class Interval(NamedTuple):
    """A block of memory and its life, from step ``first`` to step ``last`` inclusive."""

    memory_bytes: int
    first: int
    last: int


class Place(NamedTuple):
    """Where a block lies."""

    slab: int
    offset: int


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


def plan_memory(intervals: Sequence[Interval], *, slab_limit_bytes: int | None = None) -> ArenaPlan:
    """Place blocks so that no two overlap while both are alive.

    Args:
        intervals: Size and life of each block.
        slab_limit_bytes: Largest slab, for devices that limit the size of one buffer; a block
            that is larger gets a slab of its own. One slab holds everything if None.
    """
    sizes = [aligned(block.memory_bytes) for block in intervals]
    places = [Place(0, 0)] * len(intervals)
    slabs: list[list[int]] = []
    slab_bytes: list[int] = []
    for index in sorted(range(len(intervals)), key=lambda i: (-sizes[i], intervals[i].first)):
        for number in range(len(slabs) + 1):
            if number == len(slabs):
                slabs.append([])
                slab_bytes.append(0)
            offset = _lowest_gap(index, slabs[number], intervals, sizes, places)
            fits = slab_limit_bytes is None or offset + sizes[index] <= slab_limit_bytes
            if fits or not slabs[number]:
                break
        places[index] = Place(number, offset)
        slabs[number].append(index)
        slab_bytes[number] = max(slab_bytes[number], offset + sizes[index])
    return ArenaPlan(places, slab_bytes, _lower_bound(intervals, sizes))


def _lowest_gap(
    index: int,
    placed: Sequence[int],
    intervals: Sequence[Interval],
    sizes: Sequence[int],
    places: Sequence[Place],
) -> int:
    """The lowest offset that is free among the placed blocks for a block's whole life."""
    block = intervals[index]
    taken = sorted(
        (places[other].offset, places[other].offset + sizes[other])
        for other in placed
        if intervals[other].first <= block.last and block.first <= intervals[other].last
    )
    position = 0
    for start, end in taken:
        if start - position >= sizes[index]:
            break
        position = max(position, end)
    return position


def _lower_bound(intervals: Sequence[Interval], sizes: Iterable[int]) -> int:
    changes: dict[int, int] = {}
    for block, size in zip(intervals, sizes, strict=True):
        changes[block.first] = changes.get(block.first, 0) + size
        changes[block.last + 1] = changes.get(block.last + 1, 0) - size
    alive = most = 0
    for step in sorted(changes):
        alive += changes[step]
        most = max(most, alive)
    return most


@dataclass(frozen=True)
class MemoryPlan:
    """Where the values of a graph live.

    Attributes:
        offsets: Byte offset in the arena of every intermediate value.
        arena_bytes: Size of the arena.
        lower_bound_bytes: The most that is alive at one moment.
        input_bytes: Size of all inputs (parameters and batch), outside of the arena.
        largest: The largest intermediates, as (bytes, description), largest first.
    """

    offsets: Mapping[Value, int]
    arena_bytes: int
    lower_bound_bytes: int
    input_bytes: int
    largest: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        lines = [
            f"arena {self.arena_bytes / 2**20:.1f} MiB (lower bound "
            f"{self.lower_bound_bytes / 2**20:.1f} MiB), inputs {self.input_bytes / 2**20:.1f} MiB"
        ]
        lines += [f"  {size / 2**20:8.1f} MiB  {text}" for size, text in self.largest]
        return "\n".join(lines)


class Lives(NamedTuple):
    """When the values of a graph occupy memory of their own.

    Attributes:
        blocks: First and last position of each value that has memory in the arena, views of it
            included.
        source: The value whose memory each value has; itself if it has its own.
    """

    blocks: dict[Value, tuple[int, int]]
    source: dict[Value, Value]

    def profile(self, length: int) -> list[int]:
        """Bytes alive at each of ``length`` positions."""
        change = [0] * (length + 2)
        for value, (first, last) in self.blocks.items():
            change[first] += aligned(value.spec.memory_bytes)
            change[last + 1] -= aligned(value.spec.memory_bytes)
        return list(itertools.accumulate(change))[:length]


def positions(graph: Graph, *, fused: bool) -> dict[Node, int]:
    """Where each node runs: with ``fused``, a link of an elementwise chain at the chain's end.

    A link has one reader, which is elementwise; it needs no memory. It is elementwise itself and
    of the same shape, or only moves elements.
    """
    index = {node: i for i, node in enumerate(graph.nodes)}
    if not fused:
        return index
    readers: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for value in node.inputs:
            readers.setdefault(value, []).append(node)
    outputs = set(graph.outputs)
    for node in reversed(graph.nodes):
        value, *others = node.outputs
        found = set(readers.get(value, ()))
        if others or value in outputs or len(found) != 1:
            continue
        (reader,) = found
        same = reader.outputs[0].spec.shape == value.spec.shape
        joins = node.primitive.name in _MOVES or (node.primitive.elementwise and same)
        if joins and reader.primitive.elementwise:
            index[node] = index[reader]
    return index


def updated_in_place(
    graph: Graph, donate: Collection[int], *, fused: bool = False
) -> dict[Value, Value]:
    """Outputs of update nodes that can take the memory of a donated input.

    Args:
        graph: Any graph.
        donate: Positions of donated inputs.
        fused: Whether chains of elementwise nodes run as one.

    Returns:
        By output: the input that the same node, or its chain, reads last, of the same shape and
        dtype.
    """
    index = positions(graph, fused=fused)
    last = _last_reads(graph, index)
    outputs = set(graph.outputs)
    free = {graph.inputs[i] for i in donate} - outputs
    found: dict[Value, Value] = {}
    reads: dict[int, list[Value]] = {}
    for position, node in enumerate(graph.nodes):
        reads.setdefault(index[node], []).extend(node.inputs)
        if node.phase != "update" or index[node] != position:
            continue
        for output in node.outputs:
            for value in reads[position]:
                if value in free and value.spec == output.spec and last[value] == position:
                    found[output] = value
                    free.discard(value)
                    if output not in outputs:  # it may be replaced itself
                        free.add(output)
                    break
    return found


def _last_reads(graph: Graph, index: Mapping[Node, int]) -> dict[Value, int]:
    last: dict[Value, int] = {}
    for node in graph.nodes:
        for value in node.inputs:
            last[value] = max(last.get(value, -1), index[node])
    last.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
    return last


def value_lives(graph: Graph, *, donate: Collection[int] = (), fused: bool = False) -> Lives:
    """When each value of a graph needs memory; see :func:`plan_values`."""
    index = positions(graph, fused=fused)
    last = _last_reads(graph, index)
    in_place = updated_in_place(graph, donate, fused=fused)
    source: dict[Value, Value] = {}
    blocks: dict[Value, tuple[int, int]] = {}
    for position, node in enumerate(graph.nodes):
        at = index[node]
        for value in node.outputs:
            root = value
            if node.primitive.name in VIEWS and node.inputs:
                viewed = node.inputs[value.index if node.primitive.multiple_outputs else 0]
                root = source.get(viewed, viewed)
            source[value] = root
            end = max(last.get(value, at), at)
            if root in blocks:
                blocks[root] = blocks[root][0], max(blocks[root][1], end)
            elif root.node is not None and root not in in_place and at == position:
                blocks[root] = position, end
    return Lives(blocks, source)


def peak_bytes(graph: Graph, *, donate: Collection[int] = (), fused: bool = False) -> int:
    """The most that is alive at one moment, inputs not counted: the bound of every plan.

    Options as for :func:`plan_values`.
    """
    lives = value_lives(graph, donate=donate, fused=fused)
    return max(lives.profile(len(graph.nodes) + 1), default=0)


def plan_values(
    graph: Graph, *, donate: Collection[int] = (), fused: bool = False, largest: int = 5
) -> MemoryPlan:
    """Plan the arena of a graph's intermediates; values that are views share their source's.

    Args:
        graph: A prepared graph.
        donate: Positions of inputs whose memory updates take over; see :func:`updated_in_place`.
        fused: Whether chains of elementwise nodes become one kernel, without memory between.
        largest: How many of the largest values to name.
    """
    lives = value_lives(graph, donate=donate, fused=fused)
    values = list(lives.blocks)
    plan = plan_memory([Interval(v.spec.memory_bytes, *lives.blocks[v]) for v in values])
    offsets = dict(zip(values, plan.offsets, strict=True))
    offsets.update({v: offsets[r] for v, r in lives.source.items() if r in offsets})
    ranked = sorted(values, key=lambda v: -v.spec.memory_bytes)[:largest]
    return MemoryPlan(
        offsets=offsets,
        arena_bytes=plan.peak_bytes,
        lower_bound_bytes=plan.lower_bound_bytes,
        input_bytes=sum(v.spec.memory_bytes for v in graph.inputs),
        largest=tuple((v.spec.memory_bytes, describe(v)) for v in ranked),
    )


def describe(value: Value) -> str:
    """A value in words, for error messages."""
    if value.node is None:
        return f"input {value.spec}"
    place = f" in {value.node.scope}" if value.node.scope else ""
    return f"{value.spec} of {value.node.primitive.name}{place} ({value.node.phase})"
