"""The form of kernels for processors with more than their compiler's target."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyopencl as cl
import pytest
from accelkit_opencl.kernels.forms import FORMS
from accelkit_opencl.kernels.matmul_cpu import Matmul
from accelkit_opencl.kernels.source import KernelSource
from accelkit_opencl.lowering import Profile
from accelkit_opencl.products import LOWERINGS
from accelkit_opencl.programs import SourceProvider
from accelkit_opencl.runtime import Runtime

import accelkit as ak
from accelkit.primitives import get

WIDE = Profile(cpu=True, vector_bytes=64, registers=32, compute_units=2)
LOCAL = re.compile(r"^ *__local .*;$", re.MULTILINE)
# Of an instruction of AVX-512: see Intel's manual, volume 2, section 2.7.
PREFIX = re.compile(rb"\x62(?=([\x00-\xff])([\x00-\xff])([\x00-\xff]))")


def dense(x: Any, w: Any, y: Any) -> Any:
    """A product with sums in local memory, elementwise kernels, and reductions of both kinds."""
    z = ak.tanh(x @ w + 1.0)
    return ak.softmax(z, axis=-1), ak.sum(ak.exp(y) * ak.gelu(y), axis=0), ak.max(ak.log(y))


def convolved(x: Any, w: Any, y: Any) -> Any:
    pair = {"strides": (1, 1), "padding": ((1, 1),) * 2, "dilation": (1, 1), "groups": 1}
    image = ak.reshape(x[:8], (2, 10, 8, 15))
    filters = ak.reshape(w[:9], (3, 3, 15, 5))
    result = get("conv2d")(image, filters, **pair)
    gradient = get("conv2d_weight_grad")(image, ak.sin(result), **pair, kernel_size=(3, 3))
    return result, gradient, ak.erf(y) ** 1.7


def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    x, w = (rng.standard_normal(s, dtype=np.float32) for s in ((33, 300), (300, 75)))
    y = rng.standard_normal((67, 45), dtype=np.float32)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 88.9, -104.0, 3.4e38]
    y.flat[7 : 7 + len(special)] = special
    return [x, w, y]


def compiled(
    runtime: Runtime, function: Callable[..., Any]
) -> tuple[list[KernelSource], list[bytes]]:
    """A function's kernels as planned, and the bits of its results."""
    jitted = ak.jit(function)
    results = jitted(*(ak.asarray(a, device=runtime.device) for a in arrays()))
    (program,) = jitted._programs.values()
    sources = [launch.source for launch in program.executable.program.plan.launches]
    return sources, [result.numpy().tobytes() for result in results]


@pytest.mark.parametrize("function", [dense, convolved])
def test_a_wide_kernel_is_a_call_of_a_function(
    runtime: Runtime, function: Callable[..., Any]
) -> None:
    if not runtime.is_cpu:
        pytest.skip("kernels with groups of one work-item: those of CPUs")
    for source in compiled(runtime, function)[0]:
        wide = FORMS["wide"](source)
        assert wide.name.startswith("wide_")
        assert wide.arguments == source.arguments
        assert (wide.global_size, wide.local_size) == (source.global_size, source.local_size)
        before, kernel = wide.source.split("__kernel ")
        assert 'target("avx512f' in before
        assert f"void {wide.name}_wide(" in before
        assert "get_global_id" not in before
        assert f"  {wide.name}_wide(" in kernel
        assert "for (" not in kernel
        assert LOCAL.findall(before) == []
        assert LOCAL.findall(kernel) == LOCAL.findall(source.source)


def test_kernels_of_groups_stay_as_they_are() -> None:
    product = Matmul(1, 20, 30, 40)
    for launch in LOWERINGS["matmul"](product, Profile(cpu=False, max_group=64)).launches:
        assert FORMS["wide"](launch.source) is launch.source


@pytest.mark.parametrize("function", [dense, convolved])
def test_wide_kernels_give_the_same_bits(
    runtime: Runtime, function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime.form != "wide":
        pytest.skip("a compiler that makes no use of the processor's widest vectors by itself")
    found = compiled(runtime, function)[1]
    monkeypatch.setattr(runtime, "form", "range")
    assert compiled(runtime, function)[1] == found


def wide_instructions(provider: SourceProvider, form: str) -> int:
    """How many instructions of a product's kernel have vectors of 512 bits."""
    lowering = LOWERINGS["matmul"](Matmul(1, 64, 64, 64), WIDE)
    program = provider.build("\n".join(FORMS[form](o.source).source for o in lowering.launches))
    binary = program.get_info(cl.program_info.BINARIES)[0]
    assert binary.count(b"\x7fELF") == len(lowering.launches)
    payloads = (match.groups() for match in PREFIX.finditer(binary))
    return sum(
        not p0[0] & 0b1000
        and p0[0] & 0b111 in (1, 2, 3)
        and p1[0] & 0b100 == 0b100
        and p2[0] & 0b1100000 == 0b1000000
        for p0, p1, p2 in payloads
    )


def test_kernels_take_the_vectors_that_the_device_reports(runtime: Runtime) -> None:
    if "PoCL HSTR" not in runtime.handle.version or "x86_64" not in runtime.handle.version:
        pytest.skip("machine code in binaries: PoCL's for x86 only")
    provider = SourceProvider(runtime, keep_binaries=False)
    assert (wide_instructions(provider, runtime.form) > 40) is (runtime.vector_bytes == 64)
    if runtime.form == "wide":
        assert wide_instructions(provider, "range") < 20  # what looks like some by chance
