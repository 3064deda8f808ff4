"""The order of nodes, for memory.

A graph's order is free as long as every value is defined before it is read. Tracing puts all
parameter updates last, which keeps every gradient alive until then.
"""

from __future__ import annotations

from accelkit.graph import Graph, Node, Value

__all__ = ["update_early"]


def update_early(graph: Graph) -> Graph:
    """Move each node of the update phase to directly behind the last operand it waits for.

    A gradient is then alive only until its parameter is updated. A node that reads a parameter
    still comes before the update of that parameter, so that memory can be updated in place.
    """
    position = {node: index for index, node in enumerate(graph.nodes)}
    last_read: dict[Value, int] = {}
    for index, node in enumerate(graph.nodes):
        if node.phase != "update":
            for value in node.inputs:
                last_read[value] = index
    ready: dict[Node, int] = {}

    def earliest(node: Node) -> int:
        """Position behind which an update can run."""
        waits = []
        for value in node.inputs:
            if value.node is None:
                waits.append(last_read.get(value, -1))
            elif value.node.phase == "update":
                waits.append(ready[value.node])
            else:
                waits.append(position[value.node])
        return max(waits, default=-1)

    behind: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if node.phase == "update":
            ready[node] = earliest(node)
            behind.setdefault(ready[node], []).append(node)
    ordered = list(behind.get(-1, ()))
    for index, node in enumerate(graph.nodes):
        if node.phase != "update":
            ordered.append(node)
            ordered += behind.get(index, ())
    return graph.replace(nodes=ordered)
