"""Label smoothing: the paper's formula, in training only."""

import numpy as np
import pytest
import tensorflow as tf
from networks import chain, examples, layers

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.losses.cross_entropy import CrossEntropy, cross_entropy
from lottery_tf.losses.from_keras import as_cross_entropy
from lottery_tf.losses.labels import checked_labels

losses = keras.losses
LOGITS = np.log(np.array([[1, 2, 1, 4], [4, 1, 2, 1]], np.float32))  # softmax: eighths
LABELS = np.array([3, 1])
ONE_HOT = np.eye(4, dtype=np.float32)[LABELS]


def test_the_formula_by_hand():
    """C = 4, ε = 0.3: the target is 0.7 on the true class, 0.1 on each other one.

    p = (1, 2, 1, 4)/8, true class 3: −log p = log 8 − (0, 1, 0, 2) log 2, which is (3, 2, 3, 1)
    log 2; the loss is 0.1·(3 + 2 + 3) + 0.7·1 = 1.5 log 2. The other, p = (4, 1, 2, 1)/8, true
    class 1: 0.1·(1 + 2 + 3) + 0.7·3 = 2.7 log 2.
    """
    loss = CrossEntropy(label_smoothing=0.3, reduction="none")
    np.testing.assert_allclose(loss(LABELS, LOGITS), np.log(2) * np.array([1.5, 2.7]), rtol=1e-6)
    plain = CrossEntropy(reduction="none")
    np.testing.assert_allclose(plain(LABELS, LOGITS), np.log(2) * np.array([1, 3]), rtol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.6])
def test_keras_has_it_as_epsilon_c_over_c_minus_1(epsilon):
    """TRAP 12."""
    theirs = losses.CategoricalCrossentropy(True, label_smoothing=epsilon * 4 / 3)
    ours = CrossEntropy(label_smoothing=epsilon)
    np.testing.assert_allclose(ours(ONE_HOT, LOGITS), theirs(ONE_HOT, LOGITS), rtol=1e-6)
    assert epsilon == 0 or ours(ONE_HOT, LOGITS) != losses.CategoricalCrossentropy(
        True, label_smoothing=epsilon
    )(ONE_HOT, LOGITS)


@pytest.mark.parametrize(
    ("from_logits", "epsilon"),
    [
        (True, 0.1),
        (False, 0.0),
        *(pytest.param(*case, marks=pytest.mark.e2e) for case in [(True, 0.0), (False, 0.1)]),
    ],
)
@pytest.mark.parametrize(
    "labels",
    [LABELS, LABELS[:, None], LABELS.astype(np.float32), LABELS.astype(np.uint8), ONE_HOT],
    ids=["integers", "column", "float", "uint8", "one-hot"],
)
def test_labels_in_any_form(labels, from_logits, epsilon):
    loss = CrossEntropy(from_logits, label_smoothing=epsilon)
    outputs = LOGITS if from_logits else tf.nn.softmax(LOGITS)
    expected = CrossEntropy(label_smoothing=epsilon)(LABELS, LOGITS)
    for call in (loss, tf.function(loss)):
        np.testing.assert_allclose(call(labels, outputs), expected, rtol=1e-5)


BAD_LABELS = {
    "from 1": [1, 2, 3, 4],
    "negative": [0, -1, 2, 3],
    "fractions": [0.0, 0.5, 1.0, 3.0],
    "unsigned": np.array([0, 255, 1, 2], np.uint8),
    "column": [[0], [1], [2], [4]],
}
FORMS = {
    "plain": CrossEntropy(),
    "smoothed": CrossEntropy(label_smoothing=0.1),
    "probabilities": CrossEntropy(from_logits=False),
}


@pytest.mark.parametrize("labels", BAD_LABELS)
@pytest.mark.parametrize("form", FORMS)
def test_labels_that_are_no_classes_are_one_sentence(labels, form):
    loss, y, outputs = FORMS[form], tf.constant(BAD_LABELS[labels]), tf.fill([4, 4], 0.25)
    words = r"Expected labels .* whole numbers from 0 to 3; .* has labels from\W"
    with pytest.raises(UsageError, match=words):
        loss(y, outputs)
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        tf.function(loss)(y, outputs)


@pytest.mark.parametrize("form", FORMS)
def test_where_xla_leaves_assertions_out_the_loss_is_not_a_number(form):
    outputs = tf.fill([4, 4], 0.25)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        value = tf.function(FORMS[form], jit_compile=True)(BAD_LABELS["from 1"], outputs)
    assert np.isnan(value) and np.isnan(tape.gradient(value, outputs)).all()


@pytest.mark.parametrize(
    ("dtype", "classes"),
    [("uint8", 256), ("int8", 128), ("bool", 2), ("int8", 200), ("float16", 5)],
)
@pytest.mark.parametrize("form", [pytest.param("plain", marks=pytest.mark.e2e), "smoothed"])
def test_labels_of_any_dtype_may_be_any_class(dtype, classes, form):
    """A dtype of few bits need not have the number of the classes."""
    last = min(classes, 128 if dtype == "int8" else classes) - 1
    y = tf.cast([0, last], dtype)
    for call in (FORMS[form], tf.function(FORMS[form])):
        assert np.isfinite(call(y, tf.random.normal([2, classes])))
    data = tf.data.Dataset.from_tensors((tf.ones([2, 4]), y))
    assert len(list(checked_labels(data, chain(layers.Dense(classes)), FORMS[form]))) == 1


def test_rows_of_another_width_are_refused():
    with pytest.raises(UsageError, match="as rows of 4, the model's classes; got rows of 5"):
        CrossEntropy()(tf.eye(5), tf.ones([5, 4]))


SPARSE = "sparse_categorical_crossentropy"


@pytest.mark.parametrize(
    ("form", "loss"),
    [
        *[("tuple", SPARSE), ("dict", CrossEntropy())],
        *[("tuple", [SPARSE, CrossEntropy()]), ("dict", {"b": SPARSE, "a": "mse"})],
        *(
            pytest.param(*case, marks=pytest.mark.e2e)
            for case in [
                *[("dict", SPARSE), ("tuple", CrossEntropy())],
                *[("dict", [SPARSE, CrossEntropy()]), ("tuple", {"b": SPARSE, "a": "mse"})],
            ]
        ),
    ],
)
def test_the_labels_of_each_output_are_checked(form, loss):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [layers.Dense(3, name=n)(inputs) for n in ("a", "b")])
    for wrong in (0, 1):
        y = [tf.constant([0, 2]), tf.constant([1, 2])]
        y[1] += wrong
        y = tuple(y) if form == "tuple" else dict(zip("ab", y, strict=True))
        data = checked_labels(tf.data.Dataset.from_tensors((tf.ones([2, 4]), y)), model, loss)
        if wrong:
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"from 0 to 2.*from\W+2"):
                next(iter(data))
        else:
            next(iter(data))


@pytest.mark.parametrize("method", ["imp", "gmp", "snip", "grasp"])
def test_every_method_says_it_of_labels_in_one_sentence(method):
    x, y = examples(12)
    data = tf.data.Dataset.from_tensor_slices((x, y + 1)).batch(6)
    with pytest.raises(UsageError, match="from 0 to 2; .* labels from 1 to 3"):
        lt.find_ticket(
            *(chain(layers.Dense(5), layers.Dense(3)), data),
            **{"optimizer": keras.optimizers.SGD(), "epochs": 1, "sparsity": 0.2},
            **{"method": method, "train_tickets": method in ("imp", "gmp")},
            **({"gmp_frequency": "1it", "gmp_end": "1it"} if method == "gmp" else {}),
        )


def test_labels_of_an_unknown_form_are_looked_at_too():
    unknown = tf.function(CrossEntropy()).get_concrete_function(
        tf.TensorSpec((None, None), tf.int64), tf.TensorSpec((None, 4))
    )
    outputs = tf.fill([2, 4], 0.25)
    np.testing.assert_allclose(unknown(tf.constant([[0], [3]], tf.int64), outputs), np.log(4))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"labels from\W+0\W+to\W+4"):
        unknown(tf.constant([[0], [4]], tf.int64), outputs)


@pytest.mark.long
@pytest.mark.parametrize("recipe", ["label_smoothing", "distillation"])
def test_a_model_that_was_compiled_with_another_loss(recipe, caplog, of):
    model, (x, y) = chain(of.layers.Dense(3)), examples()
    recipe = lt.Recipe(recipe, {"distillation_teacher": model} if recipe[0] == "d" else {})
    trained = recipe.prepare(model)
    for loss, told in (("sparse_categorical_crossentropy", True), (recipe.loss(), False)):
        trained.compile("sgd", loss)
        caplog.clear()
        trained.fit(x, y, verbose=0, callbacks=recipe.callbacks())
        assert any("loss=recipe.loss()" in line for line in caplog.messages) == told


def test_an_image_of_labels():
    """[batch, height, width] and [batch, height, width, 1]."""
    logits, labels = np.stack([LOGITS, -LOGITS])[None], np.stack([LABELS, LABELS])[None]
    loss = CrossEntropy(label_smoothing=0.1)
    expected = np.mean([loss(LABELS, LOGITS), loss(LABELS, -LOGITS)])
    for each in (labels, labels[..., None]):
        np.testing.assert_allclose(loss(each, logits), expected, rtol=1e-6)


def test_sample_weights():
    loss = CrossEntropy(label_smoothing=0.3)
    weighted = loss(LABELS, LOGITS, sample_weight=np.array([2.0, 0.0]))
    np.testing.assert_allclose(weighted, 1.5 * np.log(2), rtol=1e-6)


def test_the_config_round_trip():
    loss = CrossEntropy(False, 0.2, name="mine", reduction="sum")
    restored = losses.deserialize(losses.serialize(loss))
    assert type(restored) is CrossEntropy
    assert restored.get_config() == loss.get_config()
    assert (restored.from_logits, restored.label_smoothing) == (False, 0.2)


WAYS = [{}, {"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 2}]


@pytest.mark.long
@pytest.mark.parametrize(
    "way",
    [*WAYS[:3], pytest.param(WAYS[3], marks=pytest.mark.e2e)],
    ids=["graph", "jit", "eager", "2 steps"],
)
def test_training_is_smoothed_and_evaluation_is_not(way, of):
    """TRAP 12: in ``fit``'s validation, in ``evaluate``, and in training after either."""
    x, y = examples(8, classes=4)
    model = chain(of.layers.Dense(4))
    smoothed = cross_entropy(of)(label_smoothing=0.4)
    model.compile(of.optimizers.SGD(0.0), smoothed, **way)
    logits = model(x)
    plain, soft = CrossEntropy()(y, logits), float(smoothed(y, logits))
    assert abs(plain - soft) > 0.01
    for _ in range(2):
        logs = model.fit(x, y, batch_size=4, validation_data=(x, y), verbose=0).history
        np.testing.assert_allclose(logs["val_loss"], [plain], rtol=1e-5)
        np.testing.assert_allclose(logs["loss"], [soft], rtol=1e-5)
        np.testing.assert_allclose(model.evaluate(x, y, verbose=0), plain, rtol=1e-5)
    if "steps_per_execution" not in way:  # Keras then asks a batch for a second one
        np.testing.assert_allclose(model.train_on_batch(x, y), soft, rtol=1e-5)
        np.testing.assert_allclose(model.test_on_batch(x, y), plain, rtol=1e-5)
    np.testing.assert_allclose(smoothed(y, logits), soft, rtol=1e-5)


class OwnStep(keras.Model):
    """A model of a class of the user's own."""

    @tf.function
    def test_step(self, data):
        x, y = data
        return {"loss": self.compiled_loss(y, self(x, training=False))}


def of_own_class(model, tmp_path):
    return OwnStep(model.input, model.output)


def from_file(suffix):
    def loaded(model, tmp_path):
        path = tmp_path / f"model{suffix}"
        model.save(path, save_format=None if suffix else "tf")
        return keras.models.load_model(path)

    return loaded


def mirrored(model, tmp_path):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        return keras.models.clone_model(model)


@pytest.mark.parametrize(
    "another",
    [
        *(from_file(suffix) for suffix in (".keras", ".h5", "")),
        *(of_own_class, mirrored, lambda model, _: lt.LabelSmoothing().finish(model)),
    ],
    ids=[".keras", ".h5", "SavedModel", "own class", "mirrored", "finished"],
)
def test_any_model_is_evaluated_by_the_plain_loss(tmp_path, another):
    """A checkpoint that is loaded by itself, or a loss that is compiled elsewhere."""
    x, y = examples(8, classes=4)
    model = chain(layers.Dense(4))
    smoothed = CrossEntropy(label_smoothing=0.4, distillation_weight=0.5)
    model.compile("sgd", smoothed)
    plain = CrossEntropy()(y, model(x))
    other = another(model, tmp_path)
    other.set_weights(model.get_weights())
    if other.optimizer is None:
        other.compile("sgd", smoothed)
    np.testing.assert_allclose(other.evaluate(x, y, verbose=0), plain, rtol=1e-5)


def test_an_evaluation_that_fails_does_not_leave_the_training_plain():
    x, y = examples(4, classes=4)
    model = chain(layers.Dense(4))
    smoothed = CrossEntropy(label_smoothing=0.4)
    model.compile(loss=smoothed, run_eagerly=True)
    with pytest.raises(ValueError, match="incompatible"):
        model.evaluate(x[:, :3], y, verbose=0)
    assert smoothed(LABELS, LOGITS) != CrossEntropy()(LABELS, LOGITS)


@pytest.mark.parametrize(
    ("loss", "from_logits"),
    [
        (CrossEntropy(True), True),
        (CrossEntropy(False), False),
        (losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"), True),
        (losses.CategoricalCrossentropy(), False),
        ("sparse_categorical_crossentropy", False),
        (losses.categorical_crossentropy, False),
    ],
)
def test_losses_that_can_be_smoothed(loss, from_logits):
    smoothed = lt.LabelSmoothing(0.3).loss(loss)
    assert (smoothed.from_logits, smoothed.label_smoothing) == (from_logits, 0.3)
    outputs = LOGITS if from_logits else tf.nn.softmax(LOGITS)
    scale = 2 if getattr(loss, "reduction", None) == "sum" else 1
    np.testing.assert_allclose(smoothed(LABELS, outputs), scale * 2.1 * np.log(2), rtol=1e-5)
    assert getattr(loss, "label_smoothing", 0) == 0, "the loss that was given has changed"


@pytest.mark.parametrize(
    "loss",
    [
        losses.MeanSquaredError(),
        losses.BinaryCrossentropy(label_smoothing=0.1),
        losses.CategoricalCrossentropy(label_smoothing=0.1),
        losses.SparseCategoricalCrossentropy(ignore_class=255),
        losses.CategoricalCrossentropy(axis=1),
    ],
)
def test_losses_that_cannot(loss):
    assert as_cross_entropy(loss) is None
    with pytest.raises(UsageError, match="a cross-entropy .*, not .*crossentropy|mean"):
        lt.LabelSmoothing().loss(loss)


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, 2])
def test_epsilon_is_a_share(epsilon):
    with pytest.raises(UsageError, match=r"epsilon in \[0, 1\), .* not "):
        lt.LabelSmoothing(epsilon)


@pytest.mark.parametrize("form", ["integers", "column", "one-hot"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_labels_of_a_python_generator(form, smoothing):
    """Keras gives them the shape (None, None), whatever they are."""
    labels = {"integers": LABELS, "column": LABELS[:, None], "one-hot": ONE_HOT}[form]
    spec = tf.TensorSpec([None] * labels.ndim)
    loss = CrossEntropy(label_smoothing=smoothing)
    traced = tf.function(loss, input_signature=[spec, tf.TensorSpec([None, 4])])
    np.testing.assert_allclose(traced(labels, LOGITS), loss(LABELS, LOGITS), rtol=1e-6)
