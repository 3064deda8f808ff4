"""A third-party backend as small as it gets: NumPy under another name, and a wrong variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from accelkit_numpy.table import TABLE

from accelkit.backend import Backend, CompileOptions, Executable, Interpreter
from accelkit.device import Device, DeviceInfo
from accelkit.dtypes import dtype
from accelkit.graph import Graph, TensorSpec
from accelkit.primitives.primitive import PRIMITIVES


class ToyBackend(Backend):
    """Float32 and float64 on the host."""

    name: ClassVar[str] = "toy"
    table: Mapping[str, Callable[..., Any]] = {
        name: function for name, function in TABLE.items() if PRIMITIVES[name].definition is None
    }  # so every composite runs by its own definition
    capabilities = frozenset({"float64"})

    def devices(self) -> list[DeviceInfo]:
        return [DeviceInfo(Device(self.name), "a toy", None, f"numpy {np.__version__}")]

    def put(self, array: np.ndarray, device: Device) -> Any:
        return np.array(array)

    def get(self, array: Any) -> np.ndarray:
        return np.array(array)

    def spec(self, array: Any) -> TensorSpec:
        return TensorSpec(np.shape(array), dtype(array.dtype))

    @np.errstate(all="ignore")
    def run(self, primitive: Any, arrays: Any, parameters: Any, device: Device) -> Any:
        return super().run(primitive, arrays, parameters, device)

    def compile(
        self,
        graph: Graph,
        device: Device,
        *,
        donate: frozenset[int] = frozenset(),
        options: CompileOptions | None = None,
    ) -> Executable:
        return _Quiet(graph, device, lambda node: self.table[node.primitive.name])


class _Quiet(Interpreter):
    def __call__(self, arrays: Any) -> list[Any]:
        with np.errstate(all="ignore"):
            return super().__call__(arrays)


def _exp_slightly_off(x: Any) -> Any:
    return np.exp(x) * x.dtype.type(1.00001)


def _maximum_without_nan(a: Any, b: Any) -> Any:
    return np.fmax(a, b)


def _last_argmax(x: Any, *, axis: int) -> Any:
    return x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis=axis)


def _relu_drops_nan(x: Any) -> Any:
    return np.where(x > 0, x, x.dtype.type(0))


def _correlation_mirrored(x: Any, w: Any, **parameters: Any) -> Any:
    return TABLE["conv2d"](x, w[::-1, ::-1], **parameters)


def _sum_in_float32(x: Any, *, axes: Any) -> Any:
    if x.dtype.kind != "f":
        return TABLE["reduce_sum"](x, axes=axes)
    return np.sum(x.astype(np.float32), axis=axes).astype(x.dtype)


def _mask_of_another_stream(key: Any, *, shape: Any, rate: float, offset: int) -> Any:
    return TABLE["random_keep_mask"](key, shape=shape, rate=rate, offset=offset & 0xFFFFFFFF)


def _padding_too_far(x: Any, *, low: Any, high: Any, interior: Any, value: Any) -> Any:
    return TABLE["pad"](x, low=high, high=low, interior=interior, value=value)


def _refuses(x: Any, *, axis: int) -> Any:
    raise ValueError("no cumulative sums today")


WRONG: dict[str, Callable[..., Any]] = {
    "argmax": _last_argmax,
    "conv2d": _correlation_mirrored,
    "cumulative_sum": _refuses,
    "exp": _exp_slightly_off,
    "maximum": _maximum_without_nan,
    "pad": _padding_too_far,
    "random_keep_mask": _mask_of_another_stream,
    "reduce_sum": _sum_in_float32,
    "relu": _relu_drops_nan,
}


class WrongBackend(ToyBackend):
    """The toy with a subtle fault in each of a few primitives."""

    name: ClassVar[str] = "wrong"
    table: Mapping[str, Callable[..., Any]] = {**ToyBackend.table, **WRONG}
