"""Mirror and colour noise in the compiled step: the same values as on the host, everywhere."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.pictures import picture, randomness

import accelkit as ak
from accelkit import losses, nn, optim, registry, train
from accelkit.data import (
    ArraySource,
    EvaluationTransform,
    Loader,
    PackedSource,
    Resize,
    TrainingTransform,
    finished,
    pack,
)
from accelkit.data.buffers import BufferPool
from accelkit.data.finishing import Finish
from accelkit.data.images import ArrayImage
from accelkit.errors import OptionError

CROP: dict[str, Any] = {"size": 12, "resize": 16, "crop": "alexnet"}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedSource:
    images = np.stack([picture(20, 16, seed) for seed in range(41)])
    place = tmp_path_factory.mktemp("pack") / "p"
    return pack(ArraySource(images, np.arange(41) % 3), place, size=None)


class OneByOne(PackedSource):
    gather = None  # type: ignore[assignment]


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax", "tensorflow", "opencl"])
def test_the_step_finishes_as_the_host_does(packed: PackedSource, backend: str) -> None:
    if backend not in registry.backend_names():
        pytest.skip(f"{backend} is not installed")
    device = ak.device(backend)
    common: dict[str, Any] = {"batch_size": 41, "seed": 3}
    (left,) = Loader(packed, transform=TrainingTransform(**CROP, finish="step"), **common)
    (host,) = Loader(packed, transform=TrainingTransform(**CROP), **common)
    assert left.image.shape == (41, 13, 12, 3)
    images = ak.asarray(left.image, device=device)
    program = ak.jit(finished)
    for result in (finished(images), program(images)):
        assert str(result.dtype) == "float32"
        np.testing.assert_array_equal(result.numpy(), host.image)
    untouched = left.image[:, :-1]
    changed = (host.image != untouched).any(axis=(1, 2, 3))
    assert changed.sum() > 30  # the draws do something
    assert (left.image[:, -1, 0, 0] == 1).sum() in range(8, 34)  # some are mirrored


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("finish", ["host", "step"])
def test_regions_straight_from_a_pack_equal_samples_one_by_one(
    tmp_path: Path, channels: int, finish: str
) -> None:
    images = np.stack([picture(16, 22, seed) for seed in range(19)])[..., :channels]
    pack(ArraySource(images, np.arange(19)), tmp_path / "p", size=None)
    noise = 0.1 if channels == 3 else 0.0
    transforms = [
        TrainingTransform(**CROP, color_noise=noise, finish=finish),
        TrainingTransform(**CROP, color_noise=noise, flip=1.0, finish=finish),
        TrainingTransform(size=12, color_noise=noise, finish=finish),  # has to resample
        EvaluationTransform(size=12, resize=16),
        EvaluationTransform(size=12, resize=16, crops=10),
        EvaluationTransform(size=12, resize=14),
        Resize(16, 22),
        Resize(9, 9),
    ]
    for transform in transforms:
        common: dict[str, Any] = {"batch_size": 8, "seed": 5, "partial": "pad"}
        whole = Loader(PackedSource(tmp_path / "p"), transform=transform, **common)
        single = Loader(OneByOne(tmp_path / "p"), transform=transform, **common)
        for _ in range(2):
            for one, other in zip(whole, single, strict=True):
                np.testing.assert_array_equal(one.image, other.image)
                np.testing.assert_array_equal(one.label, other.label)
                np.testing.assert_array_equal(one.weight, other.weight)


def test_draws_of_many_batches_are_made_together(
    packed: PackedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Loader(packed, batch_size=6, transform=TrainingTransform(**CROP), seed=1)
    expected = [batch.image.tobytes() for _ in range(3) for batch in reference]
    calls = []
    original = TrainingTransform.plain_crops

    def counted(self: TrainingTransform, shape: Any, words: Any) -> Any:
        calls.append(len(words))
        return original(self, shape, words)

    monkeypatch.setattr(TrainingTransform, "plain_crops", counted)
    for chunk, sizes in ((4096, [41]), (16, [16, 16, 9])):
        calls.clear()
        monkeypatch.setattr("accelkit.data.gathering._CHUNK", chunk)
        loader = Loader(packed, batch_size=6, transform=TrainingTransform(**CROP), seed=1)
        assert [batch.image.tobytes() for _ in range(3) for batch in loader] == expected
        assert calls == sizes * 3
        again = pickle.loads(pickle.dumps(loader.plan))  # what a worker gets
        assert again.build(loader.position).index.shape == (6,)


def test_a_damaged_record_is_skipped_with_the_draws_of_the_others(tmp_path: Path) -> None:
    images = np.stack([picture(16, 16, seed) for seed in range(9)])
    pack(ArraySource(images, np.arange(9)), tmp_path / "p", size=None)
    with (tmp_path / "p" / "images.bin").open("r+b") as stream:
        stream.seek(4 * 768)
        stream.write(b"\x00\xff\x00\xff")
    common: dict[str, Any] = {
        "batch_size": 9,
        "on_corrupt": "skip",
        "transform": TrainingTransform(**CROP, finish="step"),
    }
    (damaged,) = Loader(PackedSource(tmp_path / "p"), **common)
    (sound,) = Loader(ArraySource(images, np.arange(9)), **common)
    assert [entry.index for entry in damaged.skipped] == [4]
    kept = damaged.index != 4
    np.testing.assert_array_equal(damaged.image[kept], sound.image[kept])
    assert not damaged.image[~kept].any()


def test_training_is_the_same_wherever_augmentation_is_finished(packed: PackedSource) -> None:
    def losses_of(finish: str) -> list[float]:
        loader = Loader(
            packed, batch_size=10, transform=TrainingTransform(**CROP, finish=finish), seed=2
        )
        step = train.TrainStep(
            nn.Sequential(nn.Flatten(), nn.Linear(3)),
            losses.SoftmaxCrossEntropy(),
            optim.sgd(1e-6),
            preprocess=finished if finish == "step" else None,
        )
        state = step.init(seed=0, input_shape=(10, 12, 12, 3))
        values = []
        for batch in loader:
            state, metrics = step(state, batch.arrays())
            values.append(metrics["loss"])
        return values

    assert losses_of("step") == losses_of("host")


def test_what_cannot_be_finished_in_the_step() -> None:
    with pytest.raises(OptionError, match="expected 'host' or 'step'"):
        TrainingTransform(finish="device")
    with pytest.raises(OptionError, match="too short for an image's draws, which need 7 bytes"):
        TrainingTransform(size=2, finish="step")(ArrayImage(picture(8, 8)), randomness())
    with pytest.raises(OptionError, match="three channels"):
        Finish.drawn(np.zeros((1, 4), np.uint32), 1, flip=0.5, color_noise=0.1)


class TestBufferPool:
    shape, dtype = (4, 512, 1024), np.dtype(np.uint8)

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_memory_comes_back_when_nobody_looks_at_it(self, dtype: str) -> None:
        pool = BufferPool()
        first = pool.empty(self.shape, np.dtype(dtype))
        views = [first[1:].reshape(-1)[5:].view(np.int8), memoryview(first)]
        place = first.ctypes.data
        del first
        while views:
            assert pool.empty(self.shape, np.dtype(dtype)).ctypes.data != place
            views.pop()
        again = [pool.empty(self.shape, np.dtype(dtype)) for _ in range(2)]
        assert place in [array.ctypes.data for array in again]

    def test_arrays_that_are_held_stay_as_they_are(self) -> None:
        pool = BufferPool(spare=2)
        held = [pool.empty(self.shape, self.dtype) for _ in range(5)]
        for number, array in enumerate(held):
            array[...] = number
        assert all((array == number).all() for number, array in enumerate(held))
        assert len({array.ctypes.data for array in held}) == 5
        held.clear()
        assert len(pool._blocks) == 2

    def test_other_sizes_and_small_arrays(self) -> None:
        pool = BufferPool()
        del (array := [pool.empty(self.shape, self.dtype)])[0]
        assert not array
        assert pool.empty((3, 512, 1024), self.dtype).shape == (3, 512, 1024)
        assert pool.empty((2, 2), self.dtype).base is None
        kept = pool.empty(self.shape, np.dtype(np.float32))
        del pool
        kept[...] = 1.5  # memory outlives its pool
        assert kept.sum() == 1.5 * kept.size
