"""Matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelkit.errors import DTypeError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.primitives.primitive import primitive


def _matrix(shape: tuple[int, ...], transposed: bool) -> tuple[int, int]:
    rows, columns = shape[-2:]
    return (columns, rows) if transposed else (rows, columns)


def _matmul_infer(
    a: TensorSpec, b: TensorSpec, *, transpose_a: bool, transpose_b: bool
) -> TensorSpec:
    if a.dtype is not b.dtype or a.dtype.kind == "b":
        raise DTypeError(f"matmul needs numbers of one dtype, got {a.dtype} and {b.dtype}.")
    batch = a.shape[:-2]
    if len(a.shape) < 2 or len(b.shape) != len(a.shape) or b.shape[:-2] != batch:
        raise ShapeError(
            f"matmul needs matrices with equal batch axes, got shapes {a.shape} and {b.shape}."
        )
    m, k = _matrix(a.shape, transpose_a)
    k_b, n = _matrix(b.shape, transpose_b)
    if k != k_b:
        raise ShapeError(
            f"matmul contracts {k} columns with {k_b} rows: shapes {a.shape} and {b.shape}"
            f"{', a transposed' if transpose_a else ''}{', b transposed' if transpose_b else ''}."
        )
    return TensorSpec((*batch, m, n), a.dtype)


def _matmul_flops(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], parameters: Mapping[str, Any]
) -> int:
    return 2 * outputs[0].size * _matrix(inputs[0].shape, parameters["transpose_a"])[1]


def _matmul_vjp(
    g: Any, y: Any, a: Any, b: Any, *, transpose_a: bool, transpose_b: bool
) -> Sequence[Any]:
    if transpose_a:
        da = matmul(b, g, transpose_a=transpose_b, transpose_b=True)
    else:
        da = matmul(g, b, transpose_a=False, transpose_b=not transpose_b)
    if transpose_b:
        db = matmul(g, a, transpose_a=True, transpose_b=transpose_a)
    else:
        db = matmul(a, g, transpose_a=not transpose_a, transpose_b=False)
    return da, db


matmul = primitive(
    "matmul",
    _matmul_infer,
    vjp=_matmul_vjp,
    flops=_matmul_flops,
    doc="""op(a) @ op(b) over equal leading batch axes; op swaps the last two axes if asked.

    a (..., m, k) and b (..., k, n), after op, give (..., m, n).""",
)
