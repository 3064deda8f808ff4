"""Matrix products for CPU devices, in three forms.

``packed``: the operands are copied to panels, but for a left one whose rows can be read in place;
then one work-item computes one register tile over the whole reduction. For all but skinny
products.
``direct``: the right operand is read in place, in blocks that stay in the first-level cache while
all rows of a skinny left operand pass over it. For few rows: the copy would cost more.
``dot``: as direct, for a transposed right operand: vectors run along the reduction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from accelkit_opencl.kernels.epilogue import Epilogue, result_code
from accelkit_opencl.kernels.source import KernelSource, ceil_div, itemsize_of
from accelkit_opencl.kernels.tile import ONE_ITEM, Tile, panel_cases, prelude

__all__ = [
    "Matmul",
    "MomentumUpdate",
    "direct_kernel",
    "dot_kernel",
    "packed_kernel",
]

_SECOND_CACHE_BYTES = 1048576  # most bytes of an operand that is to stay in it


@dataclass(frozen=True)
class Matmul:
    """``out (batch, m, n) = op(a) @ op(b)``, row-major; op transposes where asked.

    Attributes:
        batch: Number of independent products.
        m, n, k: Extents after op.
        transpose_a: a is (k, m) in memory.
        transpose_b: b is (n, k) in memory.
        dtype: "float" or "double".
    """

    batch: int
    m: int
    n: int
    k: int
    transpose_a: bool = False
    transpose_b: bool = False
    dtype: str = "float"

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return 2 * self.batch * self.m * self.n * self.k

    def left_strides(self) -> tuple[int, int]:
        """Elements between neighbours in a along (m, k)."""
        return (1, self.m) if self.transpose_a else (self.k, 1)

    def right_strides(self) -> tuple[int, int]:
        """Elements between neighbours in b along (k, n)."""
        return (1, self.k) if self.transpose_b else (self.n, 1)


@dataclass(frozen=True)
class MomentumUpdate:
    """What happens to each element of a gradient: ``accelkit``'s ``sgd_update``.

    Attributes:
        momentum, weight_decay, nesterov: Of the update.
    """

    momentum: float
    weight_decay: float
    nesterov: bool

    ARGUMENTS: ClassVar[tuple[str, ...]] = ("p", "v", "rate", "new_p", "new_v")
    # No `restrict`: the new tensors may be the old ones.
    DECLARATION: ClassVar[str] = (
        "const __global real* p, const __global real* v, const __global real* rate, "
        "__global real* new_p, __global real* new_v"
    )

    def _new(self, kind: str, dtype: str, g: str, p: str, v: str) -> str:
        """Statements that define ``y`` and ``x``, the new velocity and parameter."""
        suffix = "f" if dtype == "float" else ""
        decayed = f"{g} + q * {self.weight_decay!r}{suffix}" if self.weight_decay else g
        direction = f"d + y * {self.momentum!r}{suffix}" if self.nesterov else "y"
        return (
            f"const {kind} q = {p}; const {kind} d = {decayed}; "
            f"const {kind} y = {v} * {self.momentum!r}{suffix} + d; "
            f"const {kind} x = q - ({direction}) * rate[0];"
        )

    def finish(self, tile: Tile, offset: Callable[[int, int], str], columns: int) -> str:
        """The accumulators of a tile, of which ``columns`` per row exist, as gradients."""
        lines = []
        for r, c in tile.cells():
            count = min(tile.width, columns - c * tile.width)
            at = f"first + {offset(r, c)}"
            if count == tile.width:
                g = f"c{r}_{c}"
                new = self._new("vec", tile.dtype, g, f"LOAD(p + {at})", f"LOAD(v + {at})")
                lines.append(f"{{ {new} STORE(new_v + {at}, y); STORE(new_p + {at}, x); }}")
                continue
            for e in range(count):
                g, here = f"c{r}_{c}.s{e:x}", f"{at} + {e}"
                new = self._new("real", tile.dtype, g, f"p[{here}]", f"v[{here}]")
                lines.append(f"{{ {new} new_v[{here}] = y; new_p[{here}] = x; }}")
        return "\n".join(lines) + "\n"

    def kernel(self, size: int, dtype: str) -> KernelSource:
        """``(gradient, p, v, rate, new_p, new_v)``: the update of ``size`` elements."""
        source = f"""{prelude(dtype, 1)}
__kernel void KERNEL(const __global real* restrict gradient, {self.DECLARATION}) {{
  const size_t i = get_global_id(0);
  if (i >= {size}) return;
  {self._new("real", dtype, "gradient[i]", "p[i]", "v[i]")}
  new_v[i] = y;
  new_p[i] = x;
}}
"""
        arguments = ("gradient", *self.ARGUMENTS)
        return KernelSource.of(
            "sgd_update", source, arguments, (ceil_div(size, 64) * 64,), (64,), 6 * size
        )


def packed_kernel(
    product: Matmul,
    tile: Tile,
    *,
    unroll: int = 4,
    update: MomentumUpdate | None = None,
    epilogue: Epilogue | None = None,
) -> KernelSource:
    """``(left, right, out)`` on packed operands: one work-item, one register tile.

    ``left`` is packed only if a is transposed; otherwise it is a itself. Work-items go along the
    rows of the result, as memory does, where the right operand is small enough to stay in the
    second-level cache meanwhile; else down a panel.

    With ``update`` the product is a gradient that goes straight into a parameter and its
    velocity: ``(left, right, p, v, rate, new_p, new_v)``, where the new ones may be the old.
    With ``epilogue`` its arguments take the place of ``out``.
    """
    m, n, k = product.m, product.n, product.k
    row_tiles, panels = ceil_div(m, tile.rows), ceil_div(n, tile.columns)
    along = panels * tile.columns * k * itemsize_of(product.dtype) <= _SECOND_CACHE_BYTES
    if product.transpose_a:
        row_stride, step_stride, matrix = 1, tile.rows, row_tiles * tile.rows * k
    else:
        row_stride, step_stride, matrix = k, 1, m * k

    def body(panel_tile: Tile, count: int) -> str:
        full, rest = divmod(m, tile.rows)
        parts = []
        if full:
            parts.append((f"row_tile < {full}", panel_tile))
        if rest:
            parts.append(("1", panel_tile.with_rows(rest)))
        code = ""
        for condition, part in parts:
            step = part.step(
                lambda r: f"a[(size_t){r * row_stride}]", lambda v: f"b + {v * tile.width}"
            )
            if epilogue is not None:
                row, column = f"batch * {m} + row_tile * {tile.rows}", f"panel * {tile.columns}"
                last = epilogue.finish(part, count, row, column)
            elif update is None:
                last = part.finish(lambda r, v: f"c + (size_t){r * n} + {v * tile.width}", count)
            else:
                last = update.finish(part, lambda r, v: f"{r * n} + {v * tile.width}", count)
            code += f"""if ({condition}) {{
{part.declare()}
#pragma unroll {unroll}
for (int t = 0; t < {k}; t++) {{
{step}a += {step_stride}; b += {tile.columns}; }}
{last}return; }}
"""
        return code

    names, definitions, result = result_code(epilogue, product.dtype)
    if update is not None:
        names, result = MomentumUpdate.ARGUMENTS, MomentumUpdate.DECLARATION
    plain = update is None and epilogue is None
    source = f"""{definitions}{prelude(product.dtype, tile.width)}
{ONE_ITEM}void KERNEL(const __global real* restrict left, const __global real* restrict right,
            {result}) {{
  const int row_tile = get_global_id({int(along)}), panel = get_global_id({int(not along)});
  const int batch = get_global_id(2);
  const __global real* a = left + (size_t)batch * {matrix} + (size_t)row_tile * {tile.rows * k};
  const __global real* b = right + ((size_t)batch * {panels} + panel) * {tile.columns * k};
  const size_t first = (size_t)batch * {m * n}
      + (size_t)row_tile * {tile.rows * n} + panel * {tile.columns};
  {"__global real* const c = out + first;" if plain else ""}
{panel_cases(n, tile, body)}}}
"""
    size = (panels, row_tiles) if along else (row_tiles, panels)
    name = "matmul" if update is None else "matmul_update"
    arguments = ("left", "right", *names)
    return KernelSource.of(
        name, source, arguments, (*size, product.batch), (1, 1, 1), product.flops
    )


def direct_kernel(
    product: Matmul, tile: Tile, *, block: int = 64, epilogue: Epilogue | None = None
) -> KernelSource:
    """``(a, b, out)`` without copies; b must not be transposed.

    One work-item computes all rows of one panel of columns. The reduction is cut in blocks, so
    that a block of b is fetched from memory once and then used by every row tile. With
    ``epilogue`` its arguments take the place of ``out``, and sums that are not complete wait in
    local memory.
    """
    m, n, k = product.m, product.n, product.k
    row_stride, k_stride = product.left_strides()
    panels = ceil_div(n, tile.columns)

    def body(panel_tile: Tile, count: int) -> str:
        full, rest = divmod(m, tile.rows)
        code = ""
        if full:
            code += f"for (int i = 0; i < {full * tile.rows}; i += {tile.rows}) {{\n"
            code += f"{rows(panel_tile, count)}}}\n"
        if rest:
            code += f"{{ const int i = {full * tile.rows};\n"
            code += f"{rows(panel_tile.with_rows(rest), count)}}}\n"
        return code

    def rows(part: Tile, count: int) -> str:
        def place(r: int, v: int) -> str:
            if epilogue is not None:
                return f"sums + (i + {r}) * {tile.columns} + {v * tile.width}"
            return f"c + (size_t)(i + {r}) * {n} + {v * tile.width}"

        step = part.step(
            lambda r: f"a[(size_t){r * row_stride}]", lambda v: f"b + {v * tile.width}", count
        )
        # While a row tile passes over a block it fetches its share of the next one: rows of a
        # narrow panel lie on different pages, where the processor itself foresees nothing.
        share = ceil_div(tile.vectors, ceil_div(m, tile.rows))
        fetch = "".join(f"FETCH(b + ahead + {v * tile.width}); " for v in range(share))
        return f"""const __global real* a = left
    + (size_t)i * {row_stride} + (size_t)k0 * {k_stride};
const __global real* b = right + (size_t)k0 * {n};
const int number = i / {tile.rows} * {share * tile.width};
int ahead = {block * n} + number;
if (number >= {part.columns}) ahead = 0;
if (end == {k}) ahead = 0;
{part.declare()}if (k0) {{ {load(part, place, count)} }}
for (int t = k0; t < end; t++) {{
{fetch}{step}a += {k_stride}; b += {n}; }}
{finish(part, place, count)}"""

    def load(part: Tile, place: Callable[[int, int], str], count: int) -> str:
        if epilogue is None:
            return part.load(place, count)
        return part.load(place, tile.columns, load="LOAD_LOCAL")

    def finish(part: Tile, place: Callable[[int, int], str], count: int) -> str:
        if epilogue is None:
            return part.finish(place, count)
        last = epilogue.finish(part, count, f"batch * {m} + i", f"panel * {tile.columns}")
        wait = "".join(f"STORE_LOCAL({place(r, v)}, c{r}_{v});\n" for r, v in part.cells())
        return f"if (end == {k}) {last} else {{\n{wait}}}\n"

    names, definitions, result = result_code(epilogue, product.dtype)
    memory = sums = ""
    if epilogue is None:
        memory = f"__global real* const c = out + (size_t)batch * {m * n} + panel * {tile.columns};"
    else:
        sums = f"__local real sums[{m * tile.columns}] __attribute__((aligned(64)));"
    source = f"""{definitions}{prelude(product.dtype, tile.width)}
{ONE_ITEM}void KERNEL(const __global real* restrict a_all, const __global real* restrict b_all,
            {result}) {{
  {sums}
  const int panel = get_global_id(0), batch = get_global_id(1);
  const __global real* const left = a_all + (size_t)batch * {m * k};
  const __global real* const right = b_all + (size_t)batch * {k * n} + panel * {tile.columns};
  {memory}
  for (int k0 = 0; k0 < {max(k, 1)}; k0 += {block}) {{
    const int end = k0 + {block} < {k} ? k0 + {block} : {k};
{panel_cases(n, tile, body)}  }}
}}
"""
    size = (panels, product.batch)
    arguments = ("left", "right", *names)
    return KernelSource.of("matmul_direct", source, arguments, size, (1, 1), product.flops)


def dot_kernel(
    product: Matmul,
    width: int,
    *,
    rows: int = 4,
    columns: int = 6,
    epilogue: Epilogue | None = None,
) -> KernelSource:
    """``(a, b, out)`` without copies, for a plain and b transposed: rows of a times rows of b.

    Accumulators are vectors along the reduction, summed at the end in a fixed order; what is
    left of the reduction after whole vectors is added last. With ``epilogue`` its arguments take
    the place of ``out``.
    """
    m, n, k = product.m, product.n, product.k
    whole = k - k % width

    def tile(height: int, breadth: int) -> str:
        cells = [(r, c) for r in range(height) for c in range(breadth)]
        zero = "(vec)(0)" if width > 1 else "0"
        lines = [f"vec s{r}_{c} = {zero};" for r, c in cells]
        lines.append(f"for (int t = 0; t < {whole}; t += {width}) {{")
        lines += [f"const vec b{c} = LOAD(b + {c * k} + t);" for c in range(breadth)]
        for r in range(height):
            updates = " ".join(f"s{r}_{c} += x * b{c};" for c in range(breadth))
            lines.append(f"{{ const vec x = LOAD(a + {r * k} + t); {updates} }}")
        lines.append("}")
        for r, c in cells:
            lines.append(f"{{ real sum = SUM(s{r}_{c});")
            if whole < k:
                lines.append(
                    f"for (int t = {whole}; t < {k}; t++) sum += a[{r * k} + t] * b[{c * k} + t];"
                )
            result = f"o[{r * n} + {c}]" if epilogue is None else f"stage[{r * breadth + c}]"
            lines.append(f"{result} = sum; }}")
        return "\n".join(lines) + "\n"

    def finished(height: int, breadth: int) -> str:
        if epilogue is None:
            return tile(height, breadth)
        last = epilogue.sweep(
            (height, breadth), breadth, f"batch * {m} + first_row", f"panel * {columns}"
        )
        return f"{{ real stage[{height * breadth}];\n{tile(height, breadth)}{last}"

    def sweep(breadth: int) -> str:
        full, rest = divmod(m, rows)
        code = ""
        if full:
            code += f"for (int i = 0; i < {full * rows}; i += {rows}) {{\n{at('i')}"
            code += f"{finished(rows, breadth)}}}\n"
        if rest:
            code += f"{{\n{at(str(full * rows))}{finished(rest, breadth)}}}\n"
        return code

    def at(i: str) -> str:
        code = f"const __global real* const a = left + (size_t){i} * {k};\n"
        if epilogue is None:
            return code + f"__global real* const o = c + (size_t){i} * {n};\n"
        return code + f"const int first_row = {i};\n"

    full, rest = divmod(n, columns)
    if not rest:
        body = sweep(columns)
    elif not full:
        body = sweep(rest)
    else:
        body = f"if (panel < {full}) {{\n{sweep(columns)}}} else {{\n{sweep(rest)}}}\n"
    names, definitions, result = result_code(epilogue, product.dtype)
    memory = f"__global real* const c = out + (size_t)batch * {m * n} + panel * {columns};"
    source = f"""{definitions}{prelude(product.dtype, width)}{_sum_macro(width)}
{ONE_ITEM}void KERNEL(const __global real* restrict a_all, const __global real* restrict b_all,
            {result}) {{
  const int panel = get_global_id(0), batch = get_global_id(1);
  const __global real* const left = a_all + (size_t)batch * {m * k};
  const __global real* const b = b_all + (size_t)batch * {k * n} + (size_t)panel * {columns * k};
  {memory if epilogue is None else ""}
{body}}}
"""
    size = (ceil_div(n, columns), product.batch)
    arguments = ("left", "right", *names)
    return KernelSource.of("matmul_dot", source, arguments, size, (1, 1), product.flops)


def _sum_macro(width: int) -> str:
    """A pairwise sum of a vector's elements."""
    terms = [f"(x).s{e:x}" for e in range(width)] if width > 1 else ["(x)"]
    while len(terms) > 1:
        half = len(terms) // 2
        terms = [f"({terms[i]} + {terms[i + half]})" for i in range(half)]
    return f"#define SUM(x) {terms[0]}"
