"""The models by name, and which one, and how wide, as settings."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import check_choices, setting


class Builder(NamedTuple):
    """Where the function that builds a model is, and what it takes before and beside the shapes.

    It is imported when a model is made, since it needs Keras.
    """

    module: str
    function: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}


KERASES = ("tf_keras", "keras")
# Name → what builds it: a function (input_shape, num_classes, width | None, keras) → keras.Model.
BUILDERS: dict[str, Builder | Callable[..., Any]] = {
    "lenet_300_100": Builder("lenet", "lenet_300_100"),
    "conv4": Builder("conv4", "conv4"),
    **{f"chain{depth}": Builder("chain", "chain", (depth,)) for depth in (8, 12)},
    "resnet8_half": Builder("resnet", "cifar_resnet", (8,), {"halving_stem": True}),
    **{
        f"resnet{depth}": Builder("resnet", "cifar_resnet", (depth,))
        for depth in (20, 32, 44, 56, 110)
    },
    "resnet104": Builder("resnet", "bottleneck_resnet", (104,)),
    **{
        f"plain{depth}": Builder("resnet", "cifar_resnet", (depth,), {"residual": False})
        for depth in (14, 20, 32, 44, 56)
    },
    "resnet18": Builder("resnet", "resnet", (18,)),
    "resnet34": Builder("resnet", "resnet", (34,)),
    "vgg16": Builder("vgg", "vgg16"),
    "mobilenet": Builder("mobilenet", "mobilenet"),
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

    keras: str = setting(
        "tf_keras",
        "the Keras that the model is of, tf_keras, which is the faster one, or Keras 3",
        choices=KERASES,
    )

    def __post_init__(self) -> None:
        check_choices(self)
        if self.width is not None:
            check_at_least("width", self.width, 1)


def check_at_least(name: str, value: int, least: int) -> None:
    """Raises UsageError for a number below ``least``, given as ``name``."""
    if value < least:
        raise UsageError(
            f"`{name}` expects a whole number of at least {least}, not {value}; give a larger one."
        )
