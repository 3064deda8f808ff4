"""That oclgrind's checks are switched on, by kernels that break each rule.

Only meaningful under oclgrind: ``make oclgrind``.
"""

from __future__ import annotations

import os

import numpy as np
import pyopencl as cl
import pytest
from accelkit_opencl.runtime import Runtime

from accelkit import dtypes

pytestmark = pytest.mark.skipif(
    "OCLGRIND_LOG" not in os.environ, reason="checks oclgrind itself: make oclgrind"
)

FAULTS = {
    "race": ("out[0] = in[get_global_id(0)];", "data race"),
    "local race": (
        "__local float shared[8]; shared[get_local_id(0)] = in[get_local_id(0)];"
        "out[get_global_id(0)] = shared[7 - get_local_id(0)];",
        "data race",
    ),
    "uninitialised": ("out[get_global_id(0)] = blank[get_global_id(0)];", "Uninitialized"),
    "out of bounds": ("out[get_global_id(0)] = in[get_global_id(0) + 4096];", "Invalid read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported(runtime: Runtime, findings, fault: str) -> None:
    body, expected = FAULTS[fault]
    source = (
        "__kernel void faulty(__global const float* in, __global const float* blank,"
        f" __global float* out) {{ {body} }}"
    )
    kernel = cl.Kernel(cl.Program(runtime.context, source).build(), "faulty")
    given = runtime.put(np.arange(8, dtype=np.float32))
    blank, out = (runtime.empty((8,), dtypes.float32) for _ in range(2))
    kernel.set_args(given.buffer, blank.buffer, out.buffer)
    used = [array.allocation.block for array in (given, blank, out)]
    runtime.launch([(kernel, (8,), (8,))], used, [])
    runtime.synchronize()
    assert expected in findings.take()
