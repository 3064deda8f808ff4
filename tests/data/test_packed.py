"""Packs: exact content, damage found, and packing that survives being stopped at any moment."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.pictures import make_folder, picture

from accelkit.data import (
    ArraySource,
    EvaluationTransform,
    ImageFolder,
    Loader,
    PackedSource,
    Record,
    ShapesSource,
    open_source,
    pack,
)
from accelkit.data.__main__ import main
from accelkit.data.images import ArrayImage, open_image
from accelkit.data.packed import PACK_VERSION, sums
from accelkit.data.randomness import SampleRandom
from accelkit.errors import CorruptDataError, DataError, OptionError

FILES = ("images.bin", "index.bin", "pack.json", "SHA256SUMS")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    images = np.stack([picture(3, 4, i) for i in range(3)])
    pack(
        ArraySource(images, np.array([2, 0, 1]), classes=("a", "b", "c")), tmp_path / "p", size=None
    )
    return tmp_path / "p"


def read_all(path: Path, **options: Any) -> list[tuple[bytes, int]]:
    source = PackedSource(path, **options)
    return [(source[i].content.tobytes(), source[i].label) for i in range(len(source))]


def test_pack_holds_the_central_squares(tmp_path: Path) -> None:
    source = ImageFolder(make_folder(tmp_path / "in"))
    packed = pack(source, tmp_path / "out", size=16)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    assert (len(packed), packed.classes) == (12, source.classes)
    transform = EvaluationTransform(size=16, resize=16)
    for index in range(12):
        image = open_image(source[index].content, "a")
        expected = transform(image, SampleRandom((0, 0), 0))
        np.testing.assert_array_equal(packed[index].content, expected)
        assert packed[index].label == source[index].label
    assert f"sample {index}" in packed[index].name
    again = pickle.loads(pickle.dumps(packed))
    np.testing.assert_array_equal(again[3].content, packed[3].content)
    for outside in (-1, 12):
        with pytest.raises(IndexError):
            packed[outside]
    assert open_source(tmp_path / "out").classes == source.classes


def test_images_of_one_size_may_stay_as_they_are(small: Path) -> None:
    assert read_all(small) == [(picture(3, 4, i).tobytes(), (2, 0, 1)[i]) for i in range(3)]


def test_grey_images_get_a_channel_axis(tmp_path: Path) -> None:
    packed = pack(
        ArraySource(np.ones((5, 4, 6), np.uint8), np.arange(5)), tmp_path / "p", size=None
    )
    assert packed[4].content.shape == (4, 6, 1)


def test_records_are_views_that_a_loader_batches(small: Path) -> None:
    source = PackedSource(small)
    assert not source[0].content.flags.writeable
    assert np.shares_memory(source[0].content, source.images)
    (batch,) = Loader(source, batch_size=3, shuffle=False)
    np.testing.assert_array_equal(batch.image, source.images)


def test_gathering_equals_reading_one_by_one(tmp_path: Path) -> None:
    packed = pack(ShapesSource(40, size=16), tmp_path / "p", size=None)
    common: dict[str, Any] = {"batch_size": 12, "seed": 3, "partial": "pad", "on_corrupt": "skip"}

    class OneByOne(PackedSource):
        gather = None  # type: ignore[assignment]

    def content(source: PackedSource) -> list[tuple[bytes, ...]]:
        return [
            tuple(a.tobytes() for a in (b.image, b.label, b.weight, b.index))
            for b in Loader(source, **common)
        ]

    assert content(packed) == content(OneByOne(tmp_path / "p"))
    with (tmp_path / "p" / "images.bin").open("r+b") as stream:
        stream.seek(17 * 768)
        stream.write(b"\x00\xff\x00\xff")
    damaged = PackedSource(tmp_path / "p")
    assert content(damaged) == content(OneByOne(tmp_path / "p")) != content(packed)
    loader = Loader(PackedSource(tmp_path / "p"), **common)
    assert [s.index for b in loader for s in b.skipped] == [17]


@pytest.mark.parametrize("verify", ["first", "always"])
@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_detected(small: Path, name: str, verify: str) -> None:
    whole = (small / name).read_bytes()
    with (small / name).open("r+b", buffering=0) as stream:
        for position in range(len(whole)):
            for bit in range(8):
                os.pwrite(stream.fileno(), bytes([whole[position] ^ 1 << bit]), position)
                with pytest.raises(CorruptDataError):
                    read_all(small, verify=verify)
            os.pwrite(stream.fileno(), whole[position : position + 1], position)
    read_all(small, verify=verify)


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_detected(small: Path, name: str) -> None:
    whole = (small / name).read_bytes()
    for length in range(len(whole)):
        (small / name).write_bytes(whole[:length])
        with pytest.raises(CorruptDataError):
            read_all(small)
    (small / name).write_bytes(whole + b"\0")
    with pytest.raises(CorruptDataError):
        read_all(small)
    (small / name).unlink()
    with pytest.raises(DataError):
        read_all(small)


def test_when_records_are_verified(small: Path) -> None:
    sources = {
        verify: PackedSource(small, verify=verify) for verify in ("first", "always", "never")
    }
    for source in sources.values():
        source[1]
    with (small / "images.bin").open("r+b") as stream:
        stream.seek(40)
        stream.write(b"\xff\x00\xff")
    sources["never"][1]
    sources["first"][1]  # it was good when it was read first
    with pytest.raises(CorruptDataError, match=r"p\[1\] \(sample 1 of its source\) does not match"):
        sources["always"][1]
    with pytest.raises(CorruptDataError):
        PackedSource(small)[1]
    with pytest.raises(OptionError):
        PackedSource(small, verify="sometimes")


def test_newer_versions_are_named(small: Path) -> None:
    header = (small / "pack.json").read_bytes()
    newer = header.replace(b'"version": 1', b'"version": 2')
    assert newer != header
    (small / "pack.json").write_bytes(newer)
    (small / "SHA256SUMS").write_bytes(sums(newer, (small / "index.bin").read_bytes()))
    with pytest.raises(DataError, match=rf"version 2; this accelkit reads up to {PACK_VERSION}"):
        PackedSource(small)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"count": 3', b'"count": Infinity', "count is inf"),
        (b'"count": 3', b'"count": 3.0', "count is 3.0"),
        (b'"count": 3', b'"count": 0', r"0 records of shape \(3, 4, 3\)"),
        (b"    4,", b"    %d," % 10**20, "make no file"),
        (b"    4,", b'    "4",', "expected a list of int"),
        (b'"skipped": []', b'"skipped": ""', "expected a list of str"),
        (b'    "c"\n', b"    4\n", "expected a list of str"),
        (b'    "b",\n    "c"\n', b'    "b"\n', "labels from 0 to 2, expected 0 to 1"),
    ],
)
def test_headers_that_make_no_sense(small: Path, old: bytes, new: bytes, message: str) -> None:
    # With true digests: not damage, but a faulty writer.
    header = (small / "pack.json").read_bytes()
    assert old in header
    header = header.replace(old, new)
    (small / "pack.json").write_bytes(header)
    (small / "SHA256SUMS").write_bytes(sums(header, (small / "index.bin").read_bytes()))
    with pytest.raises(CorruptDataError, match=message):
        PackedSource(small)


class Stubborn(ArraySource):
    """Stops at some sample, or cannot read some."""

    def __init__(self, count: int) -> None:
        values = np.arange(count * 12, dtype=np.uint32).reshape(count, 2, 2, 3)
        super().__init__((values * 2654435761 >> 24).astype(np.uint8), np.arange(count) % 10)

    stop_at: int | None = None
    damaged = frozenset[int]()

    def __getitem__(self, index: int, /) -> Record:
        if index == self.stop_at:
            raise KeyboardInterrupt
        if index in self.damaged:
            raise CorruptDataError(f"sample {index} is damaged")
        return super().__getitem__(index)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("damaged", [frozenset[int](), frozenset({3, 700, 1499})])
def test_interrupted_packing_continues_to_the_same_bytes(
    tmp_path: Path, threads: int, damaged: frozenset[int]
) -> None:
    options: dict[str, Any] = {"size": None, "threads": threads, "on_corrupt": "skip"}
    source = Stubborn(1500)
    source.damaged = damaged
    whole = pack(source, tmp_path / "whole", **options)
    assert len(whole) == 1500 - len(damaged)
    for stop in (100, 1100, 1400, 1499):
        source.stop_at = stop
        with pytest.raises(KeyboardInterrupt):
            pack(source, tmp_path / "parts", **options)
        with pytest.raises(DataError, match=r"not a complete pack\. Run the pack command again"):
            PackedSource(tmp_path / "parts")
    source.stop_at = None
    pack(source, tmp_path / "parts", **options)
    for name in FILES:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(whole.header.skipped) == len(damaged)


def test_error_at_every_file_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelkit.filesystem import FileSystem

    source = Stubborn(1100)
    pack(source, tmp_path / "whole", size=None, threads=0)
    expected = [(tmp_path / "whole" / name).read_bytes() for name in FILES]
    names = ("create", "write", "sync", "rename", "sync_directory", "remove_file")
    originals = {name: getattr(FileSystem, name) for name in names}
    counter = [0, 0]

    def failing(name: str):
        def operation(self: FileSystem, *arguments: Any) -> Any:
            counter[0] += 1
            if counter[0] - 1 == counter[1]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return originals[name](self, *arguments)

        return operation

    for name in names:
        monkeypatch.setattr(FileSystem, name, failing(name))
    for fail_at in range(1000):
        counter[:] = [0, fail_at]
        place = tmp_path / f"fail-{fail_at}"
        try:
            pack(source, place, size=None, threads=0)
        except DataError as error:
            message = str(error)
        else:
            break
        assert "Free some space and run the same command again" in message
        if (place / "SHA256SUMS").exists():  # only the tidying up after it failed
            read_all(place)
        else:
            counter[:] = [0, -1]
            (place / ".progress.json.0a1b2c3d.unfinished").touch()  # of one that was killed
            pack(source, place, size=None, threads=0)
            assert not list(place.glob("*.unfinished"))
        assert [(place / name).read_bytes() for name in FILES] == expected
        shutil.rmtree(place)
    assert fail_at > 15


@pytest.mark.slow
def test_killed_packing_continues_to_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accelkit.data", "pack", "shapes:6000:32", "--size", "24"]
    expected = pack(ShapesSource(6000), tmp_path / "whole", size=24)
    images = tmp_path / "out" / "images.bin"
    whole = (tmp_path / "whole" / "images.bin").stat().st_size
    for share in (0.02, 0.31, 0.64):
        with subprocess.Popen(
            [*command, str(tmp_path / "out")], stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None:
                if images.exists() and images.stat().st_size > share * whole:
                    process.kill()
                    break
                time.sleep(0.001)
        assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "SHA256SUMS").exists()
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True)
    assert len(PackedSource(tmp_path / "out")) == len(expected)
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_destinations_that_hold_something_else(small: Path, tmp_path: Path) -> None:
    source = ShapesSource(10, size=16)
    with pytest.raises(DataError, match="is a complete pack already"):
        pack(source, small)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("")
    with pytest.raises(DataError, match=r"holds other files \(thesis\.tex"):
        pack(source, tmp_path / "used")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["thesis.tex"]
    with pytest.raises(DataError, match=r"thesis\.tex is a file\. Give a directory"):
        pack(source, tmp_path / "used" / "thesis.tex")
    with pytest.raises(OptionError, match="`size` must be a positive integer, got -1"):
        pack(source, tmp_path / "p", size=-1)


@pytest.mark.parametrize("record", [b"", b"[]", b'{"settings": 1}', b"\xff"])
def test_damaged_record_of_progress_is_named(tmp_path: Path, record: bytes) -> None:
    (tmp_path / "progress.json").write_bytes(record)
    with pytest.raises(DataError, match=r"progress.json cannot be read: .*Remove .* pack anew"):
        pack(Stubborn(2), tmp_path, size=None, threads=0)


def test_continuing_with_other_arguments_is_refused(tmp_path: Path) -> None:
    source = Stubborn(1500)
    source.stop_at = 1400
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "p", size=None)
    with pytest.raises(DataError, match="holds an unfinished pack of"):
        pack(source, tmp_path / "p", size=8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 2, 2)), np.arange(3), r"float64\[2, 2\]"),
        (np.zeros((3, 2, 2, 2, 2), np.uint8), np.arange(3), "Only uint8 images"),
        (np.zeros((3, 2, 2), np.uint8), np.zeros((3, 4)), r"labels of shape \[4\]"),
    ],
)
def test_what_cannot_be_packed(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        pack(ArraySource(images, labels), tmp_path / "p", size=None)


def test_no_room_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"needs 1\.9 MiB more, but .* has 0\.0 MiB free"):
        pack(ShapesSource(10, size=16), tmp_path / "p")


def test_two_packers_do_not_share_a_destination(tmp_path: Path) -> None:
    class Nested(ShapesSource):
        def __getitem__(self, index: int, /) -> Record:
            with pytest.raises(DataError, match="written by this process already"):
                pack(ShapesSource(3), tmp_path / "p")
            return super().__getitem__(index)

    assert len(pack(Nested(2, size=16), tmp_path / "p", size=None, threads=0)) == 2


class TestCommands:
    def test_pack_verify_and_info(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        make_folder(tmp_path / "in" / "train", classes=2, images=10)
        (tmp_path / "in" / "train" / "class1" / "bad.jpg").write_bytes(b"not an image")
        target = str(tmp_path / "out")
        assert main(["pack", str(tmp_path / "in"), target, "--size", "12"]) == 1
        assert "bad.jpg cannot be decoded" in capsys.readouterr().err
        assert main(["pack", str(tmp_path / "in"), target, "--size", "12", "--skip-corrupt"]) == 0
        captured = capsys.readouterr()
        assert "20 of 12x12x3), 1 skipped" in captured.out
        assert "packing: 21 of 21, 1 bad" in captured.err
        assert main(["verify", target]) == 0
        assert main(["info", target]) == 0
        assert "first image: uint8[12, 12, 3]\nclasses: 2" in capsys.readouterr().out
        with (tmp_path / "out" / "images.bin").open("r+b") as stream:
            stream.write(b"\xff\x00\xff\x00")
        assert main(["verify", target]) == 1
        assert "1 damaged" in capsys.readouterr().out
        assert main(["info", str(tmp_path / "none")]) == 2
        assert "names no data. Expected a folder of classes" in capsys.readouterr().err

    def test_status_of_what_did_not_begin(
        self, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["pack", "shapes:10:16", str(small)]) == 2
        assert "is a complete pack already" in capsys.readouterr().err
        assert main(["pack", "shapes:10:16", str(tmp_path / "q"), "--threads", "99999999"]) == 2
        assert "`threads` must be an integer from 0 to 1024" in capsys.readouterr().err

    def test_interruption_says_how_to_go_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = Stubborn(100)
        source.stop_at = 90
        monkeypatch.setattr("accelkit.data.__main__.open_source", lambda *a, **k: source)
        assert main(["pack", "x", str(tmp_path / "p"), "--size", "0"]) == 130
        assert "run the same command again" in capsys.readouterr().err

    def test_progress_bar_on_a_terminal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        assert main(["pack", "shapes:70:16", str(tmp_path / "p"), "--size", "0"]) == 0


def test_specifications_of_sources(tmp_path: Path) -> None:
    assert repr(open_source("shapes")) == "ShapesSource(10000, size=32, seed=0, train)"
    assert (
        repr(open_source("shapes:50:64", split="test")) == "ShapesSource(50, size=64, seed=0, test)"
    )
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 2)), y=np.zeros(2))
    assert len(open_source(tmp_path / "a.npz")) == 2
    make_folder(tmp_path / "d" / "val", classes=2)
    make_folder(tmp_path / "d" / "train", classes=3)
    assert len(open_source(tmp_path / "d").classes) == 3
    assert len(open_source(tmp_path / "d", split="test").classes) == 2
    for wrong in ("shapes:x", "shapes:1:2:3", "nowhere", "digits:3"):
        with pytest.raises(DataError, match="names no data"):
            open_source(wrong)
    with pytest.raises(DataError, match="1 of 1 shards do not exist"):
        open_source(tmp_path / "none.tar")


def test_arrays_of_a_pack_are_images(small: Path) -> None:
    assert ArrayImage(PackedSource(small)[0].content).resized(2, 2).shape == (2, 2, 3)
