"""What a step is made of, checked when it is put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelkit import dtypes, ops
from accelkit.arguments import require_callable, require_instance, require_integer
from accelkit.device import Device
from accelkit.dtypes import DType
from accelkit.errors import OptionError, ShapeError, StateError
from accelkit.graph import TensorSpec
from accelkit.losses import Loss
from accelkit.metrics import Metric
from accelkit.nn.module import Module, flatten_names
from accelkit.ops.coercion import put
from accelkit.optim import Optimizer
from accelkit.tensor import Tensor
from accelkit.train.state import below

__all__ = ["Recipe"]

_INITIAL_LOSS_SCALE = 2.0**15


@dataclass(frozen=True)
class Recipe:
    """What a step is made of; see :class:`accelkit.train.TrainStep`."""

    model: Module
    loss: Loss
    metrics: Sequence[Metric]
    dtype: DType
    preprocess: Callable[[Tensor], Tensor] | None = None
    optimizer: Optimizer | None = None
    trainable: Callable[[str], bool] | None = None
    skip_nonfinite: bool = False
    scale_loss: bool = False
    accumulate: int = 1

    def __post_init__(self) -> None:
        require_instance(
            "model", self.model, Module, "A model of accelkit.models.build holds one: `.module`."
        )
        require_instance("loss", self.loss, Loss, "Make one, for example SoftmaxCrossEntropy().")
        if isinstance(self.metrics, Metric) or not isinstance(self.metrics, Iterable):
            raise OptionError(
                f"`metrics` must be a list of metrics, for example [TopKAccuracy(1)], got "
                f"{self.metrics!r}."
            )
        object.__setattr__(self, "metrics", tuple(self.metrics))
        for metric in self.metrics:
            require_instance("metrics", metric, Metric, "Make one, for example TopKAccuracy(5).")
        names = ["loss", *(metric.name for metric in self.metrics)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise OptionError(
                f"Two numbers of the report would be named {twice!r}; it holds {', '.join(names)}. "
                f"Give every metric a `name` of its own."
            )
        for name, function in (("preprocess", self.preprocess), ("trainable", self.trainable)):
            if function is not None:
                require_callable(name, function)
        require_integer("accumulate", self.accumulate)

    def model_input(self, inputs: Tensor) -> Tensor:
        """The batch's inputs as the model takes them: pixels become floating."""
        if self.preprocess is not None:
            inputs = self.preprocess(inputs)
            require_instance("preprocess(inputs)", inputs, Tensor)
        pixels = inputs.dtype is dtypes.uint8
        return ops.astype(inputs, self.dtype) if pixels else inputs

    def is_trainable(self, name: str) -> bool:
        """Whether the parameter of this dotted name changes."""
        return self.trainable is None or bool(self.trainable(name))

    def evaluate(self, outputs: Any, targets: Tensor) -> Tensor:
        """The loss of each sample, checked to be one number each."""
        return _one_per_sample("loss", self.loss(outputs, targets), targets)

    def weigh(self, weights: Tensor, targets: Tensor) -> Tensor:
        """The samples' weights, by how many targets of each count."""
        counts = self.loss.counts(targets)
        return weights if counts is None else weights * ops.astype(counts, weights.dtype)

    def measure(self, outputs: Any, targets: Tensor) -> dict[str, Tensor]:
        """Every metric of each sample, by name, checked to be one number each."""
        return {
            metric.name: _one_per_sample(
                f"metric {metric.name!r}", metric(outputs, targets), targets
            )
            for metric in self.metrics
        }

    def initial_state(
        self, seed: int, input_shape: Sequence[int], *, input_dtype: str, device: Device
    ) -> dict[str, Tensor]:
        """The tensors of a new training state, by dotted name.

        Args:
            seed: Of the initial weights.
            input_shape: Shape of a model input, batch axis included.
            input_dtype: Dtype of a model input.
            device: Where they are made.

        Raises:
            ShapeError: with the path of the layer that the input does not fit.
        """
        assert self.optimizer is not None
        where: dict[str, Any] = {
            "input_dtype": input_dtype,
            "dtype": self.dtype,
            "device": device,
        }
        parameters = dict(flatten_names(self.model.init(seed, input_shape, **where)))
        model_state = dict(flatten_names(self.model.init_state(input_shape, **where)))
        tensors = {f"parameters.{n}": p for n, p in parameters.items()}
        trained = {n: p for n, p in parameters.items() if self.is_trainable(n)}
        slots = self.optimizer.init(trained)
        tensors |= {f"optimizer.{s}.{n}": kept[n] for s, kept in slots.items() for n in trained}
        tensors |= {f"state.{n}": t for n, t in model_state.items()}
        tensors["watch"] = put(np.full(2, -1, np.int32), device)
        if self.scale_loss:
            tensors["loss_scale"] = put(np.array([_INITIAL_LOSS_SCALE, 0.0], "f4"), device)
        return tensors

    def require_state(self, specs: Mapping[str, TensorSpec]) -> None:
        """Refuse a state of another precision, or with what another optimizer keeps.

        Raises:
            StateError: naming what differs.
        """
        assert self.optimizer is not None
        parameters = below(specs, "parameters")
        trained = [n for n in parameters if self.is_trainable(n)]
        expected = {f"optimizer.{s}.{n}" for s in self.optimizer.slot_names() for n in trained}
        found = {n for n in specs if n.startswith("optimizer.")}
        expected |= {"watch", "loss_scale"} if self.scale_loss else {"watch"}
        found |= {"watch", "loss_scale"} & specs.keys()
        differences = [f"it lacks {n!r}" for n in sorted(expected - found)]
        differences += [f"it holds {n!r}" for n in sorted(found - expected)]
        differences += [
            f"{n!r} must be {self.dtype}, got {s.dtype}"
            for n, s in parameters.items()
            if s.dtype is not self.dtype
        ]
        if differences:
            raise StateError(
                f"This state is of a step with another optimizer, precision or choice of trainable "
                f"parameters: {differences[0]}. Use one that `step.init` of this step made."
            )


def _one_per_sample(what: str, values: Tensor, targets: Tensor) -> Tensor:
    """What a loss or metric returned; another shape would be broadcast against the weights."""
    require_instance(what, values, Tensor)
    if values.shape != targets.shape[:1]:
        article = "A" if what == "loss" else "The"
        raise ShapeError(
            f"{article} {what} must return one number per sample, ({targets.shape[0]},), got "
            f"{values.shape}."
        )
    return values
