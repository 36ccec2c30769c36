"""What is held back until the fades are over, in both Kerases."""

import numpy as np
import pytest
from networks import both_kerases, chain, examples, values

import lottery_tf as lt
from lottery_tf.common.errors import UsageError

STEPS, EPOCHS = 3, 4  # a fade over half of it is over at the end of epoch 2


@pytest.fixture(autouse=True)
def quickly(untraced):
    """Nothing is traced: what is counted is the same."""


def network(of):
    return chain(of.layers.Dense(6, "relu", name="hidden"), of.layers.Dense(3, name="head"))


def prepared(of, *tweaks):
    recipe = lt.Recipe([*tweaks])
    model = recipe.prepare(network(of))
    model.compile("sgd", recipe.loss(), metrics=["accuracy"], run_eagerly=True)
    return recipe, model


def fit(model, callbacks, epochs=EPOCHS, **kwargs):
    x, y = examples(12)
    model.fit(
        *(x, y),
        **{"batch_size": 4, "epochs": epochs, "verbose": 0, "callbacks": callbacks},
        **{"validation_data": (x, y), **kwargs},
    )


def noting(of):
    class Note(of.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.said, self.batches = [], 0

        def on_train_begin(self, logs=None):
            self.said.append("begin")

        def on_epoch_begin(self, epoch, logs=None):
            self.said.append(f"from {epoch}")

        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1

        def on_epoch_end(self, epoch, logs=None):
            assert {"val_accuracy", "loss"} <= logs.keys()
            self.said.append(f"to {epoch}")

        def on_train_end(self, logs=None):
            self.said.append("end")

    return Note()


@pytest.mark.long
@both_kerases
def test_it_is_told_of_the_epochs_after_the_fade(its_keras):
    recipe, model = prepared(its_keras, lt.SoftActivation(share=0.5), lt.LabelSmoothing())
    note = noting(its_keras)
    held = lt.AfterFades(note, recipe)
    fit(model, [held, *recipe.callbacks()])  # in whatever order
    begun = ["begin", "from 0", "from 1", "to 1", "from 2", "to 2", "from 3", "to 3", "end"]
    assert note.said == begun and note.batches == 2 * STEPS
    assert note.model is model and note.params["epochs"] == EPOCHS
    fit(model, [*recipe.callbacks(), held], epochs=1)  # the fades stay over
    assert note.said == [*begun, "begin", "from 0", "to 0", "end"]
    assert note.batches == 3 * STEPS


@pytest.mark.long
@both_kerases
def test_the_best_epoch_can_be_finished(its_keras, tmp_path):
    """Without it, the best of all epochs is one within the fade."""
    recipe, model = prepared(its_keras, lt.SoftActivation(share=0.5))
    path = str(tmp_path / "best.weights.h5")

    blind = {"validation_data": None}

    def save_first():
        return its_keras.callbacks.ModelCheckpoint(
            path, "first", mode="min", save_best_only=True, save_weights_only=True
        )

    class Count(its_keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["first"] = float(epoch)
            seen.append(values(self.model)["head/kernel"])

    seen = []
    fit(model, [Count(), *recipe.callbacks(), lt.AfterFades(save_first(), recipe)], **blind)
    model.load_weights(path)
    final = recipe.finish(model)
    np.testing.assert_array_equal(values(final)["head/kernel"], seen[1])

    recipe, model = prepared(its_keras, lt.SoftActivation(share=0.5))
    fit(model, [Count(), *recipe.callbacks(EPOCHS * STEPS), save_first()], epochs=1, **blind)
    model.load_weights(path)
    with pytest.raises(UsageError, match="give fit lt.AfterFades"):
        recipe.finish(model)


@both_kerases
def test_early_stopping_begins_to_wait_then(its_keras):
    recipe, model = prepared(its_keras, lt.SoftActivation(share=0.5))

    class Worse(its_keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["worse"] = float(epoch)

    stop = its_keras.callbacks.EarlyStopping("worse", mode="min", patience=1)
    fit(
        model,
        [Worse(), *recipe.callbacks(12 * STEPS // 2), lt.AfterFades(stop, recipe)],
        9,
        validation_data=None,
    )
    assert len(model.history.history["loss"]) == 4  # best in epoch 3, and one that is worse


@pytest.mark.long
@both_kerases
def test_without_a_fade_nothing_is_held(its_keras):
    for tweaks in ([lt.LabelSmoothing()], [lt.SoftActivation(keep=True)]):
        recipe, model = prepared(its_keras, *tweaks)
        note = noting(its_keras)
        fit(model, [*recipe.callbacks(), lt.AfterFades(note, recipe)], epochs=1)
        assert note.said == ["begin", "from 0", "to 0", "end"] and note.batches == STEPS


@both_kerases
def test_a_fade_that_does_not_end_is_told(its_keras, lines):
    recipe, model = prepared(its_keras, lt.SoftActivation(share=1.0))
    note = noting(its_keras)
    fit(model, [*recipe.callbacks(4 * STEPS), lt.AfterFades(note, recipe)], epochs=1)
    assert note.said == ["begin", "from 0", "end"]
    (line,) = [each for each in lines if "held back" in each]
    assert line.startswith("Note was held back to the end of fit") and "gone 25 % of" in line


@both_kerases
def test_recipes_that_are_not_in_fit_are_told_after_an_epoch(its_keras):
    recipe, model = prepared(its_keras, lt.SoftActivation())
    with pytest.raises(UsageError, match=r"by which SoftActivation fades; they are not there"):
        fit(model, [lt.AfterFades(noting(its_keras), recipe)])
    assert int(model.optimizer.iterations.numpy()) == STEPS


@both_kerases
def test_what_is_no_callback_or_recipe_is_refused(its_keras):
    recipe, _ = prepared(its_keras, lt.SoftActivation())
    with pytest.raises(UsageError, match="Expected a callback of Keras to hold back.*not 'best'"):
        lt.AfterFades("best", recipe)
    with pytest.raises(UsageError, match="Expected the lt.Recipe that has prepared.*not 'tost'"):
        lt.AfterFades(noting(its_keras), "tost")


def test_a_callback_of_the_other_keras_is_refused(of):
    import keras as keras3
    import tf_keras

    other = tf_keras if of is keras3 else keras3
    recipe, model = prepared(of, lt.SoftActivation())
    with pytest.raises(UsageError, match=f"Expected the callback of {of.__name__}"):
        fit(model, [*recipe.callbacks(), lt.AfterFades(other.callbacks.TerminateOnNaN(), recipe)])
