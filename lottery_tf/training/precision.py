"""Mixed precision: layers that compute in 16 bits, with weights in float32.

Tickets and finished models are in float32. A model gets the precision only for its training, like a
tweak that is put on last and taken off first. So a ticket that was found in one precision can be
retrained in any other, and exports are always in float32.
"""

import dataclasses
from typing import Any

import tensorflow as tf

from lottery_tf.common.settings import check_values, setting
from lottery_tf.graph.compat import keras, layer_classes
from lottery_tf.graph.layers import calls, unwrapped
from lottery_tf.masks.wrapper import with_configs
from lottery_tf.training.settings import PRECISIONS
from lottery_tf.tweaks.tweak import Tweak


@dataclasses.dataclass(frozen=True)
class Precision(Tweak):
    """Trains in a precision, and returns the model in float32."""

    precision: str = setting("float32", "the layers' precision in training", choices=PRECISIONS)

    def __post_init__(self) -> None:
        check_values(self)

    def change(self, model: keras.Model, data: tf.data.Dataset | None = None) -> keras.Model:
        return in_precision(model, self.precision)

    def restore(self, model: keras.Model) -> keras.Model:
        return in_precision(model, "float32")


def in_precision(model: keras.Model, precision: str) -> keras.Model:
    """``model``, or a copy that computes in ``precision`` if it does not.

    Variables and masks stay float32. So do the layers that make the outputs, for the loss. Layers
    with variables of another type stay as they are, and so do a user's own layers without a dtype
    in their config.

    Args:
      model: a Sequential or functional model; it may be wrapped.
      precision: the name of a Keras dtype policy: one of ``PRECISIONS``.
    """
    last = {id(unwrapped(call.layer)) for call in calls(model)[1]}

    def config(layer: keras.layers.Layer) -> dict[str, Any]:
        """The changes in the layer's config."""
        fixed = isinstance(layer, layer_classes("InputLayer")) or layer.variable_dtype != "float32"
        wanted = "float32" if id(layer) in last else precision
        if fixed or "dtype" not in layer.get_config() or layer.dtype_policy.name == wanted:
            return {}
        return {"dtype": wanted}

    return with_configs(model, config)
