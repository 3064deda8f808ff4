"""The parity kit on one OpenCL device: what ``python -m accelkit.opencl check`` runs."""

from __future__ import annotations

import os

import accelkit.parity


class TestDevice(accelkit.parity.PrimitiveConformance):
    """Every primitive on the device named in ``ACCELKIT_OPENCL_CHECK_DEVICE``."""

    backend = "opencl"
    device = os.environ.get("ACCELKIT_OPENCL_CHECK_DEVICE")
