"""Layer normalisation over the last axis, and its gradient.

Composites, so that a backend can pass over the activations as seldom as its kernels allow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelkit.errors import ShapeError
from accelkit.graph import TensorSpec
from accelkit.primitives.batch_normalization import require_channels
from accelkit.primitives.elementwise import divide, rsqrt
from accelkit.primitives.primitive import Primitive, primitive
from accelkit.primitives.reductions import keep_axes, narrowed, reduce_sum, sum_rows, widened
from accelkit.primitives.shaping import broadcast_to, full

if TYPE_CHECKING:
    from accelkit.tensor import Tensor

__all__ = ["layer_norm", "layer_norm_grad"]


def _statistics(x: TensorSpec) -> TensorSpec:
    return TensorSpec((*x.shape[:-1], 1), x.dtype)


def _infer(x: TensorSpec, scale: TensorSpec, bias: TensorSpec, **_: Any) -> tuple[TensorSpec, ...]:
    require_channels("layer_norm", x, (scale, bias), "scale and bias")
    return x, _statistics(x), _statistics(x)


def _grad_infer(
    x: TensorSpec, scale: TensorSpec, mean: TensorSpec, inverse: TensorSpec, g: TensorSpec
) -> tuple[TensorSpec, ...]:
    require_channels("layer_norm_grad", x, (scale,), "a scale")
    if g != x or mean != _statistics(x) or inverse != mean:
        raise ShapeError(
            f"layer_norm_grad of x {x} needs a cotangent like x and statistics "
            f"{_statistics(x)}; got {g}, {mean} and {inverse}."
        )
    return x, scale, scale


def _mean(x: Any) -> Any:
    """Mean over the last axis, which is kept with extent 1."""
    axes = (x.ndim - 1,)
    total = keep_axes(reduce_sum(x, axes=axes), x, axes)
    return divide(total, full(shape=(), value=float(x.shape[-1]), dtype=x.dtype))


def _definition(x: Any, scale: Any, bias: Any, *, epsilon: float) -> tuple[Any, ...]:
    dtype = x.dtype
    x, scale, bias = widened(x, scale, bias)
    mean = _mean(x)
    centred = x - mean
    inverse = rsqrt(_mean(centred * centred) + epsilon)
    return narrowed((centred * inverse * scale + bias, mean, inverse), dtype)


def _grad_definition(x: Any, scale: Any, mean: Any, inverse: Any, g: Any) -> tuple[Any, ...]:
    dtype = x.dtype
    x, scale, mean, inverse, g = widened(x, scale, mean, inverse, g)
    normal = (x - mean) * inverse
    scaled = g * scale
    by_x = (scaled - _mean(scaled) - normal * _mean(scaled * normal)) * inverse
    return narrowed((by_x, sum_rows(g * normal), sum_rows(g)), dtype)


def _vjp(g: Any, y: Any, x: Any, scale: Any, bias: Any, *, epsilon: float) -> tuple[Any, Any, Any]:
    by_y, by_mean, by_inverse = g
    _, mean, inverse = y
    by_x = by_scale = by_bias = None
    if by_y is not None:
        by_x, by_scale, by_bias = layer_norm_grad(x, scale, mean, inverse, by_y)
    share = 1.0 / max(x.shape[-1], 1)
    if by_mean is not None:
        term = broadcast_to(by_mean * share, shape=x.shape)
        by_x = term if by_x is None else by_x + term
    if by_inverse is not None:
        term = (x - mean) * (by_inverse * inverse * inverse * inverse * -share)
        by_x = term if by_x is None else by_x + term
    return by_x, by_scale, by_bias


layer_norm = primitive(
    "layer_norm",
    _infer,
    vjp=_vjp,
    definition=_definition,
    flops=lambda inputs, outputs, parameters: 7 * inputs[0].size,
    multiple_outputs=True,
    doc="""x (..., C), scale (C,), bias (C,) to (y, mean (..., 1), inverse (..., 1)).

    Over the last axis: inverse = 1 / sqrt(mean of (x - mean)^2 + epsilon) and
    y = (x - mean) * inverse * scale + bias (Ba, Kiros and Hinton, 2016).""",
)
layer_norm_grad: Primitive[tuple[Tensor, ...]] = primitive(
    "layer_norm_grad",
    _grad_infer,
    definition=_grad_definition,
    flops=lambda inputs, outputs, parameters: 12 * inputs[0].size,
    multiple_outputs=True,
    doc="""(x, scale, mean, inverse, g) to the cotangents of layer_norm's x, scale and bias.

    With n = (x - mean) * inverse and h = g * scale: inverse * (h - mean(h) - n * mean(h * n)) over
    the last axis, and the sums of g * n and of g over all others.""",
)
