"""JAX: one jitted function for forward, backward and update, with the state donated."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.native.jax_layers import Parameters, Statistics, apply, initial_statistics
from benchmarks.workload import Workload

__all__ = ["build", "version"]


def version() -> str:
    """The framework's version."""
    return f"jax {jax.__version__}"


def _loss(
    parameters: Parameters,
    statistics: Statistics,
    x: jax.Array,
    labels: jax.Array,
    key: jax.Array | None,
    *,
    workload: Workload,
) -> tuple[jax.Array, Statistics]:
    layers = workload.network().layers
    logits, statistics = apply(layers, parameters, statistics, x, key)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -chosen.mean(), statistics


def _step(
    parameters: Parameters,
    velocity: Parameters,
    statistics: Statistics,
    key: jax.Array,
    x: jax.Array,
    labels: jax.Array,
    *,
    workload: Workload,
) -> tuple[Parameters, Parameters, Statistics, jax.Array, jax.Array]:
    key, dropout_key = jax.random.split(key)
    function = functools.partial(_loss, workload=workload)
    (loss, statistics), gradients = jax.value_and_grad(function, has_aux=True)(
        parameters, statistics, x, labels, dropout_key
    )
    velocity = jax.tree.map(
        lambda v, g, p: workload.momentum * v + (g + workload.weight_decay * p),
        velocity,
        gradients,
        parameters,
    )
    parameters = jax.tree.map(lambda p, v: p - workload.learning_rate * v, parameters, velocity)
    return parameters, velocity, statistics, key, loss


class TrainingProgram:
    """Keeps the state between calls of the jitted step."""

    def __init__(self, workload: Workload, weights: dict[str, np.ndarray]) -> None:
        self.parameters = jax.tree.map(jnp.asarray, weights)
        self.velocity = jax.tree.map(jnp.zeros_like, self.parameters)
        self.statistics = initial_statistics(workload.network())
        self.key = jax.random.key(workload.seed)
        self.batch = tuple(map(jnp.asarray, workload.batch()))
        self._step: Any = jax.jit(
            functools.partial(_step, workload=workload), donate_argnums=(0, 1, 2, 3)
        )

    def step(self) -> jax.Array:
        """Forward, backward, update; returns before they are done."""
        self.parameters, self.velocity, self.statistics, self.key, loss = self._step(
            self.parameters, self.velocity, self.statistics, self.key, *self.batch
        )
        return loss

    def finish(self) -> None:
        """Wait for the last step."""
        jax.block_until_ready((self.parameters, self.velocity))


class EvaluationProgram:
    """Forward and loss."""

    def __init__(self, workload: Workload, weights: dict[str, np.ndarray]) -> None:
        self.parameters = jax.tree.map(jnp.asarray, weights)
        self.statistics = initial_statistics(workload.network())
        self.batch = tuple(map(jnp.asarray, workload.batch()))
        self._evaluate: Any = jax.jit(functools.partial(_loss, key=None, workload=workload))
        self._last: Any = None

    def step(self) -> jax.Array:
        """The loss; returns before it is there."""
        self._last, _ = self._evaluate(self.parameters, self.statistics, *self.batch)
        return self._last

    def finish(self) -> None:
        """Wait for the last step."""
        jax.block_until_ready(self._last)


def build(
    workload: Workload, weights: dict[str, np.ndarray]
) -> TrainingProgram | EvaluationProgram:
    """Ready to step; the first step compiles."""
    return (TrainingProgram if workload.is_training else EvaluationProgram)(workload, weights)
