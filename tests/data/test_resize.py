"""Resampling: NumPy's form equals Pillow's bit for bit, and both equal the whole-image result."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from accelkit.data.resize import Box, resize, resize_numpy, resize_pillow
from accelkit.errors import ShapeError

Image = pytest.importorskip("PIL.Image")


def image_of(rows: int, columns: int, channels: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, channels), np.uint8)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int, int, Box]:
    rows, columns = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    image = image_of(rows, columns, draw(st.sampled_from([1, 3])), draw(st.integers(0, 999)))
    fractions = st.sampled_from([0.0, 0.25, 1 / 3, 0.7])
    left = draw(st.integers(0, columns - 1)) + draw(fractions)
    top = draw(st.integers(0, rows - 1)) + draw(fractions)
    right = min(columns, left + draw(st.integers(1, columns)) + draw(fractions))
    bottom = min(rows, top + draw(st.integers(1, rows)) + draw(fractions))
    return image, draw(st.integers(1, 40)), draw(st.integers(1, 40)), (left, top, right, bottom)


@given(cases())
def test_numpy_equals_pillow(case: tuple[np.ndarray, int, int, Box]) -> None:
    image, height, width, box = case
    expected = resize_pillow(image, height, width, box)
    np.testing.assert_array_equal(resize_numpy(image, height, width, box), expected)


@given(cases())
def test_cutting_off_the_unreachable_changes_nothing_visible(
    case: tuple[np.ndarray, int, int, Box],
) -> None:
    image, height, width, box = case
    whole = resize_pillow(image, height, width, box).astype(int)
    # A shifted box rounds differently in the last bit of a weight: one level at most.
    assert np.abs(resize(image, height, width, box).astype(int) - whole).max() <= 1


def test_large_reduction_equals_pillow() -> None:
    image = image_of(375, 500, 3, 1)
    for box in ((0, 0, 500, 375), (10.5, 20.25, 400.125, 371.0)):
        expected = resize_pillow(image, 24, 22, box)
        np.testing.assert_array_equal(resize_numpy(image, 24, 22, box), expected)


def test_without_pillow_the_pixels_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image = image_of(50, 41, 3, 2)
    expected = resize(image, 20, 30, (3.5, 2.0, 40.0, 44.25))
    monkeypatch.setattr("accelkit.data.resize.pillow", lambda: None)
    np.testing.assert_array_equal(resize(image, 20, 30, (3.5, 2.0, 40.0, 44.25)), expected)


def test_a_plain_crop_is_a_view() -> None:
    image = image_of(20, 20, 3, 3)
    crop = resize(image, 8, 9, (2, 3, 11, 11))
    assert crop.base is image
    np.testing.assert_array_equal(crop, image[3:11, 2:11])
    assert resize(image, 20, 20).base is image


def test_other_channel_counts() -> None:
    image = image_of(20, 20, 4, 3)
    assert resize(image, 5, 6).shape == (5, 6, 4)
    np.testing.assert_array_equal(resize(image, 5, 6)[..., :3], resize(image[..., :3], 5, 6))


@pytest.mark.parametrize(
    ("image", "size", "box", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), (2, 2), None, r"float32\[4, 4, 3\]"),
        (np.zeros((4, 4), np.uint8), (2, 2), None, "uint8 image of shape"),
        (np.zeros((0, 4, 3), np.uint8), (2, 2), None, r"\[0, 4, 3\]"),
        (np.zeros((4, 4, 3), np.uint8), (2, 0), None, "at least 1"),
        (np.zeros((4, 4, 3), np.uint8), (2, 2), (0, 0, 5, 4), "does not lie within"),
        (np.zeros((4, 4, 3), np.uint8), (2, 2), (2, 0, 2, 4), "does not lie within"),
    ],
)
def test_bad_input(image: np.ndarray, size: tuple[int, int], box: Box | None, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        resize(image, *size, box)
