"""The networks' layers as JAX functions of parameters, an input and a key."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import architecture as arch

__all__ = ["Parameters", "Statistics", "apply", "initial_statistics"]

Parameters = dict[str, jax.Array]
Statistics = dict[str, tuple[jax.Array, jax.Array]]


class Context:
    """What layers take beside their input: random keys in training, running statistics."""

    def __init__(
        self, parameters: Parameters, statistics: Statistics, key: jax.Array | None
    ) -> None:
        self.parameters = parameters
        self.statistics = statistics
        self.updated: Statistics = {}
        self._key = key

    @property
    def is_training(self) -> bool:
        """Whether there are random keys."""
        return self._key is not None

    def key(self) -> jax.Array:
        """A fresh key."""
        assert self._key is not None
        self._key, key = jax.random.split(self._key)
        return key


def initial_statistics(network: arch.Network) -> Statistics:
    """Mean 0 and variance 1 of every batch normalisation."""
    return {
        layer.name: (jnp.zeros(layer.features), jnp.ones(layer.features))
        for layer, _ in network.walk()
        if isinstance(layer, arch.BatchNorm)
    }


def apply(
    layers: Sequence[arch.Layer],
    parameters: Parameters,
    statistics: Statistics,
    x: jax.Array,
    key: jax.Array | None,
) -> tuple[jax.Array, Statistics]:
    """The result of all layers and the new running statistics; a key means training."""
    context = Context(parameters, statistics, key)
    return _sequence(layers, x, context), context.updated


def _sequence(layers: Sequence[arch.Layer], x: jax.Array, context: Context) -> jax.Array:
    for layer in layers:
        x = _layer(layer, x, context)
    return x


def _layer(layer: arch.Layer, x: jax.Array, context: Context) -> jax.Array:
    match layer:
        case arch.Convolution():
            return _convolution(layer, x, context.parameters)
        case arch.Dense(name):
            return _dense(name, x, context.parameters)
        case arch.BatchNorm():
            return _batch_norm(layer, x, context)
        case arch.LayerNorm(name):
            return _layer_norm(name, x, context.parameters)
        case arch.LocalResponseNorm():
            return _local_response_norm(x)
        case arch.Relu():
            return jax.nn.relu(x)
        case arch.Gelu():
            return jax.nn.gelu(x, approximate=False)
        case arch.Dropout(rate):
            if not (context.is_training and rate):
                return x
            keep = jax.random.bernoulli(context.key(), 1 - rate, x.shape)
            return jnp.where(keep, x / (1 - rate), 0)
        case arch.MaxPool(padding):
            pads = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
            return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)
        case arch.AdaptiveAveragePool():
            if x.shape[1] == layer.size:
                return x
            pool = jnp.asarray(arch.pooling_matrix(x.shape[1]))
            return jnp.einsum("ih,nhwc,jw->nijc", pool, x, pool)
        case arch.GlobalAveragePool():
            return x.mean((1, 2))
        case arch.Flatten():
            return x.reshape(x.shape[0], -1)
        case arch.Patches():
            return _patches(x)
        case arch.Tokens(name):
            return _tokens(name, x, context.parameters)
        case arch.FirstToken():
            return x[:, 0]
        case arch.Attention():
            return _attention(layer, x, context.parameters)
        case arch.Residual(body, shortcut):
            return _sequence(body, x, context) + _sequence(shortcut, x, context)
    raise TypeError(f"no function for {layer}")


def _layer_norm(name: str, x: jax.Array, parameters: Parameters) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
    return scaled * parameters[f"{name}.scale"] + parameters[f"{name}.bias"]


def _local_response_norm(x: jax.Array) -> jax.Array:
    total = lax.reduce_window(
        jnp.square(x), 0.0, lax.add, (1, 1, 1, 5), (1, 1, 1, 1), [(0, 0)] * 3 + [(2, 2)]
    )
    root = lax.rsqrt(2.0 + 1e-4 * total)
    return x * root * jnp.sqrt(root)


def _patches(x: jax.Array) -> jax.Array:
    n, height, width, channels = x.shape
    p = arch.PATCH
    grid = x.reshape(n, height // p, p, width // p, p, channels).swapaxes(2, 3)
    return grid.reshape(n, -1, p * p * channels)


def _tokens(name: str, x: jax.Array, parameters: Parameters) -> jax.Array:
    token = jnp.broadcast_to(parameters[f"{name}.class_token"], (x.shape[0], 1, x.shape[2]))
    return jnp.concatenate([token, x], 1) + parameters[f"{name}.positions"]


def _dense(name: str, x: jax.Array, parameters: Parameters) -> jax.Array:
    return x @ parameters[f"{name}.weight"] + parameters[f"{name}.bias"]


def _convolution(layer: arch.Convolution, x: jax.Array, parameters: Parameters) -> jax.Array:
    # Groups one by one: on CPUs XLA's grouped weight gradient is 15 times slower.
    weight = parameters[f"{layer.name}.weight"]
    parts = [
        lax.conv_general_dilated(
            part,
            kernel,
            (layer.stride, layer.stride),
            [(layer.padding, layer.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        for part, kernel in zip(
            jnp.split(x, layer.groups, -1), jnp.split(weight, layer.groups, -1), strict=True
        )
    ]
    y = parts[0] if layer.groups == 1 else jnp.concatenate(parts, -1)
    return y + parameters[f"{layer.name}.bias"] if layer.bias else y


def _batch_norm(layer: arch.BatchNorm, x: jax.Array, context: Context) -> jax.Array:
    scale, bias = (context.parameters[f"{layer.name}.{part}"] for part in ("scale", "bias"))
    mean, var = context.statistics[layer.name]
    if context.is_training:
        old = (mean, var)
        count = x.size // layer.features
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        new = (mean, var * (count / (count - 1)))
        context.updated[layer.name] = jax.tree.map(
            lambda a, b: 0.9 * a + 0.1 * lax.stop_gradient(b), old, new
        )
    return (x - mean) * (scale * lax.rsqrt(var + 1e-5)) + bias


def _attention(layer: arch.Attention, x: jax.Array, parameters: Parameters) -> jax.Array:
    n, length, features = x.shape

    def heads(part: str) -> jax.Array:
        y = _dense(f"{layer.name}.{part}", x, parameters)
        return y.reshape(n, length, layer.heads, features // layer.heads)

    query, key, value = map(heads, ("query", "key", "value"))
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key) / math.sqrt(features // layer.heads)
    mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), value)
    return _dense(f"{layer.name}.output", mixed.reshape(n, length, features), parameters)
