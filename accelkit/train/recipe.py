"""What a step is made of, checked when it is put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from accelkit import dtypes, ops
from accelkit.arguments import require_instance, require_integer
from accelkit.dtypes import DType
from accelkit.errors import OptionError, ShapeError, StateError
from accelkit.graph import TensorSpec
from accelkit.losses import Loss
from accelkit.metrics import Metric
from accelkit.nn.module import Module
from accelkit.optim import Optimizer
from accelkit.tensor import Tensor

__all__ = ["Recipe"]


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
        if self.optimizer is not None:
            require_instance(
                "optimizer", self.optimizer, Optimizer, "Make one, for example optim.sgd(0.01)."
            )
        for name, function in (("preprocess", self.preprocess), ("trainable", self.trainable)):
            if function is not None and not callable(function):
                raise OptionError(f"`{name}` must be a function, got {function!r}.")
        require_integer("accumulate", self.accumulate)

    def model_input(self, inputs: Tensor) -> Tensor:
        """The batch's inputs as the model takes them: pixels become floating."""
        if self.preprocess is not None:
            inputs = self.preprocess(inputs)
        pixels = inputs.dtype is dtypes.uint8
        return ops.astype(inputs, self.dtype) if pixels else inputs

    def is_trainable(self, name: str) -> bool:
        """Whether the parameter of this dotted name changes."""
        return self.trainable is None or bool(self.trainable(name))

    def evaluate(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample, checked to be one number each."""
        losses = self.loss(outputs, targets)
        if losses.shape != (outputs.shape[0],):
            raise ShapeError(
                f"A loss must return one number per sample, ({outputs.shape[0]},), got "
                f"{losses.shape}."
            )
        return losses

    def require_state(self, specs: Mapping[str, TensorSpec]) -> None:
        """Refuse a state of another precision, or with what another optimizer keeps.

        Raises:
            StateError: naming what differs.
        """
        assert self.optimizer is not None
        start = "parameters."
        parameters = {n[len(start) :]: s for n, s in specs.items() if n.startswith(start)}
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
