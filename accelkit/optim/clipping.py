"""Gradients whose norm is bounded."""

from __future__ import annotations

from typing import Any

from accelkit import ops, tree
from accelkit.arguments import require_instance, require_number
from accelkit.errors import OptionError
from accelkit.tensor import Tensor

__all__ = ["clip_by_global_norm", "global_norm"]


def global_norm(tensors: Any) -> Tensor:
    """The Euclidean norm of all elements of all tensors of a pytree together, of shape ().

    Raises:
        OptionError: if there is no tensor.
    """
    leaves = tree.flatten(tensors)[0]
    if not leaves:
        raise OptionError("The norm of no tensors was asked for; give at least one.")
    for leaf in leaves:
        require_instance("tensors", leaf, Tensor, "Give tensors, or dicts and lists of them.")
    return ops.sqrt(ops.sum(ops.stack([ops.sum(t * t) for t in leaves])))


def clip_by_global_norm(gradients: Any, norm: float) -> Any:
    """The gradients, scaled down together to a global norm of at most ``norm``.

    Every gradient is multiplied by min(1, norm / global norm) (Pascanu et al., 2013), so their
    direction stays. Gradients that are not finite give NaN.

    Args:
        gradients: A pytree of floating tensors, such as :func:`accelkit.grad` returns.
        norm: The largest Euclidean norm of all of them together, above 0.

    Raises:
        OptionError: if the norm is not positive and finite, or there is no gradient.
    """
    require_number("norm", norm, positive=True)
    found = global_norm(gradients)
    factor = norm / ops.maximum(found, norm)
    return tree.map(lambda gradient: gradient * factor, gradients)
