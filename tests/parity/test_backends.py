"""The parity kit on every backend: also what a third-party backend's test file looks like."""

from __future__ import annotations

import accelkit.parity


class TestNumpy(accelkit.parity.PrimitiveConformance):
    """The reference itself: float32 and narrower against float64."""

    backend = "numpy"


class TestTorch(accelkit.parity.PrimitiveConformance):
    """PyTorch."""

    backend = "torch"


class TestJax(accelkit.parity.PrimitiveConformance):
    """JAX."""

    backend = "jax"
    cases_per_graph = 8  # XLA compiles for a second or more per primitive


class TestTensorflow(accelkit.parity.PrimitiveConformance):
    """TensorFlow."""

    backend = "tensorflow"
    cases_per_graph = 8  # XLA compiles for a second or more per primitive


class TestAgreement(accelkit.parity.BackendAgreement):
    """All of them live against each other."""

    backends = ("numpy", "torch", "jax", "tensorflow")
