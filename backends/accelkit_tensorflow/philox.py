"""Philox4x32-10 by TensorFlow's own stateless generator.

Its key is one 64-bit word, its counter two: with the key repeated as the counter's upper word it
draws exactly accelkit's stream. TensorFlow fixes this algorithm by number, so that it is the same
on every device; it is compared with known answers all the same, once per device.
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

__all__ = ["RANDOM", "check_generator"]

ops = tf.raw_ops
Shape = tuple[int, ...]

_PHILOX: Final = 1
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
