"""What the rewrites share: finding nodes to replace, and replacing them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit.primitives.primitive import Primitive

Users = Mapping[Value, Sequence[Node]]


def used_once(value: Value, users: Users, outputs: Iterable[Value]) -> bool:
    return len(users.get(value, ())) == 1 and value not in set(outputs)


def is_result_of(value: Value, name: str) -> bool:
    return value.node is not None and value.node.primitive.name == name


def unscaled(value: Value) -> tuple[Value, float]:
    """``x`` and ``c``, rounded to the dtype, of ``x * c``; else the value itself and 1."""
    node = value.node
    if node is not None and node.primitive.name == "multiply":
        for x, factor in (node.inputs, node.inputs[::-1]):
            if x.spec == value.spec and is_result_of(factor, "full") and factor.node is not None:
                rounded = np.asarray(factor.node.parameters["value"], value.spec.dtype.numpy)
                return x, float(rounded)
    return value, 1.0


def replacement(
    builder: GraphBuilder,
    node: Node,
    primitive: Primitive,
    inputs: Sequence[Value],
    **parameters: Any,
) -> tuple[Value, ...]:
    return builder.add(
        primitive, [builder[v] for v in inputs], parameters, scope=node.scope, phase=node.phase
    )


def drop_identities(graph: Graph) -> Graph:
    """Marks for differentiation have done their work when a graph is compiled."""

    def visit(builder: GraphBuilder, node: Node) -> bool:
        if node.primitive.name not in ("alias", "stop_gradient"):
            return False
        builder[node.outputs[0]] = builder[node.inputs[0]]
        return True

    return rewrite(graph, visit)
