"""The tensor: one immutable class for every backend.

A tensor holds either a native array of its device's backend (*eager*), or a value of a graph
that is being traced. Its names and semantics are those of the Python Array API standard, 2024.12
(https://data-apis.org/array-api/2024.12); the functions are those of the :mod:`accelkit`
namespace.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from accelkit import registry
from accelkit.backend import translated
from accelkit.device import current_device
from accelkit.device import device as find_device
from accelkit.dtypes import DType
from accelkit.errors import AccelkitError, DTypeError, OptionError, ShapeError, TraceError
from accelkit.graph import TensorSpec, Value
from accelkit.tensor_methods import TensorMethods
from accelkit.tracing import leaked

if TYPE_CHECKING:
    from accelkit.backend import Backend
    from accelkit.device import Device
    from accelkit.tracing import Trace

__all__ = ["Tensor"]


class Tensor(TensorMethods):
    """An immutable array on a device, or the trace of one. Create it with :func:`asarray`.

    Example:
        >>> import accelkit as ak
        >>> x = ak.asarray([[1.0, 2.0], [3.0, 4.0]])
        >>> (x @ x.T).numpy().tolist()
        [[5.0, 11.0], [11.0, 25.0]]
    """

    __slots__ = ("__weakref__", "_device", "_native", "_spec", "_trace", "_value")
    __array_ufunc__ = None  # NumPy's operators refuse tensors instead of copying them to the host
    _native: Any
    _device: Device | None
    _spec: TensorSpec | None
    _value: Value | None
    _trace: Trace | None

    def __init__(self, *_: Any, **__: Any) -> None:
        raise AccelkitError(
            "Tensors are created by functions: accelkit.asarray(data), accelkit.zeros(shape), "
            "accelkit.from_native(array)."
        )

    @staticmethod
    def _eager(native: Any, device: Device, spec: TensorSpec | None = None) -> Tensor:
        self = _new(Tensor)
        self._native = native
        self._device = device
        self._spec = spec
        self._value = self._trace = None
        return self

    @staticmethod
    def _traced(value: Value, trace: Trace) -> Tensor:
        self = _new(Tensor)
        self._native = self._device = None
        self._spec = value.spec
        self._value = value
        self._trace = trace
        return self

    # --- what it is ---------------------------------------------------------------------------

    @property
    def spec(self) -> TensorSpec:
        """Shape and dtype."""
        found = self._spec
        if found is None:
            assert self._device is not None
            found = self._spec = registry.backend(self._device.backend).spec(self._native)
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of each axis."""
        return self.spec.shape

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self.spec.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.spec.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.spec.size

    @property
    def device(self) -> Device:
        """The device that holds the data, or for which the program is traced."""
        if self._device is not None:
            return self._device
        assert self._trace is not None
        return self._trace.device or current_device()

    @property
    def is_traced(self) -> bool:
        """Whether this stands for a value of a graph and holds no data."""
        return self._trace is not None

    @property
    def native(self) -> Any:
        """The framework's own array: the escape hatch.

        Raises:
            TraceError: for a traced tensor.
        """
        self._require_data("`.native`")
        return self._native

    # --- getting data out -----------------------------------------------------------------------

    def _require_data(self, what: str) -> None:
        if self._trace is None:
            return
        if self._trace.closed:
            raise leaked(self)
        raise TraceError(
            f"{what} needs the data of a traced tensor ({self.spec}), which has none: the program "
            f"{self._trace.name!r} is being traced with shapes only. For a choice that depends on "
            f"data use accelkit.where or accelkit.cond; for a loop, accelkit.scan."
        )

    def _backend(self, what: str) -> Backend:
        """The backend that holds the data."""
        self._require_data(what)
        assert self._device is not None
        return registry.backend(self._device.backend)

    def numpy(self) -> np.ndarray:
        """A copy of the data as a NumPy array, waiting for the device.

        Raises:
            TraceError: for a traced tensor.
        """
        backend = self._backend("`.numpy()`")
        with translated(backend):
            return backend.get(self._native)

    def item(self) -> bool | int | float:
        """The only element as a Python number.

        Raises:
            ShapeError: if there is not exactly one.
            TraceError: for a traced tensor.
        """
        result: bool | int | float = self._number("a number", "Reading a value")
        return result

    def tolist(self) -> Any:
        """The data as nested lists of Python numbers."""
        return self.numpy().tolist()

    def to(self, device: str | Device, *, copy: bool | None = None) -> Tensor:
        """The same data on another device (itself, if it is there already).

        Raises:
            DeviceError, UnknownNameError: if there is no such device.
        """
        target = find_device(device)
        if target is self.device and not copy:
            return self
        self._require_data("Moving to another device")
        backend = registry.backend(target.backend)
        with translated(backend):
            if target is self._device:
                return Tensor._eager(backend.copy(self._native, target), target)
            return Tensor._eager(backend.put(self.numpy(), target), target)

    to_device = to

    def block_until_ready(self) -> Tensor:
        """Wait until the data is computed; returns the tensor."""
        self._backend("Waiting").synchronize(self.device)
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("A tensor gives NumPy a copy of its data; copy=False refuses it.")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def __dlpack__(self, **options: Any) -> Any:
        return self._backend("DLPack export").to_dlpack(self._native, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._backend("DLPack export").dlpack_device(self._native)

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[np.ndarray, Device]]:
        self._require_data("Pickling")
        return _restored, (self.numpy(), self.device)

    def __copy__(self) -> Tensor:
        return self  # immutable

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        self._require_data("Copying")
        return self.to(self.device, copy=True)

    def __array_namespace__(self, *, api_version: str | None = None) -> ModuleType:
        import accelkit

        if api_version not in (None, accelkit.__array_api_version__):
            raise OptionError(
                f"accelkit follows version {accelkit.__array_api_version__} of the Array API "
                f"standard, not {api_version}."
            )
        return accelkit

    def _number(self, kind: str, what: str | None = None) -> Any:
        self._require_data(what or f"Python control flow or {kind}()")
        if self.size != 1:
            raise ShapeError(
                f"Only a tensor with one element converts to {kind}, got shape {self.shape}."
            )
        return self.numpy().item()

    def __bool__(self) -> bool:
        return bool(self._number("bool"))

    def __int__(self) -> int:
        return int(self._number("int"))

    def __float__(self) -> float:
        return float(self._number("float"))

    def __index__(self) -> int:
        if not self.dtype.is_integer:
            raise DTypeError(f"Only an integer tensor is an index, got {self.dtype}.")
        return operator.index(self._number("index"))

    def __complex__(self) -> complex:
        return complex(self._number("complex"))

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("A tensor of shape () has no length.")
        return self.shape[0]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        if self._trace is not None:
            return f"<traced Tensor {self.spec}>"
        data = np.array2string(self.numpy(), separator=", ", threshold=20, prefix="Tensor(")
        return f"Tensor({data}, dtype={self.dtype}, device={str(self.device)!r})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    if not TYPE_CHECKING:  # type checkers know what attributes there are

        def __getattr__(self, name: str) -> NoReturn:
            from accelkit.foreign_names import missing_from_tensor

            raise AttributeError(missing_from_tensor(name), name=name, obj=self)


_new = object.__new__


def _restored(array: np.ndarray, device: Device) -> Tensor:
    """A tensor out of its pickle: on the device that it came from."""
    from accelkit.ops import asarray

    return asarray(array, device=device)
