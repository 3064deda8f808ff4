"""Which nodes of a program on a CPU run on TensorFlow's kernels, and which XLA compiles.

XLA fuses elementwise chains, but computes convolutions by Eigen's contractions; TensorFlow's own
kernels are oneDNN's, which take about four fifths of the time. So a program with large convolutions
is cut: the *products* for which TensorFlow's kernels are faster run one by one, and everything
between two products is compiled as one cluster. Programs without them stay one cluster.

A cut costs a launch and the traffic of what crosses it, so that clusters should be few. The *level*
of a node is the largest number of products on a path to it: no path between two nodes of the same
level leads through a product, so that all other nodes of a level can be one cluster.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from accelkit import dtypes
from accelkit.graph import Graph, Node, Value, node_flops
from accelkit.passes import Part, partition

__all__ = ["LEAST_FLOPS", "LEAST_INTENSITY", "PlacedPart", "place", "runs_on_kernel"]

# A millisecond on a CPU core or two: a product of that size gains more than the cut costs.
LEAST_FLOPS: Final = 2**28
# Products' FLOPs for each byte that crosses a cut, from which on cutting pays. A fifth of the
# products' time is spared; a crossing byte is written and read, and takes the time of 15 FLOPs each
# way, which makes 150, and launches come on top. Measured on two cores, against programs that stay
# the same: cutting takes AlexNet's step (272) from 1.12 to 0.92, ResNet-18's (159) from 1.14 to
# 1.26.
LEAST_INTENSITY: Final = 200
_CONVOLUTIONS: Final = frozenset({"conv2d", "conv2d_input_grad", "conv2d_weight_grad"})


@dataclass(frozen=True)
class PlacedPart:
    """A part of a program, and whether its nodes run on TensorFlow's kernels one by one."""

    part: Part
    on_kernels: bool


def runs_on_kernel(node: Node) -> bool:
    """Whether TensorFlow's kernel computes this node faster than XLA does.

    Those are convolutions and their gradients, but for dilated and grouped ones, for which
    TensorFlow has no gradients; and matrix products, but for those with the second operand
    transposed, which XLA computes faster.
    """
    name = node.primitive.name
    if any(v.spec.dtype is not dtypes.float32 for v in node.inputs):
        return False
    if name in _CONVOLUTIONS:
        parameters = node.parameters
        if parameters["dilation"] != (1, 1) or parameters["groups"] != 1:
            return False
    elif name != "matmul" or node.parameters["transpose_b"]:
        return False
    return node_flops(node) >= LEAST_FLOPS


def place(graph: Graph) -> list[PlacedPart]:
    """Cut a graph into parts, in the order in which they run.

    Args:
        graph: A prepared graph.

    Returns:
        One part for XLA if the graph has no convolution for TensorFlow's kernels, or if too much
        would cross the cuts.
    """
    products = {n for n in graph.nodes if runs_on_kernel(n)}
    if any(n.primitive.name in _CONVOLUTIONS for n in products):
        parts = _cut(graph, products)
        if sum(map(node_flops, products)) >= LEAST_INTENSITY * _crossing_bytes(parts):
            kernels = [any(runs_on_kernel(n) for n in part.graph.nodes) for part in parts]
            return [PlacedPart(*pair) for pair in zip(parts, kernels, strict=True)]
    return [PlacedPart(part, False) for part in partition(graph, [])]


def _cut(graph: Graph, products: set[Node]) -> list[Part]:
    level = _levels(graph, products)
    # Products of a level come before its cluster, which reads their results.
    key = {n: (level[n], n not in products) for n in graph.nodes}
    nodes = sorted(graph.nodes, key=key.__getitem__)
    cuts = [
        position + 1
        for position, (node, following) in enumerate(itertools.pairwise(nodes))
        if key[node] != key[following]
    ]
    return partition(graph.replace(nodes=nodes), cuts)


def _crossing_bytes(parts: Sequence[Part]) -> int:
    """Size of what parts read of other parts' results."""
    made = {v for part in parts for v in part.outputs}
    return sum(v.spec.memory_bytes for part in parts for v in part.inputs if v in made)


def _levels(graph: Graph, products: set[Node]) -> dict[Node, int]:
    """The level at which each node runs.

    The earliest possible; but nodes are put off until they are needed, where that keeps none of
    their operands alive for longer. What depends on no product, such as the weight decay, is always
    put off: at the worst, that keeps what the inputs give in place of what is made of it.
    """
    level: dict[Node, int] = {}
    for node in graph.nodes:
        before = [level[v.node] for v in node.inputs if v.node is not None]
        level[node] = max(before, default=0) + (node in products)
    persistent = {*graph.inputs, *(v for n in graph.nodes if not level[n] for v in n.outputs)}
    last_use: dict[Value, int] = {}
    needed: dict[Value, int] = {}
    returned = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node not in products and returned.isdisjoint(node.outputs):
            latest = min((needed[v] for v in node.outputs if v in needed), default=level[node])
            if all(v in persistent or last_use.get(v, -1) >= latest for v in node.inputs):
                level[node] = max(level[node], latest)
        own = level[node] - (node in products)  # a product reads what the level before has made
        for value in node.inputs:
            last_use[value] = max(last_use.get(value, -1), level[node])
            needed[value] = min(needed.get(value, own), own)
    return level
