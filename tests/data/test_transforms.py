"""Augmentation and evaluation: geometry, distributions, and independence of the draws."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from data.pictures import encoded, picture, randomness
from hypothesis import given

from accelkit.data import EvaluationTransform, Resize, TrainingTransform, open_image
from accelkit.data.finishing import add_color_noise
from accelkit.data.images import ArrayImage
from accelkit.data.resize import resize_pillow
from accelkit.errors import OptionError

SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))


class Spy(ArrayImage):
    """An image that records which boxes are asked for."""

    boxes: list

    def __init__(self, height: int, width: int) -> None:
        super().__init__(picture(height, width))
        self.boxes = []

    def resized(self, height: int, width: int, box=None):
        self.boxes.append(box)
        return super().resized(height, width, box)


@given(SIZES, st.sampled_from(["alexnet", "random_resized"]), st.integers(0, 999))
def test_training_is_pure_and_of_the_right_shape(
    size: tuple[int, int], crop: str, index: int
) -> None:
    image = ArrayImage(picture(*size))
    transform = TrainingTransform(size=12, resize=16, crop=crop)
    first = transform(image, randomness(index=index))
    assert first.shape == (12, 12, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, transform(image, randomness(index=index)))


def test_draws_differ_between_seeds_epochs_and_samples() -> None:
    image = ArrayImage(picture(60, 80))
    transform = TrainingTransform(size=24)
    keys = [(s, e, i) for s in (0, 1) for e in (0, 1) for i in (0, 1)]
    results = {transform(image, randomness(*key)).tobytes() for key in keys}
    assert len(results) == 8


def test_random_region_follows_scale_and_ratio() -> None:
    image = Spy(300, 400)
    transform = TrainingTransform(size=8, scale=(0.2, 0.6), ratio=(0.5, 1.5), color_noise=0)
    for index in range(400):
        transform(image, randomness(index=index))
    boxes = np.array(image.boxes)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share, ratio = width * height / 120_000, width / height
    assert 0.195 < share.min() < 0.22
    assert 0.55 < share.max() < 0.605
    assert share.mean() == pytest.approx(0.4, abs=0.03)
    assert 0.49 < ratio.min() < 0.52
    assert 1.4 < ratio.max() < 1.52
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 400
    assert boxes[:, 3].max() <= 300


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10)])
def test_extreme_shapes_fall_back_to_the_centre(height: int, width: int) -> None:
    image = Spy(height, width)
    TrainingTransform(size=8, scale=(0.9, 1.0))(image, randomness())
    ((left, top, right, bottom),) = image.boxes
    assert 0.7 < (right - left) / (bottom - top) < 1.4
    assert abs(left + right - width) <= 1
    assert abs(top + bottom - height) <= 1


def test_alexnet_crop_equals_resizing_all_and_cropping() -> None:
    pixels = picture(300, 400)
    image = ArrayImage(pixels)
    whole = resize_pillow(pixels, 64, 85, (0, 0, 400, 300))[:, 10:74].astype(int)
    transform = TrainingTransform(size=48, resize=64, crop="alexnet", flip=0, color_noise=0)
    seen = set()
    for index in range(60):
        got = transform(image, randomness(index=index)).astype(int)
        errors = {
            (y, x): np.abs(whole[y : y + 48, x : x + 48] - got).max()
            for y in range(17)
            for x in range(17)
        }
        place = min(errors, key=lambda key: errors[key])
        assert errors[place] <= 1
        seen.add(place)
    assert len(seen) > 45  # of 289 places


def test_flip_has_its_probability_and_mirrors() -> None:
    image = ArrayImage(picture(20, 20))
    options = {"size": 20, "resize": 20, "crop": "alexnet", "color_noise": 0}
    plain = image.pixels()
    flipped = 0
    for index in range(1000):
        got = TrainingTransform(**options, flip=0.3)(image, randomness(index=index))
        mirrored = np.array_equal(got, plain[:, ::-1])
        assert mirrored or np.array_equal(got, plain)
        flipped += mirrored
    assert 250 < flipped < 350


def test_options_do_not_disturb_each_other() -> None:
    image = Spy(80, 100)
    for options in ({}, {"flip": 0}, {"color_noise": 0}):
        TrainingTransform(size=16, **options)(image, randomness(index=5))
    assert image.boxes[0] == image.boxes[1] == image.boxes[2]


def test_color_noise_is_the_formula() -> None:
    pixels = picture(6, 7)
    alphas = (0.3, -0.7, 1.1)
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    shift = 255 * vectors @ (np.array(alphas) * [0.2175, 0.0188, 0.0045])
    expected = np.clip(np.rint(pixels + shift), 0, 255)
    got = add_color_noise(pixels, alphas)
    assert got.dtype == np.uint8
    assert np.abs(got - expected).max() <= 1e-9
    np.testing.assert_array_equal(add_color_noise(pixels, (0.0, 0.0, 0.0)), pixels)
    # the components are orthonormal, so the table is one of principal axes
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-3)


def test_color_noise_needs_rgb() -> None:
    image = ArrayImage(picture(8, 8)[..., :1])
    with pytest.raises(OptionError, match="three channels"):
        TrainingTransform(size=4)(image, randomness())
    assert TrainingTransform(size=4, color_noise=0)(image, randomness()).shape == (4, 4, 1)


def test_central_crop() -> None:
    pixels = picture(64, 100)
    got = EvaluationTransform(size=40, resize=64)(ArrayImage(pixels), randomness())
    np.testing.assert_array_equal(got, pixels[12:52, 30:70])


def test_ten_crops() -> None:
    pixels = picture(20, 20)
    crops = EvaluationTransform(size=12, resize=20, crops=10)(ArrayImage(pixels), randomness())
    assert crops.shape == (10, 12, 12, 3)
    places = [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)]
    for crop, mirror, (y, x) in zip(crops[:5], crops[5:], places, strict=True):
        np.testing.assert_array_equal(crop, pixels[y : y + 12, x : x + 12])
        np.testing.assert_array_equal(mirror, crop[:, ::-1])


@given(SIZES)
def test_evaluation_takes_every_size(size: tuple[int, int]) -> None:
    image = ArrayImage(picture(*size))
    assert EvaluationTransform(12, 16)(image, randomness()).shape == (12, 12, 3)
    assert EvaluationTransform(12, 16, crops=10)(image, randomness()).shape == (10, 12, 12, 3)


def test_encoded_and_decoded_images_agree() -> None:
    image = open_image(encoded(picture(60, 70)), "a")
    array = ArrayImage(image.pixels())
    for transform in (TrainingTransform(size=32, scale=(0.5, 1)), Resize(31, 33)):
        np.testing.assert_array_equal(
            transform(image, randomness(index=3)), transform(array, randomness(index=3))
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingTransform(size=0), "`size` must be a positive integer, got 0"),
        (lambda: TrainingTransform(224, "alexnet", 200), "expected size <= resize"),
        (lambda: TrainingTransform(crop="middle"), "expected 'alexnet' or 'random_resized'"),
        (lambda: TrainingTransform(scale=(0.5, 0.2)), "expected increasing positive pairs"),
        (lambda: TrainingTransform(scale=(0.5, 1.2)), "and scale at most 1"),
        (lambda: TrainingTransform(scale=0.5), "`scale` must be a pair of numbers, got 0.5"),
        (lambda: TrainingTransform(ratio=(0, 1)), "expected increasing positive pairs"),
        (lambda: TrainingTransform(flip=1.5), "flip is 1.5, expected a probability"),
        (lambda: TrainingTransform(flip=-0.5), "`flip` must be a finite number of at least 0"),
        (lambda: TrainingTransform(color_noise=-1), "`color_noise` must be a finite number of at"),
        (lambda: EvaluationTransform(size=224, resize=200), "expected size <= resize"),
        (lambda: EvaluationTransform(crops=5), "expected 1 or 10"),
    ],
)
def test_options_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()
