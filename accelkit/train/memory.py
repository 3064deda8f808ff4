"""Making a batch fit: how many micro-batches a memory limit asks for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from accelkit import passes
from accelkit.backend import Backend
from accelkit.errors import OptionError
from accelkit.graph import Graph
from accelkit.train.program import StepProgram

__all__ = ["MemoryChoice", "choose_accumulation", "parse_bytes", "predicted_peak_bytes"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}

# Arithmetic per byte of memory traffic at which both take the same time, typical of CPUs and GPUs.
_BALANCE_FLOPS_PER_BYTE = 20.0


def parse_bytes(amount: int | str) -> int:
    """A number of bytes from a number or a text such as ``"8GiB"`` or ``"500MB"``.

    Raises:
        OptionError: if it is no positive amount.
    """
    if isinstance(amount, int) and amount > 0:
        return amount
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(|K|M|G|Ki|Mi|Gi)B?\s*", str(amount))
    if match is None or float(match[1]) <= 0:
        raise OptionError(
            f"A memory limit is a number of bytes or a text such as '8GiB' or '500MB', got "
            f"{amount!r}."
        )
    return int(float(match[1]) * _UNITS[match[2]])


@dataclass(frozen=True)
class MemoryChoice:
    """How a step was made to fit its memory limit.

    Attributes:
        limit_bytes: What was asked for.
        accumulate: Number of micro-batches; the batch and its result stay the same.
        predicted_peak_bytes: Inputs, state and the arena of intermediates.
        unplanned_peak_bytes: The same without micro-batches.
        predicted_slowdown: Time relative to one pass, from arithmetic and memory traffic.
    """

    limit_bytes: int
    accumulate: int
    predicted_peak_bytes: int
    unplanned_peak_bytes: int
    predicted_slowdown: float

    def __str__(self) -> str:
        return (
            f"memory limit {self.limit_bytes / 2**20:.0f} MiB: {self.accumulate} micro-batches, "
            f"predicted peak {self.predicted_peak_bytes / 2**20:.0f} MiB instead of "
            f"{self.unplanned_peak_bytes / 2**20:.0f} MiB, predicted time "
            f"{self.predicted_slowdown:.2f} times that of one pass"
        )


def _donated(program: StepProgram) -> list[int]:
    changed = set(program.changed)
    return [i for i, name in enumerate(program.state_names) if name in changed]


def predicted_peak_bytes(program: StepProgram, graph: Graph, backend: Backend) -> int:
    """State, batch and the arena of everything in between, as planned by liveness."""
    prepared = passes.prepare(graph, backend)
    plan = passes.plan_values(prepared, donate=_donated(program))
    return plan.input_bytes + plan.arena_bytes


def _time(graph: Graph) -> float:
    """Relative time of one execution: arithmetic plus memory traffic of large operations."""
    traffic = sum(
        sum(v.spec.memory_bytes for v in (*node.inputs, *node.outputs)) for node in graph.nodes
    )
    return graph.flops() + _BALANCE_FLOPS_PER_BYTE * traffic


def choose_accumulation(
    build: Callable[[int], tuple[StepProgram, Graph]],
    batch_size: int,
    limit_bytes: int,
    backend: Backend,
) -> MemoryChoice:
    """The smallest number of micro-batches whose predicted peak is within the limit.

    Args:
        build: Traces the step for a number of micro-batches: the program, and its graph after
            the precision pass.
        batch_size: Number of samples; micro-batches have equal size.
        limit_bytes: What may be used.
        backend: For which the graph is prepared.

    Raises:
        OptionError: if none fits; the message tells the smallest limit that can be met.
    """
    unplanned: tuple[int, float] | None = None
    smallest: int | None = None
    for count in (k for k in range(1, batch_size + 1) if batch_size % k == 0):
        program, graph = build(count)
        peak = predicted_peak_bytes(program, graph, backend)
        unplanned = unplanned or (peak, _time(graph))
        if peak <= limit_bytes:
            slowdown = _time(graph) / unplanned[1]
            return MemoryChoice(limit_bytes, count, peak, unplanned[0], slowdown)
        smallest = peak if smallest is None else min(smallest, peak)
    assert smallest is not None
    raise OptionError(
        f"A batch of {batch_size} cannot be trained within {limit_bytes / 2**20:.1f} MiB: even in "
        f"micro-batches it needs {smallest / 2**20:.1f} MiB. That is the smallest limit that can "
        f"be met; use it, a smaller model, or an optimizer with fewer slots."
    )
