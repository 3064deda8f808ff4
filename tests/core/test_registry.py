"""Backends and models by entry points: missing and broken ones, and their neighbours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from accelkit_numpy import NumpyBackend

import accelkit as ak
from accelkit import registry
from accelkit.errors import BackendUnavailableError, DeviceError, UnknownNameError

MISSING = """
import a_framework_that_is_not_installed
"""
BROKEN = """
import ctypes
raise OSError("libdriver.so.1: cannot open shared object file")
"""
FAILING = """
from accelkit_numpy import NumpyBackend
class Failing(NumpyBackend):
    name = "failing"
    def __init__(self):
        raise RuntimeError("no driver")
"""
UNLISTED = """
from accelkit_numpy import NumpyBackend
class Unlisted(NumpyBackend):
    name = "unlisted"
    def devices(self):
        raise RuntimeError("CUDA driver initialization failed")
"""
EMPTY = """
from accelkit_numpy import NumpyBackend
class Empty(NumpyBackend):
    name = "empty"
    def devices(self):
        return []
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Distributions that offer backends of every sad kind, beside the real ones."""
    for name, source in {
        "missing": MISSING,
        "broken": BROKEN,
        "failing": FAILING,
        "empty": EMPTY,
        "unlisted": UNLISTED,
    }.items():
        (tmp_path / f"{name}_backend.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    real = registry._entry_points

    def simulated(group: str) -> dict[str, EntryPoint]:
        if group != "accelkit.backends":
            return real(group)
        found = {
            "torch": "missing_backend:Backend",
            "tensorflow": "broken_backend:Backend",
            "failing": "failing_backend:Failing",
            "misspelt": "empty_backend:Other",
            "empty": "empty_backend:Empty",
            "unlisted": "unlisted_backend:Unlisted",
            "somebodys": "missing_backend:Backend",
        }
        points = {name: EntryPoint(name, value, group) for name, value in found.items()}
        return {"numpy": real(group)["numpy"], **points}

    monkeypatch.setattr(registry, "_entry_points", simulated)
    monkeypatch.setattr(registry, "_instances", {"numpy": registry.backend("numpy")})
    monkeypatch.setattr(registry, "_failures", {})
    yield
    for name in [n for n in sys.modules if n.endswith("_backend") and "accelkit" not in n]:
        del sys.modules[name]


@pytest.mark.usefixtures("installed")
def test_a_missing_framework_comes_with_its_install_line() -> None:
    text = (
        r"Backend 'torch' needs the package 'a_framework_that_is_not_installed', which is missing. "
        r"Install it with: pip install 'accelkit\[torch\]'"
    )
    for _ in range(2):  # the second time from memory
        with pytest.raises(BackendUnavailableError, match=text) as caught:
            ak.device("torch:cuda")
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)
        assert isinstance(caught.value, ImportError)
    with pytest.raises(BackendUnavailableError, match=r"which is missing.$"):
        registry.backend("somebodys")  # nobody knows how to install that one


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("tensorflow", "fails to load: OSError: libdriver.so.1: cannot open", OSError),
        ("failing", "fails to load: RuntimeError: no driver", RuntimeError),
        ("misspelt", "fails to load: AttributeError", AttributeError),
    ],
)
def test_a_broken_backend_keeps_its_own_error(name: str, text: str, cause: type) -> None:
    with pytest.raises(BackendUnavailableError, match=f"Backend '{name}' {text}") as caught:
        ak.zeros(2, device=name)
    assert isinstance(caught.value.__cause__, cause)


@pytest.mark.usefixtures("installed")
def test_the_others_work_and_the_list_says_why_some_do_not() -> None:
    report = ak.devices()
    assert [str(info.device) for info in report] == ["numpy:cpu:0"]
    assert len(report) == 1
    assert set(report.unavailable) == {
        "torch", "tensorflow", "failing", "misspelt", "empty", "somebodys", "unlisted",
    }  # fmt: skip
    assert "pip install 'accelkit[torch]'" in report.unavailable["torch"]
    reason = "Backend 'unlisted' fails to list its devices: RuntimeError: CUDA driver init"
    assert report.unavailable["unlisted"].startswith(reason)
    assert report.unavailable["empty"] == "its framework is installed, but reports no device"
    text = str(report)
    assert text.startswith("numpy:cpu:0  ")
    assert "tensorflow  unavailable: Backend 'tensorflow' fails to load: OSError" in text
    assert (ak.ones(2) + 1.0).tolist() == [2.0, 2.0]


@pytest.mark.usefixtures("installed")
def test_an_unknown_backend_gets_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown backend 'torhc'. Did you mean 'torch'\?"):
        ak.device("torhc")
    with pytest.raises(UnknownNameError, match=r"Unknown backend 'zzz'. Known: 'empty'"):
        ak.device("zzz")


def test_numpy_comes_first() -> None:
    assert registry.backend_names()[0] == "numpy"


def test_a_program_registers_a_backend_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered_backends", {})
    monkeypatch.setattr(registry, "_instances", dict(registry._instances))

    class Toy(NumpyBackend):
        name = "toy"

    registry.register_backend("toy", Toy)
    assert "toy" in registry.backend_names()
    assert isinstance(registry.backend("toy"), Toy)
    assert registry.backend("toy") is registry.backend("toy")
    registry.register_backend("toy", lambda: Toy())  # replaces it
    assert not registry.is_loaded("toy")


def test_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**options: Any) -> dict[str, Any]:
        return options

    monkeypatch.setattr(registry, "_registered_models", {})
    registry.register_model("tiny", build)
    assert "tiny" in registry.model_names()
    assert registry.model_factory("tiny") is build
    with pytest.raises(UnknownNameError, match=r"Unknown model 'alexnt'. Did you mean 'alexnet'"):
        registry.model_factory("alexnt")


@pytest.mark.usefixtures("installed")
def test_a_device_of_a_backend_that_cannot_list_them_keeps_the_cause() -> None:
    with pytest.raises(DeviceError, match=r"'unlisted' fails to list its devices") as caught:
        ak.device("unlisted:cuda:0")
    assert isinstance(caught.value.__cause__, RuntimeError)
