"""Parameter updates out of place, one parameter at a time (compiled programs fuse them)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _sgd_update(
    p: Tensor,
    g: Tensor,
    v: Tensor,
    learning_rate: Tensor,
    *,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> tuple[Tensor, Tensor]:
    if weight_decay:
        g = torch.add(g, p, alpha=weight_decay)
    v = torch.mul(v, momentum).add_(g)
    direction = torch.add(g, v, alpha=momentum) if nesterov else v
    return p - direction * learning_rate, v


def _adam_update(
    p: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    learning_rate: Tensor,
    correction1: Tensor,
    correction2: Tensor,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if weight_decay and decoupled:
        p = p - p * (learning_rate * weight_decay)
    elif weight_decay:
        g = torch.add(g, p, alpha=weight_decay)
    m = torch.mul(m, beta1).add_(g, alpha=1.0 - beta1)
    v = torch.mul(v, beta2).addcmul_(g, g, value=1.0 - beta2)
    denominator = torch.sqrt(v).div_(torch.sqrt(correction2)).add_(epsilon)
    return p - (m / denominator).mul_(learning_rate / correction1), m, v


def _sgd_update_matmul(
    p: Tensor,
    a: Tensor,
    b: Tensor,
    v: Tensor,
    learning_rate: Tensor,
    *,
    transpose_a: bool,
    transpose_b: bool,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    g = torch.matmul(a.mT if transpose_a else a, b.mT if transpose_b else b)
    return _sgd_update(p, g, v, learning_rate, **options)


OPTIMIZER: dict[str, Callable[..., Any]] = {
    "sgd_update": _sgd_update,
    "sgd_update_matmul": _sgd_update_matmul,
    "adam_update": _adam_update,
    "average_update": torch.lerp,
}
