"""Whole random programs on the OpenCL backend."""

from __future__ import annotations

import os

from parity.test_programs import Programs

KIND = os.environ.get("ACCELKIT_OPENCL_TEST_KIND")


class TestOpencl(Programs):
    """The device under test; PoCL compiles for several seconds per program."""

    backend = "opencl"
    device = f"opencl:{KIND}" if KIND else None
    share = 3
