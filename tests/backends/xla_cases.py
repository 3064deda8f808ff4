"""What the tests of the JAX and TensorFlow backends share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from backends.comparison import REFERENCE, assert_close, run
from backends.compiled import run_compiled
from backends.primitive_cases import INTEGERS, Case, floating_cases, integer_cases, logical_cases

import accelkit as ak
from accelkit import dtypes
from accelkit.backend import Backend, Executable
from accelkit.graph import Graph, Node, TensorSpec, Value
from accelkit.primitives import get
from accelkit.random import random_bits, random_keep_mask, random_uniform

# XLA may multiply by the reciprocal of a repeated divisor.
_ROUNDED_WHEN_COMPILED = {"divide"}


def groups() -> dict[str, list[Case]]:
    """All cases by the dtype that they are about."""
    found = {
        dtype.name: list(floating_cases(dtype.numpy))
        for dtype in (dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16)
    }
    found["bool"] = list(logical_cases())
    return found | {dtype.__name__: list(integer_cases(dtype)) for dtype in INTEGERS}


def check_compiled(
    backend: Backend, name: str, leave_out: Callable[[Case], bool] = lambda case: False
) -> None:
    """All cases of a dtype, as one program, against the NumPy backend."""
    sixteen_bits = name in ("float16", "bfloat16")
    # What depends on the shapes is the same for all floats, and compiling it takes its time.
    once = sixteen_bits or name == "float64"
    cases = first_cases(name) if once else groups()[name]
    cases = [case for case in cases if not leave_out(case)]
    for case, results in zip(cases, run_compiled(backend, cases), strict=True):
        exact = case.exact and not sixteen_bits and case.primitive not in _ROUNDED_WHEN_COMPILED
        for found, expected in zip(results, run(REFERENCE, case), strict=True):
            assert_close(found, expected, exact=exact)


def first_cases(*names: str) -> list[Case]:
    """The first case of each primitive and dtype: each eager one is a program to compile."""
    found: dict[tuple[str, str], Case] = {}
    for name in names:
        for case in groups()[name]:
            found.setdefault((name, case.primitive), case)
    return list(found.values())


def check_eager(backend: Backend, case: Case) -> None:
    """One primitive, run by itself, against the NumPy backend."""
    exact = case.exact and case.primitive not in _ROUNDED_WHEN_COMPILED
    for found, expected in zip(run(backend, case), run(REFERENCE, case), strict=True):
        assert_close(found, expected, exact=exact)


# --- random numbers -------------------------------------------------------------------------------

# Random123's known answers for Philox4x32-10 with an all-zero counter and key.
ZERO_BLOCK = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)


def check_known_answers(backend: Backend) -> None:
    """The all-zero vector by way of uniform numbers, which show 24 bits of each word."""
    case = Case(
        "random_uniform",
        (np.zeros(2, np.uint32),),
        {"shape": (4,), "dtype": dtypes.float32, "offset": 0},
    )
    expected = np.array([word >> 8 for word in ZERO_BLOCK], np.float32) * np.float32(2.0**-24)
    for results in (run(backend, case), run_compiled(backend, [case])[0]):
        np.testing.assert_array_equal(results[0], expected)


def check_random_stream(backend: Backend) -> None:
    """Keys that are data, offsets beyond 2^34 words, positions within a block."""
    cases, expected = [], []
    for key in ((0, 0), (1, 2), (0xFFFFFFFF, 0x80000001)):
        array = (np.array(key, np.uint32),)
        for offset in (0, 1, 2, 3, (1 << 34) - 6, (1 << 40) + 7):
            p = {"shape": (3, 5), "rate": 0.3, "offset": offset}
            cases.append(Case("random_keep_mask", array, p))
            expected.append(random_keep_mask(key, (3, 5), 0.3, offset=offset))
            for dtype in (dtypes.float32, dtypes.float64):
                p = {"shape": (7,), "dtype": dtype, "offset": offset}
                cases.append(Case("random_uniform", array, p))
                expected.append(random_uniform(key, (7,), dtype, offset=offset))
    for results, wanted in zip(run_compiled(backend, cases), expected, strict=True):
        np.testing.assert_array_equal(results[0], wanted)
    assert len({e.tobytes() for e in expected}) == len(expected)
    assert random_bits((0, 0), 0, 4).tolist() == list(ZERO_BLOCK)


# --- programs -------------------------------------------------------------------------------------


def update_graph(size: int = 1000) -> Graph:
    """(p, v, g) to (p - v', v', sum g) with v' = v + g: a step in miniature."""
    spec = TensorSpec((size,), dtypes.float32)
    p, v, g = (Value(spec, None, i) for i in range(3))
    new_v = Node(get("add"), [v, g], {}, [spec])
    new_p = Node(get("subtract"), [p, new_v.outputs[0]], {}, [spec])
    total = Node(get("reduce_sum"), [g], {"axes": (0,)}, [TensorSpec((), dtypes.float32)])
    outputs = [new_p.outputs[0], new_v.outputs[0], total.outputs[0]]
    return Graph([p, v, g], [new_v, new_p, total], outputs, name="update")


def check_donation(backend: Backend) -> None:
    """Three steps with p and v donated: right values, and g, which is not donated, untouched."""
    device = backend.devices()[-1].device
    executable = backend.compile(update_graph(), device, donate=frozenset({0, 1}))
    assert executable.compile_time_s > 0.0
    p, v, g = (np.full(1000, value, np.float32) for value in (10.0, 0.5, 0.25))
    state = [backend.put(p, device), backend.put(v, device)]
    gradient = backend.put(g, device)
    for _ in range(3):
        *state, total = executable([*state, gradient])
        v = v + g
        p = p - v
        assert [backend.spec(a) for a in state] == [v.spec for v in executable.graph.inputs[:2]]
        np.testing.assert_array_equal(backend.get(state[0]), p)
        np.testing.assert_array_equal(backend.get(state[1]), v)
        assert backend.get(total) == g.sum()
        np.testing.assert_array_equal(backend.get(gradient), g)


def check_copies_survive(backend: Backend) -> None:
    """A copy of the state keeps its content while steps go on."""
    device = backend.devices()[-1].device
    executable = backend.compile(update_graph(), device, donate=frozenset({0, 1}))
    ones = np.ones(1000, np.float32)
    gradient = backend.put(ones, device)
    *state, _ = executable([backend.put(ones, device), backend.put(ones, device), gradient])
    before = [backend.get(a) for a in state]
    copies = [backend.copy(a, device) for a in state]
    for _ in range(2):
        *state, _ = executable([*state, gradient])
    for copy, expected in zip(copies, before, strict=True):
        np.testing.assert_array_equal(backend.get(copy), expected)
    # And a copy can itself be donated.
    *again, _ = executable([*copies, gradient])
    np.testing.assert_array_equal(backend.get(again[1]), before[1] + 1.0)


def check_results_of_steps_are_operands(backend: Backend) -> None:
    """What a step with donation returns can be used by any primitive and any program."""
    device = backend.devices()[-1].device
    executable = backend.compile(update_graph(), device, donate=frozenset({0, 1}))
    ones = [backend.put(np.ones(1000, np.float32), device) for _ in range(3)]
    p, v, _ = executable(ones)
    assert backend.owns(p)
    assert backend.device_of(p) is device
    total = backend.run(get("add"), [p, v], {}, device)
    np.testing.assert_array_equal(backend.get(total), np.ones(1000))
    plain: Executable = backend.compile(update_graph(), device)
    outputs: Sequence[object] = plain([p, v, v])
    np.testing.assert_array_equal(backend.get(outputs[1]), np.full(1000, 4.0))
    np.testing.assert_array_equal(backend.get(v), np.full(1000, 2.0))


def check_memory_is_the_backends_own(backend: Backend) -> None:
    """Later changes of a NumPy array, before or after the transfer, have no effect."""
    device = backend.devices()[-1].device
    for size in (3, 3, 3, 3, 3, 1 << 20):  # a backend may transfer usual shapes in another way
        source = np.zeros(size, np.float32)
        array = backend.put(source, device)
        source[:] = 1.0
        assert not backend.get(array).any()
        found = backend.get(array)
        found[:] = 2.0
        assert not backend.get(array).any()


def check_round_trips(backend: Backend) -> None:
    """Every dtype that the backend says it has goes in and out unchanged, at every rank."""
    device = backend.devices()[-1].device
    names = backend.dtype_names(device)
    assert {"float32", "int32", "int64", "uint32", "bool"} <= names
    for name in names:
        for shape in ((), (0, 2), (2, 3)):
            source = np.arange(np.prod(shape, dtype=int)).reshape(shape)
            source = source.astype(dtypes.dtype(name).numpy)
            array = backend.put(source, device)
            assert backend.spec(array) == TensorSpec(shape, dtypes.dtype(name))
            assert backend.device_of(array) is device
            assert backend.owns(array)
            found = backend.get(array)
            assert found.dtype == source.dtype
            np.testing.assert_array_equal(found.astype(np.float64), source.astype(np.float64))
    assert not backend.owns(np.zeros(3))


# --- control flow ------------------------------------------------------------------------------


def check_control_flow(backend: Backend) -> None:
    """Loops and conditionals, values and gradients, eager and compiled, against NumPy's."""
    device = backend.devices()[-1].device

    def loop(w: ak.Tensor, x: ak.Tensor, *, reverse: bool) -> ak.Tensor:
        def step(carry: Any, element: ak.Tensor) -> Any:
            count, total = carry
            return (count + 1, total * w + element), (total * element, count)

        start = ak.asarray(0, device=w.device), ak.zeros((2,), dtype="float32", device=w.device)
        (count, total), (products, counts) = ak.scan(step, start, x, reverse=reverse)
        weights = ak.astype(counts + count, "float32")
        return ak.sum(total) + ak.sum(products * ak.reshape(weights, (-1, 1)))

    def choice(p: ak.Tensor, x: ak.Tensor) -> ak.Tensor:
        return ak.sum(ak.cond(p, lambda x: x * x, lambda x: x - 1.0, x))

    w = np.array([0.5, 2.0], np.float32)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    for reverse in (False, True):
        function = functools.partial(loop, reverse=reverse)
        for transform in (lambda f: f, ak.grad, ak.jit, lambda f: ak.jit(ak.grad(f))):
            for rows in (x, x[:1]):
                found, expected = (
                    transform(function)(ak.asarray(w, device=d), ak.asarray(rows, device=d))
                    for d in (device, "numpy")
                )
                np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)
    for flag in (True, False):
        for transform in (lambda f: f, ak.jit, lambda f: ak.jit(ak.grad(f, argnums=1))):
            found, expected = (
                transform(choice)(ak.asarray(flag, device=d), ak.asarray(w, device=d))
                for d in (device, "numpy")
            )
            np.testing.assert_array_equal(found.numpy(), expected.numpy())


PADDED_WINDOWS = [
    ((4, 2), (3, 2), 1),  # XLA ended the process on the gradients of this one
    ((4, 2), (1, 2), 1),  # and of this one
    ((2, 2), (2, 2), 2),
    ((1, 1), (2, 2), 1),
]


class SharedTests:
    """What holds of either backend; its test file makes a subclass that names it."""

    backend: ClassVar[Backend]

    @pytest.mark.parametrize("name", groups())
    def test_compiled(self, name: str) -> None:
        check_compiled(self.backend, name)

    @pytest.mark.parametrize("case", first_cases("float32", "int32", "uint16", "bool"), ids=str)
    def test_eager(self, case: Case) -> None:
        check_eager(self.backend, case)

    def test_known_answers(self) -> None:
        check_known_answers(self.backend)

    def test_random_stream(self) -> None:
        check_random_stream(self.backend)

    def test_donation(self) -> None:
        check_donation(self.backend)

    def test_copies_survive(self) -> None:
        check_copies_survive(self.backend)

    def test_results_of_steps_are_operands(self) -> None:
        check_results_of_steps_are_operands(self.backend)

    def test_control_flow(self) -> None:
        check_control_flow(self.backend)

    def test_memory_is_the_backends_own(self) -> None:
        check_memory_is_the_backends_own(self.backend)

    def test_round_trips(self) -> None:
        check_round_trips(self.backend)

    @pytest.mark.parametrize(("kernel", "strides", "padding"), PADDED_WINDOWS)
    def test_windows_that_fit_into_the_padding(
        self, kernel: tuple[int, int], strides: tuple[int, int], padding: int
    ) -> None:
        rng = np.random.default_rng(0)
        x, w = rng.standard_normal((1, 4, 6, 3)), rng.standard_normal((*kernel, 3, 4))

        def slope(x: ak.Tensor, w: ak.Tensor) -> ak.Tensor:
            y = ak.grad(lambda x: (ak.conv2d(x, w, strides=strides, padding=padding) ** 2).sum())
            return y(x)

        device = self.backend.devices()[-1].device
        wanted = ak.jit(slope)(ak.asarray(x, device="numpy"), ak.asarray(w, device="numpy"))
        found = ak.jit(slope)(ak.asarray(x, device=device), ak.asarray(w, device=device))
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-12, atol=1e-12)
