"""Softmax, its cross-entropy, and local response normalisation."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from accelkit_torch.bookkeeping import labels_that_count_in_range
from accelkit_torch.dtypes import in_float32


def _softmax(x: Tensor, *, axis: int) -> Tensor:
    return torch.softmax(x, axis)


def _softmax_grad(y: Tensor, g: Tensor, *, axis: int) -> Tensor:
    return torch._softmax_backward_data(g, y, axis, y.dtype)


def _log_softmax(x: Tensor, *, axis: int) -> Tensor:
    return torch.log_softmax(x, axis)


_NO_REDUCTION = 0
_NO_LABEL = -(1 << 62)  # torch leaves out samples with a label of this number


def _target(labels: Tensor, classes: int) -> Tensor:
    """Index (...) of each row's label; of some class where the label is none."""
    if labels.dtype is torch.int64:
        return labels.clamp(0, classes - 1)
    return labels.to(torch.int64).clamp_(0, classes - 1)


def cross_entropy_and_probability(
    logits: Tensor, labels: Tensor, *, label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and what its gradient needs: log-probabilities, and indices of the labels."""
    log_probability = torch.log_softmax(logits, -1)
    index = _target(labels, logits.shape[-1])
    return _smoothed(log_probability, index, label_smoothing), log_probability, index


def checked_cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor, *, label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What :func:`cross_entropy_and_probability` gives, and bool[]: whether labels are classes.

    In host memory torch's kernels refuse an index that is none, so that nothing else need read the
    labels. Those of samples of weight 0 do not count.
    """
    log_probability = torch.log_softmax(logits, -1)
    index = labels.long()
    try:
        if label_smoothing or index.ndim != 1:
            loss = _smoothed(log_probability, index, label_smoothing)
        else:  # the same numbers by one call: half the time of several, for 32 samples
            loss = torch._C._nn.nll_loss_nd(log_probability, index, None, _NO_REDUCTION, _NO_LABEL)
        valid = _true()
    except (IndexError, RuntimeError):
        valid = labels_that_count_in_range(index, weights, logits.shape[-1])
        index = _target(index, logits.shape[-1])
        loss = _smoothed(log_probability, index, label_smoothing)
    return loss, log_probability, index, valid


@functools.cache
def _true() -> Tensor:
    return torch.ones((), dtype=torch.bool)


def _smoothed(log_probability: Tensor, index: Tensor, label_smoothing: float) -> Tensor:
    """The loss; an error of torch's for an index that is no class, where kernels look at it."""
    loss = log_probability.gather(-1, index.unsqueeze(-1)).squeeze(-1).neg_()
    if label_smoothing:
        uniform = log_probability.mean(-1)
        loss = loss.mul_(1.0 - label_smoothing).sub_(uniform, alpha=label_smoothing)
    return loss


def cross_entropy_grad_of_probability(
    log_probability: Tensor, index: Tensor, g: Tensor, *, label_smoothing: float
) -> Tensor:
    """The gradient from what :func:`cross_entropy_and_probability` kept."""
    return _minus_target(log_probability.exp(), index, label_smoothing).mul_(g.unsqueeze(-1))


def _minus_target(probability: Tensor, index: Tensor, label_smoothing: float) -> Tensor:
    """``probability - target`` in place."""
    if label_smoothing:
        probability.sub_(label_smoothing / probability.shape[-1])
    index = index.unsqueeze(-1)
    share = probability.new_full(index.shape, label_smoothing - 1.0)
    return probability.scatter_add_(-1, index, share)


def _softmax_cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    if logits.device.type == "cpu" and logits.ndim == 2 and not label_smoothing:
        with contextlib.suppress(IndexError):  # of a label that is no class
            return torch._C._nn.cross_entropy_loss(
                logits, labels.to(torch.int64), None, _NO_REDUCTION, _NO_LABEL
            )
    return cross_entropy_and_probability(logits, labels, label_smoothing=label_smoothing)[0]


def _softmax_cross_entropy_grad(
    logits: Tensor, labels: Tensor, g: Tensor, *, label_smoothing: float
) -> Tensor:
    index = _target(labels, logits.shape[-1])
    difference = _minus_target(torch.softmax(logits, -1), index, label_smoothing)
    return difference.mul_(g.unsqueeze(-1))


# --- local response normalisation -----------------------------------------------------------------

# Rows of a piece are few enough for its temporaries to stay in a processor's cache.
_CPU_PIECE_ELEMENTS = 1 << 16
_BAND_CHANNELS = 128


@functools.lru_cache(maxsize=64)
def _band(
    channels: int, before: int, after: int, value: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(C, C): column i holds ``value`` in the rows of the window around channel i."""
    index = torch.arange(channels, device=device)
    offset = index[:, None] - index[None, :]
    inside = (offset >= -before) & (offset <= after)
    return inside.to(dtype).mul_(value)


def _window_sum(rows: Tensor, before: int, after: int, value: float) -> Tensor:
    """``value`` times the sum over channels i - before .. i + after, clipped at the ends.

    A product with a band matrix is the fastest way as long as there are few channels.
    """
    channels = rows.shape[-1]
    if channels <= _BAND_CHANNELS:
        return torch.mm(rows, _band(channels, before, after, value, rows.dtype, rows.device))
    total = rows * value
    for distance in range(1, before + 1):
        total[:, distance:].add_(rows[:, :-distance], alpha=value)
    for distance in range(1, after + 1):
        total[:, :-distance].add_(rows[:, distance:], alpha=value)
    return total


def _factor(scale: Tensor, beta: float) -> Tensor:
    """scale ** -beta; ``scale`` may be overwritten."""
    if beta == 0.75:
        root = scale.rsqrt_()
        return torch.sqrt(root).mul_(root)
    return scale.pow_(-beta)


def _pieces(x: Tensor, *others: Tensor) -> Any:
    """Row-matrix views (rows, C) of NHWC arrays, cut into pieces that run one by one."""
    count = x.numel() // max(1, x.shape[-1])
    flat = [t.reshape(count, x.shape[-1]) for t in (x, *others)]
    if x.device.type != "cpu":
        return [flat]
    rows = max(1, _CPU_PIECE_ELEMENTS // max(1, x.shape[-1]))
    return zip(*(t.split(rows) for t in flat), strict=True)


@in_float32
def _local_response_norm(x: Tensor, *, size: int, alpha: float, beta: float, k: float) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for part, out in _pieces(x, y):
        scale = _window_sum(part * part, size // 2, (size - 1) // 2, alpha).add_(k)
        torch.mul(part, _factor(scale, beta), out=out)
    return y


@in_float32
def _local_response_norm_grad(
    x: Tensor, g: Tensor, *, size: int, alpha: float, beta: float, k: float
) -> Tensor:
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    before, after = size // 2, (size - 1) // 2
    for part, cotangent, out in _pieces(x, g, dx):
        scale = _window_sum(part * part, before, after, alpha).add_(k)
        scaled = cotangent * _factor(scale.clone(), beta)
        inner = torch.mul(scaled, part).div_(scale)
        spread = _window_sum(inner, after, before, -2.0 * alpha * beta)
        torch.addcmul(scaled, part, spread, out=out)
    return dx


NORMALIZATION: dict[str, Callable[..., Any]] = {
    "softmax": _softmax,
    "softmax_grad": _softmax_grad,
    "log_softmax": _log_softmax,
    "softmax_cross_entropy": _softmax_cross_entropy,
    "softmax_cross_entropy_grad": _softmax_cross_entropy_grad,
    "local_response_norm": _local_response_norm,
    "local_response_norm_grad": _local_response_norm_grad,
}
