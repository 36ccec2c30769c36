"""A training that diverges or guesses is noticed; what only looks so is not."""

import numpy as np
import pytest
from networks import both_kerases

from lottery_tf.common.errors import WorkFailed
from lottery_tf.graph.compat import keras
from lottery_tf.training.trouble import Diverged, Guard, check_finite


def guarding(classes=4, of=keras, **options):
    """A guard of a model of two weights a class."""
    guard = Guard(**options)
    model = of.Sequential([of.Input((2,)), of.layers.Dense(classes, use_bias=False)])
    guard.set_model(model)
    return guard, model


@both_kerases
def test_weights_that_are_not_finite_end_it(its_keras):
    guard, model = guarding(of=its_keras, which="of round 2", epochs=4)
    guard.on_epoch_end(0, {"loss": 1.0})
    guard.on_epoch_end(1, {"loss": float("inf")})  # the weights are finite: a step left out
    model.weights[0].assign(np.full((2, 4), np.inf, np.float32))
    with pytest.raises(Diverged, match="of round 2 diverged in epoch 7: the loss is nan and") as e:
        guard.on_epoch_end(2, {"loss": float("nan")})
    assert e.value.epoch == 7 and isinstance(e.value, WorkFailed)


@pytest.mark.parametrize(
    ("accuracies", "classes", "told"),
    [
        ([0.25, 0.2, 0.27], 4, True),
        ([0.25, 0.25, 0.28], 4, False),
        ([0.25, 0.25], 4, False),
        ([0.3, 0.3, 0.3, 0.2], 4, False),
        ([0.5, 0.5, 0.5], 1, False),  # of a sigmoid nothing is known
    ],
)
def test_a_training_that_guesses_is_told_once(accuracies, classes, told, lines):
    """Of four classes that is up to 27.5 %."""
    guard, model = guarding(classes, which="by vanilla")
    for epoch, accuracy in enumerate(accuracies):
        guard.on_epoch_end(epoch, {"loss": 1.0, "accuracy": accuracy})
    expected = (
        f"{model.name}: the training by vanilla guesses: after 3 epochs its accuracy is "
        "27.0 %, with 4 classes. Is the learning rate too high, or does no signal pass?"
    )
    assert lines == ([expected] if told else [])


def test_whole_numbers_and_texts_are_finite():
    check_finite([np.array([1, 2]), np.array(["a"], object)], "of round 0")
