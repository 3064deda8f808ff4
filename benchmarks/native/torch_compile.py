"""PyTorch compiled by Inductor: forward and backward compiled, the fused SGD beside them."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.native.torch_common import TorchProgram, prepare, sgd, version
from benchmarks.workload import Workload

__all__ = ["build", "version"]


def build(workload: Workload, weights: dict[str, np.ndarray]) -> TorchProgram:
    """Ready to step; the first step compiles."""
    torch._dynamo.reset()
    model, inputs, labels = prepare(workload, weights)
    optimizer = sgd(model, workload, fused=True)
    return TorchProgram(torch.compile(model, dynamic=False), inputs, labels, optimizer)
