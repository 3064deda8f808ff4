"""The cross-entropy, its gradient and the check of its labels share what they compute."""

from __future__ import annotations

from typing import Any

from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit_torch import fused
from accelkit_torch.rewrites.common import replacement

__all__ = ["check_labels_in_cross_entropy", "keep_log_probabilities"]


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


def check_labels_in_cross_entropy(graph: Graph) -> Graph:
    """In host memory the kernel of the loss refuses labels that are no classes: nobody else asks.

    For labels of at most 32 bits, among which the one that torch's kernel ignores is not.
    """
    position = {node: i for i, node in enumerate(graph.nodes)}
    checks = {
        (node.inputs[0], node.parameters["classes"]): node
        for node in graph.nodes
        if node.primitive.name == "labels_in_range" and node.inputs[0].spec.dtype.bits <= 32
    }
    checked: dict[Node, Value] = {}  # what a check is to give, new

    def check_of(node: Node) -> Node | None:
        """The check behind a loss that knows all its operands."""
        if node.primitive.name not in ("softmax_cross_entropy", fused.CROSS_ENTROPY.name):
            return None
        logits, labels = node.inputs
        check = checks.get((labels, logits.spec.shape[-1]))
        if check is None or check in checked or position[check] < position[node]:
            return None
        weights = check.inputs[1].node
        return check if weights is None or position[weights] < position[node] else None

    def visit(builder: GraphBuilder, node: Node) -> bool:
        if node in checked:
            builder[node.outputs[0]] = checked[node]
            return True
        check = check_of(node)
        if check is None:
            return False
        *found, checked[check] = replacement(
            builder,
            node,
            fused.CHECKED_CROSS_ENTROPY,
            [*node.inputs, check.inputs[1]],
            **node.parameters,
        )
        for output, value in zip(node.outputs, found, strict=False):
            builder[output] = value
        return True

    return rewrite(graph, visit)


def _key(node: Node) -> Any:
    return (*node.inputs[:2], node.parameters.get("label_smoothing"))
