"""TensorFlow itself, imported quietly, and what of it can be used here."""

from __future__ import annotations

import functools
from typing import Any

from accelkit_tensorflow.quiet import quiet_import

with quiet_import():
    import tensorflow as tf

    # The runtime reports the CPU's features when it first runs something.
    tf.constant(0)

__all__ = ["has_xla", "tf"]


@functools.cache
def has_xla() -> bool:
    """Whether this build of TensorFlow can compile with XLA (all but a few platforms' can)."""

    def double(x: Any) -> Any:
        return x + x

    with tf.device("/CPU:0"):
        try:
            tf.function(double, jit_compile=True, autograph=False)(tf.constant(1.0))
        except (tf.errors.OpError, ValueError, NotImplementedError):
            return False
    return True
