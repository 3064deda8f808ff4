"""Random numbers: Philox4x32-10, the same bits on every device.

A key is a uint32 tensor of shape (2,). Element i of a random tensor is word i % 4 of the block
with counter ((i // 4) lo, (i // 4) hi, key[0], key[1]) under the key (key[0], key[1]); ``offset``
is added to i, so that a shard or micro-batch draws its part of the whole. The reference is
:mod:`accelkit.random.philox`. Raw bits are not part of the graph: some frameworks lack most
unsigned arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from accelkit import dtypes
from accelkit.dtypes import DType
from accelkit.errors import DTypeError, OptionError, ShapeError
from accelkit.graph import TensorSpec
from accelkit.primitives.elementwise import cos, log1p, select, sqrt, zeros_like
from accelkit.primitives.primitive import no_flops, primitive, require_floating


def _check_key(key: TensorSpec) -> None:
    if key.shape != (2,) or key.dtype is not dtypes.uint32:
        raise ShapeError(f"A random key is uint32[2], got {key}. Make one with ak.random.key().")


def _keep_mask_infer(
    key: TensorSpec, *, shape: tuple[int, ...], rate: float, offset: int
) -> TensorSpec:
    _check_key(key)
    if not 0.0 <= rate < 1.0:
        raise OptionError(f"A dropout rate must be in [0, 1), got {rate}.")
    return TensorSpec(shape, dtypes.bool_)


def _uniform_infer(
    key: TensorSpec, *, shape: tuple[int, ...], dtype: DType, offset: int
) -> TensorSpec:
    _check_key(key)
    if dtype not in (dtypes.float32, dtypes.float64):
        raise DTypeError(f"Random numbers are float32 or float64, got {dtype}; cast them.")
    return TensorSpec(shape, dtype)


random_keep_mask = primitive(
    "random_keep_mask",
    _keep_mask_infer,
    vjp=lambda g, y, key, **p: (None,),
    flops=no_flops,
    doc="True where bits >= round(rate * 2^32): an integer comparison, exact on every device.",
)
random_uniform = primitive(
    "random_uniform",
    _uniform_infer,
    vjp=lambda g, y, key, **p: (None,),
    flops=no_flops,
    doc="Uniform in [0, 1): float32 (bits >> 8) * 2^-24, float64 from two words each.",
)


def _normal_definition(key: Any, *, shape: tuple[int, ...], dtype: DType, offset: int) -> Any:
    """Box and Muller (1958): two uniforms u, v give sqrt(-2 log(1 - u)) cos(2 pi v)."""
    u = random_uniform(key, shape=shape, dtype=dtype, offset=offset)
    v = random_uniform(key, shape=shape, dtype=dtype, offset=offset + _SECOND_STREAM)
    return sqrt(log1p(-u) * -2.0) * cos(v * (2.0 * math.pi))


_SECOND_STREAM = 1 << 40  # far from any element of the first stream

random_normal = primitive(
    "random_normal",
    _uniform_infer,
    vjp=lambda g, y, key, **p: (None,),
    definition=_normal_definition,
    doc="""Standard normals, by Box and Muller's transform of two uniforms.

    The uniforms are the same bits everywhere, but sqrt, log and cos are the device's own:
    backends agree within tolerance only. Initial weights are drawn on the host instead.""",
)


def _dropout_infer(x: TensorSpec, key: TensorSpec, *, rate: float, offset: int) -> TensorSpec:
    _keep_mask_infer(key, shape=x.shape, rate=rate, offset=offset)
    return require_floating("dropout", x)


def _dropout_definition(x: Any, key: Any, *, rate: float, offset: int) -> Any:
    keep = random_keep_mask(key, shape=x.shape, rate=rate, offset=offset)
    return select(keep, x * (1.0 / (1.0 - rate)), zeros_like(x))


def _dropout_vjp(g: Any, y: Any, x: Any, key: Any, **parameters: Any) -> Sequence[Any]:
    return dropout(g, key, **parameters), None


dropout = primitive(
    "dropout",
    _dropout_infer,
    vjp=_dropout_vjp,
    definition=_dropout_definition,
    doc="""x * 1 / (1 - rate) where random_keep_mask(key) holds, 0 elsewhere.

    Linear in x, so its derivative is the same primitive on g (Srivastava et al., 2014,
    inverted form).""",
)
