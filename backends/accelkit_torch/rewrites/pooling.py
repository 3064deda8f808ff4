"""Max-pooling: before the rectifier instead of behind it, and with its winners kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit.primitives import get
from accelkit_torch import fused
from accelkit_torch.convolution import native_pool_padding
from accelkit_torch.rewrites.common import Users, replacement

__all__ = ["keep_pooling_indices", "pool_before_relu"]


def pool_before_relu(graph: Graph) -> Graph:
    """``max_pool2d(relu(x))`` as ``relu(max_pool2d(x))``, and their gradients in that order.

    The values are the same, NaN included, and there are fewer of them to rectify. Only windows
    without a positive element may choose another winner, and those pass no gradient on. The
    rectified images must have no other use.
    """
    users = graph.readers()
    pooled = {
        node.outputs[0]
        for node in graph.nodes
        if node.primitive.name == "relu" and _is_only_pooled(node.outputs[0], users, graph.outputs)
    }
    raw: dict[Value, Value] = {}  # rectified images -> the maxima before rectification, new

    def visit(builder: GraphBuilder, node: Node) -> bool:
        rectified = node.inputs[0] if node.inputs else None
        if node.primitive.name == "relu" and node.outputs[0] in pooled:
            builder[node.outputs[0]] = builder[node.inputs[0]]  # nobody sees the difference
            return True
        if rectified not in pooled:
            return False
        if node.primitive.name == "max_pool2d":
            (raw[rectified],) = replacement(
                builder, node, node.primitive, [rectified], **node.parameters
            )
            (builder[node.outputs[0]],) = builder.add(
                get("relu"), [raw[rectified]], {}, scope=node.scope, phase=node.phase
            )
            return True
        if node.primitive.name == "max_pool2d_grad":
            _, y, g = node.inputs
            (kept,) = replacement(builder, node, get("relu_grad"), [y, g])
            (builder[node.outputs[0]],) = builder.add(
                node.primitive,
                [builder[rectified], raw[rectified], kept],
                node.parameters,
                scope=node.scope,
                phase=node.phase,
            )
            return True
        builder[node.outputs[0]] = builder[node.inputs[1]]  # relu_grad: it is done already
        return True

    return rewrite(graph, visit)


def _is_only_pooled(rectified: Value, users: Users, outputs: Sequence[Value]) -> bool:
    """Whether one pooling reads rectified images, and else only its and relu's gradients."""
    if rectified in outputs:
        return False
    pools, gradients = [], []
    found = {
        n.outputs[0] for n in users.get(rectified, ()) if n.primitive.name == "max_pool2d_grad"
    }
    for node in dict.fromkeys(users.get(rectified, ())):
        if node.inputs.count(rectified) != 1 or node.inputs[0] is not rectified:
            return False
        name = node.primitive.name
        if name == "max_pool2d":
            pools.append(node)
        elif name == "max_pool2d_grad":
            gradients.append(node)
        elif name != "relu_grad" or node.inputs[1] not in found:
            return False
    if len(pools) != 1:
        return False
    (pool,) = pools
    for gradient in gradients:
        consumers = users.get(gradient.outputs[0], [])
        rectifying = gradient.outputs[0] not in outputs and all(
            n.primitive.name == "relu_grad" and n.inputs[0] is rectified for n in consumers
        )
        if (
            gradient.inputs[1] is not pool.outputs[0]
            or gradient.parameters != pool.parameters
            or not rectifying
        ):
            return False
    return True


def keep_pooling_indices(graph: Graph) -> Graph:
    """Where the maxima stood is found once, in the forward pass, and kept for the gradient."""
    gradients: dict[Any, list[Node]] = {}
    for node in graph.nodes:
        if node.primitive.name == "max_pool2d_grad":
            gradients.setdefault(_pooling_key(node), []).append(node)
    indices: dict[Any, Value] = {}

    def visit(builder: GraphBuilder, node: Node) -> bool:
        name = node.primitive.name
        if name not in ("max_pool2d", "max_pool2d_grad"):
            return False
        key = _pooling_key(node)
        if key not in gradients or not native_pool_padding(
            node.parameters["window"], node.parameters["padding"]
        ):
            return False
        if name == "max_pool2d":
            y, indices[key] = replacement(
                builder, node, fused.MAX_POOL2D, node.inputs, **node.parameters
            )
            builder[node.outputs[0]] = y
            return True
        if key not in indices:
            return False
        x, _, g = node.inputs
        (builder[node.outputs[0]],) = builder.add(
            fused.MAX_POOL2D_GRAD,
            [builder[x], indices[key], builder[g]],
            node.parameters,
            scope=node.scope,
            phase=node.phase,
        )
        return True

    return rewrite(graph, visit)


def _pooling_key(node: Node) -> Any:
    return (node.inputs[0], *sorted(node.parameters.items()))
