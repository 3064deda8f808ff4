"""Labels of which some are left out: padding of sequences, pixels that nobody labelled."""

from __future__ import annotations

import operator

from accelkit import dtypes
from accelkit.arguments import require_integer
from accelkit.ops.coercion import cast, scalar_like
from accelkit.ops.elementwise import maximum, where
from accelkit.ops.reductions import mean, sum
from accelkit.tensor import Tensor

__all__ = [
    "count_labels",
    "is_counted",
    "mean_of_samples",
    "mean_over_labels",
    "require_label",
    "without_ignored",
]


def require_label(name: str, value: int) -> None:
    """Refuse what is no 32-bit integer.

    Raises:
        OptionError: with the name and the value.
    """
    require_integer(name, value, least=-(2**31))


def is_counted(labels: Tensor, ignore_index: int) -> Tensor:
    """Bool of the labels' shape: whether a label is another one than ``ignore_index``."""
    if labels.dtype not in (dtypes.int32, dtypes.int64):  # the index may not be one of its numbers
        labels = cast(labels, dtypes.int64)
    return labels != operator.index(ignore_index)


def without_ignored(labels: Tensor, ignore_index: int) -> Tensor:
    """The labels, with the class 0 in place of those that are left out."""
    return where(is_counted(labels, ignore_index), labels, scalar_like(0, labels))


def count_labels(labels: Tensor, ignore_index: int) -> Tensor:
    """How many of each sample's labels (N, ...) count, int32 (N,)."""
    counted = cast(is_counted(labels, ignore_index), dtypes.int32)
    return counted if counted.ndim == 1 else sum(counted, axis=_inner(labels), dtype=dtypes.int32)


def mean_of_samples(values: Tensor) -> Tensor:
    """(N,): the mean over all axes but the first."""
    return values if values.ndim == 1 else mean(values, axis=_inner(values))


def mean_over_labels(values: Tensor, labels: Tensor, ignore_index: int | None) -> Tensor:
    """Mean of one number per label over each sample's labels that count; 0 where none does.

    Args:
        values: Floating, (N, ...).
        labels: Of the same shape.
        ignore_index: Label of what is left out; None for no such label.

    Returns:
        (N,).
    """
    if ignore_index is None:
        return mean_of_samples(values)
    values = where(is_counted(labels, ignore_index), values, scalar_like(0.0, values))
    if values.ndim == 1:
        return values
    counts = maximum(count_labels(labels, ignore_index), 1)
    return sum(values, axis=_inner(labels)) / cast(counts, values.dtype)


def _inner(x: Tensor) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))
