"""The commands that evaluate a checkpoint and draw curves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from training.commands import run

from accelkit import nn, ops
from accelkit.checkpoint import CheckpointInfo, write_checkpoint
from accelkit.training.assembly import MeanOverCrops
from accelkit.training.evaluate import main as evaluate
from accelkit.training.logs import read_log
from accelkit.training.plot import curve, running_mean
from accelkit.training.plot import main as plot


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    assert run(directory) == 0
    return directory


def test_evaluation_repeats_that_of_the_run(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logged = read_log(finished / "log")[-1]["evaluation"]
    assert evaluate([str(finished / "ck"), "--json", "--batch-size=10"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("samples") == 60
    assert found == logged
    assert evaluate([str(finished / "ck"), "--data=shapes:30:40", "--crops=10"]) == 0
    assert "30 samples: loss" in capsys.readouterr().out


def test_averaged_weights_are_evaluated_unless_the_last_ones_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    averaging = ("--ema-decay=0.8", "--epochs=1")
    assert run(tmp_path, *averaging) == 0
    logged = read_log(tmp_path / "log")[-1]["evaluation"]
    losses = []
    for extra in ([], ["--last-weights"]):
        assert evaluate([str(tmp_path / "ck"), "--json", "--batch-size=10", *extra]) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[0] == logged["loss"]
    assert abs(losses[1] - losses[0]) > 1e-3
    assert run(tmp_path, "--epochs=1", "--resume") == 2  # without what the run averages
    assert "Continue it with --ema-decay 0.8" in capsys.readouterr().err


def test_mean_over_crops_is_the_mean_of_the_probabilities() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4))
    parameters = model.init(0, (1, 2, 2, 3))
    rng = np.random.default_rng(0)
    crops = rng.normal(size=(5, 10, 2, 2, 3)).astype(np.float32)
    got = MeanOverCrops(model)(parameters, ops.asarray(crops)).numpy()
    each = [ops.softmax(model(parameters, ops.asarray(crops[:, i]))).numpy() for i in range(10)]
    np.testing.assert_allclose(got, np.log(np.mean(each, axis=0)), rtol=1e-5)


def test_what_cannot_be_evaluated(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate([str(tmp_path / "none")]) == 2
    assert "no checkpoint directory" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert evaluate([str(tmp_path / "empty")]) == 2
    assert "empty holds no checkpoint. Give one, or" in capsys.readouterr().err
    path = write_checkpoint(tmp_path, {"w": np.zeros(2)}, CheckpointInfo(step=1))
    assert evaluate([str(path)]) == 2
    assert "was not written by `python -m accelkit.train`" in capsys.readouterr().err
    assert evaluate([str(finished / "ck"), "--data=nothing"]) == 2
    capsys.readouterr()
    assert evaluate([str(finished / "ck"), "--data=digits"]) == 2
    assert "have the classes ('0', '1'" in capsys.readouterr().err


def test_the_training_data_need_not_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint knows the names of its classes."""
    image = pytest.importorskip("PIL.Image")
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(2):
            pixels = np.full((28, 28), 100 * i, np.uint8)
            image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    options = ("--data=images", "--model=lenet5", "--batch-size=2", "--epochs=1", "--image-size=28")
    assert run(tmp_path, *options, "--model-option=channels=3") == 0
    (tmp_path / "images").rename(tmp_path / "others")
    capsys.readouterr()
    assert evaluate(["ck", "--data=others"]) == 0
    assert "4 samples: loss" in capsys.readouterr().out
    assert evaluate(["ck", "--data=digits"]) == 2
    assert "the training data ('a', 'b')" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot(finished: Path, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / f"curves.{suffix}"
    logs = [f"first={finished / 'log'}", str(finished / "log" / "log.jsonl")]
    metrics = ["--metrics", "loss", "top1", "learning_rate"]
    assert plot([*logs, "-o", str(output), "--smooth", "3", *metrics]) == 0
    data = output.read_bytes()
    assert data.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert len(data) > 5000


def test_curves_are_those_of_the_log(finished: Path) -> None:
    records = read_log(finished / "log")
    steps, values = curve(records, "loss", evaluation=False)
    assert steps == list(range(1, 13))
    assert values == [r["loss"] for r in records if "loss" in r]
    assert curve(records, "top1", evaluation=True)[0] == [6, 12]


def test_running_mean() -> None:
    assert running_mean([0.1, 0.7], 1) == [0.1, 0.7]
    assert running_mean([4.0, 2.0, 0.0, 7.0], 3) == [4.0, 3.0, 2.0, 3.0]
    inf = float("inf")  # of a run that diverged for a while
    assert running_mean([1.0, inf, 3.0, 5.0], 2) == [1.0, inf, inf, 4.0]
    assert running_mean([], 5) == []


@pytest.mark.parametrize(
    "line",
    ['{"step":"x"}', '{"step":1,"loss":"y"}', '{"step":1,"evaluation":3}', '{"loss":1}', "[]"],
)
def test_a_line_that_holds_no_curve_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    (tmp_path / "log.jsonl").write_text(line + "\n")
    assert plot([str(tmp_path)]) == 2
    assert "a line has no step, or a value is text" in capsys.readouterr().err


def test_a_picture_without_a_suffix_is_named_as_it_is_written(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert plot([str(finished / "log"), "-o", str(tmp_path / "curves")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'curves.png'}\n"
    assert (tmp_path / "curves.png").is_file()


def test_what_cannot_be_plotted(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    log = str(finished / "log")
    assert plot([str(tmp_path / "none")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert plot(["torch="]) == 2
    assert "'torch=' names no log. Expected NAME=LOG" in capsys.readouterr().err
    assert plot([log, "--metrics", "f1", "-o", str(tmp_path / "a.png")]) == 2
    assert "No log has the metric 'f1'. They have: epoch" in capsys.readouterr().err
    assert plot([log, "-o", str(tmp_path / "a.docx")]) == 2
    assert "cannot be written: Format 'docx' is not supported" in capsys.readouterr().err
    (tmp_path / "full.png").symlink_to("/dev/full")
    assert plot([log, "-o", str(tmp_path / "full.png")]) == 2
    assert "full.png cannot be written: No space left on device." in capsys.readouterr().err
