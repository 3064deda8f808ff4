"""Keys for random operations: from a seed, a step and a place in the program."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from accelkit.arguments import require_finite, require_instance, require_integer
from accelkit.dtypes import DType
from accelkit.errors import OptionError
from accelkit.random.philox import subkey
from accelkit.tensor import Tensor

__all__ = ["Stream", "bernoulli", "categorical", "integers", "key", "normal", "uniform"]


class Stream:
    """A source of keys: each place in the program gets one of its own in every step.

    A place is a dotted path and the ordinal of the call within it, so inserting a layer does not
    change the numbers of the others.

    Inside of a compiled function the seed and the step are part of the program: give it a key as
    an argument instead, ``Stream(key)``, so that one program draws other numbers in every step.

    Args:
        seed: 0 <= seed < 2^64; or a key, as :func:`accelkit.random.key` makes it, to derive those
            of the places from.
        step: 0 <= step < 2^64; another step gives other keys. A key has its step in itself.

    Example:
        >>> import accelkit as ak
        >>> stream = ak.random.Stream(0)
        >>> ak.random.uniform(stream.key("noise"), (2,)).shape
        (2,)
        >>> @ak.jit
        ... def noise(key):
        ...     stream = ak.random.Stream(key)
        ...     return ak.random.uniform(stream.key(), ()) == ak.random.uniform(stream.key(), ())
        >>> [bool(noise(ak.random.key(0, step=i))) for i in range(3)], noise.cache_size
        ([False, False, False], 1)
    """

    def __init__(self, seed: int | Tensor, *, step: int = 0) -> None:
        if isinstance(seed, Tensor) and step:
            raise OptionError(
                "A key has its step in itself: give `step` to accelkit.random.key, or a seed and a "
                "step to the stream."
            )
        self.seed = seed
        self.step = step
        self._ordinals: dict[str, int] = {}

    def _site(self, path: str) -> tuple[str, int]:
        ordinal = self._ordinals.get(path, 0)
        self._ordinals[path] = ordinal + 1
        return path, ordinal

    def key(self, path: str = "") -> Any:
        """The next key of this place: a uint32 tensor of shape (2,).

        It is where the stream's key is; on the default device for a seed.
        """
        from accelkit.ops import bitwise_xor
        from accelkit.ops.coercion import asarray

        if not isinstance(self.seed, Tensor):
            words = subkey(self.seed, self.step, *self._site(path))
            return asarray(np.array(words, np.uint32))
        # Keys that differ in any bit give independent streams; those of places differ in many.
        words = subkey(0, 0, *self._site(path))
        device = None if self.seed.is_traced else self.seed.device
        return bitwise_xor(self.seed, asarray(np.array(words, np.uint32), device=device))


def key(seed: int, *, step: int = 0, path: str = "", device: Any = None) -> Any:
    """A single key: a uint32 tensor of shape (2,).

    Args:
        seed: 0 <= seed < 2^64.
        step: 0 <= step < 2^64.
        path: Another path gives an independent key.
        device: Where it goes.
    """
    from accelkit.ops.coercion import asarray

    require_instance("path", path, str)
    return asarray(np.array(subkey(seed, step, path, 0), np.uint32), device=device)


def _require_key(given: Any) -> None:
    require_instance("key", given, Tensor, "Make one with accelkit.random.key(seed).")


def uniform(
    key: Any,
    shape: Any,
    *,
    dtype: DType | str = "float32",
    low: float | Tensor = 0.0,
    high: float | Tensor = 1.0,
) -> Any:
    """Uniform numbers in [low, high), the same bits on every device for low 0 and high 1.

    The bounds are numbers, or tensors that broadcast to the shape.
    """
    from accelkit.dtypes import dtype as as_dtype
    from accelkit.ops.coercion import as_shape
    from accelkit.primitives.random import random_uniform

    _require_key(key)
    for name, bound in (("low", low), ("high", high)):
        if not isinstance(bound, Tensor):
            require_finite(name, bound)
    drawn = random_uniform(key, shape=as_shape(shape), dtype=as_dtype(dtype), offset=0)
    if not isinstance(low, Tensor) and not isinstance(high, Tensor) and (low, high) == (0.0, 1.0):
        return drawn
    return drawn * (high - low) + low


def normal(key: Any, shape: Any, *, dtype: DType | str = "float32") -> Any:
    """Standard normal numbers drawn on the device: backends agree within tolerance only."""
    from accelkit.dtypes import dtype as as_dtype
    from accelkit.ops.coercion import as_shape
    from accelkit.primitives.random import random_normal

    _require_key(key)
    return random_normal(key, shape=as_shape(shape), dtype=as_dtype(dtype), offset=0)


_INTEGERS = 1 << 24  # as many as float32 uniforms tell apart


def integers(key: Any, shape: Any, *, low: int = 0, high: int, dtype: DType | str = "int32") -> Any:
    """Uniform integers in [low, high), the same ones on every device.

    Args:
        key: As for :func:`uniform`.
        shape: Of the result.
        low: The least.
        high: One above the largest, at most 2^24 above ``low``.
        dtype: An integer dtype that holds them.

    Raises:
        OptionError: for an empty or too wide range.
    """
    from accelkit.ops import astype, floor

    for name, value in (("low", low), ("high", high)):
        require_integer(name, value, least=-math.inf)
    if not 0 < high - low <= _INTEGERS:
        raise OptionError(
            f"`high` must be above `low`, by at most 2^24; got low={low} and high={high}."
        )
    return astype(floor(uniform(key, shape) * float(high - low)), dtype) + int(low)


def bernoulli(key: Any, probability: float | Tensor, shape: Any) -> Any:
    """True with a probability, a number or a tensor that broadcasts to the shape; else False."""
    return uniform(key, shape) < probability


def categorical(key: Any, logits: Tensor, *, axis: int = -1) -> Any:
    """Indices drawn with probability softmax(logits) along an axis, which the result lacks.

    By the largest of logits - log(-log(u)) for uniform u (Gumbel, 1954).
    """
    from accelkit.ops import argmax, log

    u = uniform(key, logits.shape, low=2.0**-26)  # above 0, and below 1 when rounded
    return argmax(logits - log(-log(u)), axis=axis)
