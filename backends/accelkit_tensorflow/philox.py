"""Philox4x32-10 by TensorFlow's own stateless generator.

Its key is one 64-bit word, its counter two: with the key repeated as the counter's upper word it
draws exactly accelkit's stream. TensorFlow fixes this algorithm by number, so that it is the same
on every device; it is compared with known answers all the same, once per device.

XLA computes that generator anew for each of a block's four words, and writes all of them. In a
program that it compiles, masks are made of the rounds themselves, see :func:`_packed_keep_mask`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from accelkit import dtypes
from accelkit.dtypes import DType
from accelkit.errors import BackendError
from accelkit.random import keep_threshold, random_bits
from accelkit_tensorflow.framework import tf
from accelkit_tensorflow.shaping import reshape, slice_

__all__ = ["RANDOM", "XLA_RANDOM", "check_generator"]

ops = tf.raw_ops
Shape = tuple[int, ...]

_PHILOX: Final = 1
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_ROUNDS: Final = 10
_CHECKS: Final = (((0, 0), 0), ((0x9E3779B9, 0x243F6A88), (4 << 32) + 20))
_CHECKED_WORDS: Final = 12


def bits(key: Any, start: int, count: int) -> Any:
    """Words ``start`` to ``start + count`` of the stream of ``key``, uint32 (count,)."""
    first = start // 4
    skipped = start - 4 * first
    words = ops.Cast(x=key, DstT=tf.uint64)
    low = slice_(words, start=(0,), stop=(1,), step=(1,))
    high = slice_(words, start=(1,), stop=(2,), step=(1,))
    joined = ops.BitwiseOr(x=low, y=ops.LeftShift(x=high, y=tf.constant([32], tf.uint64)))
    block = tf.constant([first], tf.uint64)
    found = ops.StatelessRandomUniformFullIntV2(
        shape=tf.constant([skipped + count], tf.int32),
        key=joined,
        counter=ops.ConcatV2(values=[block, joined], axis=tf.constant(0, tf.int32)),
        alg=tf.constant(_PHILOX, tf.int32),
        dtype=tf.uint32,
    )
    if not skipped:
        return found
    return slice_(found, start=(skipped,), stop=(skipped + count,), step=(1,))


@functools.cache
def check_generator(device_name: str) -> None:
    """Compare the device's generator with known answers, eagerly.

    Raises:
        BackendError: if it differs: masks would not be those of other devices.
    """
    for key, start in _CHECKS:
        with tf.device(device_name):
            found = bits(tf.constant(key, tf.uint32), start, _CHECKED_WORDS).numpy()
        if not np.array_equal(found, random_bits(key, start, _CHECKED_WORDS)):
            raise BackendError(
                f"TensorFlow's Philox generator on {device_name} does not give the stream that "
                f"accelkit defines (key {key}, word {start}). Please report this with the "
                f"version of TensorFlow ({tf.__version__}); meanwhile use another device."
            )


def _keep_mask(key: Any, *, shape: Shape, rate: float, offset: int) -> Any:
    words = bits(key, offset, math.prod(shape))
    threshold = tf.constant(keep_threshold(rate), tf.uint32)
    return reshape(ops.GreaterEqual(x=words, y=threshold), shape)


def _blocks(key: Any, first: int, count: int) -> list[Any]:
    """The four words of each of ``count`` blocks from ``first`` on, each uint32 (count,)."""
    multipliers = [tf.constant(m, tf.uint64) for m in _MULTIPLIERS]
    increments = [tf.constant(w, tf.uint32) for w in _WEYL]
    half = tf.constant(32, tf.uint64)

    def wide(word: Any) -> Any:
        return ops.Cast(x=word, DstT=tf.uint64)

    def halves(product: Any) -> tuple[Any, Any]:
        high = ops.RightShift(x=product, y=half)
        return ops.Cast(x=product, DstT=tf.uint32), ops.Cast(x=high, DstT=tf.uint32)

    def mixed(a: Any, b: Any, c: Any) -> Any:
        return ops.BitwiseXor(x=ops.BitwiseXor(x=a, y=b), y=c)

    index = ops.Cast(x=tf.range(count, dtype=tf.int64), DstT=tf.uint64)
    c0, c1 = halves(ops.AddV2(x=index, y=tf.constant(first, tf.uint64)))
    k0, k1 = (slice_(key, start=(i,), stop=(i + 1,), step=(1,)) for i in range(2))
    c2, c3 = (ops.BroadcastTo(input=k, shape=tf.constant([count], tf.int32)) for k in (k0, k1))
    for _ in range(_ROUNDS):
        low0, high0 = halves(ops.Mul(x=wide(c0), y=multipliers[0]))
        low1, high1 = halves(ops.Mul(x=wide(c2), y=multipliers[1]))
        c0, c1, c2, c3 = mixed(high1, c1, k0), low1, mixed(high0, c3, k1), low0
        k0, k1 = (ops.AddV2(x=k, y=w) for k, w in zip((k0, k1), increments, strict=True))
    return [c0, c1, c2, c3]


def _packed_keep_mask(key: Any, *, shape: Shape, rate: float, offset: int) -> Any:
    """The same mask by way of one byte for each block, a bit per word.

    What reads the mask takes its bits out of that byte, so that a mask that waits for the backward
    pass takes a quarter of a byte per element.
    """
    first, last = offset // 4, -(-(offset + math.prod(shape)) // 4)
    packed = _packed_bits(first, last - first, keep_threshold(rate))(key)
    chosen = ops.BitwiseAnd(
        x=reshape(packed, (last - first, 1)), y=tf.constant([[1, 2, 4, 8]], tf.uint8)
    )
    flat = reshape(ops.NotEqual(x=chosen, y=tf.constant(0, tf.uint8)), (-1,))
    start = offset - 4 * first
    return reshape(slice_(flat, start=(start,), stop=(start + math.prod(shape),), step=(1,)), shape)


@functools.lru_cache(maxsize=256)
def _packed_bits(first: int, count: int, threshold: int) -> Callable[[Any], Any]:
    """A function of a key: for each block a byte with a bit for each word not below ``threshold``.

    One for all layers of a size: TensorFlow keeps tens of kilobytes for each operation of a graph.
    A remainder counts as expensive with XLA: it keeps the rounds from being computed anew for each
    bit and for each reader.
    """

    def draw(key: Any) -> Any:
        packed = None
        for i, words in enumerate(_blocks(key, first, count)):
            above = ops.GreaterEqual(x=words, y=tf.constant(threshold, tf.uint32))
            bit = ops.LeftShift(x=ops.Cast(x=above, DstT=tf.uint8), y=tf.constant(i, tf.uint8))
            packed = bit if packed is None else ops.BitwiseOr(x=packed, y=bit)
        return ops.FloorMod(x=packed, y=tf.constant(17, tf.uint8))  # of at most 15: unchanged

    return tf.function(
        draw,
        input_signature=[tf.TensorSpec([2], tf.uint32)],
        autograph=False,
    )


def _shifted(words: Any, by: int, dtype: Any) -> Any:
    return ops.Cast(x=ops.RightShift(x=words, y=tf.constant(by, tf.uint32)), DstT=dtype)


def _uniform(key: Any, *, shape: Shape, dtype: DType, offset: int) -> Any:
    count = math.prod(shape)
    if dtype is dtypes.float32:
        words = _shifted(bits(key, offset, count), 8, tf.float32)
        return reshape(ops.Mul(x=words, y=tf.constant(2.0**-24, tf.float32)), shape)
    pairs = reshape(bits(key, 2 * offset, 2 * count), (count, 2))
    high = _shifted(slice_(pairs, start=(0, 0), stop=(count, 1), step=(1, 1)), 5, tf.float64)
    low = _shifted(slice_(pairs, start=(0, 1), stop=(count, 2), step=(1, 1)), 6, tf.float64)
    total = ops.AddV2(x=ops.Mul(x=high, y=tf.constant(2.0**26, tf.float64)), y=low)
    return reshape(ops.Mul(x=total, y=tf.constant(2.0**-53, tf.float64)), shape)


RANDOM: dict[str, Callable[..., Any]] = {
    "random_keep_mask": _keep_mask,
    "random_uniform": _uniform,
}
# What XLA computes faster.
XLA_RANDOM: Final[dict[str, Callable[..., Any]]] = {"random_keep_mask": _packed_keep_mask}
