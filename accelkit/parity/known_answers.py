"""Known answers of the random generator: Random123's own, and counters past 2^32."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from accelkit import dtypes
from accelkit.device import Device
from accelkit.errors import ParityError
from accelkit.parity import checks, graphs
from accelkit.parity.cases import BITS, Case
from accelkit.random.blocks import philox4x32_block

__all__ = ["ZERO_VECTOR", "Question", "check", "questions"]

# Random123 1.14, tests/kat_vectors: philox4x32 10, counter and key all zero.
ZERO_VECTOR = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
_KEYS = ((0, 0), (0xDEADBEEF, 0xFFFFFFFF))
_BLOCKS = (0, 1, (1 << 32) - 1, (1 << 32) + 7)

Key = tuple[int, int]


class Question(NamedTuple):
    """A draw whose bits are known."""

    case: Case
    answer: list[float] | list[bool]


def questions(*, float64: bool, every_key: bool = True) -> Iterator[Question]:
    """Whole blocks as uniforms, and as masks whose threshold is a word or just above it.

    Args:
        float64: Whether there are such numbers.
        every_key: Whether to draw each block with each key, or with the keys in turn.
    """
    turns = zip(itertools.cycle(_KEYS), _BLOCKS, strict=False)
    for key, block in itertools.product(_KEYS, _BLOCKS) if every_key else turns:
        words = _words(key, block)
        offset = 4 * block
        yield _uniform(key, offset, words)
        if float64:
            yield _uniform_float64(key, offset, words)
        seen = words if words == ZERO_VECTOR else words[1:2]
        for word in seen:
            yield _mask(key, offset, words, word)
            yield _mask(key, offset, words, word + 1)


def check(device: Device, *, compiled: bool) -> None:
    """Draw known blocks on a device, and compare every bit.

    Raises:
        ParityError: naming the draw and both results.
    """
    has_float64 = dtypes.float64 in checks.available_dtypes(device)
    # Eagerly, each draw is a program of its own, which XLA takes half a second to compile.
    asked = list(questions(float64=has_float64, every_key=compiled))
    cases = [question.case for question in asked]
    if compiled:
        joined = graphs.join([graphs.value_graph(case) for case in cases])
        found = checks.execute(joined, [a for case in cases for a in case.arrays], device)
    else:
        found = [checks.run_eagerly(case, device)[0] for case in cases]
    for question, result in zip(asked, found, strict=True):
        if result.tolist() != question.answer:
            key = question.case.arrays[0].tolist()
            raise ParityError(
                f"{question.case} with key {key} is {result.tolist()} on {device}, the known "
                f"answer is {question.answer}."
            )


def _words(key: Key, block: int) -> tuple[int, ...]:
    """One block by Python's integers; the all-zero one by the published table."""
    if key == (0, 0) and block == 0:
        return ZERO_VECTOR
    return philox4x32_block((block & 0xFFFFFFFF, block >> 32, *key), key)


def _uniform(key: Key, offset: int, words: Sequence[int]) -> Question:
    parameters = {"shape": (4,), "dtype": dtypes.float32, "offset": offset}
    return Question(_case("random_uniform", key, parameters), [(w >> 8) * 2.0**-24 for w in words])


def _uniform_float64(key: Key, offset: int, words: Sequence[int]) -> Question:
    parameters = {"shape": (2,), "dtype": dtypes.float64, "offset": offset // 2}
    pairs = ((words[0], words[1]), (words[2], words[3]))
    answer = [((a >> 5) * 2**26 + (b >> 6)) * 2.0**-53 for a, b in pairs]
    return Question(_case("random_uniform", key, parameters), answer)


def _mask(key: Key, offset: int, words: Sequence[int], threshold: int) -> Question:
    parameters = {"shape": (4,), "rate": threshold / 2**32, "offset": offset}
    return Question(
        _case("random_keep_mask", key, parameters), [word >= threshold for word in words]
    )


def _case(name: str, key: Key, parameters: dict[str, Any]) -> Case:
    return Case(name, (np.array(key, np.uint32),), parameters, comparison=BITS)
