"""torchvision's AlexNet weights give the same logits here as in a hand-written torch program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from accelkit_models.torchvision_weights import from_torchvision, to_torchvision

import accelkit as ak
from accelkit import models
from accelkit.errors import IncompatibleCheckpointError
from accelkit.nn.module import flatten_names, nest

torch = pytest.importorskip("torch")


def hand_written(classes: int = 7) -> Any:
    """torchvision.models.AlexNet with an eighth of the channels, written out: NCHW."""
    nn = torch.nn
    features = nn.Sequential(
        nn.Conv2d(3, 8, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 24, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(),
        nn.Conv2d(48, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(32 * 36, 512), nn.ReLU(),
        nn.Dropout(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, classes),
    )  # fmt: skip
    network = nn.Sequential()
    network.add_module("features", features)
    network.add_module("avgpool", nn.AdaptiveAvgPool2d((6, 6)))
    network.add_module("flatten", nn.Flatten())
    network.add_module("classifier", classifier)
    return network.eval()


def test_logits_equal_those_of_torch() -> None:
    torch.manual_seed(0)
    network = hand_written()
    images = np.random.default_rng(0).normal(size=(2, 96, 128, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    parameters = from_torchvision(network.state_dict())
    model = models.build("alexnet", variant="torchvision", width=0.125, classes=7)
    tensors = {name: ak.asarray(array) for name, array in parameters.items()}
    got = model.module(nest(tensors), ak.asarray(images)).numpy()
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def test_out_and_in_again_is_the_identity() -> None:
    state_dict = {name: value.numpy() for name, value in hand_written().state_dict().items()}
    back = to_torchvision(from_torchvision(state_dict))
    assert back.keys() == state_dict.keys()
    for name, array in state_dict.items():
        np.testing.assert_array_equal(back[name], array)
    network = hand_written()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in back.items()})


def test_own_parameters_go_out() -> None:
    model = models.build("alexnet", variant="torchvision", width=0.125, classes=7)
    parameters = dict(flatten_names(model.module.init(0, (1, 64, 64, 3))))
    exported = to_torchvision(parameters)
    shapes = {name: tuple(value.shape) for name, value in hand_written().state_dict().items()}
    assert {name: array.shape for name, array in exported.items()} == shapes


def test_other_weights_are_explained() -> None:
    state_dict = dict(hand_written().state_dict())
    del state_dict["features.3.bias"]
    state_dict["head.weight"] = state_dict["classifier.6.weight"][0]
    state_dict["classifier.4.weight"] = state_dict["classifier.4.weight"][0]
    with pytest.raises(IncompatibleCheckpointError) as caught:
        from_torchvision(state_dict)
    message = str(caught.value)
    assert "missing ['features.3.bias'], unknown ['head.weight']" in message
    assert "another rank ['classifier.4.weight']" in message
