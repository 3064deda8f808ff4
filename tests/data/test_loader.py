"""The loader: one order and the same pixels, however the batches are made or interrupted."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from data.pictures import make_folder, picture
from hypothesis import given

from accelkit.data import (
    ArraySource,
    Batch,
    ImageFolder,
    Loader,
    Position,
    Prefetcher,
    Record,
    Resize,
    SequenceSource,
    ShapesSource,
    TrainingTransform,
)
from accelkit.data.batches import BatchPlan, BatchSequence
from accelkit.data.buffers import BufferPool
from accelkit.errors import (
    CorruptDataError,
    DataError,
    IncompatibleCheckpointError,
    OptionError,
    OutOfMemoryError,
)

TRANSFORM = TrainingTransform(size=12, resize=16)


def numbers(count: int) -> ArraySource:
    return ArraySource(np.arange(count)[:, None], np.arange(count))


def content(batch: Batch) -> tuple[bytes, ...]:
    arrays = (batch.image, batch.label, batch.weight, batch.index)
    return (*(array.tobytes() for array in arrays), repr(batch.position).encode())


def epochs(loader: Loader, count: int) -> list[tuple[bytes, ...]]:
    with loader:
        return [content(batch) for _ in range(count) for batch in loader]


@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 12),
    shuffle=st.booleans(),
    partial=st.sampled_from(["drop", "pad", "keep"]),
)
def test_every_epoch_visits_each_sample_once(
    count: int, batch: int, shuffle: bool, partial: str
) -> None:
    if partial == "drop" and count < batch:
        with pytest.raises(DataError, match="do not fill one batch"):
            Loader(numbers(count), batch_size=batch)
        return
    loader = Loader(numbers(count), batch_size=batch, shuffle=shuffle, partial=partial, seed=3)
    for epoch in range(2):
        batches = list(loader)
        assert loader.position == Position(epoch + 1, 0)
        assert len(batches) == len(loader)
        seen = np.concatenate([b.index[b.weight > 0] for b in batches])
        assert len(set(seen)) == len(seen)
        assert len(seen) == (count // batch * batch if partial == "drop" else count)
        assert shuffle or sorted(seen) == list(seen)
        for b in batches:
            real = b.weight > 0
            np.testing.assert_array_equal(b.image[real, 0], b.index[real])
            np.testing.assert_array_equal(b.label[real], b.index[real])
            assert (b.index[~real] == -1).all()
            assert not b.image[~real].any()
            assert len(b.image) == batch or partial == "keep"


@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 29), st.integers(0, 50))
def test_random_access_equals_following_positions(
    count: int, batch: int, start: int, number: int
) -> None:
    plan = BatchPlan(numbers(count), batch, partial="pad")
    first = Position(2, start % count)
    position = first
    for _ in range(number):
        position = plan.following(position)
    assert BatchSequence(plan, first).position(number) == position


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 3, "buffer": 0}, {"threads": 2}])
def test_threads_change_nothing(tmp_path: Path, options: dict[str, int]) -> None:
    source = ImageFolder(make_folder(tmp_path))
    common: dict[str, Any] = {"batch_size": 5, "transform": TRANSFORM, "seed": 9, "partial": "pad"}
    assert epochs(Loader(source, **common), 3) == epochs(Loader(source, **common, **options), 3)


def test_pixels_depend_on_seed_epoch_and_index_alone() -> None:
    source = ShapesSource(24)

    def samples(**options: Any) -> dict[tuple[int, int], bytes]:
        found = {}
        with Loader(source, transform=TRANSFORM, **options) as loader:
            for epoch in range(2):
                for batch in loader:
                    for index, image in zip(batch.index, batch.image, strict=True):
                        found[epoch, int(index)] = image.tobytes()
        return found

    reference = samples(batch_size=4, seed=1)
    assert len(reference) == 48
    assert samples(batch_size=8, seed=1, threads=2) == reference
    assert samples(batch_size=3, seed=1, shuffle=False) == reference
    assert samples(batch_size=4, seed=2) != reference
    assert all(reference[0, i] != reference[1, i] for i in range(24))


@pytest.mark.parametrize("shards", [2, 3, 6])
@pytest.mark.parametrize("partial", ["drop", "pad"])
def test_shards_together_are_one_host(shards: int, partial: str) -> None:
    common: dict[str, Any] = {
        "batch_size": 6, "transform": TRANSFORM, "seed": 5, "partial": partial
    }  # fmt: skip
    whole = list(Loader(ShapesSource(21), **common))
    parts = [
        list(Loader(ShapesSource(21), **common, shard_index=i, shard_count=shards))
        for i in range(shards)
    ]
    assert {len(part) for part in parts} == {len(whole)}
    for number, batch in enumerate(whole):
        joined = np.concatenate([part[number].image for part in parts])
        np.testing.assert_array_equal(joined, batch.image)
        weights = np.concatenate([part[number].weight for part in parts])
        np.testing.assert_array_equal(weights, batch.weight)


@pytest.mark.parametrize("options", [{}, {"threads": 2}])
def test_resuming_from_every_position_continues_exactly(options: dict[str, int]) -> None:
    source = numbers(17)
    common: dict[str, Any] = {"batch_size": 4, "seed": 8, "partial": "pad", **options}
    with Loader(source, **common) as loader:
        states, all_batches = [loader.state()], []
        for _ in range(2):
            for batch in loader:
                all_batches.append(content(batch))
                states.append(loader.state())
    for done, state in enumerate(states[:-1]):
        with Loader(source, **common) as resumed:
            resumed.restore(state)
            rest = [content(b) for b in itertools.chain(resumed, resumed)]
            wanted = all_batches[done:]
            assert rest[: len(wanted)] == wanted
            assert resumed.position.epoch >= 2


def test_resuming_with_another_batch_size_keeps_the_order() -> None:
    loader = Loader(numbers(20), batch_size=4, seed=1)
    order = np.concatenate([b.index for b in Loader(numbers(20), batch_size=4, seed=1)])
    batches = iter(loader)
    first = np.concatenate([next(batches).index for _ in range(2)])
    other = Loader(numbers(20), batch_size=6, seed=1)
    other.restore(loader.state())
    rest = np.concatenate([b.index for b in other])
    np.testing.assert_array_equal(np.concatenate([first, rest]), order)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 21}, "other data"),
        ({"seed": 2}, "other data or another order"),
        ({"shuffle": False}, "another order"),
        ({"sample": 99}, "no position"),
        ({"epoch": -1}, "no position"),
        ({"epoch": None}, "no position"),
    ],
)
def test_positions_of_other_data_are_refused(change: dict[str, Any], message: str) -> None:
    loader = Loader(numbers(20), batch_size=4, seed=1)
    with pytest.raises(IncompatibleCheckpointError, match=message):
        loader.restore({**loader.state(), **change})
    with pytest.raises(IncompatibleCheckpointError):
        loader.restore({})


class Damaged(ArraySource):
    """Some records cannot be read."""

    def __init__(self, count: int, bad: set[int]) -> None:
        super().__init__(np.stack([picture(8, 8, i) for i in range(count)]), np.arange(count))
        self.bad = bad

    def __getitem__(self, index: int, /) -> Record:
        if index in self.bad:
            raise CorruptDataError(f"the image number-{index} is damaged")
        return super().__getitem__(index)


@pytest.mark.parametrize("options", [{}, {"threads": 2}])
def test_corrupt_samples_stop_the_run_by_default(options: dict[str, int]) -> None:
    with Loader(Damaged(9, {4}), batch_size=3, shuffle=False, **options) as loader:
        batches = iter(loader)
        next(batches)
        with pytest.raises(CorruptDataError, match="number-4 is damaged"):
            next(batches)
        assert loader.position == Position(0, 3)
        with pytest.raises(CorruptDataError, match="number-4 is damaged"):
            next(iter(loader))  # trying again does not slip past it


@pytest.mark.parametrize("options", [{}, {"threads": 2}])
def test_corrupt_samples_are_skipped_named_and_counted(
    options: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    source = Damaged(12, {0, 4, 7})
    with Loader(source, batch_size=4, seed=1, on_corrupt="skip", **options) as loader:
        batches = list(loader)
    assert loader.skipped == 3
    assert sorted(s.index for b in batches for s in b.skipped) == [0, 4, 7]
    for number in (0, 4, 7):
        assert f"number-{number} is damaged" in caplog.text
    weights = {int(i): w for b in batches for i, w in zip(b.index, b.weight, strict=True)}
    assert {i for i, w in weights.items() if w == 0} == {0, 4, 7}
    assert {"weights" in batch.arrays() for batch in batches} >= {True}
    assert len(weights) == 12
    clean = list(Loader(Damaged(12, set()), batch_size=4, seed=1))
    for got, wanted in zip(batches, clean, strict=True):
        kept = got.weight > 0
        np.testing.assert_array_equal(got.image[kept], wanted.image[kept])
        assert not got.image[~kept].any()


def test_nothing_readable_is_an_error() -> None:
    loader = Loader(Damaged(5, set(range(5))), batch_size=2, on_corrupt="skip")
    with pytest.raises(DataError, match="None of the first 5 samples can be read"):
        next(iter(loader))


def test_images_of_different_sizes_need_a_transform() -> None:
    source = SequenceSource([(picture(8, 8), 0), (picture(9, 8), 1)])
    with pytest.raises(DataError, match=r"list\[1\] is uint8\[9, 8, 3\].*Pass a transform"):
        list(Loader(source, batch_size=2, shuffle=False))
    (batch,) = Loader(source, batch_size=2, transform=Resize(4, 5))
    assert batch.image.shape == (2, 4, 5, 3)


def test_other_arrays_pass_unchanged() -> None:
    source = SequenceSource([(np.full(3, i, np.float32), np.float32(i) / 2) for i in range(4)])
    (batch,) = Loader(source, batch_size=4, shuffle=False)
    assert (batch.image.dtype, batch.label.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(batch.label, [0, 0.5, 1, 1.5])
    assert batch.arrays().keys() == {"inputs", "targets"}


def test_labels_outside_of_the_classes_are_named() -> None:
    source = ArraySource(np.zeros((3, 2)), np.array([0, 1, 2]), classes=("a", "b"))
    with pytest.raises(DataError, match=r"\[2\] has the label 2, expected 0 to 1"):
        list(Loader(source, batch_size=3))
    with pytest.raises(DataError, match="negative label -1"):
        list(Loader(ArraySource(np.zeros((1, 2)), np.array([-1])), batch_size=1))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": 2**63, "partial": "pad"},
        {"batch_size": 5, "shard_count": 2},
        {"batch_size": 4, "shard_count": 2, "shard_index": 2},
        {"batch_size": 4, "partial": "half"},
        {"batch_size": 4, "partial": "keep", "shard_count": 2},
        {"batch_size": 4, "on_corrupt": "ignore"},
        {"batch_size": 4, "workers": 1, "threads": 1},
        {"batch_size": 4, "workers": -1},
        {"batch_size": 4, "workers": 10**8},
        {"batch_size": 4, "threads": 10**8},
        {"batch_size": 4, "threads": 1, "buffer": 10**8},
        {"batch_size": 3.5},
        {"batch_size": 4, "seed": -1},
    ],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Loader(numbers(20), **options)


def test_a_batch_that_the_host_cannot_hold_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(BufferPool, "empty", full)
    loader = Loader(numbers(20), batch_size=5)
    with pytest.raises(OutOfMemoryError, match=r"suffice for a batch.*Use a smaller batch"):
        next(iter(loader))


@pytest.mark.parametrize("source", ["shapes", [(np.zeros((2, 2, 1), np.uint8), 0)] * 8, None])
def test_what_is_no_source_is_told_how_to_become_one(source: Any) -> None:
    with pytest.raises(OptionError, match=r"must be a source of accelkit\.data.*open_source"):
        Loader(source, batch_size=4)


def test_loaders_and_prefetchers_print_what_they_are() -> None:
    loader = Loader(ShapesSource(64), batch_size=32, seed=3)
    next(iter(loader))
    text = "of ShapesSource(64, size=32, seed=0, train), batch_size 32, seed 3, 2 batches an epoch"
    assert text in repr(loader)
    assert "at epoch 0 sample 32>" in repr(loader)
    assert f"<Prefetcher, depth 2, of {loader!r}>" == repr(Prefetcher(loader, lambda x: x))
    with pytest.raises(OptionError, match=r"`put_batch` must be a function.*got NoneType"):
        Prefetcher(loader, None)


class TestPrefetcher:
    def test_yields_the_loaders_batches(self) -> None:
        source = ShapesSource(40)
        expected = epochs(Loader(source, batch_size=8, seed=2), 2)
        loader = Loader(source, batch_size=8, seed=2, threads=2)
        with loader, Prefetcher(loader, lambda arrays: arrays["targets"].sum()) as batches:
            got = [(total, batch) for _ in range(2) for total, batch in batches]
        assert [content(batch) for _, batch in got] == expected
        assert all(total == batch.label.sum() for total, batch in got)

    @pytest.mark.parametrize("depth", [1, 2, 4])
    def test_works_ahead_by_its_depth_and_no_more(self, depth: int) -> None:
        put: list[int] = []
        reached = threading.Event()

        def transfer(arrays: dict[str, np.ndarray]) -> None:
            put.append(len(put))
            if len(put) > depth:
                reached.set()

        with Prefetcher(Loader(numbers(40), batch_size=2), transfer, depth=depth) as batches:
            iterator = iter(batches)
            next(iterator)
            assert reached.wait(10)  # another one is transferred while this one is in use
            for _ in range(5):
                next(iterator)
            assert len(put) <= 6 + depth + 1

    def test_the_next_epoch_is_begun_before_it_is_asked_for(self) -> None:
        reached = threading.Event()
        seen: list[int] = []

        def transfer(arrays: dict[str, np.ndarray]) -> None:
            seen.append(len(arrays["targets"]))
            if len(seen) > 5:
                reached.set()

        loader = Loader(numbers(10), batch_size=2, seed=4)
        expected = epochs(Loader(numbers(10), batch_size=2, seed=4), 3)
        with Prefetcher(loader, transfer) as batches:
            first = [content(batch) for _, batch in batches]
            assert batches.position == Position(1, 0)
            assert reached.wait(10)
            batches.close()  # gives back what was made ahead
            assert loader.position == Position(1, 0)
            second = [content(batch) for _, batch in batches]
            iterator = iter(batches)
            third = [content(next(iterator)[1])]
            assert batches.state() == loader.state(Position(2, 2))
        assert first + second + third == expected[:11]
        assert loader.position == Position(2, 2)

    def test_state_is_that_of_the_last_batch_used(self) -> None:
        loader = Loader(numbers(30), batch_size=3, seed=4)
        everything = [content(batch) for batch in Loader(numbers(30), batch_size=3, seed=4)]
        with Prefetcher(loader, dict, depth=3) as batches:
            for number, _ in enumerate(batches):
                if number == 3:
                    state = batches.state()
                    break
        assert loader.state() == state  # batches made ahead are given back
        assert [content(batch) for batch in loader] == everything[4:]

    def test_errors_arrive_in_order(self) -> None:
        loader = Loader(Damaged(9, {4}), batch_size=3, shuffle=False)
        with Prefetcher(loader, dict) as batches:
            iterator = iter(batches)
            next(iterator)
            with pytest.raises(CorruptDataError, match="number-4"):
                next(iterator)

        def failing(arrays: dict[str, np.ndarray]) -> None:
            raise MemoryError("no room on the device")

        with (
            Prefetcher(Loader(numbers(4), batch_size=2), failing) as batches,
            pytest.raises(MemoryError, match="no room"),
        ):
            next(iter(batches))

    def test_threads_end(self) -> None:
        before = threading.active_count()
        for _ in range(3):
            with (
                Loader(numbers(40), batch_size=2, threads=2) as loader,
                Prefetcher(loader, dict) as batches,
            ):
                next(iter(batches))
        assert threading.active_count() == before

    def test_times_name_the_bottleneck(self) -> None:
        batches = Prefetcher(Loader(numbers(8), batch_size=2), dict)
        times = batches.times
        list(batches)
        assert min(times.data_s, times.transfer_s, times.starved_s, times.step_s) > 0
        times.starved_s, times.step_s = 0.02, 0.98
        assert times.bottleneck() == "compute"
        times.starved_s, times.data_s, times.transfer_s = 0.5, 0.6, 0.1
        assert times.bottleneck() == "data"
        times.transfer_s = 0.7
        assert times.bottleneck() == "transfer"
        earlier = replace(times)
        times.step_s += 1.0
        assert (times - earlier).starved_share == 0.0
        with pytest.raises(OptionError):
            Prefetcher(Loader(numbers(8), batch_size=2), dict, depth=0)
