"""Failures of a backend: translated, with the cause kept and what helps to fix them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
from accelkit_numpy import NumpyBackend

import accelkit as ak
from accelkit import registry
from accelkit.device import DeviceInfo
from accelkit.errors import (
    BackendError,
    CapabilityError,
    CompileError,
    DTypeError,
    OutOfMemoryError,
    TraceError,
)


class Frail(NumpyBackend):
    """NumPy on a device that fails on demand, lacks float64, and cannot take tangents."""

    name: ClassVar[str] = "frail"
    table = {k: v for k, v in NumpyBackend.table.items() if k != "tan"}  # noqa: RUF012
    capabilities = frozenset()
    failure: ClassVar[Exception | None] = None
    when: ClassVar[str] = ""

    def _fail(self, when: str) -> None:
        if self.failure is not None and self.when == when:
            raise self.failure

    def devices(self) -> list[DeviceInfo]:
        return [DeviceInfo(ak.Device("frail", "cpu", 0), "frail", None, "0")]

    def put(self, array: Any, device: Any) -> Any:
        self._fail("put")
        return super().put(array, device)

    def get(self, array: Any) -> Any:
        self._fail("get")
        return super().get(array)

    def run(self, *args: Any) -> Any:
        self._fail("eager")
        return super().run(*args)

    def compile(self, *args: Any, **options: Any) -> Any:
        self._fail("compile")
        executable = super().compile(*args, **options)
        original = executable._run

        def run(*arrays: Any) -> Any:
            self._fail("run")
            return original(*arrays)

        executable._run = run
        return executable


@pytest.fixture
def frail(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that makes the backend fail at a certain point."""
    monkeypatch.setattr(registry, "_registered_backends", {})
    monkeypatch.setattr(registry, "_instances", dict(registry._instances))
    registry.register_backend("frail", Frail)

    def fail(when: str, failure: Exception | None) -> None:
        monkeypatch.setattr(Frail, "when", when)
        monkeypatch.setattr(Frail, "failure", failure)

    return fail


USES = {
    "put": lambda x: ak.asarray([1.0], device="frail"),
    "get": lambda x: x.numpy(),
    "eager": lambda x: x + 1.0,
    "run": lambda x: ak.jit(lambda t: ak.exp(t).reshape(2, 2))(x),
}


@pytest.mark.parametrize("when", USES)
def test_errors_of_the_framework_become_accelkits(when: str, frail: Any) -> None:
    x = ak.zeros(4, device="frail")
    cause = RuntimeError("cudaErrorIllegalAddress")
    frail(when, cause)
    text = "Backend 'frail' failed: RuntimeError: cudaErrorIllegalAddress"
    with pytest.raises(BackendError, match=text) as caught:
        USES[when](x)
    assert caught.value.__cause__ is cause
    frail(when, None)
    USES[when](x)  # nothing is left behind


@pytest.mark.parametrize("when", ["eager", "run"])
def test_running_out_of_memory_is_one_error_everywhere(when: str, frail: Any) -> None:
    x = ak.zeros(4, device="frail")
    frail(when, MemoryError("4 GiB"))
    with pytest.raises(OutOfMemoryError, match="'frail' ran out of memory") as caught:
        USES[when](x)
    assert isinstance(caught.value, MemoryError)


@pytest.mark.parametrize("when", ["compile", "run"])
def test_a_program_that_needs_too_much_names_its_largest_tensors(when: str, frail: Any) -> None:
    x = ak.zeros((64, 64), device="frail")
    frail(when, MemoryError("4 GiB"))
    text = r"(?s)ran out of memory.*The program 'big' needs: arena .*float32\[64,64\] of exp.*batch"

    @ak.jit
    def big(t: ak.Tensor) -> ak.Tensor:
        return ak.sin(ak.exp(t))

    with pytest.raises(OutOfMemoryError, match=text) as caught:
        big(x)
    assert isinstance(caught.value.__cause__, OutOfMemoryError)
    assert isinstance(caught.value.__cause__.__cause__, MemoryError)


def test_a_refused_graph_says_which_and_why(frail: Any) -> None:
    x = ak.zeros(4, device="frail")
    frail("compile", ValueError("unsupported layout"))

    @ak.jit
    def refused(t: ak.Tensor) -> ak.Tensor:
        return t * t

    text = r"could not compile 'refused' \(1 primitives\) for frail:cpu:0: .*unsupported layout"
    with pytest.raises(CompileError, match=text) as caught:
        refused(x)
    assert isinstance(caught.value.__cause__, BackendError)
    assert refused.cache_size == 0
    frail("", None)
    assert refused(x).tolist() == [0.0] * 4


@pytest.mark.usefixtures("frail")
def test_a_missing_primitive_says_how_to_add_it() -> None:
    x = ak.zeros(2, device="frail")
    text = r"Backend 'frail' does not implement the primitive 'tan'.*lowering\('frail'\)"
    for call in (ak.tan, ak.jit(ak.tan)):
        with pytest.raises(CapabilityError, match=text):
            call(x)


@pytest.mark.usefixtures("frail")
def test_a_dtype_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(DTypeError, match=r"frail:cpu:0 has no float64. It has: bool, float32, int"):
        ak.asarray(np.zeros(2), device="frail")
    x = ak.zeros(2, device="frail")
    for call in (
        lambda: ak.zeros(2, dtype="float64", device="frail"),
        lambda: ak.arange(3, dtype="float64", device="frail"),
        lambda: x.astype("float64"),
        lambda: ak.jit(lambda t: t.astype("float64"))(x),
        lambda: ak.jit(lambda t: t + ak.ones(2, dtype="float16"))(x),
        lambda: ak.asarray([1.0], dtype="float16", device="frail"),
    ):
        with pytest.raises(DTypeError, match="frail:cpu:0 has no float"):
            call()
    assert "float64" not in ak.__array_namespace_info__().dtypes(device=ak.device("frail"))


def test_large_arrays_in_a_trace_are_inputs_and_small_ones_constants() -> None:
    small, large = np.ones(8, "float32"), np.ones(5000, "float32")
    compiled = ak.jit(lambda x: (x + ak.asarray(small)).sum() + ak.asarray(large).sum())
    graph = compiled.lower(ak.zeros(8))
    assert graph.counts()["constant"] == 1
    assert graph.input_names == ("0", "captured")
    for _ in range(2):
        assert float(compiled(ak.zeros(8))) == 5008.0


def test_numbers_beyond_every_float() -> None:
    with pytest.raises(DTypeError, match="too large for float32"):
        ak.full(2, 10**400, dtype="float32")
    with pytest.raises(TraceError, match="nextafter needs the data"):
        ak.trace(ak.nextafter, ak.zeros(2), ak.zeros(2))
