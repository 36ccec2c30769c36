"""What a trainer makes of a user's own models, losses and data, and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf
from networks import KERASES, both_kerases, chain, values
from small_trainers import small_trainer

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.schedules import schedule_of
from lottery_tf.training import trainer as module
from lottery_tf.training.trainer import Trainer, evaluate


def no_stream(start):
    raise AssertionError("nothing is to be trained")


def refused(model, of=keras, **options):
    with pytest.raises(UsageError) as error:
        Trainer(model, no_stream, 5, of.optimizers.SGD(0.1), "mse", **options)
    return str(error.value)


def test_xla_is_for_one_device():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = chain(keras.layers.Dense(1))
    assert refused(model, jit_compile=True).startswith(
        "Expected no `jit_compile=True` with 2 devices"
    )
    Trainer(model, no_stream, 5, keras.optimizers.SGD(0.1), "mse")
    assert not model.jit_compile


@both_kerases
def test_what_xla_has_no_kernel_for_is_told_before_the_training(its_keras, lines):
    def twice(x):
        return tf.ensure_shape(tf.numpy_function(lambda a: 2 * a, [x], tf.float32), (None, 4))

    layers = its_keras.layers
    model = chain(layers.Lambda(twice, output_shape=(4,)), layers.Dense(1))
    for asked, told in ((True, 0), (None, 1)):
        Trainer(model, no_stream, 5, its_keras.optimizers.SGD(0.1), "mse", jit_compile=asked)
        assert bool(model.jit_compile) == bool(asked)
        assert len(lines) == told
    assert "trained without XLA" in lines[0] and "for which it has no kernel" in lines[0]


def test_on_jax_keras_chooses_and_what_was_compiled_is_not_kept(monkeypatch):
    """With another number of steps it would be another function."""
    monkeypatch.setattr(module, "on_tensorflow", lambda model: False)
    given, compile_ = [], module._compile
    monkeypatch.setattr(module, "_compile", lambda *a, **k: given.append(k) or compile_(*a, **k))
    model = chain(keras3.layers.Conv2D(1, 1), shape=(2, 2, 1))
    for asked, chosen in ((None, "auto"), (True, True), (False, False)):
        optimizer = keras3.optimizers.SGD(0.1)
        trainer = Trainer(model, no_stream, 5, optimizer, "mse", jit_compile=asked)
        assert given[-1]["jit_compile"] is chosen
        model.train_function = "of before"
        trainer.reset()
        assert model.train_function is None


@both_kerases
def test_a_compile_that_takes_other_arguments_is_told_of(its_keras):
    class Own(its_keras.Sequential):
        def compile(self, optimizer, loss, speed):
            super().compile(optimizer, loss)

    model = Own([its_keras.Input((1,)), its_keras.layers.Dense(1)])
    message = refused(model, its_keras)
    assert message.startswith("Expected a model with a compile that takes the arguments of keras.")
    assert "that of Own does not (" in message


def test_a_step_that_leaves_the_metrics_alone_is_told_of():
    """Keras 3 has to have seen labels to tell of an epoch's metrics."""

    class Own(keras3.Sequential):
        def train_step(self, data):
            return {"own": keras3.ops.mean(self(data[0]))}

    model = Own([keras3.Input((1,)), keras3.layers.Dense(1)])
    data = tf.data.Dataset.from_tensors((np.ones((1, 1)), np.ones((1, 1)))).repeat()
    trainer = Trainer(model, lambda start: data, 5, keras3.optimizers.SGD(0.1), "mse")
    message = "a train_step that updates the compiled metrics; that of Own does not: give metrics"
    with pytest.raises(UsageError, match=message):
        trainer.fit(5)


@pytest.mark.long
@pytest.mark.parametrize("steps_per_execution", [1, 5])
@pytest.mark.parametrize("batches", [0, 4, 8])
@both_kerases
def test_data_that_end_too_early_are_told_of(batches, steps_per_execution, its_keras):
    """One batch before the end too, and in the second epoch."""
    trainer, seen = small_trainer(its_keras=its_keras, steps_per_execution=steps_per_execution)
    endless = trainer.stream
    trainer.stream = lambda start: endless(start).take(batches)
    stop = 5 if batches < 5 else 10
    with pytest.raises(UsageError, match=f"data for {stop} steps; they ended after ") as error:
        trainer.fit(stop)
    assert len(seen) == batches
    if its_keras is keras3 or steps_per_execution == 1:  # tf_keras counts whole executions
        assert f"after {batches}: give endless data" in str(error.value)


@both_kerases
def test_data_may_have_just_as_many_batches(its_keras):
    trainer, _ = small_trainer(its_keras=its_keras)
    endless = trainer.stream
    trainer.stream = lambda start: endless(start).take(5)
    trainer.fit(5)
    assert trainer.step == 5


@both_kerases
def test_a_callback_may_stop_it(its_keras):
    """That is no sign that the data ended."""

    class Stops(its_keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    trainer, _ = small_trainer(its_keras=its_keras, steps_per_execution=1)
    trainer.fit(5, [Stops()])
    assert trainer.step in (3, 5)


@both_kerases
def test_other_mistakes_are_not_taken_for_those_of_the_data(its_keras):
    class Fails(its_keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise ValueError("its own")

    trainer, _ = small_trainer(its_keras=its_keras)
    with pytest.raises(ValueError, match="its own"):
        trainer.fit(5, [Fails()])


@both_kerases
@pytest.mark.usefixtures("untraced")
def test_the_averages_come_in_at_the_end_alone(its_keras):
    """Of an optimizer that averages; a training that goes on has the weights themselves."""

    def trained(*stops):
        optimizer = its_keras.optimizers.SGD(1e-3, use_ema=True, ema_momentum=0.5)
        trainer, _ = small_trainer(its_keras=its_keras, optimizer=optimizer)
        trainer.model.set_weights([np.ones((1, 1))])
        trainer.reset()
        for stop, last in stops:
            trainer.fit(stop, **({} if last else {"last": False}))
        return float(values(trainer.model)["one/kernel"][0, 0])

    whole = trained((8, True))
    assert trained((5, False), (8, True)) == whole
    assert trained((8, False), (8, True)) == whole  # with nothing left to train
    assert trained((8, False)) != whole


@both_kerases
def test_a_step_is_counted_from_where_the_training_was_reset(its_keras):
    trainer, _ = small_trainer(its_keras=its_keras)
    assert (trainer.step, trainer.position) == (0, 0)
    trainer.reset(4)
    assert (trainer.step, trainer.position) == (4, 4)
    trainer.fit(6, last=False)
    trainer.reset()
    assert (trainer.step, trainer.position) == (0, 0)


@both_kerases
def test_the_learning_rate_is_that_of_the_optimizer(its_keras):
    """A number, or the schedule at the last step."""
    schedules = its_keras.optimizers.schedules
    trainer, _ = small_trainer(its_keras=its_keras, optimizer=its_keras.optimizers.SGD(0.25))
    assert trainer.learning_rate == 0.25
    schedule = schedules.PolynomialDecay(8.0, 8, 0.0)
    trainer, _ = small_trainer(its_keras=its_keras, optimizer=its_keras.optimizers.SGD(schedule))
    assert schedule_of(trainer.model.optimizer) is not None
    assert trainer.learning_rate == 8  # before the first
    trainer.fit(3)
    assert trainer.learning_rate == 6  # that of step 2


OUTPUTS = {"list": lambda a, b: [a, b], "names": lambda a, b: {"b": b, "a": a}}


@pytest.mark.parametrize("outputs", OUTPUTS)
@both_kerases
@pytest.mark.usefixtures("untraced")
def test_losses_weights_and_metrics_go_to_their_outputs(outputs, its_keras):
    """Squares of 2 and 4, and a weight of 10 for the second."""
    layers, inputs = its_keras.layers, its_keras.Input((1,))
    a, b = (layers.Dense(1, use_bias=False, name=name)(inputs) for name in "ab")
    model = its_keras.Model(inputs, OUTPUTS[outputs](a, b))
    for name, weight in (("a", 2.0), ("b", 4.0)):
        model.get_layer(name).set_weights([np.full((1, 1), weight)])
    labels = OUTPUTS[outputs](np.zeros((1, 1)), np.zeros((1, 1)))
    data = tf.data.Dataset.from_tensors(
        (np.ones((1, 1)), labels if outputs == "names" else tuple(labels))
    )
    weights = OUTPUTS[outputs](1.0, 10.0)
    for loss in ("mse", OUTPUTS[outputs]("mse", "mse")):
        if loss == "mse" and its_keras is KERASES["tf_keras"]:
            loss = OUTPUTS[outputs]("mse", "mse")
        Trainer(
            *(model, no_stream, 5, its_keras.optimizers.SGD(0.1), loss),
            metrics=["mae", its_keras.metrics.MeanSquaredError(name="squares")],
            loss_weights=weights,
        )
        found = evaluate(model, data)
        assert found["loss"] == 4 + 10 * 16
        told = {name: value for name, value in found.items() if "mae" in name or "squares" in name}
        assert told == {"a_mae": 2, "b_mae": 4, "a_squares": 4, "b_squares": 16}


def test_metrics_that_count_are_not_shared_by_outputs():
    """Nor is an object without a config copied, such as a function."""
    layers, inputs = keras3.layers, keras3.Input((1,))
    model = keras3.Model(inputs, [layers.Dense(1)(inputs), layers.Dense(1)(inputs)])

    def own(y, outputs):
        return keras3.ops.mean(outputs)

    Trainer(model, no_stream, 5, keras3.optimizers.SGD(0.1), "mse", metrics=[own])
    y = np.zeros((1, 1))
    assert len(evaluate(model, tf.data.Dataset.from_tensors((y, (y, y))))) >= 3
