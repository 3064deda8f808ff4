"""Matrix products and convolutions for GPU devices: one blocked kernel, several loaders.

Every product here is ``out[m, n] = sum_k a(m, k) * b(k, n)`` where a and b are *read* by some
index expression: a plain or transposed matrix, or an image unrolled on the fly. A work-group
stages blocks of both operands in local memory; each work-item keeps a small register block.
The reduction may be split over work-groups; the partial sums are then added in a fixed order,
so that results do not depend on scheduling.
"""

from __future__ import annotations

from dataclasses import dataclass

from accelkit_opencl.kernels.convolution import Convolution
from accelkit_opencl.kernels.epilogue import Epilogue, result_code
from accelkit_opencl.kernels.matmul_cpu import Matmul
from accelkit_opencl.kernels.source import KernelSource, ceil_div, double_pragma

__all__ = [
    "Block",
    "Product",
    "add_partials_kernel",
    "blocked_kernel",
    "forward_product",
    "input_gradient_product",
    "matmul_product",
    "weight_gradient_product",
]


@dataclass(frozen=True)
class Block:
    """Blocking of a product.

    Attributes:
        m, n, k: Extents of the blocks in local memory.
        rows, columns: Register block of one work-item.
        splits: Work-groups that share one reduction.
    """

    m: int = 64
    n: int = 64
    k: int = 16
    rows: int = 4
    columns: int = 4
    splits: int = 1

    @property
    def threads(self) -> tuple[int, int]:
        """Work-items of a group along (n, m)."""
        return self.n // self.columns, self.m // self.rows

    def local_bytes(self, itemsize: int) -> int:
        """Local memory of one work-group."""
        return (self.m + 1 + self.n + 1) * self.k * itemsize

    def fitted(self, *, max_group: int, local_bytes: int, itemsize: int) -> Block:
        """This block, or the next smaller one that the device's limits allow."""
        block = self
        while (
            block.threads[0] * block.threads[1] > max_group
            or block.local_bytes(itemsize) > local_bytes
        ):
            if block.k > 4:
                block = Block(
                    block.m, block.n, block.k // 2, block.rows, block.columns, self.splits
                )
            else:
                m, n = max(block.m // 2, block.rows), max(block.n // 2, block.columns)
                if (m, n) == (block.m, block.n):  # nothing smaller exists
                    return block
                block = Block(m, n, block.k, block.rows, block.columns, self.splits)
        return block


@dataclass(frozen=True)
class Product:
    """A product by its extents and its index expressions.

    The expressions are OpenCL C in ``z`` (the batch or group) and the two index names; the
    loaders are only evaluated for indices within the extents.

    Attributes:
        batch, m, n, k: Extents.
        load_a: Of a(m, k), an expression over ``a``.
        load_b: Of b(k, n), an expression over ``b``.
        row, column: Of out(m, n) in the whole result as a row-major matrix.
        shape: Of that matrix.
        helpers: Functions that the expressions call.
    """

    batch: int
    m: int
    n: int
    k: int
    load_a: str
    load_b: str
    row: str
    column: str
    shape: tuple[int, int]
    dtype: str = "float"
    helpers: str = ""

    @property
    def size(self) -> int:
        """Elements of the whole result."""
        return self.shape[0] * self.shape[1]


def matmul_product(product: Matmul) -> Product:
    """A batch of matrix products."""
    (am, ak), (bk, bn) = product.left_strides(), product.right_strides()
    m, n, k = product.m, product.n, product.k
    return Product(
        product.batch,
        m,
        n,
        k,
        f"a[(size_t)z * {m * k} + (size_t)m * {am} + (size_t)k * {ak}]",
        f"b[(size_t)z * {k * n} + (size_t)k * {bk} + (size_t)n * {bn}]",
        f"z * {m} + m",
        "n",
        (product.batch * m, n),
        product.dtype,
    )


def _image_at(conv: Convolution) -> str:
    """Function: input image at (pixel of the output, tap and channel), zero outside."""
    (top, _), (left, _) = conv.padding
    channels, columns = conv.group_channels, conv.kernel[1]
    return f"""real KERNEL_image_at(const __global real* x, int pixel, int k, int z) {{
  const int c = k % {channels}, tap = k / {channels};
  const int j = pixel % {conv.out_width}, rest = pixel / {conv.out_width};
  const int i = rest % {conv.out_height}, image = rest / {conv.out_height};
  const int h = i * {conv.stride[0]} + tap / {columns} * {conv.dilation[0]} - {top};
  const int w = j * {conv.stride[1]} + tap % {columns} * {conv.dilation[1]} - {left};
  if (h < 0 || h >= {conv.height} || w < 0 || w >= {conv.width}) return 0;
  return x[(((size_t)image * {conv.height} + h) * {conv.width} + w) * {conv.channels}
           + z * {channels} + c];
}}
"""


def forward_product(conv: Convolution) -> Product:
    """``(x, w)`` to the output: rows are output pixels."""
    pixels = conv.batch * conv.out_height * conv.out_width
    features = conv.group_features
    return Product(
        conv.groups,
        pixels,
        features,
        conv.kernel[0] * conv.kernel[1] * conv.group_channels,
        "KERNEL_image_at(a, m, k, z)",
        f"b[(size_t)k * {conv.features} + z * {features} + n]",
        "m",
        f"z * {features} + n",
        (pixels, conv.features),
        conv.dtype,
        _image_at(conv),
    )


def weight_gradient_product(conv: Convolution) -> Product:
    """``(x, g)`` to the filter's gradient: the reduction runs over output pixels."""
    features = conv.group_features
    m = conv.kernel[0] * conv.kernel[1] * conv.group_channels
    return Product(
        conv.groups,
        m,
        features,
        conv.batch * conv.out_height * conv.out_width,
        "KERNEL_image_at(a, k, m, z)",
        f"b[(size_t)k * {conv.features} + z * {features} + n]",
        "m",
        f"z * {features} + n",
        (m, conv.features),
        conv.dtype,
        _image_at(conv),
    )


def input_gradient_product(conv: Convolution) -> Product:
    """``(g, w)`` to the input's gradient: each input pixel gathers what it contributed to."""
    (top, _), (left, _) = conv.padding
    features, channels = conv.group_features, conv.group_channels
    helpers = f"""real KERNEL_gradient_at(const __global real* g, int pixel, int k, int z) {{
  const int f = k % {features}, tap = k / {features};
  const int w = pixel % {conv.width}, rest = pixel / {conv.width};
  const int h = rest % {conv.height}, image = rest / {conv.height};
  const int i = h + {top} - tap / {conv.kernel[1]} * {conv.dilation[0]};
  const int j = w + {left} - tap % {conv.kernel[1]} * {conv.dilation[1]};
  if (i < 0 || j < 0 || i % {conv.stride[0]} || j % {conv.stride[1]}) return 0;
  const int row = i / {conv.stride[0]}, column = j / {conv.stride[1]};
  if (row >= {conv.out_height} || column >= {conv.out_width}) return 0;
  return g[(((size_t)image * {conv.out_height} + row) * {conv.out_width} + column)
           * {conv.features} + z * {features} + f];
}}
real KERNEL_weight_at(const __global real* w, int k, int c, int z) {{
  return w[((size_t)(k / {features}) * {channels} + c) * {conv.features} + z * {features}
           + k % {features}];
}}
"""
    pixels = conv.batch * conv.height * conv.width
    return Product(
        conv.groups,
        pixels,
        channels,
        conv.kernel[0] * conv.kernel[1] * features,
        "KERNEL_gradient_at(a, m, k, z)",
        "KERNEL_weight_at(b, k, n, z)",
        "m",
        f"z * {channels} + n",
        (pixels, conv.channels),
        conv.dtype,
        helpers,
    )


def blocked_kernel(
    product: Product, block: Block, epilogue: Epilogue | None = None
) -> KernelSource:
    """``(a, b, out)``; with splits, ``out`` holds one partial result after the other.

    With ``epilogue``, which goes without splits, its arguments take the place of ``out``.
    """
    assert epilogue is None or block.splits == 1, "partial results are not passed on"
    tn, tm = block.threads
    threads = tn * tm
    chunk = ceil_div(ceil_div(product.k, block.splits), block.k) * block.k
    cells = [(r, c) for r in range(block.rows) for c in range(block.columns)]
    declare = " ".join(f"real c{r}_{c} = 0;" for r, c in cells)
    load = " ".join(
        f"const real b{c} = block_b[t][column + {c * tn}];" for c in range(block.columns)
    )
    update = "\n      ".join(
        f"{{ const real x = block_a[t][row + {r * tm}]; "
        + " ".join(f"c{r}_{c} += x * b{c};" for c in range(block.columns))
        + " }"
        for r in range(block.rows)
    )

    def passed(value: str) -> str:
        if epilogue is not None:
            return epilogue.call(value, product.row, product.column)
        return f"out[(size_t)({product.row}) * {product.shape[1]} + {product.column}] = {value};"

    store = "\n".join(
        f"  {{ const int m = m0 + row + {r * tm}, n = n0 + column + {c * tn};"
        f" if (m < {product.m} && n < {product.n}) {passed(f'c{r}_{c}')} }}"
        for r, c in cells
    )
    names, _, result = result_code(epilogue, product.dtype, "result")
    out = f"__global real* const out = result + (size_t)part * {product.size};"
    source = f"""{_start(product.dtype, epilogue)}{product.helpers}
__kernel __attribute__((reqd_work_group_size({tn}, {tm}, 1)))
void KERNEL(const __global real* restrict a, const __global real* restrict b,
            {result}) {{
  __local real block_a[{block.k}][{block.m + 1}];
  __local real block_b[{block.k}][{block.n + 1}];
  const int column = get_local_id(0), row = get_local_id(1);
  const int n0 = get_group_id(0) * {block.n}, m0 = get_group_id(1) * {block.m};
  const int z = get_group_id(2) % {product.batch}, part = get_group_id(2) / {product.batch};
  const int id = row * {tn} + column;
  const int start = part * {chunk};
  const int end = start + {chunk} < {product.k} ? start + {chunk} : {product.k};
  {out if epilogue is None else ""}
  {declare}
  for (int k0 = start; k0 < end; k0 += {block.k}) {{
    for (int e = id; e < {block.m * block.k}; e += {threads}) {{
      const int k = k0 + e % {block.k}, m = m0 + e / {block.k};
      block_a[e % {block.k}][e / {block.k}] = m < {product.m} && k < end ? {product.load_a} : 0;
    }}
    for (int e = id; e < {block.n * block.k}; e += {threads}) {{
      const int n = n0 + e % {block.n}, k = k0 + e / {block.n};
      block_b[e / {block.n}][e % {block.n}] = n < {product.n} && k < end ? {product.load_b} : 0;
    }}
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int t = 0; t < {block.k}; t++) {{
      {load}
      {update}
    }}
    barrier(CLK_LOCAL_MEM_FENCE);
  }}
{store}
}}
"""
    groups = (
        ceil_div(product.n, block.n),
        ceil_div(product.m, block.m),
        product.batch * block.splits,
    )
    size = (groups[0] * tn, groups[1] * tm, groups[2])
    flops = 2 * product.batch * product.m * product.n * product.k
    return KernelSource.of("blocked", source, ("a", "b", *names), size, (tn, tm, 1), flops)


def add_partials_kernel(
    product: Product, splits: int, epilogue: Epilogue | None = None
) -> KernelSource:
    """``(partials, out)``: the sum of the partial results, in order.

    With ``epilogue`` its arguments take the place of ``out``.
    """
    size, columns = product.size, product.shape[1]
    names, _, result = result_code(epilogue, product.dtype)
    last = "out[i] = sum;"
    if epilogue is not None:
        last = epilogue.call("sum", f"i / {columns}", f"i % {columns}")
    source = f"""{_start(product.dtype, epilogue)}
__kernel void KERNEL(const __global real* restrict partials, {result}) {{
  const size_t i = get_global_id(0);
  if (i >= {size}) return;
  real sum = partials[i];
  for (int s = 1; s < {splits}; s++) sum += partials[(size_t)s * {size} + i];
  {last}
}}
"""
    group = 64
    count = ceil_div(size, group) * group
    return KernelSource.of("add_partials", source, ("partials", *names), (count,), (group,))


def _start(dtype: str, epilogue: Epilogue | None) -> str:
    """What precedes a kernel: the type ``real``, and what the epilogue calls."""
    called = "" if epilogue is None else epilogue.definitions + epilogue.function
    return f"{double_pragma(dtype)}#define real {dtype}\n{called}"
