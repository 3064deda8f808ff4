"""Layers: frozen dataclasses with pure ``init`` and ``apply``. Images are NHWC, weights HWIO.

``module`` runs a layer's ``forward`` in a ``scope``: once on shapes, which collects what is
declared and draws it by ``initializers``, and later on values, which are handed out by name.
"""

from typing import TYPE_CHECKING

from accelkit.foreign_names import refuser
from accelkit.nn.activations import ELU, GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softmax, Tanh
from accelkit.nn.attention import MultiHeadAttention
from accelkit.nn.containers import Function, Residual, Sequential
from accelkit.nn.initializers import (
    Constant,
    Initializer,
    Normal,
    Uniform,
    VarianceScaling,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    lecun_normal,
    ones,
    zeros,
)
from accelkit.nn.layers import Conv2d, Dropout, Embedding, Flatten, Linear
from accelkit.nn.module import Module, ModuleSpec
from accelkit.nn.normalization import (
    BatchNorm,
    GroupNorm,
    LayerNorm,
    LocalResponseNorm,
    RMSNorm,
)
from accelkit.nn.pooling import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    MaxPool2d,
)
from accelkit.nn.scope import ParameterSpec, Scope

__all__ = [
    "ELU",
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm",
    "Constant",
    "Conv2d",
    "Dropout",
    "Embedding",
    "Flatten",
    "Function",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "GroupNorm",
    "Initializer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "Module",
    "ModuleSpec",
    "MultiHeadAttention",
    "Normal",
    "ParameterSpec",
    "RMSNorm",
    "ReLU",
    "Residual",
    "Scope",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "Uniform",
    "VarianceScaling",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "ones",
    "zeros",
]

if not TYPE_CHECKING:  # type checkers know what names there are
    __getattr__ = refuser(__name__, __all__)
