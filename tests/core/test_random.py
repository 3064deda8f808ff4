"""The host's reference random numbers: known answers, stored draws, and exact definitions."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelkit import dtypes, random
from accelkit.errors import DTypeError, OptionError
from accelkit.random import blocks, normals

WORD = 0xFFFFFFFF
words32 = st.integers(0, WORD)
keys = st.tuples(words32, words32)
# Starts on both sides of the places where a counter word wraps around.
starts = st.one_of(
    st.integers(0, 100),
    st.integers(4 * 2**32 - 50, 4 * 2**32 + 50),
    st.integers(0, 2**66 - 1000),
)

# Random123 1.14.0, kat_vectors, lines "philox4x32 10": counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip

# Our form of the counter: key, first element, six elements.
STREAMS = [
    ((0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8 f8e4cca4 5cb200db"),
    ((1, 0), 0, "07071c12 428264b6 3909104b 6da2bda2 3b539b4f f04a5080"),
    ((0, 1), 0, "96b27e8c 28826d0f 66d958ef 081509dc 4ae757ff a29ad9d6"),
    ((0xDEADBEEF, 0x12345678), 3, "bc953924 1d6e57f2 cbda011a 642ef68c c95e8dfd 77e7d94c"),
    ((WORD, WORD), 4 * 2**32 - 2, "771887b1 cd81a4c4 f2ab9c0b ad5ac87b f044a15e 923e0cbb"),
    ((7, 9), 86_393_173_077, "5064740f 6a6f6c1e 48c63be4 16cd0e3e 914a1d7b 5008e795"),
]

LARGE_KEY, LARGE_OFFSET, LARGE_COUNT = (123, 456), 5, 1_000_003
NORMAL_SHA256 = {
    "float32": "c4da89a6aad2435dc77db9a6e0a6d48639d95afb604d0067992f8b3d3f252083",
    "float64": "23b7ca3c7adc290ee4facdb114e7e8f1a1f83c6031f83ff13d669f02959cc12d",
}
UNIFORM_SHA256 = {
    "float32": "f9f8cfbb90870ae422d06a1c84a69f7fc12217f9cad6561f754369f414458c7a",
    "float64": "6bb7cd12555dbbd17800e214193c3ac4be38a6036f9143146f1519020b13c3e4",
}
BITS_SHA256 = "4da6228bf2f2a790ab46eb114a847b1ce2a5f9de5e99d496b62738e79753a84f"
MASK_SHA256 = "2e006772ab4306effd1dc609451a0114010b71878378cb5f3a804993943549ed"


def hexadecimal(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


def sha256(array: np.ndarray) -> str:
    little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return hashlib.sha256(little_endian.tobytes()).hexdigest()


def element(key: tuple[int, int], index: int) -> int:
    """One element of a stream, straight from the definition."""
    block = index // 4
    counter = (block & WORD, block >> 32, *key)
    return random.philox4x32_block(counter, key)[index % 4]


class TestPhilox:
    @pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
    def test_known_answers(self, counter, key, expected):
        counter, key, expected = map(hexadecimal, (counter, key, expected))
        assert random.philox4x32_block(counter, key) == expected
        assert tuple(int(word) for word in random.philox4x32(counter, key)) == expected

    @given(
        counters=st.lists(st.tuples(words32, words32, words32, words32), min_size=1, max_size=5),
        key=keys,
    )
    def test_many_blocks_equal_single_ones(self, counters, key):
        words = random.philox4x32(np.array(counters, np.uint64).T, key)
        assert all(word.dtype == np.uint32 for word in words)
        assert list(zip(*(word.tolist() for word in words), strict=True)) == [
            random.philox4x32_block(counter, key) for counter in counters
        ]

    def test_counter_words_broadcast(self):
        column, row = np.arange(3)[:, None], np.arange(2)
        word0, _, _, word3 = random.philox4x32((column, 7, row, 0), (1, 2))
        assert word0.shape == word3.shape == (3, 2)
        assert word3[2, 1] == random.philox4x32_block((2, 7, 1, 0), (1, 2))[3]

    def test_arguments_are_left_alone(self):
        counter = np.arange(4, dtype=np.uint64)
        random.philox4x32((counter, counter, counter, counter), (1, 2))
        assert counter.tolist() == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        ("counter", "key", "message"),
        [
            ((0, 0, 0), (0, 0), "has 4 words, got 3"),
            ((0, 0, 0, -1), (0, 0), r"integers in \[0, 2\^32\)"),
            ((0, 0, 0, 2**32), (0, 0), r"integers in \[0, 2\^32\)"),
            ((0, 0, 0, 0.5), (0, 0), "got float64 0.5"),
            ((0, 0, 0, 0), (0, 2**32), r"second word must be .* below 2\^32, got 4294967296"),
            ((0, 0, 0, 0), (-1, 0), "first word must be at least 0"),
            ((0, 0, 0, 0), (0, 0, 0), "has 2 words, got 3"),
            ((0, 0, 0, 0), (0, 1.5), "must be an integer, got 1.5"),
        ],
    )
    def test_bad_words(self, counter, key, message):
        with pytest.raises(OptionError, match=message):
            random.philox4x32(counter, key)


class TestSubkey:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ((0, 0, "", 0), (0x5AC52D09, 0xD9C4625F)),
            ((0, 0, "features.0", 0), (0xF4EA0EC8, 0xC1BF33AB)),
            ((1234567890123456789, 1000, "classifier.0", 1), (0xEE4D82DE, 0x3D23D4AE)),
            ((2**64 - 1, 2**64 - 1, "é", 2), (0xE365F336, 0x1BD0BE6A)),
        ],
    )
    def test_stored_keys(self, arguments, expected):
        assert random.subkey(*arguments) == expected

    def test_definition(self):
        seed, step, path, ordinal = 0x0123456789ABCDEF, 0xFEDCBA9876543210, "features.3", 4
        digest = hashlib.blake2b(b"features.3\x004", digest_size=8).digest()
        site_low, site_high = np.frombuffer(digest, "<u4").tolist()
        counter = (0x76543210, 0xFEDCBA98, site_low, site_high)
        block = random.philox4x32_block(counter, (0x89ABCDEF, 0x01234567))
        assert random.subkey(seed, step, path, ordinal) == block[:2]

    def test_every_argument_matters(self):
        sites = [
            (seed, step, path, ordinal)
            for seed in (0, 1, 2**32, 2**63)
            for step in (0, 1, 2**32)
            for path in ("", "a", "a.b", "a.b1")
            for ordinal in (0, 1, 10, 11)
        ]
        assert len({random.subkey(*site) for site in sites}) == len(sites)

    @pytest.mark.parametrize(
        "arguments",
        [(-1, 0, "a", 0), (2**64, 0, "a", 0), (0, -1, "a", 0), (0, 0, "a", -1), (0.5, 0, "a", 0)],
    )
    def test_out_of_range(self, arguments):
        with pytest.raises(OptionError):
            random.subkey(*arguments)


class TestBits:
    @pytest.mark.parametrize(("key", "start", "expected"), STREAMS)
    def test_stored_streams(self, key, start, expected):
        assert tuple(random.random_bits(key, start, 6).tolist()) == hexadecimal(expected)

    def test_stored_large_draw(self):
        assert sha256(random.random_bits(LARGE_KEY, LARGE_OFFSET, LARGE_COUNT)) == BITS_SHA256

    @given(key=keys, start=starts, count=st.integers(0, 40))
    def test_definition(self, key, start, count):
        bits = random.random_bits(key, start, count)
        assert bits.dtype == np.uint32
        assert bits.tolist() == [element(key, start + i) for i in range(count)]

    @given(key=keys, start=st.integers(0, 2**40), cuts=st.lists(st.integers(0, 3000), max_size=4))
    def test_pieces_join(self, key, start, cuts):
        edges = [0, *sorted(cuts), 3000]
        pieces = [random.random_bits(key, start + a, b - a) for a, b in itertools.pairwise(edges)]
        assert np.array_equal(np.concatenate(pieces), random.random_bits(key, start, 3000))

    def test_last_element_of_the_stream(self):
        assert random.random_bits((3, 4), 2**66 - 1, 1).tolist() == [element((3, 4), 2**66 - 1)]
        with pytest.raises(OptionError, match=r"2\^66"):
            random.random_bits((3, 4), 2**66 - 1, 2)

    def test_bits_are_balanced(self):
        bits = random.random_bits((11, 22), 0, 1 << 17)
        ones = np.array([int(((bits >> np.uint32(i)) & np.uint32(1)).sum()) for i in range(32)])
        # Each of the 32 positions: a binomial of 2^17 fair draws, here within 4.5 deviations.
        assert np.abs(ones - 2**16).max() < 4.5 * math.sqrt(2**17) / 2


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("chunk_blocks", [1, 3, 256])
def test_draws_do_not_depend_on_pieces_or_threads(monkeypatch, threads, chunk_blocks):
    def draws():
        key, shape, offset = (8, 9), (2, 613), 7
        return [
            random.random_bits(key, offset, 1226),
            random.random_keep_mask(key, shape, 0.3, offset=offset),
            *(random.random_uniform(key, shape, d, offset=offset) for d in NORMAL_SHA256),
            *(random.random_normal(key, shape, d, offset=offset) for d in NORMAL_SHA256),
        ]

    expected = draws()
    monkeypatch.setattr(blocks, "_CHUNK_BLOCKS", chunk_blocks)
    monkeypatch.setattr(blocks, "_BLOCKS_WORTH_A_THREAD", 1)
    monkeypatch.setattr(blocks, "_usable_cpus", lambda: threads)
    monkeypatch.setattr(normals, "_PIECE", 5)
    for got, want in zip(draws(), expected, strict=True):
        assert np.array_equal(got, want)


def test_error_in_a_thread_reaches_the_caller():
    def fail(words, part):
        raise MemoryError("conversion failed")

    with pytest.raises(MemoryError, match="conversion failed"):
        blocks.for_each_chunk((0, 0), 0, 100, lambda: fail, threads=2)


class TestUniform:
    @pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 8), ("float16", 11), ("float32", 24)])
    def test_definition_one_word(self, dtype, bits):
        key, offset, count = (5, 6), 4 * 2**32 - 9, 5000
        uniform = random.random_uniform(key, (count,), dtype, offset=offset)
        assert uniform.dtype == dtypes.dtype(dtype).numpy
        words = random.random_bits(key, offset, count).astype(np.float64)
        assert np.array_equal(uniform.astype(np.float64), words // 2 ** (32 - bits) / 2**bits)

    def test_definition_two_words(self):
        key, offset, count = (5, 6), 2 * 2**32 - 9, 5001
        uniform = random.random_uniform(key, (count,), "float64", offset=offset)
        words = [int(word) for word in random.random_bits(key, 2 * offset, 2 * count)]
        expected = [
            ((high >> 5) * 2**26 + (low >> 6)) / 2**53
            for high, low in zip(words[::2], words[1::2], strict=True)
        ]
        assert uniform.dtype == np.float64
        assert uniform.tolist() == expected

    @pytest.mark.parametrize("dtype", sorted(UNIFORM_SHA256))
    def test_stored_draw(self, dtype):
        draw = random.random_uniform(LARGE_KEY, (100_003,), dtype, offset=LARGE_OFFSET)
        assert sha256(draw) == UNIFORM_SHA256[dtype]

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
    def test_range_and_moments(self, dtype):
        uniform = random.random_uniform((1, 2), (200, 500), dtype).astype(np.float64)
        bits = {"bfloat16": 8, "float16": 11}.get(dtype, 24)
        assert uniform.min() >= 0
        assert uniform.max() < 1
        # Five deviations of the mean of 10^5 draws, about the mean of the truncated values.
        assert abs(uniform.mean() - (0.5 - 2.0 ** (-bits - 1))) < 5 * math.sqrt(1 / 12 / 1e5)
        assert abs(uniform.var() - 1 / 12) < 2e-3

    def test_sixteen_bit_draws_are_the_truncated_float32_draw(self):
        full = random.random_uniform((1, 2), (4096,), "float32")
        for dtype, bits in (("bfloat16", 8), ("float16", 11)):
            short = random.random_uniform((1, 2), (4096,), dtype).astype(np.float32)
            assert np.array_equal(short, np.floor(full * 2**bits) / 2**bits)

    def test_shapes(self):
        assert random.random_uniform((1, 2), ()).shape == ()
        assert random.random_uniform((1, 2), (0, 3)).shape == (0, 3)
        flat = random.random_uniform((1, 2), (6,), offset=3)
        assert np.array_equal(random.random_uniform((1, 2), (2, 3), offset=3), flat.reshape(2, 3))

    def test_bad_arguments(self):
        with pytest.raises(DTypeError, match="floating-point dtype, got int32"):
            random.random_uniform((0, 0), (3,), "int32")
        with pytest.raises(OptionError, match="offset must be at least 0"):
            random.random_uniform((0, 0), (3,), offset=-1)
        with pytest.raises(OptionError, match="dimension of a shape"):
            random.random_uniform((0, 0), (-3,))


class TestKeepMask:
    @pytest.mark.parametrize(
        ("rate", "threshold"),
        [
            (0.0, 0),
            (0.5, 2**31),
            (0.25, 2**30),
            (0.1, 429496730),
            (2.0**-33, 0),
            (3 * 2.0**-33, 2),
            (1 - 2.0**-40, WORD),
        ],
    )
    def test_threshold(self, rate, threshold):
        assert random.keep_threshold(rate) == threshold

    @pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.nan, math.inf])
    def test_bad_rate(self, rate):
        with pytest.raises(OptionError, match="at least 0 and below 1"):
            random.keep_threshold(rate)
        with pytest.raises(OptionError, match="at least 0 and below 1"):
            random.random_keep_mask((0, 0), (2,), rate)

    @given(key=keys, offset=starts, rate=st.floats(0, 1, exclude_max=True))
    def test_definition(self, key, offset, rate):
        mask = random.random_keep_mask(key, (5, 7), rate, offset=offset)
        threshold = random.keep_threshold(rate)
        assert mask.dtype == np.bool_
        assert mask.shape == (5, 7)
        assert mask.reshape(-1).tolist() == [
            element(key, offset + i) >= threshold for i in range(35)
        ]

    def test_a_word_equal_to_the_threshold_is_kept(self):
        word = element((8, 9), 2)
        rate = word / 2**32
        assert random.keep_threshold(rate) == word
        assert random.random_keep_mask((8, 9), (1,), rate, offset=2).tolist() == [True]

    def test_stored_draw(self):
        mask = random.random_keep_mask(LARGE_KEY, (100_003,), 0.5, offset=LARGE_OFFSET)
        assert sha256(np.packbits(mask)) == MASK_SHA256

    @pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
    def test_share_kept(self, rate):
        kept = random.random_keep_mask((1, 2), (100_000,), rate).mean()
        assert abs(kept - (1 - rate)) <= 5 * math.sqrt(rate * (1 - rate) / 1e5)


def normals_of(words: np.ndarray) -> np.ndarray:
    work = np.empty((3, len(words)))
    return normals._inverse_distribution(words, *work)


class TestNormal:
    @pytest.mark.parametrize("dtype", sorted(NORMAL_SHA256))
    def test_stored_draw(self, dtype):
        draw = random.random_normal(LARGE_KEY, (LARGE_COUNT,), dtype, offset=LARGE_OFFSET)
        assert draw.dtype == dtypes.dtype(dtype).numpy
        assert sha256(draw) == NORMAL_SHA256[dtype]

    @pytest.mark.skipif(
        not any(np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])),
        reason="this CPU has no SIMD level above NumPy's baseline to switch off",
    )
    def test_bits_do_not_depend_on_simd_level(self):
        found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
        program = (
            "import hashlib, sys; from accelkit.random import random_normal;"
            f"draw = random_normal({LARGE_KEY}, ({LARGE_COUNT},), offset={LARGE_OFFSET});"
            "sys.stdout.write(hashlib.sha256(draw.tobytes()).hexdigest())"
        )
        result = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"NPY_DISABLE_CPU_FEATURES": ",".join(found)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout == NORMAL_SHA256["float32"]

    def test_inverts_the_distribution_function(self):
        # The complementary error function of the C library is the independent oracle. A
        # relative error e of z shows as z^2 e in the tail's probability: at most 40 e.
        every_magnitude = np.unique(np.geomspace(1, 2**32 - 1, 4001).astype(np.uint32))
        words = np.concatenate(
            [[0], every_magnitude, WORD - every_magnitude, random.random_bits((1, 2), 0, 4000)]
        ).astype(np.uint32)
        for word, value in zip(words.tolist(), normals_of(words).tolist(), strict=True):
            tail = min(word + 0.5, 2**32 - word - 0.5) / 2**32
            assert math.erfc(abs(value) / math.sqrt(2)) / 2 == pytest.approx(tail, rel=5e-14, abs=0)
            assert (value > 0) == (word >= 2**31)

    def test_both_formulas_meet(self):
        edge = int((0.5 - 0.425) * 2**32)
        values = normals_of(np.arange(edge - 1000, edge + 1000, dtype=np.uint32))
        assert (np.diff(values) > 0).all()

    @given(word=words32)
    def test_symmetric(self, word):
        low, high = normals_of(np.array([word, WORD - word], np.uint32))
        assert low == -high
        assert math.isfinite(low)

    def test_few_and_many_words_give_the_same_bits(self):
        edge = int((0.5 - 0.425) * 2**32)
        near = np.arange(edge - 40, edge + 40, dtype=np.uint32)
        words = np.concatenate([[0, 1], near, WORD - near, random.random_bits((3, 4), 0, 2000)])
        words = words.astype(np.uint32)
        few = [normals.normals_of_words(part) for part in np.array_split(words, 200)]
        assert np.concatenate(few).tobytes() == normals_of(words).tobytes()
        assert normals.normals_of_words(words[:2160].reshape(5, 432)).shape == (5, 432)
        assert normals.normals_of_words(words[:6].reshape(3, 2)).shape == (3, 2)

    def test_extremes(self):
        low, high = normals_of(np.array([0, WORD], np.uint32))
        assert -high == low == pytest.approx(-6.3379, abs=1e-4)

    def test_moments(self):
        draw = random.random_normal((31, 41), (1000, 1000), "float64")
        # Five deviations of each sample moment of 10^6 draws.
        assert abs(draw.mean()) < 5e-3
        assert abs((draw**2).mean() - 1) < 5 * math.sqrt(2 / 1e6)
        assert abs((draw**3).mean()) < 5 * math.sqrt(15 / 1e6)
        assert abs((draw**4).mean() - 3) < 5 * math.sqrt(96 / 1e6)

    def test_rounding(self):
        full = random.random_normal((1, 2), (5000,), "float64")
        single = random.random_normal((1, 2), (5000,), "float32")
        assert np.array_equal(single, full.astype(np.float32))
        for dtype in ("float16", "bfloat16"):
            half = random.random_normal((1, 2), (5000,), dtype)
            assert np.array_equal(half, single.astype(dtypes.dtype(dtype).numpy))

    def test_one_word_per_element(self):
        whole = random.random_normal((1, 2), (40,))
        assert np.array_equal(random.random_normal((1, 2), (3, 5), offset=7).ravel(), whole[7:22])
        assert random.random_normal((1, 2), (), offset=3) == whole[3]

    def test_logarithm(self):
        x = np.concatenate([np.geomspace(1e-300, 1e300, 2001), np.linspace(0.4, 2.1, 2001)])
        for value, result in zip(x.tolist(), normals._log(x.copy()).tolist(), strict=True):
            expected = math.log(value)
            assert abs(result - expected) <= 2 * math.ulp(expected)

    def test_bad_dtype(self):
        with pytest.raises(DTypeError, match="got int32"):
            random.random_normal((0, 0), (3,), "int32")
