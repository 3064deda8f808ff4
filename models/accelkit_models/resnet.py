"""ResNet-18: He, Zhang, Ren, Sun (2015), "Deep residual learning for image recognition"."""

from __future__ import annotations

from accelkit import nn
from accelkit.arguments import require_integer, require_number
from accelkit.models import Model

__all__ = ["resnet18"]

_HE = nn.VarianceScaling(2.0, "fan_out", "normal")


def _conv(features: int, kernel: int, strides: int) -> nn.Conv2d:
    return nn.Conv2d(
        features, kernel, strides=strides, padding=kernel // 2, bias=False, weight_init=_HE
    )


def _block(features: int, strides: int, *, project: bool) -> nn.Module:
    """Two 3x3 convolutions beside the identity, or beside a projection where the shape changes."""
    body = nn.Sequential(
        conv1=_conv(features, 3, strides),
        norm1=nn.BatchNorm(),
        relu=nn.ReLU(),
        conv2=_conv(features, 3, 1),
        norm2=nn.BatchNorm(),
    )
    shortcut = nn.Sequential(conv=_conv(features, 1, strides), norm=nn.BatchNorm())
    return nn.Sequential(sum=nn.Residual(body, shortcut if project else None), relu=nn.ReLU())


def resnet18(*, classes: int = 1000, image_size: int = 224, width: float = 1.0) -> Model:
    """ResNet-18: 11,689,512 parameters for 1000 classes, any image size.

    Args:
        classes: Number of classes.
        image_size: Height and width of the images.
        width: Scales all channel counts but the classes.

    Raises:
        OptionError: for a number that is not positive.
    """
    require_integer("classes", classes)
    require_integer("image_size", image_size)
    require_number("width", width, positive=True)
    first = max(1, round(64 * width))
    stages: dict[str, nn.Module] = {}
    for index, factor in enumerate((1, 2, 4, 8)):
        strides = 1 if index == 0 else 2
        stages[f"stage{index + 1}"] = nn.Sequential(
            _block(first * factor, strides, project=index > 0),
            _block(first * factor, 1, project=False),
        )
    module = nn.Sequential(
        conv1=_conv(first, 7, 2),
        norm1=nn.BatchNorm(),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(3, strides=2, padding=1),
        **stages,
        mean=nn.GlobalAvgPool2d(),
        fc=nn.Linear(classes),
    )
    return Model(module, "resnet18", (image_size, image_size, 3), classes, learning_rate=0.1)
