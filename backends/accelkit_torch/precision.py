"""torch's process-global precision switches, set for a launch and put back afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from accelkit.backend import CompileOptions
from accelkit.device import Device

FULL = CompileOptions()


@contextlib.contextmanager
def matmul_precision(device: Device, options: CompileOptions) -> Iterator[None]:
    """Compute float32 products as ``options`` ask while the block launches its work.

    On CUDA that is TF32 for matrix products and for cuDNN's convolutions (which torch allows by
    default); on the host it is oneDNN's use of bfloat16, which a user may have switched on by
    ``torch.set_float32_matmul_precision``. Kernels choose at launch, so nothing has to wait.
    """
    wanted = "high" if options.matmul_precision == "tf32" and device.kind != "cpu" else "highest"
    allow_convolution = wanted == "high"
    before = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    convolution_before = cudnn.allow_tf32
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    if before != wanted:
        torch.set_float32_matmul_precision(wanted)
    if convolution_before is not allow_convolution:
        cudnn.allow_tf32 = allow_convolution
    if options.deterministic and not deterministic_before:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        if before != wanted:
            torch.set_float32_matmul_precision(before)
        if convolution_before is not allow_convolution:
            cudnn.allow_tf32 = convolution_before
        if options.deterministic and not deterministic_before:
            torch.use_deterministic_algorithms(False)
