"""One opened PoCL (or other) device for the tests of this folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyopencl", reason="the OpenCL backend's extra is not installed")

from accelkit_opencl.products import Lowering
from accelkit_opencl.programs import SourceProvider
from accelkit_opencl.runtime import Runtime, discover, open_device


class Lab:
    """Runs lowerings on a device, for tests."""

    def __init__(self, runtime: Runtime, provider: SourceProvider) -> None:
        self.runtime = runtime
        self.provider = provider

    def run(
        self, lowering: Lowering, inputs: dict[str, np.ndarray], out: tuple[int, ...]
    ) -> np.ndarray:
        """Run on named inputs; the result buffer is called "out" and starts as NaN."""
        import pyopencl as cl

        dtype = next(iter(inputs.values())).dtype
        arrays = {name: self.runtime.put(array) for name, array in inputs.items()}
        arrays["out"] = self.runtime.put(np.full(out, np.nan, dtype))
        for name, size in lowering.scratch_bytes.items():
            arrays[name] = self.runtime.put(np.full(size // dtype.itemsize, np.nan, dtype))
        kernels = self.provider.kernels([launch.source for launch in lowering.launches])
        for launch, kernel in zip(lowering.launches, kernels, strict=True):
            kernel.set_args(*(arrays[name].buffer for name in launch.buffers))
            source = launch.source
            cl.enqueue_nd_range_kernel(
                self.runtime.queue, kernel, source.global_size, source.local_size
            )
        return self.runtime.get(arrays["out"])


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    """The device under test: the first one, or the kind named in ACCELKIT_OPENCL_TEST_KIND."""
    wanted = os.environ.get("ACCELKIT_OPENCL_TEST_KIND")
    found = [f for f in discover() if wanted is None or f.device.kind == wanted]
    assert found, f"no OpenCL device of kind {wanted}"
    return open_device(found[0].device)


@pytest.fixture(scope="session")
def lab(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Runs lowerings with a binary cache of its own."""
    folder: Path = tmp_path_factory.mktemp("opencl-cache")
    return Lab(runtime, SourceProvider(runtime, folder))
