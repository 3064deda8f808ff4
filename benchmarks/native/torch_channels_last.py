"""PyTorch tuned for speed: eager, channels_last memory, the fused SGD."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.native.torch_common import (
    EvaluationProgram,
    TrainingProgram,
    prepare,
    program,
    version,
)
from benchmarks.workload import Workload

__all__ = ["build", "version"]


def build(
    workload: Workload, weights: dict[str, np.ndarray]
) -> TrainingProgram | EvaluationProgram:
    """Ready to step."""
    return program(workload, *prepare(workload, weights, layout=torch.channels_last))
