"""The tensor: one immutable class for every backend.

A tensor holds either a native array of its device's backend (*eager*), or a value of a graph
that is being traced. Its names and semantics are those of the Python Array API standard, 2024.12
(https://data-apis.org/array-api/2024.12); the functions are those of the :mod:`accelkit`
namespace.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from accelkit import registry
from accelkit.backend import translated
from accelkit.device import current_device
from accelkit.device import device as find_device
from accelkit.dtypes import DType
from accelkit.errors import AccelkitError, DTypeError, OptionError, ShapeError, TraceError
from accelkit.graph import TensorSpec, Value
from accelkit.tracing import leaked

if TYPE_CHECKING:
    from accelkit.device import Device
    from accelkit.tracing import Trace

__all__ = ["Tensor"]

_NUMBERS = (bool, int, float, np.generic)
_Operator = Callable[["Tensor", Any], "Tensor"]


@functools.cache
def _ops() -> ModuleType:
    from accelkit import ops

    return ops


def _method(name: str) -> Callable[..., Tensor]:
    """A method that calls the function of this name with the tensor first."""

    def method(self: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return _function(name)(self, *arguments, **options)

    method.__name__ = name
    method.__doc__ = f"See :func:`accelkit.{name}`."
    return method


def _reduction(name: str) -> Callable[..., Tensor]:
    """As :func:`_method`; the axis may be given by position, as in NumPy."""

    def method(self: Tensor, axis: Any = None, **options: Any) -> Tensor:
        return _function(name)(self, axis=axis, **options)

    method.__name__ = name
    method.__doc__ = f"See :func:`accelkit.{name}`."
    return method


def _forward(name: str) -> Callable[[Tensor, Any], Tensor]:
    """The operator that calls the function of this name; it refuses what is no number."""

    def operate(self: Tensor, other: Any) -> Tensor:
        if type(other) is Tensor or isinstance(other, _NUMBERS):
            return _function(name)(self, other)
        return _refused(other)  # type: ignore[no-any-return]

    return operate


def _reflected(name: str) -> Callable[[Tensor, Any], Tensor]:
    """As :func:`_forward`, for a tensor on the right-hand side."""

    def operate(self: Tensor, other: Any) -> Tensor:
        if isinstance(other, _NUMBERS):
            return _function(name)(other, self)
        return _refused(other)  # type: ignore[no-any-return]

    return operate


def _refused(other: Any) -> Any:
    """Python's own answer to an operand that is no number; NumPy's would mislead."""
    if isinstance(other, np.ndarray):
        raise DTypeError(
            f"A NumPy array of shape {other.shape} stands beside a tensor. Put it on the tensor's "
            f"device first: accelkit.asarray(array, device=tensor.device)."
        )
    return NotImplemented


@functools.cache
def _function(name: str) -> Callable[..., Tensor]:
    found: Callable[..., Tensor] = getattr(_ops(), name)
    return found


class Tensor:
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

    def numpy(self) -> np.ndarray:
        """A copy of the data as a NumPy array, waiting for the device.

        Raises:
            TraceError: for a traced tensor.
        """
        self._require_data("`.numpy()`")
        assert self._device is not None
        backend = registry.backend(self._device.backend)
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
        self._require_data("Waiting")
        assert self._device is not None
        registry.backend(self._device.backend).synchronize(self._device)
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("A tensor gives NumPy a copy of its data; copy=False refuses it.")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def __dlpack__(self, **options: Any) -> Any:
        self._require_data("DLPack export")
        assert self._device is not None
        return registry.backend(self._device.backend).to_dlpack(self._native, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        self._require_data("DLPack export")
        assert self._device is not None
        return registry.backend(self._device.backend).dlpack_device(self._native)

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[np.ndarray, Device]]:
        self._require_data("Pickling")
        assert self._device is not None
        return _restored, (self.numpy(), self._device)

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

    # --- arithmetic -----------------------------------------------------------------------------

    __add__: ClassVar[_Operator] = _forward("add")
    __radd__: ClassVar[_Operator] = _reflected("add")
    __sub__: ClassVar[_Operator] = _forward("subtract")
    __rsub__: ClassVar[_Operator] = _reflected("subtract")
    __mul__: ClassVar[_Operator] = _forward("multiply")
    __rmul__: ClassVar[_Operator] = _reflected("multiply")
    __truediv__: ClassVar[_Operator] = _forward("divide")
    __rtruediv__: ClassVar[_Operator] = _reflected("divide")
    __floordiv__: ClassVar[_Operator] = _forward("floor_divide")
    __rfloordiv__: ClassVar[_Operator] = _reflected("floor_divide")
    __mod__: ClassVar[_Operator] = _forward("remainder")
    __rmod__: ClassVar[_Operator] = _reflected("remainder")
    __pow__: ClassVar[_Operator] = _forward("pow")
    __rpow__: ClassVar[_Operator] = _reflected("pow")
    __and__: ClassVar[_Operator] = _forward("bitwise_and")
    __rand__: ClassVar[_Operator] = _reflected("bitwise_and")
    __or__: ClassVar[_Operator] = _forward("bitwise_or")
    __ror__: ClassVar[_Operator] = _reflected("bitwise_or")
    __xor__: ClassVar[_Operator] = _forward("bitwise_xor")
    __rxor__: ClassVar[_Operator] = _reflected("bitwise_xor")
    __lshift__: ClassVar[_Operator] = _forward("bitwise_left_shift")
    __rlshift__: ClassVar[_Operator] = _reflected("bitwise_left_shift")
    __rshift__: ClassVar[_Operator] = _forward("bitwise_right_shift")
    __rrshift__: ClassVar[_Operator] = _reflected("bitwise_right_shift")
    __matmul__: ClassVar[_Operator] = _forward("matmul")
    __rmatmul__: ClassVar[_Operator] = _reflected("matmul")
    __eq__: ClassVar[_Operator] = _forward("equal")  # type: ignore[assignment]
    __ne__: ClassVar[_Operator] = _forward("not_equal")  # type: ignore[assignment]
    __lt__: ClassVar[_Operator] = _forward("less")
    __le__: ClassVar[_Operator] = _forward("less_equal")
    __gt__: ClassVar[_Operator] = _forward("greater")
    __ge__: ClassVar[_Operator] = _forward("greater_equal")
    __neg__ = _method("negative")
    __pos__ = _method("positive")
    __abs__ = _method("abs")
    __invert__ = _method("bitwise_invert")
    __getitem__ = _method("getitem")

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise TypeError(
            "Tensors are immutable. Build a new one, for example with accelkit.where(mask, value, "
            "tensor) or accelkit.concat."
        )

    # --- shapes and reductions --------------------------------------------------------------------

    astype = _method("astype")
    flatten = _method("flatten")
    squeeze = _method("squeeze")
    expand_dims = _method("expand_dims")
    permute_dims = _method("permute_dims")
    swap_axes = _method("swap_axes")
    clip = _method("clip")
    abs = _method("abs")
    exp = _method("exp")
    log = _method("log")
    sqrt = _method("sqrt")
    square = _method("square")
    sum = _reduction("sum")
    mean = _reduction("mean")
    var = _reduction("var")
    std = _reduction("std")
    max = _reduction("max")
    min = _reduction("min")
    prod = _reduction("prod")
    all = _reduction("all")
    any = _reduction("any")
    argmax = _reduction("argmax")
    argmin = _reduction("argmin")

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements under another shape, given as a tuple or as numbers; -1 is deduced."""
        extents = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        result: Tensor = _ops().reshape(self, tuple(extents))
        return result

    @property
    def T(self) -> Tensor:
        """The transpose of a matrix."""
        return self._transposed("T", need_matrix=True)

    @property
    def mT(self) -> Tensor:
        """The transpose of each matrix in a stack: the last two axes swapped."""
        return self._transposed("mT", need_matrix=False)

    def _transposed(self, name: str, *, need_matrix: bool) -> Tensor:
        if self.ndim < 2 or (need_matrix and self.ndim != 2):
            expected = "two axes" if need_matrix else "at least two axes"
            raise ShapeError(f"`.{name}` needs {expected}, got shape {self.shape}.")
        axes = (*range(self.ndim - 2), self.ndim - 1, self.ndim - 2)
        result: Tensor = _ops().permute_dims(self, axes)
        return result


_new = object.__new__


def _restored(array: np.ndarray, device: Device) -> Tensor:
    """A tensor out of its pickle: on the device that it came from."""
    result: Tensor = _ops().asarray(array, device=device)
    return result
