"""Keras 3: the functional API and ``train_on_batch``, on the backend that KERAS_BACKEND names.

Keras' own weight decay is another update (``p -= lr * wd * p`` beside the momentum), so the
gradients get theirs in a small optimizer, as Keras' documentation suggests for such a need.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import ops

from benchmarks import architecture as arch
from benchmarks.workload import Workload

__all__ = ["build", "version"]


def version() -> str:
    """Keras and its backend, with versions."""
    backend = keras.backend.backend()
    return f"keras {keras.__version__}, {backend} {importlib.import_module(backend).__version__}"


class DecayedSGD(keras.optimizers.SGD):
    """SGD whose gradients include the weight decay: g + wd * p."""

    def __init__(self, *, decay: float, **options: Any) -> None:
        super().__init__(**options)
        self.decay = decay

    def _backend_apply_gradients(self, grads: Sequence[Any], trainable_variables: Any) -> None:
        if keras.backend.backend() == "torch":
            import torch

            values = [variable.value for variable in trainable_variables]
            with torch.no_grad():
                grads = torch._foreach_add(list(grads), values, alpha=self.decay)
        else:
            grads = [
                g + self.decay * ops.convert_to_tensor(v)
                for g, v in zip(grads, trainable_variables, strict=True)
            ]
        super()._backend_apply_gradients(grads, trainable_variables)


class LocalResponseNorm(kl.Layer):
    """x_i / (2 + 1e-4 * sum of x_j^2 over 5 neighbouring channels)^0.75."""

    def call(self, x: Any) -> Any:
        channels = x.shape[-1]
        padded = ops.pad(ops.square(x), [[0, 0], [0, 0], [0, 0], [2, 2]])
        total = sum(padded[..., i : i + channels] for i in range(5))
        root = ops.rsqrt(2.0 + 1e-4 * total)
        return x * root * ops.sqrt(root)


class AdaptiveAveragePool(kl.Layer):
    """Means over an even cut into 6x6."""

    def call(self, x: Any) -> Any:
        pool = ops.convert_to_tensor(arch.pooling_matrix(x.shape[1]))
        return ops.einsum("ih,nhwc,jw->nijc", pool, x, pool)


class Tokens(kl.Layer):
    """A learned token in front, and a learned position added to each."""

    def build(self, shape: Any) -> None:
        self.class_token = self.add_weight(shape=(1, 1, shape[2]), name="class_token")
        self.positions = self.add_weight(shape=(1, shape[1] + 1, shape[2]), name="positions")

    def call(self, x: Any) -> Any:
        token = ops.broadcast_to(self.class_token, (x.shape[0], 1, x.shape[2]))
        return ops.concatenate([token, x], axis=1) + self.positions


class FirstToken(kl.Layer):
    """The first of the sequence."""

    def call(self, x: Any) -> Any:
        return x[:, 0]


class _Builder:
    """Makes the functional model, and remembers which Keras layer holds whose weights."""

    def __init__(self) -> None:
        self.owners: list[tuple[arch.Layer, kl.Layer]] = []

    def sequence(self, layers: Sequence[arch.Layer], x: Any) -> Any:
        """The result of all layers."""
        for layer in layers:
            if isinstance(layer, arch.Residual):
                x = ops.add(self.sequence(layer.body, x), self.sequence(layer.shortcut, x))
                continue
            made = _keras_layers(layer, x.shape)
            if layer.weights():
                self.owners.append((layer, made[-1]))
            for each in made:
                x = each(x, x) if isinstance(each, kl.MultiHeadAttention) else each(x)
        return x

    def load(self, weights: dict[str, np.ndarray]) -> None:
        """Give every layer its weights, in Keras' shapes."""
        for layer, owner in self.owners:
            own = [weights[f"{layer.name}.{part}"] for part in layer.weights()]
            for variable, value in zip(owner.trainable_variables, own, strict=True):
                variable.assign(value.reshape(variable.shape))


def _keras_layers(layer: arch.Layer, shape: tuple[int, ...]) -> list[kl.Layer]:
    """A layer in Keras; if it has weights, the last one holds them."""
    match layer:
        case arch.Convolution():
            return _convolution(layer)
        case arch.Dense(_, _, outputs):
            return [kl.Dense(outputs)]
        case arch.BatchNorm():
            return [kl.BatchNormalization(momentum=0.9, epsilon=1e-5)]
        case arch.LayerNorm():
            return [kl.LayerNormalization(epsilon=1e-6)]
        case arch.LocalResponseNorm():
            return [LocalResponseNorm()]
        case arch.Relu():
            return [kl.ReLU()]
        case arch.Gelu():
            return [kl.Activation(lambda v: ops.gelu(v, approximate=False))]
        case arch.Dropout(rate):
            return [kl.Dropout(rate)] if rate else []
        case arch.MaxPool(padding):
            # Behind a relu: padding by zeros is padding by nothing.
            pad = [kl.ZeroPadding2D(padding)] if padding else []
            return [*pad, kl.MaxPooling2D(layer.kernel, layer.stride)]
        case arch.AdaptiveAveragePool():
            return [] if shape[1] == layer.size else [AdaptiveAveragePool()]
        case arch.GlobalAveragePool():
            return [kl.GlobalAveragePooling2D()]
        case arch.Flatten():
            return [kl.Flatten()]
        case arch.Patches():
            _, height, width, channels = shape
            p = arch.PATCH
            return [
                kl.Reshape((height // p, p, width // p, p, channels)),
                kl.Permute((1, 3, 2, 4, 5)),
                kl.Reshape(((height // p) * (width // p), p * p * channels)),
            ]
        case arch.Tokens():
            return [Tokens()]
        case arch.FirstToken():
            return [FirstToken()]
        case arch.Attention(_, features, heads):
            return [kl.MultiHeadAttention(heads, features // heads)]
    raise TypeError(f"no Keras layer for {layer}")


def _convolution(layer: arch.Convolution) -> list[kl.Layer]:
    is_same = layer.stride == 1 and 2 * layer.padding == layer.kernel - 1
    pad = [kl.ZeroPadding2D(layer.padding)] if layer.padding and not is_same else []
    convolution = kl.Conv2D(
        layer.outputs,
        layer.kernel,
        layer.stride,
        "same" if is_same else "valid",
        groups=layer.groups,
        use_bias=layer.bias,
    )
    return [*pad, convolution]


class KerasProgram:
    """``train_on_batch`` or ``test_on_batch`` on a batch that is on the device already."""

    def __init__(self, workload: Workload, weights: dict[str, np.ndarray]) -> None:
        _set_threads(workload.threads)
        keras.utils.set_random_seed(workload.seed)
        network = workload.network()
        inputs = keras.Input(network.input_shape, batch_size=workload.batch_size)
        builder = _Builder()
        self.model = keras.Model(inputs, builder.sequence(network.layers, inputs))
        builder.load(weights)
        self.model.compile(
            optimizer=DecayedSGD(
                decay=workload.weight_decay,
                learning_rate=workload.learning_rate,
                momentum=workload.momentum,
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model = self.model
        self._on_batch = model.train_on_batch if workload.is_training else model.test_on_batch
        self.batch = [ops.convert_to_tensor(array) for array in workload.batch()]

    def step(self) -> Any:
        """One step; Keras waits for its loss."""
        return self._on_batch(*self.batch)

    def finish(self) -> None:
        """Nothing to wait for: the loss was read, and an update runs before the next step."""


def _set_threads(threads: int) -> None:
    match keras.backend.backend():
        case "torch":
            import torch

            torch.set_num_threads(threads)
        case "tensorflow":
            from benchmarks.native.tensorflow_common import set_threads

            set_threads(threads)


def build(workload: Workload, weights: dict[str, np.ndarray]) -> KerasProgram:
    """Ready to step; the first step compiles."""
    return KerasProgram(workload, weights)
