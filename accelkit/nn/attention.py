"""Multi-head attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

from accelkit import ops
from accelkit.arguments import require_bool, require_fraction, require_integer
from accelkit.errors import ShapeError
from accelkit.nn.layers import Dropout, Linear
from accelkit.nn.module import Module
from accelkit.nn.scope import Scope
from accelkit.tensor import Tensor

__all__ = ["MultiHeadAttention"]


@dataclass(frozen=True)
class MultiHeadAttention(Module):
    """softmax(Q K^T / sqrt(d)) V in several heads (Vaswani et al., 2017).

    Attributes:
        heads: Number of heads; the input's features must be divisible by it.
        causal: Whether a position sees itself and earlier ones only.
        dropout: Rate at which attention weights are dropped in training.
        bias: Whether the four projections have one.
    """

    heads: int
    causal: bool = False
    dropout: float = 0.0
    bias: bool = True

    def __post_init__(self) -> None:
        require_integer("heads", self.heads)
        require_fraction("dropout", self.dropout)
        require_bool("causal", self.causal)
        require_bool("bias", self.bias)

    def forward(self, scope: Scope, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Queries x (N, T, features), keys and values from memory (N, S, features), x if None."""
        source = x if memory is None else memory
        if x.ndim != 3 or source.ndim != 3:
            raise ShapeError(f"Attention needs (N, T, features), got {x.shape}, {source.shape}.")
        features = x.shape[2]
        if features % self.heads:
            raise ShapeError(
                f"The input's features (={features}) must be divisible by `heads` (={self.heads})."
            )
        width = features // self.heads

        def project(name: str, values: Tensor) -> Tensor:
            y = scope.run(name, Linear(features, bias=self.bias), values)
            split = ops.reshape(y, (values.shape[0], values.shape[1], self.heads, width))
            return ops.permute_dims(split, (0, 2, 1, 3))

        query, key, value = project("query", x), project("key", source), project("value", source)
        scores = (query @ key.mT) * (1.0 / math.sqrt(width))
        if self.causal:
            shape = (x.shape[1], source.shape[1])
            allowed = ops.tril(ops.ones_like(scores[0, 0], dtype="bool").reshape(shape))
            scores = ops.where(allowed, scores, -math.inf)
        weights = ops.softmax(scores, axis=-1)
        weights = scope.run("dropout", Dropout(self.dropout), weights)
        mixed = ops.permute_dims(weights @ value, (0, 2, 1, 3))
        joined = ops.reshape(mixed, (x.shape[0], x.shape[1], features))
        result: Tensor = scope.run("output", Linear(features, bias=self.bias), joined)
        return result
