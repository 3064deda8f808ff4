"""Micro-batches: the same mathematics in less memory."""

from __future__ import annotations

import numpy as np
import pytest

import accelkit as ak
from accelkit import losses, metrics, nn, optim, passes, registry, train
from accelkit.errors import OptionError
from accelkit.train.memory import parse_bytes, predicted_peak_bytes

BACKENDS = sorted({info.device.backend for info in ak.devices()})
MODEL = nn.Sequential(
    nn.Conv2d(6, 3, padding=1),
    nn.ReLU(),
    nn.Dropout(0.3),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(8),
    nn.Dropout(0.5),
    nn.Linear(5),
)
SHAPE = (8, 6, 6, 3)


def make(device: str, **options) -> train.TrainStep:
    return train.TrainStep(
        MODEL,
        losses.SoftmaxCrossEntropy(),
        optim.sgd(0.05, momentum=0.9),
        device=device,
        metrics=[metrics.TopKAccuracy(1)],
        precision="float64",
        **options,
    )


def batch(seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal(SHAPE)
    return images, rng.integers(0, 5, 8), np.arange(8) / 8.0


def curve(step: train.TrainStep) -> tuple[list[float], dict[str, np.ndarray]]:
    state, found = step.init(0, SHAPE), []
    for index in range(3):
        state, report = step(state, batch(index))
        found += [report["loss"], report["top1"]]
    return found, state.to_host()


@pytest.mark.parametrize("device", BACKENDS)
def test_micro_batches_change_nothing(device: str) -> None:
    whole, state = curve(make(device))
    parts, other = curve(make(device, accumulate=4))
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    for name, value in state.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-9, atol=1e-13, err_msg=name)


def test_a_limit_chooses_the_fewest_micro_batches_that_fit() -> None:
    model = nn.Sequential(
        nn.Conv2d(16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 3),
        nn.ReLU(),
        nn.GlobalAvgPool2d(),
        nn.Linear(5),
    )
    shape = (16, 16, 16, 3)
    images = np.zeros(shape, np.float32)
    labels = np.zeros(16, np.int32)

    def step(**options) -> train.TrainStep:
        return train.TrainStep(
            model,
            losses.SoftmaxCrossEntropy(),
            optim.sgd(0.01, momentum=0.9),
            device="numpy",
            **options,
        )

    backend = registry.backend("numpy")
    free = step()
    state = free.init(0, shape)
    program = free._compile(
        state.tensors, train.batch.as_batch((images, labels), free.recipe.loss, free.recipe.dtype)
    ).program
    peak = predicted_peak_bytes(program, program.graph, backend)
    limited = step(memory_limit=peak // 2)
    limited.compile(state, (images, labels))
    choice = limited.memory_choice
    assert choice is not None
    assert choice.accumulate > 1
    assert choice.predicted_peak_bytes <= peak // 2
    assert choice.unplanned_peak_bytes == peak
    assert f"{choice.accumulate} micro-batches" in str(choice)
    roomy = step(memory_limit=peak)
    roomy.compile(state, (images, labels))
    assert roomy.memory_choice is not None
    assert roomy.memory_choice.accumulate == 1
    with pytest.raises(OptionError, match=r"smallest limit that can be met"):
        step(memory_limit="10KiB").compile(state, (images, labels))


def test_batch_statistics_refuse_micro_batches() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3), nn.BatchNorm(), nn.Flatten(), nn.Linear(5))
    step = train.TrainStep(
        model, losses.SoftmaxCrossEntropy(), optim.sgd(0.1), device="numpy", accumulate=2
    )
    with pytest.raises(OptionError, match="batch statistics"):
        step(step.init(0, SHAPE), batch(0)[:2])


def test_bad_options() -> None:
    with pytest.raises(OptionError, match="positive integer"):
        make("numpy", accumulate=0)
    with pytest.raises(OptionError, match="either accumulate= or memory_limit="):
        make("numpy", accumulate=2, memory_limit="1GiB")
    step = make("numpy", accumulate=3)
    with pytest.raises(OptionError, match=r"does not divide the batch of 8.*1, 2, 4, 8"):
        step(step.init(0, SHAPE), batch(0))


@pytest.mark.parametrize(
    ("text", "count"), [("8GiB", 8 * 2**30), ("500MB", 500_000_000), (123, 123), ("1.5KiB", 1536)]
)
def test_amounts(text: int | str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "8 parsecs", "-1GiB", 0, "0MB"])
def test_bad_amounts(text: int | str) -> None:
    with pytest.raises(OptionError, match="8GiB"):
        parse_bytes(text)


def test_the_plan_of_an_in_place_update_needs_no_arena() -> None:
    step = make("numpy")
    graph = passes.prepare(step.graph(step.init(0, SHAPE), batch(0)), registry.backend("numpy"))
    donate = [i for i, name in enumerate(graph.input_names) if "." in name]
    assert (
        passes.plan_values(graph, donate=donate).arena_bytes < passes.plan_values(graph).arena_bytes
    )
