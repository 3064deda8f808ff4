"""Options from arguments and from TOML."""

from __future__ import annotations

from pathlib import Path

import pytest

from accelkit.errors import AccelkitError
from accelkit.training.options import MATHEMATICAL, build_parser, parse_options, recorded_options


def test_arguments_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        'data = "digits"\nbatch-size = 7\nlearning_rate = 0.5\nnesterov = true\n'
        'milestones = [0.5, 0.75]\nbackend = "torch"\nmodel-option = {width = 0.5, init = "paper"}'
    )
    options = parse_options(["--config", str(path), "--batch-size", "9"])
    assert (options.data, options.batch_size, options.learning_rate) == ("digits", 9, 0.5)
    assert options.nesterov is True
    assert options.milestones == [0.5, 0.75]
    assert options.device == "torch"
    assert options.model_option == ["width=0.5", 'init="paper"']
    assert parse_options(["--config", str(path), "--no-nesterov"]).nesterov is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_sise = 3", "Did you mean 'batch_size'"),
        ("batch_size = 0", "0 is below 1"),
        ('batch_size = "many"', "batch_size in .* is 'many'"),
        ("batch_size = [3]", "expected one value"),
        ("nesterov = 1", "expected true or false"),
        ("milestones = 0.5", "expected a list"),
        ('optimizer = "sgt"', "Did you mean 'sgd'"),
        ("seed = true", "expected one value"),
        ("milestones = [0.5, 30]", "30.0 is not between 0 and 1"),
        ("target_accuracy = 95", "95.0 is not between 0 and 1"),
        ("target_accuracy = nan", "nan is not between 0 and 1"),
        ("a = ", "not valid TOML"),
        ("epochs = 2.5", "epochs in .* '2.5' is no integer; expected one of at least 1"),
        ("learning_rate = nan", "nan is not positive and finite"),
        ('gamma = "small"', "'small' is no number"),
        ('backend = "torch"\ndevice = "numpy"', "gives device twice, the second time as device"),
        ('config = "b.toml"', "Unknown option in .* 'config'"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(AccelkitError, match=message):
        parse_options(["--data=shapes", f"--config={tmp_path / 'a.toml'}"])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--data=x", "--resume"],
        ["--data=x", "--batch-size=0"],
        ["--dta=x"],
        ["--data=x", "--target-accuracy=95"],
        ["--data=x", "--milestones", "30", "60"],
        ["--data=x", "--learning-rate=inf"],
        ["--data=x", "--learning-rate=-1"],
        ["--data=x", "--gamma=0"],
        ["--data=x", "--momentum=1"],
        ["--data=x", "--weight-decay=-1"],
        ["--data=x", "--clip-norm=0"],
        ["--data=x", "--seed=18446744073709551616"],
        ["--data=x", "--precision=int8"],
        ["--data=x", "--memory-limit=lots"],
        ["--data=x", "--memory-limit=1GiB", "--accumulate=2"],
        ["--data=x", "--batch-size=32", "--accumulate=3"],
        ["--data=x", "--optimizer=adam", "--nesterov"],
    ],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_limit_of_the_file_excludes_micro_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.toml").write_text('data = "digits"\nmemory_limit = "1GiB"\n')
    with pytest.raises(SystemExit):
        parse_options([f"--config={tmp_path / 'a.toml'}", "--accumulate=2"])
    assert "leave out --accumulate" in capsys.readouterr().err


def test_every_option_is_known_to_decide_the_numbers_or_not() -> None:
    """A new option must be put on one side: forgetting it would let a resumed run differ."""
    harmless = {
        "config", "eval_data", "workers", "threads", "device", "epochs", "checkpoint", "resume",
        "checkpoint_every", "keep_last", "keep_best", "eval_every", "target_accuracy", "log_dir",
        "log_every", "progress", "help", "memory_limit", "accumulate",
    }  # fmt: skip
    names = {action.dest for action in build_parser()._actions}
    assert names == harmless | set(MATHEMATICAL)
    assert recorded_options(parse_options(["--data=x"])).keys() == set(MATHEMATICAL)
