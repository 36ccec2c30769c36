"""BatchNorm over several devices has the statistics of the whole batch."""

import pytest
import tensorflow as tf
from networks import assert_same, chain, values

from lottery_tf.graph.compat import keras
from lottery_tf.training.batch_norm import SharedStatistics


def synchronized(model):
    return [layer.synchronized for layer in model.layers if hasattr(layer, "synchronized")]


@pytest.mark.parametrize("devices", [1, 2])
def test_it_is_put_on_for_several_devices_and_taken_off(devices):
    layers = keras.layers
    with tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)]).scope():
        model = chain(layers.Dense(3), layers.BatchNormalization(), layers.Dense(2))
        changed = SharedStatistics().change(model)
        assert synchronized(model) == [False] and synchronized(changed) == [devices > 1]
        assert (changed is model) == (devices == 1)
        restored = SharedStatistics().restore(changed)
    assert synchronized(restored) == [False]
    assert_same(values(restored), values(model))
