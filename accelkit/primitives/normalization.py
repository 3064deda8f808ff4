"""Softmax, its cross-entropy, and local response normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from accelkit import dtypes
from accelkit.errors import DTypeError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.primitives.elementwise import (
    cast,
    divide,
    equal,
    exp,
    log,
    multiply,
    power,
    select,
    sqrt,
    stop_gradient,
    zeros_like,
)
from accelkit.primitives.primitive import Primitive, primitive, require_floating
from accelkit.primitives.reductions import keep_axes, reduce_max, reduce_sum
from accelkit.primitives.shaping import iota, pad, reshape, slice_

if TYPE_CHECKING:
    from accelkit.tensor import Tensor


def _shifted(x: Any, axis: int) -> Any:
    """x minus its maximum along axis: the exponential cannot overflow."""
    return x - keep_axes(stop_gradient(reduce_max(x, axes=(axis,))), x, (axis,))


def _softmax_definition(x: Any, *, axis: int) -> Any:
    e = exp(_shifted(x, axis))
    share = 1.0 / reduce_sum(e, axes=(axis,))  # of a sum from 1 to the number of its terms
    return multiply(e, keep_axes(share, x, (axis,)))


def _softmax_grad_infer(y: TensorSpec, g: TensorSpec, *, axis: int) -> TensorSpec:
    if y != g:
        raise ShapeError(f"softmax_grad needs equal specs, got {y} and {g}.")
    return require_floating("softmax_grad", y)


def _log_softmax_definition(x: Any, *, axis: int) -> Any:
    shifted = _shifted(x, axis)
    total = reduce_sum(exp(shifted), axes=(axis,))
    return shifted - keep_axes(log(total), x, (axis,))


softmax = primitive(
    "softmax",
    lambda x, *, axis: require_floating("softmax", x),
    vjp=lambda g, y, x, *, axis: (softmax_grad(y, g, axis=axis),),
    definition=_softmax_definition,
    flops=lambda inputs, outputs, parameters: 4 * inputs[0].size,
    doc="exp(x) / sum(exp(x)) along axis.",
)
softmax_grad: Primitive[Tensor] = primitive(
    "softmax_grad",
    _softmax_grad_infer,
    definition=lambda y, g, *, axis: (
        y * (g - keep_axes(reduce_sum(g * y, axes=(axis,)), y, (axis,)))
    ),
    flops=lambda inputs, outputs, parameters: 4 * inputs[0].size,
    doc="y * (g - sum(g * y)) along axis, where y is the output of softmax.",
)
log_softmax = primitive(
    "log_softmax",
    lambda x, *, axis: require_floating("log_softmax", x),
    vjp=lambda g, y, x, *, axis: (g - exp(y) * keep_axes(reduce_sum(g, axes=(axis,)), x, (axis,)),),
    definition=_log_softmax_definition,
    flops=lambda inputs, outputs, parameters: 4 * inputs[0].size,
    doc="x - log(sum(exp(x))) along axis.",
)


def _cross_entropy_infer(
    logits: TensorSpec, labels: TensorSpec, *, label_smoothing: float
) -> TensorSpec:
    require_floating("softmax_cross_entropy", logits)
    if not labels.dtype.is_integer:
        raise DTypeError(f"Labels must have an integer dtype, got {labels.dtype}.")
    if logits.ndim < 1 or labels.shape != logits.shape[:-1]:
        raise ShapeError(
            f"Logits (..., classes) need labels (...); got logits of shape {logits.shape} and "
            f"labels of shape {labels.shape}."
        )
    return TensorSpec(labels.shape, logits.dtype)


def _is_label(logits: Any, labels: Any) -> Any:
    """Bool (..., classes): true at each row's label, nowhere for a label out of range."""
    if labels.dtype.bits < 32:  # too narrow to count the classes
        labels = cast(labels, dtype=dtypes.int32)
    classes = iota(shape=logits.shape, axis=logits.ndim - 1, dtype=labels.dtype)
    return equal(reshape(labels, shape=(*labels.shape, 1)), classes)


def _cross_entropy_definition(logits: Any, labels: Any, *, label_smoothing: float) -> Any:
    axes = (logits.ndim - 1,)
    shifted = _shifted(logits, *axes)
    total = reduce_sum(exp(shifted), axes=axes)
    own = select(_is_label(logits, labels), shifted, zeros_like(logits))
    picked = reduce_sum(own, axes=axes)
    if label_smoothing == 0.0:
        return log(total) - picked
    mean = reduce_sum(shifted, axes=axes) / float(logits.shape[-1])
    return log(total) - (picked * (1.0 - label_smoothing) + mean * label_smoothing)


def _cross_entropy_grad_definition(
    logits: Any, labels: Any, g: Any, *, label_smoothing: float
) -> Any:
    zero = zeros_like(logits)
    low = label_smoothing / logits.shape[-1]
    target = select(_is_label(logits, labels), zero + (1.0 - label_smoothing + low), zero + low)
    axis = logits.ndim - 1
    e = exp(_shifted(logits, axis))
    # Divided by the sum that the loss has too: its reciprocal would be one step more.
    probability = divide(e, keep_axes(reduce_sum(e, axes=(axis,)), logits, (axis,)))
    difference = probability - target
    return multiply(difference, reshape(g, shape=(*g.shape, 1)))


softmax_cross_entropy = primitive(
    "softmax_cross_entropy",
    _cross_entropy_infer,
    vjp=lambda g, y, logits, labels, **p: (
        softmax_cross_entropy_grad(logits, labels, g, **p),
        None,
    ),
    definition=_cross_entropy_definition,
    flops=lambda inputs, outputs, parameters: 5 * inputs[0].size,
    doc="""-sum of target * log_softmax(logits) per row: logits (..., classes), int labels (...).

    target is 1 - s + s / classes at the label and s / classes elsewhere, s = label_smoothing.
    A label outside 0 <= label < classes gives an unspecified finite loss; callers flag it.""",
)
softmax_cross_entropy_grad: Primitive[Tensor] = primitive(
    "softmax_cross_entropy_grad",
    lambda logits, labels, g, *, label_smoothing: require_floating(
        "softmax_cross_entropy_grad", logits
    ),
    definition=_cross_entropy_grad_definition,
    flops=lambda inputs, outputs, parameters: 6 * inputs[0].size,
    doc="(softmax(logits) - target) * g per row, g (...) being the cotangent of the loss.",
)


# --- local response normalisation ---------------------------------------------------------------


def _lrn_infer(x: TensorSpec, *, size: int, alpha: float, beta: float, k: float) -> TensorSpec:
    return require_floating("local_response_norm", x)


def _window_sum(x: Any, before: int, after: int) -> Any:
    """Sum over channels i - before .. i + after, clipped at the ends; channels are last."""
    last = x.ndim - 1
    none = (0,) * last
    padded = pad(x, low=(*none, before), high=(*none, after), interior=(*none, 0), value=0)
    total: Any = None
    for offset in range(before + after + 1):
        view = slice_(
            padded,
            start=(*none, offset),
            stop=(*x.shape[:-1], offset + x.shape[-1]),
            step=(1,) * x.ndim,
        )
        total = view if total is None else total + view
    return total


def _lrn_scale(x: Any, size: int, alpha: float, k: float) -> Any:
    return _window_sum(x * x, size // 2, (size - 1) // 2) * alpha + k


def _negative_power(s: Any, beta: float) -> Any:
    """s ** -beta; for the paper's beta = 0.75 by square roots, which are exact and fast."""
    if beta == 0.75:
        root = sqrt(s)
        return 1.0 / (root * sqrt(root))
    return power(s, zeros_like(s) - beta)


def _lrn_definition(x: Any, *, size: int, alpha: float, beta: float, k: float) -> Any:
    return x * _negative_power(_lrn_scale(x, size, alpha, k), beta)


def _lrn_grad_definition(x: Any, g: Any, *, size: int, alpha: float, beta: float, k: float) -> Any:
    scale = _lrn_scale(x, size, alpha, k)
    factor = _negative_power(scale, beta)
    inner = g * x * factor / scale
    spread = _window_sum(inner, (size - 1) // 2, size // 2)
    return g * factor - x * spread * (2.0 * alpha * beta)


def _lrn_grad_infer(x: TensorSpec, g: TensorSpec, **parameters: Any) -> TensorSpec:
    if x != g:
        raise ShapeError(f"local_response_norm_grad needs equal specs, got {x} and {g}.")
    return x


def _lrn_vjp(g: Any, y: Any, x: Any, **parameters: Any) -> Sequence[Any]:
    return (local_response_norm_grad(x, g, **parameters),)


local_response_norm = primitive(
    "local_response_norm",
    _lrn_infer,
    vjp=_lrn_vjp,
    definition=_lrn_definition,
    flops=lambda inputs, outputs, p: (p["size"] + 7) * inputs[0].size,
    doc="""x_i / (k + alpha * sum of x_j^2 for j in i - size//2 .. i + (size-1)//2) ** beta.

    Over the last axis, the window clipped at the ends (Krizhevsky et al., 2012, section 3.3;
    torch and Caffe divide alpha by size).""",
)
local_response_norm_grad = primitive(
    "local_response_norm_grad",
    _lrn_grad_infer,
    definition=_lrn_grad_definition,
    flops=lambda inputs, outputs, p: (2 * p["size"] + 12) * inputs[0].size,
    doc="""The cotangent of local_response_norm's x.

    g_i s_i^-beta - 2 alpha beta x_i * sum of g_j x_j s_j^(-beta-1) over the j whose window holds
    i, where s is the bracket of the forward formula.""",
)
