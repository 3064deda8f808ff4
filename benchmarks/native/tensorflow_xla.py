"""TensorFlow: one ``tf.function`` compiled by XLA."""

from __future__ import annotations

import numpy as np

from benchmarks.native.tensorflow_common import TensorflowProgram, version
from benchmarks.workload import Workload

__all__ = ["build", "version"]


def build(workload: Workload, weights: dict[str, np.ndarray]) -> TensorflowProgram:
    """Ready to step; the first step compiles."""
    return TensorflowProgram(workload, weights, jit_compile=True)
