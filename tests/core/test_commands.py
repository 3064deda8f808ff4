"""Every command explains itself, and ends with a word and a status instead of a traceback."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accelkit import registry

COMMANDS = ("bench", "parity", "train", "evaluate", "plot", "data", "opencl")
MAINS = {
    "bench": "accelkit.bench.command",
    "parity": "accelkit.parity.command",
    "train": "accelkit.training.train",
    "evaluate": "accelkit.training.evaluate",
    "plot": "accelkit.training.plot",
    "data": "accelkit.data.__main__",
    "opencl": "accelkit.opencl",
}


def run(command: str, *words: str) -> int:
    """The exit status of a command line, in this process."""
    try:
        status: int = importlib.import_module(MAINS[command]).main([*words])
    except SystemExit as ended:  # argparse
        return int(ended.code or 0)
    return status


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "opencl":
        pytest.importorskip("pyopencl")
    seen: list[argparse.ArgumentParser] = []
    original = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *args: Any, **options: Any) -> Any:
        seen.append(self)
        return original(self, *args, **options)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", _noting(seen))
    assert run(command, "--help") == 0
    text = capsys.readouterr().out
    assert f"usage: python -m accelkit.{command}" in text
    assert seen
    silent = [a.dest for p in _with_children(seen[0]) for a in p._actions if not a.help]
    assert not [name for name in silent if name != "==SUPPRESS=="]


def _noting(seen: list[argparse.ArgumentParser]) -> Any:
    original = argparse.ArgumentParser.parse_known_args

    def parse(self: argparse.ArgumentParser, *args: Any, **options: Any) -> Any:
        seen.append(self)
        return original(self, *args, **options)

    return parse


def _with_children(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()
            return
    yield parser


MISTAKES = [
    ("bench", ["--backend", "torhc"], 2, r"'torhc'. Did you mean 'torch'"),
    ("bench", ["--batch-size", "0"], 2, r"batch_size must be at least 1, got 0"),
    ("bench", ["--model", "alexnt"], 2, r"Did you mean 'alexnet'"),
    ("bench", ["--variant", "2021"], 2, r"variant of alexnet '2021'. Did you mean '2012'"),
    ("bench", ["--image-size", "20"], 2, r"Layer 'features\.5' \(MaxPool2d\)"),
    ("bench", ["--device", "numpy:gpu"], 2, r"no device 'numpy:gpu'. It has: numpy:cpu:0"),
    ("bench", ["--fail-over", "5"], 2, r"--fail-over needs --compare OLD\.json"),
    ("parity", ["--backend", "torhc"], 2, r"Did you mean 'torch'"),
    ("parity", ["--steps", "0"], 2, r"steps must be at least 1, got 0"),
    ("parity", ["--precision", "float16"], 2, r"precision 'float16'.*'float32'"),
    ("parity", ["--device", "numpy:gpu"], 2, r"has no device 'numpy:gpu'"),
    ("train", [], 2, r"--data is required"),
    ("train", ["--data", "nowhere"], 2, r"'nowhere' names no data\. Expected"),
    ("train", ["--data", "shapes:8:32", "--epochs", "0"], 2, r"--epochs: 0 is below 1"),
    ("train", ["--data", "shapes:8:32", "--resume"], 2, r"--resume needs --checkpoint DIR"),
    ("train", ["--data", "shapes:8:32", "--model", "alexnt"], 2, r"Did you mean 'alexnet'"),
    ("train", ["--data", "shapes:8:32", "--bogus"], 2, r"unrecognized arguments: --bogus"),
    ("train", ["--data", "shapes:8:32", "--epoch", "3"], 2, r"unrecognized arguments: --epoch"),
    ("evaluate", ["nowhere"], 2, r"There is no checkpoint directory nowhere"),
    ("plot", ["nowhere"], 2, r"The log nowhere cannot be read"),
    ("data", ["info", "nowhere"], 2, r"'nowhere' names no data"),
    ("data", [], 2, r"COMMAND"),
    ("data", ["pack", "shapes:9:8", "out", "--size", "-3"], 2, r"--size: -3 is below 0"),
    ("data", ["pack", "shapes:9:8", "out", "--threads", "x"], 2, r"--threads: 'x' is no integer"),
    ("data", ["verify", "nowhere"], 2, r"There is no pack nowhere"),
]


@pytest.mark.parametrize(("command", "words", "status", "message"), MISTAKES)
def test_mistakes_end_with_a_word_and_a_status(
    command: str,
    words: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(command, *words) == status
    written = capsys.readouterr()
    said = " ".join(written.err.split())
    assert re.search(message, said), said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir()), "something was left behind"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tune", "--budget", "-1"], r"--budget: -1.0 is not positive and finite"),
        (["tune", "--batch-size", "-2"], r"--batch-size: -2 is below 1"),
        (["tune", "--width", "nan"], r"--width: nan is not positive and finite"),
        (["tune", "--model", "alexnt"], r"Did you mean 'alexnet'"),
        (["tune", "--device", "opencl:gpu:7"], r"no device 'opencl:gpu:7'"),
        (["bundle", "--out", "file/inside"], r"--out file/inside cannot be written: Not a dir"),
        (["seal", "nowhere"], r"nowhere"),
    ],
)
def test_mistakes_of_the_opencl_command(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pyopencl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELKIT_OPENCL_NO_TUNE", "1")  # whatever table this machine has
    (tmp_path / "file").write_text("")
    assert run("opencl", *words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said), said


@pytest.mark.parametrize(
    ("words", "interrupted"),
    [
        (("evaluate", "runs"), "accelkit.training.evaluate.load_checkpoint"),
        (("plot", "log"), "accelkit.training.plot.draw"),
        (("parity",), "accelkit.parity.command.parse"),
        (("data", "info", "digits"), "accelkit.data.__main__.open_source"),
        (("opencl", "devices"), "accelkit_opencl.command._parser"),
    ],
)
def test_an_interrupt_is_no_traceback(
    words: tuple[str, ...],
    interrupted: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if words[0] == "opencl":
        pytest.importorskip("pyopencl")

    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(interrupted, interrupt)
    assert run(*words) == 130
    assert capsys.readouterr().err.startswith("interrupted")


def test_the_opencl_command_without_its_packages_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> Any:
        raise ModuleNotFoundError("No module named 'pyopencl'", name="pyopencl")

    monkeypatch.setattr(registry, "_registered_backends", {"opencl": missing})
    monkeypatch.setattr(registry, "_instances", {})
    monkeypatch.setattr(registry, "_failures", {})
    assert run("opencl", "devices") == 1
    assert "pip install 'accelkit[opencl]'" in capsys.readouterr().err


def test_a_reader_that_goes_away_ends_a_command_without_a_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "accelkit.data", "info", "shapes"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")
