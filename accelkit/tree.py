"""Pytrees: nested dicts, lists, tuples and named tuples of leaves, by optree (loaded lazily).

Other containers count as leaves, unless they are registered in optree's global namespace
(``optree.register_pytree_node(..., namespace=optree.registry.__GLOBAL_NAMESPACE)``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["flatten", "flatten_with_names", "map", "unflatten"]


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """The leaves of a pytree in a fixed order, and its structure. None holds no leaf."""
    import optree

    leaves, structure = optree.tree_flatten(tree)
    return leaves, structure


def unflatten(structure: Any, leaves: Sequence[Any]) -> Any:
    """The pytree of this structure with these leaves."""
    import optree

    return optree.tree_unflatten(structure, leaves)


def map(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Apply a function to corresponding leaves of pytrees of equal structure."""
    import optree

    return optree.tree_map(function, tree, *rest)


def flatten_with_names(tree: Any) -> tuple[list[str], list[Any], Any]:
    """Dotted names of the leaves (``"features.0.weight"``), the leaves, and the structure."""
    import optree

    paths, leaves, structure = optree.tree_flatten_with_path(tree)
    names = [".".join(str(part) for part in path) for path in paths]
    return names, leaves, structure
