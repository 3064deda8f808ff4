"""Every truncation and every flipped bit of a small checkpoint is found."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from checkpoint.simulated_disk import UnsyncedDisk

from accelkit.checkpoint import (
    CheckpointInfo,
    CheckpointManager,
    CheckpointWarning,
    Metric,
    read_checkpoint,
    write_checkpoint,
)
from accelkit.errors import CheckpointError, CorruptCheckpointError

FILES = ("tensors.safetensors", "manifest.json", "SHA256SUMS")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.int64)}
    info = CheckpointInfo(step=3, seed=1, metric=Metric("accuracy", 0.5))
    return write_checkpoint(tmp_path, tensors, info, filesystem=UnsyncedDisk())


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_detected(checkpoint: Path, name: str) -> None:
    whole = (checkpoint / name).read_bytes()
    for length in range(len(whole)):
        (checkpoint / name).write_bytes(whole[:length])
        with pytest.raises(CorruptCheckpointError):
            read_checkpoint(checkpoint)
    (checkpoint / name).write_bytes(whole)
    read_checkpoint(checkpoint)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_detected(checkpoint: Path, name: str) -> None:
    whole = (checkpoint / name).read_bytes()
    assert len(whole) > 100
    with (checkpoint / name).open("r+b", buffering=0) as stream:
        for position in range(len(whole)):
            for bit in range(8):
                stream.seek(position)
                stream.write(bytes([whole[position] ^ 1 << bit]))
                with pytest.raises(CorruptCheckpointError):
                    read_checkpoint(checkpoint)
            stream.seek(position)
            stream.write(whole[position : position + 1])
    read_checkpoint(checkpoint)


@pytest.mark.parametrize("name", FILES)
def test_missing_appended_and_replaced_files(checkpoint: Path, name: str) -> None:
    path = checkpoint / name
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    with pytest.raises(CorruptCheckpointError, match="SHA256SUMS"):
        read_checkpoint(checkpoint)
    path.unlink()
    with pytest.raises(CorruptCheckpointError, match=rf"lacks its file .*{name}"):
        read_checkpoint(checkpoint)
    path.mkdir()
    with pytest.raises(CorruptCheckpointError, match="is a directory"):
        read_checkpoint(checkpoint)


def test_files_of_two_checkpoints_do_not_mix(checkpoint: Path, tmp_path: Path) -> None:
    info = CheckpointInfo(step=4, sequence=1)
    other = write_checkpoint(tmp_path, {"w": np.ones(3)}, info, filesystem=UnsyncedDisk())
    shutil.copy(other / "tensors.safetensors", checkpoint)
    with pytest.raises(CorruptCheckpointError):
        read_checkpoint(checkpoint)
    shutil.copy(other / "SHA256SUMS", checkpoint)
    with pytest.raises(CorruptCheckpointError):
        read_checkpoint(checkpoint)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs the sha256sum command")
def test_sha256sum_verifies_a_checkpoint(checkpoint: Path) -> None:
    command = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
    done = subprocess.run(command, cwd=checkpoint, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["manifest.json: OK", "tensors.safetensors: OK"]


def test_absent_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        read_checkpoint(tmp_path / "nowhere")


def damage(path: Path) -> None:
    file = path / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def filled(directory: Path, steps: tuple[int, ...]) -> CheckpointManager:
    manager = CheckpointManager(directory, keep_last=5, filesystem=UnsyncedDisk())
    for step in steps:
        manager.save(step, {"w": np.full(4, step)})
    return manager


def test_restore_falls_back_loudly_and_sets_the_damaged_one_aside(tmp_path: Path) -> None:
    with filled(tmp_path, (1, 2, 3)) as manager:
        for path in manager.paths()[1:]:
            damage(path)
        with pytest.warns(CheckpointWarning, match="CANNOT BE USED") as caught:
            found = manager.restore()
        assert found is not None
        assert found.info.step == 1
        assert len(caught) == 2
        assert len(list(tmp_path.glob("corrupt-*"))) == 2
        manager.save(2, {"w": np.full(4, 2)})
        again = manager.restore()
        assert again is not None
        assert again.info.step == 2


def test_restore_refuses_to_start_over_when_all_are_damaged(tmp_path: Path) -> None:
    with filled(tmp_path, (1, 2)) as manager:
        for path in manager.paths():
            damage(path)
        for _ in range(2):  # the second time as well: the evidence stays in place
            with pytest.raises(CorruptCheckpointError, match=r"None of the 2 checkpoints"):
                manager.restore()


def test_restoring_a_damaged_step_by_number_does_not_fall_back(tmp_path: Path) -> None:
    with filled(tmp_path, (1, 2)) as manager:
        damage(manager.paths()[-1])
        with pytest.raises(CorruptCheckpointError):
            manager.restore(step=2)
        assert manager.restore(step=1) is not None


def test_unreadable_checkpoint_is_passed_over_but_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(tmp_path, (1, 2)) as manager:
        newest = manager.paths()[-1]
        original = Path.open

        def failing(self: Path, *args: object, **kwargs: object) -> object:
            if newest in self.parents:
                raise OSError(5, "Input/output error")
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Path, "open", failing)
        with pytest.warns(CheckpointWarning, match="Input/output error"):
            found = manager.restore()
        assert found is not None
        assert found.info.step == 1
        assert newest.is_dir()
