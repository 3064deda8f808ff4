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
    return jnp.stack(_words_of_blocks(key, first, count), axis=1).reshape(-1)


def _words_of_blocks(key: Any, first: int, count: int) -> tuple[Any, Any, Any, Any]:
    """The four words of each of ``count`` blocks from ``first`` on, each uint32 (count,)."""

    def halves(product: Any) -> tuple[Any, Any]:
        return product.astype(jnp.uint32), (product >> jnp.uint64(32)).astype(jnp.uint32)

    c0, c1 = halves(lax.iota(jnp.uint64, count) + jnp.uint64(first))
    k0, k1 = key[0], key[1]
    c2, c3 = jnp.broadcast_to(k0, (count,)), jnp.broadcast_to(k1, (count,))
    for _ in range(_ROUNDS):
        low0, high0 = halves(c0.astype(jnp.uint64) * jnp.uint64(_MULTIPLIERS[0]))
        low1, high1 = halves(c2.astype(jnp.uint64) * jnp.uint64(_MULTIPLIERS[1]))
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + jnp.uint32(_WEYL[0]), k1 + jnp.uint32(_WEYL[1])
    return c0, c1, c2, c3


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


def _keep_mask(key: Any, *, shape: Shape, rate: float, offset: int) -> Any:
    """By way of one byte for each block of the stream, a bit per word.

    XLA computes its own generator anew for each of a block's words, and writes them all. Here what
    reads the mask takes its bits out of a block's byte, so that a mask that waits for the backward
    pass takes a quarter of a byte per element. A remainder counts as expensive with XLA: it keeps
    the rounds from being computed anew for each bit and for each reader.
    """
    first, last = offset // 4, -(-(offset + math.prod(shape)) // 4)
    threshold = jnp.uint32(keep_threshold(rate))
    packed = jnp.uint8(0)
    for i, words in enumerate(_words_of_blocks(key, first, last - first)):
        packed |= (words >= threshold).astype(jnp.uint8) << jnp.uint8(i)
    packed = lax.rem(packed, jnp.full_like(packed, 17))  # of at most 15: unchanged
    bits = (packed[:, None] & jnp.asarray([1, 2, 4, 8], jnp.uint8)) != 0
    start = offset - 4 * first
    return lax.slice(bits.reshape(-1), (start,), (start + math.prod(shape),)).reshape(shape)


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
