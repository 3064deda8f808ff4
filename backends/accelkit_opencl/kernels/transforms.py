"""Winograd's transforms as code: a small matrix times the rows and then the columns of a tile.

Evaluation points come in pairs +a, -a, so that rows (or columns) of the matrices do which differ
in signs only: half of their terms are summed once for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["linear", "transform"]


def linear(
    matrix: np.ndarray,
    inputs: Sequence[str],
    output: Callable[[int], str],
    *,
    kind: str = "vec",
    dtype: str = "float",
) -> str:
    """Statements that define ``output(i)`` as the sum of ``matrix[i, j] * inputs[j]``.

    Args:
        matrix: Constants.
        inputs: Names, one for each column.
        output: Names, one for each row.
        kind: Type of all of them.
        dtype: "float" or "double", in which the constants are written.
    """
    rows = _pairs(matrix)
    lines: list[str] = []

    def define(name: str, coefficients: np.ndarray, names: Sequence[str]) -> None:
        lines.append(f"const {kind} {name} = {_sum(coefficients, names, dtype)};")

    if not rows:
        for number, (i, j) in enumerate(_pairs(matrix.T)):
            matrix, inputs = _folded(matrix, inputs, i, j, f"{output(0)}_{number}", lines, kind)
    for i, j in rows:
        same = matrix[i] == matrix[j]
        even, odd = f"{output(i)}_even", f"{output(i)}_odd"
        define(even, np.where(same, matrix[i], 0), inputs)
        define(odd, np.where(same, 0, matrix[i]), inputs)
        lines.append(f"const {kind} {output(i)} = {even} + {odd};")
        lines.append(f"const {kind} {output(j)} = {even} - {odd};")
    paired = {index for pair in rows for index in pair}
    for index in range(len(matrix)):
        if index not in paired:
            define(output(index), matrix[index], inputs)
    return "\n".join(lines) + "\n"


def _pairs(matrix: np.ndarray) -> list[tuple[int, int]]:
    """Rows with the same entries, some of them with the opposite sign."""
    found: list[tuple[int, int]] = []
    free = list(range(len(matrix)))
    while free:
        i = free.pop(0)
        for j in free:
            same, opposite = matrix[i] == matrix[j], matrix[i] == -matrix[j]
            entries = matrix[i] != 0
            if (same | opposite).all() and (same & entries).any() and (opposite & entries).any():
                found.append((i, j))
                free.remove(j)
                break
    return found


def _folded(
    matrix: np.ndarray,
    inputs: Sequence[str],
    i: int,
    j: int,
    stem: str,
    lines: list[str],
    kind: str,
) -> tuple[np.ndarray, list[str]]:
    """The same sums with inputs i and j replaced by their sum and their difference."""
    total, difference = f"{stem}_sum", f"{stem}_difference"
    lines.append(f"const {kind} {total} = {inputs[i]} + {inputs[j]};")
    lines.append(f"const {kind} {difference} = {inputs[i]} - {inputs[j]};")
    same = matrix[:, i] == matrix[:, j]
    folded = matrix.copy()
    folded[:, i] = np.where(same, matrix[:, i], 0)
    folded[:, j] = np.where(same, 0, matrix[:, i])
    names = list(inputs)
    names[i], names[j] = total, difference
    return folded, names


def _sum(coefficients: np.ndarray, names: Sequence[str], dtype: str) -> str:
    text = ""
    for coefficient, name in zip(coefficients.tolist(), names, strict=True):
        if coefficient == 0:
            continue
        size = abs(coefficient)
        literal = f"{float(np.float32(size))!r}f" if dtype == "float" else repr(size)
        sign = "-" if coefficient < 0 else "+" if text else ""
        text += f" {sign} {name if size == 1 else f'{literal} * {name}'}"
    return text.strip()


def transform(
    matrix: np.ndarray,
    width: int,
    load: Callable[[int], str],
    store: str,
    *,
    output: Callable[[int], str] = "h{}".format,
    rows: str = "",
) -> str:
    """Code for ``matrix @ tile @ matrix.T`` of vectors of ``width`` tiles side by side.

    Args:
        matrix: (a, b), for a tile of b x b.
        width: Elements of a vector.
        load: ``load(i)`` defines the vector ``d<i>``, row i of column ``j`` of the tile.
        store: Takes row ``i`` of the result, in the vectors ``output(0)`` to ``output(a - 1)``.
        output: Their names.
        rows: How many rows of the result are wanted; all by default.
    """
    a, b = matrix.shape
    columns = "".join(
        f"STORE_PRIVATE(part_way + ({i * b} + j) * {width}, h{i});\n" for i in range(a)
    )
    again = "".join(
        f"const vec d{j} = LOAD_PRIVATE(part_way + (i * {b} + {j}) * {width});\n" for j in range(b)
    )
    names = [f"d{i}" for i in range(b)]
    return f"""{{ real part_way[{a * b * width}] __attribute__((aligned(64)));
for (int j = 0; j < {b}; j++) {{
{"".join(load(i) for i in range(b))}{linear(matrix, names, "h{}".format)}{columns}}}
for (int i = 0; i < {rows or a}; i++) {{
{again}{linear(matrix, names, output)}{store}}} }}
"""
