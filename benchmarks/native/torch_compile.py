"""PyTorch compiled by Inductor: forward and backward compiled, the fused SGD beside them."""

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
    """Ready to step; the first step compiles."""
    torch._dynamo.reset()
    model, inputs, labels = prepare(workload, weights, layout=torch.channels_last)
    return program(workload, torch.compile(model, dynamic=False), inputs, labels)
