"""What the rewrites share: finding nodes to replace, and replacing them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit.primitives.primitive import Primitive

Users = Mapping[Value, Sequence[Node]]


def used_once(value: Value, users: Users, outputs: Iterable[Value]) -> bool:
    return len(users.get(value, ())) == 1 and value not in set(outputs)


def is_result_of(value: Value, name: str) -> bool:
    return value.node is not None and value.node.primitive.name == name


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
