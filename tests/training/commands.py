"""A small run that the tests of the commands share."""

from __future__ import annotations

from pathlib import Path

from accelkit.checkpoint import load_checkpoint
from accelkit.training.train import main as train

SMALL = (
    "--data=shapes:60:32", "--model=lenet5", "--model-option=channels=3", "--image-size=32",
    "--batch-size=10", "--learning-rate=0.02", "--threads=0", "--epochs=2",
)  # fmt: skip


def run(directory: Path, *extra: str, progress: str = "none") -> int:
    """Train in ``directory``; returns the exit status."""
    places = (f"--checkpoint={directory / 'ck'}", f"--log-dir={directory / 'log'}")
    return train([*SMALL, *places, f"--progress={progress}", *extra])


def result(directory: Path) -> tuple[dict[str, bytes], bytes, int, object]:
    """Weights, log, step and data position."""
    found = load_checkpoint(directory / "ck")
    tensors = {name: array.tobytes() for name, array in found.tensors.items()}
    log = (directory / "log" / "log.jsonl").read_bytes()
    return tensors, log, found.info.step, found.info.data_position
