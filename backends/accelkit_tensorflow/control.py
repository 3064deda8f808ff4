"""Conditionals and loops as TensorFlow's own: bodies are compiled once, not unrolled.

Their bodies are graphs; ``implementation`` gives the native function of a node in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelkit.backend import evaluate
from accelkit.graph import Graph, Node
from accelkit_tensorflow.framework import tf

Implementation = Callable[[Node], Callable[..., Any]]


def cond(
    predicate: Any,
    *operands: Any,
    true_graph: Graph,
    false_graph: Graph,
    implementation: Implementation,
) -> tuple[Any, ...]:
    """Outputs of ``true_graph`` where the bool[] predicate holds, of ``false_graph`` else."""

    def branch(graph: Graph) -> Callable[[], tuple[Any, ...]]:
        return lambda: tuple(tf.identity(y) for y in evaluate(graph, operands, implementation))

    return tuple(tf.cond(predicate, branch(true_graph), branch(false_graph)))


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
    outputs = [value.spec for value in body.outputs[carry_count:]]
    stacks = tuple(
        tf.TensorArray(
            spec.dtype.name, size=length, element_shape=spec.shape, clear_after_read=False
        )
        for spec in outputs
    )

    def step(done: Any, state: Any, stacked: Any) -> Any:
        index = length - 1 - done if reverse else done
        elements = [tf.gather(x, index) for x in xs]
        found = evaluate(body, [*state, *constants, *elements], implementation)
        written = tuple(
            stack.write(index, y) for stack, y in zip(stacked, found[carry_count:], strict=True)
        )
        return done + 1, tuple(found[:carry_count]), written

    _, last, stacked = tf.while_loop(
        lambda done, state, written: done < length,
        step,
        (tf.constant(0), tuple(carry), stacks),
        parallel_iterations=1,
        maximum_iterations=length,
    )
    results = [stack.stack() for stack in stacked]
    return (
        *last,
        *(tf.ensure_shape(y, (length, *s.shape)) for y, s in zip(results, outputs, strict=True)),
    )


CONTROL: dict[str, Callable[..., Any]] = {"cond": cond, "scan": scan}
