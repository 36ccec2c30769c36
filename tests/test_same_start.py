"""What conftest.py does for every test: they start alike, whatever ran before."""

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf

from lottery_tf.graph.compat import keras

drawn = []


@pytest.mark.parametrize("turn", range(3))
def test_every_test_draws_the_same_numbers(turn):
    """By kernels that count what they draw too, which conftest.py keeps where it can."""
    ones = tf.ones((1, 30))
    found = [
        *(tf.random.uniform([4]), tf.random.uniform([4], seed=1), np.random.random(4)),
        *(of.layers.Dropout(0.5)(ones, training=True) for of in (keras, keras3)),
        *(of.layers.Dense(3)(ones) for of in (keras, keras3)),
        next(iter(tf.data.Dataset.range(20).shuffle(20).batch(20))),
    ]
    drawn.append([np.asarray(each) for each in found])
    for first, now in zip(drawn[0], drawn[turn], strict=True):
        np.testing.assert_array_equal(now, first)
