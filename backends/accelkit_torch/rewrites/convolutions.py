"""Large convolutions by Winograd's transforms, on processors whose library has none."""

from __future__ import annotations

from typing import Any, Final

from accelkit.graph import Graph, GraphBuilder, Node, rewrite
from accelkit.primitives.primitive import Primitive
from accelkit.winograd import choose_for
from accelkit_torch import fused
from accelkit_torch.rewrites.common import replacement

__all__ = ["transform_convolutions"]


_TARGETS: Final[dict[str, Primitive]] = {
    "conv2d": fused.WINOGRAD_CONV2D,
    fused.CONV2D_BIAS.name: fused.WINOGRAD_CONV2D,
    "conv2d_input_grad": fused.WINOGRAD_CONV2D_INPUT_GRAD,
    "conv2d_weight_grad": fused.WINOGRAD_CONV2D_WEIGHT_GRAD,
}


def transform_convolutions(graph: Graph) -> Graph:
    """Convolutions and gradients that :func:`accelkit.winograd.choose_for` finds worth it."""

    def visit(builder: GraphBuilder, node: Node) -> bool:
        target = _TARGETS.get(node.primitive.name)
        chosen = target and choose_for(node)
        if target is None or chosen is None:
            return False
        kept: dict[str, Any] = {
            name: node.parameters[name]
            for name in ("padding", "image_size", "kernel_size")
            if name in node.parameters
        }
        (builder[node.outputs[0]],) = replacement(
            builder, node, target, node.inputs, tile=chosen.tile, **kept
        )
        return True

    return rewrite(graph, visit)
