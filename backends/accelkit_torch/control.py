"""Control flow: a loop in Python that never waits for the device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from accelkit.backend import generate
from accelkit.device import Device
from accelkit.graph import Graph
from accelkit_torch.devices import native_device
from accelkit_torch.dtypes import TO_TORCH

if TYPE_CHECKING:
    from accelkit_torch import TorchBackend

CONTROL_FLOW = frozenset({"cond", "scan"})


def control_flow(backend: TorchBackend, device: Device) -> dict[str, Callable[..., Any]]:
    """The functions for ``cond`` and ``scan`` on one device."""

    @functools.lru_cache(maxsize=128)
    def function_of(graph: Graph) -> Callable[..., list[Any]]:
        from accelkit.passes import prepare

        prepared = prepare(graph, backend)
        return generate(prepared, lambda node: backend.implementation(node.primitive, device))

    def cond(
        predicate: Tensor, *operands: Tensor, true_graph: Graph, false_graph: Graph
    ) -> list[Tensor]:
        if device.kind == "cpu":
            return function_of(true_graph if predicate.item() else false_graph)(*operands)
        # To know the branch the host would have to wait for the device.
        pairs = zip(
            function_of(true_graph)(*operands), function_of(false_graph)(*operands), strict=True
        )
        return [torch.where(predicate, a, b) for a, b in pairs]

    def scan(
        *operands: Tensor,
        body: Graph,
        carry_count: int,
        constant_count: int,
        length: int,
        reverse: bool,
    ) -> list[Tensor]:
        run = function_of(body)
        first_x = carry_count + constant_count
        carry: Sequence[Tensor] = operands[:carry_count]
        constants = operands[carry_count:first_x]
        xs = [x.unbind(0) for x in operands[first_x:]]
        stacked = [
            torch.empty(
                (length, *value.spec.shape),
                dtype=TO_TORCH[value.spec.dtype],
                device=native_device(device),
            )
            for value in body.outputs[carry_count:]
        ]
        for index in reversed(range(length)) if reverse else range(length):
            outputs = run(*carry, *constants, *(x[index] for x in xs))
            carry = outputs[:carry_count]
            for collected, y in zip(stacked, outputs[carry_count:], strict=True):
                collected[index] = y
        return [*carry, *stacked]

    return {"cond": cond, "scan": scan}
