"""What is computed when: barriers for XLA, and updates in pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import jax
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
    """A loop over blocks of rows: XLA updates its carried arrays in place."""
    assert sgd_update.definition is not None
    rows_axis = a.ndim - 1 if transpose_a else a.ndim - 2
    axes = (
        (a.ndim - 2 if transpose_a else a.ndim - 1,),
        (b.ndim - 1 if transpose_b else b.ndim - 2,),
    )
    batch = tuple(range(a.ndim - 2))
    count = p.shape[-2]
    rows = _block_rows(count, p.nbytes)

    def piece(index: Any, carried: tuple[Any, Any]) -> tuple[Any, Any]:
        start = index * rows
        part = lax.dynamic_slice_in_dim(a, start, rows, axis=rows_axis)
        g = lax.dot_general(part, b, (axes, (batch, batch)), precision=precision)
        old = [lax.dynamic_slice_in_dim(x, start, rows, axis=p.ndim - 2) for x in carried]
        new = sgd_update.definition(old[0], g, old[1], learning_rate, **options)
        x, y = (
            lax.dynamic_update_slice_in_dim(whole, part, start, axis=p.ndim - 2)
            for whole, part in zip(carried, new, strict=True)
        )
        return x, y

    if rows == count:
        return piece(0, (p, v))
    found: tuple[Any, Any] = jax.lax.fori_loop(0, count // rows, piece, (p, v))
    return found


def _block_rows(count: int, memory_bytes: int) -> int:
    """The most rows, a divisor of their number, whose gradient is at most a piece."""
    pieces = -(-memory_bytes // _PIECE_BYTES)
    divisors = (rows for rows in range(max(1, count // max(1, pieces)), 0, -1) if count % rows == 0)
    return next(divisors, count)


SCHEDULING: Final[dict[str, Callable[..., Any]]] = {
    "barrier": _barrier,
    "sgd_update_matmul": _sgd_update_matmul,
}
