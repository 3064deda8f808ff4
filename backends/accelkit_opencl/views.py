"""Strided views: reshapes, transposes, slices and broadcasts that move no data.

A :class:`View` says where element ``index`` of a tensor is found: at
``offset + sum(index[axis] * strides[axis])`` of a buffer. The same arithmetic serves tensors
without a buffer: of an ``iota`` it *is* the element, a ``full`` ignores it, and of a random tensor
the element is a function of it and of a key.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from accelkit.dtypes import DType
from accelkit.graph import Node, Value

__all__ = ["COMPUTED", "VIEW_PRIMITIVES", "Draw", "View", "broadcast", "row_major", "view_of_node"]

COMPUTED = frozenset({"full", "iota", "random_keep_mask", "random_uniform"})  # from the index


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a dense row-major array."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(reversed(strides))


@dataclass(frozen=True)
class Draw:
    """What a random tensor's element is besides its place: it is drawn wherever it is read.

    Attributes:
        key: Places of the key's two words in the buffer of :attr:`View.base`.
        first: Index of the tensor's first element within the key's stream.
        rate: At which elements of a mask are False; None for numbers uniform in [0, 1).
    """

    key: tuple[int, int]
    first: int
    rate: float | None


@dataclass(frozen=True)
class View:
    """A tensor as an index map.

    Attributes:
        base: The value whose buffer is read, of a random tensor its key's; None for tensors that
            are computed from the index alone.
        shape, dtype: Of the tensor.
        strides: Elements per axis.
        offset: Of the first element.
        constant: The element of a ``full``; None for an ``iota``.
        draw: Of a random tensor; None for others.
    """

    base: Value | None
    shape: tuple[int, ...]
    dtype: DType
    strides: tuple[int, ...]
    offset: int = 0
    constant: bool | int | float | None = None
    draw: Draw | None = None

    @classmethod
    def of(cls, value: Value) -> View:
        """A value that has a buffer of its own."""
        return cls(value, value.spec.shape, value.spec.dtype, row_major(value.spec.shape))

    @property
    def is_dense(self) -> bool:
        """Whether the elements are those of the whole buffer, in order."""
        return (
            self.base is not None
            and self.draw is None
            and self.offset == 0
            and math.prod(self.shape) == self.base.spec.size
            and self.is_row_major
        )

    @property
    def is_drawn_in_order(self) -> bool:
        """Whether reading a random tensor draws no element twice and neighbours one by one.

        Numbers are drawn several at a time: in any other order they are better drawn once and
        stored.
        """
        steps = [s for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        return not steps or (all(steps) and steps[-1] == 1)

    @property
    def is_row_major(self) -> bool:
        """Whether the elements lie without gaps, in order; axes of extent 1 do not matter."""
        expected = row_major(self.shape)
        return math.prod(self.shape) == 0 or all(
            extent == 1 or stride == wanted
            for extent, stride, wanted in zip(self.shape, self.strides, expected, strict=True)
        )


def broadcast(view: View, shape: tuple[int, ...]) -> View:
    """The view repeated to ``shape`` by NumPy's rules."""
    extra = len(shape) - len(view.shape)
    strides = (0,) * extra + tuple(
        0 if own == 1 and extent != 1 else stride
        for own, stride, extent in zip(view.shape, view.strides, shape[extra:], strict=True)
    )
    return replace(view, shape=shape, strides=strides)


def _reshape(view: View, *, shape: tuple[int, ...]) -> View | None:
    """None where the new shape cuts across strides, so that data must move."""
    if math.prod(shape) == 0 or view.constant is not None:
        return replace(view, shape=shape, strides=(0,) * len(shape))
    old = [(n, s) for n, s in zip(view.shape, view.strides, strict=True) if n != 1]
    strides: list[int] = []
    position = 0
    for extent in shape:
        if extent == 1:
            strides.append(0)
            continue
        if position == len(old):
            return None
        size, stride = old[position]
        while size % extent:  # join old axes until the new one fits
            position += 1
            if position == len(old) or stride != old[position][0] * old[position][1]:
                return None
            size, stride = size * old[position][0], old[position][1]
        rest = size // extent
        strides.append(stride * rest)
        old[position] = (rest, stride)
        if rest == 1:
            position += 1
    return replace(view, shape=shape, strides=tuple(strides))


def _transpose(view: View, *, permutation: tuple[int, ...]) -> View:
    return replace(
        view,
        shape=tuple(view.shape[axis] for axis in permutation),
        strides=tuple(view.strides[axis] for axis in permutation),
    )


def _slice(
    view: View, *, start: tuple[int, ...], stop: tuple[int, ...], step: tuple[int, ...]
) -> View:
    shape = tuple(-(-(b - a) // s) for a, b, s in zip(start, stop, step, strict=True))
    offset = view.offset + sum(a * s for a, s in zip(start, view.strides, strict=True))
    strides = tuple(s * t for s, t in zip(view.strides, step, strict=True))
    return replace(view, shape=shape, strides=strides, offset=offset)


def _reverse(view: View, *, axes: tuple[int, ...]) -> View:
    if math.prod(view.shape) == 0:
        return view
    strides, offset = list(view.strides), view.offset
    for axis in axes:
        offset += (view.shape[axis] - 1) * strides[axis]
        strides[axis] = -strides[axis]
    return replace(view, strides=tuple(strides), offset=offset)


VIEW_PRIMITIVES: dict[str, Callable[..., View | None]] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "reverse": _reverse,
    "broadcast_to": lambda view, *, shape: broadcast(view, shape),
    "alias": lambda view: view,
    "stop_gradient": lambda view: view,
}


def _drawn(node: Node, key: View) -> View | None:
    """None where the key has no buffer."""
    if key.base is None:
        return None
    spec = node.outputs[0].spec
    words = key.offset, key.offset + key.strides[0]
    draw = Draw(words, node.parameters["offset"], node.parameters.get("rate"))
    return View(key.base, spec.shape, spec.dtype, row_major(spec.shape), draw=draw)


def view_of_node(node: Node, operand: View | None) -> View | None:
    """The view that a computed or view primitive's output is; None if data must move.

    ``operand`` is the view of the node's operand: of a random tensor the key.
    """
    spec = node.outputs[0].spec
    parameters: dict[str, Any] = node.parameters
    if node.primitive.name == "full":
        return View(None, spec.shape, spec.dtype, (0,) * spec.ndim, constant=parameters["value"])
    if node.primitive.name == "iota":
        strides = tuple(int(axis == parameters["axis"]) for axis in range(spec.ndim))
        return View(None, spec.shape, spec.dtype, strides)
    assert operand is not None
    if node.primitive.name in COMPUTED:
        return _drawn(node, operand)
    return VIEW_PRIMITIVES[node.primitive.name](operand, **parameters)
