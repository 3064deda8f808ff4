"""What a fused kernel reads, as it is put together."""

from __future__ import annotations

from accelkit.dtypes import DType
from accelkit.graph import Value
from accelkit_opencl.kernels.fused import Body, Read, collapse
from accelkit_opencl.views import View

__all__ = ["ReadTable", "draws_in_long_runs"]

_SHORTEST_RUN = 64  # of random numbers that are drawn where they are used


class ReadTable:
    """Variables for the views that a kernel reads: one per view, one argument per buffer."""

    def __init__(self) -> None:
        self.reads: list[Read] = []
        self.values: dict[str, Value] = {}
        self._variables: dict[tuple[View, str], str] = {}
        self._arguments: dict[Value, str] = {}

    def variable(self, view: View) -> str:
        key = (view, str(view.constant))  # 0.0 == -0.0
        found = self._variables.get(key)
        if found is not None:
            return found
        argument = None
        if view.base is not None:
            argument = self._arguments.get(view.base)
            if argument is None:
                argument = self._arguments[view.base] = f"p{len(self._arguments)}"
                self.values[argument] = view.base
        name = self._variables[key] = f"x{len(self.reads)}"
        self.reads.append(Read(name, view, argument))
        return name

    def arguments(self) -> list[tuple[str, DType]]:
        return [(name, value.spec.dtype) for name, value in self.values.items()]

    def identity(self) -> frozenset[str]:
        """Arguments that are read at the element's own place only."""
        return frozenset(
            name
            for name in self.values
            if all(r.view.is_dense for r in self.reads if r.argument == name)
        )


def draws_in_long_runs(body: Body) -> bool:
    """Whether neighbours in memory are neighbours in the random streams too, many in a row."""
    draws = [read.name for read in body.reads if read.view.draw is not None]
    space = collapse(body, [False] * len(body.shape))
    if not draws or not space.extents:
        return True
    is_long = len(space.extents) == 1 or space.extents[-1] >= _SHORTEST_RUN
    return is_long and all(space.strides[name][-1] == 1 for name in draws)
