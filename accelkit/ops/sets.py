"""Distinct elements. The shapes depend on data: computed on the host, and not in a trace."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from accelkit.ops.coercion import put, tensor
from accelkit.tensor import Tensor


class UniqueAll(NamedTuple):
    """Distinct elements, where each first occurs, which one each element is, and how often."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """Distinct elements, and how often each occurs."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """Distinct elements, and which of them each element is."""

    values: Tensor
    inverse_indices: Tensor


def unique_all(x: Tensor, /) -> UniqueAll:
    """The distinct elements in ascending order (every NaN for itself), and more.

    Raises:
        TraceError: in a trace: the number of distinct elements depends on data.
    """
    x = tensor(x)
    x._require_data("Finding distinct elements")
    values, indices, inverse, counts = np.unique(
        x.numpy(), return_index=True, return_inverse=True, return_counts=True, equal_nan=False
    )
    integers = (a.astype(np.int64) for a in (indices, inverse.reshape(x.shape), counts))
    return UniqueAll(*(put(a, x.device) for a in (values, *integers)))


def unique_counts(x: Tensor, /) -> UniqueCounts:
    """The distinct elements in ascending order, and how often each occurs; not in a trace."""
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Tensor, /) -> UniqueInverse:
    """The distinct elements in ascending order, and which each element is; not in a trace."""
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Tensor, /) -> Tensor:
    """The distinct elements in ascending order; not in a trace."""
    return unique_all(x).values
