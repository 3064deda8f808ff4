"""A disk that can lose power, and a disk that fails, for the checkpoint tests.

:class:`SimulatedDisk` performs every operation on the real disk and mirrors it in a model that
tells what has been written from what has been made durable. After any prefix of the operations,
:meth:`SimulatedDisk.states_after_power_loss` gives the contents that POSIX allows the disk to
have: names and data that were not synced may be there, be lost, or be there in part.
"""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from accelkit.checkpoint import FileSystem


@dataclass
class _File:
    written: bytes = b""
    durable: bytes = b""


@dataclass
class _Directory:
    written: dict[str, _File | _Directory] = field(default_factory=dict)
    durable: dict[str, _File | _Directory] = field(default_factory=dict)


class UnsyncedDisk(FileSystem):
    """The real disk without waiting for it, since these tests never cut its power."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


class SimulatedDisk(UnsyncedDisk):
    """Records the state of the disk after each operation below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.operations: list[str] = []
        self._tree = self._load(root)
        self._open: dict[int, _File] = {}
        self._snapshots = [copy.deepcopy(self._tree)]

    def _load(self, path: Path) -> _Directory:
        """What exists already counts as durable; the lock file is of no interest."""
        directory = _Directory()
        for entry in path.iterdir():
            if entry.name == ".lock":
                continue
            content = entry.read_bytes() if entry.is_file() else b""
            node = self._load(entry) if entry.is_dir() else _File(content, content)
            directory.written[entry.name] = directory.durable[entry.name] = node
        return directory

    def _directory(self, path: Path) -> _Directory:
        node = self._tree
        for part in path.relative_to(self.root).parts:
            node = node.written[part]
        return node

    def _done(self, operation: str) -> None:
        self.operations.append(operation)
        self._snapshots.append(copy.deepcopy(self._tree))

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        self._open[descriptor] = self._directory(path.parent).written[path.name] = _File()
        self._done(f"create {path.name}")
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        # A short write now and then, as the system call may do.
        taken = super().write(descriptor, data[: max(1, data.nbytes - 5)])
        self._open[descriptor].written += bytes(data[:taken])
        self._done(f"write {taken}")
        return taken

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        self._open[descriptor].durable = self._open[descriptor].written
        self._done("sync")

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        del self._open[descriptor]

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        self._directory(path.parent).written[path.name] = _Directory()
        self._done(f"mkdir {path.name}")

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        directory = self._directory(path)
        directory.durable = dict(directory.written)
        self._done(f"sync directory {path.name}")

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        entries = self._directory(source.parent).written
        entries[target.name] = entries.pop(source.name)
        self._done(f"rename to {target.name}")

    def remove_file(self, path: Path) -> None:
        super().remove_file(path)
        del self._directory(path.parent).written[path.name]
        self._done(f"unlink {path.name}")

    def remove_directory(self, path: Path) -> None:
        super().remove_directory(path)
        del self._directory(path.parent).written[path.name]
        self._done(f"rmdir {path.name}")

    def states_after_power_loss(
        self, operations: int
    ) -> Iterator[tuple[str, _Directory, str, str]]:
        """Every modelled content of the disk if the power fails after so many operations."""
        for names in ("written", "durable"):
            for data in ("written", "durable", "zeros", "half"):
                yield f"{names} names, {data} data", self._snapshots[operations], names, data


def materialise(state: _Directory, target: Path, names: str, data: str) -> None:
    """Write one modelled state of the disk to a real directory."""
    target.mkdir()
    for name, node in getattr(state, names).items():
        if isinstance(node, _Directory):
            materialise(node, target / name, names, data)
        else:
            (target / name).write_bytes(_content(node, data))


def _content(file: _File, data: str) -> bytes:
    if data == "written" or file.written == file.durable:
        return file.written
    if data == "durable":
        return file.durable
    if data == "zeros":  # the length was made durable before the blocks
        return b"\0" * len(file.written)
    return file.written[: len(file.written) // 2]


class FailingDisk(UnsyncedDisk):
    """Fails the ``fail_at``-th operation (from 0), and all later ones if ``forever``."""

    def __init__(self, fail_at: int, code: int = errno.EIO, *, forever: bool = False) -> None:
        self.fail_at = fail_at
        self.code = code
        self.forever = forever
        self.count = 0

    @property
    def has_failed(self) -> bool:
        return self.count > self.fail_at

    def _step(self) -> None:
        index, self.count = self.count, self.count + 1
        if index == self.fail_at or (self.forever and index > self.fail_at):
            raise OSError(self.code, os.strerror(self.code))

    def create(self, path: Path) -> int:
        self._step()
        return super().create(path)

    def write(self, descriptor: int, data: memoryview) -> int:
        self._step()
        return super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self._step()
        super().sync(descriptor)

    def close(self, descriptor: int) -> None:
        super().close(descriptor)  # the descriptor is released even where close reports an error
        self._step()

    def make_directory(self, path: Path) -> None:
        self._step()
        super().make_directory(path)

    def sync_directory(self, path: Path) -> None:
        self._step()
        super().sync_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def remove_file(self, path: Path) -> None:
        self._step()
        super().remove_file(path)

    def remove_directory(self, path: Path) -> None:
        self._step()
        super().remove_directory(path)
