"""Mutates tensor files and manifests and checks that the readers accept or refuse, never crash.

Run ``python tests/checkpoint/header_fuzzer.py --count 1000000`` for the long form. Whatever the
reader accepts must decode to the same tensors as the safetensors library gives.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
import time
from collections import Counter

import numpy as np
import safetensors

from accelkit.checkpoint import CheckpointInfo, decode_tensors, encode_tensors
from accelkit.checkpoint.manifest import decode_manifest, encode_manifest
from accelkit.errors import CheckpointError, CorruptCheckpointError

TOKENS = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"-1", b"0", b"1e999", b"NaN", b"null", b"true",
    b"9223372036854775807", b"18446744073709551616", b"1" * 5000, b"[" * 2000, b"\\ud800",
    b"\xff\xfe", b"\0", b'"F32"', b'"F64"', b'"BOOL"', b'"shape"', b'"dtype"', b"data_offsets",
    b"__metadata__", b"format_version", b'"files"',
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


def fuzz(count: int, seed: int) -> Counter[str]:
    """Check ``count`` mutations, three files to one manifest, and count the outcomes."""
    rng = random.Random(seed)
    file, manifest = sample_file(), encode_manifest(CheckpointInfo(step=3, metadata={"a": [1.5]}))
    outcomes: Counter[str] = Counter()
    for i in range(count):
        if i % 4:
            outcomes[check_file(mutate_file(file, rng))] += 1
        else:
            outcomes[check_manifest(mutate(manifest, rng))] += 1
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
