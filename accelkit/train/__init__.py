"""Training: the compiled step, its state, its metrics, and evaluation."""

from accelkit.train.evaluation import EvalStep
from accelkit.train.metrics import StepMetrics
from accelkit.train.peak import MemoryLimitWarning
from accelkit.train.state import TrainState
from accelkit.train.step import TrainStep

__all__ = ["EvalStep", "MemoryLimitWarning", "StepMetrics", "TrainState", "TrainStep"]
