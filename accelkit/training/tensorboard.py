"""TensorBoard event files, written without TensorFlow.

A file is a sequence of TFRecords: length, masked CRC-32C of the length, data, masked CRC-32C of
the data (tensorflow/core/lib/io/record_writer.h). The data is an ``Event`` protocol buffer
(tensorflow/core/util/event.proto), of which only the few fields used here are encoded.
"""

from __future__ import annotations

import functools
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

__all__ = ["EventWriter", "crc32c"]

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8


class EventWriter:
    """Scalars of a run, for ``tensorboard --logdir``.

    Args:
        directory: A file is made in it.
        restart_step: Steps from here on in earlier files are void (the run was resumed).
    """

    def __init__(self, directory: Path, *, restart_step: int = 0) -> None:
        name = f"events.out.tfevents.{time.time_ns()}.accelkit"
        self._stream: BinaryIO = (directory / name).open("xb")
        self._write(_text(3, "brain.Event:2"))
        if restart_step:
            start_of_session = _message(7, _varint_field(1, 1))
            self._write(_varint_field(2, restart_step) + start_of_session)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of one step."""
        summary = b"".join(
            _message(1, _text(1, tag) + b"\x15" + struct.pack("<f", value))
            for tag, value in values.items()
        )
        self._write(_varint_field(2, step) + _message(5, summary))

    def flush(self) -> None:
        """Hand what was written to the system."""
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _write(self, fields: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + fields
        length = struct.pack("<Q", len(event))
        self._stream.write(length + _masked(length) + event + _masked(event))


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of a few bytes."""
    table = _table()
    value = 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


@functools.cache
def _table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        return value

    return tuple(entry(byte) for byte in range(256))


def _masked(data: bytes) -> bytes:
    value = crc32c(data)
    rotated = ((value >> 15) | (value << 17)) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + _MASK_DELTA) & 0xFFFFFFFF)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _text(number: int, text: str) -> bytes:
    return _message(number, text.encode("utf-8"))
