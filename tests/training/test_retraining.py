"""The best weights of a retraining, and the rows of its epochs, by hand."""

import types

import numpy as np
import pytest
from networks import both_kerases, values
from small_trainers import small_trainer

from lottery_tf.training.checkpoints import Checkpoints
from lottery_tf.training.retraining import _Watch

ONE = "one/kernel"


def watching(trainer, path=None, has_dev=True, progress=()):
    """With the rows as they are told, and a recipe that is so far on at the ends of epochs."""
    ends, told = iter(progress), []
    recipe = types.SimpleNamespace(
        learned=lambda model: {"scales": 2}, progress=lambda model: next(ends, 1.0)
    )
    checkpoints = Checkpoints(path and path / "checkpoint")
    watch = _Watch(
        trainer, recipe, checkpoints, lambda rows: told.append(list(rows)), has_dev=has_dev
    )
    return watch, told


def trained(watch, accuracies):
    """Epochs that each add 1 to the weight; None for one that does not look at dev."""
    watch.trainer.model.set_weights([np.zeros((1, 1))])
    for epoch, accuracy in enumerate(accuracies):
        watch.trainer.model.set_weights([np.full((1, 1), epoch + 1.0)])
        looked = {} if accuracy is None else {"val_accuracy": np.float32(accuracy)}
        watch.on_epoch_end(epoch, {"loss": np.float32(0.5), **looked})
    return float(watch.best_values[ONE][0, 0])


@both_kerases
@pytest.mark.parametrize(
    ("accuracies", "progress", "best", "accuracy"),
    [
        ([0.5, 0.75, 0.75, 0.25], (), 2, 0.75),  # the first of equal ones
        ([0.25, None, 0.5, None], (), 3, 0.5),
        ([0.75, 0.5, 0.25], (0.5, 1.0, 1.0), 2, 0.5),  # it was not the finished model before
    ],
)
def test_the_best_is_the_first_of_the_highest_on_dev(
    accuracies, progress, best, accuracy, its_keras
):
    watch, _ = watching(small_trainer(its_keras=its_keras)[0], progress=progress)
    assert trained(watch, accuracies) == best and watch.best_accuracy == accuracy


def test_without_dev_the_last_is_the_best():
    watch, _ = watching(small_trainer()[0], has_dev=False)
    assert trained(watch, [None] * 3) == 3


def test_a_training_without_an_epoch_has_the_weights_it_began_with():
    trainer, _ = small_trainer()
    watch, _ = watching(trainer)
    np.testing.assert_array_equal(watch.best_values[ONE], values(trainer.model)[ONE])


def test_rows_are_told_after_each_epoch():
    trainer, _ = small_trainer()
    trainer.fit(4, last=False)
    watch, told = watching(trainer)
    trained(watch, [0.5, None])
    assert [len(rows) for rows in told] == [1, 2]
    for number, row in enumerate(watch.rows, start=1):
        assert row.pop("seconds") >= 0
        dev = {"dev_accuracy": 0.5} if number == 1 else {}
        rate = float(np.float32(1e-3))
        assert row == {"epoch": number, "step": 4, "loss": 0.5, "learning_rate": rate, **dev}


@both_kerases
def test_all_of_it_goes_on_from_a_checkpoint(its_keras, tmp_path):
    trainer, _ = small_trainer(its_keras=its_keras)
    watch, _ = watching(trainer, tmp_path)
    trained(watch, [0.5, 0.75, 0.25])
    watch.checkpoints.begin(50.0)
    watch.checkpoints.save(trainer, watch.state())

    other, _ = watching(small_trainer(its_keras=its_keras)[0], tmp_path)
    other.learned = {}
    batch = trainer.stream(0).take(1)
    other.restore(other.checkpoints.facts(), batch)
    assert (other.rows, other.best_accuracy, other.learned) == (watch.rows, 0.75, {"scales": 2})
    assert float(other.best_values[ONE][0, 0]) == 2
    assert values(other.trainer.model)[ONE] == 3
    assert other.checkpoints.seconds >= 50
