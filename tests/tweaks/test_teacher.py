"""Teachers of every kind: their logits, and what is said of those that will not do."""

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from networks import assert_same, chain, examples, layers, mlp, values

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.losses.outputs import Outputs
from lottery_tf.tweaks import teacher as teachers
from lottery_tf.tweaks.distillation import Distillation

X, _ = examples(16)


def network(of=keras):
    """4 → 6 → 3 with BatchNorm whose moving statistics are not the batch's, giving logits."""
    layers = of.layers
    norm = layers.BatchNormalization(name="norm")
    model = chain(layers.Dense(6, "relu"), norm, layers.Dropout(0.5), layers.Dense(3))
    norm.moving_mean.assign(np.linspace(-1, 1, 6))
    return model


class Subclassed(keras.Model):
    def __init__(self, inner, head):
        super().__init__()
        self.inner, self.head = inner, head

    def call(self, inputs):
        return self.head(self.inner(inputs))


@keras.saving.register_keras_serializable("tests")
class OwnSoftmax(layers.Layer):
    """A layer that the graph says nothing about; nothing of Keras' softmax is left to find."""

    def call(self, inputs):
        return tf.exp(inputs) / tf.reduce_sum(tf.exp(inputs), -1, keepdims=True)


class Exported(tf.Module):
    """What others export: a function with a signature, and nothing of Keras'."""

    def __init__(self, model, dtype=tf.float32):
        super().__init__()
        self.model = model
        self.serve = tf.function(
            lambda pixels: {"scores": model(pixels, training=False)},
            input_signature=[tf.TensorSpec((None, 4), dtype, "pixels")],
        )

    def save(self, path):
        tf.saved_model.save(self, path, signatures={"serving_default": self.serve})
        return path


def saved(model, path):
    model.save(path)
    return path


HEADS = {
    "logits": lambda: layers.Activation("linear"),
    "fused softmax": lambda: layers.Activation("softmax"),
    "Softmax": lambda: layers.Softmax(),
    "tf.nn.softmax": lambda: tf.nn.softmax,
    "of its own": lambda: OwnSoftmax(),
}
KINDS = {
    "functional": lambda model, head, folder: keras.Model(model.input, head(model.output)),
    "subclassed": lambda model, head, folder: Subclassed(model, head),
    ".keras": lambda model, head, folder: saved(
        keras.Model(model.input, head(model.output)), folder / "model.keras"
    ),
    ".h5": lambda model, head, folder: str(
        saved(keras.Model(model.input, head(model.output)), folder / "model.h5")
    ),
    "SavedModel": lambda model, head, folder: saved(
        keras.Model(model.input, head(model.output)), folder / "model"
    ),
    "lt.export": lambda model, head, folder: (
        lt.export(keras.Model(model.input, head(model.output)), folder / "model")["file"]
        and folder / "model"
    ),
    "another's SavedModel": lambda model, head, folder: Exported(
        keras.Model(model.input, head(model.output))
    ).save(str(folder / "model")),
}


class Subclassed3(keras3.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)


KINDS3 = {
    "functional": lambda model, head, folder: keras3.Model(model.input, head(model.output)),
    "subclassed": lambda model, head, folder: Subclassed3(model),
    ".keras": lambda model, head, folder: saved(
        keras3.Model(model.input, head(model.output)), folder / "model.keras"
    ),
    "export": lambda model, head, folder: (
        model.export(folder / "model", verbose=False) or folder / "model"
    ),
}
HEADS3 = {"logits": lambda x: x, "softmax": keras3.layers.Softmax(), "function": keras3.ops.softmax}


@pytest.mark.long
@pytest.mark.parametrize("student", [keras, keras3])
@pytest.mark.parametrize(
    ("kind", "head"),
    [
        *((kind, "logits") for kind in KINDS3),
        *((kind, head) for kind in ("functional", ".keras") for head in ("softmax", "function")),
    ],
)
def test_every_kind_of_teacher_of_keras_3(kind, head, student, tmp_path):
    model = network(keras3)
    teacher = KINDS3[kind](model, HEADS3[head], tmp_path)
    if kind == "subclassed":
        teacher(X)
    _check(Distillation(teacher), model, head, mlp(student.layers))


def test_code_in_a_file_of_keras_3_needs_leave(tmp_path):
    model = network(keras3)
    double = keras3.layers.Lambda(lambda x: 2 * x, name="double")
    path = saved(keras3.Model(model.input, double(model.output)), tmp_path / "model.keras")
    with pytest.raises(UsageError, match="holds no code; it has a Lambda layer"):
        Distillation(path).prepare(mlp())
    Distillation(path, allow_code=True).prepare(mlp())


def test_an_h5_file_of_keras_3_needs_leave(tmp_path):
    model = network(keras3)
    path = saved(model, tmp_path / "model.h5")
    with pytest.raises(UsageError, match=r"Expected a .keras file of a model of Keras 3; .* \.h5"):
        Distillation(path).prepare(mlp())
    _check(Distillation(path, allow_code=True), model, "logits", mlp())


def check(kind, head, tmp_path):
    keras.utils.set_random_seed(0)
    model = network()
    teacher = KINDS[kind](model, HEADS[head](), tmp_path)
    if kind == "subclassed":
        teacher(X)
    _check(Distillation(teacher), model, head, mlp(), kind == "another's SavedModel")


def _check(tweak, model, head, student, jit=False):
    tweak.prepare(student)
    logits = model(X).numpy()
    data = tf.data.Dataset.from_tensor_slices((X, X)).batch(5)
    loaded = tweak._load()
    for found in (
        loaded.logits(tf.constant(X)).numpy(),
        tf.function(loaded.logits, jit_compile=jit)(X).numpy(),
        tweak.logits(data),
        np.concatenate([each["teacher_logits"] for each in tweak.with_logits(data)]),
    ):
        assert found.dtype == np.float32 and found.shape == (16, 3)
        if head == "logits":
            np.testing.assert_allclose(found, logits, atol=1e-5)
        # Logits are the same up to a constant a row.
        centred = found - found.mean(-1, keepdims=True)
        np.testing.assert_allclose(centred, logits - logits.mean(-1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_teacher(kind, tmp_path):
    check(kind, "logits", tmp_path)


def test_a_graph_with_a_subclassed_model_inside(tmp_path):
    model = network()
    inner = Subclassed(layers.Dense(6), OwnSoftmax())
    whole = keras.Model(model.input, inner(model.output))
    tweak = Distillation(whole)
    tweak.prepare(chain(layers.Dense(6)))
    found = tweak.logits(tf.data.Dataset.from_tensors((X,)))
    np.testing.assert_allclose(tf.nn.softmax(found), whole(X), atol=1e-6)


@pytest.mark.parametrize("head", list(HEADS)[1:])
def test_probabilities_are_seen_in_the_graph(head, tmp_path):
    check("functional", head, tmp_path)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("subclassed", "of its own"),
        ("another's SavedModel", "tf.nn.softmax"),
        pytest.param("subclassed", "tf.nn.softmax", marks=pytest.mark.e2e),
        pytest.param("another's SavedModel", "of its own", marks=pytest.mark.e2e),
    ],
)
def test_probabilities_are_seen_by_their_rows(kind, head, tmp_path):
    check(kind, head, tmp_path)


def test_rows_that_only_look_like_probabilities():
    """Logits of which one row of the batch is negative, or does not add up to one, are logits.

    Not where all are in [0, 1]: sigmoids are neither. What is known to be logits may be.
    """
    rows = np.array([[0.2, 0.8, 0.0], [0.5, 0.5, 0.1]] * 11, np.float32)
    teacher = teachers.Teacher("a", lambda x: x, None)
    np.testing.assert_array_equal(teacher.logits(tf.constant(rows[:2])), rows[:2])  # too few
    for outputs in (rows * 1.5, rows - 0.1, -rows):
        np.testing.assert_array_equal(teacher.logits(tf.constant(outputs)), outputs)
    for outputs in (rows, np.zeros((22, 3), np.float32)):
        with pytest.raises(UsageError, match=r"of a are in \[0, 1\] and do not add up to 1"):
            teacher.logits(tf.constant(outputs))
        known = teachers.Teacher("a", lambda x: x, None, Outputs.LOGITS)
        np.testing.assert_array_equal(known.logits(tf.constant(outputs)), outputs)
    probabilities = np.array([[0.2, 0.8, 0.0], [0.5, 0.4995, 0.0]], np.float32)
    found = teacher.logits(tf.constant(probabilities)).numpy()
    np.testing.assert_allclose(found[:, :2], np.log(probabilities[:, :2]), rtol=1e-6)
    assert np.isfinite(found).all() and (found[:, 2] < -80).all()
    with tf.GradientTape() as tape:
        x = tf.constant(rows)
        tape.watch(x)
        found = teacher.logits(x * 2)
    assert tape.gradient(found, x) is None


@pytest.mark.parametrize(
    "last",
    [
        *(layers.Dense(3, each, name="last") for each in ("sigmoid", "hard_sigmoid")),
        layers.Lambda(tf.sigmoid),
    ],
)
def test_sigmoids_do_not_teach_classes(last):
    """Those that are known are refused by the loss, others by a batch."""
    teacher = chain(layers.Dense(3), last)
    student = chain(layers.Dense(3))
    recipe = lt.Recipe([lt.Distillation(teacher)])
    words = "that gives logits or a softmax|this one gives a probability of each class on its own"
    with pytest.raises((UsageError, tf.errors.InvalidArgumentError), match=words) as error:
        model = recipe.prepare(student)
        model.compile("sgd", recipe.loss())
        x, y = examples(32)
        model.fit(x, y, batch_size=32, verbose=0, callbacks=recipe.callbacks())
    assert (error.type is UsageError) != isinstance(last, layers.Lambda)


def test_a_teacher_of_half_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = chain(layers.Dense(6, "relu"), layers.Dense(3))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    found = Distillation(model).logits(tf.data.Dataset.from_tensors((X,)))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, model(X).numpy().astype(np.float32))


def test_several_inputs(eager):
    def two():
        inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((2,), name="b")}
        joined = layers.Concatenate()(list(inputs.values()))
        return keras.Model(inputs, layers.Dense(3)(joined))

    recipe = lt.Recipe([Distillation(two(), weight=1.0)])
    model = recipe.prepare(two())
    model.compile("sgd", recipe.loss(), run_eagerly=eager)
    x = {"a": X, "b": X[:, :2]}
    assert (
        model.fit(x, np.zeros(16), callbacks=recipe.callbacks(), verbose=0).history["loss"][0] > 0
    )
    with pytest.raises(UsageError, match=r"\(4,\) float32 and \(2,\) float32, .* takes \(4,\)"):
        Distillation(network()).prepare(two())


def test_a_teacher_is_left_as_it_is(eager):
    teacher = network()
    teacher.layers[1].trainable = False
    teacher.compile("adam", "mse")
    before = values(teacher)
    recipe = lt.Recipe([Distillation(teacher)])
    model = recipe.prepare(mlp())
    model.compile("sgd", recipe.loss(), run_eagerly=eager)
    model.fit(X, np.zeros(16), callbacks=recipe.callbacks(), verbose=0)
    assert_same(values(teacher), before)
    assert [layer.trainable for layer in teacher.layers] == [True, False, True, True, True]
    assert teacher.optimizer.iterations == 0


def test_a_teacher_is_named_by_its_weights():
    keras.utils.set_random_seed(0)
    one, other = network(), network()
    same = keras.models.clone_model(one)
    same.set_weights(one.get_weights())
    same._name = one.name
    assert (
        Distillation(one) == Distillation(same)
        and len({Distillation(one), Distillation(same)}) == 1
    )
    assert Distillation(one) != Distillation(other)
    assert Distillation(one).sha256 == Distillation(same).sha256 != Distillation(other).sha256
    assert f"weights sha256 {Distillation(one).sha256[:12]}" in Distillation(one).teacher


def test_a_teacher_on_disk_is_known_by_its_content(tmp_path):
    model = network()
    model.save(tmp_path / "one")
    model.save(tmp_path / "one.h5")
    (tmp_path / "one").rename(tmp_path / "two")
    first = Distillation(tmp_path / "two").sha256
    (tmp_path / "two").rename(tmp_path / "three")
    assert Distillation(tmp_path / "three").sha256 == first
    (tmp_path / "three" / "keras_metadata.pb").unlink()
    assert Distillation(tmp_path / "three").sha256 != first
    assert Distillation(tmp_path / "one.h5").sha256 not in (None, first)


def test_it_is_loaded_once_for_a_model(tmp_path, monkeypatch, eager):
    network().save(tmp_path / "model.keras")
    loads, load = [], keras.models.load_model
    monkeypatch.setattr(
        keras.models, "load_model", lambda *a, **k: loads.append(a) or load(*a, **k)
    )
    tweak = Distillation(tmp_path / "model.keras")
    recipe = lt.Recipe([tweak, lt.SoftActivation()])
    assert not loads
    model = recipe.prepare(mlp())
    for _ in range(2):
        model.compile("sgd", recipe.loss(), run_eagerly=eager)
        model.fit(X, np.zeros(16), callbacks=recipe.callbacks(), verbose=0)
    tweak.logits(tf.data.Dataset.from_tensors((X,)), model)
    assert len(loads) == 1


def _file(path):
    path.write_text("years of work")
    return path


MISTAKES = {
    "none": (lambda folder: None, "none was given: pass `distillation_teacher`, or"),
    "nothing there": (lambda folder: folder / "no", "a SavedModel .* there is none at .*no"),
    "an empty folder": (lambda folder: folder, "there is none at"),
    "another file": (lambda folder: _file(folder / "thesis.keras"), "in .* that Keras loads; "),
    "other inputs": (
        lambda folder: chain(layers.Dense(3), shape=(5,)),
        r"inputs \(4,\) float32, as the model 'model.* takes them; model 'model.* takes \(5,\) fl",
    ),
    "other inputs, subclassed": (
        lambda folder: _built(Subclassed(layers.Dense(6), layers.Dense(3)), 5),
        r"inputs \(4,\) float32, .* 'subclassed.* fails on them: ",
    ),
    "other inputs of another's": (
        lambda folder: Exported(chain(layers.Dense(3), shape=(4,)), tf.int32).save(
            str(folder / "m")
        ),
        r"\(4,\) float32, as the model 'model.* the SavedModel in .* takes \(4,\) int32: give",
    ),
    "other classes": (
        lambda folder: chain(layers.Dense(10)),
        r"teacher of 3 classes, as the model .* \(3,\) float32; .* \(10,\) fl",
    ),
    "other classes, subclassed": (
        lambda folder: _built(Subclassed(layers.Dense(6), layers.Dense(2)), 4),
        r"model 'subclassed.* has \(2,\) float32",
    ),
    "two outputs": (
        lambda folder: keras.Model((net := network()).input, [net.output, net.layers[1].output]),
        "a teacher with one output, .* has 2",
    ),
    "no signature": (
        lambda folder: tf.saved_model.save(tf.Module(), str(folder / "m")) or folder / "m",
        "signature serving_default; it has none",
    ),
}


def _built(model, width):
    model(np.ones((1, width)))
    return model


@pytest.mark.parametrize("mistake", MISTAKES)
def test_teachers_that_will_not_do(mistake, tmp_path):
    make, message = MISTAKES[mistake]
    tweak = Distillation(make(tmp_path))
    with pytest.raises(UsageError, match=message):
        lt.Recipe([tweak]).prepare(mlp())


def test_a_saved_model_that_is_damaged_is_one_sentence(tmp_path):
    chain(layers.Dense(3)).export(tmp_path / "m")
    (tmp_path / "m" / "saved_model.pb").write_bytes(b"years of work")
    for allow_code in (False, True):
        tweak = Distillation(tmp_path / "m", allow_code=allow_code)
        with pytest.raises(UsageError, match="^Expected "):
            tweak.prepare(mlp())


def test_a_teacher_runs_where_its_model_does(monkeypatch):
    """Which of Keras 3 is on JAX or torch, a process decides for all models."""
    of_tensorflow = teachers.load(teachers.source_of(kept := network()), allow_code=False)
    monkeypatch.setattr(teachers, "on_tensorflow", lambda model: False)
    monkeypatch.setattr(teachers.keras3.backend, "backend", lambda: "jax")
    with pytest.raises(UsageError, match="a teacher of Keras 3 for the model 'm.*runs on jax; mo"):
        of_tensorflow.check_fits(mlp())
    of_jax = teachers.load(teachers.source_of(other := chain(keras3.layers.Dense(3))), False)
    monkeypatch.setattr(teachers, "on_tensorflow", lambda model: model is not other)
    monkeypatch.setattr(teachers, "backend_of", lambda model: "JAX")
    with pytest.raises(UsageError, match="a teacher that runs on TensorFlow, as .*runs on JAX: gi"):
        of_jax.check_fits(mlp())
    assert kept.built


def test_models_that_will_not_do():
    with pytest.raises(UsageError, match="'subclassed' is not built|is not built"):
        Distillation(Subclassed(layers.Dense(6), layers.Dense(3)))
    with pytest.raises(UsageError, match="Expected a Keras model, got a builtins.int"):
        Distillation(3)
    net = network()
    two = keras.Model(net.input, [net.output, net.layers[1].output])
    with pytest.raises(UsageError, match="one output for distillation, 'model.* has 2"):
        Distillation(network()).prepare(two)


def test_a_model_whose_output_has_a_name():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, {"kind": layers.Dense(3)(inputs)})
    assert Distillation(network()).prepare(model).output_names == model.output_names
    with pytest.raises(UsageError, match="teacher of 3 classes"):
        Distillation(chain(layers.Dense(10))).prepare(model)
