"""Precision policies: which dtype parameters have, and which one products are computed in."""

from __future__ import annotations

from typing import NamedTuple

from accelkit import dtypes
from accelkit.backend import CompileOptions, supports_dtype
from accelkit.device import Device
from accelkit.dtypes import DType
from accelkit.errors import CapabilityError, OptionError
from accelkit.registry import backend

__all__ = ["POLICIES", "Policy", "policy"]


class Policy(NamedTuple):
    """A precision policy.

    Attributes:
        dtype: Of parameters, optimizer slots, losses and metrics.
        narrow: Of matrix products and convolutions, where it differs from ``dtype``.
        options: How the backend compiles.
    """

    dtype: DType
    narrow: DType | None
    options: CompileOptions

    @property
    def scales_loss(self) -> bool:
        """Whether gradients would underflow without a scaled loss: float16's exponent is short."""
        return self.narrow is dtypes.float16


POLICIES = {
    "float32": Policy(dtypes.float32, None, CompileOptions()),
    "tf32": Policy(dtypes.float32, None, CompileOptions(matmul_precision="tf32")),
    "float64": Policy(dtypes.float64, None, CompileOptions()),
    "bfloat16": Policy(dtypes.float32, dtypes.bfloat16, CompileOptions()),
    "float16": Policy(dtypes.float32, dtypes.float16, CompileOptions()),
}


def policy(precision: str, device: Device) -> Policy:
    """The policy of this name, if the device can follow it.

    Raises:
        OptionError: for an unknown name.
        CapabilityError: if the device lacks a dtype.
    """
    found = POLICIES.get(precision) if isinstance(precision, str) else None
    if found is None:
        raise OptionError(f"precision must be one of {', '.join(POLICIES)}, got {precision!r}.")
    for dtype in (found.dtype, found.narrow):
        if dtype is not None and not supports_dtype(backend(device.backend), device, dtype):
            able = [name for name, p in POLICIES.items() if (p.narrow or p.dtype) is not dtype]
            raise CapabilityError(
                f"{device} has no {dtype}, which precision={precision!r} needs. Choose another "
                f"device or precision ({', '.join(able)})."
            )
    return found
