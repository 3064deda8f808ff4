"""Tensors to and from bytes, in the safetensors format.

The format (https://github.com/huggingface/safetensors#format): eight bytes of little-endian
header length, a JSON header ``{name: {"dtype", "shape", "data_offsets"}}``, then the raw data,
row-major and little-endian, without holes. It is written here, and not by the library, so that
the arrays are written and hashed in place instead of being joined into one more copy in memory,
and so that every malformed header gives one of our errors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from accelkit import dtypes
from accelkit.errors import CheckpointError, CorruptCheckpointError

__all__ = ["check_storable", "decode_tensors", "encode_tensors", "parse_json"]

Array = npt.NDArray[Any]

_HEADER_LIMIT_BYTES: Final = 100_000_000
_CODES: Final = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
_NAMES: Final = {code: name for name, code in _CODES.items()}


def encode_tensors(
    tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> Iterator[memoryview]:
    """Yield the bytes of a safetensors file: its header, then each array without a copy.

    Args:
        tensors: Arrays by name. An array that is not contiguous is copied when its turn comes.
        metadata: Strings for the header's ``__metadata__`` entry.

    Raises:
        CheckpointError: as :func:`check_storable`.
    """
    check_storable(tensors)
    # The largest items first, so that every array starts at a multiple of its item size.
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in order:
        array = tensors[name]
        header[name] = {
            "dtype": _CODES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    yield memoryview(struct.pack("<Q", len(text)) + text)
    for name in order:
        array = np.ascontiguousarray(tensors[name])
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if array.nbytes:
            yield array.reshape(-1).view(np.uint8).data


def check_storable(tensors: Mapping[str, Array]) -> None:
    """Require names and arrays that the format can hold.

    Raises:
        CheckpointError: for a name that is not a string or is ``__metadata__``, a value that is
            not a NumPy array, or a dtype that the format does not have.
    """
    for name, array in tensors.items():
        if not isinstance(name, str) or name == "__metadata__" or not _is_text(name):
            raise CheckpointError(
                f"A tensor cannot be named {name!r}: names are Unicode strings, and "
                "`__metadata__` is reserved by the safetensors format."
            )
        if not isinstance(array, np.ndarray):
            raise CheckpointError(
                f"Tensor {name!r} is a {type(array).__name__}, expected a NumPy array. "
                "Convert it with `np.asarray(...)`."
            )
        if array.dtype.name not in _CODES:
            raise CheckpointError(
                f"Tensor {name!r} has dtype {array.dtype}, which a checkpoint cannot hold. "
                f"Supported: {', '.join(_CODES)}."
            )


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def decode_tensors(data: bytearray | bytes) -> dict[str, Array]:
    """Read the arrays of a safetensors file held in memory; the arrays are views into ``data``.

    Raises:
        CorruptCheckpointError: if ``data`` is not a well-formed file; nothing is guessed.
    """
    if len(data) < 8:
        raise _malformed(f"it has {len(data)} bytes, fewer than the 8 of the header's length")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(_HEADER_LIMIT_BYTES, len(data) - 8):
        raise _malformed(f"its header claims {length} bytes of {len(data) - 8}")
    header = parse_json(bytes(memoryview(data)[8 : 8 + length]), "its header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _malformed("its `__metadata__` is not a table of strings")
    entries = [(name, *_entry(name, entry)) for name, entry in header.items()]
    position = 0
    tensors: dict[str, Array] = {}
    available = len(data) - 8 - length
    for name, dtype, shape, begin, end in sorted(entries, key=lambda e: (e[3], e[4])):
        if begin != position or end > available:
            raise _malformed(
                f"tensor {name!r} lies at bytes {begin} to {end}, expected to start at "
                f"{position} and to end within {available}"
            )
        flat = np.frombuffer(data, np.uint8, end - begin, 8 + length + begin)
        tensors[name] = flat.view(dtype).reshape(shape)
        position = end
    if position != available:
        raise _malformed(f"it has {available} bytes of data, its tensors take {position}")
    return {name: tensors[name] for name in header}


def _entry(name: str, entry: object) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """The dtype, shape and byte range that one header entry declares, checked."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _malformed(f"the entry of tensor {name!r} does not hold dtype, shape, data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in _NAMES:
        raise _malformed(f"tensor {name!r} has the unknown dtype {code!r}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2 or len(shape) > 32:
        raise _malformed(f"tensor {name!r} has the shape {shape!r} and the offsets {offsets!r}")
    dtype = np.dtype(dtypes.dtype(_NAMES[code]).numpy)
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _malformed(
            f"tensor {name!r} of shape {shape} and dtype {code} does not take the "
            f"{end - begin} bytes it claims"
        )
    return dtype, tuple(shape), begin, end


def _naturals(value: object) -> bool:
    # 2**62 keeps every product with an item size within what NumPy can index.
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**62 for v in value)


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object strictly: UTF-8, no repeated key, no NaN, no runaway nesting.

    Raises:
        CorruptCheckpointError: if it is anything else.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise _malformed(f"{what} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise _malformed(f"{what} is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is repeated")
    for key, value in pairs:  # half a surrogate pair is no text: this raises a ValueError
        key.encode("utf-8")
        if isinstance(value, str):
            value.encode("utf-8")
    return table


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not allowed")


def _malformed(reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"The file is not a well-formed checkpoint file: {reason}.")
