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

__all__ = ["Part", "cut_at_barriers", "partition"]

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
