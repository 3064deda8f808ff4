"""Functions of neural networks: activations, convolution, pooling, normalisation, losses."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from accelkit.arguments import require_fraction, require_integer
from accelkit.errors import OptionError, ShapeError
from accelkit.ops.coercion import as_axis, asarray, floating, scalar_like, tensor
from accelkit.ops.elementwise import logaddexp, where
from accelkit.ops.labels import is_counted, require_label, without_ignored
from accelkit.ops.linear_algebra import einsum
from accelkit.ops.reductions import mean
from accelkit.primitives import activations, convolution, elementwise, normalization, pooling
from accelkit.tensor import Tensor

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def as_pair(value: Any, name: str, *, minimum: int = 1) -> Pair:
    """Two integers from a number or a pair.

    Raises:
        OptionError: if there are not two, or one is below ``minimum``.
    """
    given = value if isinstance(value, tuple | list) else (value, value)
    try:
        first, second = map(operator.index, given)
    except (TypeError, ValueError):
        first = second = minimum - 1
    if first < minimum or second < minimum:
        raise OptionError(
            f"{name} must be one or two integers of at least {minimum}, got {value!r}."
        )
    return first, second


def as_padding(value: Any) -> Padding:
    """((top, bottom), (left, right)) from a number, a pair per axis, or itself.

    Raises:
        OptionError: for negative padding, or names such as "same": padding is explicit.
    """
    if isinstance(value, str):
        raise OptionError(
            f"Padding is given in explicit integers, got {value!r}. An odd window of size k with "
            "stride 1 keeps the size of the image with padding=k // 2; padding=0 is 'valid'."
        )
    rows, columns = value if isinstance(value, tuple | list) and len(value) == 2 else (value,) * 2
    return (as_pair(rows, "padding", minimum=0), as_pair(columns, "padding", minimum=0))


def relu(x: Tensor) -> Tensor:
    """max(x, 0), with derivative 0 at 0; NaN stays NaN."""
    return elementwise.relu(floating(x, "relu"))


def gelu(x: Tensor, *, approximate: bool = False) -> Tensor:
    """x times the standard normal distribution function (Hendrycks and Gimpel, 2016).

    Exact by erf, or approximately 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    """
    return activations.gelu(floating(x, "gelu"), approximate=approximate)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)"""
    x = floating(x, "silu")
    return x * elementwise.sigmoid(x)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) without overflow."""
    x = floating(x, "softplus")
    return logaddexp(x, 0.0)


def log_sigmoid(x: Tensor) -> Tensor:
    """log(sigmoid(x)) = -log(1 + exp(-x)) without overflow."""
    return -softplus(-floating(x, "log_sigmoid"))


def leaky_relu(x: Tensor, *, slope: float = 0.01) -> Tensor:
    """x where x > 0, else slope * x; at 0 the derivative is the slope."""
    x = floating(x, "leaky_relu")
    return where(x > 0.0, x, x * float(slope))


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else alpha * (exp(x) - 1) (Clevert et al., 2016)."""
    x = floating(x, "elu")
    below = where(x > 0.0, 0.0, x)  # no infinity, which would make the derivative NaN
    return where(x > 0.0, x, elementwise.expm1(below) * float(alpha))


def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along axis."""
    x = floating(x, "softmax")
    return normalization.softmax(x, axis=as_axis(axis, x.ndim))


def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """x - log(sum(exp(x))) along axis."""
    x = floating(x, "log_softmax")
    return normalization.log_softmax(x, axis=as_axis(axis, x.ndim))


def softmax_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> Tensor:
    """Cross-entropy per row, from logits (..., classes) and integer labels (...).

    Args:
        logits: Floating.
        labels: Class indices.
        label_smoothing: Share of the target that is spread over all classes, in [0, 1).
        ignore_index: Rows with this label have loss 0 and no gradient; None for no such label.

    Raises:
        OptionError: for a share or an index out of range.
    """
    require_fraction("label_smoothing", label_smoothing)
    logits, labels = floating(logits, "softmax_cross_entropy"), tensor(labels)
    known = labels
    if ignore_index is not None:
        require_label("ignore_index", ignore_index)
        known = without_ignored(labels, ignore_index)
    loss: Tensor = normalization.softmax_cross_entropy(
        logits, known, label_smoothing=float(label_smoothing)
    )
    if ignore_index is None:
        return loss
    return where(is_counted(labels, ignore_index), loss, scalar_like(0.0, loss))


def conv2d(
    x: Tensor,
    weight: Tensor,
    *,
    strides: int | Pair = 1,
    padding: Any = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of images (N, H, W, C) with weights (kh, kw, C / groups, O).

    Args:
        x: Images.
        weight: Filters.
        strides: Step of the window along height and width.
        padding: Zeros around the image: a number, or ((top, bottom), (left, right)).
        dilation: Distance of neighbouring weights in the image.
        groups: Output group k sees input group k only.

    Returns:
        (N, OH, OW, O) with OH = (H + top + bottom - dilation * (kh - 1) - 1) // stride + 1.
    """
    require_integer("groups", groups)
    return convolution.conv2d(
        floating(x, "conv2d"),
        floating(weight, "conv2d"),
        strides=as_pair(strides, "strides"),
        padding=as_padding(padding),
        dilation=as_pair(dilation, "dilation"),
        groups=operator.index(groups),
    )


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    *,
    strides: int | Pair = 1,
    padding: Any = 0,
    dilation: int | Pair = 1,
) -> Tensor:
    """Each channel of (N, H, W, C) with its own filters (kh, kw, C, M), to (N, OH, OW, C * M)."""
    return convolution.depthwise_conv2d(
        floating(x, "depthwise_conv2d"),
        floating(weight, "depthwise_conv2d"),
        strides=as_pair(strides, "strides"),
        padding=as_padding(padding),
        dilation=as_pair(dilation, "dilation"),
    )


def max_pool2d(
    x: Tensor, window: int | Pair, *, strides: int | Pair | None = None, padding: Any = 0
) -> Tensor:
    """Maximum over windows of (N, H, W, C); strides are the window's size by default."""
    size = as_pair(window, "window")
    return pooling.max_pool2d(
        floating(x, "max_pool2d"),
        window=size,
        strides=size if strides is None else as_pair(strides, "strides"),
        padding=as_padding(padding),
    )


def avg_pool2d(
    x: Tensor,
    window: int | Pair,
    *,
    strides: int | Pair | None = None,
    padding: Any = 0,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean over windows of (N, H, W, C); padding counts as zeros unless told otherwise."""
    x = floating(x, "avg_pool2d")
    size = as_pair(window, "window")
    step = size if strides is None else as_pair(strides, "strides")
    margins = as_padding(padding)
    result: Tensor = pooling.avg_pool2d(x, window=size, strides=step, padding=margins)
    if count_include_pad or margins == ((0, 0), (0, 0)):
        return result
    share = _inside_share(x.shape, size, step, margins).astype(x.dtype.numpy)
    return result / asarray(share, device=None if x.is_traced else x.device)


def _inside_share(
    shape: tuple[int, ...], window: Pair, strides: Pair, padding: Padding
) -> np.ndarray:
    """Which part of each window lies inside the image, (1, OH, OW, 1)."""
    _, height, width, _ = pooling.pool_output_shape(shape, window, strides, padding)
    counts = []
    for axis, count in enumerate((height, width)):
        start = np.arange(count) * strides[axis] - padding[axis][0]
        stop = np.minimum(start + window[axis], shape[1 + axis])
        counts.append(stop - np.maximum(start, 0))
    share: np.ndarray = counts[0][:, None] * counts[1][None, :] / (window[0] * window[1])
    return share.reshape(1, height, width, 1)


def adaptive_avg_pool2d(x: Tensor, output_size: int | Pair) -> Tensor:
    """Mean over output_size windows that cover (N, H, W, C) evenly, as in torch.

    Window i of n covers rows floor(i H / n) to ceil((i + 1) H / n). Where these differ in size,
    the mean is a product with one small matrix per axis.

    Raises:
        ShapeError: unless x is images with rows and columns.
    """
    x = floating(x, "adaptive_avg_pool2d")
    if x.ndim != 4:
        raise ShapeError(f"adaptive_avg_pool2d needs images (N, H, W, C), got shape {x.shape}.")
    size = as_pair(output_size, "output_size")
    extents = x.shape[1:3]
    if 0 in extents:
        raise ShapeError(
            f"adaptive_avg_pool2d takes means of windows: the images need rows and columns, got "
            f"shape {x.shape}."
        )
    if size == (1, 1):
        return mean(x, axis=(1, 2), keepdims=True)
    if all(extent % n == 0 for extent, n in zip(extents, size, strict=True)):
        window = (extents[0] // size[0], extents[1] // size[1])
        return x if window == (1, 1) else avg_pool2d(x, window)
    device = None if x.is_traced else x.device
    rows, columns = (
        asarray(_averaging_matrix(extent, n).astype(x.dtype.numpy), device=device)
        for extent, n in zip(extents, size, strict=True)
    )
    return einsum("nhvc,wv->nhwc", einsum("nuvc,hu->nhvc", x, rows), columns)


def _averaging_matrix(extent: int, count: int) -> np.ndarray:
    matrix = np.zeros((count, extent))
    for i in range(count):
        start, stop = i * extent // count, -(-(i + 1) * extent // count)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix


def local_response_norm(
    x: Tensor, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> Tensor:
    """x_i / (k + alpha * sum of x_j^2 over size neighbouring channels)^beta.

    The form and the defaults of Krizhevsky et al. (2012); torch divides alpha by size.
    """
    require_integer("size", size)
    return normalization.local_response_norm(
        floating(x, "local_response_norm"),
        size=size,
        alpha=float(alpha),
        beta=float(beta),
        k=float(k),
    )
