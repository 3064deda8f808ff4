"""A crash, a power loss or an I/O error at every single operation of a save."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import numpy as np
import pytest
from checkpoint.simulated_disk import FailingDisk, SimulatedDisk, UnsyncedDisk, materialise

from accelkit.checkpoint import CheckpointManager, FileSystem
from accelkit.errors import CheckpointError


def tensors_of(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "dense.weight": rng.normal(size=(3, 5)).astype(np.float32),
        "dense.bias": rng.integers(0, 9, 5),
        "scale": np.array(step, np.float16),
    }


def manager_on(
    directory: Path, filesystem: FileSystem | None = None, keep_last: int = 2
) -> CheckpointManager:
    return CheckpointManager(
        directory, keep_last=keep_last, background=False, filesystem=filesystem or UnsyncedDisk()
    )


def save(manager: CheckpointManager, step: int) -> None:
    manager.save(step, tensors_of(step), seed=7, data_position={"epoch": 0, "index": step})


def error_of_saving(manager: CheckpointManager, step: int) -> CheckpointError | None:
    try:
        save(manager, step)
    except CheckpointError as error:
        return error
    return None


def restored_step(manager: CheckpointManager) -> int:
    checkpoint = manager.restore()
    assert checkpoint is not None
    expected = tensors_of(checkpoint.info.step)
    assert checkpoint.tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert checkpoint.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(checkpoint.tensors[name], array)
    assert checkpoint.info.data_position == {"epoch": 0, "index": checkpoint.info.step}
    return checkpoint.info.step


@pytest.mark.parametrize("keep_last", [1, 2])
def test_power_loss_after_every_operation(tmp_path: Path, keep_last: int) -> None:
    directory = tmp_path / "run"
    with manager_on(directory) as manager:
        save(manager, 10)
        save(manager, 20)
    disk = SimulatedDisk(directory)
    with manager_on(directory, disk, keep_last) as manager:
        save(manager, 30)
    assert len(disk.operations) >= 18
    committed = next(i for i, op in enumerate(disk.operations) if op == "sync directory run") + 1
    states = 0
    for done in range(len(disk.operations) + 1):
        for description, state, names, data in disk.states_after_power_loss(done):
            place = tmp_path / f"crash-{states}"
            states += 1
            materialise(state, place, names, data)
            with manager_on(place) as manager:  # warnings are errors: nothing damaged is visible
                found = restored_step(manager)
                allowed = {30} if done >= committed else {20, 30}
                assert found in allowed, (disk.operations[:done], description)
                save(manager, 40)
                assert restored_step(manager) == 40
                assert not list(place.glob(".tmp-*")) + list(place.glob(".discarded-*"))
    assert states == 8 * (len(disk.operations) + 1)


@pytest.mark.parametrize("forever", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_error_at_every_operation(tmp_path: Path, code: int, forever: bool) -> None:
    for fail_at in itertools.count():
        directory = tmp_path / str(fail_at)
        with manager_on(directory) as manager:
            save(manager, 10)
            save(manager, 20)
        disk = FailingDisk(fail_at, code, forever=forever)
        with manager_on(directory, disk) as manager:
            error = error_of_saving(manager, 30)
            failed = error is not None
            if not disk.has_failed:
                assert not failed
                break
            if failed:
                assert isinstance(error.__cause__, OSError)
                assert "Checkpoints written before are untouched" in str(error)
            assert restored_step(manager) in ({20, 30} if failed else {30})
        with manager_on(directory) as manager:
            assert restored_step(manager) in ({20, 30} if failed else {30})
            save(manager, 40)
            assert restored_step(manager) == 40
            leftovers = [path.name for path in directory.iterdir() if path.name.startswith(".")]
            assert leftovers == [".lock"]
    assert fail_at >= 20


def test_disk_full_says_what_to_do(tmp_path: Path) -> None:
    with (
        manager_on(tmp_path, FailingDisk(2, errno.ENOSPC)) as manager,
        pytest.raises(CheckpointError, match=r"No space left.*Free some space"),
    ):
        save(manager, 10)


def test_error_in_the_background_surfaces_at_the_next_call(tmp_path: Path) -> None:
    disk = FailingDisk(3, errno.ENOSPC)
    with CheckpointManager(tmp_path, filesystem=disk) as manager:
        save(manager, 10)
        with pytest.raises(CheckpointError, match="No space left"):
            save(manager, 20)
        save(manager, 30)  # reported once; the run may go on
        assert restored_step(manager) == 30


def test_unexpected_error_in_the_background_is_not_lost(tmp_path: Path) -> None:
    class Broken(FileSystem):
        def create(self, path: Path) -> int:
            raise ZeroDivisionError("a bug")

    with CheckpointManager(tmp_path, filesystem=Broken()) as manager:
        save(manager, 10)
        with pytest.raises(CheckpointError, match="ZeroDivisionError") as caught:
            manager.wait()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
