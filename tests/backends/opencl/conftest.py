"""One opened PoCL (or other) device for the tests of this folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyopencl", reason="the OpenCL backend's extra is not installed")

from accelkit_opencl.products import Lowering
from accelkit_opencl.programs import SourceProvider
from accelkit_opencl.runtime import DeviceArray, Runtime, discover, open_device

from accelkit.dtypes import dtype as as_dtype


class Lab:
    """Runs lowerings on a device, for tests."""

    def __init__(self, runtime: Runtime, provider: SourceProvider) -> None:
        self.runtime = runtime
        self.provider = provider

    def run(
        self, lowering: Lowering, inputs: dict[str, np.ndarray], out: tuple[int, ...]
    ) -> np.ndarray:
        """Run on named inputs; the result is called "out". It and scratch buffers start as NaN.

        Under oclgrind, which finds reads of uninitialised memory, they start uninitialised.
        """
        import pyopencl as cl

        dtype = next(iter(inputs.values())).dtype
        checked = self.runtime.handle.platform.name == "Oclgrind"
        if checked:
            self.runtime.memory.release_pool()

        def blank(shape: tuple[int, ...]) -> DeviceArray:
            if checked:
                return self.runtime.empty(shape, as_dtype(dtype))
            return self.runtime.put(np.full(shape, np.nan, dtype))

        arrays = {name: self.runtime.put(array) for name, array in inputs.items()}
        arrays["out"] = blank(out)
        for name, size in lowering.scratch_bytes.items():
            arrays[name] = blank((size // dtype.itemsize,))
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
    # oclgrind does not know an instruction that optimisation introduces.
    checked = runtime.handle.platform.name == "Oclgrind"
    if checked:  # nor that writing through a mapped pointer initialises memory
        runtime.shares_host_memory = False
    options = ["-cl-opt-disable"] if checked else []
    provider = SourceProvider(
        runtime, folder, keep_binaries=False if checked else None, options=options
    )
    return Lab(runtime, provider)
