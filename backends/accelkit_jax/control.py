"""Conditionals and loops as XLA's own: bodies are compiled once, not unrolled.

Their bodies are graphs; ``implementation`` gives the native function of a node in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import lax

from accelkit.backend import evaluate
from accelkit.graph import Graph, Node

Implementation = Callable[[Node], Callable[..., Any]]


def cond(
    predicate: Any,
    *operands: Any,
    true_graph: Graph,
    false_graph: Graph,
    implementation: Implementation,
) -> tuple[Any, ...]:
    """Outputs of ``true_graph`` where the bool[] predicate holds, of ``false_graph`` else."""

    def branch(graph: Graph) -> Callable[..., tuple[Any, ...]]:
        return lambda *arrays: tuple(evaluate(graph, arrays, implementation))

    found: tuple[Any, ...] = lax.cond(predicate, branch(true_graph), branch(false_graph), *operands)
    return found


def scan(
    *operands: Any,
    body: Graph,
    carry_count: int,
    constant_count: int,
    length: int,
    reverse: bool,
    implementation: Implementation,
) -> tuple[Any, ...]:
    """The final carry, then the stacked outputs of ``length`` steps of ``body``."""
    carry = operands[:carry_count]
    constants = operands[carry_count : carry_count + constant_count]
    xs = operands[carry_count + constant_count :]

    def step(state: Any, elements: Any) -> tuple[Any, Any]:
        outputs = evaluate(body, [*state, *constants, *elements], implementation)
        return tuple(outputs[:carry_count]), tuple(outputs[carry_count:])

    last, stacked = lax.scan(step, carry, xs, length=length, reverse=reverse)
    return (*last, *stacked)


CONTROL: dict[str, Callable[..., Any]] = {"cond": cond, "scan": scan}
