"""Mixed precision: layers that compute in 16 bits, with weights in float32.

Tickets and finished models are in float32. The precision is put on a model for its training, last
of all, and taken off first, as a tweak is: so a ticket that was found in one precision is retrained
in any other, and an export knows nothing of it.
"""

import dataclasses
from typing import Any

import tensorflow as tf

from lottery_tf.common.settings import check_choices, setting
from lottery_tf.graph.compat import both, keras
from lottery_tf.graph.layers import calls, unwrapped
from lottery_tf.masks.wrapper import with_configs
from lottery_tf.training.settings import PRECISIONS
from lottery_tf.tweaks.tweak import Tweak


@dataclasses.dataclass(frozen=True)
class Precision(Tweak):
    """Trains in a precision and gives the model back in float32."""

    precision: str = setting("float32", "what the layers compute in", choices=PRECISIONS)

    def __post_init__(self) -> None:
        check_choices(self)

    def change(self, model: keras.Model, data: tf.data.Dataset | None = None) -> keras.Model:
        return in_precision(model, self.precision)

    def restore(self, model: keras.Model) -> keras.Model:
        return in_precision(model, "float32")


def in_precision(model: keras.Model, precision: str) -> keras.Model:
    """``model``, or a copy that computes in ``precision`` if it does not.

    Variables and masks stay float32, and so do the layers that make the outputs, for the sake of
    the loss. Layers with variables of another type, and layers of the user's own whose config says
    nothing of a dtype, stay as they are.

    Args:
      model: a Sequential or functional model; it may be wrapped.
      precision: the name of a Keras dtype policy: one of ``PRECISIONS``.
    """
    last = {id(unwrapped(call.layer)) for call in calls(model)[1]}

    def config(layer: keras.layers.Layer) -> dict[str, Any]:
        """What changes in the layer's config."""
        fixed = isinstance(layer, both("InputLayer")) or layer.variable_dtype != "float32"
        wanted = "float32" if id(layer) in last else precision
        if fixed or "dtype" not in layer.get_config() or layer.dtype_policy.name == wanted:
            return {}
        return {"dtype": wanted}

    return with_configs(model, config)
