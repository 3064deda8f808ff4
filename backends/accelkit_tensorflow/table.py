"""The table: what this backend runs for each primitive, and other forms of some.

Composites that are missing here are inlined. In particular TensorFlow's pooling is not used: it
drops NaN, and the gradient that XLA makes of it is slower than the definition's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from accelkit import primitives
from accelkit.backend import evaluate
from accelkit.dtypes import dtype
from accelkit.graph import Node, TensorSpec
from accelkit.passes.inline import definition_graph
from accelkit_tensorflow.batch_normalization import KERNEL_BATCH_NORMALIZATION
from accelkit_tensorflow.control import CONTROL
from accelkit_tensorflow.convolution import CONVOLUTION, KERNEL_CONVOLUTION
from accelkit_tensorflow.elementwise import ELEMENTWISE
from accelkit_tensorflow.framework import tf
from accelkit_tensorflow.philox import RANDOM, XLA_RANDOM
from accelkit_tensorflow.pooling import KERNEL_POOLING
from accelkit_tensorflow.reductions import REDUCTIONS
from accelkit_tensorflow.shaping import SHAPING, scalar
from accelkit_tensorflow.winograd import transformed

__all__ = ["KERNEL_COMPOSITES", "KERNEL_TABLE", "RANDOM", "TABLE", "XLA_TABLE", "kernel"]

KERNEL_COMPOSITES: Final[dict[str, Callable[..., Any]]] = {
    **KERNEL_BATCH_NORMALIZATION,
    **KERNEL_POOLING,
}
# Forms for TensorFlow's executor on CPUs, where it runs single nodes between two programs of XLA.
# They are for float32; convolutions for one group and no dilation.
KERNEL_TABLE: Final[dict[str, Callable[..., Any]]] = {**KERNEL_CONVOLUTION, **KERNEL_COMPOSITES}


def kernel(node: Node, *, workspaces: bool) -> Callable[..., Any] | None:
    """What TensorFlow's executor on CPUs runs for a node, None if that is nothing of its own.

    Args:
        node: Of a part for TensorFlow's kernels.
        workspaces: Whether it may take memory to be faster.
    """
    found = transformed(node) if workspaces else None
    return found or KERNEL_TABLE.get(node.primitive.name)


def _barrier(*operands: Any) -> tuple[Any, ...]:
    return operands


def _by_definition(name: str, *, in_xla: bool = False) -> Callable[..., Any]:
    """A composite that has a kernel, where the kernel does not run."""
    primitive = primitives.get(name)

    def find(node: Node) -> Callable[..., Any]:
        inner = node.primitive.name
        found = XLA_TABLE.get(inner) if in_xla else None
        return found or TABLE.get(inner) or _by_definition(inner, in_xla=in_xla)

    def run(*arrays: Any, **parameters: Any) -> Any:
        specs = [TensorSpec(tuple(a.shape), dtype(a.dtype.name)) for a in arrays]
        results = evaluate(definition_graph(primitive, specs, parameters), arrays, find)
        return tuple(results) if primitive.multiple_outputs else results[0]

    return run


TABLE: Final[dict[str, Callable[..., Any]]] = {
    **ELEMENTWISE,
    **REDUCTIONS,
    **SHAPING,
    **CONVOLUTION,
    **RANDOM,
    **CONTROL,
    "barrier": _barrier,
    **{name: _by_definition(name) for name in KERNEL_COMPOSITES},
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
    {}
    if _xla_operations() is None
    else {
        "barrier": _xla_barrier,
        "pad": _xla_pad,
        **XLA_RANDOM,
        **{name: _by_definition(name, in_xla=True) for name in KERNEL_COMPOSITES},
    }
)
