"""What goes wrong outside of accelkit: one clear error each, and everything works afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyopencl as cl
import pytest
from accelkit_opencl import OpenclBackend
from accelkit_opencl import runtime as runtime_module
from accelkit_opencl.bundle import write_bundle
from accelkit_opencl.kernels.source import KernelSource
from accelkit_opencl.lowering import Profile
from accelkit_opencl.plan import Plan, PlannedLaunch
from accelkit_opencl.programs import SourceProvider
from accelkit_opencl.runtime import Runtime

import accelkit as ak
from accelkit import registry
from accelkit.errors import CapabilityError, CompileError, DeviceError, DTypeError, OutOfMemoryError


def failure(code: int) -> cl.Error:
    """An error as the driver reports it."""
    return type("Failure", (cl.Error,), {"code": code})("failed")


@pytest.fixture
def name(runtime: Runtime) -> str:
    return str(runtime.device)


@pytest.fixture(autouse=True)
def everything_works_afterwards(runtime: Runtime) -> Iterator[None]:
    """This device and another backend compute, whatever the test has provoked."""
    yield
    for device in (str(runtime.device), "numpy"):
        x = ak.asarray(np.arange(6, dtype=np.float32), device=device)
        assert (ak.jit(lambda v: v * 2.0 + 1.0)(x)).numpy().tolist() == [1, 3, 5, 7, 9, 11]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> OpenclBackend:
    """A backend that has compiled nothing yet."""
    backend = OpenclBackend()
    monkeypatch.setitem(registry._instances, "opencl", backend)
    return backend


# --- devices ------------------------------------------------------------------------------------


def test_no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise failure(-1001)  # CL_PLATFORM_NOT_FOUND_KHR

    with monkeypatch.context() as patch:
        patch.setattr(runtime_module.cl, "get_platforms", refuse)
        with pytest.raises(DeviceError, match=r"No OpenCL platform is installed.*pip install"):
            ak.device("opencl")
        patch.setattr(registry, "backend_names", lambda: ["numpy", "opencl"])
        report = ak.devices()
        assert "No OpenCL platform" in report.unavailable["opencl"]
        assert any(info.device.backend == "numpy" for info in report)


def test_no_device_of_the_kind_lists_what_there_is(name: str) -> None:
    missing = "opencl:gpu:7"
    with pytest.raises(DeviceError, match=rf"no device '{missing}'. It has: .*{name}"):
        ak.asarray([1.0], device=missing)


def test_float64_that_the_device_lacks(
    runtime: Runtime, name: str, fresh: OpenclBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "has_float64", False)
    with pytest.raises(DTypeError, match=r"has no float64\. It has: .*float32"):
        ak.asarray(np.ones(3), device=name)
    x = ak.asarray(np.ones(3, np.float32), device=name)
    with pytest.raises(DTypeError, match="float64"):
        x.astype("float64")
    with pytest.raises((CapabilityError, DTypeError), match="float64"):
        ak.jit(lambda v: v.astype("float64").sum())(x)


# --- limits of work-groups and local memory -----------------------------------------------------


def blocks(x: ak.Tensor, w: ak.Tensor) -> tuple[ak.Tensor, ...]:
    """A matrix product, an elementwise chain and reductions."""
    y = x @ w
    return y, ak.tanh(y) + 1.0, y.sum(axis=0), y.max()


def operands() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return (rng.standard_normal(shape).astype(np.float32) for shape in ((70, 40), (40, 50)))


@pytest.mark.parametrize(("most_items", "local_bytes"), [(256, 32768), (64, 4096), (16, 2048)])
def test_a_smaller_tile_is_chosen_where_limits_are_low(
    runtime: Runtime,
    name: str,
    fresh: OpenclBackend,
    monkeypatch: pytest.MonkeyPatch,
    most_items: int,
    local_bytes: int,
) -> None:
    """The device claims groups of 256, but its kernels run in smaller ones only."""
    launched: list[tuple[cl.Kernel, tuple[int, ...]]] = []
    launch = Runtime.launch

    def note(self: Runtime, kernels: list, used: object, written: object) -> None:
        launched.extend((kernel, group) for kernel, _, group in kernels)
        launch(self, kernels, used, written)

    monkeypatch.setattr(Runtime, "launch", note)
    monkeypatch.setattr(runtime, "group_limit", lambda kernel: most_items, raising=False)
    fresh._profiles[runtime.device] = Profile(cpu=False, max_group=256, local_bytes=local_bytes)
    x, w = operands()
    found = ak.jit(blocks)(ak.asarray(x, device=name), ak.asarray(w, device=name))
    y = x.astype(np.float64) @ w
    for ours, expected in zip(found, (y, np.tanh(y) + 1, y.sum(0), y.max()), strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert launched
    information = cl.kernel_work_group_info.LOCAL_MEM_SIZE
    for kernel, group in launched:
        assert math.prod(group) <= most_items
        assert kernel.get_work_group_info(information, runtime.handle) <= local_bytes


def test_groups_that_nothing_can_make_smaller(
    runtime: Runtime, name: str, fresh: OpenclBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "group_limit", lambda kernel: 0, raising=False)
    fresh._profiles[runtime.device] = Profile(cpu=False, max_group=0)
    monkeypatch.setattr(fresh, "_plan", lambda *args: plan_of_groups())
    with pytest.raises(CompileError, match="needs work-groups of 64 items; this device runs at mo"):
        ak.jit(lambda v: v + 1.0)(ak.asarray(np.ones(3, np.float32), device=name))
    monkeypatch.undo()


def plan_of_groups() -> Plan:
    """One kernel that insists on its work-group."""
    text = "__kernel __attribute__((reqd_work_group_size(64, 1, 1))) void KERNEL() {}"
    source = KernelSource.of("wide", text, (), (64,), (64,))
    return Plan((PlannedLaunch(source, ()),), (), (), (), (), (), 0)


# --- compiling ----------------------------------------------------------------------------------


def test_a_failed_build_shows_the_log_and_keeps_the_source(
    name: str, fresh: OpenclBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = SourceProvider.build
    monkeypatch.setattr(
        SourceProvider, "build", lambda self, source: whole(self, source + "\nnonsense;\n")
    )
    x = ak.asarray(np.ones(11, np.float32), device=name)
    with pytest.raises(CompileError, match=r"compiler says:(.|\n)*error") as caught:
        ak.jit(lambda v: v * 17.25)(x)
    saved = Path(str(caught.value).split("saved to ")[1].split(".cl")[0] + ".cl")
    assert "nonsense;" in saved.read_text()
    saved.unlink()
    monkeypatch.undo()


# --- memory -------------------------------------------------------------------------------------


class Failing:
    """Kernel launches that run out of memory, some times."""

    def __init__(self, times: int) -> None:
        self.left = times
        self._launch: Callable[..., cl.Event] = cl.enqueue_nd_range_kernel

    def __call__(self, *args: object, **options: object) -> cl.Event:
        if self.left:
            self.left -= 1
            raise failure(cl.status_code.MEM_OBJECT_ALLOCATION_FAILURE)
        return self._launch(*args, **options)


def test_memory_that_runs_out_when_a_kernel_starts(
    runtime: Runtime, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = ak.asarray(np.arange(5, dtype=np.float32), device=name)
    double = ak.jit(lambda v: v * 2.0)
    double(x)
    in_use = runtime.memory.in_use_bytes
    monkeypatch.setattr(runtime_module.cl, "enqueue_nd_range_kernel", Failing(2))
    with pytest.raises(OutOfMemoryError, match=r"MEM_OBJECT_ALLOCATION_FAILURE.*smaller batch"):
        double(x)
    assert runtime.memory.in_use_bytes <= in_use
    assert double(x).numpy().tolist() == [0, 2, 4, 6, 8]


def test_the_pool_is_released_before_memory_counts_as_gone(
    runtime: Runtime, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = ak.asarray(np.arange(5, dtype=np.float32), device=name)
    triple = ak.jit(lambda v: v * 3.0)
    triple(x)
    runtime.empty((1000,), ak.float32)  # freed at once: pooled
    pooled = runtime.memory.pooled_bytes
    assert pooled >= 4000
    monkeypatch.setattr(runtime_module.cl, "enqueue_nd_range_kernel", Failing(1))
    assert triple(x).numpy().tolist() == [0, 3, 6, 9, 12]
    assert runtime.memory.pooled_bytes < min(pooled, 4000)


# --- bundles ------------------------------------------------------------------------------------


def test_a_shape_outside_of_the_bundle_is_refused_before_anything_runs(
    runtime: Runtime,
    name: str,
    fresh: OpenclBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def program(v: ak.Tensor) -> ak.Tensor:
        return ak.tanh(v).sum(axis=1)

    inside, outside = (ak.asarray(np.ones((n, 5), np.float32), device=name) for n in (3, 4))
    jitted = ak.jit(program)
    expected = jitted(inside).numpy()
    (compiled,) = jitted._programs.values()
    plan = compiled.executable.program.plan
    build = SourceProvider(runtime, keep_binaries=False).build
    write_bundle(tmp_path, {"program": plan}, runtime, fresh.profile(runtime.device), build)
    fresh.open_bundle(tmp_path, runtime.device)
    with monkeypatch.context() as patch:
        patch.setattr(Runtime, "launch", None)
        patch.setattr(SourceProvider, "build", None)
        with pytest.raises(CompileError, match=r"lacks 1 of 1 kernels.*the shapes, the batch"):
            ak.jit(program)(outside)
    assert ak.jit(program)(inside).numpy().tobytes() == expected.tobytes()
    monkeypatch.undo()
