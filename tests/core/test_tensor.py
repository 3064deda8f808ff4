"""The tensor itself: protocols, conversion, immutability, and errors on traced values."""

from __future__ import annotations

import copy
import importlib
import operator
import re

import numpy as np
import pytest
from core.arrays import ALL, arrays, assert_same
from hypothesis import given

import accelkit as ak
from accelkit import foreign_names
from accelkit.errors import (
    AccelkitError,
    DeviceError,
    DeviceMismatchError,
    DTypeError,
    OptionError,
    ShapeError,
    UnknownNameError,
)

BACKENDS = sorted({info.device.backend for info in ak.devices()})


@given(arrays(ALL))
def test_numpy_both_ways(x: np.ndarray) -> None:
    t = ak.asarray(x)
    assert_same(t, x)
    assert_same(ak.asarray(t.numpy()), x)
    np.testing.assert_array_equal(np.asarray(t), x)
    assert t.tolist() == x.tolist() or np.isnan(x.astype("float64")).any()
    assert (t.shape, t.ndim, t.size) == (x.shape, x.ndim, x.size)


def test_conversion_copies() -> None:
    source = np.zeros(3)
    t = ak.asarray(source)
    source[0] = 1.0
    out = t.numpy()
    out[1] = 2.0
    np.asarray(t)[2] = 3.0
    assert t.tolist() == [0.0, 0.0, 0.0]
    assert np.asarray(t, dtype="int32").dtype == "int32"
    with pytest.raises(ValueError, match="copy"):
        np.array(t, copy=False)


def test_foreign_byte_orders_and_views() -> None:
    x = np.arange(6, dtype=">i4").reshape(2, 3).T[::-1]
    assert_same(ak.asarray(x), x.astype("int32"))


def test_lists_and_scalars() -> None:
    assert_same(ak.asarray([[1, 2], [3, 4]]), [[1, 2], [3, 4]])
    assert_same(ak.asarray(2.5), np.float32(2.5))
    assert_same(ak.asarray([1, 2.5]), np.array([1, 2.5], "float32"))
    assert_same(ak.asarray((True, False)), [True, False])
    assert_same(ak.asarray([1, 2], dtype="float64"), [1.0, 2.0])
    assert ak.asarray(np.float64(1.0)).dtype == "float64"


def test_asarray_of_a_tensor() -> None:
    t = ak.asarray([1.0, 2.0])
    assert ak.asarray(t) is t
    assert ak.asarray(t, copy=False) is t
    assert ak.asarray(t, dtype="float32") is t
    assert ak.asarray(t, copy=True) is not t
    assert ak.asarray(t, dtype="int32").tolist() == [1, 2]
    with pytest.raises(OptionError, match="cannot change the dtype"):
        ak.asarray(t, dtype="int32", copy=False)
    with pytest.raises(OptionError, match="host data is not possible"):
        ak.asarray([1.0], copy=False)


# --- DLPack ---------------------------------------------------------------------------------------


@given(arrays(tuple(name for name in ALL if name != "bool")))
def test_dlpack_both_ways_with_numpy(x: np.ndarray) -> None:
    t = ak.asarray(x)
    np.testing.assert_array_equal(np.from_dlpack(t), x)
    assert_same(ak.from_dlpack(x), x)
    assert ak.from_dlpack(t) is t


def test_what_dlpack_exports_cannot_change_the_tensor() -> None:
    t = ak.zeros(3)
    exported = np.from_dlpack(t)
    try:
        exported[0] = 1.0
    except ValueError:  # read-only
        return
    assert t.tolist() == [0.0, 0.0, 0.0]


def test_dlpack_with_torch() -> None:
    torch = pytest.importorskip("torch")
    array = torch.arange(3.0)
    own = ak.from_dlpack(array)
    assert own.native is array
    assert own.device is ak.device("torch:cpu")
    assert_same(ak.from_dlpack(array, device="numpy"), array.numpy())
    assert ak.from_dlpack(array, device="numpy").device is ak.device("numpy")
    assert ak.from_dlpack(array, copy=True).native.data_ptr() != array.data_ptr()
    np.testing.assert_array_equal(torch.from_dlpack(ak.asarray([1.0, 2.0])).numpy(), [1.0, 2.0])
    assert ak.asarray(array).native is array
    with pytest.raises(OptionError, match="copy=False"):
        ak.from_dlpack(array, device="numpy", copy=False)


def test_dlpack_with_jax() -> None:
    jnp = pytest.importorskip("jax.numpy")
    array = jnp.arange(3, dtype="float32")
    assert ak.from_dlpack(array).device is ak.device("jax:cpu")
    assert_same(ak.from_dlpack(array, device="numpy"), np.arange(3, dtype="float32"))


def test_dlpack_refuses_what_has_none() -> None:
    with pytest.raises(DTypeError, match="needs an object with __dlpack__, got list"):
        ak.from_dlpack([1.0])


@pytest.mark.parametrize("source", BACKENDS)
@pytest.mark.parametrize("target", BACKENDS)
def test_native_arrays_go_from_every_backend_to_every_other(source: str, target: str) -> None:
    """By shared memory where both can, else through the host."""
    for dtype in ("float32", "bool", "bfloat16"):
        devices = [ak.device(source), ak.device(target)]
        if any(dtype not in ak.registry.backend(d.backend).dtype_names(d) for d in devices):
            continue
        x = ak.asarray([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]], device=source).astype(dtype)
        for made in (ak.asarray(x.native, device=target), ak.from_dlpack(x, device=target)):
            assert made.device is devices[1]
            assert made.dtype is x.dtype
            assert made.tolist() == x.tolist()
        if source != "numpy":  # whose arrays are host data, for the default device
            assert ak.asarray(x.native).device is devices[0]


def test_native_arrays() -> None:
    array = np.arange(3)
    t = ak.from_native(array)
    assert t.native is array
    with pytest.raises(DTypeError, match=r"builtins.list is no array of a registered backend"):
        ak.from_native([1])


# --- Array API protocol ---------------------------------------------------------------------------


def test_namespace() -> None:
    assert ak.zeros(1).__array_namespace__() is ak
    assert ak.zeros(1).__array_namespace__(api_version="2024.12") is ak
    with pytest.raises(OptionError, match=r"2024.12"):
        ak.zeros(1).__array_namespace__(api_version="1999.01")
    missing = [name for name in STANDARD if not hasattr(ak, name)]
    assert missing == []
    assert set(ak.__all__) <= set(dir(ak))


# Everything of the standard's main namespace, 2024.12, but complex numbers.
STANDARD = [
    "__array_namespace_info__",
    "abs",
    "acos",
    "acosh",
    "add",
    "all",
    "any",
    "arange",
    "argmax",
    "argmin",
    "argsort",
    "asarray",
    "asin",
    "asinh",
    "astype",
    "atan",
    "atan2",
    "atanh",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "bool",
    "broadcast_arrays",
    "broadcast_to",
    "can_cast",
    "ceil",
    "clip",
    "concat",
    "copysign",
    "cos",
    "cosh",
    "count_nonzero",
    "cumulative_prod",
    "cumulative_sum",
    "diff",
    "divide",
    "e",
    "empty",
    "empty_like",
    "equal",
    "exp",
    "expand_dims",
    "expm1",
    "eye",
    "finfo",
    "flip",
    "float32",
    "float64",
    "floor",
    "floor_divide",
    "from_dlpack",
    "full",
    "full_like",
    "greater",
    "greater_equal",
    "hypot",
    "iinfo",
    "inf",
    "int16",
    "int32",
    "int64",
    "int8",
    "isdtype",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "linspace",
    "log",
    "log10",
    "log1p",
    "log2",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "matmul",
    "matrix_transpose",
    "max",
    "maximum",
    "mean",
    "meshgrid",
    "min",
    "minimum",
    "moveaxis",
    "multiply",
    "nan",
    "negative",
    "newaxis",
    "nextafter",
    "nonzero",
    "not_equal",
    "ones",
    "ones_like",
    "permute_dims",
    "pi",
    "positive",
    "pow",
    "prod",
    "reciprocal",
    "remainder",
    "repeat",
    "reshape",
    "result_type",
    "roll",
    "round",
    "searchsorted",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "sort",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "subtract",
    "sum",
    "take",
    "take_along_axis",
    "tan",
    "tanh",
    "tensordot",
    "tile",
    "tril",
    "triu",
    "trunc",
    "uint16",
    "uint32",
    "uint64",
    "uint8",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
    "unstack",
    "var",
    "vecdot",
    "where",
    "zeros",
    "zeros_like",
]


def test_inspection() -> None:
    info = ak.__array_namespace_info__()
    assert info.default_device() is ak.device("numpy")
    assert info.default_device() in info.devices()
    assert info.default_dtypes()["real floating"] == "float32"
    assert set(info.dtypes(kind="signed integer")) == {"int8", "int16", "int32", "int64"}
    assert info.dtypes(kind=("bool", "real floating"))["bool"] is ak.bool
    assert info.capabilities()["boolean indexing"] is True


def test_dtype_questions() -> None:
    assert ak.isdtype(ak.float32, "real floating")
    assert ak.isdtype(ak.int8, ("bool", "signed integer"))
    assert not ak.isdtype(ak.int8, "complex floating")
    assert ak.can_cast(ak.int8, ak.int16)
    assert not ak.can_cast(ak.int16, ak.int8)
    assert not ak.can_cast(ak.int16, ak.float32)
    assert ak.finfo(ak.float32).eps == np.finfo("float32").eps
    assert ak.finfo("bfloat16").bits == 16
    assert ak.iinfo(ak.zeros(1, dtype="uint8")).max == 255
    assert ak.result_type(ak.int8, 3, ak.uint8) == "int16"
    assert ak.result_type(1, 2.0) == "float32"
    for call in (lambda: ak.finfo(ak.int8), lambda: ak.iinfo(ak.float32)):
        with pytest.raises(DTypeError, match="dtype, got"):
            call()
    with pytest.raises(DTypeError, match=r"Python float 1.5 does not fit"):
        ak.result_type(ak.int8, 1.5)
    with pytest.raises(OptionError, match="at least one argument"):
        ak.result_type()


# --- Python protocol ------------------------------------------------------------------------------


def test_equality_is_elementwise_and_the_hash_is_the_objects() -> None:
    x, y = ak.asarray([1, 2]), ak.asarray([1, 3])
    assert (x == y).tolist() == [True, False]
    assert (x != y).tolist() == [False, True]
    assert (x == "text") is False
    assert (x != None) is True  # noqa: E711 - the comparison is the point
    assert hash(x) != hash(y)
    assert len({x, y, x}) == 2


def test_numbers() -> None:
    assert bool(ak.asarray(True)) is True
    assert bool(ak.asarray([[0.0]])) is False
    assert int(ak.asarray(3)) == 3
    assert int(ak.asarray(3.7)) == 3
    assert float(ak.asarray([1.5])) == 1.5
    assert complex(ak.asarray(2.0)) == 2 + 0j
    assert ak.asarray(7).item() == 7
    assert [10, 20, 30][ak.asarray(1)] == 20
    assert operator.index(ak.asarray([2])) == 2
    assert f"{ak.asarray(1.25):.1f}" == "1.2"
    for call in (bool, int, float, operator.methodcaller("item")):
        with pytest.raises(ShapeError, match=r"one element.*got shape \(2,\)"):
            call(ak.zeros(2))
    with pytest.raises(TypeError):
        operator.index(ak.asarray(1.0))
    with pytest.raises(TypeError):
        operator.index(ak.asarray(True))


def test_length_and_iteration() -> None:
    x = ak.asarray([[1, 2], [3, 4], [5, 6]])
    assert len(x) == 3
    assert [row.tolist() for row in x] == [[1, 2], [3, 4], [5, 6]]
    with pytest.raises(TypeError, match="no length"):
        len(ak.asarray(1))
    with pytest.raises(TypeError, match="no length"):
        iter(ak.asarray(1))


def test_tensors_are_immutable() -> None:
    x = ak.zeros(3)
    before = x
    with pytest.raises(TypeError, match=r"immutable.*accelkit\.where"):
        x[0] = 1.0
    x += 1.0
    assert before.tolist() == [0.0, 0.0, 0.0]
    assert x.tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(AttributeError):
        x.shape = (1, 3)  # type: ignore[misc]
    with pytest.raises(AccelkitError, match=r"created by functions: accelkit\.asarray"):
        ak.Tensor()
    assert copy.copy(before).tolist() == copy.deepcopy(before).tolist() == [0.0, 0.0, 0.0]


def test_methods_are_the_functions() -> None:
    x = ak.asarray([[4.0, 1.0], [0.25, 9.0]])
    names = "sum mean var std max min prod all any argmax argmin"
    for name in names.split():
        expected = getattr(ak, name)(x, axis=1).tolist()
        assert getattr(x, name)(1).tolist() == getattr(x, name)(axis=1).tolist() == expected
        assert getattr(x, name)(0, keepdims=True).shape == (1, 2)
    for name in ("abs", "exp", "log", "sqrt", "square", "flatten"):
        assert getattr(x, name)().tolist() == getattr(ak, name)(x).tolist()
    assert x.clip(0.5, max=3.0).tolist() == [[3.0, 1.0], [0.5, 3.0]]
    assert x.expand_dims(1).shape == (2, 1, 2)
    assert x.expand_dims(1).permute_dims((1, 0, 2)).squeeze(0).tolist() == x.tolist()
    assert x.swap_axes(0, 1).tolist() == x.T.tolist()


def test_names_of_other_libraries_lead_to_those_of_this_one() -> None:
    x = ak.ones((2, 3))
    with pytest.raises(AttributeError, match=r"no attribute 'unsqueeze'\. Use x\.expand_dims"):
        x.unsqueeze(0)  # type: ignore[attr-defined]
    assert not hasattr(x, "shpae")
    for name, found in foreign_names._METHODS.items():
        assert not hasattr(x, name)
        for attribute in re.findall(r"\bx\.(\w+)", found):
            assert hasattr(x, attribute)
    for module, names in foreign_names._NAMES.items():
        for name, found in names.items():
            with pytest.raises(AttributeError, match=f"no attribute '{name}'.* Use "):
                getattr(importlib.import_module(module), name)
            for path in re.findall(
                r"\b(?:accelkit|data|losses|metrics|nn|optim|random|train)(?:\.\w+)+", found
            ):
                assert operator.attrgetter(path.removeprefix("accelkit."))(ak)
    with pytest.raises(AttributeError, match=r"no attribute 'Conv2dd'. Did you mean 'Conv2d'"):
        ak.nn.Conv2dd  # noqa: B018 - what is not there
    with pytest.raises(AttributeError, match=r"no attribute '_spec_'\.$"):
        ak.nn._spec_  # noqa: B018


def test_text() -> None:
    assert repr(ak.asarray([1, 2])) == "Tensor([1, 2], dtype=int64, device='numpy:cpu:0')"
    assert repr(ak.float32) == "accelkit.float32"
    shown: list[str] = []
    ak.trace(lambda x: shown.append(repr(x)) or x, ak.zeros((2, 3)))
    assert shown == ["<traced Tensor float32[2,3]>"]


def test_moving() -> None:
    pytest.importorskip("torch")
    x = ak.asarray([1.0, 2.0])
    y = x.to("torch:cpu")
    assert y.device is ak.device("torch:cpu:0")
    assert x.to("numpy") is x
    assert x.to_device(x.device) is x
    assert x.to("numpy", copy=True).native is not x.native
    assert y.to(x.device).tolist() == [1.0, 2.0]
    assert y.block_until_ready() is y
    with pytest.raises(DeviceMismatchError, match=r"numpy:cpu:0 and torch:cpu:0.*Move one"):
        _ = x + y
    with pytest.raises(DeviceMismatchError, match="add got tensors on different devices"):
        ak.add(y, x)


def test_unknown_devices_and_dtypes() -> None:
    x = ak.zeros(2)
    with pytest.raises(UnknownNameError, match=r"Unknown backend 'nump'. Did you mean 'numpy'"):
        x.to("nump")
    with pytest.raises(DeviceError, match=r"no device 'numpy:tpu'. It has: numpy:cpu:0"):
        x.to("numpy:tpu")
    with pytest.raises(DeviceError, match=r"'numpy:cpu:3'. It has: .* mean 'numpy:cpu:0'\?"):
        ak.zeros(2, device="numpy:cpu:3")
    for bad in ("numpy:cpu:x", "numpy:cpu:0:0"):
        with pytest.raises(OptionError, match=r"does not name a device. Expected"):
            ak.device(bad)
    with pytest.raises(DTypeError, match=r"Unsupported dtype 'flaot32'. Supported: bool, int8"):
        x.astype("flaot32")
