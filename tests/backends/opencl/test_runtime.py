"""Devices, memory, transfers, errors and caches of the OpenCL runtime."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import numpy as np
import pyopencl as cl
import pytest
from accelkit_opencl.failures import funnel, translate
from accelkit_opencl.kernels.fused import Body, Read, Statement, elementwise_kernel
from accelkit_opencl.kernels.source import KernelSource
from accelkit_opencl.lowering import Choice
from accelkit_opencl.programs import SourceProvider
from accelkit_opencl.runtime import Runtime, discover, needs_wide_form, open_device
from accelkit_opencl.tuning import load_choices, save_choices
from accelkit_opencl.views import View

from accelkit import dtypes
from accelkit.device import Device
from accelkit.errors import BackendError, CompileError, DataError, DeviceError, OutOfMemoryError


def test_devices_have_unique_names_and_know_their_kind() -> None:
    found = discover()
    assert len({f.device for f in found}) == len(found) > 0
    for f in found:
        flag = {"cpu": cl.device_type.CPU, "gpu": cl.device_type.GPU}.get(
            f.device.kind, cl.device_type.ACCELERATOR
        )
        assert f.handle.type & flag


def test_an_unknown_device_is_refused_with_a_list() -> None:
    with pytest.raises(DeviceError, match=r"no OpenCL device opencl:gpu:99.*There is: opencl:"):
        open_device(Device("opencl", "gpu", 99))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "int8", "uint64"])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (5, 7, 3)])
def test_round_trip(runtime: Runtime, dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(dtype)
    original = array.copy()
    held = runtime.put(array)
    array[...] = 1  # later changes have no effect
    for found in (runtime.get(held), runtime.get(runtime.copy(held))):
        assert found.dtype == original.dtype
        np.testing.assert_array_equal(found, original)


def test_strided_arrays_are_copied_in_order(runtime: Runtime) -> None:
    array = np.arange(24.0).reshape(4, 6).T[::2]
    np.testing.assert_array_equal(runtime.get(runtime.put(array)), array)


def test_the_ledger_balances_and_freed_memory_is_reused(runtime: Runtime) -> None:
    gc.collect()
    memory = runtime.memory
    before = memory.in_use_bytes
    first = runtime.empty((1000, 1000), dtypes.float32)
    assert memory.in_use_bytes - before >= first.size_bytes
    held = first.buffer
    del first
    assert memory.in_use_bytes == before
    second = runtime.empty((1000, 1000), dtypes.float32)
    assert second.buffer is held
    assert memory.peak_bytes >= before + second.size_bytes
    second.allocation.free()
    second.allocation.free()  # twice does no harm
    assert memory.in_use_bytes == before


def test_a_buffer_beyond_the_device_is_out_of_memory(runtime: Runtime) -> None:
    with pytest.raises(OutOfMemoryError, match="smaller batch"):
        runtime.memory.allocate(1 << 60)
    np.testing.assert_array_equal(runtime.get(runtime.put(np.ones(3))), np.ones(3))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (cl.status_code.MEM_OBJECT_ALLOCATION_FAILURE, OutOfMemoryError),
        (cl.status_code.OUT_OF_RESOURCES, OutOfMemoryError),
        (cl.status_code.OUT_OF_HOST_MEMORY, OutOfMemoryError),
        (cl.status_code.INVALID_KERNEL_ARGS, BackendError),
        (cl.status_code.DEVICE_NOT_AVAILABLE, DeviceError),
    ],
)
def test_codes_become_accelkit_errors(code: int, expected: type) -> None:
    failure = type("Failure", (cl.Error,), {"code": code})
    found = translate(failure("failed"), "testing")
    assert type(found) is expected
    assert cl.status_code.to_string(code) in str(found)
    assert "while testing" in str(found)


def test_real_failures_pass_the_funnel(runtime: Runtime) -> None:
    buffer = cl.Buffer(runtime.context, cl.mem_flags.READ_WRITE, 16)

    def copy_too_much() -> None:
        with funnel("copying too much"):
            cl.enqueue_copy(runtime.queue, buffer, np.zeros(1000), is_blocking=True)

    with pytest.raises(BackendError, match="INVALID_") as caught:
        copy_too_much()
    assert isinstance(caught.value.__cause__, cl.Error)


# --- programs ----------------------------------------------------------------------------------


def doubling() -> KernelSource:
    view = View(None, (3,), dtypes.float32, (1,))
    body = Body(
        (3,),
        (Read("x", view, "p"),),
        (Statement("y", dtypes.float32, "x + x", "add", ("x", "x")),),
        (("y", "q"),),
        (("p", dtypes.float32), ("q", dtypes.float32)),
    )
    return elementwise_kernel(body, cpu=True, compute_units=1)


@pytest.mark.parametrize("broadcast", [(0, 0), (0, 1)], ids=["one axis", "two axes"])
@pytest.mark.parametrize("cpu", [True, False])
def test_what_is_overwritten_is_read_and_written_in_the_same_words(
    broadcast: tuple[int, int], cpu: bool
) -> None:
    """Else a compiler cannot tell that both are one element, and makes no vectors."""
    shape, dtype = (70, 900), dtypes.float32
    body = Body(
        shape,
        (
            Read("x", View(None, shape, dtype, (900, 1)), "p"),
            Read("row", View(None, shape, dtype, broadcast), "r"),
        ),
        (Statement("y", dtype, "x + row", "add", ("x", "row")),),
        (("y", "p"),),
        (("p", dtype), ("r", dtype)),
    )
    source = elementwise_kernel(body, cpu=cpu, compute_units=2).source
    begins = dict(re.findall(r"const int o_(x|out) = (.*);", source))
    assert begins["x"] == begins["out"]
    assert "const float x = p[o_x + k];" in source
    assert "p[o_out + k] = y;" in source


def run_doubling(runtime: Runtime, provider: SourceProvider) -> np.ndarray:
    (kernel,) = provider.kernels([doubling()])
    x, y = runtime.put(np.arange(3, dtype=np.float32)), runtime.empty((3,), dtypes.float32)
    kernel.set_args(x.buffer, y.buffer)
    runtime.launch([(kernel, (1,), (1,))], [x.allocation.block], [y.allocation.block])
    return runtime.get(y)


def test_binaries_are_cached_and_damaged_ones_replaced(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def provider() -> SourceProvider:
        return SourceProvider(runtime, tmp_path, keep_binaries=True)

    expected = [0.0, 2.0, 4.0]
    assert run_doubling(runtime, provider()).tolist() == expected
    (path,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:  # the second time nothing is compiled
        patch.setattr(SourceProvider, "build", None)
        assert run_doubling(runtime, provider()).tolist() == expected
    for damage in (lambda b: b[:-3], lambda b: b"", lambda b: b[:90] + b"x" + b[91:]):
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        with pytest.warns(RuntimeWarning, match="ignored"):
            assert run_doubling(runtime, provider()).tolist() == expected
        assert path.read_bytes()[:60] == whole[:60] or path.read_bytes() != damage(whole)


def test_a_refused_kernel_shows_the_log_and_saves_its_source(
    runtime: Runtime, tmp_path: Path
) -> None:
    source = KernelSource.of("wrong", "__kernel void KERNEL() { nonsense; }", (), (1,), (1,))
    with pytest.raises(CompileError, match="nonsense") as caught:
        SourceProvider(runtime, tmp_path).kernels([source])
    saved = Path(str(caught.value).split("saved to ")[1].split(".cl")[0] + ".cl")
    assert source.source in saved.read_text()
    saved.unlink()


def test_tuning_tables_are_kept_and_corrupt_ones_ignored(runtime: Runtime, tmp_path: Path) -> None:
    assert load_choices(runtime, tmp_path) == {}
    path = save_choices({"a": Choice(6, 4)}, runtime, tmp_path)
    save_choices({"b": Choice(8, 3)}, runtime, tmp_path)
    assert load_choices(runtime, tmp_path) == {"a": Choice(6, 4), "b": Choice(8, 3)}
    whole = path.read_text()
    stale = re.sub(r'"version": \d+', '"version": 0', whole)
    elsewhere = whole.replace(runtime.identity["driver"], "another driver")
    for damage in (stale, elsewhere, whole[:-20], "[]", '{"version": 2}'):
        path.write_text(damage)
        with pytest.warns(RuntimeWarning, match="ignored"):
            assert load_choices(runtime, tmp_path) == {}
    save_choices({"c": Choice(6, 2)}, runtime, tmp_path)  # replaces a table that is not valid
    assert load_choices(runtime, tmp_path) == {"c": Choice(6, 2)}


def test_a_tuning_table_that_cannot_be_written_is_told(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"tuning table .* cannot be written: (File exists|Not a)"):
        save_choices({"a": Choice(6, 4)}, runtime, tmp_path / "file")


def test_tuning_tables_are_of_one_width_of_vectors(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = save_choices({"a": Choice(6, 4)}, runtime, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "vector_bytes", 2 * runtime.vector_bytes)
        assert load_choices(runtime, tmp_path) == {}
        there = save_choices({"b": Choice(8, 3)}, runtime, tmp_path)
        assert load_choices(runtime, tmp_path) == {"b": Choice(8, 3)}
    assert load_choices(runtime, tmp_path) == {"a": Choice(6, 4)}
    there.replace(here)
    with pytest.warns(RuntimeWarning, match="vector_bytes"):
        assert load_choices(runtime, tmp_path) == {}


@pytest.mark.parametrize(
    ("version", "width", "expected"),
    [
        ("OpenCL 3.0 PoCL HSTR: pthread-x86_64-unknown-linux-gnu-znver3", 16, True),
        ("OpenCL 3.0 PoCL HSTR: pthread-x86_64-unknown-linux-gnu-znver3", 8, False),
        ("OpenCL 3.0 PoCL HSTR: pthread-x86_64-unknown-linux-gnu-skylake-avx512", 16, False),
        ("OpenCL 3.0 PoCL HSTR: pthread-x86_64-unknown-linux-gnu-icelake-server", 16, False),
        ("OpenCL 3.0 PoCL HSTR: pthread-aarch64-unknown-linux-gnu-cortex-a72", 16, False),
        ("OpenCL 3.0 (Build 0)", 16, False),
        ("OpenCL 1.2 oclgrind", 0, False),
    ],
)
def test_only_pocl_with_an_older_target_needs_the_wide_form(
    version: str, width: int, expected: bool
) -> None:
    assert needs_wide_form(version, width) is expected
