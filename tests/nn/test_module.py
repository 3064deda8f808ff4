"""Modules: declaration, initial values, names, state, and errors that name the layer."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import pytest

import accelkit as ak
from accelkit import losses, metrics, models, nn, optim
from accelkit.errors import (
    DTypeError,
    OptionError,
    OutOfMemoryError,
    ShapeError,
    TraceError,
    UnknownNameError,
)
from accelkit.nn.module import flatten_names


def test_names_follow_the_structure() -> None:
    model = nn.Sequential(
        features=nn.Sequential(nn.Conv2d(4, 3), nn.ReLU()), flatten=nn.Flatten(), head=nn.Linear(2)
    )
    parameters = model.init(0, (1, 5, 5, 3))
    assert [name for name, _ in flatten_names(parameters)] == [
        "features.0.weight",
        "features.0.bias",
        "head.weight",
        "head.bias",
    ]
    assert parameters["features"]["0"]["weight"].shape == (3, 3, 3, 4)
    assert parameters["head"]["weight"].shape == (36, 2)


def test_initial_values_depend_on_seed_and_name_only() -> None:
    small = nn.Sequential(first=nn.Linear(4), second=nn.Linear(3))
    longer = nn.Sequential(first=nn.Linear(4), extra=nn.Linear(4), second=nn.Linear(3))
    a, b = small.init(7, (1, 4)), longer.init(7, (1, 4))
    np.testing.assert_array_equal(a["second"]["weight"].numpy(), b["second"]["weight"].numpy())
    other = small.init(8, (1, 4))
    assert not np.array_equal(a["second"]["weight"].numpy(), other["second"]["weight"].numpy())


def test_float64_parameters_start_from_the_float32_ones() -> None:
    layer = nn.Linear(8)
    single, double = layer.init(0, (1, 8)), layer.init(0, (1, 8), dtype="float64")
    assert double["weight"].dtype == "float64"
    np.testing.assert_array_equal(
        single["weight"].numpy().astype(np.float64), double["weight"].numpy()
    )


def test_initial_alexnet_has_its_stored_hash() -> None:
    """The same bits on every machine, whatever its instruction set."""
    model = models.build("alexnet", width=0.125, image_size=64)
    parameters = model.module.init(0, (1, *model.input_shape))
    digest = hashlib.sha256()
    for name, tensor in flatten_names(parameters):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest() == ALEXNET_SHA256


ALEXNET_SHA256 = "c5c43a8b416b88e89b364f691cd5b70cbe54f7418ea81779900e2085bc584082"


def test_the_layer_that_does_not_fit_is_named() -> None:
    model = models.build("alexnet", image_size=30)
    with pytest.raises(ShapeError, match=r"Layer 'features\.5' \(MaxPool2d\) on input .*3x3"):
        model.module.specify((1, *model.input_shape))


def test_apply_names_missing_and_misshapen_parameters() -> None:
    model = nn.Sequential(nn.Linear(2))
    parameters = model.init(0, (1, 3))
    with pytest.raises(ShapeError, match=r"no parameter '0\.weight'"):
        model({"0": {"bias": parameters["0"]["bias"]}}, ak.ones((1, 3)))
    with pytest.raises(ShapeError, match=r"'0\.weight' needs shape \(4, 2\), got \(3, 2\)"):
        model(parameters, ak.ones((1, 4)))


def test_channels_first_and_forgotten_parameters_are_explained() -> None:
    model = nn.Sequential(nn.Conv2d(4, 3), nn.ReLU())
    parameters = model.init(0, (1, 8, 8, 3))
    with pytest.raises(ShapeError, match=r"channels last, \(N, H, W, C\)"):
        model(parameters, np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(OptionError, match=r"model\(parameters, x\).*`model\.init`.*got ndarray"):
        model(np.zeros((1, 8, 8, 3), np.float32))


def test_options_of_layers_have_names() -> None:
    """Inputs and outputs, as elsewhere, would make another layer than was meant."""
    with pytest.raises(TypeError, match="positional"):
        nn.Linear(10, 20)
    with pytest.raises(TypeError, match="positional"):
        nn.Conv2d(3, 64, 3)


def test_dropout_needs_a_stream_in_training_only() -> None:
    layer = nn.Dropout(0.5)
    x = ak.ones((4, 8))
    assert layer({}, x) is x
    with pytest.raises(OptionError, match=r"random=accelkit\.random\.key"):
        layer.apply({}, x, training=True)
    y, _ = layer.apply({}, x, training=True, random=ak.random.Stream(1, step=3))
    assert set(y.numpy().ravel()) == {0.0, 2.0}


def test_masks_depend_on_the_path_not_on_the_neighbours() -> None:
    x = ak.ones((64, 64))

    def mask(**layers: nn.Module) -> np.ndarray:
        model = nn.Sequential(**layers)
        y, _ = model.apply({}, x, training=True, random=ak.random.Stream(1))
        return y.numpy()

    alone = mask(drop=nn.Dropout(0.5))
    beside = mask(first=nn.Function(lambda v: v), drop=nn.Dropout(0.5))
    np.testing.assert_array_equal(alone, beside)


def test_batch_norm_normalises_and_tracks_statistics() -> None:
    layer = nn.BatchNorm(momentum=0.75)
    rng = np.random.default_rng(0)
    data = rng.normal(3.0, 2.0, (16, 4, 4, 5)).astype(np.float32)
    parameters, state = layer.init(0, data.shape), layer.init_state(data.shape)
    y, new = layer.apply(parameters, ak.asarray(data), training=True, state=state)
    flat = data.reshape(-1, 5).astype(np.float64)
    np.testing.assert_allclose(y.numpy().reshape(-1, 5).mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.numpy().reshape(-1, 5).std(0), 1.0, rtol=1e-4)
    np.testing.assert_allclose(new["mean"].numpy(), 0.25 * flat.mean(0), rtol=1e-5)
    expected_var = 0.75 + 0.25 * flat.var(0, ddof=1)
    np.testing.assert_allclose(new["var"].numpy(), expected_var, rtol=1e-5)
    inference = layer(parameters, ak.asarray(data), state=new)
    expected = (flat - new["mean"].numpy()) / np.sqrt(new["var"].numpy() + 1e-5)
    np.testing.assert_allclose(inference.numpy().reshape(-1, 5), expected, rtol=1e-4, atol=1e-5)


def test_causal_attention_sees_no_later_position() -> None:
    layer = nn.MultiHeadAttention(2, causal=True)
    parameters = layer.init(0, (1, 6, 8))
    x = np.random.default_rng(1).standard_normal((1, 6, 8)).astype(np.float32)
    changed = x.copy()
    changed[:, 4:] += 1.0
    before, after = layer(parameters, ak.asarray(x)), layer(parameters, ak.asarray(changed))
    np.testing.assert_array_equal(before.numpy()[:, :4], after.numpy()[:, :4])
    assert not np.array_equal(before.numpy()[:, 4:], after.numpy()[:, 4:])


@pytest.mark.parametrize("device", sorted({info.device.backend for info in ak.devices()}))
def test_what_a_module_creates_lands_beside_its_parameters(device: str) -> None:
    @dataclass(frozen=True)
    class Shift(nn.Module):
        def forward(self, scope: nn.Scope, x: ak.Tensor) -> ak.Tensor:
            return x + scope.parameter("shift", (3,), nn.ones) + ak.ones(3)

    model = nn.Sequential(Shift(), nn.Dropout(0.5))
    parameters = model.init(0, (4, 3), device=device)
    x = np.zeros((4, 3), np.float32)
    y, _ = model.apply(parameters, x, training=True, random=ak.random.Stream(1))
    assert y.device is ak.device(device)
    expected, _ = model.apply(
        model.init(0, (4, 3)), ak.asarray(x), training=True, random=ak.random.Stream(1)
    )
    np.testing.assert_array_equal(y.numpy(), expected.numpy())
    slope = ak.grad(lambda p: model(p, x).sum())(parameters)
    assert slope["0"]["shift"].tolist() == [4.0] * 3


def test_statistics_that_are_missing_are_called_so() -> None:
    layer = nn.Sequential(norm=nn.BatchNorm())
    with pytest.raises(ShapeError, match=r"no state 'norm\.mean' .* given: none.*init_state"):
        layer(layer.init(0, (2, 3)), ak.ones((2, 3)))


def test_errors_of_every_kind_name_their_layer() -> None:
    def choose(x: ak.Tensor) -> ak.Tensor:
        return x if x.sum() > 0.0 else -x

    model = nn.Sequential(a=nn.ReLU(), b=nn.Sequential(c=nn.Function(choose)))
    with pytest.raises(
        TraceError, match=r"Layer 'b\.c' \(Function\) on input \(1, 2\): Python cont"
    ):
        model.specify((1, 2))
    with pytest.raises(ShapeError, match=r"^Conv2d on input \(1, 2\): Conv2d needs images"):
        nn.Conv2d(1, 1).specify((1, 2))


def test_models_print_as_trees_and_what_they_declare_as_a_table() -> None:
    model = nn.Sequential(
        stem=nn.Conv2d(4, 3, strides=2),
        block=nn.Residual(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 1)), nn.Conv2d(4, 1, bias=False)),
        norm=nn.BatchNorm(),
    )
    assert str(model).splitlines() == [
        "Sequential",
        "  stem: Conv2d(features=4, kernel_size=3, strides=2)",
        "  block: Residual",
        "    body: Sequential",
        "      0: ReLU()",
        "      1: Conv2d(features=4, kernel_size=1)",
        "    shortcut: Conv2d(features=4, kernel_size=1, bias=False)",
        "  norm: BatchNorm()",
    ]
    assert str(model.specify((1, 9, 9, 3))).splitlines() == [
        "stem.weight            (3, 3, 3, 4)            108",
        "stem.bias              (4,)                      4",
        "block.body.1.weight    (1, 1, 4, 4)             16",
        "block.body.1.bias      (4,)                      4",
        "block.shortcut.weight  (1, 1, 4, 4)             16",
        "norm.scale             (4,)                      4",
        "norm.bias              (4,)                      4",
        "norm.mean (state)      (4,)                      4",
        "norm.var (state)       (4,)                      4",
        "156 parameters; output float32[1,4,4,4]",
    ]
    assert repr(nn.Sequential(nn.ReLU(), nn.Tanh())) == "Sequential(ReLU(), Tanh())"
    assert repr(nn.Sequential(act=nn.ReLU())) == "Sequential(act=ReLU())"
    assert str(models.build("lenet5")).startswith("lenet5: inputs 28x28x1, 10 classes\nSequential")


def test_a_layer_with_an_array_among_its_options_prints() -> None:
    @dataclass(frozen=True)
    class Shift(nn.Module):
        by: np.ndarray | None = None
        inner: nn.Module = nn.ReLU()  # noqa: RUF009 - immutable

        def forward(self, scope: nn.Scope, x: ak.Tensor) -> ak.Tensor:
            return scope.run("inner", self.inner, x) + ak.asarray(self.by)

    assert str(Shift(np.zeros(2))) == "Shift(by=array([0., 0.]))\n  inner: ReLU()"


def test_embedding_takes_rows() -> None:
    layer = nn.Embedding(5, 3)
    parameters = layer.init(0, (2, 2), input_dtype="int64")
    y = layer(parameters, ak.asarray([[0, 4], [4, 2]]))
    table = parameters["weight"].numpy()
    np.testing.assert_array_equal(y.numpy(), table[[[0, 4], [4, 2]]])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Linear(0), r"`features` must be a positive integer, got 0"),
        (lambda: nn.Conv2d(6, 3, groups=4), r"`features` \(=6\) must be divisible by `groups`"),
        (lambda: nn.Conv2d(6, 0), r"kernel_size must be"),
        (lambda: nn.Conv2d(6, 3, padding="same"), r"explicit integers"),
        (lambda: nn.Dropout(1.0), r"`rate` must be in \[0, 1\), got 1\.0"),
        (lambda: nn.Sequential(nn.ReLU(), a=nn.ReLU()), r"by position or by keyword"),
        (lambda: nn.Sequential(lambda x: x), r"`0` must be a Module, got function.*nn.Function"),
        (lambda: nn.Sequential(nn.ReLU), r"`0` must be a Module, got the class ReLU"),
        (lambda: nn.Sequential(**{"a.b": nn.ReLU()}), r"no dots itself: 'a\.b'"),
        (lambda: nn.Residual(lambda x: x), r"`body` must be a Module, got function"),
        (lambda: nn.Function(3), r"`function` must be a function, got int"),
        (lambda: nn.Linear(True), r"`features` must be a positive integer, got True"),
        (lambda: nn.Linear(2.0), r"`features` must be a positive integer, got 2\.0"),
        (
            lambda: nn.Linear(2, weight_init="he"),
            r"`weight_init` must be a function, got str\. It takes a key and a shape",
        ),
        (lambda: nn.Conv2d(2, 3, bias_init=0.0), r"`bias_init` must be a function, got float\."),
        (lambda: nn.Embedding(3, 0), r"`features` must be a positive integer, got 0"),
        (lambda: nn.Dropout("half"), r"`rate` must be in \[0, 1\), got 'half'"),
        (lambda: nn.MaxPool2d(0), r"window must be one or two integers of at least 1, got 0"),
        (lambda: nn.AvgPool2d(2, strides=0), r"strides must be one or two integers"),
        (lambda: nn.MaxPool2d(2, padding="valid"), r"explicit integers, got 'valid'"),
        (lambda: nn.AdaptiveAvgPool2d((0, 2)), r"output_size must be .* got \(0, 2\)"),
        (lambda: nn.LocalResponseNorm(size=0), r"`size` must be a positive integer, got 0"),
        (lambda: nn.LocalResponseNorm(alpha=-1.0), r"`alpha` must be a finite number of at leas"),
        (lambda: nn.BatchNorm(momentum=1.0), r"`momentum` must be in \[0, 1\), got 1\.0"),
        (lambda: nn.LayerNorm(float("nan")), r"`epsilon` must be a finite number .* got nan"),
        (lambda: nn.MultiHeadAttention(2.5), r"`heads` must be a positive integer, got 2\.5"),
        (lambda: nn.MultiHeadAttention(2, dropout=3), r"`dropout` must be in \[0, 1\), got 3"),
        (lambda: nn.Normal(-1.0), r"`std` must be a finite number of at least 0, got -1\.0"),
        (lambda: nn.Normal(1.0, math.nan), r"`mean` must be a finite number, got nan"),
        (lambda: nn.Uniform(2.0, 1.0), r"`low` \(=2\.0\) must not be above `high` \(=1\.0\)"),
        (lambda: nn.Uniform("a"), r"`low` must be a finite number, got 'a'"),
        (lambda: nn.Constant(math.inf), r"`value` must be a finite number, got inf"),
        (lambda: nn.VarianceScaling(-1.0), r"`scale` must be a finite number of at least 0"),
        (lambda: optim.StepSchedule(0.1, 5), r"`boundaries` must be a list of steps, got 5"),
        (lambda: optim.StepSchedule(0.1, [1.5]), r"`boundaries` must be an integer of at least 0"),
        (lambda: metrics.TopKAccuracy(0), r"`k` must be a positive integer, got 0"),
        (lambda: losses.SoftmaxCrossEntropy(1.0), r"`label_smoothing` must be in \[0, 1\)"),
        (lambda: models.build("alexnet", width=-1), r"`width` must be positive and finite, got -1"),
        (lambda: models.build("resnet18", width=0), r"`width` must be positive and finite, got 0"),
        (lambda: models.build("lenet5", classes=0), r"`classes` must be a positive integer"),
        (lambda: models.build("vit", patch=0), r"`patch` must be a positive integer, got 0"),
        (lambda: models.build("vit", image_size=-16), r"`image_size` must be a positive integer"),
    ],
)
def test_bad_options_are_refused_when_the_layer_is_made(build, message) -> None:
    with pytest.raises(OptionError, match=message):
        build()


def test_parameters_are_floating_tensors() -> None:
    layer = nn.Linear(2)
    with pytest.raises(DTypeError, match=r"parameters and state is floating, got int32"):
        layer.init(0, (1, 3), dtype="int32")
    with pytest.raises(OptionError, match=r"'weight' must be a Tensor, got ndarray.*asarray"):
        layer({"weight": np.zeros((3, 2), np.float32)}, ak.zeros((1, 3)))


def test_integers_of_numpy_are_integers() -> None:
    assert nn.Linear(np.int64(3)).specify((1, 2)).output.shape == (1, 3)
    assert nn.Conv2d(np.int32(4), np.int64(3), groups=np.int64(2)).features == 4


def test_a_residual_says_which_shapes_differ() -> None:
    model = nn.Residual(nn.Linear(3))
    with pytest.raises(ShapeError, match=r"body \(1, 3\) and shortcut \(1, 2\)"):
        model.specify((1, 2))


def test_models_of_ones_own_need_one_method() -> None:
    @dataclass(frozen=True)
    class Scaled(nn.Module):
        inner: nn.Module

        def forward(self, scope: nn.Scope, x: ak.Tensor) -> ak.Tensor:
            gain = scope.parameter("gain", (1,), nn.Constant(3.0))
            return scope.run("inner", self.inner, x) * gain

    model = Scaled(nn.Linear(2, bias=False))
    parameters = model.init(0, (1, 2))
    assert set(parameters) == {"gain", "inner"}
    x = ak.asarray([[1.0, 2.0]])
    expected = 3.0 * (x.numpy() @ parameters["inner"]["weight"].numpy())
    np.testing.assert_allclose(model(parameters, x).numpy(), expected, rtol=1e-6)


def test_a_parameter_that_the_host_cannot_hold_is_named() -> None:
    def draws_too_much(key: object, shape: tuple[int, ...]) -> np.ndarray:
        raise MemoryError("no room")

    layer = nn.Linear(2, weight_init=draws_too_much)
    with pytest.raises(
        OutOfMemoryError, match=r"first value of 'weight': no room\. Use a narrower"
    ):
        layer.init(0, (1, 3))


def test_unknown_models_and_variants_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'alexnte'.*Did you mean 'alexnet'"):
        models.build("alexnte")
    with pytest.raises(UnknownNameError, match=r"variant of alexnet '2013'.*'2012'"):
        models.build("alexnet", variant="2013")
    with pytest.raises(OptionError, match=r"does not take 'wdith'"):
        models.build("alexnet", wdith=1.0)
