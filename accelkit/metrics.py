"""Metrics: one number per sample; steps report their weighted mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accelkit import ops
from accelkit.arguments import require_instance, require_integer
from accelkit.errors import OptionError, ShapeError
from accelkit.foreign_names import refuser
from accelkit.ops.labels import mean_over_labels, require_label
from accelkit.primitives.reductions import keep_axes
from accelkit.tensor import Tensor

__all__ = ["Metric", "TopKAccuracy"]

if not TYPE_CHECKING:  # type checkers know what names there are
    __getattr__ = refuser(__name__, __all__)


class Metric:
    """Base class of metrics. Subclass it for one of your own.

    Attributes:
        name: Under which it is reported.
    """

    name: str

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        """The metric of each sample, (N,)."""
        raise NotImplementedError(f"{type(self).__name__} does not define __call__.")


@dataclass(frozen=True)
class TopKAccuracy(Metric):
    """The share of a sample's labels that are among the k largest logits: 1 or 0 for one label.

    Equal logits rank by index, lower first, on every backend.

    Attributes:
        k: How many.
        ignore_index: Label of what does not count; None for no such label.
    """

    k: int = 1
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        require_integer("k", self.k)
        if self.ignore_index is not None:
            require_label("ignore_index", self.ignore_index)

    @property
    def name(self) -> str:  # type: ignore[override]
        """``"top1"``, ``"top5"``, ..."""
        return f"top{self.k}"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(N,) floating, from logits (N, ..., classes) and integer labels (N, ...).

        Raises:
            OptionError: where there are fewer classes than k.
            ShapeError: for labels of another shape than the logits' without the classes.
        """
        require_instance("outputs", outputs, Tensor, "TopKAccuracy is of one output, the logits.")
        axis = outputs.ndim - 1
        if outputs.shape[axis] < self.k:
            raise OptionError(
                f"TopKAccuracy(k={self.k}) needs at least {self.k} classes, got logits "
                f"{outputs.shape}. Choose a smaller k."
            )
        if targets.shape != outputs.shape[:-1]:
            raise ShapeError(
                f"TopKAccuracy needs labels {outputs.shape[:-1]} for logits {outputs.shape}, got "
                f"{targets.shape}."
            )
        hit = ops.one_hot(targets, outputs.shape[-1], dtype="bool")
        zero = ops.zeros_like(outputs)
        score = keep_axes(ops.sum(ops.where(hit, outputs, zero), axis=axis), outputs, (axis,))
        index = ops.cumulative_sum(ops.astype(hit, "int32"), axis=axis, dtype="int32")
        is_lower = index == 0  # positions before the label
        ahead = (outputs > score) | ((outputs == score) & is_lower)
        rank = ops.sum(ops.astype(ahead, "int32"), axis=axis, dtype="int32")
        finite = ops.all(ops.isfinite(outputs), axis=axis)
        found = ops.astype((rank < self.k) & finite, outputs.dtype)
        return mean_over_labels(found, targets, self.ignore_index)
