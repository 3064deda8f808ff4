"""LeNet-5: LeCun, Bottou, Bengio, Haffner (1998), in its common modern reading."""

from __future__ import annotations

from accelkit import nn
from accelkit.arguments import require_integer
from accelkit.models import Model

__all__ = ["lenet5"]


def lenet5(*, classes: int = 10, image_size: int = 28, channels: int = 1) -> Model:
    """LeNet-5: 61,706 parameters for 28x28 grey images and 10 classes.

    Args:
        classes: Number of classes.
        image_size: Height and width; 28 is padded by 2, as the paper's 32 has the margin already.
        channels: Channels of the images.

    Raises:
        OptionError: for a number that is not positive.
    """
    require_integer("classes", classes)
    require_integer("image_size", image_size)
    require_integer("channels", channels)
    padding = 2 if image_size == 28 else 0
    module = nn.Sequential(
        conv1=nn.Conv2d(6, 5, padding=padding),
        tanh1=nn.Tanh(),
        pool1=nn.AvgPool2d(2),
        conv2=nn.Conv2d(16, 5),
        tanh2=nn.Tanh(),
        pool2=nn.AvgPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(120),
        tanh3=nn.Tanh(),
        fc2=nn.Linear(84),
        tanh4=nn.Tanh(),
        fc3=nn.Linear(classes),
    )
    return Model(module, "lenet5", (image_size, image_size, channels), classes)
