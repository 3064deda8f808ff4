"""What a product becomes: launches over named buffers. What its choice of kernels depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from accelkit_opencl.kernels.convolution import Convolution
from accelkit_opencl.kernels.matmul_cpu import Matmul
from accelkit_opencl.kernels.source import KernelSource, itemsize_of
from accelkit_opencl.kernels.tile import most_rows

__all__ = ["Choice", "Launch", "Lowering", "Profile", "choice_key"]


@dataclass(frozen=True)
class Choice:
    """One way to run a product on a CPU: what the tuner tries and remembers.

    Attributes:
        rows, vectors: Register tile; zero rows mean the default by estimate.
        unroll: Of the reduction loop, 0 for the default by estimate.
        taps: Filter taps of one work-item (weight gradient), 0 for the default by estimate.
        block_bytes: Size of a convolution's cache blocks, 0 for the default: of the source image
            (forward, input gradient), or of a panel of the output gradient (weight gradient); by
            Winograd's transforms, of the transformed images of a block of tiles.
        algorithm: Of a convolution: "direct", "winograd", or "" for what its shape suggests.
    """

    rows: int = 0
    vectors: int = 0
    unroll: int = 0
    taps: int = 0
    block_bytes: int = 0
    algorithm: str = ""


@dataclass(frozen=True)
class Profile:
    """What the choice of kernels depends on.

    Attributes:
        cpu: CPU forms, or GPU forms.
        vector_bytes: Width of the native vectors.
        registers: Vector registers of a CPU.
        compute_units: Of the device.
        max_group: Most work-items of a group.
        local_bytes: Local memory of a group.
        winograd: Whether convolutions may be computed by Winograd's transforms.
        choices: What the tuner found, by :func:`choice_key`.
    """

    cpu: bool
    vector_bytes: int = 64
    registers: int = 32
    compute_units: int = 1
    max_group: int = 256
    local_bytes: int = 32768
    winograd: bool = True
    choices: Mapping[str, Choice] = field(default_factory=dict, compare=False)

    def width(self, dtype: str) -> int:
        """Elements of one native vector."""
        return max(1, min(16, self.vector_bytes // itemsize_of(dtype)))

    def most_rows(self, vectors: int) -> int:
        """Rows of the largest register tile with that many vectors in a row."""
        return most_rows(vectors, self.registers)

    def choice(self, kind: str, product: Matmul | Convolution) -> Choice:
        """The tuner's choice for a product, or the default by estimate."""
        return self.choices.get(choice_key(kind, product), Choice())


@dataclass(frozen=True)
class Launch:
    """A kernel and the names of its buffers."""

    source: KernelSource
    buffers: tuple[str, ...]


@dataclass(frozen=True)
class Lowering:
    """Launches over named buffers.

    Attributes:
        launches: In order.
        scratch_bytes: Size of each temporary buffer by name.
    """

    launches: tuple[Launch, ...]
    scratch_bytes: dict[str, int] = field(default_factory=dict)


def choice_key(kind: str, product: Matmul | Convolution) -> str:
    """Name of a product in the tuner's table."""
    return f"{kind} {product}"
