"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelkit.arguments import require_callable, require_instance
from accelkit.errors import OptionError, ShapeError
from accelkit.nn.module import Module
from accelkit.nn.scope import Scope
from accelkit.tensor import Tensor

__all__ = ["Function", "Residual", "Sequential"]


def _require_module(name: str, layer: object) -> None:
    require_instance(name, layer, Module, "Wrap a plain function as nn.Function(f).")


@dataclass(frozen=True, init=False)
class Sequential(Module):
    """Modules in a row: named ``"0"``, ``"1"``, ... if given by position, or by keyword.

    Raises:
        OptionError: for layers by position and by keyword at once, or a name with dots.

    Example:
        >>> from accelkit import nn
        >>> mlp = nn.Sequential(nn.Linear(8), nn.ReLU(), nn.Linear(2))
        >>> list(mlp.specify((1, 4)).parameters)
        ['0.weight', '0.bias', '2.weight', '2.bias']
        >>> print(mlp)
        Sequential
          0: Linear(features=8)
          1: ReLU()
          2: Linear(features=2)
    """

    layers: tuple[tuple[str, Module], ...]

    def __init__(self, *layers: Module, **named: Module) -> None:
        if layers and named:
            raise OptionError("Sequential takes its layers by position or by keyword, not both.")
        pairs = tuple(named.items()) or tuple((str(i), layer) for i, layer in enumerate(layers))
        for name, layer in pairs:
            if not name or "." in name:
                raise OptionError(
                    f"A layer's name stands in dotted paths, so it has no dots itself: {name!r}."
                )
            _require_module(name, layer)
        object.__setattr__(self, "layers", pairs)

    def __repr__(self) -> str:
        by_position = all(name == str(i) for i, (name, _) in enumerate(self.layers))
        given = (repr(layer) if by_position else f"{n}={layer!r}" for n, layer in self.layers)
        return f"Sequential({', '.join(given)})"

    def forward(self, scope: Scope, x: Any) -> Any:
        """Each layer's result is the next one's input."""
        for name, layer in self.layers:
            x = scope.run(name, layer, x)
        return x


@dataclass(frozen=True)
class Residual(Module):
    """body(x) + shortcut(x); the shortcut is x itself if None (He et al., 2015).

    Attributes:
        body: The longer path, named ``body``.
        shortcut: The other one, named ``shortcut``, for when the shapes differ.
    """

    body: Module
    shortcut: Module | None = None

    def __post_init__(self) -> None:
        _require_module("body", self.body)
        if self.shortcut is not None:
            _require_module("shortcut", self.shortcut)

    def forward(self, scope: Scope, x: Tensor) -> Tensor:
        """The sum of both paths."""
        y = scope.run("body", self.body, x)
        other = x if self.shortcut is None else scope.run("shortcut", self.shortcut, x)
        if y.shape != other.shape:
            raise ShapeError(
                f"Residual adds body {y.shape} and shortcut {other.shape}, which differ. Give a "
                f"`shortcut` that changes the shape in the same way."
            )
        result: Tensor = y + other
        return result


@dataclass(frozen=True)
class Function(Module):
    """A pure function of the input as a layer without parameters."""

    function: Callable[..., Any]

    def __post_init__(self) -> None:
        require_callable("function", self.function)

    def forward(self, scope: Scope, *inputs: Any) -> Any:
        """The function's result."""
        return self.function(*inputs)
