"""Batch normalisation by torch's own kernels, on NHWC memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from accelkit_torch.dtypes import in_float32

_aten = torch.ops.aten


def _images(x: Tensor) -> Tensor:
    """(..., C) as images (N, C, H, W) whose channels are last in memory; nothing is copied."""
    if x.ndim == 4:
        return x.permute(0, 3, 1, 2)
    return x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)


def _like(images: Tensor, x: Tensor) -> Tensor:
    """The way back from :func:`_images`."""
    return images.permute(0, 2, 3, 1).reshape(x.shape)


@in_float32
def _batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    count = x.numel() // max(x.shape[-1], 1)
    if count <= 1:  # x * a - mean * a, as the kernel computes it, would not be exactly 0
        return x - x + bias, x.reshape(count, x.shape[-1]).sum(0), torch.zeros_like(scale)
    # As running statistics that keep nothing: these are the exact mean and variance, where the
    # kernel's third result would have to be inverted.
    mean, var = torch.zeros_like(scale), torch.zeros_like(scale)
    y = torch.native_batch_norm(_images(x), scale, bias, mean, var, True, 1.0, epsilon)[0]
    return _like(y, x), mean, var.mul_((count - 1) / count)  # the kernel divides by count - 1


@in_float32
def _batch_norm_grad(
    x: Tensor, scale: Tensor, mean: Tensor, var: Tensor, g: Tensor, *, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    if not x.shape[-1]:  # torch's kernel would end the process
        return torch.zeros_like(x), torch.zeros_like(scale), torch.zeros_like(scale)
    by_x, by_scale, by_bias = _aten.native_batch_norm_backward(
        _images(g),
        _images(x),
        scale,
        None,
        None,
        mean,
        torch.rsqrt(var + epsilon),
        True,
        epsilon,
        (True, True, True),
    )
    return _like(by_x, x), by_scale, by_bias


BATCH_NORMALIZATION: Final[dict[str, Callable[..., Any]]] = {
    "batch_norm": _batch_norm,
    "batch_norm_grad": _batch_norm_grad,
}
