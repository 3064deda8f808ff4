"""Reductions, statistics, sorting and searching."""

from __future__ import annotations

import builtins
import math
from typing import Any

from accelkit import dtypes
from accelkit.arguments import require_integer
from accelkit.dtypes import DType
from accelkit.errors import OptionError, ShapeError
from accelkit.ops.coercion import as_axes, as_axis, cast, floating, pair, scalar_like, tensor
from accelkit.ops.elementwise import isclose
from accelkit.ops.indexing import take
from accelkit.ops.manipulation import concat, expand_dims, pad, reshape
from accelkit.primitives import elementwise, reductions, shaping
from accelkit.primitives.primitive import Primitive
from accelkit.tensor import Tensor

Axis = int | tuple[int, ...] | None


def _reduce(primitive: Primitive[Tensor], x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    axes = as_axes(axis, x.ndim)
    result: Tensor = primitive(x, axes=axes)
    if keepdims:
        return reshape(result, tuple(1 if i in axes else n for i, n in enumerate(x.shape)))
    return result


def _sum_dtype(x: Tensor, dtype: DType | str | None) -> DType:
    """Integers and bool sum in 64 bits, as the standard says."""
    if dtype is not None:
        return dtypes.dtype(dtype)
    own = x.dtype
    if own.kind == "f":
        return own
    return dtypes.uint64 if own.kind == "u" else dtypes.int64


def sum(
    x: Tensor, /, *, axis: Axis = None, dtype: DType | str | None = None, keepdims: bool = False
) -> Tensor:
    """Sum over axes, all of them for None; 0 over nothing."""
    x = tensor(x)
    return _reduce(reductions.reduce_sum, cast(x, _sum_dtype(x, dtype)), axis, keepdims)


def prod(
    x: Tensor, /, *, axis: Axis = None, dtype: DType | str | None = None, keepdims: bool = False
) -> Tensor:
    """Product over axes, all of them for None; 1 over nothing."""
    x = tensor(x)
    return _reduce(reductions.reduce_product, cast(x, _sum_dtype(x, dtype)), axis, keepdims)


def max(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Maximum over axes; NaN if there is one."""
    return _reduce(reductions.reduce_max, tensor(x), axis, keepdims)


def min(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Minimum over axes; NaN if there is one."""
    return _reduce(reductions.reduce_min, tensor(x), axis, keepdims)


def _count(x: Tensor, axis: Axis) -> int:
    count = 1
    for a in as_axes(axis, x.ndim):
        count *= x.shape[a]
    return count


def mean(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Arithmetic mean over axes."""
    x = floating(x, "mean")
    (wide,) = reductions.widened(x)
    return cast(sum(wide, axis=axis, keepdims=keepdims) / float(_count(x, axis)), x.dtype)


def var(
    x: Tensor, /, *, axis: Axis = None, correction: int | float = 0.0, keepdims: bool = False
) -> Tensor:
    """Variance over axes: the sum of squared deviations by count - correction."""
    x = floating(x, "var")
    (wide,) = reductions.widened(x)
    deviation = wide - mean(wide, axis=axis, keepdims=True)
    total = sum(deviation * deviation, axis=axis, keepdims=keepdims)
    # With fewer elements than the correction asks for there is no estimate: inf or NaN.
    return cast(total / builtins.max(float(_count(x, axis) - correction), 0.0), x.dtype)


def std(
    x: Tensor, /, *, axis: Axis = None, correction: int | float = 0.0, keepdims: bool = False
) -> Tensor:
    """Standard deviation over axes: the square root of :func:`var`."""
    return elementwise.sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims))


def logsumexp(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over axes without overflow; its derivative is the softmax.

    Raises:
        ShapeError: over an axis of extent 0.
    """
    x = floating(x, "logsumexp")
    (wide,) = reductions.widened(x)
    highest = elementwise.stop_gradient(max(wide, axis=axis, keepdims=True))
    zero = scalar_like(0.0, wide)
    shift = elementwise.select(elementwise.is_finite(highest), highest, zero)
    total = elementwise.log(sum(elementwise.exp(wide - shift), axis=axis, keepdims=True)) + shift
    axes = as_axes(axis, x.ndim)
    kept = tuple(n for i, n in enumerate(total.shape) if keepdims or i not in axes)
    return cast(reshape(total, kept), x.dtype)


_NORMS = (1, 2, math.inf)


def vector_norm(
    x: Tensor, /, *, axis: Axis = None, ord: int | float = 2, keepdims: bool = False
) -> Tensor:
    """The norm of vectors along axes, of all elements together for None.

    Args:
        x: Floating.
        axis: Over which.
        ord: 2 for the Euclidean norm, whose derivative at 0 is taken as 0; 1 for the sum of
            absolute values; infinity for the largest of them.
        keepdims: Whether the axes stay, with extent 1.

    Raises:
        OptionError: for another order.
    """
    x = floating(x, "vector_norm")
    if ord not in _NORMS:
        raise OptionError(f"vector_norm knows the orders 1, 2 and infinity, got ord={ord!r}.")
    (wide,) = reductions.widened(x)
    size = elementwise.absolute(wide)
    if ord == math.inf:
        return cast(max(size, axis=axis, keepdims=keepdims), x.dtype)
    if ord == 1:
        return cast(sum(size, axis=axis, keepdims=keepdims), x.dtype)
    square = sum(wide * wide, axis=axis, keepdims=keepdims)
    zero, one = scalar_like(0.0, square), scalar_like(1.0, square)
    is_zero = elementwise.equal(square, zero)
    root = elementwise.sqrt(elementwise.select(is_zero, one, square))
    return cast(elementwise.select(is_zero, zero, root), x.dtype)


def _truth(x: Tensor) -> Tensor:
    return x if x.dtype is dtypes.bool_ else elementwise.not_equal(x, scalar_like(0, x))


def all(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether all elements are true (not zero)."""
    return _reduce(reductions.reduce_all, _truth(tensor(x)), axis, keepdims)


def any(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether any element is true (not zero)."""
    return _reduce(reductions.reduce_any, _truth(tensor(x)), axis, keepdims)


def allclose(
    x1: Any, x2: Any, /, *, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Whether all elements are close, bool of shape (); options as for :func:`isclose`."""
    return all(isclose(x1, x2, rtol=rtol, atol=atol, equal_nan=equal_nan))


def count_nonzero(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """How many elements are not zero."""
    return sum(cast(_truth(tensor(x)), dtypes.int64), axis=axis, keepdims=keepdims)


def _argument(primitive: Primitive[Tensor], x: Tensor, axis: int | None, keepdims: bool) -> Tensor:
    x = tensor(x)
    if axis is None:
        found: Tensor = primitive(reshape(x, (x.size,)), axis=0)
        return reshape(found, (1,) * x.ndim) if keepdims else found
    position = as_axis(axis, x.ndim)
    found = primitive(x, axis=position)
    return expand_dims(found, position) if keepdims else found


def argmax(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """int64 index of the first maximum along axis, in the flattened tensor for None."""
    return _argument(reductions.argmax, x, axis, keepdims)


def argmin(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """int64 index of the first minimum along axis, in the flattened tensor for None."""
    return _argument(reductions.argmin, x, axis, keepdims)


def _only_axis(x: Tensor, axis: int | None, name: str) -> int:
    if axis is None:
        if x.ndim != 1:
            raise ShapeError(f"{name} needs an axis for a tensor of shape {x.shape}.")
        return 0
    return as_axis(axis, x.ndim)


def cumulative_sum(
    x: Tensor,
    /,
    *,
    axis: int | None = None,
    dtype: DType | str | None = None,
    include_initial: bool = False,
) -> Tensor:
    """Running sums along axis; with include_initial a 0 in front."""
    x = tensor(x)
    position = _only_axis(x, axis, "cumulative_sum")
    x = cast(x, _sum_dtype(x, dtype))
    result = reductions.cumulative_sum(x, axis=position)
    if include_initial:
        result = pad(result, [(int(i == position), 0) for i in range(x.ndim)])
    return result


def cumulative_prod(
    x: Tensor,
    /,
    *,
    axis: int | None = None,
    dtype: DType | str | None = None,
    include_initial: bool = False,
) -> Tensor:
    """Running products along axis; with include_initial a 1 in front.

    By doubling: products of 1, 2, 4, ... neighbours (Hillis and Steele, 1986, "Data parallel
    algorithms"), so floats round in another order than one after the other.
    """
    x = tensor(x)
    position = _only_axis(x, axis, "cumulative_prod")
    x = cast(x, _sum_dtype(x, dtype))
    extent = x.shape[position]
    widths = [(0, 0)] * x.ndim
    before = (slice(None),) * position
    reach = 1
    while reach < extent:
        widths[position] = (reach, 0)
        x = elementwise.multiply(x, pad(x[(*before, slice(0, -reach))], widths, value=1))
        reach *= 2
    widths[position] = (1, 0)
    return pad(x, widths, value=1) if include_initial else x


def sort(x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """x sorted along axis; NaN is greater than every number."""
    x = tensor(x)
    return reductions.sort(x, axis=as_axis(axis, x.ndim), descending=descending)


def argsort(
    x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True
) -> Tensor:
    """int64 indices that sort x along axis; equal elements keep their order.

    NaN is greater than every number.
    """
    x = tensor(x)
    return reductions.argsort(x, axis=as_axis(axis, x.ndim), descending=descending)


def searchsorted(
    x1: Tensor, x2: Tensor, /, *, side: str = "left", sorter: Tensor | None = None
) -> Tensor:
    """int64 positions at which x2 (...) would keep the sorted vector x1 sorted.

    Every element is compared with every other: for vectors x1 of moderate length.

    Args:
        x1: The vector.
        x2: What to find a place for.
        side: Before (``"left"``) or after (``"right"``) equal elements.
        sorter: Indices that sort x1, if it is not sorted.

    Raises:
        OptionError: if ``side`` is neither.
        ShapeError: if x1 is not a vector.
    """
    if side not in ("left", "right"):
        raise OptionError(f"side must be 'left' or 'right', got {side!r}.")
    a, b = pair(tensor(x1), tensor(x2))
    if a.ndim != 1:
        raise ShapeError(f"searchsorted needs a sorted vector, got shape {a.shape}.")
    if sorter is not None:
        a = take(a, sorter)
    compare = elementwise.less if side == "left" else elementwise.less_equal
    below = compare(a, reshape(b, (*b.shape, 1)))
    return sum(cast(below, dtypes.int64), axis=-1)


def diff(
    x: Tensor,
    /,
    *,
    axis: int = -1,
    n: int = 1,
    prepend: Tensor | None = None,
    append: Tensor | None = None,
) -> Tensor:
    """Differences of neighbours along axis, n times, of x with something joined to its ends."""
    require_integer("n", n, least=0)
    x = tensor(x)
    position = as_axis(axis, x.ndim)
    ends = [part for part in (prepend, x, append) if part is not None]
    if n and len(ends) > 1:
        x = concat(ends, axis=position)
    before = (slice(None),) * position
    for _ in range(n):
        if not x.shape[position]:
            break
        x = x[(*before, slice(1, None))] - x[(*before, slice(None, -1))]
    return x


def top_k(x: Tensor, k: int, /, *, axis: int = -1) -> tuple[Tensor, Tensor]:
    """The k largest elements along axis, largest first, and their int64 indices.

    NaN is greater than every number; of equal elements the first comes first.

    Raises:
        OptionError: unless 0 < k <= the extent of the axis.
    """
    x = tensor(x)
    position = as_axis(axis, x.ndim)
    require_integer("k", k)
    if k > x.shape[position]:
        raise OptionError(f"top_k needs 0 < k <= {x.shape[position]}, got {k}.")
    cut: Any = (*((slice(None),) * position), slice(0, k))
    order = argsort(x, axis=position, descending=True)[cut]
    return shaping.take_along_axis(x, order, axis=position), order
