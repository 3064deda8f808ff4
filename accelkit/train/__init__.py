"""Training: the compiled step, its state, its metrics, and evaluation.

The way of a call: ``batch`` checks what the user gave and puts it on the device (``checked`` knows
batches like the last one). ``program`` traces the ``recipe``, which is model, loss, metrics and
optimizer, into one graph. ``compiling`` makes an executable of it, under the ``precision`` policy
and within the limit that ``memory`` finds the means for and ``peak`` watches. ``step`` and
``evaluation`` run it on the arrays of a ``state`` (slots come and go by ``offload``) and on the
``step_numbers``. Its last result is the ``metrics`` vector, which is read when somebody asks;
``recovery`` says what became of the state if the device fails.
"""

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
