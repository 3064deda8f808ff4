"""Philox4x32-10 on the device, by XLA's own generator where it gives exactly our form.

XLA leaves the layout of the generator's state to the platform. So the native generator is
compared with known answers once per device, and emulated in integer arithmetic where it differs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import SingleDeviceSharding

from accelkit import dtypes
from accelkit.dtypes import DType
from accelkit.random import keep_threshold, random_bits

__all__ = ["RANDOM", "emulated_blocks", "generator", "native_blocks"]

Blocks = Callable[[Any, int, int], Any]
Shape = tuple[int, ...]

_WORD: Final = 0xFFFFFFFF
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_ROUNDS: Final = 10

# Keys and first blocks of the check: zeros, and one block offset that needs both counter words.
_CHECKS: Final = (((0, 0), 0), ((0x9E3779B9, 0x243F6A88), (1 << 32) + 5))
_CHECKED_BLOCKS: Final = 3


def native_blocks(key: Any, first: int, count: int) -> Any:
    """Words of ``count`` blocks from ``first`` on, uint32 (4 * count,), by XLA's generator."""
    counter = jnp.asarray([first & _WORD, first >> 32], jnp.uint32)
    state = lax.concatenate([key, counter], 0)
    _, words = lax.rng_bit_generator(
        state, (4 * count,), dtype=jnp.uint32, algorithm=lax.RandomAlgorithm.RNG_PHILOX
    )
    return words


def emulated_blocks(key: Any, first: int, count: int) -> Any:
    """The same words in plain integer arithmetic."""
    index = lax.iota(jnp.uint64, count) + jnp.uint64(first)
    shift, word = jnp.uint64(32), jnp.uint64(_WORD)
    k0, k1 = (key[i].astype(jnp.uint64) for i in range(2))
    c0, c1 = index & word, index >> shift
    c2, c3 = jnp.broadcast_to(k0, (count,)), jnp.broadcast_to(k1, (count,))
    for _ in range(_ROUNDS):
        product0, product1 = c0 * jnp.uint64(_MULTIPLIERS[0]), c2 * jnp.uint64(_MULTIPLIERS[1])
        c0, c2 = (product1 >> shift) ^ c1 ^ k0, (product0 >> shift) ^ c3 ^ k1
        c1, c3 = product1 & word, product0 & word
        k0, k1 = (k0 + jnp.uint64(_WEYL[0])) & word, (k1 + jnp.uint64(_WEYL[1])) & word
    return jnp.stack([c0, c1, c2, c3], axis=1).astype(jnp.uint32).reshape(-1)


@functools.cache
def generator(device: jax.Device) -> Blocks:
    """The fastest exact generator of a device. Call it outside of any trace, in wide types."""

    def check(*keys: Any) -> Any:
        pairs = zip(keys, _CHECKS, strict=True)
        return [native_blocks(key, first, _CHECKED_BLOCKS) for key, (_, first) in pairs]

    keys = [jax.device_put(np.array(key, np.uint32), device) for key, _ in _CHECKS]
    try:
        found = jax.jit(check, out_shardings=SingleDeviceSharding(device))(*keys)
    except Exception:  # a platform without this generator raises what it likes
        return emulated_blocks
    for words, (key, first) in zip(found, _CHECKS, strict=True):
        if not np.array_equal(words, random_bits(key, 4 * first, 4 * _CHECKED_BLOCKS)):
            return emulated_blocks
    return native_blocks


def _bits(key: Any, start: int, count: int, blocks: Blocks) -> Any:
    """Words ``start`` to ``start + count`` of the stream of ``key``."""
    first, last = start // 4, -(-(start + count) // 4)
    words = blocks(key, first, last - first)
    return lax.slice(words, (start - 4 * first,), (start - 4 * first + count,))


def _keep_mask(
    key: Any, *, shape: Shape, rate: float, offset: int, blocks: Blocks = emulated_blocks
) -> Any:
    bits = _bits(key, offset, math.prod(shape), blocks)
    return lax.ge(bits, lax.full_like(bits, keep_threshold(rate))).reshape(shape)


def _uniform(
    key: Any, *, shape: Shape, dtype: DType, offset: int, blocks: Blocks = emulated_blocks
) -> Any:
    count = math.prod(shape)
    if dtype is dtypes.float32:
        bits = _bits(key, offset, count, blocks)
        return ((bits >> jnp.uint32(8)).astype(jnp.float32) * jnp.float32(2.0**-24)).reshape(shape)
    pairs = _bits(key, 2 * offset, 2 * count, blocks).reshape(count, 2)
    high = (pairs[:, 0] >> jnp.uint32(5)).astype(jnp.float64)
    low = (pairs[:, 1] >> jnp.uint32(6)).astype(jnp.float64)
    uniform = (high * jnp.float64(2.0**26) + low) * jnp.float64(2.0**-53)
    return uniform.reshape(shape)


RANDOM: dict[str, Callable[..., Any]] = {
    "random_keep_mask": _keep_mask,
    "random_uniform": _uniform,
}
