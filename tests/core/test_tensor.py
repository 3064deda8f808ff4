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
