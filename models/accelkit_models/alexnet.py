"""AlexNet, in the form of the paper and in that of torchvision.

Krizhevsky, Sutskever, Hinton (2012), "ImageNet classification with deep convolutional neural
networks"; Krizhevsky (2014), "One weird trick for parallelizing convolutional neural networks".
"""

from __future__ import annotations

from accelkit import nn
from accelkit.arguments import require_integer, require_number
from accelkit.errors import UnknownNameError
from accelkit.models import Model

__all__ = ["alexnet"]

_UNIFORM = nn.VarianceScaling(1.0 / 3.0, "fan_in", "uniform")  # bound 1 / sqrt(fan_in)
_POOL = nn.MaxPool2d(3, strides=2)


def _channels(count: int, width: float) -> int:
    """A scaled channel count, even so that it can be split into two groups."""
    return max(2, 2 * round(count * width / 2))


def _paper(classes: int, image_size: int, width: float, init: str, dropout: float) -> nn.Module:
    """96-256-384-384-256 with two groups, response normalisation and overlapping pooling.

    The paper states 224x224 images, but its sizes need 227: conv1 is unpadded then. For 224 the
    padding is 2, which gives the same 55x55 result.
    """
    if init not in ("caffe", "paper"):
        raise UnknownNameError.of("init of alexnet 2012", init, ("caffe", "paper"))
    ones = nn.Constant(0.1 if init == "caffe" else 1.0)
    dense = nn.Normal(0.005 if init == "caffe" else 0.01)
    normal = nn.Normal(0.01)
    a, b, c, d, e, f = (_channels(n, width) for n in (96, 256, 384, 384, 256, 4096))
    padding = 2 if image_size == 224 else 0

    def conv(features: int, kernel: int, groups: int, bias: nn.Initializer) -> nn.Conv2d:
        return nn.Conv2d(
            features,
            kernel,
            padding=kernel // 2,
            groups=groups,
            weight_init=normal,
            bias_init=bias,
        )

    features = nn.Sequential(
        conv1=nn.Conv2d(a, 11, strides=4, padding=padding, weight_init=normal),
        relu1=nn.ReLU(),
        norm1=nn.LocalResponseNorm(),
        pool1=_POOL,
        conv2=conv(b, 5, 2, ones),
        relu2=nn.ReLU(),
        norm2=nn.LocalResponseNorm(),
        pool2=_POOL,
        conv3=conv(c, 3, 1, nn.zeros),
        relu3=nn.ReLU(),
        conv4=conv(d, 3, 2, ones),
        relu4=nn.ReLU(),
        conv5=conv(e, 3, 2, ones),
        relu5=nn.ReLU(),
        pool5=_POOL,
    )
    classifier = nn.Sequential(
        fc6=nn.Linear(f, weight_init=dense, bias_init=ones),
        relu6=nn.ReLU(),
        drop6=nn.Dropout(dropout),
        fc7=nn.Linear(f, weight_init=dense, bias_init=ones),
        relu7=nn.ReLU(),
        drop7=nn.Dropout(dropout),
        fc8=nn.Linear(classes, weight_init=normal),
    )
    return nn.Sequential(features=features, flatten=nn.Flatten(), classifier=classifier)


def _torchvision(classes: int, width: float, dropout: float) -> nn.Module:
    """64-192-384-256-256 without normalisation; parameters are named as in torchvision."""
    a, b, c, d, e, f = (_channels(n, width) for n in (64, 192, 384, 256, 256, 4096))

    def conv(features: int, kernel: int, strides: int, padding: int) -> nn.Conv2d:
        return nn.Conv2d(features, kernel, strides=strides, padding=padding, weight_init=_UNIFORM)

    features = nn.Sequential(
        conv(a, 11, 4, 2),
        nn.ReLU(),
        _POOL,
        conv(b, 5, 1, 2),
        nn.ReLU(),
        _POOL,
        conv(c, 3, 1, 1),
        nn.ReLU(),
        conv(d, 3, 1, 1),
        nn.ReLU(),
        conv(e, 3, 1, 1),
        nn.ReLU(),
        _POOL,
    )
    classifier = nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(f, weight_init=_UNIFORM),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(f, weight_init=_UNIFORM),
        nn.ReLU(),
        nn.Linear(classes, weight_init=_UNIFORM),
    )
    return nn.Sequential(
        features=features,
        avgpool=nn.AdaptiveAvgPool2d(6),
        flatten=nn.Flatten(),
        classifier=classifier,
    )


def alexnet(
    variant: str = "torchvision",
    *,
    classes: int = 1000,
    image_size: int | None = None,
    width: float = 1.0,
    init: str = "caffe",
    dropout: float = 0.5,
) -> Model:
    """AlexNet.

    Args:
        variant: ``"torchvision"`` (61,100,840 parameters, any image size from 63) or ``"2012"``
            (60,965,224 parameters; the image size decides the size of fc6).
        classes: Number of classes.
        image_size: Height and width; by default 224 for torchvision and 227 for 2012.
        width: Scales all channel counts but the classes.
        init: For 2012: ``"caffe"`` (fc6 and fc7 of deviation 0.005, biases 0.1: trains), or
            ``"paper"`` (0.01 throughout, biases 1: the loss stays flat or jumps). Weights of
            the torchvision variant are uniform in +-1/sqrt(fan_in), as torch draws them; its
            biases start at 0.
        dropout: Rate of both dropout layers.

    Raises:
        UnknownNameError: for an unknown variant or init.
        OptionError: for a width, size or number of classes that is not positive.
    """
    if variant not in alexnet.variants:  # type: ignore[attr-defined]
        raise UnknownNameError.of(
            "variant of alexnet",
            variant,
            alexnet.variants,  # type: ignore[attr-defined]
        )
    size = image_size if image_size is not None else (227 if variant == "2012" else 224)
    require_integer("classes", classes)
    require_integer("image_size", size)
    require_number("width", width, positive=True)
    if variant == "2012":
        module = _paper(classes, size, width, init, dropout)
    else:
        module = _torchvision(classes, width, dropout)
    return Model(module, f"alexnet-{variant}", (size, size, 3), classes)


alexnet.variants = ("torchvision", "2012")  # type: ignore[attr-defined]
