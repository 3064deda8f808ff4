"""The parity kit on the OpenCL backend."""

from __future__ import annotations

import os

import accelkit.parity

KIND = os.environ.get("ACCELKIT_OPENCL_TEST_KIND")


class TestOpencl(accelkit.parity.PrimitiveConformance):
    """Every primitive, compiled and eagerly, with derivatives."""

    backend = "opencl"
    device = f"opencl:{KIND}" if KIND else None
