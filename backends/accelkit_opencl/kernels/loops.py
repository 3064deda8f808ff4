"""Innermost loops of CPU kernels, in a form that compilers vectorise.

Two things keep a compiler from using the machine's widest vectors. Some prefer half of them, for
fear of a lower clock, where arithmetic has to hide behind memory; a hint tells the width. And a
function that is polynomial near 0 but needs a long reduction for large arguments would need a
branch per element. Its loop runs in blocks instead: a first pass over a block looks for large
arguments, and only a block that has some takes the slow form. So do powers, of which positive
normal numbers need a third less than what infinities, zeros and NaN ask for. Random numbers come
several at a time; a loop draws those of a short run of elements before it goes through it. Where
there is much to compute per element, a processor's own looking ahead stops when as many
instructions wait as it can hold, short of the memory to come; there, too, loops run in blocks and
ask for one to come.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from accelkit_opencl.kernels.elementary import RANGED
from accelkit_opencl.kernels.source import itemsize_of

__all__ = ["FETCH", "RUN", "Run", "element_loop", "needs_blocks", "vector_hint", "with_runs"]

_LINE_BYTES = 64  # of a cache
_VECTOR_BYTES = 64  # narrower machines take two or four vectors at a time
_BLOCK = 512  # elements between looks for large arguments: small beside a first-level cache
_LEAST_WIDTH = 4  # elements of a vector that is worth it
RUN = 256  # elements whose random numbers are drawn together
_AHEAD = 1024  # elements from one that is computed to one that memory is asked for
_CALL = re.compile(rf"\bak_(?:{'|'.join(sorted(RANGED))})\((\w+)(?:, (\w+))?\)")
_KIND = re.compile(r"_([fd])\(")
_SCALAR = re.compile(r"\bak_(?:sin|cos|tan)_[fd]\(")  # whose general forms have no vector form
_DECLARATION = re.compile(r"const (\w+) (\w+) = (.*);")
_LONG = re.compile(r"\bak_(?!(?:sqrt|fabs|floor|ceil|trunc|rint)_)\w+_[fd]\(")  # to compute
# Whose operations wait for the one before.
_DEEP = re.compile(r"\bak_(?:erf|power(?:_small|_medium)?)_[fd]\(")
_SLOW = re.compile(r"\bfmod\b|[/%] |ak_remainder|ak_floor_divide")

# A hint that a line will be read soon, for compilers that know it; no pointer is followed.
FETCH = """#if defined(__x86_64__) && defined(__clang__)
#define FETCH(p) __builtin_prefetch((const __private void*)(size_t)(p), 0, 2)
#else
#define FETCH(p)
#endif
"""


@dataclass(frozen=True)
class Run:
    """A variable whose values for up to ``RUN`` elements are made before the loop over them.

    Attributes:
        variable: Its name.
        code: Statements that make the values of the elements from ``block`` to before ``stop``.
        expression: The value of element ``k``.
    """

    variable: str
    code: str
    expression: str


def element_loop(
    lines: Sequence[str],
    store: str,
    bounds: tuple[str, str],
    index: str,
    *,
    strided: bool,
    count: int | None = None,
    runs: Sequence[Run] = (),
    streams: Sequence[tuple[str, int]] = (),
) -> str:
    """A loop over ``k`` from one bound to the other.

    Args:
        lines: Declarations of one element's variables, in order.
        store: What follows them.
        bounds: Names of the first ``k`` and of the one after the last.
        index: Type of ``k``.
        strided: Whether memory is accessed other than in order; the compiler then chooses.
        count: Turns, if they are few and their number is known: see :func:`vector_hint`.
        runs: Variables that are made for many elements together, in place of their lines.
        streams: Address of element 0 and bytes per element of what is read in order from memory,
            which is asked for ahead of time where that helps; needs :data:`FETCH`.
    """
    lines = with_runs(lines, runs)
    code = "\n".join(lines) + "\n" + store
    hint = "" if strided else vector_hint(lines, count)
    look = _look(lines)
    ahead = [
        f"for (int k = 0; k < {RUN}; k += {_LINE_BYTES // itemsize}) "
        f"FETCH({address} + block + {_AHEAD} + k);\n"
        for address, itemsize in (streams if runs or _LONG.search(code) else ())
    ]
    if not look and not runs and not ahead:
        return f"{hint}{_loop(index, *bounds, code)}"
    first, last = bounds
    size = RUN if runs or ahead else _BLOCK
    inner = (
        _ranged(lines, code, index, hint, look)
        if look
        else hint + _loop(index, "block", "stop", code)
    )
    return f"""for ({index} block = {first}; block < {last}; block += {size}) {{
  const {index} stop = block + {size} < {last} ? block + {size} : {last};
{"".join(ahead)}{"".join(run.code for run in runs)}{inner}}}
"""


def with_runs(lines: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """The lines, with the variables of runs taken from there."""
    made = {run.variable: run.expression for run in runs}
    found = []
    for line in lines:
        match = _DECLARATION.fullmatch(line)
        if match is not None and match[2] in made:
            line = f"const {match[1]} {match[2]} = {made[match[2]]};"
        found.append(line)
    return found


def _look(lines: Sequence[str]) -> str:
    """Code that sets ``far`` if an argument of an element is; empty where it is not worth it.

    That is where arguments take long to compute, and would be computed once more. What has no
    vector form otherwise is always worth it.
    """
    calls = [call for line in lines for call in _CALL.finditer(line)]
    needed = _needed(lines, {name for call in calls for name in call.groups() if name})
    takes_long = any(_LONG.search(line) for line in needed)
    if not calls or (takes_long and not needs_blocks(lines)):
        return ""
    looks = dict.fromkeys(f"far |= {_form('far', call[0])};\n" for call in calls)
    return _near("\n".join(needed) + "\n") + "".join(looks)


def _ranged(lines: Sequence[str], code: str, index: str, hint: str, look: str) -> str:
    """Loops over a block of which the first looks for arguments that are far."""
    general = "" if needs_blocks(lines) else hint
    return f"""  int far = 0;
{general}{_loop(index, "block", "stop", look)}  if (far) {{
{general}{_loop(index, "block", "stop", code)}  }} else {{
{hint}{_loop(index, "block", "stop", _near(code))}  }}
"""


def needs_blocks(lines: Sequence[str]) -> bool:
    """Whether these lines vectorise only where :func:`element_loop` finds no large arguments."""
    return any(_SCALAR.search(line) for line in lines)


def _loop(index: str, first: str, last: str, code: str) -> str:
    return f"for ({index} k = {first}; k < {last}; k++) {{\n{code}}}\n"


def _near(code: str) -> str:
    """The code with the forms that hold for arguments that are not far."""
    return _CALL.sub(lambda call: _form("near", call[0]), code)


def _form(form: str, call: str) -> str:
    """The call of another form of the function."""
    return _KIND.sub(rf"_{form}_\1(", call)


def _needed(lines: Sequence[str], variables: set[str]) -> list[str]:
    """The declarations that these variables depend on."""
    found: list[str] = []
    wanted = set(variables)
    for line in reversed(lines):
        match = _DECLARATION.fullmatch(line)
        if match is not None and match[2] in wanted:
            found.append(line)
            wanted.update(re.findall(r"\b[a-z]\w*", match[3]))
    return found[::-1]


def vector_hint(lines: Sequence[str], count: int | None = None) -> str:
    """Ask for full vectors of the widest type, unless some operation has no vector form.

    Args:
        lines: Declarations of one element's variables.
        count: Turns of the loop, if they are few and shall run side by side. Nothing of the loop is
            left then if they are a power of two, and arrays that only such loops index can live
            in registers. Of another number vectors are so wide that they divide it, as long as
            that is no less than four elements: what is left over would run one by one.
    """
    types = [match[1] for match in map(_DECLARATION.fullmatch, lines) if match]
    integers = any(name not in ("float", "double") for name in types)
    if integers and any(_SLOW.search(line) for line in lines):
        return ""
    width = min(_VECTOR_BYTES // max((itemsize_of(name) for name in types), default=4), 16)
    if count is None:
        beside = " interleave_count(4)" if any(map(_DEEP.search, lines)) else ""
        return _hint(f"vectorize_width({width}){beside}")
    even = _power_of_two_in(count)
    if even < min(count, _LEAST_WIDTH):
        even = 1 << (count.bit_length() - 1)
    width = min(width, even)
    return _hint(f"vectorize_width({width}) interleave_count({_power_of_two_in(count // width)})")


def _power_of_two_in(number: int) -> int:
    """The largest power of two that divides a number."""
    return number & -number


def _hint(wish: str) -> str:
    return f"#ifdef __clang__\n#pragma clang loop {wish}\n#endif\n"
