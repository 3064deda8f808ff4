"""Compiled functions: what they cache, what they capture, what they refuse."""

from __future__ import annotations

import dataclasses
import functools
import threading
from typing import Any

import numpy as np
import pytest
from core.arrays import assert_same

import accelkit as ak
from accelkit.compilation import compile_graph, run
from accelkit.errors import DeviceMismatchError, OptionError


def count_traces(function: Any) -> tuple[Any, list[int]]:
    """The function, and a list that grows by one with each trace."""
    calls: list[int] = []

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return function(*args, **kwargs)

    return counted, calls


def test_one_trace_per_structure_shape_and_dtype() -> None:
    function, calls = count_traces(lambda x: {"double": x * 2.0})
    compiled = ak.jit(function)
    for _ in range(3):
        assert compiled(ak.asarray([1.0, 2.0]))["double"].tolist() == [2.0, 4.0]
    assert (len(calls), compiled.cache_size) == (1, 1)
    compiled(ak.zeros(3))
    compiled(ak.zeros(2, dtype="float64"))
    assert compiled.cache_size == len(calls) == 3
    total, traces = count_traces(lambda tree: tree["a"] + tree["b"][0])
    compiled = ak.jit(total)
    one = ak.asarray(1.0)
    assert float(compiled({"a": one, "b": [one]})) == 2.0
    assert float(compiled({"b": [one], "a": one})) == 2.0  # keys have no order
    assert float(compiled({"a": one, "b": (one,)})) == 2.0
    assert len(traces) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [(1, 2), (1, 1.0), (1, True), (0.0, -0.0), ("a", "b"), (None, 1), (1.5, 2.5)],
)
def test_static_values_compile_again(first: Any, second: Any) -> None:
    function, calls = count_traces(lambda x, mode: x)
    compiled = ak.jit(function)
    for value in (first, second, first, second):
        compiled(ak.zeros(1), value)
    assert len(calls) == 2


def test_static_numbers_keep_their_sign_and_nan_its_program() -> None:
    compiled = ak.jit(lambda x, s: x * s)
    one = ak.asarray([1.0])
    assert_same(compiled(one, 0.0), np.array([0.0], "float32"))
    assert_same(compiled(one, -0.0), np.array([-0.0], "float32"))
    for _ in range(3):
        compiled(one, float("nan"))
    assert compiled.cache_size == 3


def test_keywords_methods_and_decorators() -> None:
    @ak.jit(deterministic=True)
    def scaled(x: ak.Tensor, *, by: ak.Tensor, power: int = 1) -> ak.Tensor:
        """Doc."""
        return (x * by) ** power

    assert scaled.__name__ == "scaled"
    assert scaled.__doc__ == "Doc."
    assert scaled(ak.asarray(2.0), by=ak.asarray(3.0)).tolist() == 6.0
    assert scaled(ak.asarray(2.0), by=ak.asarray(3.0), power=2).tolist() == 36.0

    @dataclasses.dataclass(frozen=True)
    class Scale:
        factor: float

        @ak.jit
        def __call__(self, x: ak.Tensor) -> ak.Tensor:
            return x * self.factor

        @ak.jit
        def apply(self, x: ak.Tensor) -> ak.Tensor:
            return x * self.factor

    assert Scale(3.0).apply(ak.asarray(2.0)).tolist() == 6.0
    assert Scale(4.0).apply(ak.asarray(2.0)).tolist() == 8.0
    assert Scale(5.0)(ak.asarray(2.0)).tolist() == 10.0


def test_numpy_arrays_are_inputs_on_the_device_of_the_tensors() -> None:
    function, calls = count_traces(lambda x, y: x + y)
    compiled = ak.jit(function)
    assert compiled(np.ones(2), np.ones(2)).tolist() == [2.0, 2.0]
    assert compiled(np.zeros(2), np.ones(2)).tolist() == [1.0, 1.0]
    assert len(calls) == 1
    pytest.importorskip("torch")
    there = ak.ones(2, dtype="float64", device="torch:cpu")
    assert compiled(np.ones(2), there).device is there.device


def test_tensors_from_outside_are_captured() -> None:
    weight = ak.asarray([2.0, 3.0])
    compiled = ak.jit(lambda x: x * weight + weight)
    assert compiled(ak.ones(2)).tolist() == [4.0, 6.0]
    graph = compiled.lower(ak.ones(2))
    assert graph.input_names == ("0", "captured")  # once, though used twice


def test_outputs_may_be_inputs_constants_and_anything_static() -> None:
    weight = ak.asarray(5.0)
    compiled = ak.jit(lambda x: (x, {"same": x, "outside": weight, "text": "a", "none": None}, 3))
    x = ak.asarray([1.0])
    same, rest, number = compiled(x)
    assert same.tolist() == rest["same"].tolist() == [1.0]
    assert (rest["text"], rest["none"], number) == ("a", None, 3)
    assert float(rest["outside"]) == 5.0
    assert ak.jit(lambda: 7)() == 7
    assert ak.jit(lambda: ak.ones(2))().tolist() == [1.0, 1.0]


def test_nested_compilation_is_one_program() -> None:
    inner = ak.jit(lambda x: x * 2.0)
    outer = ak.jit(lambda x: inner(inner(x)))
    assert float(outer(ak.asarray(3.0))) == 12.0
    assert inner.cache_size == 0
    assert float(ak.grad(outer)(ak.asarray(3.0))) == 4.0


def test_a_compiled_gradient() -> None:
    slope = ak.jit(ak.grad(lambda x: (x**3).sum()))
    assert slope(ak.asarray([1.0, 2.0])).tolist() == [3.0, 12.0]


def test_a_program_belongs_to_its_device() -> None:
    pytest.importorskip("torch")
    compiled = ak.jit(lambda x: x + 1.0)
    here, there = ak.zeros(2), ak.zeros(2, device="torch:cpu")
    assert compiled(here).device is here.device
    assert compiled(there).device is there.device
    assert compiled.cache_size == 2
    with pytest.raises(DeviceMismatchError, match="tensors on numpy:cpu:0 and torch:cpu:0"):
        ak.jit(lambda x, y: x)(here, there)
    with pytest.raises(DeviceMismatchError, match=r"runs on torch:cpu:0, but uses a tensor on num"):
        ak.jit(lambda x: x + here)(there)
    with ak.default_device("torch:cpu"):
        assert ak.jit(lambda: ak.zeros(2))().device is there.device


@pytest.mark.parametrize("device", ["numpy", "torch:cpu", "jax:cpu", "tensorflow:cpu"])
def test_donated_arguments(device: str) -> None:
    if device != "numpy":
        pytest.importorskip(device.partition(":")[0])
    compiled = ak.jit(lambda state, x: (state["w"] + x, state["w"] * 2.0), donate_argnums=0)
    w, x = ak.asarray([1.0, 2.0], device=device), ak.asarray([10.0, 20.0], device=device)
    total, double = compiled({"w": w}, x)
    assert total.tolist() == [11.0, 22.0]
    assert double.tolist() == [2.0, 4.0]
    assert x.tolist() == [10.0, 20.0]
    # The same memory as a donated and as a kept argument: the kept one survives.
    assert compiled({"w": x}, x)[0].tolist() == [20.0, 40.0]
    assert x.tolist() == [10.0, 20.0]
    last = ak.jit(lambda a, b: a + b, donate_argnums=-1)
    assert last(x, ak.asarray([1.0, 1.0], device=device)).tolist() == [11.0, 21.0]


def test_refusals() -> None:
    with pytest.raises(OptionError, match=r"precision must be one of float32, tf32, got 'half'"):
        ak.jit(lambda x: x, precision="half")
    with pytest.raises(OptionError, match=r"type Thing that is neither a tensor nor hashable"):
        ak.jit(lambda x: x)(Thing())


@dataclasses.dataclass
class Thing:
    """Equality without a hash."""

    value: int = 0


def test_an_unhashable_argument_is_named_even_beside_a_hashable_one() -> None:
    with pytest.raises(OptionError, match="type Thing"):
        ak.jit(lambda x, y: x)("text", Thing())


def test_threads_share_a_function() -> None:
    compiled = ak.jit(lambda x: (x * x).sum())
    results: dict[int, float] = {}

    def work(n: int) -> None:
        results[n] = float(compiled(ak.full((n,), float(n))))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: float(n**3) for n in range(1, 9)}


def test_graphs_compile_and_run_by_hand() -> None:
    graph = ak.trace(lambda x, y: (x - y, x), ak.zeros(2), ak.zeros(2))
    device = ak.device("numpy")
    executable = compile_graph(graph, device)
    difference, same = run(executable, [ak.asarray([3.0, 2.0]), ak.asarray([1.0, 1.0])])
    assert difference.tolist() == [2.0, 1.0]
    assert same.tolist() == [3.0, 2.0]
    assert executable.compile_time_s >= 0.0
    assert executable.device is device


def test_callable_objects_keep_what_they_hold() -> None:
    @ak.custom_vjp
    def same(x: ak.Tensor) -> ak.Tensor:
        return x * 1.0

    same.defvjp(lambda x: (x * 1.0, ()), lambda _, g: (g * 7.0,))
    compiled = ak.jit(same)
    assert float(compiled(ak.asarray(2.0))) == 2.0
    assert float(ak.grad(compiled)(ak.asarray(2.0))) == 7.0
    inner = ak.jit(lambda x: x + 1.0, precision="tf32")
    outer = ak.jit(inner, donate_argnums=0)
    assert float(outer(ak.asarray(1.0))) == 2.0
    assert (outer.donate_argnums, outer.options.matmul_precision) == ((0,), "float32")
    assert (inner.donate_argnums, inner.cache_size) == ((), 0)
