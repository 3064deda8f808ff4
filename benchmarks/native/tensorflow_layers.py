"""The networks' layers in TensorFlow, on variables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from benchmarks import architecture as arch

__all__ = ["Layers"]


class Layers:
    """Applies layers; running statistics are variables of its own."""

    def __init__(
        self, network: arch.Network, variables: dict[str, tf.Variable], *, training: bool
    ) -> None:
        self.layers = network.layers
        self.variables = variables
        self.training = training
        self.statistics = {
            layer.name: (
                tf.Variable(tf.zeros(layer.features)),
                tf.Variable(tf.ones(layer.features)),
            )
            for layer, _ in network.walk()
            if isinstance(layer, arch.BatchNorm)
        }

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """The result of all layers."""
        return self._sequence(self.layers, x)

    def _sequence(self, layers: Sequence[arch.Layer], x: tf.Tensor) -> tf.Tensor:
        for layer in layers:
            x = self._layer(layer, x)
        return x

    def _layer(self, layer: arch.Layer, x: tf.Tensor) -> tf.Tensor:
        match layer:
            case arch.Convolution():
                return self._convolution(layer, x)
            case arch.Dense(name):
                return self._dense(name, x)
            case arch.BatchNorm(name):
                return self._batch_norm(name, x)
            case arch.LayerNorm(name):
                mean, variance = tf.nn.moments(x, [-1], keepdims=True)
                scale, bias = self.variables[f"{name}.scale"], self.variables[f"{name}.bias"]
                return tf.nn.batch_normalization(x, mean, variance, bias, scale, 1e-6)
            case arch.LocalResponseNorm():
                return tf.nn.local_response_normalization(x, 2, 2.0, 1e-4, 0.75)
            case arch.Relu():
                return tf.nn.relu(x)
            case arch.Gelu():
                return tf.nn.gelu(x, approximate=False)
            case arch.Dropout(rate):
                return tf.nn.dropout(x, rate) if self.training and rate else x
            case arch.MaxPool(padding):
                # Behind a relu: padding by zeros is padding by nothing.
                if padding:
                    x = tf.pad(x, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
                return tf.nn.max_pool2d(x, layer.kernel, layer.stride, "VALID")
            case arch.AdaptiveAveragePool():
                if x.shape[1] == layer.size:
                    return x
                pool = arch.pooling_matrix(x.shape[1])
                return tf.einsum("ih,nhwc,jw->nijc", pool, x, pool)
            case arch.GlobalAveragePool():
                return tf.reduce_mean(x, [1, 2])
            case arch.Flatten():
                return tf.reshape(x, [x.shape[0], -1])
            case arch.Patches():
                return _patches(x)
            case arch.Tokens(name):
                token = tf.repeat(self.variables[f"{name}.class_token"], x.shape[0], 0)
                return tf.concat([token, x], 1) + self.variables[f"{name}.positions"]
            case arch.FirstToken():
                return x[:, 0]
            case arch.Attention():
                return self._attention(layer, x)
            case arch.Residual(body, shortcut):
                return self._sequence(body, x) + self._sequence(shortcut, x)
        raise TypeError(f"no function for {layer}")

    def _dense(self, name: str, x: tf.Tensor) -> tf.Tensor:
        weight, bias = self.variables[f"{name}.weight"], self.variables[f"{name}.bias"]
        if len(x.shape) == 2:
            return tf.nn.bias_add(tf.matmul(x, weight), bias)
        flat = tf.reshape(x, [-1, x.shape[-1]])
        return tf.reshape(tf.nn.bias_add(tf.matmul(flat, weight), bias), [*x.shape[:-1], -1])

    def _convolution(self, layer: arch.Convolution, x: tf.Tensor) -> tf.Tensor:
        # Groups one by one: on CPUs XLA's grouped weight gradient is 15 times slower, and
        # TensorFlow's own kernels have none. No explicit padding: TensorFlow's kernels for the
        # gradients of such a convolution are not oneDNN's, which are faster.
        weight = self.variables[f"{layer.name}.weight"]
        is_same = layer.stride == 1 and 2 * layer.padding == layer.kernel - 1
        if layer.padding and not is_same:
            pad = [layer.padding, layer.padding]
            x = tf.pad(x, [[0, 0], pad, pad, [0, 0]])
        parts = [
            tf.nn.conv2d(part, kernel, layer.stride, "SAME" if is_same else "VALID")
            for part, kernel in zip(
                tf.split(x, layer.groups, -1), tf.split(weight, layer.groups, -1), strict=True
            )
        ]
        y = parts[0] if layer.groups == 1 else tf.concat(parts, -1)
        return tf.nn.bias_add(y, self.variables[f"{layer.name}.bias"]) if layer.bias else y

    def _batch_norm(self, name: str, x: tf.Tensor) -> tf.Tensor:
        scale, bias = self.variables[f"{name}.scale"], self.variables[f"{name}.bias"]
        mean, variance = self.statistics[name]
        # On CPUs the fused operation reports the unbiased variance, as torch keeps it.
        y, new_mean, new_variance, *_ = tf.compat.v1.nn.fused_batch_norm(
            x,
            scale,
            bias,
            None if self.training else mean,
            None if self.training else variance,
            1e-5,
            is_training=self.training,
        )
        if self.training:
            mean.assign(0.9 * mean + 0.1 * new_mean)
            variance.assign(0.9 * variance + 0.1 * new_variance)
        return y

    def _attention(self, layer: arch.Attention, x: tf.Tensor) -> tf.Tensor:
        n, length, features = x.shape

        def heads(part: str) -> tf.Tensor:
            y = self._dense(f"{layer.name}.{part}", x)
            split = tf.reshape(y, [n, length, layer.heads, features // layer.heads])
            return tf.transpose(split, [0, 2, 1, 3])

        query, key, value = map(heads, ("query", "key", "value"))
        scores = tf.matmul(query, key, transpose_b=True)
        scores /= math.sqrt(features // layer.heads)
        mixed = tf.transpose(tf.matmul(tf.nn.softmax(scores), value), [0, 2, 1, 3])
        return self._dense(f"{layer.name}.output", tf.reshape(mixed, [n, length, features]))


def _patches(x: tf.Tensor) -> tf.Tensor:
    n, height, width, channels = x.shape
    p = arch.PATCH
    grid = tf.reshape(x, [n, height // p, p, width // p, p, channels])
    grid = tf.transpose(grid, [0, 1, 3, 2, 4, 5])
    return tf.reshape(grid, [n, (height // p) * (width // p), p * p * channels])
