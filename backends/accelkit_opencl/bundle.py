"""Bundles: programs compiled ahead of time, for devices without a compiler.

A bundle is a folder::

    manifest.json    format, device identity, kernels with their signatures, programs, checksums
    kernels.bin      the device's binary of all kernels: one image
    kernels.cl       instead of the binary, for vendor compilers (``--emit-sources``): every kernel
                     in its single-work-item form
    build.sh         the vendor compilers' command lines (``--emit-sources``)

A device opened with a bundle takes every kernel from it and never builds from source. The plan
of a program is a function of its graph and the bundle's device profile alone, so tracing the
same step again gives the same kernels, found in the bundle by names that end in the hash of
their source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyopencl as cl

from accelkit.errors import CompileError, CorruptDataError, DataError, DeviceError
from accelkit.filesystem import FileSystem
from accelkit_opencl.failures import code_name, funnel
from accelkit_opencl.kernels.forms import FORMS
from accelkit_opencl.kernels.source import KernelSource
from accelkit_opencl.lowering import Choice, Profile
from accelkit_opencl.plan import Plan
from accelkit_opencl.programs import build_from_binary
from accelkit_opencl.runtime import Runtime

__all__ = ["BundleProvider", "seal", "write_bundle", "write_sources"]

_FORMAT = "accelkit-opencl-bundle"
_VERSION = 2
_MANIFEST, _BINARY, _SOURCES = "manifest.json", "kernels.bin", "kernels.cl"

_BUILD_SCRIPT = """#!/bin/sh
# Builds all kernels into one image with a vendor's offline compiler, then records its checksum and
# the device that it is for.
# Usage: ./build.sh aoc BOARD [DEVICE]      Intel FPGA SDK for OpenCL
#        ./build.sh v++ PLATFORM [DEVICE]   AMD Vitis, for platforms with OpenCL C kernels
# DEVICE is accelkit's name of the board, by default its preferred OpenCL device.
set -eu
usage() {{ echo "usage: $0 aoc BOARD [DEVICE] | v++ PLATFORM [DEVICE]" >&2; exit 2; }}
[ $# -eq 2 ] || [ $# -eq 3 ] || usage
cd "$(dirname "$0")"
case "$1" in
  aoc)
    aoc -board="$2" kernels.cl -o kernels.aocx
    mv kernels.aocx {binary} ;;
  v++)
    for kernel in {kernels}; do
      v++ -c -t hw --platform "$2" -k "$kernel" kernels.cl -o "$kernel.xo"
    done
    v++ -l -t hw --platform "$2" ./*.xo -o kernels.xclbin
    mv kernels.xclbin {binary} ;;
  *) usage ;;
esac
"${{PYTHON:-python3}}" -m accelkit.opencl seal . --device "${{3:-opencl}}"
"""


class _Recorder:
    """The kernels of some plans, each once."""

    def __init__(self, plans: Iterable[Plan], form: Callable[[KernelSource], KernelSource]) -> None:
        self._form = form
        self.sources: dict[str, KernelSource] = {}
        for plan in plans:
            for source in self.of(plan):
                self.sources[source.name] = source

    def of(self, plan: Plan) -> list[KernelSource]:
        """The kernels of a plan's launches, in order."""
        return [self._form(launch.source) for launch in plan.launches]

    @property
    def text(self) -> str:
        """All kernels as one program."""
        return "\n".join(self.sources[name].source for name in sorted(self.sources))


def write_bundle(
    folder: Path,
    programs: Mapping[str, Plan],
    runtime: Runtime,
    profile: Profile,
    build: Any,
) -> None:
    """Write a bundle with a binary for an opened device.

    Args:
        folder: Created if absent.
        programs: Plans by name.
        runtime: The device.
        profile: With which the plans were made.
        build: ``build(source) -> cl.Program``, the device's compiler.

    Raises:
        CompileError: if the compiler refuses the kernels.
        DataError: if the folder cannot be written.
    """
    recorder = _Recorder(programs.values(), FORMS[runtime.form])
    program = build(recorder.text)
    with funnel("reading the binary of a bundle"):
        binary = program.get_info(cl.program_info.BINARIES)[0]
    _write(folder / _BINARY, binary)
    manifest = _manifest(programs, recorder, profile, runtime.form, runtime.identity)
    manifest["binary"] = {"file": _BINARY, "sha256": hashlib.sha256(binary).hexdigest()}
    _write_manifest(folder, manifest)


def write_sources(folder: Path, programs: Mapping[str, Plan], profile: Profile) -> None:
    """Write OpenCL C 1.2 sources and a build script for vendor compilers instead of a binary.

    The device's identity and the binary's checksum are recorded afterwards by :func:`seal`.

    Raises:
        DataError: if the folder cannot be written.
    """
    recorder = _Recorder(programs.values(), FORMS["task"])
    _write(folder / _SOURCES, recorder.text.encode())
    script = folder / "build.sh"
    kernels = " ".join(sorted(recorder.sources))
    _write(script, _BUILD_SCRIPT.format(kernels=kernels, binary=_BINARY).encode())
    script.chmod(0o755)
    _write_manifest(folder, _manifest(programs, recorder, profile, "task", None))


def seal(folder: Path, runtime: Runtime) -> None:
    """Record an image that a vendor's compiler built, and the device that it is for.

    Raises:
        DataError: if there is no bundle or no image, or the folder cannot be written.
    """
    manifest = read_manifest(folder)
    try:
        binary = (folder / _BINARY).read_bytes()
    except OSError as error:
        raise DataError(
            f"{folder / _BINARY} cannot be read: {error.strerror}. Run build.sh first."
        ) from error
    manifest["binary"] = {"file": _BINARY, "sha256": hashlib.sha256(binary).hexdigest()}
    manifest["identity"] = runtime.identity
    _write_manifest(folder, manifest)


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, indent=1, sort_keys=True)
    manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    _write(folder / _MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())


def _write(path: Path, content: bytes) -> None:
    """Write a file of a bundle at once: a full disk leaves what was there before."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        FileSystem().replace_file(path, content, durable=False)
    except OSError as error:
        raise DataError(
            f"The bundle's file {path} cannot be written: {error.strerror}. Free some space, or "
            "give another folder."
        ) from error


def _manifest(
    programs: Mapping[str, Plan],
    recorder: _Recorder,
    profile: Profile,
    form: str,
    identity: dict[str, str] | None,
) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "identity": identity,
        "profile": asdict(profile),
        "form": form,
        "kernels": {
            name: {
                "arguments": list(source.arguments),
                "global_size": list(source.global_size),
                "local_size": list(source.local_size),
            }
            for name, source in sorted(recorder.sources.items())
        },
        "programs": {name: _describe(plan, recorder.of(plan)) for name, plan in programs.items()},
    }


def _describe(plan: Plan, sources: Sequence[KernelSource]) -> dict[str, Any]:
    """A plan's signature, launches and memory, for readers of the manifest."""
    return {
        "inputs": [str(spec) for spec in plan.inputs],
        "outputs": [str(spec) for spec in plan.outputs],
        "outputs_reuse_inputs": list(plan.reused),
        "arena_bytes": list(plan.slab_bytes),
        "arena_lower_bound_bytes": plan.lower_bound_bytes,
        "launches": [
            {
                "kernel": source.name,
                "arguments": [[s.kind, s.index, s.offset, s.size_bytes] for s in launch.arguments],
            }
            for source, launch in zip(sources, plan.launches, strict=True)
        ],
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle, verified.

    Raises:
        DataError: if there is no bundle, or it is of another version.
        CorruptDataError: if the manifest was changed or truncated.
    """
    path = folder / _MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{folder} is not an OpenCL bundle: {path.name} cannot be read ({reason}). Make one "
            f"with `python -m accelkit.opencl bundle`."
        ) from error
    try:
        manifest: dict[str, Any] = json.loads(text)
        recorded = manifest.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorruptDataError(f"The manifest {path} is damaged: {error}.") from error
    content = json.dumps(manifest, indent=1, sort_keys=True)
    if hashlib.sha256(content.encode()).hexdigest() != recorded:
        raise CorruptDataError(f"The manifest {path} was changed: its checksum does not match.")
    if manifest.get("format") != _FORMAT or manifest.get("version") != _VERSION:
        raise DataError(
            f"{path} has format {manifest.get('format')!r} version {manifest.get('version')!r}; "
            f"this accelkit reads {_FORMAT!r} version {_VERSION}. Write the bundle anew."
        )
    return manifest


class BundleProvider:
    """Kernels of a bundle, verified before anything runs.

    Args:
        folder: The bundle.
        runtime: The device to run on.

    Raises:
        DataError, CorruptDataError: if the bundle is missing, damaged, or has no binary.
        DeviceError: if it was made for another device or driver.
    """

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self.folder = folder
        manifest = read_manifest(folder)
        self.profile = _profile(manifest["profile"])
        self.form = FORMS[manifest["form"]]
        self._signatures = manifest["kernels"]
        self._program = self._load(manifest, runtime)

    def _load(self, manifest: dict[str, Any], runtime: Runtime) -> cl.Program:
        recorded = manifest.get("binary")
        if recorded is None:
            raise DataError(
                f"The bundle {self.folder} holds sources only. Build them with its build.sh first."
            )
        if manifest["identity"] != runtime.identity:
            raise DeviceError(
                f"The bundle {self.folder} was made for {manifest['identity']}, but "
                f"{runtime.device} is {runtime.identity}. Make a bundle for this device and driver."
            )
        path = self.folder / _BINARY
        try:
            binary = path.read_bytes()
        except OSError as error:
            raise CorruptDataError(
                f"The bundle's binary {path} cannot be read: {error}."
            ) from error
        if hashlib.sha256(binary).hexdigest() != recorded["sha256"]:
            raise CorruptDataError(
                f"The bundle's binary {path} was changed or truncated: its checksum does not match."
            )
        try:
            return build_from_binary(runtime, binary)
        except cl.Error as error:
            raise DeviceError(
                f"{runtime.device} refuses the binary of the bundle {self.folder}: "
                f"{code_name(error)}. Make a bundle for this device and driver."
            ) from error

    def kernels(self, sources: Sequence[KernelSource]) -> list[cl.Kernel]:
        """One fresh kernel per source, by name and signature.

        Raises:
            CompileError: if the bundle lacks one; lists what is missing.
        """
        missing = [s.name for s in sources if not self._has(s)]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise CompileError(
                f"The bundle {self.folder} lacks {len(missing)} of {len(sources)} kernels that "
                f"this program needs ({shown}), and a device with a bundle does not compile. The "
                f"model, the shapes, the batch size or accelkit's version differ from the "
                f"bundle's. Make a bundle for this program."
            )
        with funnel("creating kernels of a bundle"):
            return [cl.Kernel(self._program, source.name) for source in sources]

    def _has(self, source: KernelSource) -> bool:
        found = self._signatures.get(source.name)
        return (
            found is not None
            and tuple(found["arguments"]) == source.arguments
            and tuple(found["global_size"]) == source.global_size
            and tuple(found["local_size"]) == source.local_size
        )


def _profile(fields: dict[str, Any]) -> Profile:
    choices = {key: Choice(**value) for key, value in fields.pop("choices").items()}
    return Profile(**fields, choices=choices)
