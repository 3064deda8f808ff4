"""Register tiles: the inner product loop that every CPU matrix product and convolution shares.

One work-item keeps a tile of ``rows x (vectors * width)`` results in named vector variables and
runs over the reduction axis. Only plain operators and pointer-cast vector loads appear: on some
CPU runtimes a builtin such as ``fma`` or ``vload8`` is a real function call, which makes the
loop ten times slower, and accumulators in an array are not kept in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from accelkit_opencl.kernels.loops import FETCH
from accelkit_opencl.kernels.source import ceil_div, double_pragma, itemsize_of

__all__ = [
    "MOST_VECTORS",
    "ONE_ITEM",
    "Tile",
    "best_tile",
    "most_rows",
    "panel_cases",
    "prelude",
    "tile_cost",
    "tiled_cost",
]

# Without this, compilers for AVX-512 CPUs split 512-bit vectors into halves.
_WIDE_VECTORS = "__attribute__((min_vector_width(512)))"
MOST_VECTORS = 4  # of a tile; with more, their loads alone would keep the second-level cache busy
ONE_ITEM = f"__kernel __attribute__((reqd_work_group_size(1, 1, 1))) {_WIDE_VECTORS}\n"


@dataclass(frozen=True)
class Tile:
    """A register tile.

    Attributes:
        rows: Number of rows of results.
        vectors: Number of vectors in a row of results.
        width: Elements of one vector.
        dtype: "float" or "double".
    """

    rows: int
    vectors: int
    width: int
    dtype: str = "float"

    @property
    def columns(self) -> int:
        """Results in one row of the tile."""
        return self.vectors * self.width

    def with_rows(self, rows: int) -> Tile:
        """The same tile with another number of rows."""
        return Tile(rows, self.vectors, self.width, self.dtype)

    def cells(self) -> Iterator[tuple[int, int]]:
        """All (row, vector) pairs."""
        return ((r, v) for r in range(self.rows) for v in range(self.vectors))

    def declare(self) -> str:
        """Accumulators set to zero."""
        zero = "(vec)(0)" if self.width > 1 else "0"
        return "".join(f"vec c{r}_{v} = {zero};\n" for r, v in self.cells())

    def step(
        self,
        a: Callable[[int], str],
        b: Callable[[int], str],
        columns: int | None = None,
        *,
        rows: range | None = None,
        load: str = "LOAD",
    ) -> str:
        """One rank-1 update: ``a(r)`` is the scalar of row r, ``b(v)`` the pointer of vector v.

        With ``columns``, no element past that many is read; with ``rows``, only these rows change.
        ``load`` reads the memory that holds the vectors.
        """
        lines = []
        for v in range(self.vectors):
            lines.append(f"const vec b{v} = {self._load(b(v), v, columns, load)};")
        for r in range(self.rows) if rows is None else rows:
            updates = " ".join(f"c{r}_{v} += x * b{v};" for v in range(self.vectors))
            lines.append(f"{{ const real x = {a(r)}; {updates} }}")
        return "\n".join(lines) + "\n"

    def _load(self, pointer: str, vector: int, columns: int | None, load: str = "LOAD") -> str:
        count = self.width if columns is None else min(self.width, columns - vector * self.width)
        if count == self.width:
            return f"{load}({pointer})"
        parts = [f"({pointer})[{e}]" for e in range(count)] + ["0"] * (self.width - count)
        return f"(vec)({', '.join(parts)})"

    def load(self, pointer: Callable[[int, int], str], columns: int, *, load: str = "LOAD") -> str:
        """Accumulators taken from memory, of which ``columns`` per row exist there.

        ``pointer(r, v)`` addresses the first element of a vector.
        """
        return "".join(
            f"c{r}_{v} = {self._load(pointer(r, v), v, columns, load)};\n" for r, v in self.cells()
        )

    def finish(self, pointer: Callable[[int, int], str], columns: int) -> str:
        """Accumulators written to memory, the first ``columns`` of each row."""
        lines = []
        for r, v in self.cells():
            count = min(self.width, columns - v * self.width)
            if count == self.width:
                lines.append(f"STORE({pointer(r, v)}, c{r}_{v});")
            else:
                lines.append(f"{{ __global real* const o = {pointer(r, v)};")
                lines += [f"o[{e}] = c{r}_{v}.s{e:x};" for e in range(count)]
                lines.append("}")
        return "\n".join(lines) + "\n"


def panel_cases(columns: int, tile: Tile, body: Callable[[Tile, int], str]) -> str:
    """Code for full panels, and for a last panel that needs fewer vectors or ends inside one.

    ``body(tile, columns)`` emits the code of a panel of which that many columns exist; the
    variable ``panel`` is in scope.
    """
    full, rest = divmod(columns, tile.columns)
    if not rest:
        return body(tile, tile.columns)
    last = Tile(tile.rows, -(-rest // tile.width), tile.width, tile.dtype)
    if not full:
        return body(last, rest)
    return f"if (panel < {full}) {{\n{body(tile, tile.columns)}}} else {{\n{body(last, rest)}}}\n"


def prelude(dtype: str, width: int) -> str:
    """Types and macros of the tile code: real, vec, LOAD, STORE and forms for other memories.

    The vector type is declared with the alignment of one element, since rows of user data start
    anywhere; processors load aligned data through it at full speed.
    """
    size = itemsize_of(dtype)
    vec = f"{dtype}{width}" if width > 1 else dtype
    return (
        f"{double_pragma(dtype)}#define real {dtype}\n#define vec {vec}\n"
        f"typedef {vec} __attribute__((aligned({size}))) KERNEL_vec;\n"
        "#define LOAD(p) (*(const __global KERNEL_vec*)(p))\n"
        "#define STORE(p, x) (*(__global KERNEL_vec*)(p) = (x))\n"
        "#define LOAD_LOCAL(p) (*(const __local KERNEL_vec*)(p))\n"
        "#define STORE_LOCAL(p, x) (*(__local KERNEL_vec*)(p) = (x))\n"
        "#define LOAD_PRIVATE(p) (*(const __private KERNEL_vec*)(p))\n"
        "#define STORE_PRIVATE(p, x) (*(__private KERNEL_vec*)(p) = (x))\n"
        f"{FETCH}"
    )


def best_tile(rows: int, columns: int, width: int, registers: int, dtype: str = "float") -> Tile:
    """The tile with the least estimated time for a ``rows x columns`` result.

    ``rows`` is the extent that row tiles must cut (one image row, or the rows of a matrix).
    """
    tiles = []
    for vectors in range(1, MOST_VECTORS + 1):
        limit = most_rows(vectors, registers)
        if limit >= 1:
            tiles.append(Tile(ceil_div(rows, ceil_div(rows, limit)), vectors, width, dtype))
    return min(tiles, key=lambda tile: tiled_cost(rows, columns, tile))


def most_rows(vectors: int, registers: int) -> int:
    """Rows of the largest tile that leaves registers for a row of vectors and one scalar."""
    return (registers - 1 - vectors) // vectors


def tiled_cost(rows: int, columns: int, tile: Tile) -> float:
    """Estimated time of one step of the reduction for a ``rows x columns`` result.

    Tiles and panels that are not full count as what they take.
    """
    full_rows, rest_rows = divmod(rows, tile.rows)
    full, rest = divmod(columns, tile.columns)
    return sum(
        panels
        * (
            full_rows * tile_cost(tile.rows, vectors)
            + (tile_cost(rest_rows, vectors) if rest_rows else 0.0)
        )
        for panels, vectors in ((full, tile.vectors), (1, ceil_div(rest, tile.width)))
        if vectors
    )


def tile_cost(rows: int, vectors: int) -> float:
    """Time of one step of a tile, in units of half a cycle: multiplications, a part of the loads
    (most hide behind them), and the loop; fitted to measurements of AlexNet's layers."""
    # Below 8 independent sums the latency of the multiplier shows.
    return max(rows * vectors, 8) + 0.3 * rows + 0.2 * vectors + 3.0
