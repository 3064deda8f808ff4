"""Matrix products and contractions."""

from __future__ import annotations

import math
from typing import Any

from accelkit.errors import OptionError, ShapeError
from accelkit.ops.coercion import as_axis, pair, tensor
from accelkit.ops.manipulation import broadcast_to, permute_dims, reshape
from accelkit.primitives import linear_algebra
from accelkit.primitives.elementwise import broadcast_shapes
from accelkit.primitives.reductions import reduce_sum
from accelkit.tensor import Tensor


def matmul(x1: Tensor, x2: Tensor, /) -> Tensor:
    """x1 @ x2 by NumPy's rules: vectors are promoted to matrices, leading axes broadcast.

    A stack times one matrix runs as a single product.

    Raises:
        ShapeError: if an operand has no axis, or the contracted extents differ.
    """
    a, b = pair(tensor(x1), tensor(x2))
    left, right = a.shape, b.shape
    if not left or not right:
        raise ShapeError(f"matmul needs at least one axis each, got {left} and {right}.")
    rows = right[-2 if len(right) > 1 else 0]
    if left[-1] != rows:
        raise ShapeError(
            f"matmul contracts {left[-1]} columns with {rows} rows: shapes {left} and {right}."
        )
    if len(right) == 1:
        product = matmul(a, reshape(b, (rows, 1)))
        return reshape(product, product.shape[:-1])
    if len(left) == 1:
        product = matmul(reshape(a, (1, rows)), b)
        return reshape(product, (*product.shape[:-2], product.shape[-1]))
    if left[:-2] == right[:-2]:
        return _product(a, b)
    if len(right) == 2:
        stacked = reshape(a, (math.prod(left[:-1]), rows))
        return reshape(_product(stacked, b), (*left[:-1], right[1]))
    batch = broadcast_shapes(left[:-2], right[:-2])
    return _product(broadcast_to(a, batch + left[-2:]), broadcast_to(b, batch + right[-2:]))


def _product(a: Tensor, b: Tensor) -> Tensor:
    return linear_algebra.matmul(a, b, transpose_a=False, transpose_b=False)


def vecdot(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    """Dot products of vectors along an axis.

    Raises:
        ShapeError: for vectors of different lengths.
    """
    a, b = pair(tensor(x1), tensor(x2))
    left, right = as_axis(axis, a.ndim), as_axis(axis, b.ndim)
    if a.shape[left] != b.shape[right]:
        raise ShapeError(
            f"vecdot needs vectors of one length along axis {axis}, got shapes {a.shape} and "
            f"{b.shape}."
        )
    product = a * b
    return reduce_sum(product, axes=(as_axis(axis, product.ndim),))


def tensordot(x1: Tensor, x2: Tensor, /, *, axes: Any = 2) -> Tensor:
    """Contraction over the last ``axes`` axes of x1 and the first of x2, or over listed axes.

    Raises:
        ShapeError: for axes that are not there, named twice, or of different extents.
    """
    a, b = pair(tensor(x1), tensor(x2))
    if isinstance(axes, int):
        if not 0 <= axes <= min(a.ndim, b.ndim):
            raise ShapeError(
                f"tensordot cannot contract {axes} axes of shapes {a.shape} and {b.shape}."
            )
        left, right = list(range(a.ndim - axes, a.ndim)), list(range(axes))
    else:
        left = [as_axis(i, a.ndim) for i in axes[0]]
        right = [as_axis(i, b.ndim) for i in axes[1]]
    if len({*left}) != len(left) or len({*right}) != len(right):
        raise ShapeError(f"tensordot axes {axes} name one axis twice.")
    if [a.shape[i] for i in left] != [b.shape[i] for i in right]:
        raise ShapeError(
            f"tensordot contracts axes {left} of {a.shape} with axes {right} of {b.shape}: their "
            f"extents differ."
        )
    free_a = [i for i in range(a.ndim) if i not in left]
    free_b = [i for i in range(b.ndim) if i not in right]
    inner = math.prod(a.shape[i] for i in left)
    rows = reshape(
        permute_dims(a, [*free_a, *left]), (math.prod(a.shape[i] for i in free_a), inner)
    )
    columns = reshape(
        permute_dims(b, [*right, *free_b]), (inner, math.prod(b.shape[i] for i in free_b))
    )
    shape = (*(a.shape[i] for i in free_a), *(b.shape[i] for i in free_b))
    return reshape(_product(rows, columns), shape)


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Einstein summation with an explicit result: ``"bij,bjk->bik"``.

    More than two operands are contracted from left to right.

    Raises:
        OptionError: if the equation does not describe the operands.
        ShapeError: if one index has two extents.
    """
    if not isinstance(equation, str):
        raise OptionError(
            f"einsum takes its equation first, for example einsum('ij,jk->ik', a, b), got "
            f"{type(equation).__name__}."
        )
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or len(terms) != len(operands):
        raise OptionError(
            f"einsum needs '->' and one term per operand, got {equation!r} for {len(operands)} "
            f"operands."
        )
    if any(len(set(t)) != len(t) for t in [*terms, output]):
        raise OptionError(f"einsum allows no index twice in one term, got {equation!r}.")
    if not set(output) <= set(inputs) or not all(c.isalpha() for c in "".join(terms)):
        raise OptionError(
            f"einsum indices are letters, and those of the result occur in an operand; got "
            f"{equation!r}."
        )
    tensors = [tensor(x) for x in operands]
    extents: dict[str, int] = {}
    for term, x in zip(terms, tensors, strict=True):
        if len(term) != x.ndim:
            raise OptionError(f"einsum term {term!r} does not fit shape {x.shape}.")
        for letter, extent in zip(term, x.shape, strict=True):
            if extents.setdefault(letter, extent) != extent:
                raise ShapeError(
                    f"einsum index {letter!r} has extents {extents[letter]}, {extent}."
                )
    result, term = tensors[0], terms[0]
    for position in range(1, len(tensors)):
        needed = set(output).union(*terms[position + 1 :])
        pair_terms = term, terms[position]
        term = "".join(dict.fromkeys(c for c in "".join(pair_terms) if c in needed))
        result = _contract((result, tensors[position]), pair_terms, term, extents)
    result, term = _summed(result, term, set(output))
    return permute_dims(result, [term.index(c) for c in output])


def _summed(x: Tensor, term: str, keep: set[str]) -> tuple[Tensor, str]:
    axes = tuple(i for i, c in enumerate(term) if c not in keep)
    reduced = reduce_sum(x, axes=axes) if axes else x
    return reduced, "".join(c for c in term if c in keep)


def _contract(
    tensors: tuple[Tensor, Tensor], terms: tuple[str, str], output: str, extents: dict[str, int]
) -> Tensor:
    (a, b), (ta, tb) = pair(*tensors), terms
    a, ta = _summed(a, ta, set(tb) | set(output))
    b, tb = _summed(b, tb, set(ta) | set(output))
    batch = [c for c in output if c in ta and c in tb]
    inner = [c for c in ta if c in tb and c not in output]
    rows = [c for c in ta if c not in tb]
    columns = [c for c in tb if c not in ta]

    def size(letters: list[str]) -> int:
        return math.prod(extents[c] for c in letters)

    shape = tuple(extents[c] for c in batch)
    left = permute_dims(a, [ta.index(c) for c in [*batch, *rows, *inner]])
    right = permute_dims(b, [tb.index(c) for c in [*batch, *inner, *columns]])
    product = _product(
        reshape(left, (*shape, size(rows), size(inner))),
        reshape(right, (*shape, size(inner), size(columns))),
    )
    order = [*batch, *rows, *columns]
    full = reshape(product, tuple(extents[c] for c in order))
    return permute_dims(full, [order.index(c) for c in output])
