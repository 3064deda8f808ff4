"""PyTorch as in its tutorials: eager, NCHW, SGD with default options."""

from __future__ import annotations

import numpy as np

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
    return program(workload, *prepare(workload, weights), fused=False)
