"""The cross-entropy as a loss of each Keras."""

import numpy as np
import pytest
from networks import KERASES, both_kerases, chain, examples

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.step_checks import step_checks
from lottery_tf.losses.cross_entropy import cross_entropy
from lottery_tf.losses.from_keras import as_cross_entropy, changed


def model_of(its_keras, loss):
    model = chain(its_keras.layers.Dense(3))
    model.set_weights([np.linspace(-1, 1, 12).reshape(4, 3), np.zeros(3)])
    model.compile(its_keras.optimizers.SGD(0.5), loss)
    return model


@both_kerases
def test_the_formula_by_hand(its_keras):
    """Logits ln 1, ln 2, ln 5 are the probabilities ⅛, ¼, ⅝; with ε = ½ the target of class 2 is
    (¼, ¼, ½)."""
    loss = cross_entropy(its_keras)(label_smoothing=0.5)
    logits = np.log([[1.0, 2.0, 5.0]])
    wanted = -(0.25 * np.log(1 / 8) + 0.25 * np.log(1 / 4) + 0.5 * np.log(5 / 8))
    for labels in ([2], [[2]], [[0.0, 0.0, 1.0]]):
        np.testing.assert_allclose(float(loss(np.array(labels), logits)), wanted, rtol=1e-6)


def test_both_kerases_train_and_evaluate_by_the_same_loss(tmp_path):
    """The training is smoothed, the evaluation plain; after the way through a file too."""
    x, y = examples()
    found = []
    for its_keras in KERASES.values():
        loss = cross_entropy(its_keras)(label_smoothing=0.3)
        model = model_of(its_keras, loss)
        plain = model_of(its_keras, cross_entropy(its_keras)())
        smoothed = float(loss(y, model(x)))
        np.testing.assert_allclose(
            model.evaluate(x, y, verbose=0), plain.evaluate(x, y, verbose=0), rtol=1e-6
        )
        history = model.fit(x, y, batch_size=12, epochs=3, verbose=0, validation_data=(x, y))
        np.testing.assert_allclose(history.history["loss"][0], smoothed, rtol=1e-5)
        model.save(tmp_path / "model.keras")
        again = its_keras.models.load_model(tmp_path / "model.keras")
        assert again.loss.get_config() == loss.get_config()
        evaluated = again.evaluate(x, y, verbose=0)
        np.testing.assert_allclose(history.history["val_loss"][-1], evaluated, rtol=1e-5)
        found.append([*history.history["loss"], *history.history["val_loss"]])
    np.testing.assert_allclose(*found, rtol=1e-5)


@both_kerases
def test_labels_that_are_no_classes(its_keras):
    model = model_of(its_keras, cross_entropy(its_keras)(label_smoothing=0.3))
    x, y = examples()
    with pytest.raises(UsageError, match="whole numbers from 0 to 2"), step_checks():
        model.train_on_batch(x, y + 3)


@both_kerases
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("kind", ["Sparse", ""])
def test_the_loss_stays_one_of_its_keras(its_keras, from_logits, kind):
    theirs = getattr(its_keras.losses, f"{kind}CategoricalCrossentropy")(from_logits=from_logits)
    ours = changed(theirs, "for a test", "it", label_smoothing=0.1)
    assert type(ours) is cross_entropy(its_keras)
    assert isinstance(ours, its_keras.losses.Loss)
    assert (ours.from_logits, ours.label_smoothing) == (from_logits, 0.1)
    named = its_keras.losses.sparse_categorical_crossentropy
    assert type(as_cross_entropy(named)) is cross_entropy(its_keras)


@both_kerases
def test_a_name_or_none_is_of_the_keras_that_is_said(its_keras):
    for given in (None, "categorical_crossentropy", "sparse_categorical_crossentropy"):
        ours = changed(given, "for a test", "it", its_keras)
        assert type(ours) is cross_entropy(its_keras)
        assert ours.from_logits == (given is None)
