"""Primitives that create, rearrange, cut and index tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from accelkit.dtypes import DType
from accelkit.dtypes import dtype as as_dtype
from accelkit.errors import DTypeError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.primitives.primitive import Primitive, no_flops, primitive

if TYPE_CHECKING:
    from accelkit.tensor import Tensor

Shape = tuple[int, ...]

# --- creation -------------------------------------------------------------------------------


def _full_infer(*, shape: Shape, value: bool | int | float, dtype: DType) -> TensorSpec:
    return TensorSpec(shape, dtype)


full = primitive(
    "full", _full_infer, vjp=lambda g, y, **p: (), flops=no_flops, doc="value everywhere."
)


def _iota_infer(*, shape: Shape, axis: int, dtype: DType) -> TensorSpec:
    return TensorSpec(shape, dtype)


iota = primitive(
    "iota",
    _iota_infer,
    vjp=lambda g, y, **p: (),
    flops=no_flops,
    doc="The index along axis: 0, 1, 2, ..., the same along all other axes.",
)


class ConstantArray:
    """A small NumPy array as a static parameter: immutable, compared and hashed by content."""

    __slots__ = ("_hash", "array")

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.ascontiguousarray(array).reshape(np.shape(array))
        self.array.flags.writeable = False
        self._hash = hash((self.array.shape, str(self.array.dtype), self.array.tobytes()))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ConstantArray)
            and self._hash == other._hash
            and self.array.shape == other.array.shape
            and self.array.dtype == other.array.dtype
            and self.array.tobytes() == other.array.tobytes()
        )

    def __hash__(self) -> int:
        return self._hash

    def __lt__(self, other: ConstantArray) -> bool:
        return self._hash < other._hash

    def __str__(self) -> str:
        text = np.array2string(self.array.reshape(-1), threshold=6, edgeitems=2, separator=",")
        return " ".join(text.split())

    __repr__ = __str__


def _constant_infer(*, value: ConstantArray) -> TensorSpec:
    return TensorSpec(value.array.shape, as_dtype(value.array.dtype))


constant = primitive(
    "constant",
    _constant_infer,
    vjp=lambda g, y, **p: (),
    flops=no_flops,
    doc="An array that is part of the program.",
)

# --- rearranging ------------------------------------------------------------------------------


def _reshape_infer(x: TensorSpec, *, shape: Shape) -> TensorSpec:
    if math.prod(shape) != x.size:
        raise ShapeError(
            f"Cannot reshape {x.shape} ({x.size} elements) to {shape} "
            f"({math.prod(shape)} elements)."
        )
    return TensorSpec(shape, x.dtype)


reshape: Primitive[Tensor] = primitive(
    "reshape",
    _reshape_infer,
    vjp=lambda g, y, x, *, shape: (reshape(g, shape=x.shape),),
    flops=no_flops,
    doc="The same elements in row-major order under another shape.",
)


def _transpose_infer(x: TensorSpec, *, permutation: Shape) -> TensorSpec:
    if sorted(permutation) != list(range(x.ndim)):
        raise ShapeError(f"{permutation} is not a permutation of the {x.ndim} axes of {x.shape}.")
    return TensorSpec(tuple(x.shape[axis] for axis in permutation), x.dtype)


def _transpose_vjp(g: Any, y: Any, x: Any, *, permutation: Shape) -> Sequence[Any]:
    inverse = tuple(sorted(range(len(permutation)), key=permutation.__getitem__))
    return (transpose(g, permutation=inverse),)


transpose = primitive(
    "transpose",
    _transpose_infer,
    vjp=_transpose_vjp,
    flops=no_flops,
    doc="Axis i of the result is axis permutation[i] of x.",
)


def _broadcast_infer(x: TensorSpec, *, shape: Shape) -> TensorSpec:
    tail = shape[len(shape) - x.ndim :] if x.ndim <= len(shape) else None
    if tail is None or any(a not in (1, b) for a, b in zip(x.shape, tail, strict=True)):
        raise ShapeError(f"Shape {x.shape} does not broadcast to {shape}.")
    return TensorSpec(shape, x.dtype)


def _broadcast_vjp(g: Any, y: Any, x: Any, *, shape: Shape) -> Sequence[Any]:
    from accelkit.primitives.elementwise import unbroadcast

    return (unbroadcast(g, x.shape),)


broadcast_to = primitive(
    "broadcast_to",
    _broadcast_infer,
    vjp=_broadcast_vjp,
    flops=no_flops,
    doc="x repeated to shape by NumPy's broadcasting rules.",
)


def _reverse_infer(x: TensorSpec, *, axes: Shape) -> TensorSpec:
    return x


reverse: Primitive[Tensor] = primitive(
    "reverse",
    _reverse_infer,
    vjp=lambda g, y, x, *, axes: (reverse(g, axes=axes),),
    flops=no_flops,
    doc="x with the order of elements reversed along axes.",
)

# --- cutting and joining ----------------------------------------------------------------------


def _slice_infer(x: TensorSpec, *, start: Shape, stop: Shape, step: Shape) -> TensorSpec:
    for axis, (a, b, s, extent) in enumerate(zip(start, stop, step, x.shape, strict=True)):
        if not (0 <= a <= b <= extent and s >= 1):
            raise ShapeError(f"Slice {a}:{b}:{s} does not fit axis {axis} of shape {x.shape}.")
    return TensorSpec(
        tuple(-(-(b - a) // s) for a, b, s in zip(start, stop, step, strict=True)), x.dtype
    )


def _slice_vjp(g: Any, y: Any, x: Any, *, start: Shape, stop: Shape, step: Shape) -> Sequence[Any]:
    covered = [
        a + (n - 1) * s + 1 if n else a for a, n, s in zip(start, y.shape, step, strict=True)
    ]
    high = tuple(extent - end for extent, end in zip(x.shape, covered, strict=True))
    return (pad(g, low=start, high=high, interior=tuple(s - 1 for s in step), value=0),)


slice_ = primitive(
    "slice",
    _slice_infer,
    vjp=_slice_vjp,
    flops=no_flops,
    doc="x[start:stop:step] on every axis, with 0 <= start <= stop <= extent and step >= 1.",
)


def _pad_infer(
    x: TensorSpec, *, low: Shape, high: Shape, interior: Shape, value: int | float
) -> TensorSpec:
    shape = []
    for extent, a, b, i in zip(x.shape, low, high, interior, strict=True):
        if a < 0 or b < 0 or i < 0:
            raise ShapeError(f"Padding must not be negative: {low}, {high}, {interior}.")
        shape.append(a + b + extent + max(extent - 1, 0) * i)
    return TensorSpec(tuple(shape), x.dtype)


def _pad_vjp(
    g: Any, y: Any, x: Any, *, low: Shape, high: Shape, interior: Shape, value: int | float
) -> Sequence[Any]:
    step = tuple(i + 1 for i in interior)
    stop = tuple(
        a + (n - 1) * s + 1 if n else a for a, n, s in zip(low, x.shape, step, strict=True)
    )
    return (slice_(g, start=low, stop=stop, step=step),)


pad = primitive(
    "pad",
    _pad_infer,
    vjp=_pad_vjp,
    flops=no_flops,
    doc="x with value before (low), after (high) and between (interior) the elements of an axis.",
)


def _concatenate_infer(*tensors: TensorSpec, axis: int) -> TensorSpec:
    first = tensors[0]
    for other in tensors[1:]:
        if other.dtype is not first.dtype:
            raise DTypeError(f"concatenate got dtypes {first.dtype} and {other.dtype}.")
        if (
            other.ndim != first.ndim
            or other.shape[:axis] + other.shape[axis + 1 :]
            != first.shape[:axis] + first.shape[axis + 1 :]
        ):
            raise ShapeError(
                f"Shapes {first.shape} and {other.shape} do not join along axis {axis}: all "
                f"other extents must be equal."
            )
    extent = sum(t.shape[axis] for t in tensors)
    return TensorSpec((*first.shape[:axis], extent, *first.shape[axis + 1 :]), first.dtype)


def _concatenate_vjp(g: Any, y: Any, *tensors: Any, axis: int) -> Sequence[Any]:
    cotangents, position = [], 0
    for tensor in tensors:
        start, stop = [0] * g.ndim, list(g.shape)
        start[axis], stop[axis] = position, position + tensor.shape[axis]
        position = stop[axis]
        cotangents.append(slice_(g, start=tuple(start), stop=tuple(stop), step=(1,) * g.ndim))
    return cotangents


concatenate = primitive(
    "concatenate",
    _concatenate_infer,
    vjp=_concatenate_vjp,
    flops=no_flops,
    doc="The operands joined along axis.",
)

# --- indexing by tensors ------------------------------------------------------------------------


def _require_index(name: str, indices: TensorSpec) -> None:
    if not indices.dtype.is_integer:
        raise DTypeError(f"{name} needs integer indices, got {indices.dtype}.")


def _take_infer(x: TensorSpec, indices: TensorSpec, *, axis: int) -> TensorSpec:
    _require_index("take", indices)
    return TensorSpec(x.shape[:axis] + indices.shape + x.shape[axis + 1 :], x.dtype)


take: Primitive[Tensor] = primitive(
    "take",
    _take_infer,
    vjp=lambda g, y, x, i, *, axis: (take_grad(g, i, axis=axis, extent=x.shape[axis]), None),
    flops=no_flops,
    doc="""x[..., indices, ...] on one axis, with 0 <= indices < extent.

    An index out of range gives an unspecified element or an error, never a crash.""",
)


def _take_grad_infer(g: TensorSpec, indices: TensorSpec, *, axis: int, extent: int) -> TensorSpec:
    _require_index("take_grad", indices)
    shape = (*g.shape[:axis], extent, *g.shape[axis + indices.ndim :])
    return TensorSpec(shape, g.dtype)


take_grad: Primitive[Tensor] = primitive(
    "take_grad",
    _take_grad_infer,
    vjp=lambda ct, dx, g, i, *, axis, extent: (take(ct, i, axis=axis), None),
    doc="Zeros of extent along axis, with g added at indices; repeated indices add up.",
)


def _along_axis_infer(x: TensorSpec, indices: TensorSpec, *, axis: int) -> TensorSpec:
    _require_index("take_along_axis", indices)
    rest = [i for i in range(x.ndim) if i != axis]
    if x.ndim != indices.ndim or any(x.shape[i] != indices.shape[i] for i in rest):
        raise ShapeError(
            f"take_along_axis needs indices shaped like x but along axis {axis}; got x of shape "
            f"{x.shape} and indices of shape {indices.shape}."
        )
    return TensorSpec(indices.shape, x.dtype)


take_along_axis: Primitive[Tensor] = primitive(
    "take_along_axis",
    _along_axis_infer,
    vjp=lambda g, y, x, i, *, axis: (
        take_along_axis_grad(g, i, axis=axis, extent=x.shape[axis]),
        None,
    ),
    flops=no_flops,
    doc="y[..., j, ...] = x[..., indices[..., j, ...], ...], with 0 <= indices < extent.",
)


def _along_axis_grad_infer(
    g: TensorSpec, indices: TensorSpec, *, axis: int, extent: int
) -> TensorSpec:
    _require_index("take_along_axis_grad", indices)
    return TensorSpec((*g.shape[:axis], extent, *g.shape[axis + 1 :]), g.dtype)


take_along_axis_grad: Primitive[Tensor] = primitive(
    "take_along_axis_grad",
    _along_axis_grad_infer,
    vjp=lambda ct, dx, g, i, *, axis, extent: (take_along_axis(ct, i, axis=axis), None),
    doc="Zeros of extent along axis, with g added at indices; repeated indices add up.",
)
