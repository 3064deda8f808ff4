"""Control flow in Python: one branch is run, and a loop is a loop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from accelkit.backend import generate
from accelkit.device import Device
from accelkit.graph import Graph

if TYPE_CHECKING:
    from accelkit_numpy import NumpyBackend


def control_flow(backend: NumpyBackend, device: Device) -> dict[str, Callable[..., Any]]:
    """The functions for ``cond`` and ``scan`` on one device."""

    @functools.lru_cache(maxsize=128)
    def function_of(graph: Graph) -> Callable[..., list[Any]]:
        from accelkit.passes import prepare

        prepared = prepare(graph, backend)
        return generate(prepared, lambda node: backend.implementation(node.primitive, device))

    def cond(
        predicate: Any, *operands: Any, true_graph: Graph, false_graph: Graph
    ) -> tuple[Any, ...]:
        return tuple(function_of(true_graph if predicate else false_graph)(*operands))

    def scan(
        *operands: Any,
        body: Graph,
        carry_count: int,
        constant_count: int,
        length: int,
        reverse: bool,
    ) -> tuple[Any, ...]:
        run = function_of(body)
        first_x = carry_count + constant_count
        carry, constants = list(operands[:carry_count]), operands[carry_count:first_x]
        specs = [value.spec for value in body.outputs[carry_count:]]
        stacked = [np.empty((length, *spec.shape), spec.dtype.numpy) for spec in specs]
        for index in reversed(range(length)) if reverse else range(length):
            outputs = run(*carry, *constants, *(x[index] for x in operands[first_x:]))
            carry = outputs[:carry_count]
            for collected, y in zip(stacked, outputs[carry_count:], strict=True):
                collected[index] = y
        return (*carry, *stacked)

    return {"cond": cond, "scan": scan}
