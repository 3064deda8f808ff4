"""Sources: what they read, and what they say about input that they cannot read."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from data.pictures import encoded, make_folder, picture

from accelkit.data import (
    SHAPE_CLASSES,
    ArraySource,
    ImageFolder,
    Record,
    SequenceSource,
    ShapesSource,
    Source,
    TarShards,
    digits,
    load_npz,
)
from accelkit.data.records import StringTable
from accelkit.errors import CorruptDataError, DataError, OptionError


def assert_is_a_source(source: Source) -> None:
    assert isinstance(source, Source)
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == len(source)
    for index in (0, len(source) - 1):
        record, other = source[index], again[index]
        assert isinstance(record, Record)
        assert record.label == other.label
        assert np.array_equal(record.content, other.content)
        assert record.name
    for index in (len(source), -1):
        with pytest.raises(IndexError):
            source[index]


class TestImageFolder:
    def test_reads_in_order(self, tmp_path: Path) -> None:
        source = ImageFolder(make_folder(tmp_path))
        assert_is_a_source(source)
        assert source.classes == ("class0", "class1", "class2")
        assert [source[i].label for i in range(len(source))] == [0] * 4 + [1] * 4 + [2] * 4
        assert source[5].name == str(tmp_path / "class1" / "001.JPEG")
        assert source[5].content == (tmp_path / "class1" / "001.JPEG").read_bytes()

    def test_nested_hidden_and_other_files(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        make_folder(tmp_path, classes=1, images=1)
        (tmp_path / "class0" / "deep").mkdir()
        (tmp_path / "class0" / "deep" / "é.png").write_bytes(b"x")
        for name in ("notes.txt", ".hidden.jpg"):
            (tmp_path / "class0" / name).write_text("")
        (tmp_path / ".git").mkdir()
        (tmp_path / "README").write_text("")
        source = ImageFolder(tmp_path)
        assert [Path(source[i].name).name for i in range(len(source))] == ["000.JPEG", "é.png"]
        assert source.ignored == 2
        assert "left out 2 files" in caplog.text

    def test_given_classes_decide_the_labels(self, tmp_path: Path) -> None:
        make_folder(tmp_path, classes=2, images=1)
        source = ImageFolder(tmp_path, classes=["class1", "class0"])
        assert [(Path(source[i].name).parent.name, source[i].label) for i in range(2)] == [
            ("class1", 0),
            ("class0", 1),
        ]
        with pytest.raises(DataError, match=r"classes class1, which are not among the 1 expected"):
            ImageFolder(tmp_path, classes=["class0"])

    def test_missing_and_empty(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nowhere cannot be read: No such file"):
            ImageFolder(tmp_path / "nowhere")
        (tmp_path / "a.jpg").write_bytes(b"")
        with pytest.raises(DataError, match="holds no folder of a class"):
            ImageFolder(tmp_path)
        with pytest.raises(DataError, match=r"a\.jpg cannot be read: Not a directory"):
            ImageFolder(tmp_path / "a.jpg")

    def test_classes_without_images(self, tmp_path: Path) -> None:
        make_folder(tmp_path, classes=1)
        for name in ("empty", "text"):
            (tmp_path / name).mkdir()
        (tmp_path / "text" / "a.txt").write_text("")
        with pytest.raises(DataError, match=r"2 of 3 classes .* have no image: empty, text"):
            ImageFolder(tmp_path)
        source = ImageFolder(tmp_path, allow_empty=True)
        assert (len(source), len(source.classes)) == (4, 3)
        for path in (tmp_path / "class0").iterdir():
            path.unlink()
        with pytest.raises(DataError, match="holds no image"):
            ImageFolder(tmp_path, allow_empty=True)

    def test_unreadable_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make_folder(tmp_path)
        original = Path.iterdir

        def denied(self: Path):
            if self.name == "class1":
                raise PermissionError(13, "Permission denied")
            return original(self)

        monkeypatch.setattr(Path, "iterdir", denied)  # root may read everything
        with pytest.raises(DataError, match=r"class1 cannot be read: Permission denied"):
            ImageFolder(tmp_path)

    def test_image_that_vanished(self, tmp_path: Path) -> None:
        source = ImageFolder(make_folder(tmp_path))
        (tmp_path / "class0" / "000.JPEG").unlink()
        with pytest.raises(CorruptDataError, match=r"000\.JPEG cannot be read: No such file"):
            source[0]


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


class TestTarShards:
    def make(self, root: Path, shards: int = 2, samples: int = 3) -> list[str]:
        paths = []
        for s in range(shards):
            members = {}
            for i in range(samples):
                members[f"dir/{s}{i}.jpg"] = encoded(picture(8, 9, seed=s * 10 + i))
                members[f"dir/{s}{i}.cls"] = str(i).encode()
            paths.append(str(shard(root / f"train-{s:03d}.tar", members)))
        return paths

    def test_reads_in_order(self, tmp_path: Path) -> None:
        paths = self.make(tmp_path)
        source = TarShards(paths)
        assert_is_a_source(source)
        assert [source[i].label for i in range(6)] == [0, 1, 2, 0, 1, 2]
        assert source[4].content == encoded(picture(8, 9, seed=11))
        assert source[4].name == f"{paths[1]}:dir/11"
        source.close()
        assert source[4].label == 1

    @pytest.mark.parametrize("pattern", ["train-{000..001}.tar", "train-*.tar", "train-00?.tar"])
    def test_patterns(self, tmp_path: Path, pattern: str) -> None:
        paths = self.make(tmp_path)
        assert TarShards(str(tmp_path / pattern)).shards == tuple(paths)

    def test_missing(self, tmp_path: Path) -> None:
        self.make(tmp_path)
        with pytest.raises(DataError, match=r"1 of 3 shards do not exist: .*train-002\.tar"):
            TarShards(str(tmp_path / "train-{000..002}.tar"))
        with pytest.raises(DataError, match="No shard matches"):
            TarShards(str(tmp_path / "*.zip"))
        with pytest.raises(DataError, match="No shard matches"):
            TarShards([])

    def test_json_labels_and_other_parts(self, tmp_path: Path) -> None:
        members = {"a.PNG": encoded(picture(4, 4), "PNG"), "a.json": b'{"label": 7}', "a.txt": b"x"}
        source = TarShards([str(shard(tmp_path / "a.tar", members))])
        assert source[0].label == 7

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ({"a.jpg": b"x"}, r"a .* has the parts \['.jpg'\]; expected one image, and a label"),
            ({"a.cls": b"1"}, "expected one image"),
            ({"a.jpg": b"x", "a.png": b"x", "a.cls": b"1"}, "expected one image"),
            ({"a.jpg": b"x", "a.cls": b"cat"}, r"a\.cls .* cannot be read: invalid literal"),
            ({"a.jpg": b"x", "a.cls": b"-1"}, "-1 is not a class number"),
            ({"a.jpg": b"x", "a.json": b"{}"}, "cannot be read: 'label'"),
            ({"a.jpg": b"x", "a.json": b"[" * 99999}, "cannot be read"),
            ({"a.jpg": b"x", "a.cls": b"1", "b.jpg": b"", "b.cls": b"1", "a.txt": b""}, "twice"),
        ],
    )
    def test_bad_samples(self, tmp_path: Path, members: dict[str, bytes], message: str) -> None:
        with pytest.raises(DataError, match=message):
            TarShards([str(shard(tmp_path / "a.tar", members))])

    def test_empty_and_foreign_files(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="hold no sample"):
            TarShards([str(shard(tmp_path / "a.tar", {}))])
        (tmp_path / "b.tar").write_bytes(b"not a tar file" * 100)
        with pytest.raises(CorruptDataError, match=r"b\.tar is not a well-formed tar file"):
            TarShards([str(tmp_path / "b.tar")])

    def test_truncated_shards(self, tmp_path: Path) -> None:
        (path,) = self.make(tmp_path, shards=1)
        whole = Path(path).read_bytes()
        complete = len(TarShards([path]))
        for length in range(0, len(whole), 100):
            Path(path).write_bytes(whole[:length])
            try:
                source = TarShards([path])
            except DataError:
                continue
            assert len(source) == complete  # only the end-of-archive padding was cut

    def test_shard_that_shrank(self, tmp_path: Path) -> None:
        (path,) = self.make(tmp_path, shards=1)
        source = TarShards([path])
        os.truncate(path, 600)
        with pytest.raises(CorruptDataError, match="is cut off"):
            source[2]

    def test_labels_beyond_the_classes(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="labels up to 2, but only 2 classes"):
            TarShards(self.make(tmp_path), classes=("a", "b"))


class TestArrays:
    def test_array_source(self) -> None:
        images, labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.array([5, 6], np.uint8)
        source = ArraySource(images, labels)
        assert_is_a_source(source)
        assert source[1].label == 6
        np.testing.assert_array_equal(source[1].content, images[1])

    def test_labels_may_be_arrays(self) -> None:
        source = ArraySource(np.zeros((2, 3)), np.array([[0.5, 1.5], [2, 3]]))
        np.testing.assert_array_equal(source[1].label, [2, 3])

    @pytest.mark.parametrize(
        ("images", "labels"),
        [(np.zeros((2, 3)), np.zeros(3)), (np.zeros(0), np.zeros(0)), (np.array(1), np.zeros(1))],
    )
    def test_bad_arrays(self, images: np.ndarray, labels: np.ndarray) -> None:
        with pytest.raises(DataError):
            ArraySource(images, labels)

    def test_npz(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        images, labels = np.ones((3, 4, 4), np.uint8), np.arange(3)
        np.savez(path, x=images, y=labels, extra=labels)
        assert_is_a_source(load_npz(path))
        assert load_npz(path, images="x", labels="extra")[2].label == 2
        with pytest.raises(DataError, match=r"has the arrays \['x', 'y', 'extra'\], expected 'z'"):
            load_npz(path, images="z")
        with pytest.raises(DataError, match="There is no file"):
            load_npz(tmp_path / "none.npz")

    def test_npz_that_needs_unpickling_is_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", x=np.array([{}], object), y=np.zeros(1))
        with pytest.raises(CorruptDataError, match="pickle"):
            load_npz(tmp_path / "a.npz")

    def test_npz_that_is_something_else(self, tmp_path: Path) -> None:
        for content in (b"", b"a text"):
            (tmp_path / "a.npz").write_bytes(content)
            with pytest.raises(CorruptDataError, match=r"a\.npz is not a well-formed .* no zip"):
                load_npz(tmp_path / "a.npz")

    def test_every_truncation_of_an_npz(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        np.savez(path, x=np.ones((3, 2, 2), np.uint8), y=np.arange(3))
        whole = path.read_bytes()
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            with pytest.raises(DataError):
                load_npz(path)


class FakeTensor:
    """What a torch tensor offers to NumPy."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self._array


class TestSequences:
    def test_pairs(self) -> None:
        source = SequenceSource([(np.zeros((2, 2), np.uint8), 3), (b"bytes", np.int64(4))])
        assert_is_a_source(source)
        assert source[1] == Record(b"bytes", 4, "list[1]")

    def test_torch_dataset(self) -> None:
        data = pytest.importorskip("torch.utils.data")
        torch = pytest.importorskip("torch")
        dataset = data.TensorDataset(torch.arange(12).reshape(2, 6).float(), torch.tensor([1, 0]))
        source = SequenceSource(dataset)
        assert_is_a_source(source)
        assert source[1].label == 0
        np.testing.assert_array_equal(source[1].content, np.arange(6, 12, dtype=np.float32))

    def test_hugging_face_layout(self) -> None:
        class Dataset(list):
            features = {"img": None, "label": SimpleNamespace(names=["cat", "dog"])}  # noqa: RUF012

        import PIL.Image

        raw = encoded(picture(4, 5), "PNG")
        rows = Dataset(
            [
                {"img": PIL.Image.open(io.BytesIO(raw)), "label": 1},
                {"img": {"bytes": raw, "path": None}, "label": 0},
                {"img": FakeTensor(np.ones((2, 2))), "label": FakeTensor(np.array(1))},
                {"img": io.BytesIO(raw), "label": 1},
            ]
        )
        source = SequenceSource(rows)
        assert source.classes == ("cat", "dog")
        np.testing.assert_array_equal(source[0].content, picture(4, 5))
        assert source[1].content == source[3].content == raw
        assert source[2].label == 1
        np.testing.assert_array_equal(source[2].content, np.ones((2, 2)))

    def test_undecoded_image_by_path(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"raw")
        rows = [{"image": {"bytes": None, "path": str(tmp_path / "a.png")}, "label": 0}]
        assert SequenceSource(rows)[0].content == b"raw"

    @pytest.mark.parametrize(
        ("elements", "message"),
        [
            ([5], r"list\[0\] is a int; expected a pair"),
            ([(1, 2, 3)], "expected a pair"),
            ([{"picture": 1, "label": 2}], r"has the arrays \['picture', 'label'\], expected any"),
            ([("text", 1)], "content of .* is a str"),
            ([(np.zeros(2), "cat")], "label of .* is a str"),
            ([(np.zeros(2), None)], "label of .* is a NoneType"),
        ],
    )
    def test_bad_elements(self, elements: list, message: str) -> None:
        source = SequenceSource(elements)
        with pytest.raises(DataError, match=message):
            source[0]

    def test_no_sequence(self) -> None:
        with pytest.raises(DataError, match="generator is no sequence"):
            SequenceSource(i for i in range(3))
        with pytest.raises(DataError, match="holds no record"):
            SequenceSource([])

    def test_no_framework_is_imported(self) -> None:
        program = """
import sys
import accelkit.data
bad = {"torch", "jax", "tensorflow", "datasets", "PIL", "simplejpeg", "sklearn", "grain", "rich"}
print(sorted(bad & set(sys.modules)))
"""
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestShapes:
    def test_is_a_balanced_source(self) -> None:
        source = ShapesSource(100, size=16)
        assert_is_a_source(source)
        labels = [source[i].label for i in range(100)]
        assert np.bincount(labels).tolist() == [10] * 10
        assert source.classes == SHAPE_CLASSES
        assert source[3].content.shape == (16, 16, 3)

    def test_is_the_same_on_every_machine(self) -> None:
        pixels = b"".join(ShapesSource(10)[i].content.tobytes() for i in range(10))
        assert (
            hashlib.sha256(pixels).hexdigest()
            == "8930fa694bed174b7e52328b0aae61dc74e1ef7bc40bf263fb8114d7de1608ad"
        )

    def test_splits_seeds_and_indices_are_independent(self) -> None:
        images = {
            ShapesSource(30, seed=seed, split=split)[index].content.tobytes()
            for seed in (0, 1)
            for split in ("train", "test")
            for index in (0, 10, 20)
        }
        assert len(images) == 12

    def test_any_count_and_size(self) -> None:
        assert ShapesSource(1)[0].label == 0
        assert ShapesSource(10**9, size=64)[10**9 - 1].content.shape == (64, 64, 3)
        for bad in ({"count": 0}, {"size": 8}, {"split": "dev"}):
            with pytest.raises(OptionError):
                ShapesSource(**bad)

    def test_shape_stands_out_from_its_background(self) -> None:
        source = ShapesSource(100, size=32)
        for index in range(100):
            grey = source[index].content.mean(axis=2)
            assert np.percentile(grey, 98) - np.percentile(grey, 2) > 45


class TestDigits:
    def test_split(self) -> None:
        pytest.importorskip("sklearn")
        train, test, everything = digits("train"), digits("test"), digits("all")
        assert_is_a_source(train)
        assert (len(train), len(test), len(everything)) == (1500, 297, 1797)
        assert train.images.shape == (1500, 8, 8, 1)
        assert train.images.dtype == np.uint8
        assert (train.images.min(), train.images.max()) == (0, 255)
        assert sorted(set(train.labels)) == sorted(set(test.labels)) == list(range(10))
        both = [tuple(image.ravel()) for s in (train, test) for image in s.images]
        assert sorted(both) == sorted(tuple(image.ravel()) for image in everything.images)
        with pytest.raises(OptionError):
            digits("dev")

    def test_without_scikit_learn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        with pytest.raises(DataError, match=r"not installed: pip install 'accelkit\[data\]'"):
            digits()


def test_string_table() -> None:
    strings = ["", "a", "é/ü", "\udcff", "x" * 100]
    table = StringTable(strings)
    assert list(table) == strings
    assert len(pickle.loads(pickle.dumps(table))) == 5
    with pytest.raises(IndexError):
        table[5]
