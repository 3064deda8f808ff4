"""Optimizers and learning-rate schedules."""

from typing import TYPE_CHECKING

from accelkit.foreign_names import refuser
from accelkit.optim.averaging import Averaged, averaged
from accelkit.optim.clipping import clip_by_global_norm, global_norm
from accelkit.optim.optimizers import Adam, Optimizer, Sgd, adam, adamw, sgd
from accelkit.optim.schedules import (
    ConstantSchedule,
    CosineSchedule,
    Schedule,
    StepSchedule,
    WarmUp,
    as_schedule,
    rate_at,
)

__all__ = [
    "Adam",
    "Averaged",
    "ConstantSchedule",
    "CosineSchedule",
    "Optimizer",
    "Schedule",
    "Sgd",
    "StepSchedule",
    "WarmUp",
    "adam",
    "adamw",
    "as_schedule",
    "averaged",
    "clip_by_global_norm",
    "global_norm",
    "rate_at",
    "sgd",
]

if not TYPE_CHECKING:  # type checkers know what names there are
    __getattr__ = refuser(__name__, __all__)
