"""The NumPy backend: runs everywhere, and is the reference for all others in float64.

Requires nothing but NumPy. Every primitive is a function of :mod:`accelkit_numpy.table`; a
compiled graph is straight-line Python over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from accelkit import host
from accelkit.backend import Backend, CompileOptions, Executable, Interpreter, MemoryStatistics
from accelkit.device import Device, DeviceInfo
from accelkit.dtypes import dtype
from accelkit.graph import Graph, TensorSpec
from accelkit.primitives.primitive import Primitive
from accelkit_numpy.control import control_flow
from accelkit_numpy.table import TABLE

__all__ = ["NumpyBackend"]

_DEVICE = Device("numpy", "cpu", 0)


class NumpyExecutable(Interpreter):
    """A graph as straight-line Python over NumPy functions."""

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        with np.errstate(all="ignore"):
            return [np.asarray(result) for result in self._run(*arrays)]


class NumpyBackend(Backend):
    """Computes with NumPy on the host. bfloat16 and float16 are computed in float32."""

    name: ClassVar[str] = "numpy"
    table = TABLE
    capabilities = frozenset(
        {
            "float64",
            "float16",
            "bfloat16",
            "fast_grouped_convolution",
        }
    )

    def __init__(self) -> None:
        self.table = {**type(self).table, **control_flow(self, _DEVICE)}

    def devices(self) -> list[DeviceInfo]:
        description = host.processor_name()
        return [DeviceInfo(_DEVICE, description, host.memory_bytes(), f"numpy {np.__version__}")]

    def put(self, array: np.ndarray, device: Device) -> Any:
        return np.array(array, order="C")

    def get(self, array: Any) -> np.ndarray:
        return np.array(array, order="C")

    def spec(self, array: Any) -> TensorSpec:
        return TensorSpec(array.shape, dtype(array.dtype))

    @np.errstate(all="ignore")
    def run(
        self,
        primitive: Primitive,
        arrays: Sequence[Any],
        parameters: Mapping[str, Any],
        device: Device,
    ) -> Any:
        result = self.implementation(primitive, device)(*arrays, **parameters)
        if type(result) is np.ndarray:
            return result
        if primitive.multiple_outputs:
            return tuple(map(np.asarray, result))
        return np.asarray(result)  # NumPy turns results without axes into scalars

    def compile(
        self,
        graph: Graph,
        device: Device,
        *,
        donate: frozenset[int] = frozenset(),
        options: CompileOptions | None = None,
    ) -> Executable:
        return NumpyExecutable(
            graph, device, lambda node: self.implementation(node.primitive, device)
        )

    def memory(self, device: Device) -> MemoryStatistics:
        return host.process_memory()

    def reset_peak_memory(self, device: Device) -> None:
        host.reset_peak_memory()

    def copy(self, array: Any, device: Device) -> Any:
        return np.array(array, order="C")

    def device_of(self, array: Any) -> Device:
        return _DEVICE

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray | np.generic)
