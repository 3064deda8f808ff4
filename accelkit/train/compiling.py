"""Compiling a step: under a precision policy, and within a memory limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from accelkit.backend import Executable
from accelkit.compilation import compile_graph
from accelkit.device import Device
from accelkit.graph import Graph
from accelkit.passes import mixed_precision, simplify
from accelkit.registry import backend
from accelkit.train.memory import MemoryChoice, MemoryMeans, Planner
from accelkit.train.precision import Policy
from accelkit.train.program import StepProgram

__all__ = ["Compiled", "compile_step", "fit"]

_COMPILATIONS = 3  # until a compiler's plan is within a memory limit


class Compiled(NamedTuple):
    """A step's program and its executable."""

    program: StepProgram
    executable: Executable


def compile_step(
    program: StepProgram, device: Device, precision: Policy, means: MemoryMeans | None = None
) -> Compiled:
    """Compile a traced step under a precision policy, donating the state that it changes."""
    means = means or MemoryMeans()
    donate = program.donated
    runs_on = backend(device.backend)
    executable = compile_graph(
        means.before_preparation(narrowed(program.graph, precision)),
        device,
        donate=donate,
        options=precision.options._replace(workspaces=means.workspaces),
        finish=lambda graph: means.after_preparation(graph, runs_on, donate),
        host=program.slots if means.host_state else None,
    )
    return Compiled(program, executable)


def narrowed(graph: Graph, precision: Policy) -> Graph:
    """The graph with the policy's narrow products."""
    if precision.narrow is None:
        return graph
    return mixed_precision(simplify(graph), precision.narrow)


def fit(
    build: Callable[[int], StepProgram],
    batch_size: int,
    device: Device,
    precision: Policy,
    limit_bytes: int,
    *,
    may_accumulate: bool,
) -> tuple[Compiled, MemoryChoice]:
    """Compile a step so that it stays within a memory limit.

    If the compiler's own plan turns out to need more than was predicted, the choice is made again
    with predictions scaled by what it needed.

    Args:
        build: Traces the step for a number of micro-batches.
        batch_size: Number of samples.
        device: Where it runs.
        precision: Its policy.
        limit_bytes: For state, batch and intermediates.
        may_accumulate: False for models with batch statistics.

    Raises:
        OptionError: if no plan fits.
    """

    def build_narrowed(count: int) -> tuple[StepProgram, Graph]:
        program = build(count)
        return program, narrowed(program.graph, precision)

    planner = Planner(
        build_narrowed,
        batch_size,
        backend(device.backend),
        device,
        may_accumulate=may_accumulate,
    )
    scale = 1.0
    for _ in range(_COMPILATIONS):
        choice = planner.choose(limit_bytes, scale=scale)
        compiled = compile_step(build(choice.accumulate), device, precision, choice.means)
        inputs = compiled.executable.graph.input_bytes
        needed = compiled.executable.temporary_memory_bytes()
        if needed is None or inputs + needed <= limit_bytes:
            break
        scale *= needed / (choice.predicted_peak_bytes - inputs)
    return compiled, choice
