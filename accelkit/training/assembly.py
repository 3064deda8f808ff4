"""From options to the parts of a run: data, model, optimizer, steps."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from accelkit import losses, metrics, models, nn, ops, optim, train
from accelkit.data import (
    EvaluationTransform,
    Loader,
    PackedSource,
    Resize,
    Source,
    TrainingTransform,
    Transform,
    finished,
    open_source,
)
from accelkit.data.images import Image
from accelkit.data.records import Array, image_of
from accelkit.device import device as find_device
from accelkit.errors import CorruptDataError, DataError, OptionError
from accelkit.tensor import Tensor

__all__ = [
    "Parts",
    "assemble",
    "build_model",
    "evaluation_parts",
    "normalisation",
    "require_same_classes",
]

_log = logging.getLogger("accelkit")

# Mean and deviation of ImageNet's RGB values in [0, 1], as torchvision has them.
_RGB_MEAN = (0.485, 0.456, 0.406)
_RGB_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class MeanOverCrops(nn.Module):
    """A classifier of several crops of each image: the mean of their probabilities.

    (N, crops, H, W, C) to the logarithm of the mean probability, (N, classes), as in the
    ten-crop evaluation of Krizhevsky et al., 2012, section 4.1.
    """

    model: nn.Module

    def forward(self, scope: nn.Scope, x: Tensor) -> Tensor:
        """Run the model on all crops and average."""
        count, crops, *shape = x.shape
        outputs = self.model.forward(scope, ops.reshape(x, (count * crops, *shape)))
        probabilities = ops.reshape(ops.softmax(outputs), (count, crops, -1))
        return ops.log(ops.mean(probabilities, axis=1))


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    model: models.Model
    step: train.TrainStep
    evaluation: train.EvalStep
    loader: Loader
    evaluation_loader: Loader | None
    schedule: optim.Schedule
    steps: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a batch of model inputs."""
        return (self.loader.plan.batch_size, *self.model.input_shape)


def assemble(options: argparse.Namespace) -> Parts:
    """Build everything that the options ask for, failing before anything is trained.

    Raises:
        AccelkitError: for whatever does not exist or does not fit.
    """
    find_device(options.device)  # before the data, which may take long to read
    source = open_source(options.data)
    model = build_model(options, source.classes)
    loader = Loader(
        source,
        batch_size=options.batch_size,
        transform=_training_transform(options.augment, source, model),
        seed=options.seed,
        partial=options.partial,
        on_corrupt=options.on_corrupt,
        workers=options.workers,
        threads=0 if options.workers else options.threads,
    )
    steps = len(loader) * options.epochs
    schedule = _schedule(options, model, steps)
    return Parts(
        model,
        *_steps(options, model, loader, schedule),
        loader,
        _evaluation_loader(options, source, model),
        schedule,
        steps,
    )


def _steps(
    options: argparse.Namespace, model: models.Model, loader: Loader, schedule: optim.Schedule
) -> tuple[train.TrainStep, train.EvalStep]:
    """The step that trains and the one that evaluates, of one loss and one normalisation."""
    common: dict[str, Any] = {
        "device": options.device,
        "metrics": _metrics(model.classes),
        "precision": options.precision,
    }
    normalise = normalisation(_channels(loader), model.input_shape[-1], options.precision)
    is_augmented = isinstance(loader.plan.transform, TrainingTransform)
    loss = losses.SoftmaxCrossEntropy()
    training = train.TrainStep(
        model.module,
        loss,
        _optimizer(options, schedule),
        accumulate=options.accumulate,
        memory_limit=options.memory_limit,
        preprocess=(lambda images: normalise(finished(images))) if is_augmented else normalise,
        **common,
    )
    averaged = options.ema_decay is not None
    evaluation = train.EvalStep(
        model.module, loss, preprocess=normalise, averaged=averaged, **common
    )
    return training, evaluation


def evaluation_parts(
    options: argparse.Namespace,
    source: Source,
    model: models.Model,
    crops: Literal[1, 10] = 1,
    *,
    averaged: bool = False,
) -> tuple[train.EvalStep, Loader]:
    """What ``python -m accelkit.evaluate`` needs."""
    loader = _loader_for_evaluation(options, source, model, crops)
    step = train.EvalStep(
        model.module if crops == 1 else MeanOverCrops(model.module),
        losses.SoftmaxCrossEntropy(),
        device=options.device,
        metrics=_metrics(model.classes),
        precision=options.precision,
        preprocess=normalisation(_channels(loader), model.input_shape[-1], options.precision),
        averaged=averaged,
    )
    return step, loader


def build_model(options: argparse.Namespace, classes: Sequence[str]) -> models.Model:
    """The model with as many classes as the training data name, or its own number.

    Raises:
        OptionError: for a model option that is not NAME=VALUE, or classes that do not fit.
    """
    given: dict[str, Any] = {"variant": options.variant, "image_size": options.image_size}
    for text in options.model_option:
        name, equals, value = text.partition("=")
        if not equals:
            raise OptionError(f"--model-option is {text!r}, expected NAME=VALUE.")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    count = len(classes)
    model = models.build(options.model, **{"classes": count or None, **given})
    if count > model.classes:
        raise OptionError(
            f"The data have {count} classes, the model {model.classes}. Leave out the model's "
            "option `classes` to take the data's."
        )
    return model


def normalisation(channels: int, model_channels: int, precision: str) -> Callable[[Tensor], Tensor]:
    """Pixels to what the model takes, inside of the compiled step.

    RGB is normalised by ImageNet's mean and deviation, other images to [-1, 1]. Grey images are
    repeated for a model of several channels.

    Raises:
        OptionError: if the channels of images and model do not fit.
    """
    if channels not in (1, model_channels):
        raise OptionError(f"The images have {channels} channels, the model takes {model_channels}.")
    dtype = "float64" if precision == "float64" else "float32"
    mean = np.array(_RGB_MEAN if channels == 3 else [0.5] * channels) * 255.0
    factor = 1.0 / (np.array(_RGB_DEVIATION if channels == 3 else [0.5] * channels) * 255.0)

    def preprocess(images: Tensor) -> Tensor:
        values = ops.astype(images, dtype)
        device = values.device
        shift = ops.asarray(mean.astype(dtype), device=device)
        scaled = (values - shift) * ops.asarray(factor.astype(dtype), device=device)
        if channels == model_channels:
            return scaled
        return ops.broadcast_to(scaled, (*images.shape[:-1], model_channels))

    return preprocess


def _channels(loader: Loader) -> int:
    shape, dtype, label_shape, label_dtype = loader.plan.form
    if len(shape) < 3 or dtype != np.uint8 or label_shape or label_dtype.kind != "i":
        raise DataError(
            f"Training needs images with class labels; {loader.plan.source!r} gives "
            f"{dtype}{list(shape)} with labels {label_dtype}{list(label_shape)}."
        )
    return shape[-1]


def _is_photographic(source: Source) -> bool:
    content, _ = _first_readable(source)
    return isinstance(content, bytes) or isinstance(source, PackedSource)


def _first_readable(source: Source) -> tuple[bytes | Array, Image]:
    """Content and image of the first sample that can be read; the loader decides about others.

    Raises:
        CorruptDataError: the last one's, if none of the first hundred can be.
    """
    count = min(100, len(source))
    for index in range(count):
        try:
            record = source[index]
            image = image_of(record)
            image.pixels()
        except CorruptDataError:
            if index == count - 1:
                raise
            continue
        return record.content, image
    raise DataError(f"{source!r} is empty.")


def _training_transform(augment: str, source: Source, model: models.Model) -> Transform | None:
    size = model.input_shape[0]
    _, image = _first_readable(source)
    if augment == "auto":
        augment = "random_resized" if _is_photographic(source) else "none"
    if augment == "none":
        return _plain_transform(source, model)
    noise = 0.1 if image.pixels().shape[-1] == 3 else 0.0
    crop: Literal["alexnet", "random_resized"]
    crop = "alexnet" if augment == "alexnet" else "random_resized"
    return TrainingTransform(
        size=size, crop=crop, resize=_larger(size), color_noise=noise, finish="step"
    )


def _plain_transform(source: Source, model: models.Model) -> Transform | None:
    height, width = model.input_shape[:2]
    _, image = _first_readable(source)
    if _is_photographic(source) or (image.height, image.width) != (height, width):
        return Resize(height, width)
    return None


def _larger(size: int) -> int:
    """The side that a crop of ``size`` is taken from: 256 for 224."""
    return round(size * 256 / 224)


def _evaluation_loader(
    options: argparse.Namespace, source: Source, model: models.Model
) -> Loader | None:
    if options.eval_data is not None:
        held_out = open_source(options.eval_data, split="test")
    else:
        try:
            held_out = open_source(options.data, split="test")
        except DataError:
            held_out = source
        if repr(held_out) == repr(source):
            if options.target_accuracy is not None:
                raise OptionError(
                    f"--target-accuracy is that of test data, and {options.data} has no test "
                    "part. Give one with --eval-data."
                )
            _log.warning(
                "%s has no test part: nothing is evaluated. Give one with --eval-data.",
                options.data,
            )
            return None
    require_same_classes(source.classes, held_out.classes)
    return _loader_for_evaluation(options, held_out, model, 1)


def require_same_classes(trained: Sequence[str], held_out: Sequence[str]) -> None:
    """Refuse to evaluate on classes other than those that were trained, where both are named.

    Raises:
        DataError: with the first classes of both.
    """
    if trained and held_out and held_out != trained:
        raise DataError(
            f"The evaluation data have the classes {held_out[:5]}..., the training data "
            f"{trained[:5]}...: the labels would not mean the same."
        )


def _loader_for_evaluation(
    options: argparse.Namespace, source: Source, model: models.Model, crops: Literal[1, 10]
) -> Loader:
    size = model.input_shape[0]
    transform = _plain_transform(source, model)
    if _is_photographic(source) or crops == 10:
        transform = EvaluationTransform(size=size, resize=_larger(size), crops=crops)
    return Loader(
        source,
        batch_size=min(options.batch_size, len(source)),
        transform=transform,
        shuffle=False,
        partial="pad",
        on_corrupt=options.on_corrupt,
        workers=options.workers,
        threads=0 if options.workers else options.threads,
    )


def _metrics(classes: int) -> list[metrics.Metric]:
    return [metrics.TopKAccuracy(1), *([metrics.TopKAccuracy(5)] if classes > 5 else [])]


def _schedule(options: argparse.Namespace, model: models.Model, steps: int) -> optim.Schedule:
    rate = model.learning_rate if options.learning_rate is None else options.learning_rate
    if options.warmup_steps > steps:
        _log.warning(
            "The learning rate rises for %d steps, the run has %d: it ends below --learning-rate.",
            options.warmup_steps,
            steps,
        )
    rest = max(1, steps - options.warmup_steps)
    schedule: optim.Schedule = optim.ConstantSchedule(rate)
    if options.schedule == "cosine":
        schedule = optim.CosineSchedule(rate, rest)
    elif options.schedule == "step":
        boundaries = sorted({max(1, round(share * rest)) for share in options.milestones})
        schedule = optim.StepSchedule(rate, boundaries, options.gamma)
    return optim.WarmUp(schedule, options.warmup_steps) if options.warmup_steps else schedule


def _optimizer(options: argparse.Namespace, schedule: optim.Schedule) -> optim.Optimizer:
    common = {"weight_decay": options.weight_decay, "clip_norm": options.clip_norm}
    optimizer: optim.Optimizer
    if options.optimizer == "sgd":
        momentum = {"momentum": options.momentum, "nesterov": options.nesterov}
        optimizer = optim.sgd(schedule, **momentum, **common)
    else:
        make = optim.adam if options.optimizer == "adam" else optim.adamw
        optimizer = make(schedule, **common)
    if options.ema_decay is None:
        return optimizer
    return optim.averaged(optimizer, options.ema_decay)
