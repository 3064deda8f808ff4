"""The tensor file: round trips, agreement with the safetensors library, malformed headers."""

from __future__ import annotations

import json
import struct

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from header_fuzzer import fuzz
from hypothesis import given

from accelkit.checkpoint import decode_tensors, encode_tensors
from accelkit.errors import CheckpointError, CorruptCheckpointError

DTYPES = [
    np.dtype(d)
    for d in ["bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
] + [np.dtype(ml_dtypes.bfloat16)]  # fmt: skip


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8)
    if dtype == np.bool_:
        raw = raw & 1
    array = raw.view(dtype).reshape(shape)
    return draw(st.sampled_from([array, array.T, array[..., ::-1] if array.ndim else array]))


def encode(tensors: dict[str, np.ndarray]) -> bytes:
    return b"".join(encode_tensors(tensors))


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        assert got[name].tobytes() == array.tobytes()


@given(st.dictionaries(st.text(max_size=12).filter(lambda s: s != "__metadata__"), arrays()))
def test_round_trip_and_library_agree(tensors: dict[str, np.ndarray]) -> None:
    data = encode(tensors)
    assert_same(decode_tensors(data), tensors)
    for name, view in safetensors.deserialize(data):  # its NumPy reader lacks bfloat16
        assert view["shape"] == list(tensors[name].shape)
        assert view["data"] == tensors[name].tobytes()


@given(st.dictionaries(st.text(max_size=12).filter(lambda s: s != "__metadata__"), arrays()))
def test_reads_what_the_library_writes(tensors: dict[str, np.ndarray]) -> None:
    contiguous = {
        name: np.array(array, order="C")
        for name, array in tensors.items()
        if array.dtype != ml_dtypes.bfloat16
    }
    data = safetensors.numpy.save(contiguous, {"format": "np"})
    assert_same(decode_tensors(data), contiguous)


def test_data_starts_at_multiples_of_the_item_size() -> None:
    data = bytearray(encode({"a": np.zeros(3, np.uint8), "b": np.zeros(3), "c": np.ones(1, "f4")}))
    assert all(array.flags.aligned for array in decode_tensors(data).values())
    assert all(array.flags.writeable for array in decode_tensors(data).values())


def test_byte_order_is_normalised() -> None:
    array = np.arange(3, dtype=">f4")
    (decoded,) = decode_tensors(encode({"a": array})).values()
    np.testing.assert_array_equal(decoded, array)
    assert decoded.dtype.isnative


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": np.zeros(2, np.complex64)}, "complex64"),
        ({"a": np.array(["x"])}, "cannot hold"),
        ({"a": np.array([None])}, "object"),
        ({"a": [1.0]}, "is a list, expected a NumPy array"),
        ({"__metadata__": np.zeros(1)}, "reserved"),
        ({3: np.zeros(1)}, "named 3"),
        ({"\ud800": np.zeros(1)}, "named '.ud800'"),
    ],
)
def test_what_cannot_be_stored_is_named(tensors: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        encode(tensors)


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: object = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\1" * 7, id="shorter than the length field"),
        pytest.param(struct.pack("<Q", 2**64 - 1) + b"{}", id="huge length"),
        pytest.param(file_of(b"[]"), id="not an object"),
        pytest.param(file_of(b'{"a":1}'), id="entry is a number"),
        pytest.param(file_of(b"\xff\xff"), id="not UTF-8"),
        pytest.param(file_of(b"[" * 100_000), id="nested deeply"),
        pytest.param(file_of(b'{"a":NaN}'), id="NaN"),
        pytest.param(file_of({"__metadata__": {"a": "\ud800"}}), id="half a surrogate pair"),
        pytest.param(
            file_of(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), b"1234"),
            id="repeated name",
        ),
        pytest.param(file_of({"__metadata__": {"a": 1}}), id="metadata not strings"),
        pytest.param(file_of({"a": entry("F4")}, b"1234"), id="unknown dtype"),
        pytest.param(file_of({"a": entry(["U8"])}, b"1234"), id="dtype is a list"),
        pytest.param(file_of({"a": entry(shape=[-4])}, b"1234"), id="negative shape"),
        pytest.param(file_of({"a": entry(shape=[True] * 4)}, b"1"), id="boolean shape"),
        pytest.param(file_of({"a": entry(shape=[2.0, 2])}, b"1234"), id="float shape"),
        pytest.param(file_of({"a": entry(shape=4)}, b"1234"), id="shape is a number"),
        pytest.param(file_of({"a": entry(shape=[2**40, 2**40])}, b"1234"), id="overflow"),
        pytest.param(file_of({"a": entry(shape=[1] * 40)}, b"1"), id="too many dimensions"),
        pytest.param(file_of({"a": entry(shape=[5])}, b"1234"), id="shape and range disagree"),
        pytest.param(file_of({"a": entry(offsets=[4, 0])}, b"1234"), id="range reversed"),
        pytest.param(file_of({"a": entry(offsets=[0])}, b"1234"), id="range incomplete"),
        pytest.param(file_of({"a": entry(offsets=[1, 5])}, b"12345"), id="hole at the start"),
        pytest.param(file_of({"a": entry()}, b"12345"), id="hole at the end"),
        pytest.param(file_of({"a": entry()}, b"123"), id="range beyond the end"),
        pytest.param(file_of({"a": entry(), "b": entry()}, b"1234"), id="ranges overlap"),
        pytest.param(file_of({"a": {**entry(), "more": 1}}, b"1234"), id="unknown field"),
    ],
)
def test_malformed_files_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptCheckpointError, match="not a well-formed checkpoint file"):
        decode_tensors(data)


def test_fuzzed_headers_are_accepted_or_refused() -> None:
    outcomes = fuzz(4000, seed=1)
    assert sum(outcomes.values()) == 4000
    for subject in ("file", "manifest", "pack"):
        assert min(outcomes[f"{subject} refused"], outcomes[f"{subject} accepted"]) > 20, outcomes
