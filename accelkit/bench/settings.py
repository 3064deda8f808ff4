"""What one measurement runs: a device, a workload, and how often."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

from accelkit import models
from accelkit.errors import OptionError, UnknownNameError
from accelkit.models import Model
from accelkit.train.precision import POLICIES

__all__ = ["MODES", "Settings"]

MODES: Final = ("train", "infer")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One configuration to measure.

    Attributes:
        device: A device as :func:`accelkit.device` takes it; a backend's name alone stands for
            its preferred device.
        model: Name of a registered model.
        variant: Its variant; None for its default.
        batch_size: Samples per step.
        image_size: Height and width of the images in pixels; None for the model's own.
        width: Scale of the channel counts; None for the model's own.
        steps: Timed steps.
        warmup: Steps before them, whose times do not count.
        mode: ``"train"`` (forward, backward, update) or ``"infer"`` (forward and loss).
        precision: As in :class:`accelkit.train.TrainStep`.
        seed: Of the weights, the dropout masks and the batches.
        time_limit_s: After this time no further step starts once three were timed; None for no
            limit.
    """

    device: str
    model: str = "alexnet"
    variant: str | None = None
    batch_size: int = 8
    image_size: int | None = None
    width: float | None = None
    steps: int = 10
    warmup: int = 2
    mode: str = "train"
    precision: str = "float32"
    seed: int = 0
    time_limit_s: float | None = None

    def check(self) -> Model:
        """Build the model and trace its forward pass, so that what does not fit fails now.

        Raises:
            OptionError: for a number out of range, or an option that the model does not take.
            UnknownNameError: for an unknown model, variant, mode or precision.
            ShapeError: for an image too small, with the layer at which it vanishes.
        """
        self._check_numbers()
        for kind, given, known in (
            ("mode", self.mode, MODES),
            ("precision", self.precision, POLICIES),
        ):
            if given not in known:
                raise UnknownNameError.of(kind, given, known)
        model = self.build()
        shape = (self.batch_size, *model.input_shape)
        model.module.specify(shape, training=self.mode == "train")
        return model

    def _check_numbers(self) -> None:
        for name, least in (("batch_size", 1), ("image_size", 1), ("steps", 1), ("warmup", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError(f"{name} must be at least {least}, got {value}.")
        for name in ("width", "time_limit_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise OptionError(f"{name} must be positive and finite, got {value}.")
        if not 0 <= self.seed < 2**64:
            raise OptionError(f"seed must be in [0, 2^64), got {self.seed}.")

    def build(self) -> Model:
        """The model."""
        return models.build(
            self.model, variant=self.variant, image_size=self.image_size, width=self.width
        )

    def resolved_variant(self) -> str | None:
        """The variant that is built, by name; None if the model has none."""
        return self.variant or next(iter(models.variants(self.model)), None)

    def workload(self) -> dict[str, Any]:
        """What decides how long a step takes: equal for measurements that can be compared."""
        model = self.build()
        return {
            "model": self.model,
            "variant": self.resolved_variant(),
            "batch_size": self.batch_size,
            "input_shape": list(model.input_shape),
            "width": 1.0 if self.width is None else self.width,
            "mode": self.mode,
            "precision": self.precision,
        }

    def to_json(self) -> dict[str, Any]:
        """As plain values; :meth:`from_json` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        """The settings from what :meth:`to_json` returned."""
        return cls(**values)
