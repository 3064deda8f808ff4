"""Large convolutions by Winograd's transforms, on processors whose library has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from accelkit.graph import Graph, GraphBuilder, Node, rewrite
from accelkit.primitives.primitive import Primitive
from accelkit.winograd import Winograd, choose
from accelkit_torch import fused
from accelkit_torch.rewrites.common import replacement

__all__ = ["transform_convolutions"]


def _forward(node: Node) -> Winograd | None:
    x, w = (value.spec for value in node.inputs[:2])
    size = node.outputs[0].spec.shape[1:3]
    return choose(x.shape[0], size, *w.shape[2:], w.shape[:2], dtype=x.dtype, **node.parameters)


def _by_images(node: Node) -> Winograd | None:
    g, w = (value.spec for value in node.inputs)
    parameters = dict(node.parameters)
    size = parameters.pop("image_size")
    return choose(g.shape[0], size, *w.shape[2:], w.shape[:2], dtype=g.dtype, **parameters)


def _by_weights(node: Node) -> Winograd | None:
    g, w = node.inputs[1].spec, node.outputs[0].spec
    parameters = {k: v for k, v in node.parameters.items() if k != "kernel_size"}
    return choose(g.shape[0], g.shape[1:3], *w.shape[2:], w.shape[:2], dtype=g.dtype, **parameters)


_RULES: Final[dict[str, tuple[Callable[[Node], Winograd | None], Primitive]]] = {
    "conv2d": (_forward, fused.WINOGRAD_CONV2D),
    fused.CONV2D_BIAS.name: (_forward, fused.WINOGRAD_CONV2D),
    "conv2d_input_grad": (_by_images, fused.WINOGRAD_CONV2D_INPUT_GRAD),
    "conv2d_weight_grad": (_by_weights, fused.WINOGRAD_CONV2D_WEIGHT_GRAD),
}


def transform_convolutions(graph: Graph) -> Graph:
    """Convolutions and gradients that :func:`accelkit.winograd.choose` finds worth it.

    Each on its own: a convolution's gradients have the arithmetic of the convolution.
    """

    def visit(builder: GraphBuilder, node: Node) -> bool:
        if node.primitive.name not in _RULES:
            return False
        rule, target = _RULES[node.primitive.name]
        chosen = rule(node)
        if chosen is None:
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
