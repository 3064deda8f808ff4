"""One opened PoCL (or other) device for the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyopencl", reason="the OpenCL backend's extra is not installed")

import pyopencl as cl
from accelkit_opencl import memory
from accelkit_opencl.kernels.source import KernelSource
from accelkit_opencl.lowering import Lowering, Profile
from accelkit_opencl.programs import SourceProvider
from accelkit_opencl.runtime import DeviceArray, Runtime, discover, open_device

from accelkit import registry
from accelkit.dtypes import dtype as as_dtype


class Lab:
    """Runs lowerings on a device, for tests."""

    def __init__(self, runtime: Runtime, provider: SourceProvider) -> None:
        self.runtime = runtime
        self.provider = provider

    def _sources(self, lowering: Lowering) -> list[KernelSource]:
        return [self.provider.form(launch.source) for launch in lowering.launches]

    def build(self, lowerings: Sequence[Lowering]) -> None:
        """Compile several lowerings as one program: each program costs a compiler's start."""
        self.provider.kernels(
            [source for lowering in lowerings for source in self._sources(lowering)]
        )

    def run(
        self, lowering: Lowering, inputs: dict[str, np.ndarray], out: tuple[int, ...]
    ) -> np.ndarray:
        """Run on named inputs; the result is called "out". It and scratch buffers start as NaN.

        Under oclgrind, which finds reads of uninitialised memory, they start uninitialised.
        """
        dtype = next(iter(inputs.values())).dtype

        def blank(shape: tuple[int, ...]) -> DeviceArray:
            if is_checked:
                return self.runtime.empty(shape, as_dtype(dtype))
            return self.runtime.put(np.full(shape, np.nan, dtype))

        arrays = {name: self.runtime.put(array) for name, array in inputs.items()}
        arrays["out"] = blank(out)
        for name, size in lowering.scratch_bytes.items():
            arrays[name] = blank((size // dtype.itemsize,))
        kernels = self.provider.kernels(self._sources(lowering))
        bound = []
        for launch, kernel in zip(lowering.launches, kernels, strict=True):
            kernel.set_args(*(arrays[name].buffer for name in launch.buffers))
            bound.append((kernel, launch.source.global_size, launch.source.local_size))
        blocks = [array.allocation.block for array in arrays.values()]
        self.runtime.launch(bound, blocks, [arrays["out"].allocation.block])
        return self.runtime.get(arrays["out"])


is_checked = "OCLGRIND_LOG" in os.environ  # the tests run under oclgrind


class _DirectTransfers:
    """Plain copies of whole arrays, for oclgrind.

    It does not know that writing through a map initialises memory, and it looks at every byte of
    every buffer, staging buffers included, whenever a kernel ends.
    """

    def __init__(self, queue: cl.CommandQueue) -> None:
        self._queue = queue

    def upload(self, block: memory.Block, array: np.ndarray) -> None:
        source = np.ascontiguousarray(array)
        cl.enqueue_copy(self._queue, block.buffer, source, is_blocking=True)

    def download(self, block: memory.Block, array: np.ndarray) -> None:
        cl.enqueue_copy(self._queue, array, block.buffer, is_blocking=True)


@pytest.fixture(scope="session", autouse=is_checked)
def runtime() -> Runtime:
    """The device under test: the first one, or the kind named in ACCELKIT_OPENCL_TEST_KIND."""
    wanted = os.environ.get("ACCELKIT_OPENCL_TEST_KIND")
    found = [f for f in discover() if wanted is None or f.device.kind == wanted]
    assert found, f"no OpenCL device of kind {wanted}"
    opened = open_device(found[0].device)
    if is_checked:
        # After a write from the host, oclgrind keeps no record of a buffer beyond what was written.
        # A name that is gone is an error, not one more attribute.
        pytest.MonkeyPatch().setattr(memory, "buffer_bytes", lambda size_bytes: max(size_bytes, 1))
        opened.use_host_memory(False)
        opened.transfers = _DirectTransfers(opened.queue)
    return opened


@pytest.fixture(scope="session")
def lab(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Runs lowerings with a binary cache of its own."""
    folder: Path = tmp_path_factory.mktemp("opencl-cache")
    provider = SourceProvider(runtime, folder, keep_binaries=False if is_checked else None)
    return Lab(runtime, provider)


@pytest.fixture(params=["cpu", "gpu"])
def form(request: pytest.FixtureRequest, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernels' form: the device's own, or that for GPUs, which CPUs run too."""
    chosen: str = request.param
    if chosen == "gpu":
        profile = Profile(cpu=False, max_group=64, local_bytes=16384, compute_units=4)
        backend: Any = registry.backend("opencl")
        monkeypatch.setitem(backend._profiles, runtime.device, profile)
    return chosen


class Findings:
    """What oclgrind reported since it was asked last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = len(self._text())

    def _text(self) -> str:
        return self._path.read_text(errors="replace") if self._path.exists() else ""

    def take(self) -> str:
        """New reports, which count as expected from now on."""
        new = self._text()[self._seen :]
        self._seen += len(new)
        return new


@pytest.fixture(autouse=is_checked)
def findings(runtime: Runtime) -> Iterator[Findings]:
    """Under oclgrind, a test fails if it causes a report that it does not take."""
    found = Findings(Path(os.environ["OCLGRIND_LOG"]))
    yield found
    runtime.synchronize()
    reports = found.take().strip()
    if reports:
        pytest.fail(f"oclgrind reports:\n{reports[:8000]}", pytrace=False)
