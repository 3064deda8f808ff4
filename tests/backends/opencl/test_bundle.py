"""Ahead-of-time bundles: the same bits as from source, no compiler, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from accelkit_opencl import OpenclBackend
from accelkit_opencl.bundle import read_manifest, write_bundle, write_sources
from accelkit_opencl.programs import SourceProvider
from accelkit_opencl.runtime import Runtime

import accelkit as ak
from accelkit import losses, nn, optim, registry, train
from accelkit.errors import CompileError, CorruptDataError, DataError, DeviceError

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


def test_sources_build_as_one_image(bundle: Path, tmp_path: Path, runtime: Runtime) -> None:
    step = make_step(runtime)
    plan = step.compile(step.init(3, SHAPE), batch(0)).program.plan
    profile = registry.backend("opencl").profile(runtime.device)
    write_sources(tmp_path, {"train": plan}, profile)
    assert (tmp_path / "build.sh").stat().st_mode & 0o100
    text = (tmp_path / "kernels.cl").read_text()
    program = SourceProvider(runtime, keep_binaries=False).build(text)
    built = set(program.get_info(program_kernel_names()).split(";"))
    assert built == set(read_manifest(tmp_path)["kernels"])
    with pytest.raises(DataError, match=r"sources only.*build\.sh"):
        OpenclBackend().open_bundle(tmp_path, runtime.device)


def program_kernel_names() -> int:
    import pyopencl as cl

    return cl.program_info.KERNEL_NAMES


def rewrite(folder: Path, manifest: dict) -> None:
    from accelkit_opencl.bundle import _write_manifest

    _write_manifest(folder, manifest)
