"""Keys for random operations: from a seed, a step and a place in the program."""

from __future__ import annotations

from typing import Any

import numpy as np

from accelkit.arguments import require_instance
from accelkit.dtypes import DType
from accelkit.random.philox import subkey

__all__ = ["Stream", "key", "normal", "uniform"]


class Stream:
    """A source of keys: each place in the program gets one of its own in every step.

    A place is a dotted path and the ordinal of the call within it, so inserting a layer does not
    change the numbers of the others.

    Args:
        seed: 0 <= seed < 2^64.
        step: 0 <= step < 2^64; another step gives other keys.

    Example:
        >>> import accelkit as ak
        >>> stream = ak.random.Stream(0)
        >>> ak.random.uniform(stream.key("noise"), (2,)).shape
        (2,)
    """

    def __init__(self, seed: int, *, step: int = 0) -> None:
        self.seed = seed
        self.step = step
        self._ordinals: dict[str, int] = {}

    def _site(self, path: str) -> tuple[str, int]:
        ordinal = self._ordinals.get(path, 0)
        self._ordinals[path] = ordinal + 1
        return path, ordinal

    def key(self, path: str = "") -> Any:
        """The next key of this place: a uint32 tensor of shape (2,) on the default device."""
        from accelkit.ops.coercion import asarray

        words = subkey(self.seed, self.step, *self._site(path))
        return asarray(np.array(words, np.uint32))


def key(seed: int, *, step: int = 0, path: str = "", device: Any = None) -> Any:
    """A single key: a uint32 tensor of shape (2,).

    Args:
        seed: 0 <= seed < 2^64.
        step: 0 <= step < 2^64.
        path: Another path gives an independent key.
        device: Where it goes.
    """
    from accelkit.ops.coercion import asarray

    return asarray(np.array(subkey(seed, step, path, 0), np.uint32), device=device)


def _require_key(given: Any) -> None:
    from accelkit.tensor import Tensor

    require_instance("key", given, Tensor, "Make one with accelkit.random.key(seed).")


def uniform(
    key: Any, shape: Any, *, dtype: DType | str = "float32", low: float = 0.0, high: float = 1.0
) -> Any:
    """Uniform numbers in [low, high), the same bits on every device for low 0 and high 1."""
    from accelkit.dtypes import dtype as as_dtype
    from accelkit.ops.coercion import as_shape
    from accelkit.primitives.random import random_uniform

    _require_key(key)
    drawn = random_uniform(key, shape=as_shape(shape), dtype=as_dtype(dtype), offset=0)
    return drawn if (low, high) == (0.0, 1.0) else drawn * (high - low) + low


def normal(key: Any, shape: Any, *, dtype: DType | str = "float32") -> Any:
    """Standard normal numbers drawn on the device: backends agree within tolerance only."""
    from accelkit.dtypes import dtype as as_dtype
    from accelkit.ops.coercion import as_shape
    from accelkit.primitives.random import random_normal

    _require_key(key)
    return random_normal(key, shape=as_shape(shape), dtype=as_dtype(dtype), offset=0)
