"""What a step refuses, with what was given, what was expected and what to do; nothing half-done."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

import accelkit as ak
from accelkit import losses, metrics, models, nn, optim, train
from accelkit.errors import AccelkitError, DTypeError, OptionError, ShapeError, StateError

BACKENDS = sorted({info.device.backend for info in ak.devices()})
SHAPE = (4, 3)
MODEL = nn.Sequential(hidden=nn.Linear(6), relu=nn.ReLU(), head=nn.Linear(5))
BATCH = (np.ones(SHAPE, np.float32), np.arange(4))


def make(device: str = "numpy", **options: Any) -> train.TrainStep:
    model = options.pop("model", MODEL)
    loss = options.pop("loss", losses.SoftmaxCrossEntropy())
    optimizer = options.pop("optimizer", optim.sgd(0.1, momentum=0.9))
    return train.TrainStep(model, loss, optimizer, device=device, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": models.build("lenet5")},
            r"`model` must be a Module, got Model\. A model of .*`\.module`",
        ),
        ({"model": "alexnet"}, r"`model` must be a Module, got str"),
        ({"loss": losses.SoftmaxCrossEntropy}, r"`loss` must be a Loss, got the class SoftmaxC"),
        ({"loss": lambda outputs, targets: outputs}, r"`loss` must be a Loss, got function"),
        ({"optimizer": "sgd"}, r"`optimizer` must be an Optimizer, got str.*optim\.sgd\(0\.01\)"),
        ({"optimizer": None}, r"`optimizer` must be an Optimizer, got NoneType"),
        ({"metrics": ["top1"]}, r"`metrics` must be a Metric, got str.*TopKAccuracy\(5\)"),
        (
            {"metrics": metrics.TopKAccuracy(1)},
            r"`metrics` must be a list of metrics, for example \[TopKAccuracy\(1\)\], got TopK",
        ),
        ({"metrics": None}, r"`metrics` must be a list of metrics.*got None"),
        (
            {"metrics": [metrics.TopKAccuracy(1)] * 2},
            r"Two numbers of the report would be named 'top1'; it holds loss, top1, top1\.",
        ),
        ({"trainable": "head"}, r"`trainable` must be a function, got str"),
        ({"preprocess": 255.0}, r"`preprocess` must be a function, got float"),
        ({"on_nonfinite": "explode"}, r"on_nonfinite must be one of raise, skip, ignore"),
        ({"precision": "float8"}, r"precision must be one of float32, .*got 'float8'"),
        ({"accumulate": 0}, r"`accumulate` must be a positive integer, got 0"),
    ],
)
def test_what_a_step_is_made_of_is_checked_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make(**options)


class OfShape(metrics.Metric):
    """A metric that returns zeros of a given shape."""

    name = "zeros"

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __call__(self, outputs: ak.Tensor, targets: ak.Tensor) -> ak.Tensor:
        return ak.zeros(self.shape)


@pytest.mark.parametrize("shape", [(), (4, 4), (1,)])
def test_a_metric_returns_one_number_per_sample(shape: tuple[int, ...]) -> None:
    text = r"The metric 'zeros' must return one number per sample, \(4,\), got"
    step = make(metrics=[OfShape(*shape)])
    with pytest.raises(ShapeError, match=text):
        step(step.init(0, SHAPE), BATCH)
    evaluate = train.EvalStep(MODEL, losses.SoftmaxCrossEntropy(), metrics=[OfShape(*shape)])
    with pytest.raises(ShapeError, match=text):
        evaluate(step.init(0, SHAPE), BATCH)


def test_the_best_k_of_fewer_classes_are_refused() -> None:
    step = make(metrics=[metrics.TopKAccuracy(6)])
    state = step.init(0, SHAPE)
    with pytest.raises(OptionError, match=r"\(k=6\) needs at least 6 classes, got logits \(4, 5"):
        step(state, BATCH)
    everything = make(metrics=[metrics.TopKAccuracy(5)])
    assert everything(state, BATCH)[1]["top5"] == 1.0
    with pytest.raises(ShapeError, match=r"needs labels \(2,\) for logits \(2, 5\), got \(3,\)"):
        metrics.TopKAccuracy(1)(ak.zeros((2, 5)), ak.asarray([0, 1, 2]))


def test_accuracy_is_the_share_of_a_samples_positions() -> None:
    logits = ak.asarray([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    labels = ak.asarray([[0, 0], [0, 0]])
    assert metrics.TopKAccuracy(1)(logits, labels).tolist() == [0.5, 1.0]


@pytest.mark.parametrize("result", [None, np.ones(SHAPE)])
def test_what_prepares_a_batch_returns_a_tensor(result: Any) -> None:
    step = make(preprocess=lambda x: result)
    with pytest.raises(OptionError, match=r"`preprocess\(inputs\)` must be a Tensor, got"):
        step(step.init(0, SHAPE), BATCH)


@pytest.mark.parametrize("inputs", [[[1.0], [1.0, 2.0]], ["a", "b"], [None, 1], [1j, 2j]])
def test_inputs_are_regular_arrays_of_numbers(inputs: Any) -> None:
    step = make()
    state = step.init(0, SHAPE)
    with pytest.raises(DTypeError, match=r"inputs must be a regular array of real numbers, got li"):
        step(state, (inputs, [0, 1]))
    step(state, BATCH)


def test_what_gives_no_array_says_why() -> None:
    class Attached:
        """A tensor that is part of a graph, as torch's."""

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
            raise RuntimeError("detach it first")

    step = make()
    state = step.init(0, SHAPE)
    with pytest.raises(DTypeError, match=r"batch's inputs are no array .*: detach it first"):
        step(state, (Attached(), [0, 1]))
    step(state, BATCH)


def test_an_evaluation_checks_the_same() -> None:
    with pytest.raises(OptionError, match=r"`metrics` must be a Metric, got the class TopKAccu"):
        train.EvalStep(MODEL, losses.SoftmaxCrossEntropy(), metrics=[metrics.TopKAccuracy])


@pytest.mark.parametrize("shape", [8, (0, 3), (-1, 3), (4, 2.5), "43", (4, -3)])
def test_input_shapes_hold_positive_integers(shape: Any) -> None:
    with pytest.raises(ShapeError, match=r"input_shape holds positive integers.*batch axis fir"):
        make().init(0, shape)


@pytest.mark.parametrize("device", BACKENDS)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_state_of_another_step_is_refused_and_survives(device: str, compiled: bool) -> None:
    wider = nn.Sequential(hidden=nn.Linear(7), relu=nn.ReLU(), head=nn.Linear(5))
    step = make(device)
    if compiled:
        step(step.init(0, SHAPE), BATCH)
    strangers = [
        make(device, optimizer=optim.adam()),
        make(device, optimizer=optim.sgd(0.1)),
        make(device, trainable=lambda name: name.startswith("head")),
    ]
    if "float64" in ak.registry.backend(device).dtype_names(ak.device(device)):
        strangers.append(make(device, precision="float64"))
    if compiled:  # before, tracing the model names the layer
        strangers += [make(device, model=nn.Sequential(nn.Linear(5))), make(device, model=wider)]
    for stranger in strangers:
        state = stranger.init(0, SHAPE)
        with pytest.raises(StateError, match=r"(lacks|holds|must be|not part of it).*`step\.init`"):
            step(state, BATCH)
        stranger(state, BATCH)  # untouched


def test_a_state_of_another_shape_names_tensor_and_shapes() -> None:
    step = make()
    step(step.init(0, SHAPE), BATCH)
    wider = make(model=nn.Sequential(hidden=nn.Linear(7), relu=nn.ReLU(), head=nn.Linear(5)))
    text = r"'parameters\.hidden\.weight' must be float32\[3,6\], got float32\[3,7\]"
    with pytest.raises(StateError, match=text):
        step(wider.init(0, SHAPE), BATCH)


@pytest.mark.parametrize("given", [None, 3, {"weight": 1}])
def test_what_is_no_state_is_refused(given: Any) -> None:
    with pytest.raises(OptionError, match=r"`state` must be a TrainState.*step\.init\(seed"):
        make()(given, BATCH)


@pytest.mark.parametrize("given", [None, 3, np.ones(SHAPE), iter(())])
def test_what_is_no_batch_is_refused(given: Any) -> None:
    step = make()
    state = step.init(0, SHAPE)
    with pytest.raises(OptionError, match=r"A batch is \(inputs, targets\).*, got"):
        step(state, given)
    assert step(state, BATCH)[1]["loss"] > 0.0


@pytest.mark.parametrize("rate", [-1.0, math.nan])
def test_a_schedule_that_gives_no_rate_leaves_the_state_alone(rate: float) -> None:
    step = make(optimizer=optim.sgd(lambda step: rate if step == 1 else 0.1, momentum=0.9))
    state, _ = step(step.init(0, SHAPE), BATCH)
    with pytest.raises(OptionError, match=r"`learning_rate of step 1` must be a finite number"):
        step(state, BATCH)
    assert state.parameters["head"]["bias"].shape == (5,)


@pytest.mark.parametrize("device", BACKENDS)
def test_an_evaluation_speaks_of_its_batch(device: str) -> None:
    evaluate = train.EvalStep(MODEL, losses.SoftmaxCrossEntropy(), device=device)
    parameters = MODEL.init(0, SHAPE, device=device)
    bad = ak.asarray(np.array([0, 1, 2, 5]), device=device)
    report = evaluate(parameters, (BATCH[0], bad))
    with pytest.raises(OptionError, match=r"The batch was given labels out of range.*its loss is"):
        report["loss"]
    assert evaluate(parameters, BATCH)["loss"] > 0.0


def test_an_evaluation_takes_states_and_parameters_only() -> None:
    evaluate = train.EvalStep(MODEL, losses.SoftmaxCrossEntropy())
    with pytest.raises(OptionError, match=r"a TrainState or a model's nested parameters, got int"):
        evaluate(3, BATCH)  # type: ignore[arg-type]


def test_parameters_of_another_shape_compile_anew() -> None:
    wider = nn.Sequential(hidden=nn.Linear(6), relu=nn.ReLU(), head=nn.Linear(5))
    evaluate = train.EvalStep(wider, losses.SoftmaxCrossEntropy())
    evaluate(wider.init(0, SHAPE), BATCH)
    with pytest.raises(ShapeError, match=r"'hidden\.weight' needs shape \(3, 6\), got \(4, 6\)"):
        evaluate(wider.init(0, (4, 4)), BATCH)


def test_steps_and_states_print_what_they_are() -> None:
    step = make()
    state = step.init(0, SHAPE)
    assert repr(step) == (
        "<TrainStep of Sequential with Sgd(learning_rate=0.1, momentum=0.9, nesterov=False, "
        "weight_decay=0.0) in float32 on numpy:cpu:0, 0 programs compiled>"
    )
    assert repr(state) == "<TrainState step 0, seed 0, 9 tensors, 0.0 MiB on numpy:cpu:0>"
    state, report = step(state, BATCH)
    assert repr(report) == "<StepMetrics loss: not read yet>"
    loss = report["loss"]
    assert repr(report) == f"<StepMetrics loss={loss:.6g}>"
    evaluate = train.EvalStep(MODEL, losses.SoftmaxCrossEntropy(), precision="float64")
    assert repr(evaluate).startswith("<EvalStep of Sequential in float64 on numpy:cpu:0, 0 prog")


@pytest.mark.parametrize("device", BACKENDS)
def test_a_state_travels_by_pickle(device: str) -> None:
    step = make(device)
    state, _ = step(step.init(0, SHAPE), BATCH)
    again = pickle.loads(pickle.dumps(state))
    assert again.step == 1
    assert again.device is state.device
    assert step(again, BATCH)[1]["loss"] == step(state, BATCH)[1]["loss"]


def test_every_refusal_is_one_of_accelkits() -> None:
    step = make()
    for call in (lambda: step(None, BATCH), lambda: step.init(-1, SHAPE), lambda: make("torhc")):
        with pytest.raises(AccelkitError):
            call()


def test_one_hot_labels_are_told_how_to_become_labels() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3))
    step = train.TrainStep(model, losses.SoftmaxCrossEntropy(), optim.sgd(0.1))
    state = step.init(0, (4, 2))
    inputs, rows = np.ones((4, 2), np.float32), np.eye(3)[[0, 1, 2, 0]]
    with pytest.raises(DTypeError, match=r"integers, got dtype float64\. One-hot .*argmax"):
        step(state, (inputs, rows))
    with pytest.raises(ShapeError, match=r"class indices \(4,\) for outputs \(4, 3\).*argmax"):
        step(state, (inputs, rows.astype("int32")))
    _, report = step(state, (inputs, rows.argmax(axis=-1)))
    assert report["loss"] > 0.0


@pytest.mark.parametrize("given", [None, 3])
def test_an_evaluation_runs_over_something(given: Any) -> None:
    step = train.EvalStep(nn.Linear(3), losses.SoftmaxCrossEntropy(), device="numpy")
    with pytest.raises(OptionError, match=f"takes batches, .* got {type(given).__name__}"):
        step.run({}, given)


def test_one_batch_is_no_series_of_batches() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3))
    step = train.EvalStep(model, losses.SoftmaxCrossEntropy())
    batch = np.ones((4, 2), np.float32), np.zeros(4, np.int32)
    parameters = model.init(0, (4, 2))
    with pytest.raises(OptionError, match=r"`run` takes batches, got one: .* \[\(inputs, targets"):
        step.run(parameters, batch)
    assert step.run(parameters, [batch])["loss"] == step(parameters, batch)["loss"]
