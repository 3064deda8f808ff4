"""The training command: complete runs, interruptions, resumption, and wrong input."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from training.commands import SMALL, result, run

from accelkit.checkpoint import CheckpointWarning, list_checkpoints
from accelkit.train import TrainStep
from accelkit.training.interruption import Interruption
from accelkit.training.logs import read_log
from accelkit.training.train import main


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch):
    """Make SIGTERM arrive after a number of steps."""

    def arrange(steps: int) -> None:
        calls = iter(range(1, 10_000))
        original = TrainStep.__call__

        def counted(self: TrainStep, *arguments: Any) -> Any:
            returned = original(self, *arguments)
            if next(calls) == steps:
                os.kill(os.getpid(), signal.SIGTERM)
            return returned

        monkeypatch.setattr(TrainStep, "__call__", counted)

    yield arrange
    monkeypatch.undo()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reference")
    assert run(directory) == 0
    return directory


def test_complete_run(reference: Path) -> None:
    records = read_log(reference / "log")
    steps = [r for r in records if "evaluation" not in r]
    evaluations = [r for r in records if "evaluation" in r]
    assert [r["step"] for r in steps] == list(range(1, 13))
    assert [r["epoch"] for r in steps] == [1] * 6 + [2] * 6
    assert {"loss", "top1", "top5", "learning_rate"} <= steps[0].keys()
    assert [r["step"] for r in evaluations] == [6, 12]
    assert steps[0]["learning_rate"] == 0.02
    assert steps[-1]["learning_rate"] == pytest.approx(0.02 * 0.1**3)
    _, _, step, position = result(reference)
    assert step == 12
    assert position["epoch"] == 2


@pytest.mark.parametrize("steps", [1, 5, 6, 7, 11, 12])
def test_stopped_run_continues_to_the_same_bytes(
    tmp_path: Path, reference: Path, steps: int, stop_after: Any
) -> None:
    stop_after(steps)
    assert run(tmp_path) == 128 + signal.SIGTERM
    assert result(tmp_path)[2] == steps
    assert run(tmp_path, "--resume") == 0
    assert result(tmp_path) == result(reference)


def test_a_run_continues_from_an_older_checkpoint_if_the_newest_cannot_be_read(
    tmp_path: Path, reference: Path, stop_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(5)
    run(tmp_path, "--checkpoint-every=3")
    newest = list_checkpoints(tmp_path / "ck")[-1]
    read = Path.open

    def damaged(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == newest / "manifest.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", damaged)
    with pytest.warns(CheckpointWarning, match="-step-3 is used instead.*Input/output error"):
        assert run(tmp_path, "--resume") == 0
    assert result(tmp_path) == result(reference)


def test_resuming_a_complete_run_changes_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "--epochs=1") == 0
    before = result(tmp_path)
    assert run(tmp_path, "--epochs=1", "--resume") == 0
    assert result(tmp_path) == before


def test_resume_without_a_checkpoint_starts_anew(tmp_path: Path, reference: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "log.jsonl").write_text('{"step":1,"loss":7}\n{"step":2,"lo')
    assert run(tmp_path, "--resume", "--threads=2", "--checkpoint-every=5") == 0
    assert result(tmp_path) == result(reference)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_run_moves_to_another_backend(
    tmp_path: Path, reference: Path, backend: str, stop_after: Any
) -> None:
    pytest.importorskip(backend)
    stop_after(5)
    run(tmp_path)
    assert run(tmp_path, "--resume", f"--backend={backend}") == 0
    got, expected = (read_log(place / "log") for place in (tmp_path, reference))
    assert [r["step"] for r in got] == [r["step"] for r in expected]
    losses = np.array([[r["loss"] for r in rs if "loss" in r] for rs in (got, expected)])
    np.testing.assert_array_equal(losses[0, :5], losses[1, :5])
    assert np.abs(losses[0] - losses[1]).max() < 1e-5 * losses.max()


def test_target_accuracy_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--target-accuracy=0.01", progress="plain") == 0
    assert result(tmp_path)[2] == 6
    shown = capsys.readouterr().out
    assert re.search(r"Time to a top-1 accuracy of 0\.01: \d+\.\d s", shown)
    assert "epoch 1: evaluation loss" in shown
    assert re.search(r"images/s \(data \d+%, transfer \d+%, compute \d+%, limited by", shown)


def test_memory_limit_prints_its_choice_and_keeps_the_curve(
    tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--memory-limit=1MiB", progress="plain") == 0
    assert re.search(r"memory limit 1\.0 MiB: \d+ micro-batches", capsys.readouterr().out)
    got, expected = (read_log(place / "log") for place in (tmp_path, reference))
    for one, other in zip(got, expected, strict=True):
        assert one.get("loss", 0.0) == pytest.approx(other.get("loss", 0.0), rel=1e-5)


def test_live_display(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--epochs=1", progress="rich") == 0
    shown = capsys.readouterr().out
    assert "Done: 6 steps" in shown
    assert "epoch 1: evaluation loss" in shown
    assert "training" in shown
    assert "[bold]" not in shown  # messages leave the table's style alone


def test_the_learning_rate_cannot_change_silently(
    tmp_path: Path, stop_after: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_after(3)
    run(tmp_path)
    assert run(tmp_path, "--resume", "--batch-size=20") == 2
    assert "other options (batch_size: 10, now 20)" in capsys.readouterr().err
    assert run(tmp_path, "--resume", "--epochs=4") == 2
    assert "It depends on --epochs" in capsys.readouterr().err


def test_options_that_a_resumed_run_lacks_are_named(
    tmp_path: Path, stop_after: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ("--ema-decay=0.8", "--nesterov")
    stop_after(3)
    run(tmp_path, *own)
    assert run(tmp_path, "--resume", "--clip-norm=1") == 2
    error = capsys.readouterr().err
    assert "other options (clip_norm: None, now 1.0, ema_decay: 0.8, now None, " in error
    assert "Continue it with --ema-decay 0.8 --nesterov and without --clip-norm, or" in error
    assert run(tmp_path, "--resume", *own) == 0


def test_checkpoints_and_logs_of_other_runs_are_left_alone(
    tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = result(reference)
    assert run(reference) == 2
    assert "holds the checkpoints of a run. Continue it with --resume" in capsys.readouterr().err
    arguments = [*SMALL, "--progress=none", f"--log-dir={reference / 'log'}"]
    assert main(arguments) == 2
    assert "is the log of another run" in capsys.readouterr().err
    assert result(reference) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=/nowhere"], "names no data"),
        (["--data=shapes", "--model=alexnot"], "Did you mean 'alexnet'"),
        (["--data=shapes", "--model=alexnet", "--variant=x"], "Unknown variant"),
        (["--data=shapes", "--model-option=width"], "expected NAME=VALUE"),
        (["--data=shapes", "--model-option=depth=3"], "does not take 'depth'"),
        (["--data=shapes", "--model=lenet5", "--model-option=classes=4"], "data have 10 classes"),
        (["--data=shapes", "--model=lenet5"], "3 channels, the model takes 1"),
        (["--data=shapes:50", "--model=alexnet"], "do not fill one batch of 128"),
        (["--data=shapes", "--backend=cuda"], "Unknown backend 'cuda'"),
        (["--data=shapes", "--backend=torch:gpu:9"], "has no device"),
        (["--data=shapes", "--config=/nowhere.toml"], "cannot be read"),
    ],
)
def test_wrong_input(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_target_needs_test_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.zeros((20, 32, 32, 1), np.uint8)
    np.savez(tmp_path / "all.npz", images=images, labels=np.arange(20) % 10)
    arguments = [f"--data={tmp_path / 'all.npz'}", "--model=lenet5", "--batch-size=10"]
    assert main([*arguments, "--target-accuracy=0.5"]) == 2
    assert "has no test part. Give one with --eval-data" in capsys.readouterr().err


def write_images(root: Path, bad: bool) -> None:
    for split, count in (("train", 8), ("val", 4)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
                PIL.Image.fromarray(pixels).save(root / split / label / f"{number}.png")
    if bad:
        (root / "train" / "a" / "3.png").write_bytes(b"not an image")


@pytest.mark.parametrize("bad", [False, True])
def test_a_folder_of_images(tmp_path: Path, bad: bool, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "data", bad)
    arguments = [
        f"--data={tmp_path / 'data'}", "--model=lenet5", "--model-option=channels=3",
        "--image-size=32", "--batch-size=4", "--epochs=1", "--progress=plain",
    ]  # fmt: skip
    assert main(arguments) == (1 if bad else 0)
    captured = capsys.readouterr()
    if bad:
        assert "3.png cannot be decoded" in captured.err
        assert main([*arguments, "--on-corrupt=skip"]) == 0
        captured = capsys.readouterr()
        assert "1 skipped" in captured.out
    assert "Done: 4 steps" in captured.out


def test_classes_of_training_and_evaluation_must_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path, False)
    (tmp_path / "val" / "b").rename(tmp_path / "val" / "c")
    model = ("--model=lenet5", "--model-option=channels=3")
    assert main([f"--data={tmp_path}", *model, "--batch-size=4"]) == 2
    assert "the labels would not mean the same" in capsys.readouterr().err


def test_a_loss_that_explodes_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--data=shapes:40:64", "--model=alexnet", "--model-option=width=0.02", "--image-size=64",
        "--batch-size=10", "--learning-rate=1e30", "--epochs=1", "--progress=none",
    ]  # fmt: skip
    with np.errstate(all="ignore"):
        assert main(arguments) == 1
    assert "NaN or infinite in step" in capsys.readouterr().err


def test_second_signal_exits_at_once() -> None:
    program = """
import os, signal, sys, time
from accelkit.training.interruption import Interruption
with Interruption() as interruption:
    os.kill(os.getpid(), signal.SIGINT)
    assert interruption.signal_number == signal.SIGINT
    print("first survived", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert "first survived" in done.stdout
    assert "a second signal stops at once" in done.stderr


def test_signal_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interruption() as interruption:
        assert not interruption
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
