"""The parity kit on the OpenCL backend."""

from __future__ import annotations

import accelkit.parity


class TestOpencl(accelkit.parity.PrimitiveConformance):
    """Every primitive, compiled and eagerly, with derivatives."""

    backend = "opencl"
