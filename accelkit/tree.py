"""Pytrees: nested dicts, lists, tuples and named tuples of leaves, by optree (loaded lazily).

Other containers count as leaves, unless they are registered in optree's global namespace
(``optree.register_pytree_node(..., namespace=optree.registry.__GLOBAL_NAMESPACE)``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

__all__ = ["Skeleton", "flatten", "flatten_with_names", "map", "paths", "split", "unflatten"]


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
    leaves, structure = flatten(tree)
    return [".".join(str(part) for part in path) for path in paths(structure)], leaves, structure


def paths(structure: Any) -> list[tuple[Any, ...]]:
    """Where each leaf is: the keys and indices that lead to it, the outermost first."""
    import optree

    found: list[tuple[Any, ...]] = optree.treespec_paths(structure)
    return found


class Skeleton(NamedTuple):
    """A pytree without some of its leaves: what :func:`split` leaves of it.

    Attributes:
        structure: Of the whole pytree.
        positions: Where the leaves are missing.
        leaves: All leaves, None for the missing ones.
    """

    structure: Any
    positions: list[int]
    leaves: list[Any]

    def fill(self, missing: Sequence[Any]) -> Any:
        """The pytree with these leaves in the place of the missing ones."""
        leaves = list(self.leaves)
        for position, leaf in zip(self.positions, missing, strict=True):
            leaves[position] = leaf
        return unflatten(self.structure, leaves)


def split(tree: Any, kind: type | tuple[type, ...]) -> tuple[list[Any], Skeleton]:
    """The leaves of a kind, and the rest of the pytree, which is not changed."""
    leaves, structure = flatten(tree)
    positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, kind)]
    chosen = [leaves[i] for i in positions]
    for position in positions:
        leaves[position] = None
    return chosen, Skeleton(structure, positions, leaves)
