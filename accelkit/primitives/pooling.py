"""Pooling over windows of NHWC images.

The gradient of max-pooling goes to the first maximum of a window in row-major order. Which
one that is, the *winner*, is a value of its own: ``max_pool2d_winners`` finds it, ``_gather``
reads and ``_scatter`` writes at it. So pooling can be differentiated twice, and a test can
impose one backend's winners on another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from accelkit import dtypes
from accelkit.errors import ShapeError
from accelkit.graph import TensorSpec
from accelkit.primitives.convolution import Padding, Pair, window_extent, windows
from accelkit.primitives.elementwise import equal, greater, is_nan, logical_or, select, zeros_like
from accelkit.primitives.primitive import Primitive, no_flops, primitive, require_floating
from accelkit.primitives.shaping import ConstantArray, constant, full, pad, slice_

if TYPE_CHECKING:
    from accelkit.tensor import Tensor


def pool_output_shape(
    shape: tuple[int, ...], window: Pair, strides: Pair, padding: Padding
) -> tuple[int, int, int, int]:
    """Shape (N, OH, OW, C) of a pooled image of ``shape`` (N, H, W, C).

    Raises:
        ShapeError: if no window fits, or the padding is as large as the window.
    """
    if len(shape) != 4:
        raise ShapeError(f"Pooling needs images (N, H, W, C), got shape {shape}.")
    if any(p >= window[i] for i in (0, 1) for p in padding[i]):
        raise ShapeError(f"Padding {padding} must be smaller than the pooling window {window}.")
    height, width = (window_extent(shape[1 + i], window[i], strides[i], padding[i]) for i in (0, 1))
    if height < 1 or width < 1:
        raise ShapeError(
            f"A {shape[1]}x{shape[2]} image with padding {padding} is smaller than the "
            f"{window[0]}x{window[1]} pooling window: nothing is left of it. Images "
            "are (N, H, W, C)."
        )
    return (shape[0], height, width, shape[3])


def _pool_infer(x: TensorSpec, *, window: Pair, strides: Pair, padding: Padding) -> TensorSpec:
    require_floating("Pooling", x)
    return TensorSpec(pool_output_shape(x.shape, window, strides, padding), x.dtype)


def _winners_infer(x: TensorSpec, *, window: Pair, strides: Pair, padding: Padding) -> TensorSpec:
    require_floating("max_pool2d_winners", x)
    return TensorSpec(pool_output_shape(x.shape, window, strides, padding), dtypes.int32)


def _first_inside(
    shape: tuple[int, ...], window: Pair, strides: Pair, padding: Padding
) -> np.ndarray:
    """Index of each window's first element that lies inside the image, (1, OH, OW, 1) int32."""
    _, height, width, _ = pool_output_shape(shape, window, strides, padding)
    rows = np.maximum(padding[0][0] - np.arange(height) * strides[0], 0)
    columns = np.maximum(padding[1][0] - np.arange(width) * strides[1], 0)
    first: np.ndarray = rows[:, None] * window[1] + columns[None, :]
    return first.astype(np.int32).reshape(1, height, width, 1)


def _best(
    x: Any, window: Pair, strides: Pair, padding: Padding, *, with_winners: bool
) -> tuple[Any, Any]:
    """Running maximum over the window positions, NaN included, and who holds it."""
    views = windows(x, window, strides, padding, value=float("-inf"))
    best, winners = views[0], None
    if with_winners:
        first = ConstantArray(_first_inside(x.shape, window, strides, padding))
        winners = constant(value=first) + full(shape=best.shape, value=0, dtype=dtypes.int32)
    for position, view in enumerate(views[1:], start=1):
        better = logical_or(greater(view, best), is_nan(view))
        best = select(better, view, best)
        if winners is not None:
            winners = select(better, zeros_like(winners) + position, winners)
    return best, winners


max_pool2d = primitive(
    "max_pool2d",
    _pool_infer,
    vjp=lambda g, y, x, **p: (max_pool2d_grad(x, y, g, **p),),
    definition=lambda x, **p: _best(x, **p, with_winners=False)[0],
    doc="Maximum over each window; padding never wins, NaN always does.",
)
max_pool2d_winners = primitive(
    "max_pool2d_winners",
    _winners_infer,
    vjp=lambda g, y, x, **p: (None,),
    definition=lambda x, **p: _best(x, **p, with_winners=True)[1],
    doc="""int32 row-major index, within its window, of each window's first maximum.

    Unspecified where the window holds NaN.""",
)


def _scatter_infer(
    winners: TensorSpec,
    g: TensorSpec,
    *,
    image_size: Pair,
    window: Pair,
    strides: Pair,
    padding: Padding,
) -> TensorSpec:
    shape = (g.shape[0], *image_size, g.shape[3])
    expected = pool_output_shape(shape, window, strides, padding)
    if winners.shape != expected or g.shape != expected:
        raise ShapeError(
            f"max_pool2d_scatter needs winners and g of shape {expected}, got {winners.shape} "
            f"and {g.shape}."
        )
    return TensorSpec(shape, g.dtype)


def _add_windows(
    parts: list[Any], image_size: Pair, window: Pair, strides: Pair, padding: Padding
) -> Any:
    """Sum of one (N, OH, OW, C) part per window position, each at its place in the image."""
    _, height, width, channels = parts[0].shape
    padded = [image_size[i] + sum(padding[i]) for i in (0, 1)]
    covered = [(height - 1) * strides[0] + 1, (width - 1) * strides[1] + 1]
    total: Any = None
    for position, part in enumerate(parts):
        a, b = divmod(position, window[1])
        placed = pad(
            part,
            low=(0, a, b, 0),
            high=(0, padded[0] - a - covered[0], padded[1] - b - covered[1], 0),
            interior=(0, strides[0] - 1, strides[1] - 1, 0),
            value=0,
        )
        total = placed if total is None else total + placed
    (top, _), (left, _) = padding
    return slice_(
        total,
        start=(0, top, left, 0),
        stop=(total.shape[0], top + image_size[0], left + image_size[1], channels),
        step=(1, 1, 1, 1),
    )


def _scatter_definition(
    winners: Any, g: Any, *, image_size: Pair, window: Pair, strides: Pair, padding: Padding
) -> Any:
    parts = [
        select(equal(winners, zeros_like(winners) + position), g, zeros_like(g))
        for position in range(window[0] * window[1])
    ]
    return _add_windows(parts, image_size, window, strides, padding)


def _gather_definition(winners: Any, x: Any, **parameters: Any) -> Any:
    views = windows(x, **parameters)
    result = views[0]
    for position, view in enumerate(views[1:], start=1):
        result = select(equal(winners, zeros_like(winners) + position), view, result)
    return result


def _gather_infer(
    winners: TensorSpec, x: TensorSpec, *, window: Pair, strides: Pair, padding: Padding
) -> TensorSpec:
    expected = pool_output_shape(x.shape, window, strides, padding)
    if winners.shape != expected:
        raise ShapeError(f"max_pool2d_gather needs winners {expected}, got {winners.shape}.")
    return TensorSpec(expected, x.dtype)


max_pool2d_gather = primitive(
    "max_pool2d_gather",
    _gather_infer,
    vjp=lambda g, y, winners, x, **p: (
        None,
        max_pool2d_scatter(winners, g, image_size=tuple(x.shape[1:3]), **p),
    ),
    definition=_gather_definition,
    flops=no_flops,
    doc="The element of each window of x (N, H, W, C) that winners (N, OH, OW, C) names.",
)
max_pool2d_scatter: Primitive[Tensor] = primitive(
    "max_pool2d_scatter",
    _scatter_infer,
    vjp=lambda ct, dx, winners, g, *, image_size, **p: (
        None,
        max_pool2d_gather(winners, ct, **p),
    ),
    definition=_scatter_definition,
    doc="Zeros (N, *image_size, C) with g (N, OH, OW, C) added at each window's winner.",
)


def _max_grad_infer(
    x: TensorSpec, y: TensorSpec, g: TensorSpec, *, window: Pair, strides: Pair, padding: Padding
) -> TensorSpec:
    expected = pool_output_shape(x.shape, window, strides, padding)
    if y.shape != expected or g.shape != expected:
        raise ShapeError(f"max_pool2d_grad needs y, g {expected}, got {y.shape}, {g.shape}.")
    return x


max_pool2d_grad: Primitive[Tensor] = primitive(
    "max_pool2d_grad",
    _max_grad_infer,
    vjp=lambda ct, dx, x, y, g, **p: (
        None,
        None,
        max_pool2d_gather(max_pool2d_winners(x, **p), ct, **p),
    ),
    definition=lambda x, y, g, **p: max_pool2d_scatter(
        max_pool2d_winners(x, **p), g, image_size=tuple(x.shape[1:3]), **p
    ),
    doc="The cotangent of max_pool2d's x, from x, its result y and the cotangent g of y.",
)


def _average_definition(x: Any, *, window: Pair, strides: Pair, padding: Padding) -> Any:
    total: Any = None
    for view in windows(x, window, strides, padding):
        total = view if total is None else total + view
    return total / float(window[0] * window[1])


def _average_grad_infer(
    g: TensorSpec, *, image_size: Pair, window: Pair, strides: Pair, padding: Padding
) -> TensorSpec:
    shape = (g.shape[0], *image_size, g.shape[3])
    expected = pool_output_shape(shape, window, strides, padding)
    if g.shape != expected:
        raise ShapeError(f"avg_pool2d_grad needs g of shape {expected}, got {g.shape}.")
    return TensorSpec(shape, g.dtype)


def _average_grad_definition(
    g: Any, *, image_size: Pair, window: Pair, strides: Pair, padding: Padding
) -> Any:
    count = window[0] * window[1]
    return _add_windows([g / float(count)] * count, image_size, window, strides, padding)


avg_pool2d = primitive(
    "avg_pool2d",
    _pool_infer,
    vjp=lambda g, y, x, **p: (avg_pool2d_grad(g, image_size=tuple(x.shape[1:3]), **p),),
    definition=_average_definition,
    doc="Mean over each window; padding counts as zeros.",
)
avg_pool2d_grad: Primitive[Tensor] = primitive(
    "avg_pool2d_grad",
    _average_grad_infer,
    vjp=lambda ct, dx, g, *, image_size, **p: (avg_pool2d(ct, **p),),
    definition=_average_grad_definition,
    doc="The cotangent of avg_pool2d's images: g (N, OH, OW, C) to (N, *image_size, C).",
)
