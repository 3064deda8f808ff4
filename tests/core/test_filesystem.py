"""Replacing a file: whole or as it was, whatever fails or stops the program in between."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint.simulated_disk import FailingDisk, SimulatedDisk, UnsyncedDisk, materialise

from accelkit.filesystem import FileSystem, unfinished_files

OLD, NEW = b"the old content", b"the new content, which is longer"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(OLD)
    return folder / "file"


def only_content(path: Path) -> bytes:
    """The file's content; it must be alone in its folder."""
    assert list(path.parent.iterdir()) == [path]
    return path.read_bytes()


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("content", [NEW, b"", os.urandom(20 << 20)], ids=["text", "none", "large"])
def test_a_file_has_the_new_content(path: Path, content: bytes, durable: bool) -> None:
    UnsyncedDisk().replace_file(path, content, durable=durable)
    assert only_content(path) == content


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("durable", [True, False])
def test_a_failure_leaves_the_old_file_alone(path: Path, durable: bool, code: int) -> None:
    operations = 6 if durable else 4  # create, write, sync, close, rename, sync directory
    for fail_at in range(operations):
        disk = FailingDisk(fail_at, code)
        with pytest.raises(OSError, match=re.escape(os.strerror(code))):
            disk.replace_file(path, NEW, durable=durable)
        renamed = durable and fail_at == 5  # there, but perhaps not on the disk
        assert only_content(path) == (NEW if renamed else OLD)
    disk = FailingDisk(operations)
    disk.replace_file(path, NEW, durable=durable)
    assert not disk.has_failed
    assert only_content(path) == NEW


def test_power_loss_leaves_the_old_file_or_the_new(tmp_path: Path, path: Path) -> None:
    disk = SimulatedDisk(path.parent)
    disk.replace_file(path, NEW, durable=True)
    for done in range(len(disk.operations) + 1):
        allowed = {NEW} if done == len(disk.operations) else {OLD, NEW}
        for number, (_, *state) in enumerate(disk.states_after_power_loss(done)):
            place = tmp_path / f"{done}-{number}"
            materialise(state[0], place, *state[1:])
            assert (place / "file").read_bytes() in allowed, disk.operations[:done]
            others = {p for p in place.iterdir() if p.name != "file"}
            assert others == set(unfinished_files(place))


def test_what_a_killed_process_leaves_is_found(path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from accelkit.filesystem import FileSystem
class Kill(FileSystem):
    def rename(self, source, target):
        os.kill(os.getpid(), 9)
Kill().replace_file(Path(sys.argv[1]), b"new", durable=False)
"""
    ended = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert ended.returncode == -9
    assert path.read_bytes() == OLD
    (left,) = unfinished_files(path.parent)
    assert left.read_bytes() == b"new"
    assert {path, left} == set(path.parent.iterdir())


def test_an_interruption_leaves_nothing(path: Path) -> None:
    class Interrupted(FileSystem):
        def sync(self, descriptor: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Interrupted().replace_file(path, NEW, durable=True)
    assert only_content(path) == OLD


def test_a_folder_that_is_none_is_refused(path: Path) -> None:
    for place, error in (
        (path / "file", NotADirectoryError),
        (path.parent / "none" / "file", FileNotFoundError),
        (path.parent, IsADirectoryError),
    ):
        with pytest.raises(error):
            FileSystem().replace_file(place, NEW, durable=False)
    assert only_content(path) == OLD


def test_a_folder_without_permission_is_refused(path: Path) -> None:
    class Unwritable(FileSystem):
        """As the system answers to anyone but root, who may write everywhere."""

        def create(self, path: Path) -> int:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with pytest.raises(PermissionError):
        Unwritable().replace_file(path, NEW, durable=False)
    assert only_content(path) == OLD


def test_a_link_stays_and_a_device_is_written_to(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to("file")
    FileSystem().replace_file(link, NEW, durable=False)
    assert link.is_symlink()
    assert path.read_bytes() == NEW
    FileSystem().replace_file(Path(os.devnull), NEW, durable=True)
    assert Path(os.devnull).is_char_device()


def test_permissions_are_those_of_any_new_file(path: Path) -> None:
    FileSystem().replace_file(path, NEW, durable=False)
    other = path.with_name("other")
    other.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)
