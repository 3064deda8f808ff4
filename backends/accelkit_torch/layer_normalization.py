"""Layer normalisation by torch's own kernels, which pass over the activations once each way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from accelkit_torch.dtypes import in_float32

_aten = torch.ops.aten


@in_float32
def _layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, inverse = torch.native_layer_norm(x, scale.shape, scale, bias, epsilon)
    return y, mean, inverse


@in_float32
def _layer_norm_grad(
    x: Tensor, scale: Tensor, mean: Tensor, inverse: Tensor, g: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    # The bias only says that its cotangent is wanted, and what it looks like.
    found = _aten.native_layer_norm_backward(
        g, x, scale.shape, mean, inverse, scale, scale, (True, True, True)
    )
    by_x, by_scale, by_bias = found
    return by_x, by_scale, by_bias


LAYER_NORMALIZATION: Final[dict[str, Callable[..., Any]]] = {
    "layer_norm": _layer_norm,
    "layer_norm_grad": _layer_norm_grad,
}
