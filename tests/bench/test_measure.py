"""Measuring one configuration, and the batches it is fed."""

from __future__ import annotations

import numpy as np
import pytest

from accelkit import Device, bench, losses, models, optim, random, train
from accelkit.bench.measure import LEAST_TIMED_STEPS, measure_workload, step_times
from accelkit.bench.report import RESULT_FIELDS, failed_result, loss_difference, reference
from accelkit.bench.workload import Workload, draw_batch, pool_size
from accelkit.errors import NonFiniteError, OutOfMemoryError

SETTINGS = bench.Settings("numpy", "lenet5", batch_size=3, steps=4, warmup=2, seed=7)
DEVICE = Device("numpy")
ALEXNET = {"model": "alexnet", "width": 0.02, "image_size": 64, "batch_size": 2, "steps": 2}


def test_a_result_has_exactly_the_documented_fields():
    result = bench.measure(SETTINGS)
    assert tuple(result) == RESULT_FIELDS == tuple(failed_result(SETTINGS, "numpy", "why"))
    assert result["device"] == "numpy:cpu:0"
    assert result["variant"] is None
    assert result["parameters"] == 61706
    assert len(result["losses"]) == 6
    assert len(result["step_time_s"]["samples"]) == 4
    assert result["throughput_images_per_s"] == pytest.approx(3 / result["step_time_s"]["median"])
    assert result["peak_memory_bytes"] > 0
    assert result["error"] is None


def test_default_variant_is_named():
    result = bench.measure(bench.Settings("numpy", **ALEXNET))
    assert result["variant"] == "torchvision"


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_losses_are_those_of_the_public_steps_on_the_same_batches(mode):
    settings = bench.Settings("numpy", mode=mode, warmup=1, seed=9, **ALEXNET)
    model = settings.build()
    shape = (settings.batch_size, *model.input_shape)
    loss = losses.SoftmaxCrossEntropy()
    optimizer = optim.sgd(0.01, momentum=0.9, weight_decay=5e-4)
    step = train.TrainStep(model.module, loss, optimizer, device="numpy")
    evaluate = train.EvalStep(model.module, loss, device="numpy")
    state = step.init(9, shape)
    expected = []
    for index in range(settings.warmup + settings.steps):
        batch = draw_batch(settings, model.input_shape, model.classes, index)
        if mode == "train":
            state, found = step(state, batch)
        else:
            found = evaluate(state, batch)
        expected.append(found["loss"])
    assert bench.measure(settings)["losses"] == expected


def test_measuring_twice_gives_the_same_losses():
    assert bench.measure(SETTINGS)["losses"] == bench.measure(SETTINGS)["losses"]


def test_another_seed_gives_other_losses():
    other = bench.Settings("numpy", "lenet5", batch_size=3, steps=4, warmup=2, seed=8)
    assert bench.measure(SETTINGS)["losses"] != bench.measure(other)["losses"]


def test_inference_leaves_the_parameters_alone():
    settings = bench.Settings("numpy", mode="infer", warmup=0, seed=1, **ALEXNET)
    workload = Workload(settings, DEVICE)
    before = workload.state.to_host()
    result = measure_workload(workload)
    after = workload.state.to_host()
    assert result["losses"]
    assert not any(name.startswith("optimizer.") for name in before)
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])


def test_training_counts_more_arithmetic_than_inference():
    train, infer = (
        bench.measure(bench.Settings("numpy", mode=mode, **ALEXNET))["flops_per_step"]
        for mode in ("train", "infer")
    )
    assert train > 2 * infer > 0


def test_float64_is_followed():
    settings = bench.Settings("numpy", "lenet5", batch_size=2, precision="float64")
    workload = Workload(settings, DEVICE)
    assert workload.batches[0][0].dtype.name == "float64"
    assert workload.state.tensors["parameters.conv1.weight"].dtype.name == "float64"


def test_batches_are_standard_normal_and_their_labels_spread_over_all_classes():
    settings = bench.Settings("numpy", batch_size=64, seed=3)
    inputs, labels = draw_batch(settings, (16, 16, 3), 10, 0)
    assert inputs.dtype == np.float32
    assert inputs.shape == (64, 16, 16, 3)
    assert abs(inputs.mean()) < 0.02
    assert abs(inputs.std() - 1.0) < 0.02
    assert labels.dtype == np.int32
    assert set(labels) == set(range(10))


def test_a_batch_too_large_for_the_host_is_named(monkeypatch):
    def exhausted(key, shape):
        raise MemoryError("no room")

    monkeypatch.setattr(random, "random_normal", exhausted)
    with pytest.raises(OutOfMemoryError, match=r"suffice for a batch of 4 .*: no room\. Use a sma"):
        draw_batch(bench.Settings("numpy", batch_size=4), (4, 4, 1), 10, 0)


def test_batches_differ_by_index_and_seed_only():
    shape = (4, 4, 1)
    first, again, next_one = (draw_batch(SETTINGS, shape, 10, i) for i in (0, 0, 1))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], next_one[0])


def test_the_pool_holds_one_batch_per_step_within_reason():
    assert pool_size(SETTINGS, (28, 28, 1)) == 6
    many = bench.Settings("numpy", batch_size=8, steps=1000)
    assert pool_size(many, (224, 224, 3)) == 16
    huge = bench.Settings("numpy", batch_size=4096, steps=1000)
    assert pool_size(huge, (224, 224, 3)) == 2


def test_a_time_limit_ends_the_run_after_the_least_number_of_steps():
    settings = bench.Settings(
        "numpy", "lenet5", batch_size=1, steps=50, warmup=5, time_limit_s=1e-6
    )
    result = bench.measure(settings)
    assert len(result["step_time_s"]["samples"]) == LEAST_TIMED_STEPS
    assert len(result["losses"]) == LEAST_TIMED_STEPS + 1


def test_every_step_is_announced():
    events = []
    bench.measure(SETTINGS, notify=lambda event, **details: events.append((event, details)))
    steps = [details for event, details in events if event == "step"]
    assert [step["number"] for step in steps] == [0, 1, 2, 3, 4, 5]
    assert [step["timed"] for step in steps] == [False, False, True, True, True, True]


def test_a_loss_that_is_not_finite_is_no_result():
    workload = Workload(bench.Settings("numpy", "lenet5", batch_size=2), DEVICE)
    inputs, labels = workload.batches[0]
    workload.batches = [(inputs * float("inf"), labels)]
    with pytest.raises(NonFiniteError):
        measure_workload(workload)


def test_step_times():
    times = step_times([4.0, 1.0, 2.0, 3.0, 5.0])
    assert times == {
        "median": 3.0,
        "p95": pytest.approx(4.8),
        "min": 1.0,
        "iqr": 2.0,
        "samples": [4.0, 1.0, 2.0, 3.0, 5.0],
    }


def test_the_reference_is_numpy_or_else_the_first_that_succeeded():
    def result(device: str, error: str | None = None) -> dict:
        return failed_result(SETTINGS, device, "") | {"error": error}

    bad, torch, numpy = result("jax", "broken"), result("torch:cpu:0"), result("numpy:cpu:0")
    assert reference([bad, torch, numpy]) is numpy
    assert reference([bad, torch]) is torch
    assert reference([bad]) is None


def test_loss_curves_are_compared_over_the_common_steps():
    first, second = {"losses": [4.0, 2.0, 1.0]}, {"losses": [4.0, 1.0]}
    assert loss_difference(first, second) == 0.25
    assert loss_difference(first, first) == 0.0


@pytest.mark.parametrize("name", models.names())
def test_every_model_can_be_checked_without_a_backend(name):
    settings = bench.Settings("no such device", name, batch_size=2)
    assert settings.check().module is not None
    assert bench.Settings.from_json(settings.to_json()) == settings
