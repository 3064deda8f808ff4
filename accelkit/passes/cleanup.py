"""Removing what nothing uses."""

from __future__ import annotations

from accelkit.graph import Graph, Value

__all__ = ["eliminate_dead_code"]


def eliminate_dead_code(graph: Graph) -> Graph:
    """Drop nodes whose results reach no output; the graph's inputs stay as they are."""
    needed: set[Value] = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if node.primitive.has_side_effect or any(v in needed for v in node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return graph.replace(nodes=kept[::-1])
