"""Optimizers: state in, state out, one fused update primitive per parameter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from accelkit import ops
from accelkit.arguments import require_bool, require_callable, require_fraction, require_number
from accelkit.device import Device
from accelkit.dtypes import DType
from accelkit.errors import OptionError
from accelkit.optim import application
from accelkit.optim.clipping import clip_by_global_norm
from accelkit.optim.schedules import Schedule, rate_at
from accelkit.primitives.optimizer import adam_update, sgd_update
from accelkit.tensor import Tensor

__all__ = ["Adam", "Optimizer", "Sgd", "adam", "adamw", "sgd"]

Scalars = Mapping[str, Tensor]
Slots = Mapping[str, Tensor]
Decays = Callable[[str], bool]


class Optimizer(ABC):
    """How parameters change. Subclass it for an optimizer of your own.

    Attributes:
        learning_rate: A number, or a function from the step (0, 1, ...) to one.
        slots: Names of the tensors kept per parameter.
    """

    learning_rate: float | Schedule
    slots: ClassVar[tuple[str, ...]] = ()

    def slot_names(self) -> tuple[str, ...]:
        """Names of the tensors kept per parameter."""
        return self.slots

    def initial_slots(self, parameter: Tensor) -> dict[str, Tensor]:
        """What is kept for a parameter before the first step: zeros of its shape.

        Args:
            parameter: Its initial value.

        Returns:
            By name, tensors with memory of their own on the parameter's device.
        """
        return {
            name: ops.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
            for name in self.slot_names()
        }

    def scalars(self, step: int) -> dict[str, float]:
        """The numbers that change from step to step; computed on the host.

        Raises:
            OptionError: if the schedule gives no finite number of at least 0.
        """
        return {"learning_rate": rate_at(self.learning_rate, step)}

    def prepare(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What the updates get in place of the gradients, seen all at once; here themselves.

        Args:
            gradients: Of the whole batch, by the names of their parameters.
        """
        return gradients

    def for_parameter(self, name: str) -> Optimizer:
        """The optimizer that updates a parameter; here itself, whatever the name.

        Args:
            name: The parameter's dotted name, such as ``"features.0.weight"``.

        Returns:
            An optimizer with the same slots and scalars.
        """
        return self

    def init(self, parameters: Any) -> dict[str, Any]:
        """What is kept before the first step of a training loop of your own.

        Args:
            parameters: A pytree of tensors, such as ``model.init`` makes it.

        Returns:
            By slot name, pytrees like the parameters: the last argument but one of :meth:`apply`.
        """
        return application.init(self, parameters)

    def numbers(
        self, step: int, *, dtype: DType | str = "float32", device: str | Device | None = None
    ) -> dict[str, Tensor]:
        """The numbers of a step as tensors of shape (), for :meth:`apply`.

        Args:
            step: How many steps were done before.
            dtype: Of the tensors; take that of the parameters.
            device: Where they go; the default device if None.
        """
        return application.numbers(self, step, dtype, device)

    def apply(
        self, parameters: Any, gradients: Any, slots: Any, numbers: Any
    ) -> tuple[Any, dict[str, Any]]:
        """One update of all parameters, for training loops of your own. Pure.

        :class:`accelkit.train.TrainStep` does the same, and more, for a model and a loss. In a
        loop of your own compile the whole step, and pass the numbers as an argument: learning
        rates are computed on the host, and a number that is no tensor would be part of the program.

        Args:
            parameters: A pytree of tensors.
            gradients: One like it.
            slots: As :meth:`init` made them, or as the last call returned them.
            numbers: As :meth:`numbers` makes them.

        Returns:
            The new parameters and the new slots.

        Raises:
            OptionError, ShapeError: for what does not fit the parameters.

        Example:
            >>> import accelkit as ak
            >>> from accelkit import optim
            >>> optimizer = optim.sgd(0.25)
            >>> parameters = {"weight": ak.asarray([1.0, -2.0])}
            >>> slots = optimizer.init(parameters)
            >>> @ak.jit
            ... def step(parameters, slots, numbers):
            ...     gradients = ak.grad(lambda p: ak.sum(p["weight"] ** 2))(parameters)
            ...     return optimizer.apply(parameters, gradients, slots, numbers)
            >>> for i in range(3):
            ...     parameters, slots = step(parameters, slots, optimizer.numbers(i))
            >>> parameters["weight"].tolist(), step.cache_size
            ([0.125, -0.25], 1)
        """
        return application.apply(self, parameters, gradients, slots, numbers)

    @abstractmethod
    def update(
        self, parameter: Tensor, gradient: Tensor, slots: Slots, scalars: Scalars
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The new value of a parameter and of its slots.

        Args:
            parameter: Its value.
            gradient: Of the same shape and dtype.
            slots: By name.
            scalars: Tensors of shape (), by the names that :meth:`scalars` returns.
        """


@dataclass(frozen=True, kw_only=True, repr=False)
class _CommonOptions(Optimizer):
    """What the built-in optimizers share."""

    weight_decay: float = 0.0
    decays: Decays | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.learning_rate):
            require_number("learning_rate", self.learning_rate, positive=True)
        require_number("weight_decay", self.weight_decay)
        if self.decays is not None:
            hint = "It takes a parameter's name, and tells whether its weights decay."
            require_callable("decays", self.decays, hint)
        if self.clip_norm is not None:
            require_number("clip_norm", self.clip_norm, positive=True)

    def __repr__(self) -> str:
        """The optimizer's own options first, and those that are set of the others."""
        common = [field.name for field in fields(_CommonOptions)]
        names = [f.name for f in fields(self) if f.name not in common] + common
        given = [(name, getattr(self, name)) for name in names]
        shown = ", ".join(f"{name}={value!r}" for name, value in given if value is not None)
        return f"{type(self).__name__}({shown})"

    def prepare(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The gradients, clipped if ``clip_norm`` is given."""
        if self.clip_norm is None:
            return gradients
        clipped: Mapping[str, Tensor] = clip_by_global_norm(gradients, float(self.clip_norm))
        return clipped

    def for_parameter(self, name: str) -> Optimizer:
        """Without weight decay where ``decays`` says so."""
        if self.decays is None or not self.weight_decay or self.decays(name):
            return self
        return replace(self, weight_decay=0.0, decays=None)


@dataclass(frozen=True, repr=False)
class Sgd(_CommonOptions):
    """Stochastic gradient descent in torch's form; see :func:`sgd`."""

    learning_rate: float | Schedule
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction("momentum", self.momentum)
        require_bool("nesterov", self.nesterov)
        if self.nesterov and not self.momentum:
            raise OptionError("`nesterov` needs a momentum above 0.")

    def slot_names(self) -> tuple[str, ...]:
        """The velocity, if there is momentum."""
        return ("velocity",) if self.momentum else ()

    def update(
        self, parameter: Tensor, gradient: Tensor, slots: Slots, scalars: Scalars
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step; see :func:`sgd`."""
        rate = scalars["learning_rate"]
        if not self.momentum:
            decayed = parameter * self.weight_decay if self.weight_decay else None
            gradient = gradient if decayed is None else gradient + decayed
            return parameter - gradient * rate, {}
        new, velocity = sgd_update(
            parameter,
            gradient,
            slots["velocity"],
            rate,
            momentum=float(self.momentum),
            weight_decay=float(self.weight_decay),
            nesterov=bool(self.nesterov),
        )
        return new, {"velocity": velocity}


def sgd(
    learning_rate: float | Schedule,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    decays: Decays | None = None,
    clip_norm: float | None = None,
) -> Sgd:
    """Stochastic gradient descent, with the numbers of ``torch.optim.SGD``.

    g += weight_decay * p; v = momentum * v + g; p -= learning_rate * v, or with Nesterov
    p -= learning_rate * (g + momentum * v). Keras and Caffe fold the learning rate into v, which
    differs once it changes.

    Args:
        learning_rate: A number, or a function of the step.
        momentum: In [0, 1).
        weight_decay: L2 penalty, at least 0.
        nesterov: Whether to look ahead.
        decays: Whether weight decay is applied to a parameter, by its dotted name; such as
            ``lambda name: name.endswith("weight")``. None: to all of them.
        clip_norm: The largest norm of all gradients together, see :func:`clip_by_global_norm`.
            With it no update can begin before the last gradient is there, which takes memory.
    """
    return Sgd(
        learning_rate,
        momentum,
        nesterov,
        weight_decay=weight_decay,
        decays=decays,
        clip_norm=clip_norm,
    )


@dataclass(frozen=True, repr=False)
class Adam(_CommonOptions):
    """Adam and AdamW; see :func:`adam` and :func:`adamw`."""

    learning_rate: float | Schedule
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decoupled: bool = False
    slots: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_bool("decoupled", self.decoupled)
        require_fraction("beta1", self.beta1)
        require_fraction("beta2", self.beta2)
        require_number("epsilon", self.epsilon)

    def scalars(self, step: int) -> dict[str, float]:
        """The learning rate and the two bias corrections 1 - beta^t, t = step + 1."""
        return {
            **super().scalars(step),
            "correction1": 1.0 - self.beta1 ** (step + 1),
            "correction2": 1.0 - self.beta2 ** (step + 1),
        }

    def update(
        self, parameter: Tensor, gradient: Tensor, slots: Slots, scalars: Scalars
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step; see :func:`adam`."""
        options: dict[str, Any] = {
            "beta1": float(self.beta1),
            "beta2": float(self.beta2),
            "epsilon": float(self.epsilon),
            "weight_decay": float(self.weight_decay),
            "decoupled": self.decoupled,
        }
        new, first, second = adam_update(
            parameter,
            gradient,
            slots["first_moment"],
            slots["second_moment"],
            scalars["learning_rate"],
            scalars["correction1"],
            scalars["correction2"],
            **options,
        )
        return new, {"first_moment": first, "second_moment": second}


def adam(
    learning_rate: float | Schedule = 1e-3,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    decays: Decays | None = None,
    clip_norm: float | None = None,
) -> Adam:
    """Adam (Kingma and Ba, 2015), with the numbers of ``torch.optim.Adam``.

    m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
    p -= learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon), where
    weight_decay * p was added to g. ``decays`` and ``clip_norm`` are those of :func:`sgd`.
    """
    return Adam(
        learning_rate,
        beta1,
        beta2,
        epsilon,
        False,
        weight_decay=weight_decay,
        decays=decays,
        clip_norm=clip_norm,
    )


def adamw(
    learning_rate: float | Schedule = 1e-3,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
    decays: Decays | None = None,
    clip_norm: float | None = None,
) -> Adam:
    """AdamW (Loshchilov and Hutter, 2019), with the numbers of ``torch.optim.AdamW``.

    Like :func:`adam`, but weight decay shrinks p by learning_rate * weight_decay instead of
    entering the gradient. ``decays`` and ``clip_norm`` are those of :func:`sgd`.
    """
    return Adam(
        learning_rate,
        beta1,
        beta2,
        epsilon,
        True,
        weight_decay=weight_decay,
        decays=decays,
        clip_norm=clip_norm,
    )
