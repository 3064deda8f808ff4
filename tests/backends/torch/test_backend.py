"""Devices, memory, exchange of arrays, errors, and exact random bits of the torch backend."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from accelkit_torch import TorchBackend, convolution, philox
from accelkit_torch.updates import _step
from torch.utils._python_dispatch import TorchDispatchMode

from accelkit import dtypes
from accelkit.errors import BackendError, DTypeError, OutOfMemoryError
from accelkit.random import philox as reference

TORCH = TorchBackend()
DEVICE = TORCH.devices()[-1].device


def test_the_host_is_the_last_device() -> None:
    information = TORCH.devices()[-1]
    assert str(information.device) == "torch:cpu:0"
    assert information.memory_bytes
    assert torch.__version__ in information.driver
    assert TORCH.device_of(torch.zeros(1)) is information.device


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_round_trip(dtype: dtypes.DType) -> None:
    source = np.arange(6).reshape(2, 3).astype(dtype.numpy)
    array = TORCH.put(source[:, ::-1], DEVICE)
    back = TORCH.get(array)
    assert back.dtype == dtype.numpy
    assert back.tobytes() == np.ascontiguousarray(source[:, ::-1]).tobytes()
    assert TORCH.spec(array) == ((2, 3), dtype)
    source[...] = 1
    assert TORCH.get(array).tobytes() == back.tobytes()
    back[...] = 1
    assert TORCH.get(array).tobytes() != back.tobytes()


def test_unsupported_dtype() -> None:
    with pytest.raises(DTypeError, match="complex64"):
        TORCH.spec(torch.zeros(2, dtype=torch.complex64))


def test_read_only_source() -> None:
    source = np.arange(3.0)
    source.flags.writeable = False
    assert TORCH.get(TORCH.put(source, DEVICE)).tolist() == [0, 1, 2]


def test_dlpack() -> None:
    source = np.arange(4.0)
    array = TORCH.from_dlpack(source, DEVICE)
    assert array.tolist() == [0, 1, 2, 3]
    assert array.data_ptr() == source.ctypes.data  # no copy
    source.flags.writeable = False
    assert TORCH.from_dlpack(source, DEVICE).tolist() == [0, 1, 2, 3]
    assert TORCH.dlpack_device(array) == (1, 0)
    assert np.from_dlpack(array).tolist() == [0, 1, 2, 3]
    assert torch.from_dlpack(TORCH.to_dlpack(array)).data_ptr() == array.data_ptr()


def test_a_copy_has_memory_of_its_own() -> None:
    array = torch.arange(4.0)
    twin = TORCH.copy(array, DEVICE)
    array[0] = 5.0
    assert twin.tolist() == [0, 1, 2, 3]


def test_out_of_memory_is_translated() -> None:
    with pytest.raises(RuntimeError, match="allocate") as caught:
        torch.empty(1 << 60)
    error = TORCH.translate(caught.value)
    assert isinstance(error, OutOfMemoryError)
    assert error.__cause__ is caught.value
    assert isinstance(
        TORCH.translate(torch.OutOfMemoryError("CUDA out of memory")), OutOfMemoryError
    )
    other = TORCH.translate(ValueError("no"))
    assert type(other) is BackendError


def test_memory_statistics() -> None:
    TORCH.reset_peak_memory(DEVICE)
    before = TORCH.memory(DEVICE)
    block = torch.ones(8 << 20)  # 32 MiB
    after = TORCH.memory(DEVICE)
    assert before.peak_bytes is not None
    assert after.peak_bytes is not None
    assert after.peak_bytes - before.peak_bytes > block.nbytes // 2
    assert after.method


@pytest.mark.parametrize("offset", [0, 1, 6, (1 << 34) - 3, 1 << 40])
@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_random_words_are_the_reference(
    offset: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form for accelerators, which runs on any device, in pieces of several sizes."""
    for key in ((0, 0), (0xFFFFFFFF, 0x80000000), (123456789, 987654321)):
        native = torch.tensor(key, dtype=torch.int64).to(torch.uint32)
        for chunk in (3, 1 << 20):
            monkeypatch.setattr(philox, "_CHUNK_BLOCKS", chunk)
            out = torch.empty(count, dtype=torch.int64)
            philox.random_words(native, offset, out, lambda words, part: part.copy_(words))
            expected = reference.random_bits(key, offset, count)
            np.testing.assert_array_equal(out.numpy(), expected)


def test_random_tensors_of_accelerators_are_the_reference() -> None:
    key = torch.tensor([7, 8], dtype=torch.int64).to(torch.uint32)
    mask = philox._drawn_mask(key, (3, 5), 0.3, 6)
    np.testing.assert_array_equal(
        mask.numpy(), reference.random_keep_mask((7, 8), (3, 5), 0.3, offset=6)
    )
    for dtype in (dtypes.float32, dtypes.float64):
        drawn = philox._drawn_uniform(key, (3, 5), dtype, 6)
        expected = reference.random_uniform((7, 8), (3, 5), dtype, offset=6)
        np.testing.assert_array_equal(drawn.numpy(), expected)


@pytest.mark.parametrize("size", [(1 << 17) - 1, 1 << 17, (1 << 17) + 5, 1 << 19])
def test_masks_drawn_by_numpy_and_by_torch_are_the_same_stream(size: int) -> None:
    key = torch.tensor([7, 8], dtype=torch.int64).to(torch.uint32)
    mask = philox.random_keep_mask(key, shape=(size,), rate=0.3, offset=3)
    expected = reference.random_keep_mask((7, 8), (size,), 0.3, offset=3)
    np.testing.assert_array_equal(mask.numpy(), expected)


@pytest.mark.parametrize("offset", [0, 5, (1 << 34) - 6, (1 << 35) + 1])
@pytest.mark.parametrize("pieces", [3, 1 << 16])
def test_masks_of_the_host(pieces: int, offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, one of which ends where the counter's first word does."""
    monkeypatch.setattr(philox, "_HOST_BLOCKS", pieces)
    for key in ((0, 0), (0xFFFFFFFF, 0x80000000)):
        mask = philox.host_mask(key, (7, 5), 0.3, offset)
        expected = reference.random_keep_mask(key, (7, 5), 0.3, offset=offset)
        np.testing.assert_array_equal(mask.numpy(), expected)


def test_host_masks_take_eight_passes_a_round_over_four_words() -> None:
    """High words are read where they stand: a round shifts nothing and has no spare arrays."""
    taken: Counter[str] = Counter()
    blocks = 1 << 15

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
            taken[function.overloadpacket.__name__] += 1
            found = function(*args, **kwargs)
            if function.overloadpacket.__name__ == "empty":
                taken["bytes"] += found.nbytes
            return found

    philox.host_mask((7, 8), (4 * blocks,), 0.3, 0)  # the first products are kept
    with Count():
        philox.host_mask((7, 8), (4 * blocks,), 0.3, 0)
    rounds = 7  # and three of which parts are numbers
    assert taken["arange"] == taken["bitwise_right_shift"] == taken["fill_"] == 0
    assert taken["mul_"] == 2 * rounds + 3
    assert taken["bitwise_xor_"] == 4 * rounds + 3
    assert taken["bitwise_and_"] == 2 * rounds + 7
    assert taken["bitwise_xor"] == 3
    assert taken["add"] == 1
    assert taken["ge"] == 4
    assert taken["bytes"] == 4 * blocks * 8 + 4 * blocks


def test_known_answer_of_random123() -> None:
    out = torch.empty(4, dtype=torch.int64)
    key = torch.zeros(2, dtype=torch.uint32)
    philox.random_words(key, 0, out, lambda words, part: part.copy_(words))
    assert [f"{word:08x}" for word in out.tolist()] == [
        "6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8",
    ]  # fmt: skip


@pytest.mark.parametrize("beta", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_step_number_follows_from_the_correction(beta: float, dtype: torch.dtype) -> None:
    for step in (1, 2, 10, 100, 1000, 10_000, 1_000_000):
        correction = torch.tensor(1.0 - beta**step, dtype=dtype)
        found = float(_step(correction, beta))
        # Where the step cannot be told any more, it makes no difference either.
        assert abs((1.0 - beta**found) - float(correction)) <= torch.finfo(dtype).eps


def test_eager_results_of_views_are_tensors_of_their_own() -> None:
    from accelkit.primitives import get

    x = torch.ones(2, 2)
    for name, parameters in (
        ("alias", {}),
        ("stop_gradient", {}),
        ("reshape", {"shape": (2, 2)}),
        ("cast", {"dtype": dtypes.float32}),
        ("reduce_sum", {"axes": ()}),
        ("slice", {"start": (0, 0), "stop": (2, 2), "step": (1, 1)}),
    ):
        assert TORCH.run(get(name), [x], parameters, DEVICE) is not x


def test_labels_out_of_range_give_a_finite_loss() -> None:
    logits, labels = torch.randn(3, 4), torch.tensor([-1, 4, 1 << 40])
    parameters = {"label_smoothing": 0.0}
    assert torch.isfinite(TORCH.table["softmax_cross_entropy"](logits, labels, **parameters)).all()
    gradient = TORCH.table["softmax_cross_entropy_grad"]
    assert torch.isfinite(gradient(logits, labels, torch.ones(3), **parameters)).all()


@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_of_a_convolution_with_one_feature(batch: int) -> None:
    """Permuted, such weights look as if their channels were last, which float64 refuses."""
    x = torch.ones(batch, 7, 6, 3, dtype=torch.float64)
    w = torch.ones(5, 4, 3, 1, dtype=torch.float64)
    geometry: Any = {
        "strides": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1,
    }  # fmt: skip
    g = torch.ones_like(convolution.conv2d(x, w, **geometry))
    dw = convolution.conv2d_weight_grad(x, g, kernel_size=(5, 4), **geometry)
    dx = convolution.conv2d_input_grad(g, w, image_size=(7, 6), **geometry)
    torch.testing.assert_close(dw, torch.full_like(w, g.numel()))
    torch.testing.assert_close(dx.sum(), torch.tensor(g.numel() * w.numel(), dtype=torch.float64))
