"""Functions that create tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from accelkit import dtypes
from accelkit.arguments import require_finite
from accelkit.device import Device
from accelkit.device import device as find_device
from accelkit.dispatch import bind
from accelkit.dtypes import DType
from accelkit.errors import DTypeError, OptionError, ShapeError
from accelkit.ops.coercion import as_number, as_shape, asarray, require_dtype, tensor
from accelkit.ops.properties import result_type
from accelkit.primitives import elementwise, shaping
from accelkit.tensor import Tensor

DeviceLike = str | Device | None


def _create(
    shape: Any, value: bool | int | float, dtype: DType | str | None, device: DeviceLike
) -> Tensor:
    chosen = dtypes.default_float if dtype is None else dtypes.dtype(dtype)
    target = None if device is None else find_device(device)
    require_dtype(chosen, target)
    parameters = {"shape": as_shape(shape), "value": as_number(value, chosen), "dtype": chosen}
    result: Tensor = bind(shaping.full, (), parameters, target)
    return result


def zeros(shape: Any, *, dtype: DType | str | None = None, device: DeviceLike = None) -> Tensor:
    """Zeros, float32 by default."""
    return _create(shape, 0, dtype, device)


def ones(shape: Any, *, dtype: DType | str | None = None, device: DeviceLike = None) -> Tensor:
    """Ones, float32 by default."""
    return _create(shape, 1, dtype, device)


def empty(shape: Any, *, dtype: DType | str | None = None, device: DeviceLike = None) -> Tensor:
    """A tensor of unspecified content (here zeros: programs stay reproducible)."""
    return _create(shape, 0, dtype, device)


def full(
    shape: Any,
    fill_value: bool | int | float,
    *,
    dtype: DType | str | None = None,
    device: DeviceLike = None,
) -> Tensor:
    """One number everywhere; the dtype is by default that of the number.

    Raises:
        DTypeError: if the number is of another kind than the dtype, or out of its range.
    """
    chosen = result_type(fill_value) if dtype is None else dtype
    return _create(shape, fill_value, chosen, device)


def _like(
    x: Tensor, value: bool | int | float, dtype: DType | str | None, device: DeviceLike
) -> Tensor:
    x = tensor(x)
    target = device if device is not None or x.is_traced else x.device
    return _create(x.shape, value, dtype or x.dtype, target)


def zeros_like(
    x: Tensor, /, *, dtype: DType | str | None = None, device: DeviceLike = None
) -> Tensor:
    """Zeros of the shape, dtype and device of x."""
    return _like(x, 0, dtype, device)


def ones_like(
    x: Tensor, /, *, dtype: DType | str | None = None, device: DeviceLike = None
) -> Tensor:
    """Ones of the shape, dtype and device of x."""
    return _like(x, 1, dtype, device)


def empty_like(
    x: Tensor, /, *, dtype: DType | str | None = None, device: DeviceLike = None
) -> Tensor:
    """Unspecified content of the shape, dtype and device of x (here zeros)."""
    return _like(x, 0, dtype, device)


def full_like(
    x: Tensor,
    /,
    fill_value: bool | int | float,
    *,
    dtype: DType | str | None = None,
    device: DeviceLike = None,
) -> Tensor:
    """One number everywhere, of the shape, dtype and device of x."""
    return _like(x, fill_value, dtype, device)


def _iota(shape: Any, axis: int, dtype: DType, device: DeviceLike) -> Tensor:
    target = None if device is None else find_device(device)
    require_dtype(dtype, target)
    parameters = {"shape": as_shape(shape), "axis": axis, "dtype": dtype}
    result: Tensor = bind(shaping.iota, (), parameters, target)
    return result


def arange(
    start: int | float,
    /,
    stop: int | float | None = None,
    step: int | float = 1,
    *,
    dtype: DType | str | None = None,
    device: DeviceLike = None,
) -> Tensor:
    """Evenly spaced numbers from start (0 if only one number is given) up to, not including, stop.

    Raises:
        OptionError: if step is 0.
    """
    chosen = _range_dtype(start, stop, step) if dtype is None else dtypes.dtype(dtype)
    start, step = _finite("start", start), _finite("step", step)
    first, last = (0, start) if stop is None else (start, _finite("stop", stop))
    if step == 0:
        raise OptionError("arange needs a step other than 0.")
    if all(isinstance(n, int) for n in (first, last, step)):
        return _integer_range(range(int(first), int(last), int(step)), chosen, device)
    count = max(0, math.ceil((last - first) / step))
    return asarray((np.arange(count) * step + first).astype(chosen.numpy), device=device)


def _range_dtype(*numbers: Any) -> DType:
    return result_type(0, *(n for n in numbers if n is not None))


def _finite(name: str, value: Any) -> Any:
    """A bound or step of arange; a tensor of one element is read."""
    number = value.item() if isinstance(value, Tensor | np.generic) else value
    require_finite(name, number)
    return number


def _integer_range(numbers: range, dtype: DType, device: DeviceLike) -> Tensor:
    if dtype is dtypes.bool_:
        raise DTypeError("arange counts: it has no bool form.")
    for extreme in {*numbers[:1], *numbers[-1:]}:
        as_number(extreme, dtype)
    if dtype.kind != "i" or abs(numbers.step) > np.iinfo(dtype.numpy).max:
        return asarray(np.array(numbers, np.int64).astype(dtype.numpy), device=device)
    index = _iota((len(numbers),), 0, dtype, device)
    scaled = index if numbers.step == 1 else index * numbers.step
    return scaled if numbers.start == 0 or not numbers else scaled + numbers.start


def linspace(
    start: int | float,
    stop: int | float,
    /,
    num: int,
    *,
    dtype: DType | str | None = None,
    device: DeviceLike = None,
    endpoint: bool = True,
) -> Tensor:
    """num evenly spaced numbers from start to stop, stop included unless endpoint is False.

    Raises:
        OptionError: for a negative number of elements.
    """
    chosen = dtypes.default_float if dtype is None else dtypes.dtype(dtype)
    if num < 0:
        raise OptionError(f"linspace needs a number of at least 0, got {num}.")
    values = np.linspace(start, stop, num, endpoint=endpoint)
    return asarray(values.astype(chosen.numpy), device=device)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: DType | str | None = None,
    device: DeviceLike = None,
) -> Tensor:
    """Ones on diagonal k, zeros elsewhere."""
    chosen = dtypes.default_float if dtype is None else dtypes.dtype(dtype)
    shape = (n_rows, n_rows if n_cols is None else n_cols)
    rows = _iota(shape, 0, dtypes.int64, device)
    columns = _iota(shape, 1, dtypes.int64, device)
    return elementwise.cast(elementwise.equal(rows + k, columns), dtype=chosen)


def _triangle(x: Tensor, k: int, *, lower: bool) -> Tensor:
    x = tensor(x)
    if x.ndim < 2:
        raise ShapeError(f"tril and triu need at least two axes, got shape {x.shape}.")
    target = None if x.is_traced else x.device
    rows = _iota(x.shape[-2:], 0, dtypes.int64, target)
    columns = _iota(x.shape[-2:], 1, dtypes.int64, target)
    compare = elementwise.less_equal if lower else elementwise.greater_equal
    keep = compare(columns, rows + k)
    zero = _create((), 0, x.dtype, target)
    return elementwise.select(keep, x, zero)


def tril(x: Tensor, /, *, k: int = 0) -> Tensor:
    """The lower triangles of a stack of matrices; zeros above diagonal k."""
    return _triangle(x, k, lower=True)


def triu(x: Tensor, /, *, k: int = 0) -> Tensor:
    """The upper triangles of a stack of matrices; zeros below diagonal k."""
    return _triangle(x, k, lower=False)


def meshgrid(*arrays: Tensor, indexing: str = "xy") -> list[Tensor]:
    """Coordinate tensors from coordinate vectors.

    Raises:
        OptionError: if ``indexing`` is neither ``"xy"`` nor ``"ij"``.
        DTypeError: for vectors of different dtypes.
    """
    from accelkit.ops.manipulation import broadcast_arrays, reshape, swap_axes

    if indexing not in ("xy", "ij"):
        raise OptionError(f"indexing must be 'xy' or 'ij', got {indexing!r}.")
    vectors = [tensor(a) for a in arrays]
    if len({v.dtype for v in vectors}) > 1:
        raise DTypeError("meshgrid needs vectors of one dtype.")
    count = len(vectors)
    grid = broadcast_arrays(
        *(
            reshape(v, tuple(v.size if i == axis else 1 for i in range(count)))
            for axis, v in enumerate(vectors)
        )
    )
    return [swap_axes(g, 0, 1) for g in grid] if indexing == "xy" and count > 1 else grid


def one_hot(labels: Tensor, classes: int, *, dtype: DType | str | None = None) -> Tensor:
    """Integer labels (...) as rows (..., classes) with a one at the label, zeros elsewhere.

    Raises:
        DTypeError: for labels that are not integers.
    """
    x = tensor(labels)
    if not x.dtype.is_integer:
        raise DTypeError(f"one_hot needs integer labels, got {x.dtype}.")
    if x.dtype.bits < 32:  # too narrow to count the classes
        x = elementwise.cast(x, dtype=dtypes.int32)
    chosen = dtypes.default_float if dtype is None else dtypes.dtype(dtype)
    target = None if x.is_traced else x.device
    index = _iota((*x.shape, classes), x.ndim, x.dtype, target)
    hit = elementwise.equal(shaping.reshape(x, shape=(*x.shape, 1)), index)
    return elementwise.cast(hit, dtype=chosen)
