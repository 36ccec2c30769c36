"""The binary cross-entropy with soft labels: by hand, as Keras', and in both Kerases."""

import numpy as np
import pytest
import tensorflow as tf
from networks import KERASES, both_kerases, chain, examples

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.step_checks import step_checks
from lottery_tf.losses.binary_cross_entropy import binary_cross_entropy
from lottery_tf.losses.cross_entropy import taught_by
from lottery_tf.losses.from_keras import as_cross_entropy, changed, default_loss

ROWS = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32)
LOGITS = np.log(np.array([[3.0, 1.0], [1.0, 1 / 3], [1 / 7, 7.0]], np.float32))  # p/(1 − p)


@both_kerases
def test_the_formula_by_hand(its_keras):
    """Logits ln 3 and ln 1 are the probabilities ¾ and ½. With ε = 0.1 the labels (1, 0) are the
    targets (0.9, 0.1)."""
    loss = binary_cross_entropy(its_keras)(label_smoothing=0.1)
    first = -(0.9 * np.log(3 / 4) + 0.1 * np.log(1 / 4))
    wanted = (first + np.log(2)) / 2
    np.testing.assert_allclose(float(loss(ROWS[:1], LOGITS[:1])), wanted, rtol=1e-6)
    for labels in (np.array([1]), np.array([[1]]), np.array([True])):
        np.testing.assert_allclose(float(loss(labels, LOGITS[:1, :1])), first, rtol=1e-6)


@both_kerases
@pytest.mark.parametrize("from_logits", [True, False])
def test_without_soft_labels_it_is_keras_own(its_keras, from_logits):
    outputs = LOGITS if from_logits else 1 / (1 + np.exp(-LOGITS))
    theirs = its_keras.losses.BinaryCrossentropy(from_logits=from_logits)
    ours = as_cross_entropy(theirs)
    assert type(ours) is binary_cross_entropy(its_keras) and ours.from_logits == from_logits
    np.testing.assert_allclose(ours(ROWS, outputs), theirs(ROWS, outputs), rtol=1e-6)
    # ε of two classes is Keras' smoothing of twice that.
    smoothed = changed(theirs, "for a test", "it", label_smoothing=0.1)
    twice = its_keras.losses.BinaryCrossentropy(from_logits=from_logits, label_smoothing=0.2)
    np.testing.assert_allclose(smoothed(ROWS, outputs), twice(ROWS, outputs), rtol=1e-6)


@both_kerases
def test_distillation_by_hand(its_keras):
    """λ = ½, τ = 2. The teacher's logits 2 ln 3 are ln 3 at τ: p = ¾; the student's 0 are ½."""
    loss = binary_cross_entropy(its_keras)(distillation_weight=0.5, temperature=2.0)
    teacher, student = np.log([[9.0]]).astype("f"), np.zeros((1, 1), np.float32)
    divergence = 3 / 4 * np.log(3 / 2) + 1 / 4 * np.log(1 / 2)
    with taught_by(teacher):
        found = float(loss(np.array([[1.0]]), student))
    np.testing.assert_allclose(found, 0.5 * np.log(2) + 0.5 * 4 * divergence, rtol=1e-6)


@both_kerases
def test_of_the_teacher_itself_there_is_nothing_to_learn(its_keras):
    """Exactly, with logits of ±∞ too, as a teacher of probabilities 0 and 1 has."""
    loss = binary_cross_entropy(its_keras)(distillation_weight=1.0)
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape, taught_by(LOGITS):
        value = loss(ROWS, logits)
    assert float(value) == 0 and not np.any(tape.gradient(value, logits))
    with taught_by(np.array([[np.inf, -np.inf]], np.float32)):
        found = loss(np.ones((1, 2)), np.array([[0.0, 50.0]], np.float32))
    np.testing.assert_allclose(float(found), (np.log(2) + 50) / 2, rtol=1e-6)


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("units", [1, 3])
def test_a_ticket_is_trained_with_soft_labels(its_keras, units):
    """Recipe and Keras' own fit, from logits and from a sigmoid: the same, and a file keeps it."""
    x, y = examples(24)
    labels = y[:, None] == np.arange(units)
    dense = chain(its_keras.layers.Dense(units, "sigmoid", name="last"))
    dense.set_weights([np.linspace(-1, 1, 4 * units).reshape(4, units), np.zeros(units)])
    masks = {"last/kernel": np.arange(4 * units).reshape(4, units) % 2 == 0}
    found = []
    for activation in ("sigmoid", None):
        model = chain(its_keras.layers.Dense(units, activation, name="last"))
        ticket = lt.Ticket.of(model, lt.Masks(masks), {"method": "by hand", "model": "m"})
        ticket = ticket.with_weights(dict(zip(ticket.weights, dense.get_weights(), strict=True)))
        recipe = lt.Recipe([lt.LabelSmoothing(0.1), lt.Distillation(teacher=dense, weight=0.5)])
        loss = its_keras.losses.BinaryCrossentropy(from_logits=activation is None)
        prepared = recipe.prepare(ticket.build(), loss=loss)
        prepared.compile(its_keras.optimizers.SGD(0.5), recipe.loss())
        history = prepared.fit(
            x, labels, 8, 3, verbose=0, shuffle=False, callbacks=recipe.callbacks()
        )
        weights = recipe.finish(prepared).get_weights()
        assert not np.any(weights[0][~masks["last/kernel"]])
        found.append((np.array(history.history["loss"]), *weights))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert found[0][0][-1] < found[0][0][0]


@both_kerases
def test_the_default_for_sigmoids(its_keras):
    for units in (1, 3):
        loss = default_loss(chain(its_keras.layers.Dense(units, "sigmoid")))
        assert type(loss) is binary_cross_entropy(its_keras) and not loss.from_logits
    with pytest.raises(UsageError, match="an output of a single unit: pass the loss"):
        default_loss(chain(its_keras.layers.Dense(1)))


@both_kerases
def test_a_teacher_of_another_loss_is_refused(its_keras):
    x, y = examples(8)
    labels = np.eye(3, dtype=np.float32)[y]

    def trained(model_ends_in, teacher_ends_in, loss):
        model = chain(its_keras.layers.Dense(3, model_ends_in))
        teacher = chain(its_keras.layers.Dense(3, teacher_ends_in))
        recipe = lt.Recipe([lt.Distillation(teacher=teacher)])
        prepared = recipe.prepare(model, loss=loss)
        prepared.compile(its_keras.optimizers.SGD(0.5), recipe.loss())
        prepared.fit(x, labels, verbose=0, callbacks=recipe.callbacks())

    with pytest.raises(UsageError, match="for the cross entropy .* a probability of each class on"):
        trained("softmax", "sigmoid", "categorical_crossentropy")
    with pytest.raises(UsageError, match="for the binary cross entropy .* gives probabilities"):
        trained("sigmoid", "softmax", "binary_crossentropy")


@both_kerases
def test_labels_that_do_not_fit(its_keras):
    model = chain(its_keras.layers.Dense(2))
    model.compile(its_keras.optimizers.SGD(0.5), binary_cross_entropy(its_keras)())
    x, _ = examples(8)
    words = "labels from 0 to 1 for the binary cross-entropy.*from -1 to 1"
    with pytest.raises(UsageError, match=words), step_checks():
        model.train_on_batch(x, np.tile([-1.0, 1.0], (8, 1)))
    for shape in [(8, 3), (8,), (8, 1)]:
        with pytest.raises(UsageError, match=r"labels of shape \(.*, 2\), a number in \[0, 1\]"):
            binary_cross_entropy(its_keras)().call(np.zeros(shape), np.zeros((8, 2), np.float32))


def test_both_kerases_train_alike(tmp_path):
    x, y = examples(24)
    labels, found = (y[:, None] == np.arange(2)).astype(int), []
    for its_keras in KERASES.values():
        model = chain(its_keras.layers.Dense(2))
        model.set_weights([np.linspace(-1, 1, 8).reshape(4, 2), np.zeros(2)])
        loss = binary_cross_entropy(its_keras)(label_smoothing=0.2)
        model.compile(its_keras.optimizers.SGD(0.5), loss)
        history = model.fit(x, labels, 8, 2, verbose=0, shuffle=False, validation_data=(x, labels))
        model.save(tmp_path / "model.keras")
        again = its_keras.models.load_model(tmp_path / "model.keras")
        assert again.loss.get_config() == loss.get_config()
        plain = binary_cross_entropy(its_keras)()(labels, model(x))
        np.testing.assert_allclose(history.history["val_loss"][-1], plain, rtol=1e-5)
        found.append([*history.history["loss"], *history.history["val_loss"]])
    np.testing.assert_allclose(*found, rtol=1e-5)


@both_kerases
def test_a_teacher_of_unknown_kind_is_refused(its_keras):
    """Of few probabilities the numbers do not tell that they are no logits."""

    class Subclassed(its_keras.Model):
        def __init__(self):
            super().__init__()
            self.last = its_keras.layers.Dense(1, activation="sigmoid")

        def call(self, x):
            return self.last(x)

    x, y = examples(8)
    teacher = Subclassed()
    teacher(x)
    recipe = lt.Recipe([lt.Distillation(teacher=teacher)])
    model = recipe.prepare(chain(its_keras.layers.Dense(1, "sigmoid")))
    model.compile(its_keras.optimizers.SGD(0.5), recipe.loss())
    with pytest.raises(UsageError, match="binary cross entropy .* neither logits nor a softmax"):
        model.fit(x, y > 0, verbose=0, callbacks=recipe.callbacks())
