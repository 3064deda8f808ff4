"""Mistakes of daily use: what was given, what was expected, what to do."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import accelkit as ak
from accelkit.errors import (
    AccelkitError,
    DifferentiationError,
    DTypeError,
    IndexOutOfRangeError,
    OptionError,
    ShapeError,
    TraceError,
    UnknownNameError,
)
from accelkit.primitives import PRIMITIVES

BACKENDS = sorted({info.device.backend for info in ak.devices()})


@pytest.fixture(params=BACKENDS)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with ak.default_device(request.param):
        yield request.param


def leaked() -> ak.Tensor:
    kept: list[ak.Tensor] = []
    ak.jit(lambda x: kept.append(x) or x)(ak.zeros(2))
    return kept[0]


MISTAKES: dict[str, tuple[Any, type[AccelkitError], str]] = {
    "array beside a tensor": (
        lambda x: x + np.ones(3),
        DTypeError,
        r"NumPy array of shape \(3,\) .* accelkit\.asarray\(array, device=tensor\.device\)",
    ),
    "tensor beside an array": (lambda x: np.ones(3) * x, DTypeError, r"NumPy array of shape"),
    "array compared": (lambda x: x == np.ones(3), DTypeError, r"NumPy array of shape"),
    "index": (
        lambda x: x[3],
        IndexOutOfRangeError,
        r"Index 3 is out of range for axis 0 of shape \(3,\): it must be in \[-3, 3\)",
    ),
    "huge integer": (
        lambda x: ak.asarray(2**70),
        DTypeError,
        r"numbers of up to 64 bits.*got int \(object\)",
    ),
    "text": (lambda x: ak.asarray(["a"]), DTypeError, r"takes numbers.*got list \(<U1\)"),
    "nothing": (lambda x: ak.asarray(None), DTypeError, r"takes numbers.*got NoneType"),
    "negative": (
        lambda x: ak.asarray([1, -1], dtype="uint8"),
        DTypeError,
        r"-1 does not fit uint8, which holds 0 to 255",
    ),
    "not finite": (lambda x: ak.asarray([np.nan], dtype="int32"), DTypeError, r"nan does not fit"),
    "device": (lambda x: ak.device(3), OptionError, r"'torch:cuda:0', got int"),
    "kind of dtype": (
        lambda x: ak.isdtype(x.dtype, "integer"),
        UnknownNameError,
        r"kind of dtype 'integer'.*'integral'",
    ),
    "groups": (
        lambda x: ak.conv2d(ak.zeros((1, 4, 4, 2)), ak.zeros((1, 1, 2, 2)), groups=1.0),
        OptionError,
        r"`groups` must be a positive integer, got 1\.0",
    ),
    "kind of dtype, once each": (
        lambda x: ak.isdtype(x.dtype, "integer"),
        UnknownNameError,
        r"Known: 'bfloat16', 'bool', 'complex",
    ),
    "kind of device": (
        lambda x: x.to("cuda:0"),
        UnknownNameError,
        r"Unknown backend 'cuda'.*by its backend first, for example 'torch:cuda:0'",
    ),
    "no dtype": (lambda x: x.astype(None), DTypeError, r"Unsupported dtype None"),
    "step of a slice": (lambda x: x[::0], OptionError, r"its step is not 0, got slice\(None, "),
    "bound of a slice": (lambda x: x[:1.5], OptionError, r"holds integers and None.*1\.5"),
    "operands of einsum": (
        lambda x: ak.einsum(x, "i->i"),
        OptionError,
        r"equation first, for example einsum\('ij,jk->ik', a, b\), got Tensor",
    ),
    "width of pad": (lambda x: ak.pad(x, 1), ShapeError, r"pad needs 1 pairs .* got 1"),
    "k": (lambda x: ak.top_k(x, 1.5), OptionError, r"`k` must be a positive integer, got 1\.5"),
    "parts": (lambda x: ak.split(x, [1, 2]), OptionError, r"`parts` must be a positive integer"),
    "shift": (lambda x: ak.roll(x, 0.5), OptionError, r"roll shifts by integers, got 0\.5"),
    "repeats": (
        lambda x: ak.repeat(x, 1.5),
        OptionError,
        r"`repeats` must be an integer of at least 0, got 1\.5",
    ),
    "primitive": (
        lambda x: ak.primitives.elementwise.add(x, 2.0),
        DTypeError,
        r"primitive 'add' takes tensors, got float.*accelkit\.asarray",
    ),
    "traced primitive": (
        lambda x: ak.jit(lambda y: ak.primitives.elementwise.add(y, 2.0))(x),
        DTypeError,
        r"primitive 'add' takes tensors, got float",
    ),
    "key": (
        lambda x: ak.random.uniform(0, (3,)),
        OptionError,
        r"`key` must be a Tensor, got int\. Make one with accelkit\.random\.key\(seed\)",
    ),
    "jit": (lambda x: ak.jit(x), OptionError, r"got Tensor\. jit takes it uncalled"),
    "grad": (lambda x: ak.grad(x), OptionError, r"got Tensor\. grad takes it uncalled"),
    "donation": (
        lambda x: ak.jit(lambda y: y, donate_argnums=1)(x),
        OptionError,
        r"donate_argnums=1 names no positional argument: the function was called with 1",
    ),
    "argnums": (
        lambda x: ak.grad(lambda y: y.sum(), argnums=-2)(x),
        OptionError,
        r"argnums=-2 names no positional argument: the function was called with 1",
    ),
    "defvjp": (
        lambda x: ak.custom_vjp(lambda y: y).defvjp(None, None),
        OptionError,
        r"`forward` must be a function, got NoneType",
    ),
    "argnums that are none": (
        lambda x: ak.grad(lambda y: y.sum(), argnums="x")(x),
        OptionError,
        r"`argnums` must be an integer or a list of integers, got 'x'",
    ),
    "donated by name": (
        lambda x: ak.jit(lambda y: y, donate_argnums=None)(x),
        OptionError,
        r"`donate_argnums` must be an integer or a list of integers, got None",
    ),
    "function of vjp": (lambda x: ak.vjp(None, x), OptionError, r"got NoneType\. vjp takes"),
    "function of scan": (
        lambda x: ak.scan(None, x, x),
        OptionError,
        r"`function` must be a function, got NoneType",
    ),
    "branch": (
        lambda x: ak.cond(True, x, lambda y: y, x),
        OptionError,
        r"`true_function` must be a function, got Tensor",
    ),
    "length": (
        lambda x: ak.scan(lambda c, y: (c, y), x, length="3"),
        OptionError,
        r"`length` must be an integer of at least 0, got '3'",
    ),
    "dtype that is a tensor": (lambda x: x.astype(x), DTypeError, r"Unsupported dtype Tensor\("),
    "range without end": (
        lambda x: ak.arange(np.inf),
        OptionError,
        r"`start` must be a finite number, got inf",
    ),
    "range of a class": (
        lambda x: ak.arange(int),
        OptionError,
        r"`start` must be a finite number, got <cl",
    ),
    "tensors to join": (
        lambda x: ak.concat(3),
        OptionError,
        r"`arrays` must be an Iterable, got int\. Give a list of tensors",
    ),
    "number of differences": (lambda x: ak.diff(x, n="2"), OptionError, r"`n` must be an integer"),
    "bound of uniform": (
        lambda x: ak.random.uniform(ak.random.key(0), (2,), high="1"),
        OptionError,
        r"`high` must be a finite number, got '1'",
    ),
    "path of a key": (
        lambda x: ak.random.key(0, path=[1]),
        OptionError,
        r"`path` must be a str, got list",
    ),
    "model": (lambda x: ak.models.build(None), OptionError, r"`name` must be a str, got NoneType"),
    "place of checkpoints": (
        lambda x: ak.checkpoint.CheckpointManager(None),
        OptionError,
        r"`directory` must be a path, got NoneType",
    ),
    "place of data": (
        lambda x: ak.data.open_source(3),
        OptionError,
        r"`specification` must be a path, got int",
    ),
    "size of crops": (
        lambda x: ak.data.TrainingTransform(size="224"),
        OptionError,
        r"`size` must be a positive integer, got '224'",
    ),
    "scale of crops": (
        lambda x: ak.data.TrainingTransform(scale=0.5),
        OptionError,
        r"`scale` must be a pair of numbers, got 0\.5",
    ),
    "randomness": (
        lambda x: ak.nn.Dropout().apply({}, x, training=True, random=3),
        OptionError,
        r"`random` must be a Stream, got int\. Give accelkit\.random\.key",
    ),
    "state of a model": (
        lambda x: ak.nn.ReLU().apply({}, x, state="x"),
        OptionError,
        r"`state` must be a dict as `model\.init_state` makes it, got str",
    ),
    "gradients to clip": (
        lambda x: ak.optim.clip_by_global_norm("x", 1.0),
        OptionError,
        r"`tensors` must be a Tensor, got str",
    ),
    "step of numbers": (
        lambda x: ak.optim.adam().numbers("3"),
        OptionError,
        r"`step` must be an integer of at least 0, got '3'",
    ),
    "precision": (
        lambda x: ak.train.EvalStep(ak.nn.ReLU(), ak.losses.MeanSquaredError(), precision=[1]),
        OptionError,
        r"precision must be one of .*, got \[1\]",
    ),
    "scale and bias of a norm": (
        lambda x: PRIMITIVES["layer_norm"](x, ak.zeros(3), ak.zeros(2), epsilon=1e-5),
        ShapeError,
        r"layer_norm of x \(\.\.\., C\) needs scale and bias of shape \(C,\).*float32\[2\]",
    ),
    "scale of a norm's gradient": (
        lambda x: PRIMITIVES["layer_norm_grad"](x, ak.zeros(2), x[:1], x[:1], x),
        ShapeError,
        r"layer_norm_grad of x \(\.\.\., C\) needs a scale of shape \(C,\) and x's dtype; got x "
        r"float32\[3\] and float32\[2\]\.",
    ),
    "pickle of a trace": (lambda x: pickle.dumps(leaked()), TraceError, r"used outside of that"),
    "copy of a trace": (lambda x: copy.deepcopy(leaked()), TraceError, r"used outside of that"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_explained(name: str) -> None:
    make, kind, text = MISTAKES[name]
    with pytest.raises(kind, match=text):
        make(ak.zeros(3))


def test_numbers_too_large_for_a_float_are_infinite() -> None:
    assert ak.asarray([1e300, -1e300], dtype="float32").tolist() == [np.inf, -np.inf]
    assert ak.asarray(np.array([1e300]), dtype="float32").tolist() == [np.inf]


def test_copies_and_pickles(device: str) -> None:
    for dtype in ("float32", "int64", "bool"):
        x = ak.asarray(np.arange(4).reshape(2, 2), dtype=dtype)
        again = pickle.loads(pickle.dumps(x))
        assert again.device is x.device is ak.device(device)
        assert again.dtype is x.dtype
        assert again.tolist() == x.tolist()
        assert copy.copy(x) is x
        deep = copy.deepcopy({"x": x})["x"]
        assert deep is not x
        assert deep.tolist() == x.tolist()


def test_narrow_floats_travel_by_pickle() -> None:
    x = ak.asarray([1.5, -2.0], dtype="bfloat16")
    again = pickle.loads(pickle.dumps(x))
    assert again.dtype is ak.bfloat16
    assert again.tolist() == [1.5, -2.0]


def test_what_is_compiled_says_so() -> None:
    @ak.jit
    def double(x: ak.Tensor) -> ak.Tensor:
        return x * 2.0

    assert repr(double).endswith("double, 0 programs compiled>")
    double(ak.zeros(2))
    assert repr(double).startswith("<jit test_what_is_compiled")
    assert repr(double).endswith("double, 1 programs compiled>")

    @ak.custom_vjp
    def rule(x: ak.Tensor) -> ak.Tensor:
        return x

    assert repr(rule) == "<custom_vjp rule>"
    assert repr(ak.devices()) == str(ak.devices())


class TestPrimitivesOfOnesOwn:
    """A rule, a definition and a lowering that do not agree are caught where they meet."""

    @pytest.fixture(autouse=True)
    def _forget(self) -> Iterator[None]:
        before = set(PRIMITIVES)
        yield
        for name in set(PRIMITIVES) - before:
            del PRIMITIVES[name]

    def test_a_lowering_for_one_backend_runs_there_eagerly_compiled_and_differentiated(
        self, device: str
    ) -> None:
        cube = ak.primitive(
            "mistakes_cube",
            lambda x: x,
            vjp=lambda g, y, x: (g * x * x * 3.0,),
            definition=lambda x: x * x * x,
        )

        @cube.lowering("numpy")
        def cube_numpy(x: np.ndarray) -> np.ndarray:
            return x**3 + 1  # to tell it from the definition

        offset = 1.0 if device == "numpy" else 0.0
        x = ak.asarray([1.0, 2.0])
        assert cube(x).tolist() == [1.0 + offset, 8.0 + offset]
        assert ak.jit(lambda v: cube(v))(x).tolist() == [1.0 + offset, 8.0 + offset]
        slope = ak.grad(lambda v: cube(v).sum())
        assert slope(x).tolist() == [3.0, 12.0]
        assert ak.grad(lambda v: slope(v).sum())(x).tolist() == [6.0, 12.0]

    def test_a_shape_rule_returns_specs(self) -> None:
        wrong = ak.primitive("mistakes_rule", lambda x: x.shape, definition=lambda x: x)
        with pytest.raises(OptionError, match=r"shape rule of 'mistakes_rule' must return.*\(2,\)"):
            wrong(ak.zeros(2))

    @pytest.mark.parametrize("call", [lambda p: p, lambda p: ak.jit(lambda x: p(x))])
    def test_a_definition_gives_what_the_rule_says(self, call: Any) -> None:
        wrong = ak.primitive("mistakes_sum", lambda x: x, definition=lambda x: x.sum())
        text = (
            r"definition of 'mistakes_sum' gives float32\[\] where its shape rule says float32\[2\]"
        )
        with pytest.raises(ShapeError, match=text):
            call(wrong)(ak.zeros(2))

    def test_a_lowering_gives_what_the_rule_says(self) -> None:
        wrong = ak.primitive("mistakes_lowering", lambda x: x)
        wrong.lowering("numpy")(lambda x: x.astype("float64"))
        with pytest.raises(
            ShapeError, match=r"lowering for 'numpy' of .* gives float64\[2\] where"
        ):
            wrong(ak.zeros(2))

    def test_a_rule_gives_one_cotangent_per_operand(self) -> None:
        wrong = ak.primitive(
            "mistakes_vjp", lambda x: x, definition=lambda x: x, vjp=lambda g, y, x: ()
        )
        with pytest.raises(DifferentiationError, match=r"returned 0 cotangents for 1 operands"):
            ak.grad(lambda x: wrong(x).sum())(ak.zeros(2))
