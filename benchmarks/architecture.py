"""Layers in no framework's terms, and networks of them, that every program builds its own way.

Weights travel as NumPy arrays: convolutions as (height, width, in / groups, out), dense layers as
(in, out), images as NHWC, flattened in that order before the first dense layer. A program that
keeps another layout converts on loading.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

__all__ = [
    "PATCH",
    "POOLED",
    "AdaptiveAveragePool",
    "Attention",
    "BatchNorm",
    "Convolution",
    "Dense",
    "Dropout",
    "FirstToken",
    "Flatten",
    "Gelu",
    "GlobalAveragePool",
    "Layer",
    "LayerNorm",
    "LocalResponseNorm",
    "MaxPool",
    "Network",
    "Patches",
    "Relu",
    "Residual",
    "Tokens",
    "pooling_matrix",
    "walk",
]

PATCH: Final = 16
POOLED: Final = 6  # AlexNet pools its features to 6x6, whatever the image size

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer without weights that keeps its input's shape, unless a subclass says otherwise."""

    def weights(self) -> dict[str, Shape]:
        """Shapes of its weights, by the last part of their name."""
        return {}

    def output(self, shape: Shape) -> Shape:
        """Shape of its result, the batch axis included."""
        return shape

    def multiply_adds(self, shape: Shape) -> int:
        """Multiply-adds of its products for an input of this shape."""
        return 0


@dataclasses.dataclass(frozen=True)
class Convolution(Layer):
    """A two-dimensional convolution."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = True

    def weights(self) -> dict[str, Shape]:
        shape = (self.kernel, self.kernel, self.inputs // self.groups, self.outputs)
        return {"weight": shape, **({"bias": (self.outputs,)} if self.bias else {})}

    def output(self, shape: Shape) -> Shape:
        n, *sizes, _ = shape
        height, width = (_window(s, self.kernel, self.stride, self.padding) for s in sizes)
        return (n, height, width, self.outputs)

    def multiply_adds(self, shape: Shape) -> int:
        return math.prod(self.output(shape)) * self.kernel**2 * self.inputs // self.groups


@dataclasses.dataclass(frozen=True)
class Dense(Layer):
    """A product with a matrix, and a bias."""

    name: str
    inputs: int
    outputs: int

    def weights(self) -> dict[str, Shape]:
        return {"weight": (self.inputs, self.outputs), "bias": (self.outputs,)}

    def output(self, shape: Shape) -> Shape:
        return (*shape[:-1], self.outputs)

    def multiply_adds(self, shape: Shape) -> int:
        return math.prod(shape) * self.outputs


@dataclasses.dataclass(frozen=True)
class BatchNorm(Layer):
    """Over all axes but the last; running statistics keep 0.9; epsilon 1e-5."""

    name: str
    features: int

    def weights(self) -> dict[str, Shape]:
        return {"scale": (self.features,), "bias": (self.features,)}


@dataclasses.dataclass(frozen=True)
class LayerNorm(Layer):
    """Over the last axis; epsilon 1e-6."""

    name: str
    features: int

    def weights(self) -> dict[str, Shape]:
        return {"scale": (self.features,), "bias": (self.features,)}


@dataclasses.dataclass(frozen=True)
class LocalResponseNorm(Layer):
    """x_i / (2 + 1e-4 * sum of x_j^2 over 5 neighbouring channels)^0.75."""


@dataclasses.dataclass(frozen=True)
class Relu(Layer):
    """max(x, 0)."""


@dataclasses.dataclass(frozen=True)
class Gelu(Layer):
    """x times the normal distribution function, exactly."""


@dataclasses.dataclass(frozen=True)
class Dropout(Layer):
    """Inverted dropout."""

    rate: float


@dataclasses.dataclass(frozen=True)
class MaxPool(Layer):
    """The largest of 3x3, every second position."""

    padding: int = 0
    kernel = 3
    stride = 2

    def output(self, shape: Shape) -> Shape:
        n, *sizes, channels = shape
        height, width = (_window(s, self.kernel, self.stride, self.padding) for s in sizes)
        return (n, height, width, channels)


@dataclasses.dataclass(frozen=True)
class AdaptiveAveragePool(Layer):
    """Means over an even cut into 6x6."""

    size = POOLED

    def output(self, shape: Shape) -> Shape:
        return (shape[0], self.size, self.size, shape[3])


@dataclasses.dataclass(frozen=True)
class GlobalAveragePool(Layer):
    """Means over the image."""

    def output(self, shape: Shape) -> Shape:
        return (shape[0], shape[3])


@dataclasses.dataclass(frozen=True)
class Flatten(Layer):
    """(height, width, channels) of the given sizes as one axis, in that order."""

    height: int
    width: int

    def output(self, shape: Shape) -> Shape:
        return (shape[0], math.prod(shape[1:]))


@dataclasses.dataclass(frozen=True)
class Patches(Layer):
    """An image as a sequence of flattened patches, each in the order (row, column, channel)."""

    def output(self, shape: Shape) -> Shape:
        n, height, width, channels = shape
        return (n, (height // PATCH) * (width // PATCH), PATCH * PATCH * channels)


@dataclasses.dataclass(frozen=True)
class Tokens(Layer):
    """A learned token in front, and a learned position added to each."""

    name: str
    features: int
    length: int

    def weights(self) -> dict[str, Shape]:
        return {
            "class_token": (1, 1, self.features),
            "positions": (1, self.length + 1, self.features),
        }

    def output(self, shape: Shape) -> Shape:
        return (shape[0], shape[1] + 1, shape[2])


@dataclasses.dataclass(frozen=True)
class FirstToken(Layer):
    """The first of the sequence."""

    def output(self, shape: Shape) -> Shape:
        return (shape[0], shape[2])


@dataclasses.dataclass(frozen=True)
class Attention(Layer):
    """Multi-head self-attention without mask or dropout; four dense layers with biases."""

    name: str
    features: int
    heads: int

    parts = ("query", "key", "value", "output")

    def weights(self) -> dict[str, Shape]:
        square = (self.features, self.features)
        pairs = {}
        for part in self.parts:
            pairs |= {f"{part}.weight": square, f"{part}.bias": (self.features,)}
        return pairs

    def multiply_adds(self, shape: Shape) -> int:
        n, length, features = shape
        return 4 * n * length * features**2 + 2 * n * length**2 * features


@dataclasses.dataclass(frozen=True)
class Residual(Layer):
    """body(x) + shortcut(x); an empty shortcut is x itself."""

    body: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()

    def output(self, shape: Shape) -> Shape:
        for layer in self.body:
            shape = layer.output(shape)
        return shape


def walk(layers: Sequence[Layer], shape: Shape) -> Iterator[tuple[Layer, Shape]]:
    """Every layer but residual ones, with the shape of its input, bodies before shortcuts.

    Raises:
        ValueError: for an image too small, naming the layer after which nothing is left.
    """
    after = "the input"
    for layer in layers:
        if isinstance(layer, Residual):
            yield from walk(layer.body, shape)
            yield from walk(layer.shortcut, shape)
        else:
            yield layer, shape
        after = getattr(layer, "name", after)
        shape = layer.output(shape)
        if min(shape) < 1:
            raise ValueError(f"the image is too small: nothing is left after {after}")


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, and what it takes.

    Attributes:
        layers: First to last.
        input_shape: Of one example: (height, width, channels), or (features,).
        classes: Number of classes.
    """

    layers: tuple[Layer, ...]
    input_shape: Shape
    classes: int

    def walk(self, batch_size: int = 1) -> Iterator[tuple[Layer, Shape]]:
        """Every layer with the shape of its input; see :func:`walk`."""
        return walk(self.layers, (batch_size, *self.input_shape))

    def weight_shapes(self) -> dict[str, Shape]:
        """Shapes of all weights, by ``layer.weight``, in the order of execution."""
        return {
            f"{layer.name}.{part}": shape  # type: ignore[attr-defined]
            for layer, _ in self.walk()
            for part, shape in layer.weights().items()
        }

    def multiply_adds(self) -> list[int]:
        """Forward multiply-adds per example of each layer that has products."""
        found = [layer.multiply_adds(shape) for layer, shape in self.walk()]
        return [count for count in found if count]


def pooling_matrix(size: int) -> np.ndarray:
    """The (6, size) matrix of an adaptive average pool along one axis, as torch defines it."""
    matrix = np.zeros((POOLED, size), np.float32)
    for i in range(POOLED):
        begin, end = i * size // POOLED, -(-(i + 1) * size // POOLED)
        matrix[i, begin:end] = 1.0 / (end - begin)
    return matrix


def _window(size: int, kernel: int, stride: int, padding: int) -> int:
    return max(0, (size + 2 * padding - kernel) // stride + 1)
