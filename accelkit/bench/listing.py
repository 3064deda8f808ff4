"""``--list``: devices, and why a backend offers none; models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from accelkit import models, registry
from accelkit.bench.processes import Event, probe_all
from accelkit.errors import AccelkitError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_listing"]


def print_listing(console: Console, threads: int) -> None:
    """Print what can be measured here. Each backend is asked in a process of its own."""
    console.print("Devices", highlight=False)
    for name, events in probe_all(registry.backend_names(), threads).items():
        for line in _device_lines(name, events):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    console.print("\nModels", highlight=False)
    for name in registry.model_names():
        for line in _model_lines(name):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _device_lines(backend: str, events: Sequence[Event]) -> list[str]:
    lines = []
    for event in events:
        if event["event"] == "error":
            lines.append(f"{backend}: unavailable: {event['error']['message']}")
        else:
            memory = event["memory_bytes"]
            size = f", {memory / 2**30:.1f} GiB" if memory else ""
            lines.append(f"{event['device']}: {event['description']}{size} ({event['driver']})")
    return lines or [f"{backend}: unavailable: its framework is installed, but reports no device"]


def _model_lines(name: str) -> list[str]:
    lines = []
    try:
        for variant in models.variants(name) or (None,):
            model = models.build(name, variant=variant)
            count = model.module.specify((1, *model.input_shape)).parameter_count
            shape = "x".join(map(str, model.input_shape))
            label = name if variant is None else f"{name} --variant {variant}"
            lines.append(f"{label}: {count:,} parameters, images {shape}, {model.classes} classes")
    except (AccelkitError, ImportError) as error:
        lines.append(f"{name}: unavailable: {type(error).__name__}: {error}")
    return lines
