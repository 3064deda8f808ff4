"""Worker processes: the same batches, through the death of a worker or of the trainer."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from accelkit.data import Batch, Loader, ShapesSource, TrainingTransform
from accelkit.data.shared import SharedArrays, free
from accelkit.errors import DataError

TRANSFORM = TrainingTransform(size=16)


def loader(workers: int = 0, **options) -> Loader:
    return Loader(
        ShapesSource(60), batch_size=7, transform=TRANSFORM, seed=6, partial="pad",
        workers=workers, **options,
    )  # fmt: skip


def content(batch: Batch) -> tuple:
    arrays = (batch.image, batch.label, batch.weight, batch.index)
    return (*(array.tobytes() for array in arrays), batch.position)


def blocks_of_shared_memory() -> list[str]:
    """Names of the blocks that belong to loaders of this process."""
    place = Path("/dev/shm")
    pattern = f"accelkit-{os.getpid():x}-*"
    return sorted(p.name for p in place.glob(pattern)) if place.is_dir() else []


def test_arrays_pass_through_shared_memory() -> None:
    arrays = [np.arange(5, dtype="i2"), np.zeros((0, 3)), np.array(7.5), np.ones((3, 1), bool)]
    shared = SharedArrays.write(f"accelkit-test-{os.getpid():x}", arrays)
    for got, expected in zip(shared.take(), arrays, strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(FileNotFoundError):
        shared.take()
    free(shared.name)  # nothing to free is no error


def test_without_grain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(DataError, match=r"need Grain, which is not installed.*use threads"):
        next(iter(loader(workers=1)))


@pytest.mark.slow
def test_killed_workers_lose_and_repeat_nothing(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("grain")
    reference = loader()
    expected = [content(batch) for _ in range(3) for batch in reference]
    got, killed = [], []
    with loader(workers=2, worker_restarts=2) as parallel:
        for _ in range(3):
            for batch in parallel:
                got.append(content(batch))
                if len(got) in (4, 14):
                    killed.append(batch.worker)
                    os.kill(batch.worker, signal.SIGKILL)
    assert got == expected
    assert batch.worker != os.getpid()
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 2
    for pid, message in zip(killed, warnings, strict=True):
        assert f"of 2 (process {pid}) died" in message
    assert blocks_of_shared_memory() == []


@pytest.mark.slow
def test_death_beyond_the_last_restart_names_the_worker_and_resumes() -> None:
    pytest.importorskip("grain")
    expected = [content(batch) for batch in loader()]
    with loader(workers=1, worker_restarts=0) as parallel:
        batches = iter(parallel)
        got = [content(next(batches)) for _ in range(2)]
        children = psutil.Process().children()
        (worker,) = (p for p in children if "spawn_main" in " ".join(p.cmdline()))
        worker.kill()

        def drain() -> None:
            got.extend(map(content, batches))

        with pytest.raises(DataError, match=rf"data worker 0 of 1 \(process {worker.pid}\)"):
            drain()
        got += [content(batch) for batch in parallel]
    assert got == expected
    assert blocks_of_shared_memory() == []


@pytest.mark.slow
def test_workers_end_when_the_trainer_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("grain")
    program = """
import sys, time
from accelkit.data import Loader, ShapesSource
if __name__ == "__main__":
    loader = Loader(ShapesSource(60), batch_size=7, workers=2)
    batches = iter(loader)
    print(*sorted({next(batches).worker for _ in range(4)}), flush=True)
    time.sleep(60)
"""
    (tmp_path / "train.py").write_text(program)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "train.py")], stdout=subprocess.PIPE, env=environment
    ) as trainer:
        assert trainer.stdout is not None
        workers = [int(pid) for pid in trainer.stdout.readline().split()]
        assert len(workers) == 2
        trainer.kill()
    deadline = time.monotonic() + 30
    while any(map(psutil.pid_exists, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(psutil.pid_exists, workers))
