"""The measured networks, as layers of :mod:`benchmarks.architecture`."""

from __future__ import annotations

import itertools
from typing import Final

from benchmarks.architecture import (
    PATCH,
    POOLED,
    AdaptiveAveragePool,
    Attention,
    BatchNorm,
    Convolution,
    Dense,
    Dropout,
    FirstToken,
    Flatten,
    Gelu,
    GlobalAveragePool,
    Layer,
    LayerNorm,
    LocalResponseNorm,
    MaxPool,
    Network,
    Patches,
    Relu,
    Residual,
    Shape,
    Tokens,
)

__all__ = ["MLP_SIZES", "VIT_SIZES", "alexnet", "alexnet_2012", "mlp", "resnet18", "vit"]

MLP_SIZES: Final = (128, 256, 256, 10)
VIT_SIZES: Final = {"tiny": (12, 192, 3), "micro": (4, 64, 4)}  # depth, features, heads


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
    layers += [AdaptiveAveragePool(), Flatten(POOLED, POOLED)]
    layers += [Dropout(rate), Dense("dense1", POOLED * POOLED * d, hidden), Relu()]
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
