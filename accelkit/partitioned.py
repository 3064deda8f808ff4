"""Programs in several parts, compiled each on its own and run one after the other.

Some compilers drop barriers before they look for equal expressions and choose an order of their
own; what must not be merged or moved is then given to them in parts. Between parts, values can
also travel: optimizer slots that are kept on the host are on the device only while the part that
updates them runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from accelkit.backend import Backend, Executable
from accelkit.device import Device
from accelkit.graph import Graph, Value
from accelkit.passes.arena import alive_bytes
from accelkit.passes.partition import partition

__all__ = ["PartitionedExecutable"]

Compile = Callable[[Graph, frozenset[int]], Executable]


class PartitionedExecutable(Executable):
    """Several executables as one.

    Args:
        graph: The whole program, prepared.
        backend: What the parts are compiled by.
        device: Where they run.
        cuts: Positions before which the program is cut.
        donate: Positions of inputs whose memory may be reused.
        compile_part: Compiles one part, with the inputs that it may overwrite.
        host: Positions of inputs that come from the host as NumPy arrays, each with that of the
            output that goes back there in its place.
    """

    def __init__(
        self,
        graph: Graph,
        backend: Backend,
        device: Device,
        *,
        cuts: Collection[int],
        donate: Collection[int],
        compile_part: Compile,
        host: Mapping[int, int] | None = None,
    ) -> None:
        self.graph = graph
        self.device = device
        self._backend = backend
        self._parts = partition(graph, cuts)
        self._inputs, self._outputs = graph.inputs, _resolved(graph)
        host = host or {}
        self._host = {graph.inputs[i] for i in host}
        self._host_outputs = {self._outputs[i] for i in host.values()}
        last = {v: number for number, part in enumerate(self._parts) for v in part.inputs}
        kept = set(self._outputs)
        mine = (set(graph.inputs) - {graph.inputs[i] for i in donate}) | kept
        self._last = [
            [v for v in part.inputs if last[v] == number and v not in kept]
            for number, part in enumerate(self._parts)
        ]
        self._free = [[v for v in dying if v not in mine] for dying in self._last]
        self._executables = []
        for part, free in zip(self._parts, self._free, strict=True):
            positions = frozenset(i for i, v in enumerate(part.inputs) if v in free)
            self._executables.append(compile_part(part.graph, positions))
        self.compile_time_s = sum(e.compile_time_s for e in self._executables)
        self.compiles_in_first_call = any(e.compiles_in_first_call for e in self._executables)

    @property
    def parts(self) -> Sequence[Executable]:
        """The executables in order."""
        return self._executables

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        environment = dict(zip(self._inputs, arrays, strict=True))
        if isinstance(arrays, list):
            arrays.clear()  # what is overwritten in place belongs to the part that does it, alone
        for number, dying in enumerate(self._last):
            self._run(number, environment)
            for value in dying:
                environment.pop(value, None)
        return [environment[v] for v in self._outputs]

    def _run(self, number: int, environment: dict[Value, Any]) -> None:
        part = self._parts[number]
        operands = [
            self._backend.put(environment[v], self.device) if v in self._host else environment[v]
            for v in part.inputs
        ]
        for value in self._free[number]:
            del environment[value]
        results = self._executables[number](operands)
        del operands
        for value, result in zip(part.outputs, results, strict=True):
            to_host = value in self._host_outputs
            environment[value] = self._backend.get(result) if to_host else result

    def temporary_memory_bytes(self) -> int | None:
        """The most that is alive between and inside of the parts, beyond the program's inputs.

        What a part returns takes the place of what it may overwrite, as in each executable's own
        account.
        """
        own: list[int] = []
        end = len(self._parts) - 1
        last = {v: number for number, free in enumerate(self._free) for v in free}
        lives = [(_size(v), 0, last.get(v, end)) for v in self._inputs if v not in self._host]
        for number, (part, executable) in enumerate(
            zip(self._parts, self._executables, strict=True)
        ):
            temporary = executable.temporary_memory_bytes()
            if temporary is None:
                return None
            own.append(temporary)
            lives += [(_size(v), number, number) for v in part.inputs if v in self._host]
            successors = _successors(part.outputs, self._free[number])
            for value in part.outputs:
                until = number if value in self._host_outputs else last.get(value, end)
                lives.append((_size(value), number + (value in successors), until))
        peak = max(map(sum, zip(own, alive_bytes(lives, len(own)), strict=True)), default=0)
        return max(0, peak - self.graph.input_bytes)


def _size(value: Value) -> int:
    return value.spec.memory_bytes


def _successors(outputs: Sequence[Value], free: Sequence[Value]) -> set[Value]:
    """The outputs of a part that take the place of inputs which it may overwrite."""
    places = Counter(v.spec for v in free)
    found = set()
    for value in outputs:
        if places[value.spec]:
            places[value.spec] -= 1
            found.add(value)
    return found


def _resolved(graph: Graph) -> tuple[Value, ...]:
    """The graph's outputs, barriers seen through."""

    def resolve(value: Value) -> Value:
        while value.node is not None and value.node.primitive.name == "barrier":
            value = value.node.inputs[value.index]
        return value

    return tuple(resolve(v) for v in graph.outputs)
