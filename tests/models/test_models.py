"""The models' exact sizes and shapes."""

from __future__ import annotations

import numpy as np
import pytest

import accelkit as ak
from accelkit import models


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("alexnet", {"variant": "torchvision"}, 61_100_840),
        ("alexnet", {"variant": "torchvision", "image_size": 127}, 61_100_840),
        ("alexnet", {"variant": "2012"}, 60_965_224),
        ("alexnet", {"variant": "2012", "image_size": 224}, 60_965_224),
        ("alexnet", {"variant": "2012", "init": "paper"}, 60_965_224),
        ("lenet5", {}, 61_706),
        ("resnet18", {}, 11_689_512),
        ("vit", {}, 5_717_416),
    ],
)
def test_parameter_counts(name: str, options: dict, count: int) -> None:
    model = models.build(name, **options)
    spec = model.module.specify((1, *model.input_shape), training=True)
    assert spec.parameter_count == count
    assert spec.output.shape == (1, model.classes)


@pytest.mark.parametrize(
    ("variant", "multiply_adds"), [("2012", 724.4e6), ("torchvision", 714.2e6)]
)
def test_alexnet_forward_arithmetic(variant: str, multiply_adds: float) -> None:
    model = models.build("alexnet", variant=variant)
    shapes = model.module.specify((1, *model.input_shape)).parameters
    parameters = {name: np.empty(spec.shape, np.float32) for name, spec in shapes.items()}
    from accelkit.nn.module import nest

    graph = ak.trace(
        lambda p, x: model.module(p, x), nest(parameters), np.empty((1, *model.input_shape), "f4")
    )
    products = [n for n in graph if n.primitive.name in ("conv2d", "matmul")]
    from accelkit.graph import node_flops

    assert sum(map(node_flops, products)) / 2 == pytest.approx(multiply_adds, rel=1e-4)


def test_caffe_initialisation_of_the_paper_variant() -> None:
    model = models.build("alexnet", variant="2012", width=0.1)
    parameters = model.module.init(0, (1, *model.input_shape))
    classifier, features = parameters["classifier"], parameters["features"]
    assert classifier["fc6"]["weight"].numpy().std() == pytest.approx(0.005, rel=0.02)
    assert classifier["fc8"]["weight"].numpy().std() == pytest.approx(0.01, rel=0.02)
    assert set(features["conv2"]["bias"].numpy()) == {np.float32(0.1)}
    assert set(features["conv1"]["bias"].numpy()) == {np.float32(0.0)}
    assert set(features["conv3"]["bias"].numpy()) == {np.float32(0.0)}
