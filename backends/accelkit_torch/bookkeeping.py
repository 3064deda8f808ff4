"""What a training step observes about labels and losses.

In host memory torch computes before it returns, so reading a number costs less than a kernel:
there these are decided in Python. On other devices nothing is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from accelkit_torch.unsigned import WIDE


def _labels_in_range(labels: Tensor, weights: Tensor, *, classes: int) -> Tensor:
    if labels.dtype in WIDE:
        labels = labels.to(torch.int64)
    if labels.device.type == "cpu" and labels.numel():
        low, high = torch.aminmax(labels)
        if low.item() >= 0 and high.item() < classes:
            return torch.ones((), dtype=torch.bool)
    return labels_that_count_in_range(labels, weights, classes)


def labels_that_count_in_range(labels: Tensor, weights: Tensor, classes: int) -> Tensor:
    """bool[]: whether all labels of samples with a weight are classes."""
    inside = (labels >= 0) & (labels < classes)
    counts_not = (weights == 0).view(-1, *(1,) * (labels.ndim - 1))
    return (inside | counts_not).all()


def _step_report(
    watch: Tensor, keys: Tensor, valid: Tensor, *values: Tensor
) -> tuple[Tensor, Tensor]:
    if watch.device.type == "cpu":
        return _read_report(watch, keys, valid, *values)
    return deferred_report(watch, keys, valid, *values)


def _read_report(
    watch: Tensor, keys: Tensor, valid: Tensor, *values: Tensor
) -> tuple[Tensor, Tensor]:
    numbers = [value.item() for value in values]
    events = watch.tolist()
    for position, fine in enumerate((math.isfinite(numbers[0]), valid.item())):
        if not fine and events[position] < 0:
            events[position] = _step(keys).item()
    report = torch.tensor([*numbers, *events], dtype=values[0].dtype)
    return torch.tensor(events, dtype=torch.int32), report


def _step(keys: Tensor) -> Tensor:
    return keys[0, 0].to(torch.int32)


def deferred_report(
    watch: Tensor, keys: Tensor, valid: Tensor, *values: Tensor
) -> tuple[Tensor, Tensor]:
    """The new watch and the report without waiting for any of the operands."""
    happened = torch.stack([torch.isfinite(values[0]), valid]).logical_not_()
    watch = torch.where(happened & (watch < 0), _step(keys), watch)
    return watch, torch.cat([torch.stack(values), watch.to(values[0].dtype)])


BOOKKEEPING: Final[dict[str, Callable[..., Any]]] = {
    "labels_in_range": _labels_in_range,
    "step_report": _step_report,
}
