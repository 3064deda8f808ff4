"""Dropout by bits: a select between a number and zero is slow, a bitwise and is not."""

from __future__ import annotations

from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit.passes import eliminate_dead_code
from accelkit_torch import fused
from accelkit_torch.rewrites.common import is_result_of, replacement, unscaled, used_once

__all__ = ["mask_by_bits"]


def mask_by_bits(graph: Graph) -> Graph:
    """``select(random mask, scale * x, 0)`` as ``scale * x & bits``.

    The mask's bits are made once for both passes. The result is the same to the last bit: what is
    dropped becomes +0, be it NaN or infinite.
    """
    users = graph.readers()
    bits: dict[Value, Value] = {}

    def visit(builder: GraphBuilder, node: Node) -> bool:
        if node.primitive.name != "select" or not _drops_at_random(node):
            return False
        mask, scaled, _ = node.inputs
        if mask not in bits:
            (bits[mask],) = replacement(builder, node, fused.MASK_BITS, [mask])
        x, scale = scaled, 1.0
        if used_once(scaled, users, graph.outputs):
            x, scale = unscaled(scaled)
        (builder[node.outputs[0]],) = builder.add(
            fused.KEEP,
            [builder[x], bits[mask]],
            {"scale": scale},
            scope=node.scope,
            phase=node.phase,
        )
        return True

    return eliminate_dead_code(rewrite(graph, visit))


def _drops_at_random(node: Node) -> bool:
    mask, x, zero = node.inputs
    return (
        is_result_of(mask, "random_keep_mask")
        and mask.spec.shape == x.spec.shape
        and x.spec.dtype.is_floating
        and zero.node is not None
        and zero.node.primitive.name == "full"
        and str(zero.node.parameters["value"]) == "0.0"  # not -0.0
    )
