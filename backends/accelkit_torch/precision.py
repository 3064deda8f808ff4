"""torch's process-global precision switches, set for a launch and put back afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

from accelkit.backend import CompileOptions
from accelkit.device import Device

FULL = CompileOptions()
_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


def matmul_precision(device: Device, options: CompileOptions) -> AbstractContextManager[None]:
    """Compute float32 products as ``options`` ask while the block launches its work.

    On CUDA that is TF32 for matrix products and for cuDNN's convolutions (which torch allows by
    default); on the host it is oneDNN's use of bfloat16, which a user may have switched on by
    ``torch.set_float32_matmul_precision``. Kernels choose at launch, so nothing has to wait.
    """
    if device.kind == "cpu" and not options.deterministic:
        if torch.get_float32_matmul_precision() == "highest":
            return _NOTHING  # as it nearly always is, and small steps feel every switch
        return _switched("highest", allow_tf32=torch.backends.cudnn.allow_tf32, ordered=False)
    allow = options.matmul_precision == "tf32" and device.kind != "cpu"
    wanted = "high" if allow else "highest"
    return _switched(wanted, allow_tf32=allow, ordered=options.deterministic)


@contextlib.contextmanager
def _switched(precision: str, *, allow_tf32: bool, ordered: bool) -> Iterator[None]:
    """torch's switches for products, cuDNN's convolutions, and kernels that add in order."""
    before = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    convolution_before = cudnn.allow_tf32
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    if before != precision:
        torch.set_float32_matmul_precision(precision)
    if convolution_before is not allow_tf32:
        cudnn.allow_tf32 = allow_tf32
    if ordered and not deterministic_before:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        if before != precision:
            torch.set_float32_matmul_precision(before)
        if convolution_before is not allow_tf32:
            cudnn.allow_tf32 = convolution_before
        if ordered and not deterministic_before:
            torch.use_deterministic_algorithms(False)
