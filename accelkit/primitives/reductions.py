"""Reductions, scans along an axis, and sorting.

float16 and bfloat16 sums accumulate in float32 on every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accelkit import dtypes
from accelkit.dtypes import DType
from accelkit.errors import DTypeError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.primitives.elementwise import cast, equal, multiply, select, zeros_like
from accelkit.primitives.primitive import Primitive, no_flops, primitive
from accelkit.primitives.shaping import (
    broadcast_to,
    reshape,
    reverse,
    slice_,
    take_along_axis,
    take_along_axis_grad,
)

if TYPE_CHECKING:
    from accelkit.tensor import Tensor

Axes = tuple[int, ...]


def _input_elements(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], parameters: Mapping[str, Any]
) -> int:
    return inputs[0].size


def keep_axes(y: Any, x: Any, axes: Axes) -> Any:
    """``y``, a reduction of ``x`` over ``axes``, with those axes put back as extent 1."""
    return reshape(y, shape=tuple(1 if i in axes else n for i, n in enumerate(x.shape)))


def sum_rows(x: Any) -> Any:
    """Sum of (..., C) over all axes but the last."""
    return reduce_sum(x, axes=tuple(range(x.ndim - 1)))


def widened(*arrays: Any) -> tuple[Any, ...]:
    """16-bit floats as float32: their sums overflow, and round too soon."""
    return tuple(cast(a, dtype=dtypes.float32) if a.dtype.bits == 16 else a for a in arrays)


def narrowed(arrays: Sequence[Any], dtype: DType) -> tuple[Any, ...]:
    """The way back from :func:`widened`: what has another dtype is rounded to this one."""
    return tuple(cast(a, dtype=dtype) if a.dtype is not dtype else a for a in arrays)


def _reduction(
    name: str,
    vjp: Callable[..., Any] | None,
    doc: str,
    *,
    kinds: str = "iuf",
    empty: bool = True,
    definition: Callable[..., Any] | None = None,
) -> Primitive[Tensor]:
    def infer(x: TensorSpec, *, axes: Axes) -> TensorSpec:
        if x.dtype.kind not in kinds:
            raise DTypeError(f"{name} does not take dtype {x.dtype}.")
        if not empty and any(x.shape[axis] == 0 for axis in axes):
            raise ShapeError(f"{name} over an axis of extent 0 has no value: shape {x.shape}.")
        return TensorSpec(tuple([n for i, n in enumerate(x.shape) if i not in axes]), x.dtype)

    def rule(g: Any, y: Any, x: Any, *, axes: Axes) -> Sequence[Any]:
        return (vjp(g, y, x, axes) if vjp else None,)

    has_rule = vjp is not None or definition is None
    return primitive(
        name,
        infer,
        vjp=rule if has_rule else None,
        flops=_input_elements,
        definition=definition,
        doc=doc,
    )


def _sum_vjp(g: Any, y: Any, x: Any, axes: Axes) -> Any:
    return broadcast_to(keep_axes(g, x, axes), shape=x.shape)


def _extremum_vjp(g: Any, y: Any, x: Any, axes: Axes) -> Any:
    winner = equal(x, keep_axes(y, x, axes))
    one = zeros_like(x) + 1.0
    ones = select(winner, one, zeros_like(x))
    share = keep_axes(g, x, axes) / keep_axes(reduce_sum(ones, axes=axes), x, axes)
    return share * ones


def _product_definition(x: Any, *, axes: Axes) -> Any:
    for axis in axes:
        while x.shape[axis] > 1:
            half = x.shape[axis] // 2
            folded = multiply(_cut(x, axis, 0, half), _cut(x, axis, half, 2 * half))
            if x.shape[axis] % 2:
                from accelkit.primitives.shaping import concatenate

                rest = _cut(x, axis, 2 * half, 2 * half + 1)
                folded = concatenate(folded, rest, axis=axis)
            x = folded
    if any(x.shape[axis] == 0 for axis in axes):
        from accelkit.primitives.shaping import full

        shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        return full(shape=shape, value=1.0 if x.dtype.is_floating else 1, dtype=x.dtype)
    return reshape(x, shape=tuple(n for i, n in enumerate(x.shape) if i not in axes))


def _cut(x: Any, axis: int, start: int, stop: int) -> Any:
    low, high = [0] * x.ndim, list(x.shape)
    low[axis], high[axis] = start, stop
    return slice_(x, start=tuple(low), stop=tuple(high), step=(1,) * x.ndim)


reduce_sum = _reduction("reduce_sum", _sum_vjp, "Sum over axes; 0 over nothing, x over no axes.")
reduce_max = _reduction(
    "reduce_max", _extremum_vjp, "Maximum over axes; NaN wins. Ties share g.", empty=False
)
reduce_min = _reduction(
    "reduce_min", _extremum_vjp, "Minimum over axes; NaN wins. Ties share g.", empty=False
)
reduce_product = _reduction(
    "reduce_product",
    None,
    "Product over axes; 1 over nothing.",
    definition=_product_definition,
)
reduce_any = _reduction("reduce_any", None, "Whether any element is true.", kinds="b")
reduce_all = _reduction("reduce_all", None, "Whether all elements are true.", kinds="b")


def _argument_infer(name: str) -> Callable[..., TensorSpec]:
    def infer(x: TensorSpec, *, axis: int) -> TensorSpec:
        if x.dtype.kind == "b":
            raise DTypeError(f"{name} does not take dtype bool.")
        if x.shape[axis] == 0:
            raise ShapeError(f"{name} over an axis of extent 0 has no value: shape {x.shape}.")
        return TensorSpec(x.shape[:axis] + x.shape[axis + 1 :], dtypes.int64)

    return infer


argmax = primitive(
    "argmax",
    _argument_infer("argmax"),
    vjp=lambda g, y, x, *, axis: (None,),
    flops=_input_elements,
    doc="int64 index of the first maximum along axis; the first NaN counts as maximum.",
)
argmin = primitive(
    "argmin",
    _argument_infer("argmin"),
    vjp=lambda g, y, x, *, axis: (None,),
    flops=_input_elements,
    doc="int64 index of the first minimum along axis; the first NaN counts as minimum.",
)


def _same_infer(x: TensorSpec, *, axis: int) -> TensorSpec:
    return x


def _cumulative_sum_vjp(g: Any, y: Any, x: Any, *, axis: int) -> Sequence[Any]:
    flipped = cumulative_sum(reverse(g, axes=(axis,)), axis=axis)
    return (reverse(flipped, axes=(axis,)),)


cumulative_sum = primitive(
    "cumulative_sum",
    _same_infer,
    vjp=_cumulative_sum_vjp,
    doc="y[i] = x[0] + ... + x[i] along axis.",
)


def _argsort_infer(x: TensorSpec, *, axis: int, descending: bool) -> TensorSpec:
    return TensorSpec(x.shape, dtypes.int64)


argsort = primitive(
    "argsort",
    _argsort_infer,
    vjp=lambda g, y, x, *, axis, descending: (None,),
    flops=no_flops,
    doc="int64 indices that sort x along axis, stably: equal elements keep their order. NaN is "
    "greater than every number, and equal to NaN.",
)


def _sort_infer(x: TensorSpec, *, axis: int, descending: bool) -> TensorSpec:
    return x


def _sort_vjp(g: Any, y: Any, x: Any, *, axis: int, descending: bool) -> Sequence[Any]:
    order = argsort(x, axis=axis, descending=descending)
    return (take_along_axis_grad(g, order, axis=axis, extent=x.shape[axis]),)


sort = primitive(
    "sort",
    _sort_infer,
    vjp=_sort_vjp,
    definition=lambda x, *, axis, descending: take_along_axis(
        x, argsort(x, axis=axis, descending=descending), axis=axis
    ),
    flops=no_flops,
    doc="x sorted along axis, ascending unless descending. NaN is outside the contract.",
)
