"""What users get wrong, given to the training command: a clear error or a counted skip."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from training.commands import SMALL

from accelkit.checkpoint import FileSystem, load_checkpoint
from accelkit.training.train import main

MODEL = (
    "--model=lenet5", "--model-option=channels=3", "--image-size=32", "--batch-size=2",
    "--epochs=1", "--progress=plain",
)  # fmt: skip

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


def save(path: Path, pixels: np.ndarray = PIXELS, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of two good images."""
    for label in "ab":
        for number in range(2):
            save(tmp_path / "data" / label / f"{number}.png")
    return tmp_path / "data"


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*MODEL, *arguments]) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert "Traceback" not in error
    return error.split("error: ", 1)[1]


def test_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no folder of a class. Expected" in fails(capsys, f"--data={tmp_path}")


def test_class_without_images(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "c").mkdir()
    assert "1 of 3 classes" in fails(capsys, f"--data={images}")


def test_unreadable_path(
    images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "/nowhere' names no data" in fails(capsys, "--data=/nowhere")
    read = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    message = fails(capsys, f"--data={images}")
    assert "1.png cannot be read: Permission denied" in message


def huge_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no image at all", "is of no known image format"),
        (b"", "is empty"),
        (huge_png(), "10000000000 pixels) exceeds limit"),
        (b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
    ],
)
def test_file_that_is_no_image(
    images: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    content: bytes,
    reason: str,
) -> None:
    (images / "a" / "0.png").write_bytes(content)
    message = fails(capsys, f"--data={images}")
    assert f"{images}/a/0.png" in message
    assert reason in message
    assert main([*MODEL, f"--data={images}", "--on-corrupt=skip"]) == 0
    assert "1 skipped" in capsys.readouterr().out
    assert f"{images}/a/0.png" in caplog.text


def test_every_kind_of_image_trains(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(images / "a" / "cmyk.jpg", mode="CMYK")
    save(images / "a" / "grey.jpg", PIXELS[..., 0])
    save(images / "a" / "grey.png", PIXELS[..., 0])
    save(images / "a" / "sixteen.png", PIXELS[..., 0].astype(np.uint16) * 257)
    save(images / "b" / "one.jpg", PIXELS[:1, :1])
    save(images / "b" / "one.png", PIXELS[:1, :1])
    save(images / "b" / "alpha.png", mode="RGBA")
    save(images / "b" / "palette.gif", mode="P")
    assert main([*MODEL, f"--data={images}", "--augment=random_resized"]) == 0
    assert "Done: 6 steps" in capsys.readouterr().out
    assert main([*MODEL, f"--data={images}", "--augment=alexnet"]) == 0


def test_labels_that_do_not_fit_the_model(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, f"--data={images}", "--model-option=classes=1")
    assert "The data have 2 classes, the model 1" in message


def test_checkpoint_of_another_model(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"--checkpoint={images.parent / 'ck'}"
    assert main([*MODEL, f"--data={images}", place]) == 0
    capsys.readouterr()
    wider = fails(capsys, f"--data={images}", place, "--resume", "--image-size=40")
    assert "started with other options (image_size: 32, now 40)" in wider
    assert "Continue it with --image-size 32" in wider
    other = fails(capsys, f"--data={images}", place, "--resume", "--optimizer=adam")
    assert "(optimizer: 'sgd', now 'adam')" in other
    assert "Continue it with --optimizer sgd" in other


def test_checkpoint_from_a_newer_version(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = images.parent / "ck"
    assert main([*MODEL, f"--data={images}", f"--checkpoint={place}"]) == 0
    capsys.readouterr()
    (manifest,) = place.glob("*/manifest.json")
    (sums,) = place.glob("*/SHA256SUMS")
    old = manifest.read_bytes()
    new = old.replace(b'"format_version": 1', b'"format_version": 99')
    assert new != old
    manifest.write_bytes(new)
    digests = [hashlib.sha256(data).hexdigest().encode() for data in (old, new)]
    sums.write_bytes(sums.read_bytes().replace(*digests))
    message = fails(capsys, f"--data={images}", f"--checkpoint={place}", "--resume")
    assert "99" in message
    assert "Upgrade accelkit" in message


def test_memory_limit_that_cannot_be_met(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, f"--data={images}", "--memory-limit=1KiB")
    assert re.search(r"within|limit", message)
    assert "smallest" in message


def test_warm_up_longer_than_the_run(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([*MODEL, f"--data={images}", "--warmup-steps=9"]) == 0
    assert "rises for 9 steps, the run has 2: it ends below --learning-rate" in caplog.text


def test_full_disk_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*SMALL, "--progress=none", f"--checkpoint={tmp_path}"]
    files = []
    write = FileSystem.write_file

    def fill(self: FileSystem, path: Path, chunks: list) -> None:
        files.append(path)
        if len(files) > 4:
            raise OSError(28, os.strerror(28), str(path))
        write(self, path, chunks)

    monkeypatch.setattr(FileSystem, "write_file", fill)
    assert main([*arguments, "--checkpoint-every=2"]) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "Checkpoints written before are untouched. Free some space" in error
    saved = load_checkpoint(tmp_path).info.step
    assert saved >= 2
    monkeypatch.undo()
    assert main([*arguments, "--resume"]) == 0
    assert load_checkpoint(tmp_path).info.step == 12
