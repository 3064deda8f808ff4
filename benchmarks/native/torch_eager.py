"""PyTorch as in its tutorials: eager, NCHW, SGD with default options."""

from __future__ import annotations

import numpy as np

from benchmarks.native.torch_common import TorchProgram, prepare, sgd, version
from benchmarks.workload import Workload

__all__ = ["build", "version"]


def build(workload: Workload, weights: dict[str, np.ndarray]) -> TorchProgram:
    """Ready to step."""
    model, inputs, labels = prepare(workload, weights)
    return TorchProgram(model, inputs, labels, sgd(model, workload, fused=False))
