"""Tensors while a program is traced: they have no data, and do not outlive their trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import accelkit as ak
from accelkit.errors import TraceError


@pytest.mark.parametrize(
    ("use", "what"),
    [
        (bool, "Python control flow or bool"),
        (lambda x: 1.0 if x > 0.0 else 2.0, "Python control flow or bool"),
        (float, r"float\(\)"),
        (int, r"int\(\)"),
        (lambda x: range(x.astype("int32")), r"index\(\)"),
        (lambda x: x.numpy(), "numpy"),
        (lambda x: np.asarray(x), "numpy"),
        (lambda x: x.item(), "Reading a value"),
        (lambda x: x.tolist(), "numpy"),
        (lambda x: x.native, "native"),
        (lambda x: x.block_until_ready(), "Waiting"),
        (lambda x: np.from_dlpack(x), "DLPack export"),
        (lambda x: x.to("numpy", copy=True), "Moving to another device"),
    ],
)
def test_traced_tensors_have_no_data(use: Any, what: str) -> None:
    traced = r"(float32|int32|bool)\[\].*'named' is being traced"
    text = rf"(?s){what}.*{traced}.*accelkit\.where or accelkit\.cond"

    def named(x: Any) -> Any:
        use(x)
        return x

    with pytest.raises(TraceError, match=text):
        ak.trace(named, ak.asarray(1.0))
    assert float(ak.jit(lambda x: x + 1.0)(ak.asarray(1.0))) == 2.0  # nothing is left behind


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x + 1.0,
        lambda x: ak.add(ak.zeros(2), x),
        lambda x: x.numpy(),
        lambda x: ak.jit(lambda y: y * 2.0)(x),
        lambda x: ak.jit(lambda y: y * x)(ak.zeros(2)),
        lambda x: ak.grad(lambda y: (y * y).sum())(x),
        lambda x: ak.trace(lambda y: y + x, ak.zeros(2)),
        lambda x: bool(x),
        lambda x: ak.where(x > 0.0, 1.0, 2.0),
    ],
)
def test_leaked_tensors_say_where_they_come_from(use: Any) -> None:
    kept: list[Any] = []

    def leaky(x: Any) -> Any:
        kept.append(x * 2.0)
        return x

    ak.trace(leaky, ak.zeros(2))
    text = r"float32\[2\] traced by 'leaky' is used outside of that trace.*Return it"
    with pytest.raises(TraceError, match=text):
        use(kept[0])


def test_a_failed_trace_leaks_too() -> None:
    kept: list[Any] = []

    def failing(x: Any) -> Any:
        kept.append(x)
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        ak.trace(failing, ak.zeros(2))
    with pytest.raises(TraceError, match="used outside"):
        _ = kept[0] + 1.0
    assert (ak.zeros(1) + 1.0).tolist() == [1.0]
