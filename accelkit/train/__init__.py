"""Training: the compiled step, its state, its metrics, and evaluation."""

from typing import TYPE_CHECKING

from accelkit.foreign_names import refuser
from accelkit.train.evaluation import EvalStep
from accelkit.train.metrics import StepMetrics
from accelkit.train.peak import MemoryLimitWarning
from accelkit.train.state import TrainState
from accelkit.train.step import TrainStep

__all__ = ["EvalStep", "MemoryLimitWarning", "StepMetrics", "TrainState", "TrainStep"]

if not TYPE_CHECKING:  # type checkers know what names there are
    __getattr__ = refuser(__name__, __all__)
