"""Distillation: its formula by hand, in training only, however fit runs the steps."""

import json

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from networks import assert_same, chain, examples, mlp, random_masks, two_devices, values

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import assign
from lottery_tf.losses.cross_entropy import CrossEntropy, taught_by
from lottery_tf.losses.divergence import divergence
from lottery_tf.training.trainer import Trainer
from lottery_tf.tweaks.distillation import Distillation

Z = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
TAUGHT = np.array([[0.5, 0.2, -3.0], [2.0, -1.0, 1.0]])
LABELS = np.array([2, 0])


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_hand(z, taught, labels, weight, temperature, epsilon=0.0):
    """(1−λ)·CE + λ·τ²·KL of each row and its gradient by z, in float64."""
    z, taught = np.asarray(z, np.float64), np.asarray(taught, np.float64)
    classes = z.shape[-1]
    target = np.where(np.eye(classes)[labels] > 0, 1 - epsilon, epsilon / (classes - 1))
    hard = -(target * np.log(softmax(z))).sum(-1)
    q, p = softmax(taught / temperature), softmax(z / temperature)
    soft = temperature**2 * (q * np.log(q / p)).sum(-1)
    gradient = (1 - weight) * (softmax(z) - target) + weight * temperature * (p - q)
    return (1 - weight) * hard + weight * soft, gradient


def loss_and_gradient(loss, z=Z, taught=TAUGHT, dtype=tf.float32, through=lambda z: z):
    z = tf.constant(z, dtype)
    with tf.GradientTape() as tape:
        tape.watch(z)
        with taught_by(tf.constant(taught, dtype)):
            value = loss(LABELS, through(z))
    return value.numpy(), tape.gradient(value, z).numpy()


def test_a_row_with_numbers_for_a_pencil():
    """τ = 2, z = (2 log 3, 0), z_t = (0, 2 log 3): softened p = (3/4, 1/4) and q = (1/4, 3/4).

    KL = 1/4·log(1/3) + 3/4·log 3 = log(3)/2. With y the first class CE = −log(9/10), so λ = 1/4
    gives 3/4·log(10/9) + 1/4·4·log(3)/2.
    """
    a = 2 * np.log(3)
    loss = CrossEntropy(distillation_weight=0.25, temperature=2.0)
    with taught_by(tf.constant([[0.0, a]])):
        value = loss([0], tf.constant([[a, 0.0]]))
    np.testing.assert_allclose(value, 0.75 * np.log(10 / 9) + np.log(3) / 2, rtol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize(("weight", "temperature"), [(0.7, 4.0), (1.0, 1.0), (0.2, 0.5), (0, 4)])
def test_the_formula_and_its_gradient_in_numpy(weight, temperature, epsilon):
    tweaks = [Distillation(weight=weight, temperature=temperature), lt.LabelSmoothing(epsilon)]
    expected, slope = by_hand(Z, TAUGHT, LABELS, weight, temperature, epsilon)
    for order in (tweaks, tweaks[::-1]):
        loss = CrossEntropy(reduction="none")
        for tweak in order:
            loss = tweak.loss(loss)
        for dtype, rtol in ((tf.float64, 1e-12), (tf.float32, 2e-6)):
            value, gradient = loss_and_gradient(loss, dtype=dtype)
            np.testing.assert_allclose(value, expected, rtol=rtol)
            np.testing.assert_allclose(gradient, slope, rtol=rtol, atol=rtol)


def test_a_weight_of_0_is_the_cross_entropy_to_the_bit():
    plain, loss = CrossEntropy(), Distillation(weight=0).loss()
    assert_same(loss_and_gradient(loss), loss_and_gradient(plain))
    assert loss(LABELS, Z) == plain(LABELS, Z), "λ = 0 asks for no teacher"


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(dtype, scale):
    """Zero to the bit, and finite, however sure of itself the teacher is."""
    loss = Distillation(weight=1).loss(CrossEntropy(reduction="none"))
    value, gradient = loss_and_gradient(loss, scale * Z, scale * Z, dtype)
    assert not value.any() and not gradient.any()
    value, gradient = loss_and_gradient(loss, scale * Z, scale * TAUGHT, dtype)
    assert np.isfinite(value.astype(float)).all() and np.isfinite(gradient.astype(float)).all()
    assert value.dtype == (np.float64 if dtype == tf.float64 else np.float32)


def test_a_teacher_that_rules_classes_out():
    loss = Distillation(weight=1, temperature=1).loss(CrossEntropy(reduction="none"))
    taught = np.array([[0.0, -np.inf, -np.inf], [0.0, -np.inf, 0.0]])
    value, gradient = loss_and_gradient(loss, np.ones((2, 3)), taught)
    np.testing.assert_allclose(value, np.log([3, 1.5]), rtol=1e-6)
    np.testing.assert_allclose(gradient, np.array([[-4, 2, 2], [-1, 2, -1]]) / 6, rtol=1e-6)


def test_the_divergence_can_be_differentiated_twice():
    """d²KL/dz² = diag(p) − p pᵀ."""
    z = tf.constant(Z[:1])
    with tf.GradientTape() as outer:
        outer.watch(z)
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = divergence(z, tf.constant(TAUGHT[:1]))
        gradient = tape.gradient(value, z)
    p = softmax(Z[0])
    hessian = outer.jacobian(gradient, z)[0, :, 0]
    np.testing.assert_allclose(hessian, np.diag(p) - np.outer(p, p), atol=1e-12)


THROUGH = {
    "kept by Keras": keras.activations.softmax,
    "found in the graph": tf.function(lambda z: tf.nn.softmax(z)).python_function,
    "logarithms": lambda z: tf.nn.softmax(z) * 1.0,
}


@pytest.mark.parametrize("through", THROUGH.values(), ids=THROUGH)
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_outputs_that_are_probabilities(through, graph):
    loss = Distillation().loss(CrossEntropy(from_logits=False, reduction="none"))
    expected, slope = by_hand(Z, TAUGHT, LABELS, 0.7, 4.0)

    def compute():
        z = tf.constant(Z, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(z)
            with taught_by(tf.constant(TAUGHT, tf.float32)):
                value = loss(LABELS, through(z))
        return value, tape.gradient(value, z)

    value, gradient = tf.function(compute)() if graph else compute()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, atol=1e-5)


def test_sample_weights():
    expected, slope = by_hand(Z, TAUGHT, LABELS, 0.7, 4.0)
    loss = Distillation().loss(CrossEntropy(reduction="sum"))
    weights = np.array([2.0, 0.0])
    value, gradient = loss_and_gradient(lambda y, z: loss(y, z, sample_weight=weights))
    np.testing.assert_allclose(value, 2 * expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, [2 * slope[0], [0, 0, 0]], atol=1e-6)


def test_the_config_round_trip():
    loss = lt.LabelSmoothing(0.2).loss(Distillation(weight=0.3, temperature=2).loss())
    restored = keras.losses.deserialize(keras.losses.serialize(loss))
    assert restored.get_config() == loss.get_config()
    assert (restored.distillation_weight, restored.temperature) == (0.3, 2)


@pytest.mark.parametrize("loss", ["mse", keras.losses.CategoricalCrossentropy(axis=1)])
def test_losses_that_it_cannot_join(loss):
    with pytest.raises(UsageError, match="cross-entropy to distil with, not .*leave distillation"):
        Distillation().loss(loss)


X, Y = examples(16)


def taught_model(weight=0.7, temperature=4.0, policy=None, of=keras, by=keras, **last):
    """A student of a teacher of another architecture; both with BatchNorm, each of a Keras."""
    by.utils.set_random_seed(0)
    layers = by.layers
    norm = layers.BatchNormalization()
    teacher = chain(layers.Dense(8, "relu"), layers.Dropout(0.5), norm, layers.Dense(3))
    norm.moving_mean.assign(tf.ones(8))
    tweak = Distillation(teacher, temperature=temperature, weight=weight)
    keras.mixed_precision.set_global_policy(policy or "float32")
    try:
        student = mlp(of.layers, **last)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    recipe = lt.Recipe([tweak, lt.LabelSmoothing(0.1)])
    model = recipe.prepare(lt.wrap(student, random_masks(student)))
    return teacher, recipe, model


def data(size=4):
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(size, drop_remainder=True)


WAYS = {
    "graph": {},
    "jit": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "3 steps": {"steps_per_execution": 3},
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("way", "of", "by"),
    [
        *(("graph", keras, keras), ("eager", keras, keras), ("eager", keras, keras3)),
        *(("graph", keras3, keras3), ("3 steps", keras3, keras3), ("eager", keras3, keras)),
    ],
)
def test_training_is_taught_and_evaluation_is_plain(way, of, by):
    """In the logged loss, in ``fit``'s validation, in ``evaluate``, and after either; the teacher
    may be of the other Keras."""
    teacher, recipe, model = taught_model(of=of, by=by)
    model.compile(of.optimizers.SGD(0.0), recipe.loss(), metrics=["accuracy"], **WAYS[way])
    for _ in range(2):
        soft = np.mean(
            [
                by_hand(model(x, training=True), teacher(x), y, 0.7, 4.0, 0.1)[0].mean()
                for x, y in data().as_numpy_iterator()
            ]
        )
        logs = model.fit(data(), validation_data=data(), verbose=0).history
        plain = by_hand(model(X), teacher(X), Y, 0, 1)[0].mean()
        np.testing.assert_allclose(logs["loss"], [soft], rtol=1e-5)
        np.testing.assert_allclose(logs["val_loss"], [plain], rtol=1e-5)
        np.testing.assert_allclose(model.evaluate(X, Y, verbose=0)[0], plain, rtol=1e-5)
    final = recipe.finish(model)
    final.compile(loss=of.losses.SparseCategoricalCrossentropy(from_logits=True))
    np.testing.assert_allclose(final.evaluate(X, Y, verbose=0), plain, rtol=1e-5)


STEPS = 12


def trained(cached, way, in_one_loop=False, of=keras):
    teacher, recipe, model = taught_model(of=of, by=of)
    if of is not keras:  # which draws other weights
        theirs, _, its = taught_model()
        teacher.set_weights(theirs.get_weights())
        assign(model, values(its))
    tweak = recipe.tweaks[0]
    batches = tweak.with_logits(data()) if cached else data()
    before = values(teacher), [each.trainable for each in teacher.layers]
    if in_one_loop:
        trainer = Trainer(
            *(model, lambda start: batches.repeat().skip(start), 4),
            *(keras.optimizers.SGD(0.1, 0.9), recipe.loss()),
            **{"jit_compile": True, "steps_per_execution": 4},
        )
        assert "in_one_loop" in trainer.model.train_function.__code__.co_freevars
        trainer.fit(STEPS, recipe.callbacks(), data())
    else:
        model.compile(of.optimizers.SGD(0.1, 0.9), recipe.loss(), metrics=["accuracy"], **way)
        model.fit(
            batches.repeat(3), validation_data=data(), callbacks=recipe.callbacks(), verbose=0
        )
    assert_same(values(teacher), before[0])
    assert [each.trainable for each in teacher.layers] == before[1]
    return values(model)


@pytest.fixture(scope="module")
def straight():
    return trained(False, {})


@pytest.mark.parametrize(
    ("cached", "way"),
    [
        *((False, way) for way in ("eager", "one loop")),
        (True, "jit"),
        pytest.param(False, "3 steps", marks=pytest.mark.e2e),
        pytest.param(True, "one loop", marks=pytest.mark.e2e),
    ],
)
def test_every_way_trains_the_same(straight, cached, way):
    """The teacher in each step, or its logits computed once."""
    found = trained(cached, WAYS.get(way), way == "one loop")
    assert found.keys() == straight.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, straight[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("cached", "way"), [(False, "graph"), (True, "eager"), (True, "jit")])
def test_keras_3_trains_the_same(straight, cached, way):
    found = trained(cached, WAYS[way], of=keras3)
    assert found.keys() == straight.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, straight[name], atol=1e-5, err_msg=name)


def test_a_loop_by_hand_trains_the_same(straight):
    """``train_on_batch``, with one-hot labels and weights of one."""
    _, recipe, model = taught_model()
    model.compile(keras.optimizers.SGD(0.1, 0.9), recipe.loss())
    for x, y in data().repeat(3):
        model.train_on_batch(x, tf.one_hot(y, 3), sample_weight=tf.ones(4))
    for name, value in values(model).items():
        np.testing.assert_allclose(value, straight[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("head", "eager"),
    [("float16", False), ("float32", True), pytest.param("float32", False, marks=pytest.mark.e2e)],
)
def test_under_mixed_precision(head, eager):
    """Keras scales the loss as ever, and the divergence is in float32."""
    dtype = "float32" if head == "float32" else None
    teacher, recipe, model = taught_model(1.0, policy="mixed_float16", dtype=dtype)
    assert model.output.dtype == head
    recipe = lt.Recipe([recipe.tweaks[0]])
    recipe.prepare(model)
    optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    model.compile(optimizer, recipe.loss(), run_eagerly=eager)
    expected = by_hand(model(X, training=True), teacher(X), Y, 1.0, 4.0)[0].mean()
    before = values(model)
    logs = model.fit(X, Y, batch_size=16, validation_data=(X, Y), verbose=0).history
    np.testing.assert_allclose(logs["loss"], [expected], rtol=1e-5)
    after = values(model)
    assert optimizer.initial_scale == float(optimizer.loss_scale), "a gradient overflowed"
    assert all(np.isfinite(value).all() for value in after.values())
    assert (after["head/kernel"] != before["head/kernel"]).any()


def test_a_student_that_starts_as_its_teacher_stays_it(of):
    """λ = 1 without BatchNorm: not one bit of any weight moves."""
    keras, layers = of, of.layers
    keras.utils.set_random_seed(0)
    teacher = chain(layers.Dense(6, "relu"), layers.Dense(3))
    recipe = lt.Recipe([Distillation(teacher, weight=1.0)])
    model = recipe.prepare(lt.wrap(teacher))
    model.compile(keras.optimizers.SGD(1.0, 0.9), recipe.loss())
    logs = model.fit(data(), callbacks=recipe.callbacks(), verbose=0).history
    assert logs["loss"] == [0.0]
    assert_same(values(model), values(teacher))


@pytest.mark.e2e
def test_two_replicas_learn_what_one_does(tmp_path):
    taught_model()[0].save(tmp_path / "keras")
    taught_model()[0].export(tmp_path / "exported")

    def trained(strategy, teacher, cached):
        with strategy.scope():
            keras.utils.set_random_seed(1)
            student = chain(
                keras.layers.Dense(6, "relu", name="one"), keras.layers.Dense(3, name="head")
            )
            recipe = lt.Recipe([Distillation(str(tmp_path / teacher))])
            model = recipe.prepare(student)
            model.compile(keras.optimizers.SGD(0.1), recipe.loss())
            given = recipe.tweaks[0].with_logits(data(8)) if cached else data(8)
        model.fit(given, epochs=3, callbacks=recipe.callbacks(), verbose=0)
        assert model.distribute_strategy is strategy
        return values(model)

    one = trained(tf.distribute.get_strategy(), "keras", False)
    for teacher, cached in (("keras", True), ("exported", False)):
        for name, value in trained(two_devices(), teacher, cached).items():
            np.testing.assert_allclose(value, one[name], atol=1e-6, err_msg=name)


def test_no_trace_of_the_teacher_in_the_model(tmp_path, eager):
    """Variables, submodules, parameters and checkpoints are those without distillation."""
    plain = mlp()
    count = plain.count_params()
    recipe = lt.Recipe([Distillation(mlp())])
    model = recipe.prepare(plain)
    model.compile("sgd", recipe.loss(), run_eagerly=eager)
    model.fit(X, Y, callbacks=recipe.callbacks(), verbose=0)
    assert model is plain and model.count_params() == count
    assert len(model.variables) == len(mlp().variables)
    assert not [each for each in model.submodules if each is recipe.tweaks[0].teacher.model]
    saved = tf.train.Checkpoint(model=model).save(str(tmp_path / "all"))
    kernels = [name for name, _ in tf.train.list_variables(saved) if "kernel/" in name]
    assert len({name.rpartition("/.ATT")[0] for name in kernels}) == 3


@pytest.mark.long
def test_a_loaded_model_goes_on_learning_from_the_teacher(tmp_path, eager, of):
    """A .keras file keeps the loss; the callbacks bring the teacher back."""
    keras = of
    _, recipe, model = taught_model(of=of, by=of)
    model.compile(keras.optimizers.SGD(0.1, 0.9), recipe.loss(), run_eagerly=eager)
    model.fit(data(), callbacks=recipe.callbacks(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(UsageError, match=r"callbacks=recipe.callbacks\(\)"):
        loaded.fit(data(), verbose=0)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(data(), epochs=2, callbacks=recipe.callbacks(), verbose=0)
    assert_same(values(loaded), values(model))


@pytest.mark.long
def test_it_lives_with_the_tweaks_that_fade(eager, of):
    """Whichever is put on the training step first, each step is counted once and taught once."""
    for place in (0, 1):
        tweaks = [lt.SoftActivation()]
        tweaks.insert(place, Distillation(mlp(), weight=1.0))
        recipe = lt.Recipe(tweaks)
        model = recipe.prepare(mlp(of.layers))
        model.compile(of.optimizers.SGD(0.0), recipe.loss(), run_eagerly=eager)
        step = model.train_step
        history = model.fit(data(), callbacks=recipe.callbacks(), verbose=0).history
        assert model.train_step is step
        assert {int(layer.step.numpy()) for layer in tweaks[1 - place].layers(model)} == {4}
        assert history["loss"][0] > 0.01
        recipe.finish(model)


def test_another_recipe_on_the_same_model_has_its_own_teacher(eager, of):
    student, one, other = mlp(of.layers), mlp(of.layers), mlp(of.layers)
    for teacher in (one, other):
        recipe = lt.Recipe([Distillation(teacher, weight=1.0)])
        model = recipe.prepare(student)
        model.compile(of.optimizers.SGD(0.0), recipe.loss(), run_eagerly=eager)
        expected = by_hand(model(X, training=True), teacher(X), Y, 1.0, 4.0)[0].mean()
        assert model is student
        np.testing.assert_allclose(model.train_on_batch(X, Y), expected, rtol=1e-5)


def test_the_loss_alone_asks_for_the_teacher():
    loss = Distillation().loss()
    with pytest.raises(UsageError, match="teacher's logits of the batch .*taught_by"):
        loss(LABELS, Z)
    model = mlp()
    model.compile("sgd", loss)
    with pytest.raises(UsageError, match="that the recipe has prepared"):
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature of Distillation above 0, .* not 0.0"),
        ({"temperature": -1}, "above 0"),
        ({"temperature": float("inf")}, "not inf"),
        ({"temperature": float("nan")}, "not nan"),
        ({"weight": 1.5}, r"weight of Distillation in \[0, 1\], .* not 1.5"),
        ({"weight": -0.1}, r"\[0, 1\]"),
        ({"weight": float("nan")}, "not nan"),
    ],
)
def test_parameters_out_of_range(settings, message):
    with pytest.raises(UsageError, match=message):
        Distillation(**settings)


def test_a_recipe_goes_through_json():
    recipe = lt.Recipe([Distillation(mlp(), temperature=2.0)])
    (described,) = json.loads(json.dumps(recipe.describe())).values()
    assert described["teacher"].startswith("model 'model") and described["temperature"] == 2.0
    restored = Distillation(**described)
    assert restored == recipe.tweaks[0] and hash(restored) == hash(recipe.tweaks[0])
    with pytest.raises(UsageError, match="the teacher itself; .* only its name, model 'model"):
        restored.prepare(mlp())
