"""BatchNorm on several devices: statistics of the whole batch, not of each device's share."""

import dataclasses
from typing import Any

import tensorflow as tf

from lottery_tf.graph.compat import keras, layer_classes
from lottery_tf.masks.wrapper import with_configs
from lottery_tf.tweaks.tweak import Tweak


@dataclasses.dataclass(frozen=True)
class SharedStatistics(Tweak):
    """Trains with Keras' ``BatchNormalization(synchronized=True)`` if there are several devices.

    So the number of devices changes only the order of sums in the training. On one device it does
    nothing, as Keras' fused kernels are faster, but work on one device only. For N values of a
    channel in a batch, fused kernels divide the moving variance by N - 1, the others by N.
    """

    def change(self, model: keras.Model, data: tf.data.Dataset | None = None) -> keras.Model:
        several = model.distribute_strategy.num_replicas_in_sync > 1
        return _synchronized(model, True) if several else model

    def restore(self, model: keras.Model) -> keras.Model:
        return _synchronized(model, False)


def _synchronized(model: keras.Model, wanted: bool) -> keras.Model:
    """``model``, or a copy with BatchNorm layers that are synchronized as ``wanted``."""

    def config(layer: keras.layers.Layer) -> dict[str, Any]:
        differs = (
            type(layer) in layer_classes("BatchNormalization") and layer.synchronized != wanted
        )
        return {"synchronized": wanted} if differs else {}

    return with_configs(model, config)
