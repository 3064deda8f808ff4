"""Large convolutions by Winograd's transforms, on processors whose library has none.

A convolution by transforms is mostly matrix products, which torch leaves to MKL; the direct one is
oneDNN's. On Intel's processors both reach the same share of the peak. On a Zen 4 MKL reaches 0.5 to
0.7 of oneDNN's rate, and steps with transforms took longer than without: AlexNet's training 0.97 to
1.10 of the time, its inference 1.06, ResNet-18's training 1.11.
"""

from __future__ import annotations

from typing import Any, Final

from accelkit import host
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
    """Convolutions and gradients that :func:`accelkit.winograd.choose_for` finds worth it.

    None on processors other than Intel's.
    """
    if not host.has_intel_processor():
        return graph

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
