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
    lacking = _lacking(found, device)
    if lacking is not None:
        able = [name for name, p in POLICIES.items() if _lacking(p, device) is None]
        raise CapabilityError(
            f"{device} has no {lacking}, which precision={precision!r} needs. Choose another "
            f"device or precision ({', '.join(able)})."
        )
    return found


def _lacking(found: Policy, device: Device) -> DType | None:
    """A dtype of the policy that the device does not have."""
    held = backend(device.backend)
    needed = (d for d in (found.dtype, found.narrow) if d is not None)
    return next((d for d in needed if not supports_dtype(held, device, d)), None)
