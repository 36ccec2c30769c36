"""Checkpoints of a training: what they hold, and what goes on from them."""

import numpy as np
import pytest
import tensorflow as tf
from networks import assert_same, both_kerases, values
from small_trainers import small_trainer

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.training.checkpoints import Checkpoints, State
from lottery_tf.training.settings import CheckpointSettings

ONE = tf.data.Dataset.from_tensors((np.full((1, 1), 2.0, np.float32), np.zeros((1, 1))))


def read(path):
    found = Checkpoints(path / "checkpoint")
    return found, found.facts()


def saved_at(checkpoints, monkeypatch):
    """The positions at which one is made from now on."""
    positions, save = [], checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *a: positions.append(a[2]) or save(*a))
    return positions


@both_kerases
def test_a_training_goes_on_to_the_same_bits(its_keras, tmp_path):
    """Weights, momentum, learning rate, the place in the data; and what the training adds."""

    def begun():
        schedule = its_keras.optimizers.schedules.CosineDecay(1e-3, 20)
        optimizer = its_keras.optimizers.SGD(schedule, 0.9)
        return small_trainer(its_keras=its_keras, optimizer=optimizer)[0]

    first, other = begun(), begun()
    first.reset(3)
    first.fit(10, last=False)
    own = {"a/kernel": np.arange(3.0)}
    assert Checkpoints(tmp_path / "checkpoint").save(first, State({"round": 2}, {"best": own}))

    found, facts = read(tmp_path)
    assert facts.pop("seconds") > 0 and facts == {"round": 2, "position": 10}
    assert found.has("best") and not found.has("masks")
    assert_same(found.arrays("best"), own)
    found.restore(other)
    assert (other.step, other.position, other.learning_rate) == (10, 10, first.learning_rate)
    assert_same(other.optimizer_state(), first.optimizer_state())
    for trainer in (first, other):
        trainer.fit(18)
    assert_same(values(other.model), values(first.model))
    assert other.learning_rate == first.learning_rate
    assert not found.has("best")  # it is not held for ever


@both_kerases
def test_the_place_in_the_data_may_be_another_than_the_step(its_keras, tmp_path):
    """As with a scaled loss, whose steps that overflow are not counted."""
    trainer, _ = small_trainer(its_keras=its_keras)
    trainer.fit(4, last=False)
    trainer.position = 6
    Checkpoints(tmp_path / "checkpoint").save(trainer, State({}))
    Checkpoints(tmp_path / "given").save(trainer, State({}), position=5)
    for name, position in (("checkpoint", 6), ("given", 5)):
        found = Checkpoints(tmp_path / name)
        assert found.facts()["position"] == position
        other, seen = small_trainer(its_keras=its_keras)
        found.restore(other)
        assert (other.step, other.position) == (4, position)
        other.fit(position + 1)
        assert seen[0] == position


@both_kerases
def test_the_metrics_of_an_epoch_go_on_once(its_keras, tmp_path):
    trainer, _ = small_trainer(its_keras=its_keras)
    trainer.fit(5, last=False)
    counts = [np.array(7.0, np.float32), np.array(3.0, np.float32)]
    Checkpoints(tmp_path / "checkpoint").save(trainer, State({}), metrics=counts)
    for batch, expected in ((ONE, counts), (None, [])):
        found, _ = read(tmp_path)
        found.restore(small_trainer(its_keras=its_keras)[0], batch)
        assert [float(each) for each in found.restored_metrics()] == expected
        assert found.restored_metrics() == []


@both_kerases
def test_an_epoch_that_was_cut_short_has_the_loss_of_all_its_batches(its_keras, tmp_path):
    class Cut(its_keras.callbacks.Callback):
        def __init__(self, after=0):
            super().__init__()
            self.after, self.losses = after, []

        def on_train_batch_end(self, batch, logs=None):
            if batch + 1 == self.after:
                raise KeyboardInterrupt

        def on_epoch_end(self, epoch, logs=None):
            self.losses.append(float(logs["loss"]))

    def trained(callback, path=None):
        trainer, _ = small_trainer(its_keras=its_keras, steps_per_execution=1)
        trainer.model.set_weights([np.ones((1, 1))])
        kept = Checkpoints(path, CheckpointSettings("3it"))
        if kept.facts():
            kept.restore(trainer, ONE)
        kept.fit(trainer, 10, lambda: State({}), [callback], begun=0)
        return callback.losses

    whole = trained(Cut())
    assert whole[0] > 0
    with pytest.raises(KeyboardInterrupt):
        trained(Cut(4), tmp_path / "checkpoint")
    assert read(tmp_path)[1]["position"] == 3
    assert trained(Cut(), tmp_path / "checkpoint") == whole


def test_noise_goes_on(tmp_path):
    """A Dropout draws next what it would have drawn."""

    class Noisy(keras3.Sequential):
        def __init__(self, layers):
            super().__init__([*layers, keras3.layers.GaussianNoise(1.0, seed=3)])

    def drawn(trainer):
        return trainer.model(np.zeros((1, 1), np.float32), training=True).numpy()

    trainer, _ = small_trainer(its_keras=keras3, kind=Noisy)
    other, _ = small_trainer(its_keras=keras3, kind=Noisy)
    start = drawn(trainer)
    Checkpoints(tmp_path / "checkpoint").save(trainer, State({}))
    found, _ = read(tmp_path)
    found.restore(other)
    after = drawn(other)
    np.testing.assert_array_equal(after, drawn(trainer))
    assert (after != start).all()


@both_kerases
def test_it_is_written_unless_weights_are_not_finite(its_keras, tmp_path):
    trainer, _ = small_trainer(its_keras=its_keras)
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    assert checkpoints.save(trainer, State({"a": 1}))
    trainer.model.set_weights([np.full((1, 1), np.inf)])
    assert not checkpoints.save(trainer, State({"a": 2}))
    assert read(tmp_path)[1]["a"] == 1
    checkpoints.remove()
    assert not (tmp_path / "checkpoint").exists() and read(tmp_path)[1] is None


@pytest.mark.parametrize(
    ("every", "positions"),
    [("4it", [4, 8, 12]), ("1ep", [5, 10]), ("2ep", [10]), ("1it", [*range(1, 13)])],
)
@both_kerases
def test_one_comes_as_often_as_asked(every, positions, its_keras, tmp_path, monkeypatch):
    """The last of 12 steps ends its epoch of two; a second training counts on."""
    trainer, _ = small_trainer(its_keras=its_keras, steps_per_execution=1)
    checkpoints = Checkpoints(tmp_path / "checkpoint", CheckpointSettings(every))
    saved = saved_at(checkpoints, monkeypatch)
    checkpoints.fit(trainer, 12, lambda: State({}))
    assert saved == positions
    assert read(tmp_path)[1]["position"] == positions[-1]


def test_minutes_are_those_of_the_clock(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    checkpoints = Checkpoints(tmp_path / "checkpoint", CheckpointSettings("2min"))
    assert checkpoints.seconds == 0
    checkpoints.begin(30.0)
    now[0] += 5
    assert checkpoints.seconds == 35.0
    trainer, _ = small_trainer(its_keras=keras3, steps_per_execution=1)
    saved = saved_at(checkpoints, monkeypatch)

    def a_minute(batch, logs=None):
        now[0] += 60

    passing = keras3.callbacks.LambdaCallback(on_train_batch_end=a_minute)
    checkpoints.fit(trainer, 5, lambda: State({}), [passing])
    assert saved == [2, 4]
    assert read(tmp_path)[1]["seconds"] == 35.0 + 4 * 60


def test_without_a_folder_none_is_kept():
    trainer, _ = small_trainer(its_keras=keras3)
    checkpoints = Checkpoints()
    checkpoints.fit(trainer, 5, lambda: 1 / 0)
    assert trainer.step == 5
    assert not checkpoints.save(trainer, State({})) and checkpoints.facts() is None
    checkpoints.remove()


@both_kerases
def test_that_of_another_training_is_refused(its_keras, tmp_path):
    trainer, _ = small_trainer(its_keras=its_keras)
    Checkpoints(tmp_path / "checkpoint").save(trainer, State({}))
    other, _ = small_trainer(its_keras=its_keras, optimizer=its_keras.optimizers.Adam())
    found, _ = read(tmp_path)
    with pytest.raises(UsageError, match="Expected a checkpoint of this training in .*checkpoint"):
        found.restore(other)
