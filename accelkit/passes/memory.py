"""Planning memory: which tensors of a graph are alive when, and where each one goes.

Each intermediate occupies its bytes from the node that defines it to the last one that reads it.
Where it lies in the arena is decided by :mod:`accelkit.passes.arena`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from accelkit.graph import Graph, Node, Value
from accelkit.passes.arena import Interval, aligned, alive_bytes, plan_memory

__all__ = [
    "Lives",
    "MemoryPlan",
    "peak_bytes",
    "plan_values",
    "updated_in_place",
]

# Results that are their operand under another index: they need no memory.
VIEWS = frozenset({"alias", "barrier", "reshape", "stop_gradient"})
_NAMED = 5  # of the largest values, in messages
# What a fused kernel does by index arithmetic.
_MOVES = frozenset({"broadcast_to", "full", "iota", "pad", "reverse", "slice", "transpose"})


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
        blocks = ((aligned(v.spec.memory_bytes), *life) for v, life in self.blocks.items())
        return alive_bytes(blocks, length)


def positions(graph: Graph, *, fused: bool) -> dict[Node, int]:
    """Where each node runs: with ``fused``, a link of an elementwise chain at the chain's end.

    A link has one reader, which is elementwise; it needs no memory. It is elementwise itself and
    of the same shape, or only moves elements.
    """
    index = {node: i for i, node in enumerate(graph.nodes)}
    if not fused:
        return index
    readers = graph.readers()
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
    readers = graph.readers()
    found: dict[Value, Value] = {}
    reads: dict[int, list[Value]] = {}
    for position, node in enumerate(graph.nodes):
        reads.setdefault(index[node], []).extend(node.inputs)
        if node.primitive.name in VIEWS:  # of an updated tensor: it may be updated again
            pairs = zip(node.inputs, node.outputs, strict=False)
            free.update(new for old, new in pairs if old in free and len(readers[old]) == 1)
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


def _value_lives(graph: Graph, *, donate: Collection[int] = (), fused: bool = False) -> Lives:
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
    lives = _value_lives(graph, donate=donate, fused=fused)
    return max(lives.profile(len(graph.nodes) + 1), default=0)


def plan_values(graph: Graph, *, donate: Collection[int] = (), fused: bool = False) -> MemoryPlan:
    """Plan the arena of a graph's intermediates; values that are views share their source's.

    Args:
        graph: A prepared graph.
        donate: Positions of inputs whose memory updates take over; see :func:`updated_in_place`.
        fused: Whether chains of elementwise nodes become one kernel, without memory between.
    """
    lives = _value_lives(graph, donate=donate, fused=fused)
    values = list(lives.blocks)
    plan = plan_memory([Interval(v.spec.memory_bytes, *lives.blocks[v]) for v in values])
    offsets = dict(zip(values, plan.offsets, strict=True))
    offsets.update({v: offsets[r] for v, r in lives.source.items() if r in offsets})
    ranked = sorted(values, key=lambda v: -v.spec.memory_bytes)[:_NAMED]
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
