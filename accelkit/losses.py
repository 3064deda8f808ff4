"""Losses: one number per sample; the training step takes their weighted mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from accelkit import ops
from accelkit.arguments import require_fraction, require_instance
from accelkit.dtypes import dtype as as_dtype
from accelkit.errors import DTypeError, OptionError, ShapeError
from accelkit.foreign_names import refuser
from accelkit.graph import TensorSpec
from accelkit.ops.labels import (
    count_labels,
    mean_of_samples,
    mean_over_labels,
    require_label,
    without_ignored,
)
from accelkit.primitives.bookkeeping import labels_in_range
from accelkit.tensor import Tensor

__all__ = [
    "BinaryCrossEntropy",
    "Loss",
    "MeanSquaredError",
    "SoftmaxCrossEntropy",
    "check_labels",
]


if not TYPE_CHECKING:  # type checkers know what names there are
    __getattr__ = refuser(__name__, __all__)


class Loss:
    """Base class of losses. Subclass it for one of your own."""

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        """The loss of each sample, (N,), from what the model returns and the targets.

        Where the model returns several tensors, ``outputs`` is the dict, list or tuple of them.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define __call__.")

    def target_dtype_is_integer(self) -> bool:
        """Whether targets are integer labels."""
        return False

    def check(self, targets: np.ndarray, outputs: Any) -> None:
        """Refuse targets on the host that do not fit outputs of this spec, or pytree of specs."""

    def counts(self, targets: Tensor) -> Tensor | None:
        """How many of each sample's targets count, (N,), where some are left out; else None.

        In the means of loss and metrics a sample weighs as much as it has targets that count.
        """
        return None

    def valid(self, outputs: Any, targets: Tensor, weights: Tensor) -> Tensor | None:
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
        ignore_index: Label of what is left out, such as padding or unknown pixels: it has no part
            in the loss or its mean, as in torch. None for no such label.
    """

    label_smoothing: float = 0.0
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        require_fraction("label_smoothing", self.label_smoothing)
        if self.ignore_index is not None:
            require_label("ignore_index", self.ignore_index)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(N,): the mean over the axes between the first and the classes."""
        _require_one_output(self, outputs)
        if targets.shape == outputs.shape:
            raise ShapeError(
                f"Labels are class indices {outputs.shape[:-1]} for outputs {outputs.shape}, got "
                f"{targets.shape}. One-hot rows become labels by `.argmax(axis=-1)`."
            )
        loss = ops.softmax_cross_entropy(
            outputs,
            targets,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
        )
        return mean_over_labels(loss, targets, self.ignore_index)

    def counts(self, targets: Tensor) -> Tensor | None:
        """The number of each sample's labels that are not ``ignore_index``."""
        if self.ignore_index is None:
            return None
        return count_labels(targets, self.ignore_index)

    def target_dtype_is_integer(self) -> bool:
        """Targets are class indices."""
        return True

    def check(self, targets: np.ndarray, outputs: TensorSpec) -> None:
        """Labels must be integers in range, one per row of logits, or left out; not all of them."""
        if self.ignore_index is not None:
            counted = targets != self.ignore_index
            if not counted.any():
                raise OptionError(
                    f"Every label of the batch is ignore_index={self.ignore_index}: there is no "
                    "loss. Leave out such a batch."
                )
            targets = np.where(counted, targets, 0)
        check_labels(targets, outputs.shape[-1])

    def valid(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor | None:
        """Whether all labels that count are in range."""
        if self.ignore_index is not None:
            targets = without_ignored(targets, self.ignore_index)
        return labels_in_range(targets, weights, classes=outputs.shape[-1])


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """The mean of (outputs - targets)^2 over all axes but the first."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(N,) from outputs and targets of one shape (N, ...)."""
        _require_one_output(self, outputs)
        _require_one_shape("Mean squared error", outputs, targets)
        return mean_of_samples(ops.square(outputs - ops.astype(targets, outputs.dtype)))


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """-t log p - (1 - t) log(1 - p) with p = sigmoid(output), for yes-or-no targets t in [0, 1].

    The mean over all axes but the first, so several labels of a sample may hold at once. It is
    computed from the outputs without overflow: do not end the model with a sigmoid.
    """

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(N,) from outputs and targets of one shape (N, ...)."""
        _require_one_output(self, outputs)
        _require_one_shape("Binary cross-entropy", outputs, targets)
        loss = ops.softplus(outputs) - outputs * ops.astype(targets, outputs.dtype)
        return mean_of_samples(loss)

    def check(self, targets: np.ndarray, outputs: TensorSpec) -> None:
        """Targets must be probabilities."""
        if targets.size and not (targets.min() >= 0 and targets.max() <= 1):
            raise OptionError(
                f"Targets of binary cross-entropy must be in [0, 1], got {targets.min()} to "
                f"{targets.max()}."
            )


def _require_one_output(loss: Loss, outputs: Any) -> None:
    require_instance(
        "outputs",
        outputs,
        Tensor,
        f"{type(loss).__name__} is of one output: write a Loss that takes what the model returns.",
    )


def _require_one_shape(loss: str, outputs: Tensor, targets: Tensor) -> None:
    if outputs.shape != targets.shape:
        raise ShapeError(
            f"{loss} needs targets shaped like the outputs {outputs.shape}, got {targets.shape}."
        )
