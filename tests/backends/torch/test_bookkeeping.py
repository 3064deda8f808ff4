"""Losses, and what a step observes of itself, in compiled programs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from accelkit_torch import bookkeeping
from accelkit_torch.table import TABLE
from backends.torch_programs import (
    check,
    traced,
)

from accelkit import dtypes
from accelkit.primitives import get


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_softmax_of_a_cross_entropy_is_computed_once(smoothing: float) -> None:
    def function(logits: Any, labels: Any, g: Any) -> list[Any]:
        labels = get("cast")(labels, dtype=dtypes.int32)
        forward, backward = get("softmax_cross_entropy"), get("softmax_cross_entropy_grad")
        return [
            forward(logits, labels, label_smoothing=smoothing),
            backward(logits, labels, g, label_smoothing=smoothing),
        ]

    counts = check(traced(function, (4, 7), (4,), (4,))).program.counts()
    assert counts["torch_cross_entropy"] == counts["torch_cross_entropy_grad"] == 1
    assert not {"softmax_cross_entropy", "softmax_cross_entropy_grad"} & counts.keys()


def test_a_cross_entropy_without_gradient_keeps_nothing() -> None:
    def function(logits: Any, labels: Any) -> list[Any]:
        labels = get("cast")(labels, dtype=dtypes.int32)
        return [get("softmax_cross_entropy")(logits, labels, label_smoothing=0.0)]

    assert "torch_cross_entropy" not in check(traced(function, (4, 7), (4,))).program.counts()


def test_what_a_step_observes_is_the_same_with_and_without_reading_it() -> None:
    keys = torch.tensor([[7, 0], [1, 2]], dtype=torch.uint32)
    for loss, right, seen in itertools.product((1.5, math.nan, -math.inf), (0, 1), (-1, 3)):
        values = [torch.tensor(loss), torch.tensor(0.25)]
        arrays = [torch.tensor([seen, -1], dtype=torch.int32), keys, torch.tensor(bool(right))]
        found = TABLE["step_report"](*arrays, *values)
        expected = bookkeeping.deferred_report(*arrays, *values)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype is b.dtype
            assert torch.equal(a.nan_to_num(), b.nan_to_num())
    weights = torch.tensor([1.0, 0.0, 2.0])
    for labels in ([0, 1, 2], [0, 9, 2], [3, 0, 0], [0, -1, 0], [-1, 0, 0]):
        array = torch.tensor(labels)
        found = TABLE["labels_in_range"](array, weights, classes=3)
        assert torch.equal(found, bookkeeping.labels_that_count_in_range(array, weights, 3))
        assert found.item() is all(0 <= n < 3 for n, w in zip(labels, weights, strict=True) if w)
    for valid, scale in itertools.product((True, False), (1.0, 0.0)):
        arrays = [torch.tensor(valid), weights * scale, torch.tensor([0.5, 9.0, -3.0])]
        found = TABLE["evaluation_report"](*arrays)
        torch.testing.assert_close(
            found, bookkeeping.deferred_evaluation_report(*arrays), equal_nan=True
        )
        assert found[1:].tolist() == [-1.0, -1.0 if valid else 0.0]


def test_a_label_that_is_no_class_is_taken_for_one_in_a_loss() -> None:
    logits, labels = torch.randn(3, 4), torch.tensor([1, 9, -100], dtype=torch.int32)
    found = TABLE["softmax_cross_entropy"](logits, labels, label_smoothing=0.0)
    expected = -torch.log_softmax(logits, -1)[[0, 1, 2], [1, 3, 0]]
    torch.testing.assert_close(found, expected)
