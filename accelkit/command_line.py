"""Types of command line options, which say what an argument must be; and how a command ends."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from accelkit.errors import OptionError
from accelkit.train.memory import parse_bytes

__all__ = [
    "amount",
    "end_with",
    "fraction",
    "magnitude",
    "natural",
    "positive",
    "rate",
    "seed",
    "share",
]

_NOBODY_READS = 128 + 13  # what a shell reports of a process that SIGPIPE ended


def end_with(command: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with its exit status.

    Where whoever read the output has gone, as ``head`` does, that is 141 without a traceback.
    """
    streams = [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
    try:
        status = command()
        for stream in streams:
            stream.flush()
    except BrokenPipeError:
        status = _NOBODY_READS
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in streams:  # Python flushes them once more at its end
            os.dup2(nowhere, stream.fileno())
    sys.exit(status)


def natural(text: str) -> int:
    """An integer of at least 0."""
    return _integer(text, 0)


def positive(text: str) -> int:
    """An integer of at least 1."""
    return _integer(text, 1)


def seed(text: str) -> int:
    """An integer of 64 bits."""
    value = _integer(text, 0)
    if value >= 2**64:
        raise argparse.ArgumentTypeError(f"{value} is not below 2^64")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = _number(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


def fraction(text: str) -> float:
    """A number from 0 to below 1."""
    value = _number(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{value} is not in [0, 1)")
    return value


def rate(text: str) -> float:
    """A number above 0."""
    value = _number(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{value} is not positive and finite")
    return value


def magnitude(text: str) -> float:
    """A number of at least 0."""
    value = _number(text)
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{value} is not a finite number of at least 0")
    return value


def amount(text: str) -> str:
    """An amount of memory, as it was written."""
    try:
        parse_bytes(text)
    except OptionError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no amount of memory; expected one such as '8GiB' or '500MB'"
        ) from None
    return text


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no integer; expected one of at least {least}"
        ) from None
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is below {least}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
