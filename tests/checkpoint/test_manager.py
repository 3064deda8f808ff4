"""The manager of a run's checkpoints: retention, background copies, locks, compatibility."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint.simulated_disk import UnsyncedDisk

from accelkit.checkpoint import (
    FORMAT_VERSION,
    CheckpointInfo,
    CheckpointManager,
    Metric,
    check_compatible,
    load_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from accelkit.errors import (
    CheckpointError,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
    OptionError,
)

TENSORS = {"w": np.arange(4.0)}


def manager_on(directory: Path, **options: Any) -> CheckpointManager:
    return CheckpointManager(directory, filesystem=UnsyncedDisk(), **options)


def steps(manager: CheckpointManager) -> list[int]:
    return [read_checkpoint(path).info.step for path in manager.paths()]


def test_everything_comes_back(tmp_path: Path) -> None:
    metadata = {"model": "lenet5", "nested": [1, 2.5, None, {"x": True}], "n": np.int64(3)}
    with manager_on(tmp_path) as manager:
        manager.save(
            7,
            TENSORS,
            seed=2**64 - 1,
            data_position={"epoch": 1, "index": 64},
            schedule={"kind": "cosine", "steps": 100},
            metadata=metadata,
            metric=Metric("top1", 0.25),
        )
        found = manager.restore()
    assert found is not None
    info = found.info
    assert (info.step, info.seed, info.sequence) == (7, 2**64 - 1, 1)
    assert info.data_position == {"epoch": 1, "index": 64}
    assert info.schedule == {"kind": "cosine", "steps": 100}
    assert info.metadata == {**metadata, "n": 3}
    assert info.metric == Metric("top1", 0.25)
    assert info.versions["numpy"] == np.__version__
    assert info.files["tensors.safetensors"].size_bytes > 32
    np.testing.assert_array_equal(found.tensors["w"], TENSORS["w"])


def test_empty_directory_restores_none(tmp_path: Path) -> None:
    with manager_on(tmp_path / "a" / "b") as manager:
        assert manager.restore() is None
        assert manager.best() is None


@pytest.mark.parametrize(("best", "kept"), [("max", 2), ("min", 3)])
def test_keeps_the_last_and_the_best(tmp_path: Path, best: str, kept: int) -> None:
    accuracies = {1: 0.1, 2: 0.9, 3: 0.05, 4: math.nan, 5: 0.3, 6: math.inf, 7: 0.2}
    with manager_on(tmp_path, keep_last=2, keep_best=1, best=best) as manager:
        for step, value in accuracies.items():
            manager.save(step, TENSORS, metric=Metric("top1", value))
        assert steps(manager) == [kept, 6, 7]
        best_path = manager.best()
        assert best_path is not None
        assert read_checkpoint(best_path).info.step == kept
    with manager_on(tmp_path, keep_last=1, keep_best=1, best=best) as manager:
        manager.save(8, TENSORS, metric=Metric("top1", 0.2))  # metrics are read from the disk
        assert steps(manager) == [kept, 8]


def test_no_metric_means_no_best(tmp_path: Path) -> None:
    with manager_on(tmp_path, keep_last=2) as manager:
        for step in range(5):
            manager.save(step, TENSORS)
        assert steps(manager) == [3, 4]


def test_newest_means_last_written_even_after_going_back(tmp_path: Path) -> None:
    with manager_on(tmp_path, keep_last=5) as manager:
        for step in (10, 20, 30):
            manager.save(step, TENSORS)
        found = manager.restore(step=10)
        assert found is not None
        assert found.info.step == 10
        manager.save(15, TENSORS)
        manager.save(20, {"w": np.zeros(4)})
        found = manager.restore(step=20)
        assert found is not None
        assert not found.tensors["w"].any()
    with manager_on(tmp_path, keep_last=5) as manager:
        assert steps(manager) == [10, 20, 30, 15, 20]
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 7.*10, 15, 20, 30"):
            manager.restore(step=7)


def test_background_save_copies_before_it_returns(tmp_path: Path) -> None:
    release = threading.Event()

    class Slow(UnsyncedDisk):
        def create(self, path: Path) -> int:
            assert release.wait(30)
            return super().create(path)

    array = np.zeros(1000)
    with CheckpointManager(tmp_path, filesystem=Slow()) as manager:
        manager.save(1, {"w": array})
        array += 1  # the writer has not started yet
        assert not list(tmp_path.glob("0*"))
        release.set()
        found = manager.restore()
        assert found is not None
        assert not found.tensors["w"].any()


def test_save_with_wait_is_on_the_disk(tmp_path: Path) -> None:
    with manager_on(tmp_path) as manager:
        manager.save(1, TENSORS, wait=True)
        assert len(list(tmp_path.glob("0*"))) == 1


def test_two_managers_cannot_share_a_directory(tmp_path: Path) -> None:
    with manager_on(tmp_path):
        with pytest.raises(CheckpointError, match=r"by this process already\..* close the other"):
            manager_on(tmp_path)
        (tmp_path / ".lock").write_text("123456789\n")  # as another process leaves it
        with pytest.raises(CheckpointError, match=r"another process \(pid 123456789\).* end the"):
            manager_on(tmp_path)
    manager_on(tmp_path).close()


def test_lock_of_a_killed_process_is_free_and_its_leftovers_go(tmp_path: Path) -> None:
    program = """
import os, signal, sys
import numpy as np
from accelkit.checkpoint import CheckpointManager, FileSystem
class Kill(FileSystem):
    def rename(self, source, target):
        os.kill(os.getpid(), signal.SIGKILL)
manager = CheckpointManager(sys.argv[1], background=False)
manager.save(1, {"w": np.ones(2)})
manager._files = Kill()
manager.save(2, {"w": np.ones(2)})
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert len(list(tmp_path.glob(".tmp-*"))) == 1
    (tmp_path / "notes.txt").write_text("kept")
    with manager_on(tmp_path) as manager:
        assert not list(tmp_path.glob(".tmp-*"))
        assert steps(manager) == [1]
        assert (tmp_path / "notes.txt").exists()


def test_failed_save_does_not_hide_the_error_under_way(tmp_path: Path) -> None:
    class Broken(UnsyncedDisk):
        def create(self, path: Path) -> int:
            raise OSError(5, "Input/output error")

    def train() -> None:
        with CheckpointManager(tmp_path, filesystem=Broken()) as manager:
            manager.save(1, TENSORS)
            raise KeyError("the real problem")

    with pytest.raises(KeyError, match="the real problem"):
        train()


def test_unusable_directory_and_options(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be used"):
        manager_on(tmp_path / "file" / "below")
    with pytest.raises(OptionError, match="`keep_last` must be a positive integer, got 0"):
        manager_on(tmp_path, keep_last=0)
    with pytest.raises(OptionError, match="best is 'highest'"):
        manager_on(tmp_path, best="highest")
    with manager_on(tmp_path) as manager, pytest.raises(OptionError, match="step is -1"):
        manager.save(-1, TENSORS)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"a": np.zeros(2)}, r"\['a'\] is a ndarray"),
        ({"a": {3: 1}}, r"\['a'\] has the key 3"),
        ({"a": [1, math.nan]}, r"\['a'\]\[1\] is nan"),
        ({"a": {1, 2}}, "is a set"),
    ],
)
def test_metadata_that_json_cannot_hold(tmp_path: Path, metadata: dict, message: str) -> None:
    with manager_on(tmp_path, background=False) as manager:
        with pytest.raises(CheckpointError, match=message):
            manager.save(1, TENSORS, metadata=metadata)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_compatibility_names_every_difference() -> None:
    expected = {"a": np.zeros((2, 3), "f4"), "b": np.zeros(3), "c": np.zeros(1), "d": np.zeros(2)}
    given = {"a": np.zeros((3, 2), "f4"), "b": np.zeros(3), "d": np.zeros(2, "f4"), "e": np.ones(1)}
    check_compatible(expected, dict(expected))
    with pytest.raises(IncompatibleCheckpointError) as caught:
        check_compatible(expected, given)
    message = str(caught.value)
    assert "1 missing from it: c" in message
    assert "1 extra in it: e" in message
    assert "a is float32[3, 2], expected float32[2, 3]" in message
    assert "d is float32[2], expected float64[2]" in message


def test_another_models_checkpoint_is_not_passed_over(tmp_path: Path) -> None:
    with manager_on(tmp_path) as manager:
        manager.save(1, {"other": np.zeros(2)})
        manager.save(2, {"mine": np.zeros(2)})
        with pytest.raises(IncompatibleCheckpointError, match="missing from it: other"):
            manager.restore(expected={"other": np.zeros(2)})
        assert steps(manager) == [1, 2]


def test_newer_format_is_named(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, TENSORS, CheckpointInfo(step=1), filesystem=UnsyncedDisk())
    before = (path / "manifest.json").read_bytes()
    document = json.loads(before)
    document["format_version"] = FORMAT_VERSION + 1
    after = json.dumps(document).encode()
    rewrite_signed(path, before, after)
    with pytest.raises(IncompatibleCheckpointError, match=r"format version 2; .*Upgrade accelkit"):
        read_checkpoint(path)


def rewrite_signed(path: Path, before: bytes, after: bytes) -> None:
    """Replace the manifest and its digest, as another program would have written them."""
    import hashlib

    sums = (path / "SHA256SUMS").read_text()
    (path / "manifest.json").write_bytes(after)
    old, new = (hashlib.sha256(data).hexdigest() for data in (before, after))
    (path / "SHA256SUMS").write_text(sums.replace(old, new))


@pytest.mark.parametrize(
    "change",
    [{"format": "zip"}, {"step": "3"}, {"files": {}}, {"metric": {"name": "x"}}, {"seed": 1.5}],
)
def test_manifest_that_is_signed_but_wrong(tmp_path: Path, change: dict) -> None:
    path = write_checkpoint(tmp_path, TENSORS, CheckpointInfo(step=1), filesystem=UnsyncedDisk())
    before = (path / "manifest.json").read_bytes()
    rewrite_signed(path, before, json.dumps({**json.loads(before), **change}).encode())
    with pytest.raises(CorruptCheckpointError):
        read_checkpoint(path)


def test_load_checkpoint_takes_a_run_or_a_checkpoint(tmp_path: Path) -> None:
    with manager_on(tmp_path) as manager:
        manager.save(1, TENSORS)
        manager.save(2, TENSORS, wait=True)
        assert load_checkpoint(tmp_path).info.step == 2  # a reader needs no lock
        assert load_checkpoint(manager.paths()[0]).info.step == 1
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "none")
