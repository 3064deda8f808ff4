"""Max-pool winners as data: one run's choice imposed on another.

Two nearly equal elements of a pooling window may swap their order between float32 and float64.
The gradient then flows to another place: a difference of order one that says nothing about the
rest of the program. So gradients are compared with the winners of the oracle, and winners that
differ are counted apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from accelkit import dtypes
from accelkit.graph import Graph, GraphBuilder, Node, TensorSpec, Value
from accelkit.primitives.pooling import (
    max_pool2d,
    max_pool2d_gather,
    max_pool2d_grad,
    max_pool2d_scatter,
    max_pool2d_winners,
)

__all__ = ["Imposed", "impose_winners", "observe_winners"]

_Key = tuple[Value, tuple[tuple[str, Any], ...]]


class Imposed(NamedTuple):
    """A graph that takes its winners from outside.

    Attributes:
        graph: With one int32 input more, at the end, per max-pool; and one output more, at the
            end, per max-pool: the winners that it would have chosen itself.
        specs: Shapes and dtypes of the winners.
    """

    graph: Graph
    specs: tuple[TensorSpec, ...]


def _key(node: Node) -> _Key:
    return node.inputs[0], tuple(sorted(node.parameters.items()))


def _pools(graph: Graph) -> dict[_Key, Node]:
    """The max-pools of a graph in order, equal ones once."""
    found: dict[_Key, Node] = {}
    for node in graph.nodes:
        if node.primitive is max_pool2d:
            found.setdefault(_key(node), node)
    return found


def observe_winners(graph: Graph) -> Graph:
    """The graph with one output more, at the end, per max-pool: its winners."""
    nodes = list(graph.nodes)
    observed: list[Value] = []
    for node in _pools(graph).values():
        specs = max_pool2d_winners.infer([node.inputs[0].spec], node.parameters)
        extra = Node(max_pool2d_winners, node.inputs, node.parameters, specs, scope=node.scope)
        nodes.append(extra)
        observed += extra.outputs
    return graph.replace(nodes=nodes, outputs=[*graph.outputs, *observed])


def impose_winners(graph: Graph) -> Imposed:
    """Replace each max-pool, and its gradient, by reading and writing at given winners."""
    builder = GraphBuilder(graph)
    pools = _pools(graph)
    given: dict[_Key, Value] = {}
    for key, node in pools.items():
        spec = TensorSpec(node.outputs[0].spec.shape, dtypes.int32)
        given[key] = Value(spec, None, len(graph.inputs) + len(given))
    own: list[Value] = []
    for node in graph.nodes:
        label = {"scope": node.scope, "phase": node.phase}
        if node.primitive is max_pool2d:
            x = builder[node.inputs[0]]
            winners = given[_key(node)]
            (result,) = builder.add(max_pool2d_gather, [winners, x], node.parameters, **label)
            builder[node.outputs[0]] = result
            if pools[_key(node)] is node:
                own += builder.add(max_pool2d_winners, [x], node.parameters, **label)
        elif node.primitive is max_pool2d_grad and _key(node) in given:
            parameters = {**node.parameters, "image_size": node.inputs[0].spec.shape[1:3]}
            operands = [given[_key(node)], builder[node.inputs[2]]]
            builder[node.outputs[0]] = builder.add(
                max_pool2d_scatter, operands, parameters, **label
            )[0]
        else:
            builder.copy(node)
    imposed = Graph(
        [*builder.inputs, *given.values()],
        builder.nodes,
        [*(builder[v] for v in graph.outputs), *own],
        name=graph.name,
        input_names=[*graph.input_names, *("winners" for _ in given)],
    )
    return Imposed(imposed, tuple(v.spec for v in given.values()))
