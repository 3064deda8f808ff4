"""The order of nodes, for memory.

A graph's order is free as long as every value is defined before it is read. Tracing puts all
parameter updates last, which keeps every gradient alive until then.
"""

from __future__ import annotations

from collections.abc import Sequence

from accelkit.graph import Graph, Node, Value

__all__ = ["update_early"]


def update_early(graph: Graph) -> Graph:
    """Move each node of the update phase to directly behind the last operand it waits for.

    A gradient is then alive only until its parameter is updated. A node that reads a parameter
    still comes before the update of that parameter, so that memory can be updated in place. What
    waits for nothing, a constant, moves to directly before its first reader.
    """
    position: dict[Node, int] = {}
    last_read: dict[Value, int] = {}
    ready: dict[Node, int] = {}
    behind: dict[int, list[Node]] = {}
    for index, node in enumerate(graph.nodes):
        position[node] = index
        if node.phase == "update":
            ready[node] = max(
                (_known(v, position, last_read, ready) for v in node.inputs), default=-1
            )
            behind.setdefault(ready[node], []).append(node)
        else:
            last_read.update(dict.fromkeys(node.inputs, index))
    ordered = list(behind.get(-1, ()))
    for index, node in enumerate(graph.nodes):
        if node.phase != "update":
            ordered.append(node)
            ordered += behind.get(index, ())
    return graph.replace(nodes=_constants_late(ordered))


def _constants_late(nodes: Sequence[Node]) -> list[Node]:
    """Update nodes without operands directly before their first reader; unread ones last."""
    waiting = {v: n for n in nodes if n.phase == "update" and not n.inputs for v in n.outputs}
    placed: dict[Node, None] = {}
    for node in nodes:
        if node.phase == "update" and not node.inputs:
            continue
        placed.update(dict.fromkeys(waiting[v] for v in node.inputs if v in waiting))
        placed[node] = None
    placed.update(dict.fromkeys(waiting.values()))
    return list(placed)


def _known(
    value: Value, position: dict[Node, int], last_read: dict[Value, int], ready: dict[Node, int]
) -> int:
    """Position behind which an update may use a value: a parameter's earlier reads come first."""
    if value.node is None:
        return last_read.get(value, -1)
    return ready[value.node] if value.node.phase == "update" else position[value.node]
