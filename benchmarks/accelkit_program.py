"""The same training steps written in accelkit: one program for every backend."""

from __future__ import annotations

from typing import Any

import numpy as np

import accelkit as ak
from accelkit import losses, nn, optim, train
from accelkit.registry import backend as find_backend
from accelkit.train.metrics import StepMetrics
from benchmarks.workload import Workload

__all__ = ["build", "version"]


def version(backend: str) -> str:
    """The versions of accelkit and of the backend's framework."""
    driver = find_backend(backend).devices()[0].driver
    return f"accelkit {ak.__version__}, {driver}"


def _model(workload: Workload) -> nn.Module:
    if workload.model == "alexnet":
        from accelkit_models.alexnet import alexnet

        return alexnet(
            "torchvision",
            image_size=workload.image_size,
            width=workload.width,
            dropout=workload.dropout,
        ).module
    layers: list[nn.Module] = []
    for dense in workload.dense:
        layers.append(nn.Linear(dense.outputs))
        if dense.relu:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class AccelkitProgram:
    """Keeps the state between calls of the compiled step."""

    def __init__(self, workload: Workload, weights: dict[str, np.ndarray], *, backend: str) -> None:
        self.device = ak.device(f"{backend}:cpu")
        self.train_step = train.TrainStep(
            _model(workload),
            losses.SoftmaxCrossEntropy(),
            optim.sgd(
                workload.learning_rate,
                momentum=workload.momentum,
                weight_decay=workload.weight_decay,
            ),
            device=self.device,
        )
        self.state = _with_parameters(
            self.train_step.init(workload.seed, workload.input_shape), weights
        )
        self.batch = tuple(ak.asarray(array, device=self.device) for array in workload.batch())

    def step(self) -> _Loss:
        """Forward, backward, update; does not wait."""
        self.state, metrics = self.train_step(self.state, self.batch)
        return _Loss(metrics)

    def finish(self) -> None:
        """Wait for everything that was started."""
        find_backend(self.device.backend).synchronize(self.device)


class _Loss:
    """A step's loss as a number, read when it is asked for."""

    __slots__ = ("metrics",)

    def __init__(self, metrics: StepMetrics) -> None:
        self.metrics = metrics

    def __float__(self) -> float:
        return self.metrics["loss"]


def _with_parameters(state: train.TrainState, weights: dict[str, np.ndarray]) -> train.TrainState:
    """The state with the workload's weights: same layouts, same order, other names."""
    tensors: dict[str, Any] = dict(state.tensors)
    names = [name for name in tensors if name.startswith("parameters.")]
    for name, weight in zip(names, weights.values(), strict=True):
        assert tensors[name].shape == weight.shape, (name, tensors[name].shape, weight.shape)
        tensors[name] = ak.asarray(weight, device=state.device)
    return train.TrainState(tensors, step=state.step, seed=state.seed, device=state.device)


def build(workload: Workload, weights: dict[str, np.ndarray], *, backend: str) -> AccelkitProgram:
    """Ready to step; the first step compiles."""
    return AccelkitProgram(workload, weights, backend=backend)
