"""Every error that accelkit raises, in one tree.

::

    AccelkitError
    ├── UnknownNameError          (LookupError)   a name nobody registered; lists the nearest ones
    ├── BackendUnavailableError   (ImportError)   its framework is missing or broken
    ├── DeviceError               (RuntimeError)  no such device
    │   └── DeviceMismatchError                   tensors on different devices
    ├── ShapeError                (ValueError)    shapes that do not fit
    ├── IndexOutOfRangeError      (IndexError)    an integer index beyond its axis
    ├── DTypeError                (TypeError)     dtypes that do not fit
    ├── OptionError               (ValueError)    an argument outside its range
    ├── TraceError                (RuntimeError)  a traced value used where it cannot be
    ├── DifferentiationError      (RuntimeError)  no derivative exists, or none was declared
    ├── CapabilityError           (RuntimeError)  the backend or device cannot do this
    ├── CompileError              (RuntimeError)  a backend refused a graph
    ├── BackendError              (RuntimeError)  a framework failed while running
    │   └── OutOfMemoryError      (MemoryError)   device memory ran out
    ├── StateError                (RuntimeError)  a training state that the step cannot take
    │   ├── StateConsumedError                    the step has taken this state already
    │   └── StateLostError                        execution failed after the state was donated
    ├── NonFiniteError            (ArithmeticError)  a loss is NaN or infinite
    ├── DataError                 (ValueError)    a data source cannot be read
    │   └── CorruptDataError                      its content fails verification
    ├── CheckpointError           (RuntimeError)  a checkpoint cannot be written or read
    │   ├── CorruptCheckpointError                its content fails verification
    │   └── IncompatibleCheckpointError           it belongs to another model or version
    └── ParityError               (AssertionError)  two backends disagree beyond the bound

Each class also derives from the built-in exception named beside it, so that code written
against the built-in keeps working. A framework's own exception is always kept as ``__cause__``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = [
    "AccelkitError",
    "BackendError",
    "BackendUnavailableError",
    "CapabilityError",
    "CheckpointError",
    "CompileError",
    "CorruptCheckpointError",
    "CorruptDataError",
    "DTypeError",
    "DataError",
    "DeviceError",
    "DeviceMismatchError",
    "DifferentiationError",
    "IncompatibleCheckpointError",
    "IndexOutOfRangeError",
    "NonFiniteError",
    "OptionError",
    "OutOfMemoryError",
    "ParityError",
    "ShapeError",
    "StateConsumedError",
    "StateError",
    "StateLostError",
    "TraceError",
    "UnknownNameError",
]


_NAMED = 5


class AccelkitError(Exception):
    """Base class of every error that accelkit raises on purpose."""


class UnknownNameError(AccelkitError, LookupError):
    """A backend, device, model, variant or option value that nobody registered."""

    @classmethod
    def of(cls, kind: str, given: str, known: Iterable[str]) -> UnknownNameError:
        """Build the message for ``given``, naming the nearest of the ``known`` names."""
        names = sorted(known)
        hint = nearest(given, names)
        listing = ", ".join(map(repr, names)) or "none"
        return cls(f"Unknown {kind} {given!r}. {hint}Known: {listing}.")


def nearest(given: str, known: Iterable[str]) -> str:
    """``"Did you mean ...? "`` with the nearest of the known names; empty if none is near."""
    import difflib  # slow to import, and only needed here

    near = difflib.get_close_matches(given, list(known), n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(map(repr, near))}? " if near else ""


def some(names: Sequence[str]) -> str:
    """The first of these names, and how many more there are."""
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest


class BackendUnavailableError(AccelkitError, ImportError):
    """A backend is registered, but its framework is missing or fails to import."""


class DeviceError(AccelkitError, RuntimeError):
    """A device does not exist or cannot be used."""


class DeviceMismatchError(DeviceError):
    """An operation got tensors that live on different devices."""


class ShapeError(AccelkitError, ValueError):
    """Shapes that do not fit an operation or a layer."""


class IndexOutOfRangeError(AccelkitError, IndexError):
    """An integer index beyond the extent of its axis."""


class DTypeError(AccelkitError, TypeError):
    """Dtypes that do not fit an operation."""


class OptionError(AccelkitError, ValueError):
    """An argument outside of its valid range."""


class TraceError(AccelkitError, RuntimeError):
    """A traced value was used after its trace, in another trace, or as a concrete value."""


class DifferentiationError(AccelkitError, RuntimeError):
    """A derivative was asked for that does not exist or was not declared."""


class CapabilityError(AccelkitError, RuntimeError):
    """The backend or the device cannot do what was asked."""


class CompileError(AccelkitError, RuntimeError):
    """A backend could not compile a graph."""


class BackendError(AccelkitError, RuntimeError):
    """A framework failed while running; its own exception is the cause."""


class OutOfMemoryError(BackendError, MemoryError):
    """Device memory ran out."""


class StateError(AccelkitError, RuntimeError):
    """A training state was used up, or belongs to another step."""


class StateConsumedError(StateError):
    """A training step has taken this state already."""


class StateLostError(StateError):
    """Execution failed after the state's buffers were donated: nothing of it is left."""


class NonFiniteError(AccelkitError, ArithmeticError):
    """A loss or gradient is NaN or infinite."""


class DataError(AccelkitError, ValueError):
    """A data source cannot be read as asked."""


class CorruptDataError(DataError):
    """Stored data fails verification."""


class CheckpointError(AccelkitError, RuntimeError):
    """A checkpoint cannot be written or read."""


class CorruptCheckpointError(CheckpointError):
    """A checkpoint's content fails verification."""


class IncompatibleCheckpointError(CheckpointError):
    """A checkpoint belongs to another model, another version, or another program."""


class ParityError(AccelkitError, AssertionError):
    """Two backends disagree by more than the stated bound."""
