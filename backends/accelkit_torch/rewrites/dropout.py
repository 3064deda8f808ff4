"""Dropout by bits: a select between a number and zero is slow, a bitwise and is not."""

from __future__ import annotations

from accelkit import dtypes
from accelkit.dtypes import DType
from accelkit.graph import Graph, GraphBuilder, Node, Value, rewrite
from accelkit_torch import fused
from accelkit_torch.rewrites.common import is_result_of, replacement

__all__ = ["mask_by_bits"]

_INTEGERS = {2: dtypes.int16, 4: dtypes.int32, 8: dtypes.int64}


def mask_by_bits(graph: Graph) -> Graph:
    """``select(random mask, x, 0)`` as ``x & bits``, the bits made once for both passes.

    The result has the same bits: what is dropped becomes +0, be it NaN or infinite.
    """
    bits: dict[tuple[Value, DType], Value] = {}

    def visit(builder: GraphBuilder, node: Node) -> bool:
        if node.primitive.name != "select" or not _drops_at_random(node):
            return False
        mask, x, _ = node.inputs
        key = mask, _INTEGERS[x.spec.dtype.itemsize]
        if key not in bits:
            (bits[key],) = replacement(builder, node, fused.MASK_BITS, [mask], dtype=key[1])
        (builder[node.outputs[0]],) = builder.add(
            fused.KEEP, [builder[x], bits[key]], {}, scope=node.scope, phase=node.phase
        )
        return True

    return rewrite(graph, visit)


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
