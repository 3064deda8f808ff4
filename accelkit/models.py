"""Models by name: a module, the inputs it takes, and how it is usually trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelkit import registry
from accelkit.errors import OptionError, UnknownNameError
from accelkit.nn.module import Module

__all__ = ["Model", "build", "names"]


@dataclass(frozen=True)
class Model:
    """A model as an entry point of the group ``accelkit.models`` returns it.

    Attributes:
        module: The network.
        name: Its name and variant, for reports.
        input_shape: Shape of one input without the batch axis.
        classes: Number of classes.
        learning_rate: With which it is usually trained by SGD with momentum.
    """

    module: Module
    name: str
    input_shape: tuple[int, ...]
    classes: int
    learning_rate: float = 0.01

    def __str__(self) -> str:
        size = "x".join(map(str, self.input_shape))
        return f"{self.name}: inputs {size}, {self.classes} classes\n{self.module}"


def names() -> list[str]:
    """Names of all registered models."""
    return registry.model_names()


def variants(name: str) -> tuple[str, ...]:
    """Variants of a model, the default one first; empty if it has none."""
    factory = registry.model_factory(name)
    return tuple(getattr(factory, "variants", ()))


def build(name: str, **options: Any) -> Model:
    """Build a model by name.

    Args:
        name: One of :func:`names`.
        options: What the model's factory takes: ``variant``, ``classes``, ``image_size``,
            ``width``, ... ; those that are None are left out.

    Raises:
        UnknownNameError: for an unknown model or variant, with the nearest names.
        OptionError: for an option that the model does not take.
    """
    factory: Callable[..., Model] = registry.model_factory(name)
    given = {key: value for key, value in options.items() if value is not None}
    accepted = inspect.signature(factory).parameters
    unknown = [key for key in given if key not in accepted]
    if unknown:
        raise OptionError(
            f"Model {name!r} does not take {', '.join(map(repr, unknown))}. It takes: "
            f"{', '.join(accepted)}."
        )
    variant = given.get("variant")
    if variant is not None and variant not in variants(name):
        raise UnknownNameError.of(f"variant of {name}", str(variant), variants(name))
    return factory(**given)
