"""Branches of piecewise functions as data: one run's choice imposed on another.

A max-pool follows the largest element of each window, a ReLU either its input or zero. Where two
elements of a window are nearly equal, or an input is nearly zero, rounding decides, and float32
may take another branch than float64. The gradient then flows to another place: a difference of
order one that says nothing about the rest of the program. So gradients are compared on the
branches of the oracle, and branches that differ are counted apart.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple, Protocol

from accelkit.graph import Graph, GraphBuilder, Node, TensorSpec, Value
from accelkit.primitives.elementwise import less_equal, relu, relu_grad, select
from accelkit.primitives.pooling import (
    max_pool2d,
    max_pool2d_gather,
    max_pool2d_grad,
    max_pool2d_scatter,
    max_pool2d_winners,
)
from accelkit.primitives.primitive import Primitive
from accelkit.primitives.shaping import full

__all__ = ["Branch", "Imposed", "impose_branches", "observe_branches"]


class Branch(NamedTuple):
    """One choice per element that a piecewise function makes.

    Attributes:
        kind: ``"max-pool"`` or ``"relu"``.
        spec: Shape and dtype of the choices: int32 positions of winners in their windows, or
            booleans that are true where a ReLU gives zero.
    """

    kind: str
    spec: TensorSpec


class Imposed(NamedTuple):
    """A graph that takes its branches from outside.

    Attributes:
        graph: With one input more, at the end, per branch; and one output more, at the end, per
            branch: what it would have chosen itself.
        branches: Of those inputs and outputs, in order.
    """

    graph: Graph
    branches: tuple[Branch, ...]


class _Piecewise(Protocol):
    """A piecewise primitive and its gradient, told as functions of the choice.

    ``key`` and ``gradient_key`` are equal where a gradient belongs to a forward node.
    """

    kind: str
    forward: Primitive
    gradient: Primitive

    def key(self, node: Node) -> Hashable: ...
    def gradient_key(self, node: Node) -> Hashable: ...
    def choose(self, at: _Place, x: Value) -> Value: ...
    def apply(self, at: _Place, choice: Value, x: Value) -> Value: ...
    def differentiate(self, at: _Place, choice: Value, operands: Sequence[Value]) -> Value: ...


class _Place:
    """Where new nodes go: they carry the scope and phase of the node that they stand for."""

    def __init__(self, builder: GraphBuilder, node: Node) -> None:
        self.builder = builder
        self.node = node

    def add(self, primitive: Primitive, *operands: Value, **parameters: object) -> Value:
        label = {"scope": self.node.scope, "phase": self.node.phase}
        (result,) = self.builder.add(primitive, operands, parameters, **label)
        return result

    def zero(self, like: Value) -> Value:
        return self.add(full, shape=(), value=0.0, dtype=like.spec.dtype)


class _MaxPool:
    kind = "max-pool"
    forward = max_pool2d
    gradient = max_pool2d_grad

    def key(self, node: Node) -> Hashable:
        return node.inputs[0], tuple(sorted(node.parameters.items()))

    gradient_key = key  # of the gradient's operands, x comes first too

    def choose(self, at: _Place, x: Value) -> Value:
        return at.add(max_pool2d_winners, x, **at.node.parameters)

    def apply(self, at: _Place, choice: Value, x: Value) -> Value:
        return at.add(max_pool2d_gather, choice, x, **at.node.parameters)

    def differentiate(self, at: _Place, choice: Value, operands: Sequence[Value]) -> Value:
        x, _, g = operands
        size = x.spec.shape[1:3]
        return at.add(max_pool2d_scatter, choice, g, **at.node.parameters, image_size=size)


class _Relu:
    kind = "relu"
    forward = relu
    gradient = relu_grad

    def key(self, node: Node) -> Hashable:
        return node.outputs[0]

    def gradient_key(self, node: Node) -> Hashable:
        return node.inputs[0]

    def choose(self, at: _Place, x: Value) -> Value:
        return at.add(less_equal, x, at.zero(x))

    def apply(self, at: _Place, choice: Value, x: Value) -> Value:
        return at.add(select, choice, at.zero(x), x)

    def differentiate(self, at: _Place, choice: Value, operands: Sequence[Value]) -> Value:
        _, g = operands
        return at.add(select, choice, at.zero(g), g)


_FORWARD: Final[dict[Primitive, _Piecewise]] = {p.forward: p for p in (_MaxPool(), _Relu())}
_GRADIENT: Final[dict[Primitive, _Piecewise]] = {p.gradient: p for p in _FORWARD.values()}


def observe_branches(graph: Graph) -> Graph:
    """The graph with one output more, at the end, per branch: what it chose."""
    builder = GraphBuilder(graph)
    chosen: dict[Hashable, Value] = {}
    for node in graph.nodes:
        builder.copy(node)
        if function := _FORWARD.get(node.primitive):
            key = function.key(node)
            if key not in chosen:
                x = builder[node.inputs[0]]
                chosen[key] = function.choose(_Place(builder, node), x)
    outputs = [*(builder[v] for v in graph.outputs), *chosen.values()]
    return Graph(
        builder.inputs, builder.nodes, outputs, name=graph.name, input_names=graph.input_names
    )


def impose_branches(graph: Graph) -> Imposed:
    """Replace each piecewise function, and its gradient, by the pieces that it is told to take."""
    builder = GraphBuilder(graph)
    given: dict[Hashable, Value] = {}
    branches: list[Branch] = []
    own: list[Value] = []
    for node in graph.nodes:
        at = _Place(builder, node)
        operands = [builder[v] for v in node.inputs]
        if function := _FORWARD.get(node.primitive):
            key = function.key(node)
            if key not in given:
                own.append(function.choose(at, operands[0]))
                branches.append(Branch(function.kind, own[-1].spec))
                given[key] = Value(own[-1].spec, None, len(graph.inputs) + len(given))
            builder[node.outputs[0]] = function.apply(at, given[key], operands[0])
            continue
        function = _GRADIENT.get(node.primitive)
        if function and (key := function.gradient_key(node)) in given:
            builder[node.outputs[0]] = function.differentiate(at, given[key], operands)
        else:
            builder.copy(node)
    imposed = Graph(
        [*builder.inputs, *given.values()],
        builder.nodes,
        [*(builder[v] for v in graph.outputs), *own],
        name=graph.name,
        input_names=[*graph.input_names, *(f"{b.kind} branch" for b in branches)],
    )
    return Imposed(imposed, tuple(branches))
