"""Grouped convolutions as one convolution per group.

Several frameworks compute the gradients of grouped convolutions an order of magnitude slower than
those of their parts, or not at all.
"""

from __future__ import annotations

from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit.primitives.convolution import conv2d, conv2d_input_grad, conv2d_weight_grad
from accelkit.primitives.shaping import concatenate, slice_

__all__ = ["split_grouped_convolutions"]

_CONVOLUTIONS = {p.name for p in (conv2d, conv2d_input_grad, conv2d_weight_grad)}


def split_grouped_convolutions(graph: Graph) -> Graph:
    """Replace each convolution with groups > 1 by slices, convolutions and a concatenation.

    Both operands of each of the three convolution primitives are cut along their last axis, with
    one exception: the images of ``conv2d`` hold the input channels, the weights only those of one
    group. All three results are joined along the last axis.
    """
    return rewrite(graph, _visit)


def _visit(builder: GraphBuilder, node: Node) -> bool:
    groups = node.parameters.get("groups", 1)
    if node.primitive.name not in _CONVOLUTIONS or groups == 1:
        return False
    label = {"scope": node.scope, "phase": node.phase}
    parameters = {**node.parameters, "groups": 1}
    operands = [builder[v] for v in node.inputs]
    parts = []
    for group in range(groups):
        cut = [_channels(builder, v, group, groups, label) for v in operands]
        parts.append(builder.add(node.primitive, cut, parameters, **label)[0])
    (joined,) = builder.add(concatenate, parts, {"axis": 3}, **label)
    builder[node.outputs[0]] = joined
    return True


def _channels(
    builder: GraphBuilder, value: Value, group: int, groups: int, label: dict[str, str]
) -> Value:
    shape = value.spec.shape
    width = shape[3] // groups
    start, stop = (0, 0, 0, group * width), (*shape[:3], (group + 1) * width)
    parameters = {"start": start, "stop": stop, "step": (1, 1, 1, 1)}
    return builder.add(slice_, [value], parameters, **label)[0]
