"""Losses, and what a step observes of itself, in compiled programs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from accelkit_torch import bookkeeping
from accelkit_torch.rewrites import rewrite_for_torch
from accelkit_torch.table import TABLE
from backends.torch_programs import (
    check,
    compiled,
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


def checked_loss(logits: Any, labels: Any, weights: Any, g: Any) -> list[Any]:
    """A loss, its gradient, and whether the labels that count are classes."""
    labels = get("cast")(labels, dtype=dtypes.int32)
    options = {"label_smoothing": 0.0}
    loss = get("softmax_cross_entropy")(logits, labels, **options)
    gradient = get("softmax_cross_entropy_grad")(logits, labels, g, **options)
    valid = get("labels_in_range")(labels, weights, classes=logits.shape[-1])
    return [loss, gradient, valid]


@pytest.mark.parametrize("shape", [(4,), (4, 3)], ids=str)
def test_the_kernel_of_the_loss_checks_the_labels(shape: tuple[int, ...]) -> None:
    graph = traced(checked_loss, (*shape, 7), shape, (4,), shape)
    executable = check(graph)
    counts = executable.program.counts()
    assert counts["torch_checked_cross_entropy"] == 1
    assert not {"labels_in_range", "torch_cross_entropy"} & counts.keys()
    logits, cotangent = torch.randn(*shape, 7).double(), torch.ones(shape).double()
    for wrong, weight in itertools.product((0, 6, 7, -1, -100, 2**31 - 1), (0.0, 2.0)):
        labels = torch.ones(shape).double()
        labels[-1] = wrong
        weights = torch.tensor([1.0, 1.0, 1.0, weight]).double()
        loss, gradient, valid = executable([logits, labels, weights, cotangent])
        assert valid.item() is (0 <= wrong < 7 or weight == 0.0)
        taken = labels.long().clamp(0, 6)
        expected = -torch.log_softmax(logits, -1).gather(-1, taken[..., None])[..., 0]
        torch.testing.assert_close(loss, expected)
        assert torch.isfinite(gradient).all()


def test_a_check_of_labels_that_says_so_stays_as_it_is() -> None:
    """The results of two calls are two tensors, though every batch without a mistake is alike."""
    executable = compiled(traced(checked_loss, (4, 7), (4,), (4,), (4,)))
    arrays = [torch.randn(4, 7).double(), *(torch.ones(4).double() for _ in range(3))]
    first, second = (executable(list(arrays))[-1] for _ in range(2))
    assert first.item() is second.item() is True
    assert first.data_ptr() != second.data_ptr()


def test_labels_that_the_loss_cannot_check_are_checked_apart() -> None:
    def of_other_classes(logits: Any, labels: Any, weights: Any) -> list[Any]:
        labels = get("cast")(labels, dtype=dtypes.int32)
        loss = get("softmax_cross_entropy")(logits, labels, label_smoothing=0.0)
        return [loss, get("labels_in_range")(labels, weights, classes=5)]

    def of_long_labels(logits: Any, labels: Any, weights: Any) -> list[Any]:
        labels = get("cast")(labels, dtype=dtypes.int64)
        loss = get("softmax_cross_entropy")(logits, labels, label_smoothing=0.0)
        return [loss, get("labels_in_range")(labels, weights, classes=7)]

    def before_the_loss(logits: Any, labels: Any, weights: Any) -> list[Any]:
        labels = get("cast")(labels, dtype=dtypes.int32)
        valid = get("labels_in_range")(labels, weights, classes=7)
        logits = get("select")(valid, logits, get("negative")(logits))
        return [get("softmax_cross_entropy")(logits, labels, label_smoothing=0.0)]

    for function in (of_other_classes, of_long_labels, before_the_loss):
        counts = check(traced(function, (4, 7), (4,), (4,))).program.counts()
        assert counts["labels_in_range"] == counts["softmax_cross_entropy"] == 1


def test_on_an_accelerator_labels_are_checked_without_waiting() -> None:
    graph = traced(checked_loss, (4, 7), (4,), (4,), (4,))
    counts = rewrite_for_torch(graph, frozenset(), in_host_memory=False).counts()
    assert counts["labels_in_range"] == counts["torch_cross_entropy"] == 1
