"""Loops and branches on torch, against the NumPy backend, and both against the definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from accelkit_numpy import NumpyBackend

import accelkit as ak
from accelkit.passes.inline import inline_composites

BACKENDS = ("numpy", "torch")


def recurrence(w: Any, xs: Any, *, reverse: bool = False) -> Any:
    def body(carry: Any, x: Any) -> Any:
        h, count = carry
        h = ak.tanh(h @ w + x)
        return (h, count + 1), h.sum()

    start = (ak.zeros_like(xs[0]), ak.zeros((), dtype="int32", device=xs.device))
    return ak.scan(body, start, xs, reverse=reverse)


def loss(w: Any, xs: Any) -> Any:
    (h, _), ys = recurrence(w, xs)
    return (h * h).sum() + (ys * ys).sum()


def operands(backend: str) -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    w, xs = random.normal(size=(3, 3)), random.normal(size=(5, 2, 3))
    return ak.asarray(w, device=backend), ak.asarray(xs, device=backend)


def unrolled(graph: Any) -> Any:
    class Plain(NumpyBackend):
        def supports(self, primitive: Any, parameters: Any) -> bool:
            return primitive.name not in ("cond", "scan") and super().supports(
                primitive, parameters
            )

    return inline_composites(graph, Plain())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_scan(backend: str, reverse: bool) -> None:
    w, xs = operands(backend)
    graph = ak.trace(lambda w, xs: recurrence(w, xs, reverse=reverse), w, xs)
    assert "scan" in graph.counts()
    plain = unrolled(graph)
    assert "scan" not in plain.counts()
    numpy = NumpyBackend()
    expected = numpy.compile(plain, numpy.devices()[0].device)([w.numpy(), xs.numpy()])
    for run in (recurrence, ak.jit(lambda w, xs, reverse: recurrence(w, xs, reverse=reverse))):
        (h, count), ys = run(w, xs, reverse=reverse)
        np.testing.assert_allclose(h.numpy(), expected[0], rtol=1e-12)
        np.testing.assert_allclose(ys.numpy(), expected[2], rtol=1e-12)
        assert int(count) == 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_of_scan(backend: str) -> None:
    w, xs = operands(backend)
    slope = ak.jit(ak.grad(loss))(w, xs)
    step = 1e-6
    direction = np.random.default_rng(1).normal(size=(3, 3))
    values = [
        float(loss(ak.asarray(w.numpy() + sign * step * direction, device=backend), xs))
        for sign in (1, -1)
    ]
    numeric = (values[0] - values[1]) / (2 * step)
    assert float((slope * ak.asarray(direction, device=backend)).sum()) == pytest.approx(
        numeric, rel=1e-6
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_scan_of_no_steps(backend: str) -> None:
    _, xs = operands(backend)
    start = ak.ones((2, 3), dtype="float64", device=backend)
    last, ys = ak.jit(lambda s, xs: ak.scan(lambda c, x: (c + x, c[0]), s, xs))(start, xs[:0])
    assert last.tolist() == start.tolist()
    assert ys.shape == (0, 3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("predicate", [False, True])
def test_cond(backend: str, predicate: bool) -> None:
    x = ak.asarray([1.0, 2.0], device=backend)
    condition = ak.asarray(predicate, device=backend)

    def choose(condition: Any, x: Any) -> Any:
        return ak.cond(condition, lambda v: v * 10.0, lambda v: v, x)

    expected = [10.0, 20.0] if predicate else [1.0, 2.0]
    assert choose(condition, x).tolist() == expected
    assert ak.jit(choose)(condition, x).tolist() == expected


def test_a_branch_that_returns_its_operand_does_not_share_memory_with_it() -> None:
    x = ak.asarray([1.0, 2.0], device="torch")
    keep = ak.jit(lambda c, x: ak.cond(c, lambda v: v, lambda v: v + 1.0, x))
    y = keep(ak.asarray(True, device="torch"), x)
    assert y.native.data_ptr() != x.native.data_ptr()
