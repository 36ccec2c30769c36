"""Schedules that go on from a later step."""

import numpy as np
import pytest
from networks import both_kerases, chain

import lottery_tf as lt
from lottery_tf.common.errors import UsageError


@both_kerases
def test_a_training_of_ones_own_goes_on_at_a_step(its_keras):
    """Gradient 1 in each step: what SGD takes off is the sum of the rates."""
    boundaries = its_keras.optimizers.schedules.PiecewiseConstantDecay([3, 5], [1.0, 0.1, 0.01])
    model = chain(its_keras.layers.Dense(1, use_bias=False), shape=(1,))
    model.layers[-1].kernel.assign([[0.0]])
    optimizer = its_keras.optimizers.SGD(lt.from_step(boundaries, 2))
    model.compile(optimizer, loss=lambda y, output: output, run_eagerly=True)
    ones = np.ones((4, 1), np.float32)
    model.fit(ones, ones, batch_size=1, shuffle=False, verbose=0)
    # Steps 2 to 5; a boundary still has the rate before it.
    np.testing.assert_allclose(model.layers[-1].kernel.numpy(), [[-(1 + 1 + 0.1 + 0.1)]], rtol=1e-6)
    again = type(optimizer).from_config(optimizer.get_config())
    assert float(again.learning_rate) == 1.0


@both_kerases
def test_what_is_no_schedule_or_step_is_refused(its_keras):
    schedule = its_keras.optimizers.schedules.CosineDecay(0.1, 10)
    with pytest.raises(UsageError, match="a LearningRateSchedule of Keras.*not 0.1: a fixed"):
        lt.from_step(0.1, 2)
    for step in (-1, "2ep", 1.5, True):
        with pytest.raises(UsageError, match="a whole number from 0 on, not"):
            lt.from_step(schedule, step)
    assert float(lt.from_step(schedule, np.int64(5))(0)) == pytest.approx(0.05)
