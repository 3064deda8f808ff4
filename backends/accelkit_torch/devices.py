"""Which devices torch offers, and the memory they have in use."""

from __future__ import annotations

from types import ModuleType

import torch

from accelkit import host
from accelkit.backend import MemoryStatistics
from accelkit.device import Device, DeviceInfo


def native_device(device: Device) -> torch.device:
    """torch's own name for a device."""
    if device.kind == "cpu":
        return torch.device("cpu")
    return torch.device(device.kind, device.index)


def from_native(device: torch.device) -> Device:
    """The accelkit device that a tensor's ``device`` stands for."""
    return Device("torch", device.type, device.index or 0)


def accelerator_module(kind: str) -> ModuleType | None:
    """``torch.cuda``, ``torch.xpu`` or ``torch.mps``; None for the host."""
    found = getattr(torch, kind, None) if kind in ("cuda", "xpu", "mps") else None
    return found if isinstance(found, ModuleType) else None


def list_devices() -> list[DeviceInfo]:
    """All usable devices, accelerators first."""
    driver = f"torch {torch.__version__}"
    found = []
    if torch.cuda.is_available():
        runtime = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        for index in range(torch.cuda.device_count()):
            found.append(_information("cuda", index, f"{driver}, {runtime}"))
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        for index in range(torch.xpu.device_count()):
            found.append(_information("xpu", index, driver))
    if torch.backends.mps.is_available():
        memory = torch.mps.recommended_max_memory()
        found.append(DeviceInfo(Device("torch", "mps", 0), "Apple GPU (Metal)", memory, driver))
    threads = f"{driver}, {torch.get_num_threads()} threads"
    cpu = Device("torch", "cpu", 0)
    found.append(DeviceInfo(cpu, host.processor_name(), host.memory_bytes(), threads))
    return found


def _information(kind: str, index: int, driver: str) -> DeviceInfo:
    module = accelerator_module(kind)
    assert module is not None
    properties = module.get_device_properties(index)
    device = Device("torch", kind, index)
    return DeviceInfo(device, properties.name, properties.total_memory, driver)


def synchronize(device: Device) -> None:
    """Wait until everything queued on the device is done."""
    module = accelerator_module(device.kind)
    if module is not None:
        module.synchronize() if device.kind == "mps" else module.synchronize(device.index)


def memory(device: Device) -> MemoryStatistics:
    """Memory in use, as far as torch's allocator or the system tells."""
    if device.kind in ("cuda", "xpu"):
        module = accelerator_module(device.kind)
        assert module is not None
        return MemoryStatistics(
            module.memory_allocated(device.index),
            module.max_memory_allocated(device.index),
            f"torch.{device.kind}.max_memory_allocated",
        )
    if device.kind == "mps":
        in_use = torch.mps.current_allocated_memory()
        return MemoryStatistics(in_use, None, "torch.mps.current_allocated_memory")
    return host.process_memory()


def reset_peak_memory(device: Device) -> None:
    """Start a new peak measurement, where there is one."""
    if device.kind in ("cuda", "xpu"):
        module = accelerator_module(device.kind)
        assert module is not None
        module.reset_peak_memory_stats(device.index)
    elif device.kind == "cpu":
        host.reset_peak_memory()
