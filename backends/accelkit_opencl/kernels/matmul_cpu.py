"""Matrix products for CPU devices, in three forms.

``packed``: both operands are copied to panels, then one work-item computes one register tile
over the whole reduction. For all but skinny products.
``direct``: the right operand is read in place, in blocks that stay in the first-level cache while
all rows of a skinny left operand pass over it. For few rows: the copy would cost more.
``dot``: as direct, for a transposed right operand: vectors run along the reduction.
"""

from __future__ import annotations

from dataclasses import dataclass

from accelkit_opencl.kernels.source import KernelSource, ceil_div
from accelkit_opencl.kernels.tile import ONE_ITEM, WIDE_VECTORS, Tile, panel_cases, prelude

__all__ = [
    "Matmul",
    "direct_kernel",
    "dot_kernel",
    "pack_left_kernel",
    "pack_right_kernel",
    "packed_kernel",
]


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


def _pack(
    name: str,
    dtype: str,
    outer: int,
    outer_stride: int,
    k: int,
    k_stride: int,
    width: int,
    batch: int,
) -> KernelSource:
    """Copy to panels [outer / width][k][width], zeros past the end; 16 steps of k per item."""
    panels, block = ceil_div(outer, width), 16
    # The innermost loop runs along the axis that is contiguous in memory.
    loops = (
        "for (int e = 0; e < count; e++) for (int t = 0; t < steps; t++)"
        if k_stride == 1
        else "for (int t = 0; t < steps; t++) for (int e = 0; e < count; e++)"
    )
    source = f"""{prelude(dtype, 1)}
__kernel {WIDE_VECTORS}
void KERNEL(const __global real* restrict in, __global real* restrict packed) {{
  const int k0 = get_global_id(0) * {block}, panel = get_global_id(1), batch = get_global_id(2);
  const int steps = {k} - k0 < {block} ? {k} - k0 : {block};
  const int rest = {outer} - panel * {width}, count = rest < {width} ? rest : {width};
  const __global real* const a = in + (size_t)batch * {outer * k}
      + (size_t)panel * {width * outer_stride} + (size_t)k0 * {k_stride};
  __global real* const out = packed
      + ((size_t)batch * {panels} + panel) * {k * width} + (size_t)k0 * {width};
  {loops}
    out[t * {width} + e] = a[(size_t)t * {k_stride} + (size_t)e * {outer_stride}];
  for (int t = 0; t < steps; t++) for (int e = count; e < {width}; e++) out[t * {width} + e] = 0;
}}
"""
    size = (ceil_div(k, block), panels, batch)
    return KernelSource.of(name, source, ("source", "packed"), size, (1, 1, 1))


def pack_left_kernel(product: Matmul, tile: Tile) -> KernelSource:
    """``(a, packed)``: a to panels of ``tile.rows`` rows."""
    stride, k_stride = product.left_strides()
    return _pack(
        "pack_left", product.dtype, product.m, stride, product.k, k_stride, tile.rows, product.batch
    )


def pack_right_kernel(product: Matmul, tile: Tile) -> KernelSource:
    """``(b, packed)``: b to panels of ``tile.columns`` columns."""
    k_stride, stride = product.right_strides()
    return _pack(
        "pack_right",
        product.dtype,
        product.n,
        stride,
        product.k,
        k_stride,
        tile.columns,
        product.batch,
    )


def packed_sizes(product: Matmul, tile: Tile) -> tuple[int, int]:
    """Elements of the packed left and right operands."""
    left = ceil_div(product.m, tile.rows) * tile.rows * product.k
    right = ceil_div(product.n, tile.columns) * tile.columns * product.k
    return product.batch * left, product.batch * right


def packed_kernel(product: Matmul, tile: Tile, *, unroll: int = 4) -> KernelSource:
    """``(left, right, out)`` on packed operands: one work-item, one register tile."""
    m, n, k = product.m, product.n, product.k
    row_tiles, panels = ceil_div(m, tile.rows), ceil_div(n, tile.columns)

    def body(panel_tile: Tile, count: int) -> str:
        full, rest = divmod(m, tile.rows)
        parts = []
        if full:
            parts.append((f"row_tile < {full}", panel_tile))
        if rest:
            parts.append(("1", panel_tile.with_rows(rest)))
        code = ""
        for condition, part in parts:
            step = part.step(lambda r: f"a[{r}]", lambda v: f"b + {v * tile.width}")
            code += f"""if ({condition}) {{
{part.declare()}
#pragma unroll {unroll}
for (int t = 0; t < {k}; t++) {{
{step}a += {tile.rows}; b += {tile.columns}; }}
{part.finish(lambda r, v: f"c + (size_t){r * n} + {v * tile.width}", count)}return; }}
"""
        return code

    source = f"""{prelude(product.dtype, tile.width)}
{ONE_ITEM}void KERNEL(const __global real* restrict left, const __global real* restrict right,
            __global real* restrict out) {{
  const int row_tile = get_global_id(0), panel = get_global_id(1), batch = get_global_id(2);
  const __global real* a = left + ((size_t)batch * {row_tiles} + row_tile) * {tile.rows * k};
  const __global real* b = right + ((size_t)batch * {panels} + panel) * {tile.columns * k};
  __global real* const c = out + (size_t)batch * {m * n}
      + (size_t)row_tile * {tile.rows * n} + panel * {tile.columns};
{panel_cases(n, tile, body)}}}
"""
    size = (row_tiles, panels, product.batch)
    arguments = ("left", "right", "out")
    return KernelSource.of("matmul", source, arguments, size, (1, 1, 1), product.flops)


def direct_kernel(product: Matmul, tile: Tile, *, block: int = 128) -> KernelSource:
    """``(a, b, out)`` without copies; b must not be transposed.

    One work-item computes all rows of one panel of columns. The reduction is cut in blocks, so
    that a block of b is fetched from memory once and then used by every row tile.
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
            return f"c + (size_t)(i + {r}) * {n} + {v * tile.width}"

        step = part.step(
            lambda r: f"a[(size_t){r * row_stride}]", lambda v: f"b + {v * tile.width}", count
        )
        return f"""const __global real* a = left
    + (size_t)i * {row_stride} + (size_t)k0 * {k_stride};
const __global real* b = right + (size_t)k0 * {n};
{part.declare()}if (k0) {{ {part.load(place, count)} }}
for (int t = k0; t < end; t++) {{
{step}a += {k_stride}; b += {n}; }}
{part.finish(place, count)}"""

    source = f"""{prelude(product.dtype, tile.width)}
{ONE_ITEM}void KERNEL(const __global real* restrict a_all, const __global real* restrict b_all,
            __global real* restrict out) {{
  const int panel = get_global_id(0), batch = get_global_id(1);
  const __global real* const left = a_all + (size_t)batch * {m * k};
  const __global real* const right = b_all + (size_t)batch * {k * n} + panel * {tile.columns};
  __global real* const c = out + (size_t)batch * {m * n} + panel * {tile.columns};
  for (int k0 = 0; k0 < {max(k, 1)}; k0 += {block}) {{
    const int end = k0 + {block} < {k} ? k0 + {block} : {k};
{panel_cases(n, tile, body)}  }}
}}
"""
    size = (panels, product.batch)
    arguments = ("left", "right", "out")
    return KernelSource.of("matmul_direct", source, arguments, size, (1, 1), product.flops)


def dot_kernel(product: Matmul, width: int, *, rows: int = 4, columns: int = 6) -> KernelSource:
    """``(a, b, out)`` without copies, for a plain and b transposed: rows of a times rows of b.

    Accumulators are vectors along the reduction, summed at the end in a fixed order; what is
    left of the reduction after whole vectors is added last.
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
            lines.append(f"o[{r * n} + {c}] = sum; }}")
        return "\n".join(lines) + "\n"

    def sweep(breadth: int) -> str:
        full, rest = divmod(m, rows)
        code = ""
        if full:
            code += f"for (int i = 0; i < {full * rows}; i += {rows}) {{\n{at('i')}"
            code += f"{tile(rows, breadth)}}}\n"
        if rest:
            code += f"{{\n{at(str(full * rows))}{tile(rest, breadth)}}}\n"
        return code

    def at(i: str) -> str:
        return (
            f"const __global real* const a = left + (size_t){i} * {k};\n"
            f"__global real* const o = c + (size_t){i} * {n};\n"
        )

    full, rest = divmod(n, columns)
    if not rest:
        body = sweep(columns)
    elif not full:
        body = sweep(rest)
    else:
        body = f"if (panel < {full}) {{\n{sweep(columns)}}} else {{\n{sweep(rest)}}}\n"
    source = f"""{prelude(product.dtype, width)}{_sum_macro(width)}
{ONE_ITEM}void KERNEL(const __global real* restrict a_all, const __global real* restrict b_all,
            __global real* restrict out) {{
  const int panel = get_global_id(0), batch = get_global_id(1);
  const __global real* const left = a_all + (size_t)batch * {m * k};
  const __global real* const b = b_all + (size_t)batch * {k * n} + (size_t)panel * {columns * k};
  __global real* const c = out + (size_t)batch * {m * n} + panel * {columns};
{body}}}
"""
    size = (ceil_div(n, columns), product.batch)
    arguments = ("left", "right", "out")
    return KernelSource.of("matmul_dot", source, arguments, size, (1, 1), product.flops)


def _sum_macro(width: int) -> str:
    """A pairwise sum of a vector's elements."""
    terms = [f"(x).s{e:x}" for e in range(width)] if width > 1 else ["(x)"]
    while len(terms) > 1:
        half = len(terms) // 2
        terms = [f"({terms[i]} + {terms[i + half]})" for i in range(half)]
    return f"#define SUM(x) {terms[0]}"
