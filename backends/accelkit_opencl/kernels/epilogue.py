"""Epilogues: what becomes of each element of a matrix product or convolution before it is stored.

Bias, activation, residual sums and the like read a product's result once. Computed while a tile
of results is still in registers or in the first-level cache they cost no pass over memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from accelkit_opencl.kernels.fused import Body, Space, element_lines, index_type
from accelkit_opencl.kernels.loops import Run, element_loop, with_runs
from accelkit_opencl.kernels.mathematics import definitions_for
from accelkit_opencl.kernels.philox import drawn_tile
from accelkit_opencl.kernels.source import ctype, double_pragma
from accelkit_opencl.kernels.tile import Tile
from accelkit_opencl.views import View

__all__ = ["Epilogue", "result_code", "result_names"]


@dataclass(frozen=True)
class Epilogue:
    """A fused body, one of whose reads is the product's result.

    The result counts as a matrix: its last axis are the columns, all others together the rows.

    Attributes:
        body: What is computed; its arguments do not hold the product's result.
        product: Name of the variable that is the product's element.
    """

    body: Body
    product: str

    @classmethod
    def of(cls, body: Body, argument: str, columns: int) -> Epilogue | None:
        """Make one of a body that reads a product with that many columns from ``argument``.

        None if the body reads the product or anything else in another way than element by
        element, or along rows or columns.
        """
        reads = [read for read in body.reads if read.argument == argument]
        fits = (
            len(reads) == 1
            and reads[0].view.is_dense
            and body.target is None
            and bool(body.shape)
            and body.shape[-1] == columns
            and all(_row_step(read.view) is not None for read in body.reads)
        )
        if not fits:
            return None
        arguments = tuple(a for a in body.arguments if a[0] != argument)
        renamed = tuple(
            replace(read, argument="stage") if read is reads[0] else read for read in body.reads
        )
        return cls(replace(body, reads=renamed, arguments=arguments), reads[0].name)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the buffers, which follow those of the product's operands."""
        return tuple(name for name, _ in self.body.arguments)

    @property
    def parameters(self) -> str:
        """Declarations of the buffers."""
        written = self.body.written
        return ", ".join(
            f"__global {'' if name in written else 'const '}{ctype(dtype.name)}* restrict {name}"
            for name, dtype in self.body.arguments
        )

    @property
    def definitions(self) -> str:
        """Functions that the code calls."""
        loop = self.sweep((1, 1), 1, "0", "0")
        return definitions_for(self.function + loop)

    def finish(self, tile: Tile, count: int, row: str, column: str, *, row_step: int = 1) -> str:
        """Code that passes on a tile of accumulators.

        Args:
            tile: Its accumulators hold results.
            count: Columns of it that exist.
            row, column: Of the tile's first result, as expressions.
            row_step: Rows of the result between two rows of the tile.
        """
        stores = "".join(
            f"STORE_PRIVATE(stage + {r * tile.columns + v * tile.width}, c{r}_{v});\n"
            for r, v in tile.cells()
        )
        shape = tile.rows, tile.columns
        return f"{{ real stage[{tile.rows * tile.columns}];\n{stores}" + self.sweep(
            shape, count, row, column, row_step=row_step
        )

    def sweep(
        self, shape: tuple[int, int], count: int, row: str, column: str, *, row_step: int = 1
    ) -> str:
        """Code that passes on the array ``stage`` of that shape, and closes its block."""
        body = self.body
        lines, space = self._places(
            f"{row} + r * {row_step}", column, f"r * {shape[1]}", (shape[1], 1)
        )
        drawn = self._draws(shape[0], count, row, column, row_step, space)
        runs = [run for _, run in drawn]
        strided = any(step not in (0, 1) for _, step in space.strides.values())
        loop = element_loop(
            with_runs(element_lines(body, space, 1, "k"), runs),
            self._store(" + k"),
            ("0", str(count)),
            "int",
            strided=strided,
            count=count,
        )
        before = "".join(code for code, _ in drawn)
        lines += "".join(run.code for run in runs)
        return f"{before}for (int r = 0; r < {shape[0]}; r++) {{\n{lines}{loop}}} }}\n"

    def _draws(
        self, rows: int, count: int, row: str, column: str, row_step: int, space: Space
    ) -> list[tuple[str, Run]]:
        """The random numbers of a tile: what draws them, and where each row reads them."""
        found = []
        for read in self.body.reads:
            if read.view.draw is None or read.argument is None:
                continue
            down, along = space.strides[read.name]
            if along != 1:
                continue
            start = f"(ulong)({row}) * {down} + (ulong)({column}) + {read.view.offset}"
            place = read.argument, start, row_step * down, (rows, count)
            found.append(drawn_tile(read.name, read.view.draw, read.view.dtype, *place))
        return found

    @property
    def function(self) -> str:
        """A function that passes on a single element, for :meth:`call`."""
        index = index_type(self.body)
        lines, space = self._places("row", "column", "0", (0, 0))
        element = "\n".join(element_lines(self.body, space, None, ""))
        return f"""void KERNEL_pass(const real value, const {index} row, const {index} column,
            {self.parameters}) {{
const real stage[1] = {{value}};
{lines}{element}
{self._store("")}}}
"""

    def call(self, value: str, row: str, column: str) -> str:
        """A call of :attr:`function` for the element in that row and column of the result."""
        return f"KERNEL_pass({value}, {row}, {column}, {', '.join(self.arguments)});"

    def _places(
        self, row: str, column: str, stage: str, strides: tuple[int, int]
    ) -> tuple[str, Space]:
        """Definitions of where in each buffer a row of the result begins, and the steps from there.

        ``stage`` is the offset in the array that holds the product's results, ``strides`` its own.
        """
        body, index = self.body, index_type(self.body)
        lines = [f"const {index} at = {row}, first = {column};"]
        steps = {}
        for read in body.reads:
            if read.name == self.product:
                steps[read.name] = strides
                lines.append(f"const int o_{read.name} = {stage};")
            elif read.view.constant is None:
                along = _column_step(read.view)
                down = _row_step(read.view)
                steps[read.name] = (down or 0, along)
                lines.append(
                    f"const {index} o_{read.name} = "
                    f"{read.view.offset} + at * {down} + first * {along};"
                )
        lines.append(f"const {index} o_out = at * {body.shape[-1]} + first;")
        return "\n".join(lines) + "\n", Space((0, 0), (False, False), steps)

    def _store(self, step: str) -> str:
        return "".join(
            f"{argument}[o_out{step}] = {name};\n" for name, argument in self.body.outputs
        )


def result_names(epilogue: Epilogue | None, name: str = "out") -> tuple[str, ...]:
    """Names of a product's results: its own one, or those of what becomes of it."""
    return (name,) if epilogue is None else epilogue.arguments


def result_code(
    epilogue: Epilogue | None, dtype: str, name: str = "out"
) -> tuple[tuple[str, ...], str, str]:
    """Names of a product's results, definitions that they need, and their declarations."""
    names = result_names(epilogue, name)
    if epilogue is None:
        return names, "", f"__global real* restrict {name}"
    return names, double_pragma(dtype) + epilogue.definitions, epilogue.parameters


def _column_step(view: View) -> int:
    return view.strides[-1] if view.shape[-1] > 1 else 0


def _row_step(view: View) -> int | None:
    """Elements between rows of a view as a matrix; None where they are not evenly spaced."""
    found: int | None = None
    rows = 1
    for extent, stride in zip(view.shape[-2::-1], view.strides[-2::-1], strict=True):
        if extent == 1:
            continue
        if found is None:
            found = stride
        elif stride != found * rows:
            return None
        rows *= extent
    return found or 0
