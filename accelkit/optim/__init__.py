"""Optimizers and learning-rate schedules."""

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
    "rate_at",
    "sgd",
]
