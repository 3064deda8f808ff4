"""What is computed when: barriers for XLA, and updates in pieces."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from jax import lax

from accelkit.primitives.optimizer import sgd_update

_PIECE_BYTES = 16 << 20  # of a gradient, at a time


def _barrier(*operands: Any) -> tuple[Any, ...]:
    return tuple(lax.optimization_barrier(operands))


def _sgd_update_matmul(
    p: Any,
    a: Any,
    b: Any,
    v: Any,
    learning_rate: Any,
    *,
    transpose_a: bool,
    transpose_b: bool,
    precision: Any = lax.Precision.HIGHEST,
    **options: Any,
) -> tuple[Any, Any]:
    """A loop over blocks of rows: XLA updates the arrays that it carries in place.

    The loop carries the momentum alone where it can. With the parameter beside it, both results
    read both operands, and XLA copies the whole of one of them at every turn.
    """
    assert sgd_update.definition is not None
    count = p.shape[-2]
    rows = _block_rows(count, p.nbytes)
    gradient = functools.partial(
        _product_rows, a, b, rows, (transpose_a, transpose_b), precision=precision
    )
    update = functools.partial(sgd_update.definition, learning_rate=learning_rate, **options)

    def block(array: Any, start: Any) -> Any:
        return lax.dynamic_slice_in_dim(array, start, rows, axis=p.ndim - 2)

    def replaced(array: Any, part: Any, start: Any) -> Any:
        return lax.dynamic_update_slice_in_dim(array, part, start, axis=p.ndim - 2)

    def both(index: Any, carried: tuple[Any, Any]) -> tuple[Any, Any]:
        start = index * rows
        old = [block(x, start) for x in carried]
        new = update(old[0], gradient(start), old[1])
        x, y = (replaced(*pair, start) for pair in zip(carried, new, strict=True))
        return x, y

    def momentum(index: Any, v: Any) -> Any:
        start = index * rows
        _, new = update(block(p, start), gradient(start), block(v, start))
        return replaced(v, new, start)

    if rows == count:
        return both(0, (p, v))
    if options["nesterov"]:  # the parameter needs the gradient itself
        found: tuple[Any, Any] = lax.fori_loop(0, count // rows, both, (p, v))
        return found
    v = lax.fori_loop(0, count // rows, momentum, v)
    return p - v * learning_rate, v


def _product_rows(
    a: Any, b: Any, rows: int, transposes: tuple[bool, bool], start: Any, *, precision: Any
) -> Any:
    """So many rows of a matrix product, from one on."""
    rows_axis, inner_a = (a.ndim - 1, a.ndim - 2) if transposes[0] else (a.ndim - 2, a.ndim - 1)
    inner_b = b.ndim - 1 if transposes[1] else b.ndim - 2
    batch = tuple(range(a.ndim - 2))
    part = lax.dynamic_slice_in_dim(a, start, rows, axis=rows_axis)
    axes = (((inner_a,), (inner_b,)), (batch, batch))
    return lax.dot_general(part, b, axes, precision=precision)


def _block_rows(count: int, memory_bytes: int) -> int:
    """The most rows, a divisor of their number, whose gradient is at most a piece."""
    pieces = -(-memory_bytes // _PIECE_BYTES)
    divisors = (rows for rows in range(max(1, count // max(1, pieces)), 0, -1) if count % rows == 0)
    return next(divisors, count)


SCHEDULING: Final[dict[str, Callable[..., Any]]] = {
    "barrier": _barrier,
    "sgd_update_matmul": _sgd_update_matmul,
}
