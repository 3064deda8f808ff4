"""What a step reports about labels and losses.

In host memory torch computes before it returns, so reading a number costs less than a kernel:
there these are decided in Python. On other devices nothing is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from accelkit_torch.dtypes import FROM_TORCH
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
    report = _vector([*numbers, *events], values[0].dtype)
    return torch.tensor(events, dtype=torch.int32), report


def _vector(numbers: list[float], dtype: torch.dtype) -> Tensor:
    """Numbers as a vector, by way of NumPy, which takes a third of the time."""
    if dtype.itemsize < 4:
        return torch.tensor(numbers, dtype=dtype)
    return torch.from_numpy(np.array(numbers, FROM_TORCH[dtype].numpy))


def _step(keys: Tensor) -> Tensor:
    return keys[0, 0].to(torch.int32)


def deferred_report(
    watch: Tensor, keys: Tensor, valid: Tensor, *values: Tensor
) -> tuple[Tensor, Tensor]:
    """The new watch and the report without waiting for any of the operands."""
    happened = torch.stack([torch.isfinite(values[0]), valid]).logical_not_()
    watch = torch.where(happened & (watch < 0), _step(keys), watch)
    return watch, torch.cat([torch.stack(values), watch.to(values[0].dtype)])


def _evaluation_report(valid: Tensor, weights: Tensor, *values: Tensor) -> Tensor:
    if weights.device.type == "cpu" and weights.dtype.itemsize >= 4:
        total = weights.sum().item()
        if total:
            means = [torch.dot(value, weights).item() / total for value in values]
            return _vector([*means, -1.0, 0.0 - valid.item()], weights.dtype)
    return deferred_evaluation_report(valid, weights, *values)


def deferred_evaluation_report(valid: Tensor, weights: Tensor, *values: Tensor) -> Tensor:
    """The report without waiting for any of the operands."""
    means = torch.stack([value * weights for value in values]).sum(1) / weights.sum()
    bad = 0.0 - valid.to(weights.dtype)
    return torch.cat([means, torch.stack([torch.full_like(bad, -1.0), bad])])


BOOKKEEPING: Final[dict[str, Callable[..., Any]]] = {
    "labels_in_range": _labels_in_range,
    "step_report": _step_report,
    "evaluation_report": _evaluation_report,
}
