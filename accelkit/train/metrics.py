"""What a step reports: numbers that stay on the device until somebody reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from accelkit.errors import NonFiniteError, OptionError
from accelkit.tensor import Tensor

__all__ = ["StepMetrics"]


class StepMetrics(Mapping[str, float]):
    """The metrics of one step. Reading one waits for the step; nothing else does.

    ``metrics["loss"]`` is a Python float. Reading raises what went wrong inside the compiled step,
    or in an earlier one whose metrics nobody read.

    Attributes:
        names: Names of the metrics.
        tensor: The device's vector: the metrics in the order of ``names``, then the first step
            with a loss that is not finite and the first with labels out of range, -1 for none.
    """

    def __init__(
        self,
        names: Sequence[str],
        tensor: Tensor,
        *,
        raise_nonfinite: bool = False,
        is_evaluation: bool = False,
    ) -> None:
        self.names = tuple(names)
        self.tensor = tensor
        self._raise_nonfinite = raise_nonfinite
        self._is_evaluation = is_evaluation
        self._values: list[float] | None = None

    def _read(self) -> list[float]:
        found = self._values
        if found is None:
            *found, first_nonfinite, first_bad_label = self.tensor.numpy().tolist()
            if first_nonfinite >= 0 or first_bad_label >= 0:
                self._check(int(first_nonfinite), int(first_bad_label))
            self._values = found
        return found

    def _check(self, first_nonfinite: int, first_bad_label: int) -> None:
        if first_bad_label >= 0 and self._is_evaluation:
            raise OptionError(
                "The batch was given labels out of range. They were on the device already, so its "
                "loss is wrong. Check labels before they travel."
            )
        if first_bad_label >= 0:
            raise OptionError(
                f"Step {first_bad_label} was given labels out of range. They were on the device "
                f"already, so the loss of that step and all later states are wrong. Check labels "
                f"before they travel, or go back to a state before that step."
            )
        if first_nonfinite >= 0 and self._raise_nonfinite:
            raise NonFiniteError(
                f"The loss became NaN or infinite in step {first_nonfinite}. Lower the learning "
                f"rate, or build the step with on_nonfinite='skip' to leave such updates out."
            )

    def __getitem__(self, name: str) -> float:
        if name not in self.names:
            raise KeyError(f"No metric {name!r}; there are {', '.join(self.names)}.")
        return float(self._read()[self.names.index(name)])

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        if self._values is None:
            return f"<StepMetrics {', '.join(self.names)}: not read yet>"
        values = ", ".join(f"{n}={v:.6g}" for n, v in zip(self.names, self._values, strict=True))
        return f"<StepMetrics {values}>"
