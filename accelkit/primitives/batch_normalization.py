"""Batch normalisation by the batch's own statistics, and its gradient.

Composites, so that a backend can pass over the activations as seldom as its kernels allow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from accelkit.errors import ShapeError
from accelkit.graph import TensorSpec
from accelkit.primitives.elementwise import divide, rsqrt
from accelkit.primitives.primitive import Primitive, primitive, require_floating
from accelkit.primitives.reductions import narrowed, sum_rows, widened
from accelkit.primitives.shaping import broadcast_to, full

if TYPE_CHECKING:
    from accelkit.tensor import Tensor

__all__ = ["batch_norm", "batch_norm_grad"]


def require_channels(name: str, x: TensorSpec, channels: Sequence[TensorSpec], what: str) -> None:
    """Refuse what is no floating x (..., C) with vectors of its channels.

    Args:
        name: Of the primitive.
        x: The activations.
        channels: Specs that should be (C,) of x's dtype.
        what: Their names, for the message.

    Raises:
        DTypeError: if x is not floating.
        ShapeError: if a vector does not fit x.
    """
    require_floating(name, x)
    if x.ndim < 1 or any(spec != TensorSpec(x.shape[-1:], x.dtype) for spec in channels):
        raise ShapeError(
            f"{name} of x (..., C) needs {what} of shape (C,) and x's dtype; got x {x} and "
            f"{', '.join(map(str, channels))}."
        )


def _infer(x: TensorSpec, scale: TensorSpec, bias: TensorSpec, **_: Any) -> tuple[TensorSpec, ...]:
    require_channels("batch_norm", x, (scale, bias), "scale and bias")
    return x, scale, scale


def _grad_infer(
    x: TensorSpec, scale: TensorSpec, mean: TensorSpec, var: TensorSpec, g: TensorSpec, **_: Any
) -> tuple[TensorSpec, ...]:
    require_channels("batch_norm_grad", x, (scale, mean, var), "scale, mean and variance")
    if g != x:
        raise ShapeError(f"batch_norm_grad needs a cotangent like x, got {g} for {x}.")
    return x, scale, scale


def _count(x: Any) -> int:
    """Number of elements per channel."""
    return math.prod(x.shape[:-1])


def _mean(x: Any) -> Any:
    return divide(sum_rows(x), full(shape=(), value=float(_count(x)), dtype=x.dtype))


def _definition(x: Any, scale: Any, bias: Any, *, epsilon: float) -> tuple[Any, ...]:
    dtype = x.dtype
    x, scale, bias = widened(x, scale, bias)
    mean = _mean(x)
    centred = x - mean
    var = _mean(centred * centred)
    y = centred * (scale * rsqrt(var + epsilon)) + bias
    return narrowed((y, mean, var), dtype)


def _grad_definition(
    x: Any, scale: Any, mean: Any, var: Any, g: Any, *, epsilon: float
) -> tuple[Any, ...]:
    dtype = x.dtype
    x, scale, mean, var, g = widened(x, scale, mean, var, g)
    count = full(shape=(), value=float(_count(x)), dtype=x.dtype)
    centred = x - mean
    inverse = rsqrt(var + epsilon)
    by_bias = sum_rows(g)
    by_scale = sum_rows(g * centred) * inverse
    along = divide(by_scale, count) * inverse
    by_x = (g - divide(by_bias, count) - centred * along) * (scale * inverse)
    return narrowed((by_x, by_scale, by_bias), dtype)


def _vjp(g: Any, y: Any, x: Any, scale: Any, bias: Any, *, epsilon: float) -> tuple[Any, Any, Any]:
    by_y, by_mean, by_var = g
    _, mean, var = y
    by_x = by_scale = by_bias = None
    if by_y is not None:
        by_x, by_scale, by_bias = batch_norm_grad(x, scale, mean, var, by_y, epsilon=epsilon)
    share = 1.0 / max(_count(x), 1)
    if by_mean is not None:
        term = broadcast_to(by_mean * share, shape=x.shape)
        by_x = term if by_x is None else by_x + term
    if by_var is not None:
        term = (x - mean) * (by_var * (2.0 * share))
        by_x = term if by_x is None else by_x + term
    return by_x, by_scale, by_bias


batch_norm = primitive(
    "batch_norm",
    _infer,
    vjp=_vjp,
    definition=_definition,
    flops=lambda inputs, outputs, parameters: 6 * inputs[0].size,
    multiple_outputs=True,
    doc="""x (..., C), scale (C,), bias (C,) to (y, mean, var) over all axes but the last.

    y = (x - mean) / sqrt(var + epsilon) * scale + bias (Ioffe and Szegedy, 2015), the variance
    being the mean of the squared deviations.""",
)
batch_norm_grad: Primitive[tuple[Tensor, ...]] = primitive(
    "batch_norm_grad",
    _grad_infer,
    definition=_grad_definition,
    flops=lambda inputs, outputs, parameters: 9 * inputs[0].size,
    multiple_outputs=True,
    doc="""(x, scale, mean, var, g) to the cotangents of batch_norm's x, scale and bias.

    With c = x - mean, r = 1 / sqrt(var + epsilon) and n elements per channel:
    scale * r * (g - sum(g) / n - c * r^2 * sum(g * c) / n), r * sum(g * c), and sum(g).""",
)
