"""JAX: one jitted function for forward, backward and update, with the state donated."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.workload import Workload, pooling_matrix

__all__ = ["build", "version"]

Parameters = dict[str, jax.Array]


def version() -> str:
    """The framework's version."""
    return f"jax {jax.__version__}"


def _features(workload: Workload, parameters: Parameters, x: jax.Array) -> jax.Array:
    for layer in workload.convolutions:
        x = lax.conv_general_dilated(
            x,
            parameters[f"{layer.name}.weight"],
            (layer.stride, layer.stride),
            [(layer.padding, layer.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + parameters[f"{layer.name}.bias"])
        if layer.pool:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
    if x.shape[1] != 6:
        pool = jnp.asarray(pooling_matrix(x.shape[1]))
        x = jnp.einsum("ih,nhwc,jw->nijc", pool, x, pool)
    return x.reshape(x.shape[0], -1)


def _loss(
    parameters: Parameters, x: jax.Array, labels: jax.Array, key: jax.Array, workload: Workload
) -> jax.Array:
    if workload.convolutions:
        x = _features(workload, parameters, x)
    for i, layer in enumerate(workload.dense):
        if layer.dropout and workload.dropout:
            keep = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - workload.dropout, x.shape)
            x = jnp.where(keep, x / (1 - workload.dropout), 0)
        x = x @ parameters[f"{layer.name}.weight"] + parameters[f"{layer.name}.bias"]
        if layer.relu:
            x = jax.nn.relu(x)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], axis=1)
    return -chosen.mean()


def _step(
    parameters: Parameters,
    velocity: Parameters,
    key: jax.Array,
    x: jax.Array,
    labels: jax.Array,
    workload: Workload,
) -> tuple[Parameters, Parameters, jax.Array, jax.Array]:
    key, dropout_key = jax.random.split(key)
    loss, gradients = jax.value_and_grad(_loss)(parameters, x, labels, dropout_key, workload)
    velocity = jax.tree.map(
        lambda v, g, p: workload.momentum * v + (g + workload.weight_decay * p),
        velocity,
        gradients,
        parameters,
    )
    parameters = jax.tree.map(lambda p, v: p - workload.learning_rate * v, parameters, velocity)
    return parameters, velocity, key, loss


class JaxProgram:
    """Keeps the state between calls of the jitted step."""

    def __init__(self, workload: Workload, weights: dict[str, np.ndarray]) -> None:
        self.parameters = jax.tree.map(jnp.asarray, weights)
        self.velocity = jax.tree.map(jnp.zeros_like, self.parameters)
        self.key = jax.random.key(workload.seed)
        inputs, labels = workload.batch()
        self.batch = (jnp.asarray(inputs), jnp.asarray(labels))
        self._step: Any = jax.jit(
            functools.partial(_step, workload=workload), donate_argnums=(0, 1, 2)
        )

    def step(self) -> jax.Array:
        """Forward, backward, update; returns before they are done."""
        self.parameters, self.velocity, self.key, loss = self._step(
            self.parameters, self.velocity, self.key, *self.batch
        )
        return loss

    def finish(self) -> None:
        """Wait for the last step."""
        jax.block_until_ready((self.parameters, self.velocity))


def build(workload: Workload, weights: dict[str, np.ndarray]) -> JaxProgram:
    """Ready to step; the first step compiles."""
    return JaxProgram(workload, weights)
