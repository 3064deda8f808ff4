"""Steps for the tests of saving memory, and what runs them."""

from __future__ import annotations

import functools

import numpy as np

import accelkit as ak
from accelkit import losses, metrics, nn, optim, registry, train
from accelkit.train.memory import predicted_peak_bytes

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
SGD = optim.sgd(0.05, momentum=0.9)


def make(device: str, optimizer: optim.Optimizer = SGD, **options) -> train.TrainStep:
    return train.TrainStep(
        MODEL,
        losses.SoftmaxCrossEntropy(),
        optimizer,
        device=device,
        metrics=[metrics.TopKAccuracy(1)],
        precision="float64",
        **options,
    )


def batch(seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal(SHAPE)
    return images, rng.integers(0, 5, 8), np.arange(8) / 8.0


def run(step: train.TrainStep) -> tuple[list[float], train.TrainState]:
    state, found = step.init(0, SHAPE), []
    for index in range(3):
        state, report = step(state, batch(index))
        found += [report["loss"], report["top1"]]
    return found, state


def curve(step: train.TrainStep) -> tuple[list[float], dict[str, np.ndarray]]:
    found, state = run(step)
    return found, state.to_host()


@functools.cache
def plain_curve(device: str) -> tuple[list[float], dict[str, np.ndarray]]:
    """What every means of saving memory must leave as it is."""
    return curve(make(device))


WIDE = nn.Sequential(
    nn.Conv2d(16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 3),
    nn.ReLU(),
    nn.GlobalAvgPool2d(),
    nn.Linear(5),
)
WIDE_SHAPE = (4, 24, 24, 3)


def wide_step(device: str = "numpy", model: nn.Module = WIDE, **options) -> train.TrainStep:
    return train.TrainStep(
        model,
        losses.SoftmaxCrossEntropy(),
        optim.sgd(0.01, momentum=0.9, weight_decay=1e-3),
        device=device,
        **options,
    )


def wide_batch(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(WIDE_SHAPE).astype(np.float32), rng.integers(0, 5, 4)


def wide_curve(step: train.TrainStep) -> tuple[list[float], dict[str, np.ndarray]]:
    state, found = step.init(0, WIDE_SHAPE), []
    for index in range(3):
        state, report = step(state, wide_batch(index))
        found.append(report["loss"])
    return found, state.to_host()


def peak_of(step: train.TrainStep) -> int:
    executable = step.compile(step.init(0, WIDE_SHAPE), wide_batch())
    donate = [i for i, name in enumerate(executable.graph.input_names) if "." in name]
    backend = registry.backend(step.device.backend)
    return predicted_peak_bytes(executable.graph, backend, step.device, donate)
