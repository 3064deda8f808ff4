"""Networks in no framework's terms: lists of layers that every measured program builds its own way.

Weights travel as NumPy arrays: convolutions as (height, width, in / groups, out), dense layers as
(in, out), images as NHWC, flattened in that order before the first dense layer. A program that
keeps another layout converts on loading.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

__all__ = [
    "MLP_SIZES",
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
    "alexnet",
    "alexnet_2012",
    "mlp",
    "pooling_matrix",
    "resnet18",
    "vit",
    "walk",
]

MLP_SIZES: Final = (128, 256, 256, 10)
VIT_SIZES: Final = {"tiny": (12, 192, 3), "micro": (4, 64, 4)}  # depth, features, heads
PATCH: Final = 16
_POOLED: Final = 6  # AlexNet pools its features to 6x6, whatever the image size

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

    size = _POOLED

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
    matrix = np.zeros((_POOLED, size), np.float32)
    for i in range(_POOLED):
        begin, end = i * size // _POOLED, -(-(i + 1) * size // _POOLED)
        matrix[i, begin:end] = 1.0 / (end - begin)
    return matrix


def _window(size: int, kernel: int, stride: int, padding: int) -> int:
    return max(0, (size + 2 * padding - kernel) // stride + 1)


def _scaled(width: float, *counts: int) -> list[int]:
    """Channel counts, even so that they can be cut into two groups."""
    return [max(2, 2 * round(width * n / 2)) for n in counts]


def alexnet(image_size: int = 224, width: float = 1.0, rate: float = 0.5) -> Network:
    """Krizhevsky, "One weird trick for parallelizing convolutional networks", 2014.

    The variant that torchvision ships. ``width`` scales every channel count.
    """
    a, b, c, d, hidden = _scaled(width, 64, 192, 384, 256, 4096)
    layers: list[Layer] = []
    for layer, pool in (
        (Convolution("conv1", 3, a, 11, 4, 2), True),
        (Convolution("conv2", a, b, 5, 1, 2), True),
        (Convolution("conv3", b, c, 3, 1, 1), False),
        (Convolution("conv4", c, d, 3, 1, 1), False),
        (Convolution("conv5", d, d, 3, 1, 1), True),
    ):
        layers += [layer, Relu(), *([MaxPool()] if pool else [])]
    layers += [AdaptiveAveragePool(), Flatten(_POOLED, _POOLED)]
    layers += [Dropout(rate), Dense("dense1", _POOLED * _POOLED * d, hidden), Relu()]
    layers += [Dropout(rate), Dense("dense2", hidden, hidden), Relu()]
    layers += [Dense("dense3", hidden, 1000)]
    return Network(tuple(layers), (image_size, image_size, 3), 1000)


def alexnet_2012(image_size: int = 227, width: float = 1.0, rate: float = 0.5) -> Network:
    """Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep CNNs", 2012."""
    a, b, c, d, e, hidden = _scaled(width, 96, 256, 384, 384, 256, 4096)
    layers: list[Layer] = [
        Convolution("conv1", 3, a, 11, 4, 2 if image_size == 224 else 0),
        Relu(),
        LocalResponseNorm(),
        MaxPool(),
        Convolution("conv2", a, b, 5, 1, 2, groups=2),
        Relu(),
        LocalResponseNorm(),
        MaxPool(),
        Convolution("conv3", b, c, 3, 1, 1),
        Relu(),
        Convolution("conv4", c, d, 3, 1, 1, groups=2),
        Relu(),
        Convolution("conv5", d, e, 3, 1, 1, groups=2),
        Relu(),
        MaxPool(),
    ]
    shape: Shape = (1, image_size, image_size, 3)
    for layer in layers:
        shape = layer.output(shape)
    _, height, wide, _ = shape
    layers += [Flatten(height, wide)]
    layers += [Dense("dense1", height * wide * e, hidden), Relu(), Dropout(rate)]
    layers += [Dense("dense2", hidden, hidden), Relu(), Dropout(rate)]
    layers += [Dense("dense3", hidden, 1000)]
    return Network(tuple(layers), (image_size, image_size, 3), 1000)


def resnet18(image_size: int = 224, width: float = 1.0) -> Network:
    """He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015."""

    def conv(name: str, inputs: int, outputs: int, kernel: int, stride: int) -> list[Layer]:
        layer = Convolution(name, inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return [layer, BatchNorm(f"{name}_norm", outputs)]

    def block(name: str, inputs: int, outputs: int, stride: int) -> list[Layer]:
        body = [
            *conv(f"{name}_conv1", inputs, outputs, 3, stride),
            Relu(),
            *conv(f"{name}_conv2", outputs, outputs, 3, 1),
        ]
        project = inputs != outputs or stride > 1
        shortcut = conv(f"{name}_shortcut", inputs, outputs, 1, stride) if project else []
        return [Residual(tuple(body), tuple(shortcut)), Relu()]

    first = max(1, round(64 * width))
    layers = [*conv("conv1", 3, first, 7, 2), Relu(), MaxPool(padding=1)]
    inputs = first
    for stage, factor in enumerate((1, 2, 4, 8)):
        outputs = first * factor
        layers += block(f"stage{stage + 1}_1", inputs, outputs, 1 if stage == 0 else 2)
        layers += block(f"stage{stage + 1}_2", outputs, outputs, 1)
        inputs = outputs
    layers += [GlobalAveragePool(), Dense("dense", inputs, 1000)]
    return Network(tuple(layers), (image_size, image_size, 3), 1000)


def vit(variant: str, image_size: int = 224, rate: float = 0.1) -> Network:
    """Dosovitskiy et al., "An image is worth 16x16 words", 2021: pre-normalised, class token."""
    depth, features, heads = VIT_SIZES[variant]
    length = (image_size // PATCH) ** 2
    layers: list[Layer] = [
        Patches(),
        Dense("patches", PATCH * PATCH * 3, features),
        Tokens("tokens", features, length),
        Dropout(rate),
    ]
    for i in range(depth):
        attention = (
            LayerNorm(f"layer{i}_norm1", features),
            Attention(f"layer{i}_attention", features, heads),
            Dropout(rate),
        )
        perceptron = (
            LayerNorm(f"layer{i}_norm2", features),
            Dense(f"layer{i}_dense1", features, 4 * features),
            Gelu(),
            Dropout(rate),
            Dense(f"layer{i}_dense2", 4 * features, features),
            Dropout(rate),
        )
        layers += [Residual(attention), Residual(perceptron)]
    layers += [LayerNorm("norm", features), FirstToken(), Dense("head", features, 1000)]
    return Network(tuple(layers), (image_size, image_size, 3), 1000)


def mlp() -> Network:
    """A small perceptron of about 100,000 parameters, where overhead outweighs arithmetic."""
    layers: list[Layer] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(MLP_SIZES), 1):
        layers += [Dense(f"dense{i}", inputs, outputs), Relu()]
    return Network(tuple(layers[:-1]), (MLP_SIZES[0],), MLP_SIZES[-1])
