"""What running a node costs, as far as it can be told from shapes."""

from __future__ import annotations

from accelkit.graph import Graph, Node, node_flops
from accelkit.passes.memory import positions

__all__ = ["graph_cost", "node_cost", "transfer_cost"]

# Arithmetic per byte of memory traffic at which both take the same time, typical of CPUs and GPUs.
# AlexNet in 2, 4 and 8 micro-batches on two CPU cores takes 1.02, 1.07 and 1.16 times as long as in
# one; the weights that are read again cost that much at 15.
_BALANCE_FLOPS_PER_BYTE = 15.0
# Device memory is faster than the bus to the host by about this much.
_BUS_RATIO = 20.0


def node_cost(node: Node) -> float:
    """Relative time of one node: its arithmetic plus its memory traffic."""
    traffic = sum(v.spec.memory_bytes for v in (*node.inputs, *node.outputs))
    return node_flops(node) + _BALANCE_FLOPS_PER_BYTE * traffic


def graph_cost(graph: Graph, *, fused: bool = False) -> float:
    """Relative time of one execution.

    Args:
        graph: A prepared graph.
        fused: Whether chains of elementwise nodes become one kernel, which spares the traffic
            between them.
    """
    index = positions(graph, fused=fused)
    total = 0.0
    for position, node in enumerate(graph.nodes):
        total += node_cost(node)
        if index[node] != position:  # neither written nor read
            total -= 2 * _BALANCE_FLOPS_PER_BYTE * node.outputs[0].spec.memory_bytes
    return total


def transfer_cost(memory_bytes: int) -> float:
    """Relative time of a copy between the host and a device with memory of its own."""
    return _BUS_RATIO * _BALANCE_FLOPS_PER_BYTE * memory_bytes
