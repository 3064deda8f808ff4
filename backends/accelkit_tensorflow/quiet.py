"""Importing TensorFlow without its log lines, and without changing the user's environment.

TensorFlow reports on standard error that oneDNN is on, before any setting can reach its logger.
So while it is imported, standard error passes through a filter that drops exactly these lines and
forwards all others. A user who has set TF_CPP_MIN_LOG_LEVEL=0 gets all of them; other values, which
JAX sets too, ask for less than these lines.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Final

__all__ = ["quiet_import"]

_LEVEL: Final = "TF_CPP_MIN_LOG_LEVEL"
_EVERYTHING: Final = "0"
_ERRORS_ONLY: Final = "2"
_STANDARD_ERROR: Final = 2
_NOISE: Final = (
    b"All log messages before absl::InitializeLog() is called are written to STDERR",
    b"oneDNN custom operations are on.",
    b"This TensorFlow binary is optimized to use available CPU instructions",
    b"To enable the following instructions:",
)


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Import TensorFlow inside of this block."""
    chosen = os.environ.get(_LEVEL)
    if chosen == _EVERYTHING:
        yield
        return
    if chosen is None:
        os.environ[_LEVEL] = _ERRORS_ONLY
    try:
        with _filtered_standard_error():
            yield
    finally:
        if chosen is None:
            os.environ.pop(_LEVEL, None)


@contextlib.contextmanager
def _filtered_standard_error() -> Iterator[None]:
    try:
        original = os.dup(_STANDARD_ERROR)
    except OSError:  # the process has none
        yield
        return
    source, sink = os.pipe()
    forwarder = threading.Thread(target=_forward, args=(source, original), daemon=True)
    forwarder.start()
    _flush_standard_error()
    os.dup2(sink, _STANDARD_ERROR)
    os.close(sink)
    try:
        yield
    finally:
        _flush_standard_error()
        os.dup2(original, _STANDARD_ERROR)  # closes the pipe's last writing end
        forwarder.join()
        os.close(original)


def _forward(source: int, target: int) -> None:
    """Copy lines until the writing end is closed, leaving out the noise."""
    with open(source, "rb", buffering=0) as stream:
        pending = b""
        while chunk := stream.read(65536):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                _write(target, line + b"\n")
        if pending:
            _write(target, pending)


def _write(target: int, line: bytes) -> None:
    if not any(noise in line for noise in _NOISE):
        os.write(target, line)


def _flush_standard_error() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
