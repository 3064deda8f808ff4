"""Whole random programs on every backend, run in every way there is, beside the oracle."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from parity.program_oracle import Oracle
from parity.programs import Program, draw_program

import accelkit as ak
from accelkit import dtypes, passes, registry
from accelkit.backend import CompileOptions
from accelkit.compilation import compile_graph
from accelkit.device import Device
from accelkit.graph import Graph, TensorSpec
from accelkit.parity.checks import available_dtypes
from accelkit.tracing import trace_graph

Function = Callable[..., list[Any]]
Form = Callable[[Program], tuple[Function, list[np.ndarray]]]


# --- what is run ----------------------------------------------------------------------------------


def values(program: Program) -> tuple[Function, list[np.ndarray]]:
    """The program itself."""
    return program.load()


def derivatives(program: Program) -> tuple[Function, list[np.ndarray]]:
    """The floating results, and the cotangents of the floating inputs for cotangents given."""
    function, arrays = program.load()
    chosen = [i for i, a in enumerate(arrays) if dtypes.dtype(a.dtype).is_floating]
    graph, _ = _traced(function, arrays, ak.device("numpy"))
    results = [v.spec for v in graph.outputs if v.spec.dtype.is_floating]
    if not chosen or not results:
        return function, arrays
    generator = np.random.default_rng(0)
    seeds = [generator.standard_normal(s.shape).astype(s.dtype.numpy) for s in results]

    def differentiated(*tensors: Any) -> list[Any]:
        given = list(tensors[: len(arrays)])

        def primal(*points: Any) -> list[Any]:
            for i, point in zip(chosen, points, strict=True):
                given[i] = point
            return [y for y in function(*given) if y.dtype.is_floating]

        found, product = ak.vjp(primal, *(given[i] for i in chosen))
        return [*found, *product(list(tensors[len(arrays) :]))]

    return differentiated, [*arrays, *seeds]


def updates(program: Program) -> tuple[Function, list[np.ndarray]]:
    """A step down the slope: floating inputs, changed, and the floating results."""
    function, arrays = derivatives(program)
    count = len(program.inputs)
    chosen = [i for i, a in enumerate(arrays[:count]) if dtypes.dtype(a.dtype).is_floating]

    def stepped(*tensors: Any) -> list[Any]:
        found = function(*tensors)
        if len(arrays) == count:  # nothing to differentiate
            return found
        split = len(found) - len(chosen)
        pairs = zip(chosen, found[split:], strict=True)
        return [*(tensors[i] - slope * 0.1 for i, slope in pairs), *found[:split]]

    return stepped, arrays


# --- how it is run --------------------------------------------------------------------------------


def _eager(function: Function, tensors: list[Any], device: Device) -> list[Any]:
    return function(*tensors)


def _compiled(function: Function, tensors: list[Any], device: Device) -> list[Any]:
    found: list[Any] = ak.jit(function)(*tensors)
    return found


def _donated(function: Function, tensors: list[Any], device: Device) -> list[Any]:
    found: list[Any] = ak.jit(function, donate_argnums=range(len(tensors)))(*tensors)
    return found


def _saving(function: Function, tensors: list[Any], device: Device) -> list[Any]:
    """In as little memory as possible: values computed again, inputs donated, no workspaces."""
    graph, captured = trace_graph(function, [t.spec for t in tensors], device=device)
    backend = registry.backend(device.backend)
    donated = range(len(tensors))

    def finish(prepared: Graph) -> Graph:
        return passes.rematerialise(
            prepared,
            donate=donated,
            fused="fusion" in backend.capabilities,
            barriers=backend.supports(passes.barrier, {}),
        ).graph

    options = CompileOptions(deterministic=True, workspaces=False)
    run = compile_graph(graph, device, donate=donated, options=options, finish=finish)
    natives = run([t.native for t in (*tensors, *captured)])
    return [ak.from_native(a) for a in natives]


FORMS: tuple[Form, ...] = (values, derivatives, updates)
WAYS = {"eager": _eager, "compiled": _compiled, "donated": _donated, "saving": _saving}
KEEPING = ("eager", "compiled")  # their inputs


def run(
    function: Function, arrays: Sequence[np.ndarray], device: Device, way: str
) -> list[np.ndarray]:
    """The results on the device; the inputs must be what they were, unless they are donated."""
    tensors = [ak.asarray(a, device=device) for a in arrays]
    with ak.default_device(device):
        found = [t.numpy() for t in WAYS[way](function, tensors, device)]
    if way in KEEPING:
        for tensor, array in zip(tensors, arrays, strict=True):
            np.testing.assert_array_equal(tensor.numpy(), array, "an input was changed")
    return found


def _traced(
    function: Function, arrays: Sequence[np.ndarray], device: Device
) -> tuple[Graph, list[np.ndarray]]:
    specs = [TensorSpec(a.shape, dtypes.dtype(a.dtype)) for a in arrays]
    with ak.default_device(device):
        graph, captured = trace_graph(function, specs, device=device)
    return graph, [*arrays, *(t.numpy() for t in captured)]


def check(program: Program, device: Device, way: str, form: Form) -> dict[int, str]:
    """What is wrong with the program's results, or with the derivatives after them."""
    function, arrays = form(program)
    oracle = Oracle(*_traced(function, arrays, ak.device("numpy")))
    return oracle.mismatches(run(function, arrays, device, way))


# --- what fails -----------------------------------------------------------------------------------


def reduced(program: Program, fails: Callable[[Program], bool]) -> Program:
    """A program that fails with as few statements as a short search finds."""
    for name, _ in program.statements:  # the first value that is wrong
        if fails(shorter := program.returning([name])):
            program = shorter
            break
    for name, _ in reversed(program.statements):  # what was before does not matter
        data = _data_of(program, name)
        if name not in program.outputs and data is not None and data.size <= 64:
            text = f"np.array({data.ravel().tolist()}, {data.dtype.name!r}).reshape({data.shape})"
            if fails(shorter := program.given(name, _LITERALS.sub(r"np.\1", text))):
                program = shorter
    return program


_LITERALS = re.compile(r"\b(nan|inf)\b")


def _data_of(program: Program, name: str) -> np.ndarray | None:
    if name not in dict(program.statements):
        return None
    function, arrays = program.returning([name]).load()
    return run(function, arrays, ak.device("numpy"), "eager")[0]


def problems(program: Program, device: Device, way: str, form: Form) -> str:
    """What is wrong, as text; an error is wrong, too."""
    try:
        found = check(program, device, way, form)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "; ".join(f"result {position} {text}" for position, text in found.items())


class Programs:
    """Random programs on one backend.

    Attributes:
        backend: Its name.
        device: The device's name, if not the preferred one.
        share: How many programs of 100 of the profile's examples are run.
    """

    backend: ClassVar[str]
    device: ClassVar[str | None] = None
    share: ClassVar[int]

    def test_programs(self) -> None:
        """Results and derivatives are the oracle's, in whichever way the program is run."""
        device = ak.device(self.device or self.backend)
        available = available_dtypes(device)

        @settings(
            max_examples=max(1, settings().max_examples * self.share // 100),
            deadline=None,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(st.randoms(use_true_random=True))
        def examine(choices: random.Random) -> None:
            program = draw_program(choices, available, special=choices.random() < 0.2)
            way, form = choices.choice(list(WAYS)), choices.choice(FORMS)
            if problems(program, device, way, form):
                small = reduced(program, lambda p: bool(problems(p, device, way, form)))
                text = problems(small, device, way, form)
                pytest.fail(f"{form.__name__} on {device}, {way}: {text}\n\n{small!r}", False)

        examine()


class TestNumpy(Programs):
    """The reference itself: narrow dtypes against float64, and what compilation changes."""

    backend = "numpy"
    share = 80


class TestTorch(Programs):
    """PyTorch."""

    backend = "torch"
    share = 80


class TestJax(Programs):
    """JAX; XLA compiles for a second or more per program."""

    backend = "jax"
    share = 8


class TestTensorflow(Programs):
    """TensorFlow."""

    backend = "tensorflow"
    share = 8


SMALL = Program(
    (("v0", "drawn('normal', (3, 4), 'float32', 1)"),),
    (
        ("v1", "v0 * v0"),
        ("v2", "ak.tanh(v1)"),
        ("v3", "ak.sum(v2, axis=0)"),
        ("v4", "v1 + 1.0"),
    ),
    ("v3", "v4"),
)


def test_a_wrong_primitive_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the program is reduced to it, as source text that runs."""
    table, device = registry.backend("numpy").table, ak.device("numpy")
    right = table["tanh"]

    def wrong(x: Any) -> Any:
        return right(x) * np.float32(1.0001) if x.dtype == np.float32 else right(x)

    assert not problems(SMALL, device, "compiled", derivatives)
    monkeypatch.setitem(table, "tanh", wrong)
    small = reduced(SMALL, lambda p: bool(problems(p, device, "compiled", values)))
    assert [name for name, _ in small.statements] == ["v2"]
    text = problems(small, device, "compiled", values)
    assert "float32[3,4] has" in text
    assert "wrong elements" in text
    namespace: dict[str, Any] = {}
    exec(repr(small), namespace)
    assert len(namespace["program"](*(ak.asarray(namespace[n]) for n, _ in small.inputs))) == 1


def test_what_rounding_decides_is_not_judged() -> None:
    """The sign of a difference that is zero without rounding, but not the difference."""
    program = Program(
        SMALL.inputs,
        (("v1", "v0 / 3.0 * 3.0 - v0"), ("v2", "v1 > 0.0"), ("v3", "v0 > 0.0")),
        ("v1", "v2", "v3"),
    )
    function, arrays = values(program)
    oracle = Oracle(*_traced(function, arrays, ak.device("numpy")))
    signs = arrays[0] > 0
    assert not oracle.mismatches([np.zeros_like(arrays[0]), ~signs, signs])
    found = oracle.mismatches([np.full_like(arrays[0], 1e-3), signs, ~signs])
    assert found.keys() == {0, 2}
