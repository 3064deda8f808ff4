"""Files that are whole or absent: the few operations that it takes, each one overridable.

Everything that a save does to the disk goes through one of the primitive methods of
:class:`FileSystem`, so that a test can fail or stop the program at every single one of them.

The order that makes a write durable on a POSIX file system is: write the file, ``fsync`` it,
rename it, ``fsync`` its directory; for a directory of files, ``fsync`` that too before it is
renamed. See Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path

from accelkit.errors import CheckpointError, DataError

__all__ = ["DirectoryLock", "FileSystem", "unfinished_files"]

_WRITE_BYTES = 8 << 20
_UNFINISHED_SUFFIX = ".unfinished"


def unfinished_files(directory: Path) -> list[Path]:
    """What killed processes left of their :meth:`FileSystem.replace_file` in a directory.

    Those of a process that is still writing are among them: delete them under a lock only.
    """
    return sorted(p for p in directory.glob(".*") if p.name.endswith(_UNFINISHED_SUFFIX))


class FileSystem:
    """Primitive operations on the disk, and the durable combinations made of them."""

    # Primitives: one system call each.

    def create(self, path: Path) -> int:
        """Create a new file for writing and return its descriptor; it must not exist."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        return os.open(path, flags, 0o666)  # less what the umask takes away

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of ``data`` and return how many bytes were taken."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Wait until the file's content is on the disk."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def make_directory(self, path: Path) -> None:
        """Create one directory; it must not exist."""
        path.mkdir()

    def sync_directory(self, path: Path) -> None:
        """Wait until a directory's entries are on the disk."""
        if sys.platform == "win32":  # a directory cannot be opened there; NTFS journals entries
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give ``source`` another name in the same directory, atomically; a file may have it."""
        source.replace(target)

    def remove_file(self, path: Path) -> None:
        """Delete one file."""
        path.unlink()

    def remove_directory(self, path: Path) -> None:
        """Delete one empty directory."""
        path.rmdir()

    # Combinations.

    def write_file(self, path: Path, chunks: Iterable[memoryview], *, durable: bool = True) -> None:
        """Create ``path`` and write all of ``chunks``.

        Args:
            path: A file that does not exist.
            chunks: Contiguous bytes.
            durable: Whether to wait until they are on the disk.

        Raises:
            OSError: if the disk is full or fails; the unfinished file is left for the caller.
        """
        descriptor = self.create(path)
        try:
            for chunk in chunks:
                view = chunk.cast("B") if chunk.nbytes else memoryview(b"")
                while view.nbytes:
                    taken = self.write(descriptor, view[:_WRITE_BYTES])
                    view = view[taken:]
            if durable:
                self.sync(descriptor)
        finally:
            self.close(descriptor)

    def replace_file(self, path: Path, content: bytes, *, durable: bool) -> None:
        """Give a file this content at once: others see the old file or the new, never a part.

        A symbolic link stays one: the file it leads to is replaced. What is no file, such as
        /dev/stdout, is written to.

        Args:
            path: The file, which need not exist; its directory must.
            content: All of it.
            durable: Whether to wait until it is on the disk. Without, a loss of power may leave
                a part; that is for what can be made again.

        Raises:
            OSError: if the disk is full or fails, or the directory cannot be written to. The old
                file is as it was and nothing is beside it; only where the wait for the directory
                fails, the new one is there already.
        """
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        target = path.resolve()
        name = f".{target.name}.{secrets.token_hex(4)}{_UNFINISHED_SUFFIX}"
        temporary = target.with_name(name)
        try:
            self.write_file(temporary, [memoryview(content)], durable=durable)
            self.rename(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                self.remove_file(temporary)
            raise
        if durable:
            self.sync_directory(target.parent)

    def remove_tree(self, path: Path) -> None:
        """Delete a directory and all below it; what is gone already is not an error."""
        with contextlib.suppress(FileNotFoundError):
            for entry in sorted(path.iterdir()):
                if entry.is_dir() and not entry.is_symlink():
                    self.remove_tree(entry)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        self.remove_file(entry)
            self.remove_directory(path)


class DirectoryLock:
    """An exclusive lock on a directory, released by the system when the process ends.

    With it held, every temporary directory that is found is a leftover of a dead process and can
    be removed safely.

    Args:
        directory: It must exist; the lock is its file ``.lock``.
        error: What to raise when another process (or another lock in this one) holds it.
    """

    def __init__(
        self, directory: Path, error: type[CheckpointError | DataError] = CheckpointError
    ) -> None:
        self._path = directory / ".lock"
        self._descriptor: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(self._descriptor)
        except OSError as cause:
            holder = os.read(self._descriptor, 64).decode("ascii", "replace").strip() or "unknown"
            self._close()
            writer, end = f"another process (pid {holder})", "end"
            if holder == str(os.getpid()):
                writer, end = "this process already", "close"
            raise error(
                f"The directory {directory} is being written by {writer}. Two cannot share one: "
                f"{end} the other, or use another directory."
            ) from cause
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Let others write to the directory."""
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
