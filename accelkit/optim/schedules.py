"""Learning-rate schedules: functions of the step, computed on the host in double precision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from accelkit.arguments import require_integer, require_number
from accelkit.errors import OptionError

__all__ = [
    "ConstantSchedule",
    "CosineSchedule",
    "Schedule",
    "StepSchedule",
    "WarmUp",
    "as_schedule",
    "rate_at",
]


class Schedule(Protocol):
    """The learning rate of each step, the first step being 0."""

    def __call__(self, step: int) -> float:
        """The learning rate of this step."""
        ...


@dataclass(frozen=True)
class ConstantSchedule:
    """The same rate in every step."""

    rate: float

    def __post_init__(self) -> None:
        require_number("rate", self.rate, positive=True)

    def __call__(self, step: int) -> float:
        """The rate."""
        return float(self.rate)


@dataclass(frozen=True)
class StepSchedule:
    """rate * factor^k, where k counts the boundaries that were passed.

    Attributes:
        rate: Before the first boundary.
        boundaries: Steps at which the rate is multiplied, increasing.
        factor: What it is multiplied by; AlexNet's recipe is 0.1, three times.
    """

    rate: float
    boundaries: Sequence[int]
    factor: float = 0.1

    def __post_init__(self) -> None:
        require_number("rate", self.rate, positive=True)
        if not isinstance(self.boundaries, Iterable):
            raise OptionError(f"`boundaries` must be a list of steps, got {self.boundaries!r}.")
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        for boundary in self.boundaries:
            require_integer("boundaries", boundary, least=0)
        require_number("factor", self.factor, positive=True)
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise OptionError(f"`boundaries` must increase, got {self.boundaries}.")

    def __call__(self, step: int) -> float:
        """The rate of this step."""
        return float(self.rate * self.factor ** sum(step >= b for b in self.boundaries))


@dataclass(frozen=True)
class CosineSchedule:
    """From rate to final along half a cosine, then constant (Loshchilov and Hutter, 2017).

    Attributes:
        rate: In step 0.
        steps: Length of the decay.
        final: Afterwards.
    """

    rate: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        require_number("rate", self.rate, positive=True)
        require_number("final", self.final)
        require_integer("steps", self.steps)

    def __call__(self, step: int) -> float:
        """The rate of this step."""
        share = min(step / self.steps, 1.0)
        return self.final + (self.rate - self.final) * 0.5 * (1.0 + math.cos(math.pi * share))


@dataclass(frozen=True)
class WarmUp:
    """A linear rise over the first steps, then another schedule, which starts at its own step 0.

    Attributes:
        after: Takes over after the rise, a number or a schedule; its first rate is the rise's end.
        steps: Length of the rise; the rate of step i is (i + 1) / steps of the end.

    Example:
        >>> from accelkit import optim
        >>> rate = optim.WarmUp(optim.CosineSchedule(0.1, steps=1000), steps=4)
        >>> [round(rate(step), 3) for step in (0, 1, 2, 3, 4, 504, 1004)]
        [0.025, 0.05, 0.075, 0.1, 0.1, 0.05, 0.0]
    """

    after: float | Schedule
    steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "after", as_schedule(self.after))
        require_integer("steps", self.steps)

    def __call__(self, step: int) -> float:
        """The rate of this step."""
        if step < self.steps:
            return rate_at(self.after, 0) * (step + 1) / self.steps
        return rate_at(self.after, step - self.steps)


def as_schedule(rate: float | Schedule) -> Schedule:
    """A schedule from a number or a function of the step."""
    return rate if callable(rate) else ConstantSchedule(rate)


def rate_at(rate: float | Schedule, step: int) -> float:
    """The learning rate of a step, checked.

    Raises:
        OptionError: if a schedule gives no finite number of at least 0; it names the step.
    """
    found = as_schedule(rate)(step)
    require_number(f"learning_rate of step {step}", found)
    return float(found)
