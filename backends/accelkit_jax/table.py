"""The table: what this backend runs for each primitive.

Composites that are missing here are inlined: XLA fuses their definitions as well as anything
written by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from accelkit_jax.control import CONTROL
from accelkit_jax.convolution import CONVOLUTION
from accelkit_jax.elementwise import ELEMENTWISE
from accelkit_jax.philox import RANDOM
from accelkit_jax.reductions import REDUCTIONS
from accelkit_jax.scheduling import SCHEDULING
from accelkit_jax.shaping import SHAPING

__all__ = ["PRECISE", "RANDOM", "TABLE"]

# These take a `precision`: how reduced-precision units may be used.
PRECISE: Final = frozenset({"matmul", "sgd_update_matmul", *CONVOLUTION})

TABLE: Final[dict[str, Callable[..., Any]]] = {
    **ELEMENTWISE,
    **REDUCTIONS,
    **SHAPING,
    **CONVOLUTION,
    **RANDOM,
    **CONTROL,
    **SCHEDULING,
}
