"""The table: what this backend runs for each primitive, and XLA's own forms of some.

Composites that are missing here are inlined. In particular TensorFlow's pooling is not used: it
drops NaN, and the gradient that XLA makes of it is slower than the definition's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from accelkit_tensorflow.control import CONTROL
from accelkit_tensorflow.convolution import CONVOLUTION
from accelkit_tensorflow.elementwise import ELEMENTWISE
from accelkit_tensorflow.framework import tf
from accelkit_tensorflow.philox import RANDOM
from accelkit_tensorflow.reductions import REDUCTIONS
from accelkit_tensorflow.shaping import SHAPING, scalar

__all__ = ["RANDOM", "TABLE", "XLA_TABLE"]


def _barrier(*operands: Any) -> tuple[Any, ...]:
    return operands


TABLE: Final[dict[str, Callable[..., Any]]] = {
    **ELEMENTWISE,
    **REDUCTIONS,
    **SHAPING,
    **CONVOLUTION,
    **RANDOM,
    **CONTROL,
    "barrier": _barrier,
}


def _xla_operations() -> Any:
    """TensorFlow's direct access to XLA's operations, None where a version has moved it."""
    try:
        from tensorflow.compiler.tf2xla.ops import gen_xla_ops
    except ImportError:
        return None
    return gen_xla_ops


def _xla_pad(
    x: Any,
    *,
    low: tuple[int, ...],
    high: tuple[int, ...],
    interior: tuple[int, ...],
    value: int | float,
) -> Any:
    return _xla_operations().xla_pad(
        input=x,
        padding_value=scalar(value, x.dtype),
        padding_low=tf.constant(low, tf.int32),
        padding_high=tf.constant(high, tf.int32),
        padding_interior=tf.constant(interior, tf.int32),
    )


def _xla_barrier(*operands: Any) -> tuple[Any, ...]:
    return tuple(_xla_operations().xla_optimization_barrier(input=operands))


# Better forms inside of a compiled program, where XLA has them.
XLA_TABLE: Final[dict[str, Callable[..., Any]]] = (
    {} if _xla_operations() is None else {"barrier": _xla_barrier, "pad": _xla_pad}
)
