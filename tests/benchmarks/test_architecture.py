"""The benchmark's networks: the same as accelkit's, counted right."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from accelkit import models
from benchmarks import architecture as arch
from benchmarks.workload import MODELS, WORKLOADS, Workload, named, small

MLP = Workload("mlp", 32, 2)
BUILT = {
    "alexnet": ("alexnet", "torchvision"),
    "alexnet-2012": ("alexnet", "2012"),
    "resnet18": ("resnet18", None),
    "vit-tiny": ("vit", "tiny"),
    "vit-micro": ("vit", "micro"),
}


@pytest.mark.parametrize("name", BUILT)
def test_networks_have_the_weights_of_accelkits_models_in_the_same_order(name):
    model, variant = BUILT[name]
    built = models.build(model, variant=variant)
    spec = built.module.specify((2, *built.input_shape), training=True)
    network = Workload(name, 2, 1).network()
    assert network.input_shape == built.input_shape
    ours = [p.shape for p in spec.parameters.values()]
    assert list(network.weight_shapes().values()) == ours


@pytest.mark.parametrize(
    ("model", "parameters", "multiply_adds", "first"),
    [
        ("alexnet", 61_100_840, 714_188_480, 70_276_800),
        ("alexnet-2012", 60_965_224, 724_406_816, 105_415_200),
        ("resnet18", 11_689_512, 1_814_073_344, 118_013_952),
        ("vit-tiny", 5_717_416, 1_253_683_200, 28_901_376),
    ],
)
def test_parameters_and_operations_are_the_published_ones(model, parameters, multiply_adds, first):
    workload = Workload(model, 1, 1)
    assert workload.parameters == parameters
    assert dataclasses.replace(workload, task="infer").flops_per_step == 2 * multiply_adds
    # Twice the forward pass backward, but for the first layer's input gradient.
    assert workload.flops_per_step == 2 * (3 * multiply_adds - first)


def test_mlp():
    assert MLP.parameters == 101_386
    assert MLP.flops_per_step == 2 * 32 * (3 * (128 * 256 + 256 * 256 + 2560) - 128 * 256)


def test_same_seed_same_data():
    for a, b in zip(MLP.batch(), MLP.batch(), strict=True):
        assert np.array_equal(a, b)
    other = dataclasses.replace(MLP, seed=1)
    assert not np.array_equal(MLP.weights()["dense1.weight"], other.weights()["dense1.weight"])


@pytest.mark.parametrize("model", ["alexnet", "alexnet-2012"])
def test_an_image_too_small_names_the_layer(model):
    least = 63 if model == "alexnet" else 67
    assert Workload(model, 1, 1, image_size=least).weights()
    with pytest.raises(ValueError, match="nothing is left after conv5"):
        Workload(model, 1, 1, image_size=least - 4).weights()


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_small_form_has_the_same_kinds_of_layers(name):
    workload = named(name, 1)
    reduced = small(workload)
    assert reduced.task == workload.task
    kinds = [
        {type(layer) for layer, _ in w.network().walk()}
        for w in (workload, dataclasses.replace(reduced, dropout=workload.dropout))
    ]
    assert kinds[0] == kinds[1]
    assert reduced.parameters <= max(3_000_000, MLP.parameters)


def test_dropout_can_be_switched_off():
    rates = {
        dropout: {
            layer.rate
            for layer, _ in Workload("vit-micro", 1, 1, dropout=dropout).network().walk()
            if isinstance(layer, arch.Dropout)
        }
        for dropout in (True, False)
    }
    assert rates == {True: {0.1}, False: {0.0}}


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 13])
def test_pooling_matrix_is_torchs_adaptive_pool(size):
    torch = pytest.importorskip("torch")
    x = torch.arange(float(size)).sin()
    expected = torch.nn.functional.adaptive_avg_pool1d(x[None], 6)[0]
    pooled = (arch.pooling_matrix(size) * x.numpy()).sum(axis=1)
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_weights_begin_near_the_loss_of_guessing(model):
    workload = small(Workload(model, 4, 1))
    last = [name for name in workload.weights() if name.endswith(".weight")][-1]
    deviation = workload.weights()[last].std()
    inputs = workload.network().weight_shapes()[last][0]
    assert deviation == pytest.approx(0.1 * math.sqrt(2 / inputs), rel=0.1)
