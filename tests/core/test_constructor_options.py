"""Options of public constructors: a text is no bool and no number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accelkit import checkpoint, data, nn, optim
from accelkit.errors import OptionError

SOURCE = data.ArraySource(np.zeros((4, 2, 2, 3), np.uint8), np.zeros(4, np.int64))

# What to call with an option, and the option: "no" counts as true in Python.
BOOLS: dict[str, tuple[Callable[..., Any], str]] = {
    "sgd": (lambda **o: optim.sgd(0.1, momentum=0.9, **o), "nesterov"),
    "linear": (lambda **o: nn.Linear(3, **o), "bias"),
    "convolution": (lambda **o: nn.Conv2d(3, 3, **o), "bias"),
    "attention's bias": (lambda **o: nn.MultiHeadAttention(2, **o), "bias"),
    "attention": (lambda **o: nn.MultiHeadAttention(2, **o), "causal"),
    "pooling": (lambda **o: nn.AvgPool2d(2, **o), "count_include_pad"),
    "loader": (lambda **o: data.Loader(SOURCE, batch_size=2, **o), "shuffle"),
    "checkpoints": (lambda **o: checkpoint.CheckpointManager("unused", **o), "background"),
}


@pytest.mark.parametrize("given", ["no", "false", 0, 1, None])
@pytest.mark.parametrize("name", BOOLS)
def test_what_is_no_bool_is_refused(name: str, given: object) -> None:
    make, option = BOOLS[name]
    with pytest.raises(OptionError, match=f"`{option}` must be True or False, got {given!r}"):
        make(**{option: given})


def test_numpys_bools_are_bools() -> None:
    assert optim.sgd(0.1, momentum=0.9, nesterov=np.True_).nesterov
    nn.Linear(3, bias=np.False_)


@pytest.mark.parametrize("given", ["2", -1, 1.5, True])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("workers", "from 0 to 1024"),
        ("threads", "from 0 to 1024"),
        ("buffer", "from 0 to 1024"),
        ("worker_restarts", "of at least 0"),
    ],
)
def test_counts_of_a_loader(name: str, expected: str, given: Any) -> None:
    with pytest.raises(OptionError, match=f"`{name}` must be an integer {expected}, got {given!r}"):
        data.Loader(SOURCE, batch_size=2, **{name: given})


@pytest.mark.parametrize(("name", "given"), [("keep_last", "3"), ("keep_best", -1)])
def test_counts_of_checkpoints(tmp_path: Path, name: str, given: Any) -> None:
    with pytest.raises(OptionError, match=f"`{name}` must be .* integer.*got {given!r}"):
        checkpoint.CheckpointManager(tmp_path, **{name: given})
