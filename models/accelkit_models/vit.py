"""A small vision transformer: Dosovitskiy et al. (2021), "An image is worth 16x16 words"."""

from __future__ import annotations

from dataclasses import dataclass

import accelkit as ak
from accelkit import Tensor, nn
from accelkit.arguments import require_integer
from accelkit.errors import ShapeError, UnknownNameError
from accelkit.models import Model

__all__ = ["vit"]

_INIT = nn.Normal(0.02)


@dataclass(frozen=True)
class Patches(nn.Module):
    """Images (N, H, W, C) as a sequence of flattened patches, projected: (N, T, features)."""

    patch: int
    features: int

    def forward(self, scope: nn.Scope, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, H * W / patch^2, features)."""
        n, height, width, channels = x.shape
        p = self.patch
        if height % p or width % p:
            raise ShapeError(f"The image {height}x{width} must be divisible by `patch` (={p}).")
        rows, columns = height // p, width // p
        grid = ak.reshape(x, (n, rows, p, columns, p, channels))
        grid = ak.permute_dims(grid, (0, 1, 3, 2, 4, 5))
        flat = ak.reshape(grid, (n, rows * columns, p * p * channels))
        projected: Tensor = scope.run("projection", nn.Linear(self.features), flat)
        return projected


@dataclass(frozen=True)
class Positions(nn.Module):
    """A class token in front, and a learned position added to every token."""

    def forward(self, scope: nn.Scope, x: Tensor) -> Tensor:
        """(N, T, features) to (N, T + 1, features)."""
        n, length, features = x.shape
        token = scope.parameter("class_token", (1, 1, features), nn.zeros)
        tokens = ak.concat([ak.broadcast_to(token, (n, 1, features)), x], axis=1)
        positions = scope.parameter("positions", (1, length + 1, features), _INIT)
        result: Tensor = tokens + positions
        return result


def _encoder_layer(features: int, heads: int, dropout: float) -> nn.Module:
    attention = nn.Sequential(
        norm=nn.LayerNorm(1e-6), attention=nn.MultiHeadAttention(heads), drop=nn.Dropout(dropout)
    )
    mlp = nn.Sequential(
        norm=nn.LayerNorm(1e-6),
        fc1=nn.Linear(4 * features),
        gelu=nn.GELU(),
        drop1=nn.Dropout(dropout),
        fc2=nn.Linear(features),
        drop2=nn.Dropout(dropout),
    )
    return nn.Sequential(attention=nn.Residual(attention), mlp=nn.Residual(mlp))


def vit(
    variant: str = "tiny",
    *,
    classes: int = 1000,
    image_size: int = 224,
    patch: int = 16,
    dropout: float = 0.1,
) -> Model:
    """Vision transformer with a class token and pre-normalised layers.

    Args:
        variant: ``"tiny"`` (12 layers of 192 features, 3 heads: 5,717,416 parameters at 224x224)
            or ``"micro"`` (4 layers of 64 features, 4 heads; for tests and small images).
        classes: Number of classes.
        image_size: Height and width; divisible by ``patch``.
        patch: Height and width of a patch.
        dropout: Rate after attention and in the MLP.

    Raises:
        UnknownNameError: for an unknown variant.
        OptionError: for a number that is not positive.
    """
    for name, value in (("classes", classes), ("image_size", image_size), ("patch", patch)):
        require_integer(name, value)
    sizes = {"tiny": (12, 192, 3), "micro": (4, 64, 4)}
    if variant not in sizes:
        raise UnknownNameError.of("variant of vit", variant, sizes)
    depth, features, heads = sizes[variant]
    layers = [_encoder_layer(features, heads, dropout) for _ in range(depth)]
    module = nn.Sequential(
        patches=Patches(patch, features),
        positions=Positions(),
        drop=nn.Dropout(dropout),
        layers=nn.Sequential(*layers),
        norm=nn.LayerNorm(1e-6),
        token=nn.Function(lambda x: x[:, 0]),
        head=nn.Linear(classes, weight_init=_INIT),
    )
    shape = (image_size, image_size, 3)
    return Model(module, f"vit-{variant}", shape, classes, learning_rate=0.01)


vit.variants = ("tiny", "micro")  # type: ignore[attr-defined]
