"""Updates of many parameters by one call of torch's fused optimizer kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def _is_dense(g: Tensor) -> bool:
    """Whether ``g`` is contiguous, or HWIO weights in the order OHWI: torch's gradients are."""
    return bool(g.is_contiguous() or (g.ndim == 4 and g.permute(3, 0, 1, 2).is_contiguous()))


def _ready(tensors: Sequence[Tensor], layouts: Sequence[Tensor], owned: Any) -> list[Tensor]:
    """The tensors in the memory layouts of their gradients, to be updated in place.

    What is not ``owned`` is copied. The gradient of a convolution's weights has a layout of its
    own. From the first step on its parameter has it too, so that nothing is copied any more, and
    convolutions read that layout faster as well.
    """
    found = []
    for tensor, layout, own in zip(tensors, layouts, owned, strict=True):
        if own and tensor.stride() == layout.stride():
            found.append(tensor)
        else:
            found.append(torch.empty_like(layout, dtype=tensor.dtype).copy_(tensor))
    return found


def _in_memory_order(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Views of dense tensors that are contiguous: the kernels copy what is not."""
    return [t if t.is_contiguous() else t.permute(3, 0, 1, 2) for t in tensors]


def _split(
    tensors: Sequence[Tensor], count: int, owned: Sequence[bool]
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Dense gradients, and the lists of parameters and slots, ready to be changed in place."""
    parts = [tensors[i : i + count] for i in range(0, len(tensors), count)]
    gradients = [g if _is_dense(g) else g.contiguous() for g in parts[1]]
    owners = [owned[i : i + count] for i in range(0, len(owned), count)]
    states = [_ready(parts[i], gradients, owners[i]) for i in range(len(parts)) if i != 1]
    return gradients, states


def _skip(
    tensors: tuple[Tensor, ...], conditional: bool
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """1 where a condition in front of the tensors says that nothing is to change, 0 else.

    The kernels know it as the sign that a gradient scaler found an infinity.
    """
    if not conditional:
        return None, tensors
    return tensors[0].logical_not().to(torch.float32), tensors[1:]


def sgd(owned: Sequence[bool]) -> Callable[..., list[Tensor]]:
    """The function of a ``torch_sgd`` node.

    Args:
        owned: Which of the tensors may be updated in place.
    """

    def run(
        learning_rate: Tensor,
        *tensors: Tensor,
        count: int,
        conditional: bool,
        momentum: float,
        weight_decay: float,
        nesterov: bool,
        accumulated: bool,
    ) -> list[Tensor]:
        skip, tensors = _skip(tensors, conditional)
        gradients, (parameters, momenta) = _split(tensors, count, owned)
        halves = 2.0 / momentum if accumulated else 1.0
        torch._fused_sgd_(
            _in_memory_order(parameters),
            _in_memory_order(momenta if accumulated else gradients),
            _in_memory_order(momenta),
            # The kernel adds up momentum * v + (1 - dampening) * (g + weight_decay * p). Where v
            # already is v + g / momentum, it is given that for both, and half the factor each.
            weight_decay=weight_decay * halves,
            momentum=momentum / 2.0 if accumulated else momentum,
            lr=learning_rate,
            dampening=1.0 - momentum / 2.0 if accumulated else 0.0,
            nesterov=nesterov,
            maximize=False,
            is_first_step=False,
            found_inf=skip,
        )
        return [*parameters, *momenta]

    return run


def adam(owned: Sequence[bool]) -> Callable[..., list[Tensor]]:
    """The function of a ``torch_adam`` node.

    The kernels count steps themselves and correct by ``1 - beta ** step``.
    """

    def run(
        learning_rate: Tensor,
        correction1: Tensor,
        correction2: Tensor,
        *tensors: Tensor,
        count: int,
        conditional: bool,
        beta1: float,
        beta2: float,
        epsilon: float,
        weight_decay: float,
        decoupled: bool,
    ) -> list[Tensor]:
        skip, tensors = _skip(tensors, conditional)
        gradients, (parameters, m, v) = _split(tensors, count, owned)
        step = _step(correction1, beta1) if beta1 > beta2 else _step(correction2, beta2)
        kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
        kernel(
            *map(_in_memory_order, (parameters, gradients, m, v)),
            [],
            [step] * count,
            lr=learning_rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=weight_decay,
            eps=epsilon,
            amsgrad=False,
            maximize=False,
            found_inf=skip,
        )
        return [*parameters, *m, *v]

    return run


def _step(correction: Tensor, beta: float) -> Tensor:
    """The step t of ``correction = 1 - beta ** t``, for the slower one of two corrections.

    Where rounding hides t, the correction and the faster one are 1 to within rounding.
    """
    if beta == 0.0:
        return torch.ones((), device=correction.device)
    step = torch.log1p(-correction.double()) / math.log(beta)
    return step.round_().clamp_(min=1.0).float()
