"""The zoo: ``create`` makes a model of the papers by its name.

All models are functional, uncompiled, and end in logits. A new one is a function
``(input_shape, num_classes, width | None) -> keras.Model`` and one line in ``BUILDERS``. Layer
names are stable: masks and tickets on disk go by them.

>>> create("lenet_300_100", input_shape=(28, 28, 1), num_classes=10).count_params()
266610
"""

import dataclasses
import functools
import numbers
from collections.abc import Callable, Sequence

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import check_choices, nearest, one_of, setting
from lottery_tf.graph.compat import keras
from lottery_tf.models import conv4, lenet, mobilenet, resnet, vgg

__all__ = ["BUILDERS", "ModelSettings", "create"]

BUILDERS: dict[str, Callable[[Sequence[int], int, int | None], keras.Model]] = {
    "lenet_300_100": lenet.lenet_300_100,
    "conv4": conv4.conv4,
    "resnet8_half": functools.partial(resnet.cifar_resnet, 8, halving_stem=True),
    **{
        f"resnet{depth}": functools.partial(resnet.cifar_resnet, depth)
        for depth in (20, 32, 44, 56, 104, 110)
    },
    **{
        f"plain{depth}": functools.partial(resnet.cifar_resnet, depth, residual=False)
        for depth in (14, 20, 32, 44, 56)
    },
    "resnet18": functools.partial(resnet.resnet, 18),
    "resnet34": functools.partial(resnet.resnet, 34),
    "vgg16": vgg.vgg16,
    "mobilenet": mobilenet.mobilenet,
}


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Which model, and how wide. None stands for one that is not of the zoo.

    Raises:
      UsageError: a value out of its range.
    """

    model: str | None = setting("lenet_300_100", "the model", choices=BUILDERS)
    width: int | None = setting(
        None, "channels (or units) of the first stage; the paper's where not given"
    )

    def __post_init__(self):
        check_choices(self)
        if self.width is not None:
            _check_at_least("--width", self.width, 1)


def create(
    name: str, input_shape: Sequence[int], num_classes: int, width: int | None = None
) -> keras.Model:
    """A new model of the zoo, its weights drawn from Keras's global seed.

    Args:
      name: one of ``BUILDERS``.
      input_shape: ``(H, W, C)`` of an image.
      num_classes: the number of logits.
      width: channels (or units) of the first stage, which the others are multiples of; None for
        the paper's.

    Returns:
      an uncompiled functional model from images float32 ``[N, H, W, C]`` to logits
      ``[N, num_classes]``.

    Raises:
      UsageError: an unknown name, an image too small for the model, or a number out of range.
    """
    if name not in BUILDERS:
        raise UsageError(
            f"There are the models {one_of(BUILDERS)}, and no '{name}'{nearest(name, BUILDERS)}."
        )
    if len(input_shape) != 3 or not all(
        isinstance(n, numbers.Integral) and n > 0 for n in input_shape
    ):
        raise UsageError(
            f"{name} expects an input shape (height, width, channels) of three whole numbers "
            f"above 0, not {tuple(input_shape)}; give the shape of one image."
        )
    _check_at_least("num_classes", num_classes, 2)
    if width is not None:
        _check_at_least("width", width, 1)
    return BUILDERS[name](tuple(input_shape), num_classes, width)


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(
            f"{name} expects a whole number of at least {least}, not {value}; give a larger one."
        )
