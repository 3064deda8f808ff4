"""What every program of the side-by-side benchmark computes, in no framework's terms.

A workload is a model, a batch that stays on the device, and SGD with momentum and weight decay
in PyTorch's form: ``g += wd*p; v = mu*v + g; p -= lr*v``. Weights travel as NumPy arrays:
convolutions as (height, width, in, out), dense layers as (in, out), images as NHWC flattened in
that order before the first dense layer. A program that keeps another layout converts on loading.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, Final

import numpy as np

__all__ = ["MLP_SIZES", "Convolution", "Dense", "Workload", "alexnet_layers", "pooling_matrix"]

MLP_SIZES: Final = (128, 256, 256, 10)
_POOLED: Final = 6  # AlexNet pools its features to 6x6, whatever the image size


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution with bias and ReLU, then perhaps a 3x3 max-pool of stride 2."""

    name: str
    kernel: int
    stride: int
    padding: int
    inputs: int
    outputs: int
    pool: bool


@dataclasses.dataclass(frozen=True)
class Dense:
    """A dense layer with bias; ``dropout`` before it and ReLU after it where asked."""

    name: str
    inputs: int
    outputs: int
    dropout: bool
    relu: bool


def alexnet_layers(width: float, classes: int) -> tuple[list[Convolution], list[Dense]]:
    """AlexNet as in Krizhevsky, "One weird trick for parallelizing convolutional networks", 2014.

    This is the variant that torchvision ships. ``width`` scales every channel count.
    """
    a, b, c, d, hidden = (max(1, round(width * n)) for n in (64, 192, 384, 256, 4096))
    convolutions = [
        Convolution("conv1", 11, 4, 2, 3, a, pool=True),
        Convolution("conv2", 5, 1, 2, a, b, pool=True),
        Convolution("conv3", 3, 1, 1, b, c, pool=False),
        Convolution("conv4", 3, 1, 1, c, d, pool=False),
        Convolution("conv5", 3, 1, 1, d, d, pool=True),
    ]
    dense = [
        Dense("dense1", _POOLED * _POOLED * d, hidden, dropout=True, relu=True),
        Dense("dense2", hidden, hidden, dropout=True, relu=True),
        Dense("dense3", hidden, classes, dropout=False, relu=False),
    ]
    return convolutions, dense


def mlp_layers() -> list[Dense]:
    """A small perceptron of about 100,000 parameters, where overhead outweighs arithmetic."""
    last = len(MLP_SIZES) - 2
    return [
        Dense(f"dense{i + 1}", inputs, outputs, dropout=False, relu=i < last)
        for i, (inputs, outputs) in enumerate(itertools.pairwise(MLP_SIZES))
    ]


def pooling_matrix(size: int) -> np.ndarray:
    """The (6, size) matrix of an adaptive average pool along one axis, as torch defines it."""
    matrix = np.zeros((_POOLED, size), np.float32)
    for i in range(_POOLED):
        begin, end = i * size // _POOLED, -(-(i + 1) * size // _POOLED)
        matrix[i, begin:end] = 1.0 / (end - begin)
    return matrix


@dataclasses.dataclass(frozen=True)
class Workload:
    """One training problem.

    Attributes:
        model: ``"alexnet"`` or ``"mlp"``.
        batch_size: Examples per step.
        threads: CPU threads that the program may use.
        image_size: Height and width of AlexNet's images, in pixels.
        width: Scale of AlexNet's channel counts.
        dropout: Dropout rate; 0 switches dropout off, which makes losses comparable.
        learning_rate, momentum, weight_decay: Of SGD.
        seed: Of the weights and the batch.
    """

    model: str
    batch_size: int
    threads: int
    image_size: int = 224
    width: float = 1.0
    dropout: float = 0.5
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0

    @property
    def convolutions(self) -> list[Convolution]:
        """The model's convolutions, first to last."""
        return alexnet_layers(self.width, self.classes)[0] if self.model == "alexnet" else []

    @property
    def dense(self) -> list[Dense]:
        """The model's dense layers, first to last."""
        if self.model == "alexnet":
            return alexnet_layers(self.width, self.classes)[1]
        return mlp_layers()

    @property
    def layers(self) -> list[Convolution | Dense]:
        """All layers with weights, first to last."""
        return [*self.convolutions, *self.dense]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return 1000 if self.model == "alexnet" else MLP_SIZES[-1]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a batch of inputs, NHWC for images."""
        if self.model == "alexnet":
            return (self.batch_size, self.image_size, self.image_size, 3)
        return (self.batch_size, MLP_SIZES[0])

    def feature_sizes(self) -> list[int]:
        """Height of the image after each convolution and its pool."""
        sizes, size = [], self.image_size
        for layer in self.convolutions:
            size = (size + 2 * layer.padding - layer.kernel) // layer.stride + 1
            if layer.pool:
                size = (size - 3) // 2 + 1
            if size < 1:
                raise ValueError(
                    f"image_size={self.image_size} is too small: nothing is left after "
                    f"{layer.name}. AlexNet needs at least 63 pixels."
                )
            sizes.append(size)
        return sizes

    def weights(self) -> dict[str, np.ndarray]:
        """Initial weights: He normal kernels, small normal biases; float32, by name.

        The last layer's kernel is ten times smaller, so that the loss begins near log(classes).
        """
        generator = np.random.default_rng(self.seed)
        weights = {}
        for layer in self.layers:
            shape: tuple[int, ...] = (layer.inputs, layer.outputs)
            if isinstance(layer, Convolution):
                shape = (layer.kernel, layer.kernel, *shape)
            scale = math.sqrt(2.0 / math.prod(shape[:-1]))
            if layer.name == self.layers[-1].name:
                scale *= 0.1
            kernel = generator.standard_normal(shape, np.float32) * np.float32(scale)
            bias = generator.standard_normal(layer.outputs, np.float32) * np.float32(0.01)
            weights[f"{layer.name}.weight"] = kernel
            weights[f"{layer.name}.bias"] = bias
        return weights

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (float32, unit variance) and labels (int32)."""
        generator = np.random.default_rng(self.seed + 1)
        inputs = generator.standard_normal(self.input_shape, np.float32)
        return inputs, generator.integers(0, self.classes, self.batch_size, np.int32)

    @property
    def flops_per_step(self) -> int:
        """Operations of forward and backward, a multiply-add counted as two.

        The backward pass costs twice the forward one, but for the first layer, whose input
        needs no gradient.
        """
        multiply_adds = []
        sizes = [self.image_size, *self.feature_sizes()]
        for layer, size in zip(self.convolutions, sizes, strict=False):
            out = (size + 2 * layer.padding - layer.kernel) // layer.stride + 1
            multiply_adds.append(out**2 * layer.kernel**2 * layer.inputs * layer.outputs)
        multiply_adds += [layer.inputs * layer.outputs for layer in self.dense]
        return 2 * self.batch_size * (3 * sum(multiply_adds) - multiply_adds[0])

    def to_json(self) -> dict[str, Any]:
        """As a dictionary of plain values; ``Workload(**...)`` reads it back."""
        return dataclasses.asdict(self)
