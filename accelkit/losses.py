"""Losses: one number per sample; the training step takes their weighted mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelkit import ops
from accelkit.arguments import require_fraction
from accelkit.dtypes import dtype as as_dtype
from accelkit.errors import DTypeError, OptionError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.primitives.bookkeeping import labels_in_range
from accelkit.tensor import Tensor

__all__ = ["Loss", "MeanSquaredError", "SoftmaxCrossEntropy", "check_labels"]


class Loss:
    """Base class of losses. Subclass it for one of your own."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample, (N,), from the model's outputs (N, ...) and the targets."""
        raise NotImplementedError(f"{type(self).__name__} does not define __call__.")

    def target_dtype_is_integer(self) -> bool:
        """Whether targets are integer labels."""
        return False

    def check(self, targets: np.ndarray, outputs: TensorSpec) -> None:
        """Refuse targets on the host that do not fit outputs of this spec."""

    def valid(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor | None:
        """Inside the compiled step: bool[], whether every target that counts is valid.

        Targets of samples whose weight is 0 do not count. None if targets always are.
        """
        return None


def check_labels(labels: np.ndarray, classes: int) -> None:
    """Refuse labels that are no integers in [0, classes).

    Raises:
        DTypeError: for labels of another kind.
        OptionError: for labels out of range; the message counts them and names the first.
    """
    if not as_dtype(labels.dtype).is_integer:
        raise DTypeError(f"Labels must be integers, got dtype {labels.dtype}.")
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        flat = labels.reshape(-1)
        wrong = np.flatnonzero((flat < 0) | (flat >= classes))
        raise OptionError(
            f"Labels must be in [0, {classes}), got {flat[wrong[0]]} at position {wrong[0]}"
            + (f" and {wrong.size - 1} more out of range." if wrong.size > 1 else ".")
        )


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """-log softmax(logits)[label], for logits (N, ..., classes) and integer labels (N, ...).

    Attributes:
        label_smoothing: Share of the target that is spread over all classes
            (Szegedy et al., 2016), in [0, 1).
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_fraction("label_smoothing", self.label_smoothing)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(N,): the mean over the axes between the first and the classes."""
        loss = ops.softmax_cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)
        return loss if loss.ndim == 1 else ops.mean(loss, axis=tuple(range(1, loss.ndim)))

    def target_dtype_is_integer(self) -> bool:
        """Targets are class indices."""
        return True

    def check(self, targets: np.ndarray, outputs: TensorSpec) -> None:
        """Labels must be integers in range, one per row of logits."""
        check_labels(targets, outputs.shape[-1])

    def valid(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor | None:
        """Whether all labels that count are in range."""
        return labels_in_range(targets, weights, classes=outputs.shape[-1])


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """The mean of (outputs - targets)^2 over all axes but the first."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(N,) from outputs and targets of one shape (N, ...)."""
        if outputs.shape != targets.shape:
            raise ShapeError(
                f"Mean squared error needs targets shaped like the outputs {outputs.shape}, got "
                f"{targets.shape}."
            )
        squared = ops.square(outputs - ops.astype(targets, outputs.dtype))
        return (
            squared if squared.ndim == 1 else ops.mean(squared, axis=tuple(range(1, squared.ndim)))
        )
