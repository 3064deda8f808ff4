"""The command line is checked, in accelkit's own words, before anything runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from accelkit.bench.options import Target, parse, require_writable, targets
from accelkit.errors import AccelkitError, OptionError, ShapeError, UnknownNameError

KNOWN = ("numpy", "jax", "torch")
SMALL = ("--backend", "numpy", "--model", "lenet5")


@pytest.mark.parametrize(
    ("backend", "device", "expected"),
    [
        (None, None, [("numpy", False), ("jax", False), ("torch", False)]),
        ("all", None, [("numpy", False), ("jax", False), ("torch", False)]),
        ("torch,numpy", None, [("torch", True), ("numpy", True)]),
        ("torch, torch", None, [("torch", True)]),
        (None, "torch:cuda:1", [("torch:cuda:1", True)]),
        (None, "torch:cpu,torch:cuda", [("torch:cpu", True), ("torch:cuda", True)]),
        ("torch,jax", "cpu", [("torch:cpu", True), ("jax:cpu", True)]),
        ("torch", "cpu,cuda:1", [("torch:cpu", True), ("torch:cuda:1", True)]),
        ("torch,jax", "torch:cuda", [("torch:cuda", True), ("jax", True)]),
        ("all", "cpu", [("numpy:cpu", False), ("jax:cpu", False), ("torch:cpu", False)]),
        ("all", "torch:cuda", [("torch:cuda", True), ("numpy", False), ("jax", False)]),
    ],
)
def test_backends_and_devices_name_targets_together(backend, device, expected):
    assert list(targets(backend, device, KNOWN)) == [Target(*pair) for pair in expected]


@pytest.mark.parametrize(
    ("backend", "device", "words"),
    [
        ("trch", None, ("'trch'", "Did you mean 'torch'?", "'jax'")),
        (None, "trch:cuda:0", ("'trch'", "Did you mean 'torch'?")),
        (None, "cpu", ("'cpu'", "needs --backend NAMES")),
    ],
)
def test_unknown_backends_are_refused_with_the_nearest(backend, device, words):
    with pytest.raises(UnknownNameError) as caught:
        targets(backend, device, KNOWN)
    for word in words:
        assert word in str(caught.value)


def test_a_device_of_a_backend_left_out_is_refused():
    with pytest.raises(OptionError, match=r"'torch:cpu' belongs to a backend that --backend jax"):
        targets("jax", "torch:cpu", KNOWN)


def test_empty_names_are_refused():
    with pytest.raises(OptionError, match="empty name"):
        targets("jax,,torch", None, KNOWN)


def test_defaults():
    options = parse(SMALL)
    assert [target.device for target in options.targets] == ["numpy"]
    assert options.settings.steps == 10
    assert options.settings.time_limit_s == 20.0
    assert options.threads >= 1
    assert options.fail_over is None
    assert not options.traceback


def test_a_number_of_steps_lifts_the_time_limit():
    settings = parse([*SMALL, "--steps", "7"]).settings
    assert (settings.steps, settings.time_limit_s) == (7, None)


@pytest.mark.parametrize(
    ("text", "share"), [("5", 0.05), ("5%", 0.05), ("0", 0.0), ("2.5%", 0.025)]
)
def test_percentages(text, share):
    options = parse([*SMALL, "--compare", "old.json", "--fail-over", text])
    assert options.fail_over == pytest.approx(share)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--batch-size", "0"], OptionError, ["batch_size must be at least 1, got 0"]),
        (["--batch-size", "-3"], OptionError, ["batch_size must be at least 1, got -3"]),
        (["--steps", "0"], OptionError, ["steps must be at least 1, got 0"]),
        (["--warmup", "-1"], OptionError, ["warmup must be at least 0, got -1"]),
        (["--image-size", "0"], OptionError, ["image_size must be at least 1, got 0"]),
        (["--threads", "0"], OptionError, ["threads must be at least 1, got 0"]),
        (["--width", "-1"], OptionError, ["width must be positive and finite, got -1.0"]),
        (["--width", "nan"], OptionError, ["width must be positive and finite, got nan"]),
        (["--seed", "-1"], OptionError, ["seed must be in [0, 2^64), got -1"]),
        (["--model", "alexnt"], UnknownNameError, ["'alexnt'", "Did you mean 'alexnet'"]),
        (["--variant", "2013"], UnknownNameError, ["'2013'", "Did you mean '2012'"]),
        (["--mode", "trian"], UnknownNameError, ["'trian'", "Did you mean 'train'"]),
        (["--precision", "flt32"], UnknownNameError, ["'flt32'", "'float32'"]),
        (["--model", "lenet5", "--width", "2"], OptionError, ["does not take 'width'"]),
        (["--image-size", "20"], ShapeError, ["'features.5'", "MaxPool2d", "(8, 1, 1, 192)"]),
        (["--json", "no/such/folder.json"], OptionError, ["--json", "there is no folder"]),
        (["--profile", "no/such/trace.json"], OptionError, ["--profile", "there is no folder"]),
        (["--json", "a.json", "--profile", "a.json"], OptionError, ["--json and --profile both"]),
        (["--fail-over", "5"], OptionError, ["--fail-over needs --compare"]),
        (
            ["--compare", "old.json", "--fail-over", "-5"],
            OptionError,
            ["such as 5 or 5%, got '-5'"],
        ),
        (["--compare", "old.json", "--fail-over", "x"], OptionError, ["such as 5 or 5%, got 'x'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options(arguments, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        parse(["--backend", "numpy", *arguments])
    assert isinstance(caught.value, AccelkitError)
    for word in words:
        assert word in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_place_for_a_report(tmp_path):
    with pytest.raises(OptionError, match="is a folder"):
        require_writable("--json", tmp_path)


def test_checking_a_path_leaves_nothing_behind_and_changes_nothing(tmp_path):
    old = tmp_path / "old.json"
    old.write_text("{}")
    require_writable("--json", old)
    require_writable("--json", tmp_path / "new.json")
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert old.read_text() == "{}"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/version is Linux's")
def test_a_path_that_the_system_refuses():
    with pytest.raises(OptionError, match="cannot be written"):
        require_writable("--json", Path("/proc/report.json"))
