"""The models by name, and the choice of a model and its width as settings."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import check_values, setting


class Builder(NamedTuple):
    """The place of the function that builds a model, and its arguments beside the shapes.

    The function is imported when a model is made, as it needs Keras.
    """

    module: str
    function: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}


KERASES = ("tf_keras", "keras")
# Name → its builder, a function (input_shape, num_classes, width | None, keras) → keras.Model.
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
    """Which model, and how wide. ``model`` is None for the user's own model.

    Raises:
      UsageError: a value out of its range.
    """

    model: str | None = setting("lenet_300_100", "the model", choices=BUILDERS)
    width: int | None = setting(
        None, "channels (or units) of the first stage; by default the paper's"
    )

    keras: str = setting(
        "tf_keras",
        "the Keras of the model: tf_keras (the faster one), or keras, which is Keras 3",
        choices=KERASES,
    )

    def __post_init__(self) -> None:
        check_values(self)
        if self.width is not None:
            check_at_least("width", self.width, 1)


def check_at_least(name: str, value: int, least: int) -> None:
    """Raises UsageError for a number below ``least``, given as ``name``."""
    if value < least:
        raise UsageError(
            f"`{name}` expects a whole number of at least {least}, not {value}; give a larger one."
        )
