"""Arrays of other libraries: by DLPack, and backends' own arrays."""

from __future__ import annotations

import numpy as np
import pytest
from core.arrays import ALL, arrays, assert_same
from hypothesis import given

import accelkit as ak
from accelkit.errors import DTypeError, OptionError

BACKENDS = sorted({info.device.backend for info in ak.devices()})


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
