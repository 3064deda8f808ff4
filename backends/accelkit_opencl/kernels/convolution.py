"""Convolution geometry: what each of the three products of a convolution reads and writes.

Images are NHWC, weights HWIO. The forward product and the input gradient are both *gathers*: a
sum, over taps, of a shifted window of a source image times a matrix of weights. The input
gradient of a strided convolution falls apart into ``stride_h * stride_w`` such gathers, one per
phase of the output grid, each without holes. Offsets of the taps are arithmetic progressions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from accelkit_opencl.kernels.source import ceil_div

__all__ = ["Convolution", "Gather", "Taps"]


@dataclass(frozen=True)
class Convolution:
    """Static description of a 2-D convolution.

    Attributes:
        batch: Images.
        height, width: Of the input image.
        channels: Of the input image, all groups together.
        kernel: (rows, columns) of the filter.
        features: Output channels, all groups together.
        stride, dilation: Per axis.
        padding: ((low, high), (low, high)) zeros around the image.
        groups: Divides channels and features.
        dtype: "float" or "double".
    """

    batch: int
    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    features: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    dtype: str = "float"

    def _out(self, axis: int) -> int:
        size = (self.height, self.width)[axis]
        extent = (self.kernel[axis] - 1) * self.dilation[axis] + 1
        return (size + sum(self.padding[axis]) - extent) // self.stride[axis] + 1

    @property
    def out_height(self) -> int:
        """Rows of the output image."""
        return self._out(0)

    @property
    def out_width(self) -> int:
        """Columns of the output image."""
        return self._out(1)

    @property
    def group_channels(self) -> int:
        """Input channels that one group reads."""
        return self.channels // self.groups

    @property
    def group_features(self) -> int:
        """Output channels that one group writes."""
        return self.features // self.groups

    @property
    def flops(self) -> int:
        """Floating-point operations of any one of the three products, padding included."""
        pixels = self.batch * self.out_height * self.out_width
        taps = self.kernel[0] * self.kernel[1]
        return 2 * pixels * self.features * taps * self.group_channels

    def forward(self) -> Gather:
        """The forward product as a gather from the padded input."""
        axes = []
        for axis in (0, 1):
            low = self.padding[axis][0]
            taps = Taps(0, self.dilation[axis], self.kernel[axis], 0, 1)
            size = (self.height, self.width)[axis]
            out = self._out(axis)
            # The last rows may never be read; padding may also be negative nowhere.
            need = (out - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1
            axes.append((taps, low, max(need, low + size), out))
        (rows, low_h, padded_h, out_h), (columns, low_w, padded_w, out_w) = axes
        return Gather(
            batch=self.batch,
            source=(self.height, self.width, self.channels),
            low=(low_h, low_w),
            padded=(padded_h, padded_w),
            step=self.stride,
            rows=rows,
            columns=columns,
            grid=(out_h, out_w),
            out=(out_h, out_w, self.features),
            out_step=(1, 1),
            out_start=(0, 0),
            groups=self.groups,
            transposed=False,
            kernel=self.kernel,
            dtype=self.dtype,
        )

    def input_gradient(self) -> Iterator[Gather]:
        """The input gradient as gathers from the padded output gradient, one per phase.

        All phases read the same padded source.
        """
        axes = [self._phases(axis) for axis in (0, 1)]
        low = tuple(max(0, -min((p.lowest for p in phases), default=0)) for phases in axes)
        padded = []
        for axis, phases in enumerate(axes):
            size = (self.out_height, self.out_width)[axis]
            highest = max((p.highest for p in phases), default=0)
            padded.append(low[axis] + max(size, highest + 1))
        for vertical in axes[0]:
            for horizontal in axes[1]:
                yield Gather(
                    batch=self.batch,
                    source=(self.out_height, self.out_width, self.features),
                    low=(low[0], low[1]),
                    padded=(padded[0], padded[1]),
                    step=(1, 1),
                    rows=vertical.taps.shifted(low[0]),
                    columns=horizontal.taps.shifted(low[1]),
                    grid=(vertical.count, horizontal.count),
                    out=(self.height, self.width, self.channels),
                    out_step=self.stride,
                    out_start=(vertical.start, horizontal.start),
                    groups=self.groups,
                    transposed=True,
                    kernel=self.kernel,
                    dtype=self.dtype,
                )

    def _phases(self, axis: int) -> list[_Phase]:
        """Input positions ``start + stride * i``, with the taps that reach them.

        Position x = start + stride * i gets y[o] * w[k] where o * stride + k * dilation - low = x.
        """
        stride, dilation = self.stride[axis], self.dilation[axis]
        size, low = (self.height, self.width)[axis], self.padding[axis][0]
        phases = []
        for start in range(min(stride, size)):
            hits = [
                k for k in range(self.kernel[axis]) if (start + low - k * dilation) % stride == 0
            ]
            hits.reverse()  # ascending source offset
            offsets = [(start + low - k * dilation) // stride for k in hits]
            tap_step = stride // math.gcd(stride, dilation)
            source_step = dilation // math.gcd(stride, dilation)
            taps = Taps(
                offsets[0] if offsets else 0,
                source_step,
                len(hits),
                hits[0] if hits else 0,
                -tap_step,
            )
            phases.append(_Phase(start, ceil_div(size - start, stride), taps))
        return phases


@dataclass(frozen=True)
class Taps:
    """Taps along one axis: source offset ``start + step * t`` meets filter index
    ``filter_start + filter_step * t``, for t below ``count``."""

    start: int
    step: int
    count: int
    filter_start: int
    filter_step: int

    def shifted(self, by: int) -> Taps:
        """The same taps with ``by`` added to every source offset."""
        return Taps(self.start + by, self.step, self.count, self.filter_start, self.filter_step)


@dataclass(frozen=True)
class _Phase:
    start: int
    count: int
    taps: Taps

    @property
    def lowest(self) -> int:
        return self.taps.start if self.taps.count else 0

    @property
    def highest(self) -> int:
        if not self.taps.count:
            return 0
        return self.count - 1 + self.taps.start + self.taps.step * (self.taps.count - 1)


@dataclass(frozen=True)
class Gather:
    """``out[n, i, j] = sum over taps of source[n, i*step + row, j*step + column] @ weights[tap]``.

    Attributes:
        batch: Images.
        source: (height, width, channels) of the source as it lies in memory.
        low: Zeros before the first row and column of the padded source.
        padded: (height, width) of the padded source.
        step: Source rows and columns per grid position.
        rows, columns: Taps, in coordinates of the padded source.
        grid: (height, width) of the positions computed.
        out: (height, width, channels) of the result in memory.
        out_step, out_start: Grid position (i, j) is result row ``start + step * i``, likewise j.
        groups: Channel groups.
        transposed: Whether the filter's input channels are this product's outputs.
        kernel: (rows, columns) of the whole filter in memory.
        dtype: "float" or "double".
    """

    batch: int
    source: tuple[int, int, int]
    low: tuple[int, int]
    padded: tuple[int, int]
    step: tuple[int, int]
    rows: Taps
    columns: Taps
    grid: tuple[int, int]
    out: tuple[int, int, int]
    out_step: tuple[int, int]
    out_start: tuple[int, int]
    groups: int
    transposed: bool
    kernel: tuple[int, int]
    dtype: str

    @property
    def needs_padding(self) -> bool:
        """Whether the padded source differs from the source in memory."""
        return self.low != (0, 0) or self.padded != self.source[:2]

    def unpadded(self) -> Gather:
        """The same sum over the source as it lies in memory, where taps may miss the image."""
        return replace(
            self,
            low=(0, 0),
            padded=self.source[:2],
            rows=self.rows.shifted(-self.low[0]),
            columns=self.columns.shifted(-self.low[1]),
        )

    def reach(self, axis: int, tap: int) -> range:
        """The grid positions along an axis at which a tap meets the (padded) source."""
        taps, step = (self.rows, self.columns)[axis], self.step[axis]
        offset = taps.start + taps.step * tap
        first = ceil_div(max(0, -offset), step)
        end = min(self.grid[axis], ceil_div(max(0, self.padded[axis] - offset), step))
        return range(first, max(first, end))

    def misses(self, axis: int) -> bool:
        """Whether a tap misses the source at some position along an axis."""
        count = (self.rows, self.columns)[axis].count
        return any(len(self.reach(axis, tap)) < self.grid[axis] for tap in range(count))

    @property
    def channels(self) -> int:
        """Source channels of one group."""
        return self.source[2] // self.groups

    @property
    def features(self) -> int:
        """Result channels of one group."""
        return self.out[2] // self.groups

    @property
    def padded_size(self) -> int:
        """Elements of the padded source."""
        return self.batch * self.padded[0] * self.padded[1] * self.source[2]

    @property
    def runs(self) -> tuple[int, int]:
        """(runs, length): one filter row reads that many stretches of contiguous source."""
        if self.columns.step == 1 and self.groups == 1 and not self.misses(1):
            return (1 if self.columns.count else 0), self.columns.count * self.channels
        return self.columns.count, self.channels

    @property
    def depth(self) -> int:
        """Length of the reduction."""
        return self.rows.count * self.columns.count * self.channels

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        pixels = self.batch * self.grid[0] * self.grid[1]
        return 2 * pixels * self.depth * self.out[2]
