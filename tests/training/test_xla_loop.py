"""The loop inside XLA does what Keras' own loop does."""

import numpy as np
import pytest
import tensorflow as tf

from lottery_tf.graph.compat import keras
from lottery_tf.training import xla_loop
from lottery_tf.training.xla_loop import steps_in_one_loop


def batches(drop_remainder):
    random = np.random.default_rng(0)
    x = random.standard_normal((46, 8)).astype(np.float32)
    y = random.integers(0, 3, 46)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(4, drop_remainder=drop_remainder)


def trained(in_one_loop, drop_remainder):
    """Weights, optimizer state and every log of two epochs of 21 steps, 8 an execution.

    Of a small network, for nearly all the time is XLA's compiler's.
    """
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )
    model.compile(
        keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(0.01, 50), global_clipnorm=0.5
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=True,
        steps_per_execution=8,
    )
    if in_one_loop:
        steps_in_one_loop(model)
    logs = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda step, each: logs.append((step, dict(each))),
        on_epoch_end=lambda epoch, each: logs.append((epoch, dict(each))),
    )
    model.fit(
        batches(drop_remainder).repeat(),
        epochs=2,
        steps_per_epoch=21,
        callbacks=[watch],
        validation_data=batches(drop_remainder),
        verbose=0,
    )
    variables = [*model.variables, *model.optimizer.variables, model._train_counter]
    return [variable.numpy() for variable in variables], logs


@pytest.mark.parametrize(
    "drop_remainder", [True, pytest.param(False, marks=pytest.mark.e2e)], ids=["static", "dynamic"]
)
def test_weights_state_and_logs_are_those_of_keras(drop_remainder, monkeypatch):
    graphs, count = set(), xla_loop.count_steps
    monkeypatch.setattr(
        xla_loop,
        "count_steps",
        lambda *args: graphs.add(tf.compat.v1.get_default_graph()) or count(*args),
    )
    one, one_logs = trained(True, drop_remainder)
    assert drop_remainder == any(isinstance(each, tf.__internal__.FuncGraph) for each in graphs)
    other, other_logs = trained(False, drop_remainder)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert one_logs == other_logs
