"""Where compiled programs come from.

A *provider* turns kernel sources into kernels. :class:`SourceProvider` builds them with the
device's compiler and keeps the binaries in the user's cache folder. A bundle (see
:mod:`accelkit_opencl.bundle`) is the other provider: it holds binaries only.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyopencl as cl

from accelkit.errors import CompileError
from accelkit.filesystem import FileSystem
from accelkit_opencl.failures import code_name, funnel
from accelkit_opencl.kernels.forms import FORMS
from accelkit_opencl.kernels.source import KernelSource
from accelkit_opencl.runtime import Runtime

__all__ = ["Provider", "SourceProvider", "build_from_binary", "cache_folder"]

_MAGIC = b"accelkit-opencl-1\n"
_OPTIONS = ["-cl-std=CL1.2"]


class Provider(Protocol):
    """Source of kernels for one device."""

    def form(self, source: KernelSource) -> KernelSource:
        """The form in which this provider has a kernel: other code, the same results."""
        ...

    def kernels(self, sources: Sequence[KernelSource]) -> list[cl.Kernel]:
        """One fresh kernel object per source, in order.

        Raises:
            CompileError: if one cannot be had.
        """
        ...


def cache_folder() -> Path:
    """Folder of cached binaries and tuning results of this user."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("accelkit")) / "opencl"


# Runtimes that keep compiled kernels on disk themselves; asking them for a binary as well makes
# them compile everything a second time.
_OWN_CACHE = ("Portable Computing Language",)


class SourceProvider:
    """Builds from source, through a cache of binaries on disk.

    All new kernels of one request are built as one program: compilers take longer to start than
    to translate a kernel.

    Args:
        runtime: The device.
        folder: Cache folder; None for the user's own.
        keep_binaries: Whether to cache binaries; None for "unless the runtime does so itself".
    """

    def __init__(
        self,
        runtime: Runtime,
        folder: Path | None = None,
        *,
        keep_binaries: bool | None = None,
    ) -> None:
        self._runtime = runtime
        self._folder = folder or cache_folder()
        if keep_binaries is None:
            keep_binaries = runtime.handle.platform.name not in _OWN_CACHE
        self._keep_binaries = keep_binaries
        self._programs: dict[str, cl.Program] = {}
        self._lock = threading.Lock()

    def form(self, source: KernelSource) -> KernelSource:
        """The kernel in the form for the device's compiler."""
        return FORMS[self._runtime.form](source)

    def kernels(self, sources: Sequence[KernelSource]) -> list[cl.Kernel]:
        """One fresh kernel object per source; equal sources share a program."""
        with self._lock:
            missing = {s.name: s.source for s in sources if s.name not in self._programs}
            if missing:
                program = self._program(missing)
                self._programs.update(dict.fromkeys(missing, program))
            with funnel("creating kernels"):
                return [cl.Kernel(self._programs[s.name], s.name) for s in sources]

    def _program(self, sources: Mapping[str, str]) -> cl.Program:
        text = "\n".join(sources[name] for name in sorted(sources))
        if not self._keep_binaries:
            return self.build(text)
        path = self._folder / f"{self._key(text)}.bin"
        cached = read_cached(path)
        if cached is not None:
            try:
                return build_from_binary(self._runtime, cached)
            except cl.Error as error:
                warnings.warn(
                    f"The cached OpenCL binary {path} does not load ({code_name(error)}); "
                    f"building from source.",
                    RuntimeWarning,
                    stacklevel=2,
                )
        program = self.build(text)
        binary = program.get_info(cl.program_info.BINARIES)[0]
        if binary:
            write_cached(path, binary)
        return program

    def _key(self, source: str) -> str:
        identity = json.dumps([self._runtime.identity, _OPTIONS, source], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:32]

    def build(self, source: str) -> cl.Program:
        """Build a program from source, without the cache.

        Raises:
            CompileError: with the compiler's log; the source is saved to a named file.
        """
        runtime = self._runtime
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", cl.CompilerWarning)
                return cl.Program(runtime.context, source).build(
                    options=_OPTIONS, devices=[runtime.handle], cache_dir=False
                )
        except cl.Error as error:
            with tempfile.NamedTemporaryFile(
                "w", prefix="accelkit-", suffix=".cl", delete=False
            ) as file:
                file.write(source)
            raise CompileError(
                f"The OpenCL compiler of {runtime.handle.name.strip()} refused a program: "
                f"{code_name(error)}. Its source was saved to {file.name}. The compiler "
                f"says:\n{str(error)[:4000]}"
            ) from error


def build_from_binary(runtime: Runtime, binary: bytes) -> cl.Program:
    """Load a program from a device binary; never reaches the source compiler."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cl.CompilerWarning)
        return cl.Program(runtime.context, [runtime.handle], [binary]).build()


def read_cached(path: Path) -> bytes | None:
    """Content of a cache file, None if it is absent, or corrupt, which warns."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn(path, str(error))
        return None
    start = len(_MAGIC) + 32
    body = content[start:]
    if content[:start] != _MAGIC + hashlib.sha256(body).digest():
        _warn(path, "it is truncated or was changed")
        return None
    return body


def write_cached(path: Path, body: bytes) -> None:
    """Write a cache file atomically; a cache that cannot be written is not an error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = _MAGIC + hashlib.sha256(body).digest() + body
        FileSystem().replace_file(path, content, durable=False)
    except OSError as error:
        warnings.warn(
            f"The OpenCL cache file {path} cannot be written: {error}. Programs are built anew "
            f"in every process.",
            RuntimeWarning,
            stacklevel=2,
        )


def _warn(path: Path, why: str) -> None:
    warnings.warn(f"The cache file {path} is ignored: {why}.", RuntimeWarning, stacklevel=3)
