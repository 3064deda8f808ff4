"""The cross-entropy and its gradient share the log-probabilities."""

from __future__ import annotations

from typing import Any

from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit_torch import fused
from accelkit_torch.rewrites.common import replacement

__all__ = ["keep_log_probabilities"]


def keep_log_probabilities(graph: Graph) -> Graph:
    """The softmax is computed once, in the forward pass, and kept for the gradient."""
    gradients = {
        _key(node) for node in graph.nodes if node.primitive.name == "softmax_cross_entropy_grad"
    }
    kept: dict[Any, list[Value]] = {}

    def visit(builder: GraphBuilder, node: Node) -> bool:
        key = _key(node)
        if node.primitive.name == "softmax_cross_entropy" and key in gradients:
            loss, *kept[key] = replacement(
                builder, node, fused.CROSS_ENTROPY, node.inputs, **node.parameters
            )
            builder[node.outputs[0]] = loss
            return True
        if node.primitive.name == "softmax_cross_entropy_grad" and key in kept:
            (builder[node.outputs[0]],) = builder.add(
                fused.CROSS_ENTROPY_GRAD,
                [*kept[key], builder[node.inputs[2]]],
                node.parameters,
                scope=node.scope,
                phase=node.phase,
            )
            return True
        return False

    return rewrite(graph, visit)


def _key(node: Node) -> Any:
    return (*node.inputs[:2], node.parameters.get("label_smoothing"))
