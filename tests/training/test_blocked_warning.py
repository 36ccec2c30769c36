"""A ticket that no gradient reaches is told of before any training is spent."""

import dataclasses

import numpy as np
import pytest
from networks import assert_same, chain, layers

import lottery_tf as lt
from lottery_tf.data import DataSettings
from lottery_tf.graph.compat import keras
from lottery_tf.training import retraining
from lottery_tf.training.settings import TrainingSettings

DATA = lt.data.load(DataSettings(train_examples=64, batch_size=32))
TRAINING = TrainingSettings("1it", learning_rate=1e-3, jit_compile=False)


def ticket(*first, depth=8):
    """Layers of 64 units at 90 %, without a normalisation: of eight nothing comes out."""
    hidden = (
        layers.Dense(64, "relu", kernel_initializer="he_normal", name=f"hidden{i}")
        for i in range(depth)
    )
    stack = (*first, layers.Flatten(), *hidden, layers.Dense(10, name="head"))
    return lt.prune(chain(*stack, shape=(8, 8, 1)), "erk", 0.9)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("recipe", ["vanilla", "label_smoothing", "signal_scaling"])
def test_the_warning_and_its_absence(recipe, lines):
    order = []
    retraining.retrain(
        *(ticket(), lt.Recipe(recipe), DATA, TRAINING),
        on_prepared=lambda: order.append(len(lines)),
        on_epoch=lambda rows: order.append(len(lines)),
    )
    told = [line for line in lines if "gradient reaches" in line]
    if recipe == "signal_scaling":
        assert told == []
    else:
        (line,) = told
        assert line.startswith("No gradient reaches hidden") and line.endswith(
            "this ticket will not train as it is; signal_scaling would help."
        )
        prepared, trained = order
        assert lines.index(line) in range(prepared, trained)


@pytest.mark.usefixtures("all_eager")
def test_it_changes_nothing(monkeypatch):
    """Dropout draws the same numbers, and BatchNorm's moving statistics see each batch once."""
    norm = layers.BatchNormalization()
    one = ticket(layers.Dropout(0.5), norm, depth=1)

    def weights():
        keras.utils.set_random_seed(0)
        return retraining.retrain(one, lt.Recipe("soft_activation"), DATA, TRAINING).best

    with_it = weights()
    monkeypatch.setattr(retraining, "_warn_of_blocked", lambda *args: None)
    assert_same(with_it, weights())


@pytest.mark.usefixtures("untraced")
def test_data_that_do_not_fit_are_the_training_s_to_tell_of(lines):
    bad = dataclasses.replace(DATA.train, labels=np.full(64, 99, np.int32))
    with pytest.raises(lt.UsageError, match="classes of the model"):
        retraining.retrain(
            *(ticket(), lt.Recipe("vanilla"), dataclasses.replace(DATA, train=bad), TRAINING)
        )
    assert not [line for line in lines if "gradient reaches" in line]
