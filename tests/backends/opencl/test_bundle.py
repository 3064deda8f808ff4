"""Ahead-of-time bundles: the same bits as from source, no compiler, and every refusal."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyopencl as cl
import pytest
from accelkit_opencl import OpenclBackend
from accelkit_opencl.bundle import read_manifest, seal, write_bundle, write_sources
from accelkit_opencl.programs import SourceProvider
from accelkit_opencl.runtime import Runtime

import accelkit as ak
from accelkit import losses, nn, optim, registry, train
from accelkit.errors import CompileError, CorruptDataError, DataError, DeviceError
from accelkit.filesystem import FileSystem

MODEL = nn.Sequential(
    conv=nn.Conv2d(6, 3, padding=1),
    relu=nn.ReLU(),
    pool=nn.MaxPool2d(2),
    flatten=nn.Flatten(),
    drop=nn.Dropout(0.5),
    fc=nn.Linear(5),
)
SHAPE = (4, 6, 6, 3)


def batch(index: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(index)
    return rng.standard_normal(SHAPE).astype(np.float32), rng.integers(0, 5, SHAPE[0])


def make_step(runtime: Runtime) -> train.TrainStep:
    optimizer = optim.sgd(0.05, momentum=0.9, weight_decay=1e-3)
    return train.TrainStep(
        MODEL, losses.SoftmaxCrossEntropy(), optimizer, device=str(runtime.device)
    )


def losses_of(step: train.TrainStep) -> list[float]:
    state, found = step.init(3, SHAPE), []
    for index in range(4):
        state, report = step(state, batch(index))
        found.append(report["loss"])
    return found


@pytest.fixture(scope="module")
def bundle(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the training step, and ``losses.json`` with the losses from source."""
    folder = tmp_path_factory.mktemp("bundle")
    backend = registry.backend("opencl")
    step = make_step(runtime)
    (folder / "losses.json").write_text(json.dumps(losses_of(step)))
    plan = step.compile(step.init(3, SHAPE), batch(0)).program.plan
    build = SourceProvider(runtime, keep_binaries=False).build
    write_bundle(folder, {"train": plan}, runtime, backend.profile(runtime.device), build)
    return folder


@pytest.fixture
def changed(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle to damage."""
    for path in bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> OpenclBackend:
    """A backend of its own, in which every build from source raises."""

    def refuse(*_: object) -> None:
        raise AssertionError("a device with a bundle reached the compiler")

    monkeypatch.setattr(SourceProvider, "build", refuse)
    backend = OpenclBackend()
    monkeypatch.setitem(registry._instances, "opencl", backend)
    return backend


def test_a_bundle_gives_the_same_losses_without_a_compiler(
    bundle: Path, fresh: OpenclBackend, runtime: Runtime
) -> None:
    fresh.open_bundle(bundle, runtime.device)
    assert losses_of(make_step(runtime)) == json.loads((bundle / "losses.json").read_text())


def test_a_kernel_outside_of_the_bundle_is_refused(
    bundle: Path, fresh: OpenclBackend, runtime: Runtime
) -> None:
    fresh.open_bundle(bundle, runtime.device)
    x = ak.asarray(np.ones((3, 7), np.float32), device=str(runtime.device))
    with pytest.raises(CompileError, match="lacks 1 of 1 kernels"):
        ak.jit(lambda v: v * 3.0)(x)


def test_without_a_bundle_the_compiler_would_have_been_reached(
    fresh: OpenclBackend, runtime: Runtime
) -> None:
    x = ak.asarray(np.ones((3, 7), np.float32), device=str(runtime.device))
    with pytest.raises(Exception, match="reached the compiler"):
        ak.jit(lambda v: v * 3.0)(x)


def test_another_device_is_refused(changed: Path, runtime: Runtime) -> None:
    manifest = read_manifest(changed)
    manifest["identity"]["driver"] = "another"
    rewrite(changed, manifest)
    with pytest.raises(DeviceError, match="was made for"):
        OpenclBackend().open_bundle(changed, runtime.device)


def test_a_processor_without_the_kernels_instructions_is_refused(
    bundle: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_manifest(bundle)["form"] == runtime.form
    identity = runtime.identity
    monkeypatch.setattr(runtime, "form", "range" if runtime.form == "wide" else "wide")
    other = dict(set(identity.items()) ^ set(runtime.identity.items()))
    assert other == {"features": "avx512f,avx512vl,avx512bw,avx512dq,avx512cd"}
    with pytest.raises(DeviceError, match="was made for"):
        OpenclBackend().open_bundle(bundle, runtime.device)


def test_a_binary_that_the_device_cannot_load_is_refused(changed: Path, runtime: Runtime) -> None:
    import hashlib

    binary = b"not a binary of any device"
    (changed / "kernels.bin").write_bytes(binary)
    manifest = read_manifest(changed)
    manifest["binary"]["sha256"] = hashlib.sha256(binary).hexdigest()
    rewrite(changed, manifest)
    with pytest.raises(DeviceError, match="refuses the binary"):
        OpenclBackend().open_bundle(changed, runtime.device)


@pytest.mark.parametrize("name", ["kernels.bin", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "absent"])
def test_damaged_files_are_refused(changed: Path, runtime: Runtime, name: str, damage: str) -> None:
    path = changed / name
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "absent":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:middle])
    else:
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises((CorruptDataError, DataError)):
        OpenclBackend().open_bundle(changed, runtime.device)


# --- sources for vendor compilers ---------------------------------------------------------------

COMPILER = """#!{python}
# Stands in for a vendor's offline compiler: checks its arguments, and builds with the driver.
import sys
from pathlib import Path

program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
if program == "v++" and arguments[0] == "-c":
    *fixed, kernel, source, out, target = arguments[1:]
    assert fixed == ["-t", "hw", "--platform", "card", "-k"] and source == "kernels.cl", arguments
    assert "void %s(" % kernel in Path(source).read_text() and out == "-o", arguments
    assert target == kernel + ".xo", arguments
    Path(target).write_text(kernel)
    sys.exit(0)
if program == "v++":
    *fixed, out, target = arguments
    assert fixed[:5] == ["-l", "-t", "hw", "--platform", "card"], arguments
    linked = [Path(name).read_text() for name in fixed[5:]]
    text = Path("kernels.cl").read_text()
    assert len(linked) == len(set(linked)) == text.count("__kernel"), arguments
    assert [out, target] == ["-o", "kernels.xclbin"], arguments
else:
    assert arguments == ["-board=card", "kernels.cl", "-o", "kernels.aocx"], arguments
    target = "kernels.aocx"

import pyopencl as cl
from accelkit.device import Device
from accelkit_opencl.programs import SourceProvider
from accelkit_opencl.runtime import open_device

runtime = open_device(Device("opencl", "{kind}", {index}))
built = SourceProvider(runtime, keep_binaries=False).build(Path("kernels.cl").read_text())
Path(target).write_bytes(built.get_info(cl.program_info.BINARIES)[0])
"""


@pytest.fixture(scope="module")
def sources(bundle: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training step as sources. Depends on ``bundle`` for its losses."""
    folder = tmp_path_factory.mktemp("sources")
    step = make_step(runtime)
    plan = step.compile(step.init(3, SHAPE), batch(0)).program.plan
    write_sources(folder, {"train": plan}, registry.backend("opencl").profile(runtime.device))
    return folder


def test_a_full_disk_leaves_the_bundle_as_it_was(
    changed: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(files: FileSystem, descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = {path.name: path.read_bytes() for path in changed.iterdir()}
    monkeypatch.setattr(FileSystem, "write", full)
    with pytest.raises(DataError, match=r"manifest\.json cannot be written: No space left"):
        seal(changed, runtime)
    assert {path.name: path.read_bytes() for path in changed.iterdir()} == before


def test_sources_are_single_work_items_in_one_program(sources: Path, runtime: Runtime) -> None:
    manifest = read_manifest(sources)
    text = (sources / "kernels.cl").read_text()
    assert text.count("__kernel") == len(manifest["kernels"])
    assert "target(" not in text  # an instruction set is no vendor's compiler's matter
    if runtime.is_cpu:  # GPU forms with local memory stay as they are
        assert "get_global_id" not in text
        for kernel in manifest["kernels"].values():
            assert kernel["global_size"] == kernel["local_size"] == [1]
    program = SourceProvider(runtime, keep_binaries=False).build(text)  # as OpenCL C 1.2
    built = set(program.get_info(cl.program_info.KERNEL_NAMES).split(";"))
    assert built == set(manifest["kernels"])
    with pytest.raises(DataError, match=r"sources only.*build\.sh"):
        OpenclBackend().open_bundle(sources, runtime.device)


@pytest.mark.parametrize("compiler", ["aoc", "v++"])
def test_the_build_script_makes_a_bundle(
    compiler: str,
    bundle: Path,
    sources: Path,
    tmp_path: Path,
    fresh: OpenclBackend,
    runtime: Runtime,
) -> None:
    folder, programs = tmp_path / "sources", tmp_path / "bin"
    shutil.copytree(sources, folder)
    programs.mkdir()
    device = runtime.device
    script = COMPILER.format(python=sys.executable, kind=device.kind, index=device.index)
    (programs / compiler).write_text(script)
    (programs / compiler).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": sys.executable,
    }
    command = [folder / "build.sh", compiler, "card", str(device)]
    subprocess.run(command, env=environment, check=True)
    fresh.open_bundle(folder, device)
    assert losses_of(make_step(runtime)) == json.loads((bundle / "losses.json").read_text())


def test_the_build_script_explains_its_arguments(sources: Path) -> None:
    ended = subprocess.run(
        [sources / "build.sh", "gcc", "card"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "aoc BOARD [DEVICE] | v++ PLATFORM [DEVICE]" in ended.stderr


def rewrite(folder: Path, manifest: dict) -> None:
    from accelkit_opencl.bundle import _write_manifest

    _write_manifest(folder, manifest)
