"""Which nodes may write their result over an operand that dies with them.

Values that share memory form a class: a node that computes something new opens one, views join
that of their operand. A node may overwrite an operand if nothing of the operand's class is read
later, if the graph itself allocated it (or its input was donated), and if no other operand of the
node shares the memory.
"""

from __future__ import annotations

import sys
from collections.abc import Container

from accelkit.graph import Graph, Node, Value
from accelkit.primitives import get
from accelkit.primitives.primitive import Primitive
from accelkit_torch import fused
from accelkit_torch.control import CONTROL_FLOW

__all__ = ["Reuse"]

_SAME_ELEMENTS = frozenset({"reshape", "transpose", "alias", "stop_gradient", "cast"})
_VIEWS = _SAME_ELEMENTS | {"broadcast_to", "slice"}
_NEVER = sys.maxsize  # later than any position
_UPDATES = (fused.SGD.name, fused.ADAM.name)


class Reuse:
    """The decisions for one graph, made node by node in order.

    Attributes:
        overwritten: Position of the operand that an elementwise node writes its result over.
        owned: For an update node, which of its tensors it may change in place.
        foreign: Values that may share memory with any operand of their node.
    """

    def __init__(self, graph: Graph, donate: frozenset[int], in_place: Container[str]) -> None:
        self.overwritten: dict[Node, int] = {}
        self.owned: dict[Node, tuple[bool, ...]] = {}
        self.foreign: set[Value] = set()
        self._last = graph.last_uses()
        self._class: dict[Value, Value] = {}  # the value whose memory this one has
        self._end: dict[Value, int] = {}  # last use of a class
        self._writable: set[Value] = {graph.inputs[i] for i in donate}
        self._dense: set[Value] = set(graph.inputs)
        for value in graph.inputs:
            self._open(value, -1)
        for position, node in enumerate(graph.nodes):
            self._visit(node, position, in_place)

    def shares_memory(self, value: Value) -> Value:
        """The value that opened this one's class."""
        return self._class[value]

    def _open(self, value: Value, position: int) -> None:
        self._class[value] = value
        self._end[value] = self._last.get(value, position)

    def _join(self, value: Value, other: Value, position: int) -> None:
        root = self._class[value] = self._class[other]
        self._end[root] = max(self._end[root], self._last.get(value, position))

    def _may_overwrite(self, node: Node, operand: int, position: int) -> bool:
        value = node.inputs[operand]
        root = self._class[value]
        shared = any(
            self._class[other] is root for i, other in enumerate(node.inputs) if i != operand
        )
        return (
            root in self._writable
            and value in self._dense
            and self._end[root] <= position
            and not shared
        )

    def _visit(self, node: Node, position: int, in_place: Container[str]) -> None:
        name = node.primitive.name
        if name in _VIEWS or node.parameters.get("axes") == ():
            self._join(node.outputs[0], node.inputs[0], position)
            if name in _SAME_ELEMENTS and node.inputs[0] in self._dense:
                self._dense.add(node.outputs[0])
        elif name in _UPDATES:
            self._visit_update(node, position)
        elif name == fused.ACCUMULATE_MATMUL.name:
            self._join(node.outputs[0], node.inputs[0], position)
            self._dense.add(node.outputs[0])
        elif name in CONTROL_FLOW or not _is_ours(node.primitive):
            self._visit_unknown(node, position)
        else:
            self._visit_computation(node, position, overwrite=name in in_place)

    def _visit_computation(self, node: Node, position: int, *, overwrite: bool) -> None:
        spec = node.outputs[0].spec
        overwrite = overwrite and spec.dtype.is_floating  # wide unsigned integers lack it
        for operand, value in enumerate(node.inputs):
            if overwrite and value.spec == spec and self._may_overwrite(node, operand, position):
                self.overwritten[node] = operand
                self._join(node.outputs[0], value, position)
                self._dense.add(node.outputs[0])
                return
        for value in node.outputs:
            self._open(value, position)
            self._dense.add(value)
            # What is created without operands is kept as a constant of the program.
            if node.inputs:
                self._writable.add(value)
        if node.primitive is fused.CHECKED_CROSS_ENTROPY:
            self.foreign.add(node.outputs[-1])  # a constant where all labels are classes

    def _visit_update(self, node: Node, position: int) -> None:
        """Outputs are (parameters, slots...), operands (scalars, parameters, gradients, slots)."""
        count = node.parameters["count"]
        tensors = len(node.outputs) + count
        first = len(node.inputs) - tensors
        owned = []
        for index in range(tensors):
            operand = first + index
            value = node.inputs[operand]
            is_gradient = count <= index < 2 * count
            accumulated = node.parameters.get("accumulated", False) and index >= 2 * count
            mine = accumulated or (not is_gradient and self._may_overwrite(node, operand, position))
            owned.append(mine)
            if not is_gradient:
                output = node.outputs[index if index < count else index - count]
                if mine:
                    self._join(output, value, position)
                else:
                    self._open(output, position)
                    self._writable.add(output)
                self._dense.add(output)
        self.owned[node] = tuple(owned)

    def _visit_unknown(self, node: Node, position: int) -> None:
        """A loop or a user's primitive may return its operands themselves: leave them alone."""
        for value in node.inputs:
            self._writable.discard(self._class[value])
            self._end[self._class[value]] = _NEVER
        for value in node.outputs:
            self._open(value, position)
        self.foreign.update(node.outputs)


def _is_ours(primitive: Primitive) -> bool:
    if primitive.name in fused.FUSED or primitive.name in fused.WITH_WORKSPACE:
        return True
    try:
        return get(primitive.name) is primitive and not primitive.lowerings.get("torch")
    except LookupError:
        return False
