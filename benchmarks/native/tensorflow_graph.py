"""TensorFlow: one ``tf.function`` in graph mode, on TensorFlow's own kernels."""

from __future__ import annotations

import numpy as np

from benchmarks.native.tensorflow_common import TensorflowProgram, version
from benchmarks.workload import Workload

__all__ = ["build", "version"]


def build(workload: Workload, weights: dict[str, np.ndarray]) -> TensorflowProgram:
    """Ready to step; the first step traces."""
    return TensorflowProgram(workload, weights, jit_compile=False)
