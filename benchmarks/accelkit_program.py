"""The same steps in accelkit: one program for every backend."""

from __future__ import annotations

from typing import Any

import numpy as np

import accelkit as ak
from accelkit import losses, models, nn, optim, train
from accelkit.nn.module import flatten_names
from accelkit.registry import backend as find_backend
from accelkit.train.metrics import StepMetrics
from benchmarks import architecture as arch
from benchmarks.workload import Workload

__all__ = ["build", "version"]


def version(backend: str) -> str:
    """The versions of accelkit and of the backend's framework."""
    driver = find_backend(backend).devices()[0].driver
    return f"accelkit {ak.__version__}, {driver}"


def _module(workload: Workload) -> nn.Module:
    """The model that accelkit has under the workload's name."""
    if workload.model == "mlp":
        return nn.Sequential(*(
            nn.Linear(layer.outputs) if isinstance(layer, arch.Dense) else nn.ReLU()
            for layer in workload.network().layers
        ))  # fmt: skip
    name, _, variant = workload.model.partition("-")
    options: dict[str, Any] = {"variant": variant or None}
    options |= {"image_size": workload.image_size, "width": workload.width}
    if name != "resnet18" and not workload.dropout:
        options["dropout"] = 0.0
    return models.build(name, **options).module


class TrainingProgram:
    """Keeps the state between calls of the compiled step."""

    def __init__(self, workload: Workload, weights: dict[str, np.ndarray], *, backend: str) -> None:
        self.device = ak.device(f"{backend}:cpu")
        self._step = train.TrainStep(
            _module(workload),
            losses.SoftmaxCrossEntropy(),
            optim.sgd(
                workload.learning_rate,
                momentum=workload.momentum,
                weight_decay=workload.weight_decay,
            ),
            device=self.device,
        )
        self.state = _with_parameters(self._step.init(workload.seed, workload.input_shape), weights)
        self.batch = tuple(ak.asarray(array, device=self.device) for array in workload.batch())

    def step(self) -> _Loss:
        """Forward, backward, update; does not wait."""
        self.state, metrics = self._step(self.state, self.batch)
        return _Loss(metrics)

    def finish(self) -> None:
        """Wait for everything that was started."""
        find_backend(self.device.backend).synchronize(self.device)


class EvaluationProgram:
    """Forward and loss."""

    def __init__(self, workload: Workload, weights: dict[str, np.ndarray], *, backend: str) -> None:
        self.device = ak.device(f"{backend}:cpu")
        module = _module(workload)
        self._step = train.EvalStep(module, losses.SoftmaxCrossEntropy(), device=self.device)
        self.state = _evaluation_state(module, workload, weights, self.device)
        self.batch = tuple(ak.asarray(array, device=self.device) for array in workload.batch())

    def step(self) -> _Loss:
        """The loss; does not wait."""
        return _Loss(self._step(self.state, self.batch))

    def finish(self) -> None:
        """Wait for everything that was started."""
        find_backend(self.device.backend).synchronize(self.device)


def _evaluation_state(
    module: nn.Module, workload: Workload, weights: dict[str, np.ndarray], device: ak.Device
) -> train.TrainState:
    """The workload's weights, same layouts, same order, other names; and initial statistics.

    Nothing is drawn first: TensorFlow's allocator keeps whatever was once taken.
    """
    specs = module.specify(workload.input_shape, input_dtype="float32", training=True).parameters
    tensors = {}
    for (name, spec), weight in zip(specs.items(), weights.values(), strict=True):
        assert spec.shape == weight.shape, (name, spec.shape, weight.shape)
        tensors[f"parameters.{name}"] = ak.asarray(weight, device=device)
    statistics = flatten_names(module.init_state(workload.input_shape, device=device))
    tensors |= {f"state.{name}": tensor for name, tensor in statistics}
    return train.TrainState(tensors, step=0, seed=workload.seed, device=device)


class _Loss:
    """A step's loss as a number, read when it is asked for."""

    __slots__ = ("metrics",)

    def __init__(self, metrics: StepMetrics) -> None:
        self.metrics = metrics

    def __float__(self) -> float:
        return self.metrics["loss"]


def _with_parameters(state: train.TrainState, weights: dict[str, np.ndarray]) -> train.TrainState:
    """Put the workload's weights into the state: same layouts, same order, other names."""
    tensors = state.tensors
    none = ak.zeros((), device=state.device)
    names = [name for name in tensors if name.startswith("parameters.")]
    for name, weight in zip(names, weights.values(), strict=True):
        assert tensors[name].shape == weight.shape, (name, tensors[name].shape, weight.shape)
        # One after the other, each in the memory of the one before. TensorFlow's allocator never
        # returns any: it would keep what two at a time took.
        tensors[name] = none
        tensors[name] = ak.asarray(weight, device=state.device)
    return state


def build(
    workload: Workload, weights: dict[str, np.ndarray], *, backend: str
) -> TrainingProgram | EvaluationProgram:
    """Ready to step; the first step compiles."""
    made = TrainingProgram if workload.is_training else EvaluationProgram
    return made(workload, weights, backend=backend)
