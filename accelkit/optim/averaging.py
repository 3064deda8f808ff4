"""Averages of the weights over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from accelkit.arguments import require_fraction, require_instance
from accelkit.errors import OptionError
from accelkit.optim.optimizers import Optimizer, Scalars, Slots
from accelkit.optim.schedules import Schedule
from accelkit.primitives.optimizer import average_update
from accelkit.tensor import Tensor

__all__ = ["AVERAGE", "Averaged", "averaged"]

AVERAGE = "average"
"""Name of the slot that holds a parameter's average."""


@dataclass(frozen=True)
class Averaged(Optimizer):
    """An optimizer that keeps an average of the weights beside them; see :func:`averaged`."""

    optimizer: Optimizer
    decay: float

    def __post_init__(self) -> None:
        require_instance("optimizer", self.optimizer, Optimizer, "Make one, such as optim.sgd(0.1)")
        require_fraction("decay", self.decay)
        if AVERAGE in self.optimizer.slot_names():
            raise OptionError(f"{self.optimizer!r} keeps a slot {AVERAGE!r} already.")

    @property
    def learning_rate(self) -> float | Schedule:  # type: ignore[override]
        """That of the optimizer."""
        return self.optimizer.learning_rate

    def slot_names(self) -> tuple[str, ...]:
        """Those of the optimizer, and the average."""
        return (*self.optimizer.slot_names(), AVERAGE)

    def initial_slots(self, parameter: Tensor) -> dict[str, Tensor]:
        """Those of the optimizer; the average of no step is the parameter itself."""
        copy = parameter.to(parameter.device, copy=True)
        return {**self.optimizer.initial_slots(parameter), AVERAGE: copy}

    def scalars(self, step: int) -> dict[str, float]:
        """Those of the optimizer, and how far the average goes towards the new weights."""
        rate = (1.0 - self.decay) / (1.0 - self.decay ** (step + 1))
        return {**self.optimizer.scalars(step), "average_rate": rate}

    def prepare(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What the optimizer makes of them."""
        return self.optimizer.prepare(gradients)

    def for_parameter(self, name: str) -> Optimizer:
        """With the optimizer for this parameter."""
        return replace(self, optimizer=self.optimizer.for_parameter(name))

    def update(
        self, parameter: Tensor, gradient: Tensor, slots: Slots, scalars: Scalars
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of the optimizer, after which the average follows."""
        own = {name: slots[name] for name in self.optimizer.slot_names()}
        new, changed = self.optimizer.update(parameter, gradient, own, scalars)
        average = average_update(slots[AVERAGE], new, scalars["average_rate"])
        return new, {**changed, AVERAGE: average}


def averaged(optimizer: Optimizer, decay: float) -> Averaged:
    """An optimizer that also keeps an exponential moving average of the weights.

    After step t the average is the mean of the weights after each step so far, those of s steps
    ago weighing decay^s (Polyak and Juditsky, 1992; the mean is exact from the first step on, by
    the correction of Kingma and Ba, 2015, section 3): a += (1 - decay) / (1 - decay^t) * (p - a).
    It forgets within some 1 / (1 - decay) steps. Training itself is unchanged.

    The average is part of the training state, as the slot ``"average"``: it is saved and restored,
    moves between devices, and costs the memory of the weights once more. Evaluate it by
    ``EvalStep(..., averaged=True)``; read it by :attr:`TrainState.averaged_parameters`.

    Args:
        optimizer: Any optimizer.
        decay: In [0, 1), such as 0.999.

    Raises:
        OptionError: for a decay out of range, or an optimizer that keeps an average already.

    Example:
        >>> from accelkit import optim
        >>> optim.averaged(optim.sgd(0.1, momentum=0.9), 0.999).slot_names()
        ('velocity', 'average')
    """
    return Averaged(optimizer, decay)
