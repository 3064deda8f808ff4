"""Cutting a graph into parts that run one after the other.

A part is a graph of its own. What one part computes and a later one reads *crosses* the cut: it is
an output of the first and an input of the second. Cheap values (constants, broadcasts, reshapes)
do not cross: every part that needs one makes its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from accelkit.graph import Graph, GraphBuilder, Node, Value
from accelkit.passes.memory import positions

__all__ = ["Part", "cut_around_updates", "cut_at_barriers", "partition"]

_CHEAP = frozenset({"broadcast_to", "constant", "full", "iota", "reshape"})


@dataclass(frozen=True)
class Part:
    """A piece of a graph.

    Attributes:
        graph: Its nodes.
        inputs, outputs: The values of the whole graph that its own stand for.
    """

    graph: Graph
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def cut_at_barriers(graph: Graph) -> list[int]:
    """Positions of barriers that separate something: those of several operands."""
    return [
        position
        for position, node in enumerate(graph.nodes)
        if node.primitive.name == "barrier" and len(node.inputs) > 1
    ]


def cut_around_updates(graph: Graph, slots: Collection[Value]) -> tuple[Graph, list[int]]:
    """Cuts between which few of these inputs are needed at a time, and the graph they are for.

    Args:
        graph: A prepared graph, with early updates.
        slots: Inputs that only updates read. Those of several small parameters stay together, as
            long as they are no more than the largest one.

    Returns:
        The graph, each update in one piece, and where to cut it.
    """
    index = positions(graph, fused=True)
    graph = graph.replace(nodes=sorted(graph.nodes, key=index.__getitem__))
    spans = sorted(_spans(graph, slots).items(), key=lambda item: item[1])
    budget = max((v.spec.memory_bytes for v in slots), default=0)
    cuts: list[int] = []
    end, held = -1, 0
    for value, (first, last) in spans:
        if first > end and (end < 0 or held + value.spec.memory_bytes > budget):
            cuts += [end + 1, first] if end >= 0 else [first]
            held = 0
        held += value.spec.memory_bytes
        end = max(end, last)
    return graph, [*cuts, end + 1] if spans else []


def _spans(graph: Graph, slots: Collection[Value]) -> dict[Value, tuple[int, int]]:
    """From where to where each slot is needed: what updates make of it is read with it."""
    origin = {v: v for v in slots}
    spans: dict[Value, tuple[int, int]] = {}
    for position, node in enumerate(graph.nodes):
        read = {origin[v] for v in node.inputs if v in origin}
        for slot in read:
            spans[slot] = spans.get(slot, (position, position))[0], position
        for value in node.outputs:
            same = [s for s in read if s.spec == value.spec]
            if node.phase == "update" and same:
                origin[value] = same[0]
    return spans


def partition(graph: Graph, cuts: Collection[int]) -> list[Part]:
    """Cut a graph before the nodes at these positions. Barriers are dropped.

    Outputs of the whole graph that are its inputs, or that no node makes, belong to no part.
    """
    source = _without_barriers(graph)
    bounds = [0, *sorted(set(cuts) - {0}), len(graph.nodes)]
    groups: list[list[Node]] = []
    waiting: list[Node] = []
    for first, last in itertools.pairwise(bounds):
        waiting += [n for n in graph.nodes[first:last] if n.primitive.name != "barrier"]
        if any(n.primitive.name not in _CHEAP for n in waiting):
            groups.append(waiting)
            waiting = []
    if waiting:  # nothing but cheap values are left
        groups = [*groups[:-1], [*groups[-1], *waiting]] if groups else [waiting]
    wanted = [_reads(nodes, source) for nodes in groups]
    final = {source.get(v, v) for v in graph.outputs}
    parts = []
    for number, nodes in enumerate(groups):
        made = {v for n in nodes for v in n.outputs}
        later = final.union(*wanted[number + 1 :])
        outputs = tuple(v for n in nodes for v in n.outputs if v in later)
        inputs = tuple(dict.fromkeys(v for v in wanted[number] if v not in made))
        parts.append(_part(graph, number, nodes, inputs, outputs, source))
    return parts


def _without_barriers(graph: Graph) -> dict[Value, Value]:
    """The operand that each result of a barrier is."""
    source: dict[Value, Value] = {}
    for node in graph.nodes:
        if node.primitive.name == "barrier":
            for result, operand in zip(node.outputs, node.inputs, strict=True):
                source[result] = source.get(operand, operand)
    return source


def _reads(nodes: Sequence[Node], source: dict[Value, Value]) -> dict[Value, None]:
    """What a group reads, where cheap values of other groups stand for their operands."""
    own = {v for n in nodes for v in n.outputs}
    found: dict[Value, None] = {}

    def read(value: Value) -> None:
        value = source.get(value, value)
        if value.node is None or value in own or value.node.primitive.name not in _CHEAP:
            found[value] = None
        else:
            for operand in value.node.inputs:
                read(operand)

    for node in nodes:
        for value in node.inputs:
            read(value)
    return found


def _part(
    graph: Graph,
    number: int,
    nodes: Sequence[Node],
    inputs: tuple[Value, ...],
    outputs: tuple[Value, ...],
    source: dict[Value, Value],
) -> Part:
    builder = GraphBuilder()
    for position, value in enumerate(inputs):
        builder.inputs.append(Value(value.spec, None, position))
        builder[value] = builder.inputs[-1]

    def find(value: Value) -> Value:
        value = source.get(value, value)
        if value not in builder:
            assert value.node is not None
            emit(value.node)
        return builder[value]

    def emit(node: Node) -> None:
        operands = [find(v) for v in node.inputs]
        label = {"scope": node.scope, "phase": node.phase}
        new = builder.add(node.primitive, operands, node.parameters, **label)
        for old, value in zip(node.outputs, new, strict=True):
            builder[old] = value

    for node in nodes:
        if not all(v in builder for v in node.outputs):
            emit(node)
    names = dict(zip(graph.inputs, graph.input_names, strict=True))
    part = Graph(
        builder.inputs,
        builder.nodes,
        [builder[v] for v in outputs],
        name=f"{graph.name}_{number + 1}",
        input_names=[names.get(v, "") for v in inputs],
    )
    return Part(part, inputs, outputs)
