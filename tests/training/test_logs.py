"""Logs: what a resumed run keeps, and TensorBoard's format."""

from __future__ import annotations

import errno
import io
import struct
from pathlib import Path

import pytest

from accelkit.errors import DataError, OptionError
from accelkit.training.logs import LOG_NAME, RunLog, read_log
from accelkit.training.tensorboard import EventWriter, crc32c


def fill(directory: Path, first: int, last: int, resumed: int | None = None) -> bytes:
    log = RunLog(str(directory), resumed_step=resumed)
    for step in range(first, last + 1):
        log.step(step, 1, {"loss": 1 / step})
    log.evaluation(last, 1, {"top1": 0.5})
    log.timing(last, {"images_per_s": 3.0})
    log.sync()
    log.close()
    return (directory / LOG_NAME).read_bytes()


def test_resumed_logs_are_cut_back(tmp_path: Path) -> None:
    whole = fill(tmp_path / "whole", 1, 9)
    fill(tmp_path / "parts", 1, 7)
    with (tmp_path / "parts" / LOG_NAME).open("ab") as stream:
        stream.write(b'{"step":8,"lo')  # a line that a crash cut off
    assert fill(tmp_path / "parts", 5, 9, resumed=4) == whole
    assert len(read_log(tmp_path / "parts")) == 10
    assert fill(tmp_path / "parts", 1, 9, resumed=0) == whole


def test_logs_of_other_runs_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2)
    with pytest.raises(OptionError, match="is the log of another run"):
        RunLog(str(tmp_path), resumed_step=None)
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot be written"):
        RunLog(str(tmp_path / "file" / "x"), resumed_step=None)


class FullDisk(io.RawIOBase):
    """Takes some bytes, and then no more."""

    def __init__(self, room: int) -> None:
        self.room = room

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return len(data)


def fill_up(log: RunLog) -> None:
    for step in range(1000):
        log.step(step, 1, {"loss": 1.0})


@pytest.mark.parametrize("name", ["_stream", "_events"])
def test_a_full_disk_is_an_error_with_advice(tmp_path: Path, name: str) -> None:
    log = RunLog(str(tmp_path), resumed_step=None)
    full = io.BufferedWriter(FullDisk(4096), 256)
    owner, attribute = (log, name) if name == "_stream" else (log._events, "_stream")
    getattr(owner, attribute).close()
    setattr(owner, attribute, full)
    with pytest.raises(DataError, match=r"log .*: No space left.*Free some space.*--resume"):
        fill_up(log)
    log.step(1001, 1, {"loss": 1.0})  # as after the end of a log: nothing happens
    log.close()
    assert full.closed


def test_a_disk_may_be_full_only_when_the_log_is_closed(tmp_path: Path) -> None:
    log = RunLog(str(tmp_path), resumed_step=None)
    log._stream.close()
    log._stream = io.BufferedWriter(FullDisk(0))
    log.step(1, 1, {"loss": 1.0})
    with pytest.raises(DataError, match="No space left"):
        log.close()
    log.close()


def test_no_directory_no_log(tmp_path: Path) -> None:
    log = RunLog(None, resumed_step=None)
    log.step(1, 1, {"loss": 1.0})
    log.evaluation(1, 1, {})
    log.timing(1, {})
    log.sync()
    log.close()


def test_reading_what_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        read_log(tmp_path / "none")
    for text in ("hello\n", "[1]\n", '{"a": 1}\n'):
        (tmp_path / "x").write_text(text)
        with pytest.raises(OptionError, match="is no log of a run"):
            read_log(tmp_path / "x")
    (tmp_path / "x").write_text("hello")
    with pytest.raises(OptionError, match="has no complete line"):
        read_log(tmp_path / "x")
    (tmp_path / "x").write_text('{"step": 1}\n{"step": 2')
    assert read_log(tmp_path / "x") == [{"step": 1}]


def test_crc32c_known_answers() -> None:
    # RFC 3720, appendix B.4, and the check value of the polynomial.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def write_events(directory: Path) -> Path:
    writer = EventWriter(directory, restart_step=300)
    writer.scalars(301, {"train/loss": 0.5, "train/top1": 1.0})
    writer.flush()
    writer.close()
    (path,) = directory.glob("events.out.tfevents.*")
    return path


def test_event_records_are_framed(tmp_path: Path) -> None:
    data = write_events(tmp_path).read_bytes()
    records = []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        records.append(data[12 : 12 + length])
        data = data[16 + length :]
    assert len(records) == 3
    assert records[0].endswith(b"brain.Event:2")


@pytest.mark.slow
def test_tensorflow_reads_the_events(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    from tensorflow.core.util import event_pb2

    records = tensorflow.data.TFRecordDataset(str(write_events(tmp_path)))
    events = [event_pb2.Event.FromString(record.numpy()) for record in records]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (300, 1)
    assert events[2].step == 301
    values = {value.tag: value.simple_value for value in events[2].summary.value}
    assert values == {"train/loss": 0.5, "train/top1": 1.0}
