"""Decoding: every kind of image, both decoders alike, damaged files named."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from data.pictures import encoded, picture

from accelkit.data import images
from accelkit.data.images import ArrayImage, open_image
from accelkit.errors import CorruptDataError, DataError

simplejpeg = pytest.importorskip("simplejpeg")


@pytest.fixture
def pillow_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "simplejpeg", lambda: None)


@pytest.fixture
def simplejpeg_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "pillow", lambda: None)


def jpegs() -> dict[str, bytes]:
    pixels = picture(75, 101)
    return {
        "4:2:0": encoded(pixels, quality=85, subsampling="4:2:0"),
        "4:4:4": encoded(pixels, quality=95, subsampling="4:4:4"),
        "4:2:2": encoded(pixels, quality=95, subsampling="4:2:2"),
        "progressive": encoded(pixels, progressive=True),
        "grey": encoded(pixels, mode="L"),
        "CMYK": encoded(pixels, mode="CMYK"),
    }


@pytest.mark.parametrize("kind", jpegs())
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_both_decoders_give_the_same_pixels(
    kind: str, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpegs()[kind]
    first = open_image(data, kind)
    pixels = first._decode(factor)
    monkeypatch.setattr(images, "simplejpeg", lambda: None)
    second = open_image(data, kind)
    assert (first.height, first.width) == (second.height, second.width) == (75, 101)
    np.testing.assert_array_equal(pixels, second._decode(factor))
    assert pixels.shape == (-(-75 // factor), -(-101 // factor), 3)
    assert pixels.dtype == np.uint8


def test_scaled_decoding_is_used_only_where_it_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    image = open_image(encoded(picture(96, 128)), "a")
    factors = []
    original = image._decode
    monkeypatch.setattr(image, "_decode", lambda f: (factors.append(f), original(f))[1])
    for size, box in [(96, None), (48, None), (47, None), (24, None), (12, None), (5, None)]:
        assert image.resized(size, size, box).shape == (size, size, 3)
    assert image.resized(20, 20, (0, 0, 39.5, 60)).shape == (20, 20, 3)
    assert factors == [1, 2, 2, 4, 8, 8, 1]


def test_scaled_decoding_stays_close_to_the_whole_image() -> None:
    pixels = picture(192, 256)
    image = open_image(encoded(pixels, quality=95), "a")
    reference = ArrayImage(image.pixels())
    for box in (None, (10.0, 20.0, 250.0, 180.0)):
        scaled = image.resized(32, 32, box).astype(int)
        exact = reference.resized(32, 32, box).astype(int)
        assert np.abs(scaled - exact).mean() < 2.0


@pytest.mark.parametrize(
    ("pixels", "kind", "mode"),
    [
        (picture(9, 12), "PNG", None),
        (picture(9, 12), "BMP", None),
        (picture(9, 12), "WEBP", None),
        (picture(9, 12), "GIF", "P"),
        (picture(9, 12), "PNG", "RGBA"),
        (picture(9, 12), "PNG", "LA"),
        (picture(9, 12), "PNG", "1"),
        (picture(1, 1), "PNG", None),
        (picture(1, 1), "JPEG", None),
        (picture(1, 1), "JPEG", "L"),
        (picture(1, 300), "JPEG", None),
    ],
)
def test_every_kind_becomes_rgb(pixels: np.ndarray, kind: str, mode: str | None) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = open_image(encoded(pixels, kind, mode, **options), "a")
    assert image.pixels().shape == pixels.shape
    assert image.pixels().dtype == np.uint8
    assert image.resized(7, 5).shape == (7, 5, 3)
    if mode is None and kind != "JPEG":
        np.testing.assert_array_equal(image.pixels(), pixels)


def test_sixteen_bit_grey_keeps_the_high_byte() -> None:
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    got = open_image(encoded(values, "PNG"), "a").pixels()
    np.testing.assert_array_equal(got, np.repeat((values >> 8)[..., None], 3, 2))


def test_palette_with_transparency() -> None:
    image = PIL.Image.fromarray(picture(8, 8)).convert("P")
    import io

    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=bytes(range(256)))
    assert open_image(stream.getvalue(), "a").pixels().shape == (8, 8, 3)


def test_floating_point_pixels_are_refused() -> None:
    data = encoded(np.ones((3, 4), np.float32), "TIFF")
    with pytest.raises(CorruptDataError, match="no defined range"):
        open_image(data, "a.tif").pixels()


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\0" * 99])
def test_what_is_no_image_is_named(data: bytes) -> None:
    with pytest.raises(CorruptDataError, match=r"folder/a\.jpg"):
        open_image(data, "folder/a.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_files_are_found(kind: str) -> None:
    whole = encoded(picture(60, 80), kind)
    for length in range(0, len(whole) - 16, 97):
        with pytest.raises(CorruptDataError, match="cut"):
            open_image(whole[:length], "cut").pixels()


@pytest.mark.usefixtures("simplejpeg_only")
def test_simplejpeg_alone() -> None:
    assert open_image(jpegs()["4:2:0"], "a").pixels().shape == (75, 101, 3)
    with pytest.raises(CorruptDataError, match="damaged"):
        open_image(jpegs()["4:2:0"][:400], "a").pixels()
    for data in (encoded(picture(), "PNG"), jpegs()["CMYK"]):
        with pytest.raises(DataError, match=r"No decoder.*pip install") as caught:
            open_image(data, "a")
        assert not isinstance(caught.value, CorruptDataError)  # not to be skipped


def test_mutated_images_never_escape_as_other_errors() -> None:
    rng = np.random.default_rng(0)
    outcomes = set()
    for kind in ("JPEG", "PNG", "GIF", "BMP"):
        whole = encoded(picture(20, 24), kind)
        for _ in range(150):
            data = bytearray(whole)
            for _ in range(rng.integers(1, 6)):
                data[rng.integers(len(data))] = rng.integers(256)
            try:
                pixels = open_image(bytes(data), "x", max_pixels=10**6).pixels()
            except CorruptDataError:
                outcomes.add("refused")
            else:
                assert pixels.dtype == np.uint8
                outcomes.add("decoded")
    assert outcomes == {"refused", "decoded"}


def png_of_size(height: int, width: int) -> bytes:
    """A PNG that claims a size and has hardly any data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_huge_images_are_refused_before_decoding() -> None:
    for side in (9_500, 65_000):
        with pytest.raises(CorruptDataError, match=r"huge"):
            open_image(png_of_size(side, side), "huge")
    with pytest.raises(CorruptDataError, match="75x101 pixels, more than the limit of 7000"):
        open_image(jpegs()["4:2:0"], "a", max_pixels=7000)


def test_arrays_as_images() -> None:
    assert ArrayImage(np.zeros((3, 4), np.uint8)).pixels().shape == (3, 4, 1)
    for bad in (np.zeros((3, 4, 3)), np.zeros((2, 3, 4, 3), np.uint8), np.zeros((0, 3), np.uint8)):
        with pytest.raises(DataError, match="an image is uint8"):
            ArrayImage(bad)
