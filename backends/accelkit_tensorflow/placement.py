"""Which nodes of a program on a CPU run on TensorFlow's kernels, and which XLA compiles.

XLA fuses elementwise chains, but computes convolutions by Eigen's contractions; TensorFlow's own
kernels are oneDNN's, which take about four fifths of the time. Batch normalisation's sums per
channel, and the winners of max-pooling's windows, for which it makes a pass per position, take XLA
longer too. So a program with large convolutions is cut: what TensorFlow's kernels do faster is run
by them node by node, and everything between is compiled as one cluster. Programs without large
convolutions stay one cluster.

A cut costs a launch and the traffic of what crosses it, so that clusters should be few. The *level*
of a node is the largest number of kernels on a path to it: no path between two nodes of the same
level leads through a kernel, so that the other nodes of a level are clusters: one for each part of
them that is connected and large.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from accelkit import dtypes
from accelkit.graph import Graph, Node, Value, node_flops
from accelkit.passes import Part, partition
from accelkit_tensorflow.convolution import KERNEL_CONVOLUTION
from accelkit_tensorflow.table import KERNEL_COMPOSITES

__all__ = [
    "LARGE_BYTES",
    "LEAST_BYTES",
    "LEAST_CONVOLUTION_FLOPS",
    "LEAST_FLOPS",
    "LEAST_INTENSITY",
    "PlacedPart",
    "place",
    "runs_on_kernel",
]

# A millisecond on a CPU core or two: a product of that size gains more than the cut costs.
LEAST_FLOPS: Final = 2**28
# XLA transposes what a convolution reads and spreads what a gradient with strides reads, which
# costs the smaller ones more than their products.
LEAST_CONVOLUTION_FLOPS: Final = 2**26
# A tensor of that size is not in the first caches any more, and a pass over it worth a launch.
LEAST_BYTES: Final = 2**18
# Products' FLOPs for each byte that passes from one cluster to another, from which on cutting pays.
# Products' operands and results are stored in any case; but what passes from cluster to cluster
# might have stayed in registers. A fifth of the products' time is spared; a byte that passes is
# written and read, and takes the time of 15 FLOPs each way, which makes 150, and launches come on
# top. AlexNet's step has 8,000, ResNet-18's 1,100, that of AlexNet of 2012 600.
LEAST_INTENSITY: Final = 200
# To keep a value of less is nothing; what is made of such values alone waits for a cluster that
# runs in any case.
LARGE_BYTES: Final = 2**16


@dataclass(frozen=True)
class PlacedPart:
    """A part of a program, and whether TensorFlow's kernels run its nodes."""

    part: Part
    on_kernels: bool


def runs_on_kernel(node: Node) -> bool:
    """Whether TensorFlow's kernel computes this node faster than XLA does.

    Those are convolutions and their gradients, but for dilated and grouped ones, for which
    TensorFlow has no gradients; matrix products, but for those with the second operand transposed,
    which XLA computes faster; batch normalisation and the gradient of max-pooling.
    """
    name = node.primitive.name
    if any(v.spec.dtype is not dtypes.float32 for v in node.inputs):
        return False
    if name in KERNEL_COMPOSITES:
        return node.inputs[0].spec.memory_bytes >= LEAST_BYTES
    if name in KERNEL_CONVOLUTION:
        parameters = node.parameters
        if parameters["dilation"] != (1, 1) or parameters["groups"] != 1:
            return False
        return node_flops(node) >= LEAST_CONVOLUTION_FLOPS
    if name != "matmul" or node.parameters["transpose_b"]:
        return False
    return node_flops(node) >= LEAST_FLOPS


def place(graph: Graph) -> list[PlacedPart]:
    """Cut a graph into parts, in the order in which they run.

    Args:
        graph: A prepared graph.

    Returns:
        One part for XLA if the graph has no convolution for TensorFlow's kernels, or if too much
        would pass from cluster to cluster.
    """
    kernels = {n for n in graph.nodes if runs_on_kernel(n)}
    if any(n.primitive.name in KERNEL_CONVOLUTION for n in kernels):
        cut = _cut(graph, kernels)
        parts = [PlacedPart(p, any(map(runs_on_kernel, p.graph.nodes))) for p in cut]
        flops = sum(node_flops(n) for n in kernels if n.primitive.name not in KERNEL_COMPOSITES)
        if flops >= LEAST_INTENSITY * _passing_bytes(parts):
            return parts
    return [PlacedPart(part, False) for part in partition(graph, [])]


def _cut(graph: Graph, kernels: set[Node]) -> list[Part]:
    level = _levels(graph, kernels)
    # Kernels of a level come before its clusters, which read their results.
    component = _components(graph, kernels, level)
    key = {n: (level[n], n not in kernels, component[n]) for n in graph.nodes}
    nodes = sorted(graph.nodes, key=key.__getitem__)
    cuts = [
        position + 1
        for position, (node, following) in enumerate(itertools.pairwise(nodes))
        if key[node] != key[following]
    ]
    return partition(graph.replace(nodes=nodes), cuts)


def _components(graph: Graph, kernels: set[Node], level: Mapping[Node, int]) -> dict[Node, int]:
    """The cluster of its level that each node belongs to.

    Large nodes of a level that do not depend on each other, such as the update of a weight and the
    gradient that goes on to the layer below, are clusters of their own: what the one leaves idle
    the other uses, and the next kernel need not wait for both. Small ones go with the first.
    """
    parent = {n: n for n in graph.nodes}

    def root(node: Node) -> Node:
        while parent[node] is not node:
            node = parent[node]
        return node

    clusters = [n for n in graph.nodes if n not in kernels]
    for node in clusters:
        for before in (v.node for v in node.inputs):
            if before is None or before in kernels or level[before] != level[node]:
                continue
            if before.inputs:  # a constant belongs to all that read it
                parent[root(node)] = root(before)
    position = {n: i for i, n in enumerate(graph.nodes)}
    found = dict.fromkeys(graph.nodes, 0)
    large = {
        root(n)
        for n in clusters
        if any(v.spec.memory_bytes >= LEAST_BYTES for v in (*n.inputs, *n.outputs))
    }
    first: dict[int, int] = {}
    for node in clusters:
        if node.inputs and root(node) in large:
            found[node] = position[root(node)]
            first[level[node]] = min(first.get(level[node], found[node]), found[node])
    for node in clusters:
        if not node.inputs or root(node) not in large:
            found[node] = first.get(level[node], 0)
    return found


def _passing_bytes(parts: Sequence[PlacedPart]) -> int:
    """Size of what clusters read of other clusters' results."""
    clusters = [p.part for p in parts if not p.on_kernels]
    made = {v for part in clusters for v in part.outputs}
    return sum(v.spec.memory_bytes for part in clusters for v in part.inputs if v in made)


def _levels(graph: Graph, kernels: set[Node]) -> dict[Node, int]:
    """The level at which each node runs.

    The earliest possible; but nodes are put off until they are needed, results until the end, where
    that keeps no large operand alive for longer: the updates of a network's many small parameters
    are one cluster and not one each. What depends on no kernel, such as the weight decay, is always
    put off: at the worst, that keeps what the inputs give in place of what is made of it.
    """
    level: dict[Node, int] = {}
    for node in graph.nodes:
        before = [level[v.node] for v in node.inputs if v.node is not None]
        level[node] = max(before, default=0) + (node in kernels)
    persistent = {*graph.inputs, *(v for n in graph.nodes if not level[n] for v in n.outputs)}
    last_use: dict[Value, int] = {}
    needed = dict.fromkeys(graph.outputs, max(level.values(), default=0))
    for node in reversed(graph.nodes):
        if node not in kernels:
            latest = min((needed[v] for v in node.outputs if v in needed), default=level[node])
            if all(
                v in persistent
                or v.spec.memory_bytes < LARGE_BYTES
                or last_use.get(v, -1) >= latest
                for v in node.inputs
            ):
                level[node] = max(level[node], latest)
        own = level[node] - (node in kernels)  # a kernel reads what the level before has made
        for value in node.inputs:
            last_use[value] = max(last_use.get(value, -1), level[node])
            needed[value] = min(needed.get(value, own), own)
    return level
