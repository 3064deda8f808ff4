"""Turning what users pass into tensors of one dtype on one device."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from accelkit import dtypes, registry
from accelkit.backend import Backend, translated
from accelkit.device import Device, current_device
from accelkit.device import device as find_device
from accelkit.dispatch import bind
from accelkit.dtypes import DType
from accelkit.errors import DeviceMismatchError, DTypeError, OptionError, ShapeError
from accelkit.primitives import elementwise, shaping
from accelkit.tensor import Tensor
from accelkit.tracing import activate, active_trace

Scalar = bool | int | float
_PYTHON_NUMBERS = (bool, int, float)  # a tuple: asking for a union takes four times as long
ArrayLike = Any

_HOST_DATA = (np.ndarray, np.generic, list, tuple, bool, int, float)

_MOST_ELEMENTS = 2**60  # whose bytes an address of 64 bits still counts
_CONSTANT_LIMIT = 4096  # elements; larger arrays become inputs of a traced program


def as_shape(shape: Any) -> tuple[int, ...]:
    """A shape from a tuple, a list or a number.

    Raises:
        ShapeError: if an extent is negative or no integer, or no address reaches all elements.
    """
    extents = shape if isinstance(shape, tuple | list) else (shape,)
    try:
        result = tuple(operator.index(n) for n in extents)
    except TypeError:
        raise ShapeError(f"A shape holds integers, got {shape!r}.") from None
    if any(n < 0 for n in result):
        raise ShapeError(f"A shape holds no negative extents, got {shape!r}.")
    if math.prod(n for n in result if n) >= _MOST_ELEMENTS:
        raise ShapeError(f"A tensor holds fewer than 2^60 elements, got the shape {shape!r}.")
    return result


def as_axis(axis: int, ndim: int) -> int:
    """A non-negative axis.

    Raises:
        ShapeError: if there is no such axis.
    """
    try:
        index = operator.index(axis)
    except TypeError:
        raise ShapeError(f"An axis is an integer, got {axis!r}.") from None
    if not -ndim <= index < ndim:
        raise ShapeError(f"Axis {axis} does not exist: the tensor has {ndim} axes.")
    return index % ndim


def as_axes(axis: int | tuple[int, ...] | list[int] | None, ndim: int) -> tuple[int, ...]:
    """Sorted non-negative axes; all of them for None.

    Raises:
        ShapeError: if one does not exist or stands twice.
    """
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, tuple | list) else (axis,)
    axes = sorted(as_axis(a, ndim) for a in given)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"Axes {axis} name one axis twice.")
    return tuple(axes)


_scalar_cache: dict[Any, Tensor] = {}


def scalar(value: Scalar, dtype: DType, device: Device | None) -> Tensor:
    """A tensor of shape () on the device; the same one again for the same number."""
    if active_trace() is not None:
        return _full_scalar(value, dtype, None)
    # The text of a zero tells -0.0 from 0.0.
    key = (value or str(value), type(value), dtype.name, device)
    found = _scalar_cache.get(key)
    if found is None:
        if len(_scalar_cache) > 4096:
            _scalar_cache.clear()
        found = _scalar_cache[key] = _full_scalar(value, dtype, device)
    return found


def _full_scalar(value: Scalar, dtype: DType, device: Device | None) -> Tensor:
    parameters = {"shape": (), "value": as_number(value, dtype), "dtype": dtype}
    result: Tensor = bind(shaping.full, (), parameters, device)
    return result


def as_number(value: Any, dtype: DType) -> Scalar:
    """The Python number of a dtype's kind that a tensor is to be filled with.

    Raises:
        DTypeError: if it is no number, of another kind, or outside of the dtype's range.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if dtype.kind == "f" and isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            raise DTypeError(f"{value} is too large for {dtype}.") from None
    if dtype.kind == "b" and (isinstance(value, bool) or value in (0, 1)):
        return bool(value)
    if dtype.is_integer and isinstance(value, bool | int):
        limits = np.iinfo(dtype.numpy)
        if not limits.min <= value <= limits.max:
            raise DTypeError(
                f"{value} does not fit {dtype}, which holds {limits.min} to {limits.max}."
            )
        return int(value)
    raise DTypeError(f"The {type(value).__name__} {value!r} does not fit a tensor of {dtype}.")


def scalar_like(value: Scalar, tensor: Tensor) -> Tensor:
    """A Python number as a tensor of the dtype of the tensor beside it.

    Raises:
        DTypeError: if its kind does not fit.
    """
    if not isinstance(value, _PYTHON_NUMBERS):
        if isinstance(value, np.generic):
            value = value.item()
        else:
            raise DTypeError(
                f"Expected a Tensor or a Python number, got {type(value).__name__}. Convert it "
                f"with accelkit.asarray."
            )
    dtype = dtypes.promote_scalar(tensor.dtype, value)
    return scalar(value, dtype, None if tensor._trace is not None else tensor._device)


def cast(x: Tensor, dtype: DType) -> Tensor:
    """The tensor in another dtype; itself if it has it already.

    Raises:
        DTypeError: if the device has no such dtype.
    """
    if x.dtype is dtype:
        return x
    require_dtype(dtype, x._device)
    return elementwise.cast(x, dtype=dtype)


def require_dtype(dtype: DType, device: Device | None) -> None:
    """Refuse a dtype that tensors on a device cannot have.

    Args:
        dtype: The element type.
        device: The device; None for that of the active trace, else the default one.

    Raises:
        DTypeError: naming the dtypes that it has.
    """
    trace = active_trace()
    place = trace.device if trace is not None else device or current_device()
    if place is None:
        return  # not known yet: compiling will tell
    names = registry.backend(place.backend).dtype_names(place)
    if dtype.name not in names:
        raise DTypeError(f"{place} has no {dtype}. It has: {', '.join(sorted(names))}.")


def pair(a: ArrayLike, b: ArrayLike) -> tuple[Tensor, Tensor]:
    """Two operands in their common dtype; at least one of them is a tensor."""
    if type(a) is Tensor and type(b) is Tensor:
        da, db = a.dtype, b.dtype
        if da is db:
            return a, b
        dtype = dtypes.promote(da, db)
        return cast(a, dtype), cast(b, dtype)
    if type(a) is Tensor:
        return a, scalar_like(b, a)
    if type(b) is Tensor:
        return scalar_like(a, b), b
    raise DTypeError(
        f"Expected at least one Tensor, got {type(a).__name__} and {type(b).__name__}. Convert "
        f"one with accelkit.asarray."
    )


def tensor(x: ArrayLike) -> Tensor:
    """The operand itself, or a new tensor of it."""
    return x if type(x) is Tensor else asarray(x)


def floating(x: ArrayLike, name: str) -> Tensor:
    """A floating tensor.

    Raises:
        DTypeError: for other kinds, which the standard does not convert silently.
    """
    t = tensor(x)
    if not t.dtype.is_floating:
        raise DTypeError(
            f"{name} needs a floating tensor, got {t.dtype}. Convert it with `.astype('float32')`."
        )
    return t


def on_host(name: str, function: Callable[..., np.ndarray], *operands: Tensor) -> Tensor:
    """A function of NumPy arrays, on tensors of one device; the result goes back to it.

    Raises:
        TraceError: in a trace: a program cannot leave its device.
        DeviceMismatchError: if the operands live on different devices.
    """
    for x in operands:
        x._require_data(name)
    for x in operands[1:]:
        if x.device is not operands[0].device:
            raise DeviceMismatchError(
                f"{name} got tensors on different devices: {operands[0].device} and {x.device}. "
                f"Move one of them with `.to(device)`."
            )
    return put(np.asarray(function(*(x.numpy() for x in operands))), operands[0].device)


def asarray(
    obj: ArrayLike,
    /,
    *,
    dtype: DType | str | None = None,
    device: str | Device | None = None,
    copy: bool | None = None,
) -> Tensor:
    """A tensor of the given data.

    Args:
        obj: A Tensor, a NumPy array, a number, nested lists of numbers, a native array of an
            installed backend, or any object with ``__dlpack__``.
        dtype: The element type; by default that of the data, float32 for Python floats and
            int64 for Python integers.
        device: Where it goes; by default where it is, and the default device for host data.
        copy: False to refuse a copy.

    Raises:
        DTypeError: if it holds no numbers, or Python numbers that the dtype cannot hold.
        ShapeError: if lists are ragged.
        OptionError: if ``copy=False`` cannot be had.
    """
    wanted = None if dtype is None else dtypes.dtype(dtype)
    if isinstance(obj, Tensor):
        moved = obj if device is None else obj.to(device)
        result = cast(moved, wanted) if wanted else moved
        if copy is False and result is not obj:
            raise OptionError("asarray(copy=False) cannot change the dtype or the device.")
        if copy and result is obj and not obj.is_traced:
            return obj.to(obj.device, copy=True)
        return result
    target = None if device is None else find_device(device)
    if not isinstance(obj, _HOST_DATA) and (hasattr(obj, "__dlpack__") or owning_backend(obj)):
        imported = from_dlpack(obj, device=target, copy=copy)
        return cast(imported, wanted) if wanted else imported
    if copy is False:
        raise OptionError("asarray(copy=False) of host data is not possible: it goes to a device.")
    array = _host_array(obj, wanted)
    if active_trace() is not None:
        return _traced_constant(array, target)
    return put(array, target or current_device())


def _host_array(obj: ArrayLike, dtype: DType | None) -> np.ndarray:
    if isinstance(obj, list | tuple) and any(isinstance(item, Tensor) for item in obj):
        raise DTypeError("asarray got a list of tensors. Join them with accelkit.stack instead.")
    try:
        array = np.asarray(obj)
    except ValueError as error:
        raise ShapeError(f"The data is no regular array: {error}") from error
    if dtype is None and not isinstance(obj, np.ndarray | np.generic):
        kinds = {"f": dtypes.default_float, "i": dtypes.default_int}
        default = kinds.get(array.dtype.kind)
        dtype = default if array.size or default else dtypes.default_float
    if array.dtype.kind in "OSUMm":
        raise DTypeError(
            f"asarray takes numbers of up to 64 bits, nested lists of them, arrays and tensors, "
            f"got {type(obj).__name__} ({array.dtype})."
        )
    target = dtype or dtypes.dtype(array.dtype)
    if target.is_integer and array.size and not isinstance(obj, np.ndarray | np.generic):
        for extreme in (array.min().item(), array.max().item()):
            as_number(int(extreme) if math.isfinite(extreme) else extreme, target)
    with np.errstate(over="ignore"):  # too large for a narrower float: infinite
        return array.astype(target.numpy, copy=False)


def _traced_constant(array: np.ndarray, device: Device | None) -> Tensor:
    """An array inside a trace: part of the program if small, otherwise an extra input."""
    trace = active_trace()
    assert trace is not None
    if array.size <= _CONSTANT_LIMIT:
        result: Tensor = shaping.constant(value=shaping.ConstantArray(array.copy()))
        return result
    with activate(None):
        return put(array, device or trace.device or current_device())


def put(array: np.ndarray, device: Device) -> Tensor:
    """A host array on a device.

    Raises:
        DTypeError: if the device has no such dtype.
    """
    backend = registry.backend(device.backend)
    found = dtypes.dtype(array.dtype)
    names = backend.dtype_names(device)
    if found.name not in names:
        raise DTypeError(f"{device} has no {found}. It has: {', '.join(sorted(names))}.")
    with translated(backend):
        return Tensor._eager(backend.put(array, device), device)


def from_dlpack(
    x: Any, /, *, device: str | Device | None = None, copy: bool | None = None
) -> Tensor:
    """A tensor of any object with ``__dlpack__``, without a copy where the memory is shared.

    An array of an installed backend stays where it is; other objects are imported by the default
    device's backend, or by that of ``device``. A tensor that shares its memory changes if the
    other side writes to it.

    Args:
        x: The object.
        device: Where the tensor is to be.
        copy: True for memory of its own, False to refuse a copy, None for what is cheapest.

    Raises:
        OptionError: if ``copy=False`` cannot be had.
        DTypeError: for an object without ``__dlpack__``.
    """
    target = None if device is None else find_device(device)
    if isinstance(x, Tensor):
        return asarray(x, device=target, copy=copy)
    owner = owning_backend(x)
    if owner is not None and (target is None or target is owner.device_of(x)):
        shared = from_native(x)
        return asarray(shared, copy=True) if copy else shared
    if owner is None and not hasattr(x, "__dlpack__"):
        raise DTypeError(f"from_dlpack needs an object with __dlpack__, got {type(x).__name__}.")
    target = target or current_device()
    backend = registry.backend(target.backend)
    load = backend.share_dlpack if copy is False else backend.from_dlpack
    with activate(None), translated(backend):
        if copy is not False and owner is not None and not _travels_by_dlpack(x):
            return from_native(x).to(target)
        imported = Tensor._eager(load(x, target), target)
        return asarray(imported, copy=True) if copy else imported


_HOST_MEMORY = 1  # DLPack's kDLCPU


def _travels_by_dlpack(array: Any) -> bool:
    """Whether every backend can take over this array of another one."""
    in_host_memory = hasattr(array, "__dlpack__") and array.__dlpack_device__()[0] == _HOST_MEMORY
    return in_host_memory and "bfloat16" not in str(array.dtype)  # NumPy's DLPack has none


def owning_backend(array: object) -> Backend | None:
    """The backend whose own array this is; None if none.

    Loaded backends are asked first, then those whose name occurs in that of the array's package
    (``jaxlib``, ``pyopencl``): no other framework is imported to find out.
    """
    package = type(array).__module__.partition(".")[0]
    names = registry.backend_names()
    for name in [n for n in names if registry.is_loaded(n)]:
        if registry.backend(name).owns(array):
            return registry.backend(name)
    for name in [n for n in names if n in package and not registry.is_loaded(n)]:
        backend = registry.backend(name)
        if backend.owns(array):
            return backend
    return None


def from_native(array: Any) -> Tensor:
    """A tensor around a framework's own array, without a copy.

    Raises:
        DTypeError: if no installed backend knows the array's type.
    """
    backend = owning_backend(array)
    if backend is None:
        raise DTypeError(
            f"{type(array).__module__}.{type(array).__name__} is no array of a registered backend "
            f"({', '.join(registry.backend_names())}). Use accelkit.asarray."
        )
    return Tensor._eager(array, backend.device_of(array))
