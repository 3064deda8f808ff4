"""Mutates what readers trust: headers of tensor files, manifests of checkpoints, tables of packs.

Run ``python tests/header_fuzzer.py --count 1000000`` for the long form. A reader accepts or
refuses, with an error of its own; it never crashes. Whatever is accepted must be right: tensors
are those that the safetensors library gives, records of a pack the bytes of its file.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import safetensors

from accelkit.checkpoint import CheckpointInfo, decode_tensors, encode_tensors
from accelkit.checkpoint.manifest import decode_manifest, encode_manifest
from accelkit.data import ArraySource, PackedSource, pack
from accelkit.data.packed import sums
from accelkit.errors import CheckpointError, CorruptCheckpointError, DataError

TOKENS = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"-1", b"0", b"1e999", b"NaN", b"null", b"true",
    b"9223372036854775807", b"18446744073709551616", b"1" * 5000, b"[" * 2000, b"\\ud800",
    b"\xff\xfe", b"\0", b'"F32"', b'"F64"', b'"BOOL"', b'"shape"', b'"dtype"', b"data_offsets",
    b"__metadata__", b"format_version", b'"files"', b'"version"', b'"count"', b'"classes"', b"4.0",
)  # fmt: skip


def sample_file() -> bytes:
    """A small valid tensor file to start from."""
    tensors = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(True),
        "c": np.zeros((0, 4), np.int16),
        "d": np.arange(3, dtype=np.float64),
    }
    return b"".join(encode_tensors(tensors, {"note": "x"}))


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Apply one to four random edits: bits, bytes, tokens, cuts, copies, digits."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(7)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = rng.randrange(256)
        elif kind == 2:
            out[at:at] = rng.choice(TOKENS)
        elif kind == 3:
            del out[at : at + rng.randint(1, 12)]
        elif kind == 4:
            other = rng.randrange(len(out) + 1)
            out[at:at] = out[other : other + rng.randint(1, 30)]
        elif kind == 5:
            token = rng.choice(TOKENS)
            out[at : at + len(token)] = token
        else:
            digits = [i for i, byte in enumerate(out) if 48 <= byte <= 57]
            if digits:
                out[rng.choice(digits)] = rng.choice(b"0123456789")
    return bytes(out)


def mutate_file(data: bytes, rng: random.Random) -> bytes:
    """Mutate the header of a tensor file, mostly keeping its length field true."""
    (length,) = struct.unpack_from("<Q", data)
    if rng.random() < 0.1:
        return mutate(data, rng)
    header = mutate(data[8 : 8 + length], rng)
    claimed = len(header) if rng.random() < 0.95 else rng.getrandbits(rng.randint(1, 64))
    return struct.pack("<Q", claimed) + header + data[8 + length :]


def check_file(data: bytes) -> str:
    """Decode one mutated file; its outcome, or AssertionError if it disagrees with the library."""
    try:
        tensors = decode_tensors(data)
    except CorruptCheckpointError:
        return "file refused"
    reference = dict(safetensors.deserialize(data))  # no stricter than ours, or this raises
    assert tensors.keys() == reference.keys(), data
    for name, array in tensors.items():
        assert list(array.shape) == reference[name]["shape"], data
        assert array.tobytes() == bytes(reference[name]["data"]), data
    return "file accepted"


def check_manifest(data: bytes) -> str:
    """Decode one mutated manifest."""
    try:
        info = decode_manifest(data)
    except CheckpointError:
        return "manifest refused"
    assert type(info.step) is int
    json.dumps(info.metadata)
    return "manifest accepted"


class PackFuzzer:
    """A small valid pack, of which one table at a time is replaced.

    Args:
        directory: Where the pack goes.
    """

    TABLES = ("pack.json", "index.bin", "SHA256SUMS")

    def __init__(self, directory: Path) -> None:
        self.place = directory
        self.pixels = np.arange(36, dtype=np.uint8).reshape(3, 2, 2, 3)
        source = ArraySource(self.pixels, np.array([2, 0, 1]), classes=("a", "b", "c"))
        pack(source, directory, size=None)
        self.tables = {name: (directory / name).read_bytes() for name in self.TABLES}

    def check(self, rng: random.Random) -> str:
        """Mutate a table, mostly with a true digest of it, and read the pack."""
        name = self.TABLES[rng.choices((0, 1, 2), (6, 3, 1))[0]]
        tables = {**self.tables, name: mutate(self.tables[name], rng)}
        if name != "SHA256SUMS" and rng.random() < 0.95:
            tables["SHA256SUMS"] = sums(tables["pack.json"], tables["index.bin"])
        for table in self.TABLES:
            (self.place / table).write_bytes(tables[table])
        try:
            source = PackedSource(self.place)
            records = [source[index] for index in range(len(source))]
        except DataError:
            return "pack refused"
        content = b"".join(record.content.tobytes() for record in records)
        assert content == self.pixels.tobytes(), tables
        labels = [record.label for record in records]
        assert min(labels) >= 0, tables
        assert not source.classes or max(labels) < len(source.classes), tables
        return "pack accepted"


def fuzz(count: int, seed: int) -> Counter[str]:
    """Check ``count`` mutations, two files to a manifest and a pack, and count the outcomes."""
    rng = random.Random(seed)
    file, manifest = sample_file(), encode_manifest(CheckpointInfo(step=3, metadata={"a": [1.5]}))
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        packs = PackFuzzer(Path(directory))
        for i in range(count):
            if i % 4 == 0:
                outcomes[check_manifest(mutate(manifest, rng))] += 1
            elif i % 4 == 1:
                outcomes[packs.check(rng)] += 1
            else:
                outcomes[check_file(mutate_file(file, rng))] += 1
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()
    for outcome, number in sorted(fuzz(arguments.count, arguments.seed).items()):
        print(f"{number:>9}  {outcome}")
    print(f"{arguments.count} mutations in {time.perf_counter() - start:.0f} s, no crash")
    return 0


if __name__ == "__main__":
    sys.exit(main())
