"""The zoo: ``create`` makes a model of the papers by its name.

All models are functional, uncompiled, and end in logits. To add one, write a function
``(input_shape, num_classes, width | None, keras) -> keras.Model`` with the layers of that Keras,
and add a line to ``BUILDERS``. Layer names are stable, as masks and tickets on disk use them.

>>> create("lenet_300_100", input_shape=(28, 28, 1), num_classes=10).count_params()
266610
"""

import functools
import importlib
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import nearest, one_of
from lottery_tf.models.settings import BUILDERS, KERASES, Builder, ModelSettings, check_at_least

if TYPE_CHECKING:
    from lottery_tf.graph.compat import keras as tf_keras

__all__ = ["BUILDERS", "ModelSettings", "create"]


def create(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    width: int | None = None,
    keras: str = ModelSettings.keras,
) -> "tf_keras.Model":
    """A new model of the zoo, its weights drawn from Keras's global seed.

    Args:
      name: one of ``BUILDERS``.
      input_shape: ``(H, W, C)`` of an image.
      num_classes: the number of logits.
      width: channels (or units) of the first stage; the other stages are multiples of it. None
        for the paper's.
      keras: "tf_keras" or "keras", which is Keras 3. Both models compute the same with the same
        weights, but their initial weights differ.

    Returns:
      an uncompiled functional model from images float32 ``[N, H, W, C]`` to logits
      ``[N, num_classes]``.

    Raises:
      UsageError: an unknown name, an image too small for the model, or a number out of range.
    """
    if name not in BUILDERS:
        raise UsageError(
            f"Expected the model {one_of(BUILDERS)}, not '{name}'{nearest(name, BUILDERS)}."
        )
    if len(input_shape) != 3 or not all(
        isinstance(n, numbers.Integral) and n > 0 for n in input_shape
    ):
        raise UsageError(
            f"{name} expects an input shape (height, width, channels) of three whole numbers "
            f"above 0, not {tuple(input_shape)}; give the shape of one image."
        )
    check_at_least("num_classes", num_classes, 2)
    if keras not in KERASES:
        raise UsageError(f"Expected `keras` to be {one_of(KERASES)}, not '{keras}'.")
    if width is not None:
        check_at_least("width", width, 1)
    builder = BUILDERS[name]
    if isinstance(builder, Builder):
        found = importlib.import_module(f"lottery_tf.models.{builder.module}")
        function = getattr(found, builder.function)
        builder = functools.partial(function, *builder.args, **builder.kwargs)
    if keras != ModelSettings.keras:  # a user's builder may take no `keras`
        from lottery_tf.graph import compat

        builder = functools.partial(builder, keras=compat.KERASES[keras])
    return builder(tuple(input_shape), num_classes, width)
