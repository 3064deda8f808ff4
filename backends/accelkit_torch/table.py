"""The table: what this backend runs for each primitive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from accelkit_torch.batch_normalization import BATCH_NORMALIZATION
from accelkit_torch.bookkeeping import BOOKKEEPING
from accelkit_torch.convolution import CONVOLUTION
from accelkit_torch.elementwise import ELEMENTWISE
from accelkit_torch.layer_normalization import LAYER_NORMALIZATION
from accelkit_torch.normalization import NORMALIZATION
from accelkit_torch.optimizer import OPTIMIZER
from accelkit_torch.philox import RANDOM
from accelkit_torch.reductions import REDUCTIONS
from accelkit_torch.shaping import CREATION, SHAPING

TABLE: Final[dict[str, Callable[..., Any]]] = {
    **ELEMENTWISE,
    **REDUCTIONS,
    **CREATION,
    **SHAPING,
    **CONVOLUTION,
    **NORMALIZATION,
    **BATCH_NORMALIZATION,
    **LAYER_NORMALIZATION,
    **OPTIMIZER,
    **RANDOM,
    **BOOKKEEPING,
}
