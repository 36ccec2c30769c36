"""Fades: exact to the step however fit runs the steps, in every checkpoint, over before the end."""

import functools

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from networks import assert_same, chain, examples, random_masks, replicas, two_devices, values

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.exporting import write_exports
from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.training.trainer import Trainer
from lottery_tf.tweaks.fade import Schedule
from lottery_tf.tweaks.settings import CURVES
from lottery_tf.tweaks.soft_activation import SoftUnit


def test_the_curves_by_hand():
    def ats(*schedule):
        return [Schedule(*schedule).at(p) for p in (0, 0.5, 1, 1.5)]

    np.testing.assert_allclose(ats(2.0, 10.0, "linear"), [2, 6, 10, 10], rtol=1e-6)
    np.testing.assert_allclose(ats(1.0, 0.0, "cosine"), [1, 0.5, 0, 0], atol=1e-7)
    np.testing.assert_allclose(ats(1.0, 25.0, "exponential"), [1, 5, 25, 25], rtol=1e-6)
    np.testing.assert_allclose(Schedule(1.0, 0.0, "cosine").at(0.25), (2 + 2**0.5) / 4, rtol=1e-6)
    assert ats(1.0, 0.0, "constant") == [1, 1, 0, 0]
    assert Schedule(2.0, 9.0, "constant").at(0.999) == 2


@given(
    st.floats(0.015625, 64, width=32),
    st.floats(0.015625, 64, width=32),
    st.sampled_from(CURVES),
    st.floats(0, 1, width=32),
)
def test_a_schedule_stays_between_its_ends_and_ends_exactly(start, end, curve, p):
    schedule = Schedule(start, end, curve)
    low, high = sorted((start, end))
    assert low * (1 - 1e-5) <= schedule.at(p) <= high * (1 + 1e-5)
    assert schedule.at(1.0) == end
    assert schedule.at(0.0) == pytest.approx(start)


def test_an_exponential_curve_needs_values_above_0():
    with pytest.raises(UsageError, match="above 0 for an exponential curve, not 1 to 0"):
        Schedule(1.0, 0.0, "exponential")


e2e = pytest.mark.e2e

STEPS, EPOCHS = 4, 3  # 12 steps


def _one_weight(of=keras):
    """y = relu(w·x), w = −0.5, with the mean of y for a loss: dw = d relu(w)."""
    model = chain(of.layers.Dense(1, "relu", use_bias=False, name="unit"), shape=(1,))
    model.get_layer("unit").kernel.assign([[-0.5]])
    return model


def _mean(y_true, y_pred):
    return tf.reduce_mean(y_pred, axis=-1)


def _by_hand(start, end, length, steps):
    """The weight after each step of gradient descent at rate 0.5, in float64."""
    w, found = -0.5, []
    for t in range(steps):
        if t < length:
            beta = start + (end - start) * t / length
            s = 1 / (1 + np.exp(-beta * w))
            gradient = s + w * beta * s * (1 - s)
        else:
            gradient = float(w > 0)
        w -= 0.5 * gradient
        found.append(w)
    return np.array(found)


def _watching(model):
    """A callback that keeps the first weight after each execution, and the list it keeps it in."""
    found = []

    def keep(batch, logs):
        found.append(float(model.trainable_variables[0].numpy().flat[0]))

    return keras_of(model).callbacks.LambdaCallback(on_train_batch_end=keep), found


WAYS = {
    "graph": {"jit_compile": False},
    "3 steps": {"steps_per_execution": 3},
    "jit": {"jit_compile": True},
    "eager": {"run_eagerly": True},
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("way", "share"),
    [
        *((way, 0.5) for way in WAYS),
        ("graph", 0.0),
        ("graph", 1.0),
    ],
)
def test_each_step_has_its_own_value_by_hand(of, way, share):
    """Six of twelve steps are soft, then the unit is ReLU: w < 0 does not move any more."""
    tweak = lt.SoftActivation(share=share, beta_start=1.0, beta_end=4.0, keep_signal=False)
    model = tweak.prepare(_one_weight(of))
    model.compile(of.optimizers.SGD(0.5), _mean, **WAYS[way])
    x, (watch, found) = np.ones((STEPS, 1), np.float32), _watching(model)
    history = model.fit(
        x, x, batch_size=1, epochs=EPOCHS, callbacks=[*tweak.callbacks(), watch], verbose=0
    ).history
    expected = _by_hand(1.0, 4.0, round(12 * share), 12)
    if way == "3 steps":  # 3 steps and 1
        expected = expected[[2, 3, 6, 7, 10, 11]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    betas = {0.5: [3, 4, 4], 0.0: [4, 4, 4], 1.0: [2, 3, 4]}[share]
    np.testing.assert_allclose(history["soft_activation_beta"], betas, rtol=1e-6)


def test_a_constant_curve_by_hand():
    """β = 2 for six of twelve steps, whatever its end, and ReLU at once; at share 1 to the end."""
    for share in (0.5, 1.0):
        fade = {"share": share, "curve": "constant", "keep_signal": False}
        tweak = lt.SoftActivation(beta_start=2.0, beta_end=7.0, **fade)
        model = tweak.prepare(_one_weight())
        model.compile(keras.optimizers.SGD(0.5), _mean, run_eagerly=True)
        x, (watch, found) = np.ones((STEPS, 1), np.float32), _watching(model)
        callbacks = [*tweak.callbacks(), watch]
        model.fit(x, x, batch_size=1, epochs=EPOCHS, callbacks=callbacks, verbose=0)
        expected = _by_hand(2.0, 2.0, round(12 * share), 12)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert tweak.progress(model) == 1


def test_in_one_loop_of_xla_too(of):
    tweak = lt.SoftActivation(beta_start=1.0, beta_end=4.0, keep_signal=False)
    model = tweak.prepare(_one_weight(of))
    data = tf.data.Dataset.from_tensors((np.ones((1, 1), np.float32),) * 2).repeat()
    trainer = Trainer(
        *(model, lambda start: data, STEPS, of.optimizers.SGD(0.5), _mean),
        **{"jit_compile": True, "steps_per_execution": 4, "metrics": ()},
    )
    watch, found = _watching(trainer.model)
    trainer.fit(12, [*tweak.callbacks(), watch])
    np.testing.assert_allclose(found, _by_hand(1.0, 4.0, 6, 12)[[3, 7, 11]], rtol=1e-5)


def test_where_the_data_end_no_step_is_counted(of):
    """Keras learns only there how many batches they have, and counts one too many itself."""
    tweak = lt.SoftActivation(beta_start=1.0, beta_end=4.0, keep_signal=False)
    model = tweak.prepare(_one_weight(of))
    model.compile(of.optimizers.SGD(0.5), _mean)
    x, (watch, found) = np.ones((STEPS, 1), np.float32), _watching(model)
    data = tf.data.Dataset.from_tensor_slices((x, x)).batch(1).filter(lambda *_: True)
    callbacks = [*tweak.callbacks(steps=EPOCHS * STEPS), watch]
    model.fit(data, epochs=EPOCHS, callbacks=callbacks, verbose=0)
    assert int(tweak.layers(model)[0].step.numpy()) == EPOCHS * STEPS
    np.testing.assert_allclose(found, _by_hand(1.0, 4.0, 6, 12), rtol=1e-5)


@pytest.mark.parametrize("kind", ["sparse", "ragged"])
def test_steps_on_sparse_and_ragged_data_are_counted(kind):
    """In a graph, where a step waits for all parts of its batch."""
    layers = keras.layers
    if kind == "sparse":
        inputs, x = keras.Input((3,), sparse=True), tf.sparse.from_dense(np.eye(4, 3))
        hidden = inputs
    else:
        inputs = keras.Input((None, 2), ragged=True)
        x = tf.RaggedTensor.from_row_lengths(np.ones((8, 2), np.float32), [1, 3, 2, 2])
        hidden = layers.Lambda(lambda each: tf.reduce_mean(each, 1), output_shape=(2,))(inputs)
    model = keras.Model(inputs, layers.Dense(1, "relu", name="unit")(hidden))
    tweak = lt.SoftActivation()
    prepared = tweak.prepare(model)
    prepared.compile(keras.optimizers.SGD(0.1), "mse")
    data = tf.data.Dataset.from_tensor_slices((x, np.ones((4, 1)))).batch(2)
    prepared.fit(data, epochs=2, callbacks=tweak.callbacks(), verbose=0)
    assert int(tweak.layers(prepared)[0].step.numpy()) == 4


def test_train_on_batch_counts_too(of):
    tweak = lt.SoftActivation(beta_start=1.0, beta_end=4.0, keep_signal=False)
    model = tweak.prepare(_one_weight(of))
    model.compile(of.optimizers.SGD(0.5), _mean)
    of.callbacks.CallbackList(tweak.callbacks(steps=8), model=model).on_train_begin()
    expected = _by_hand(1.0, 4.0, 4, 6)
    for weight in expected:
        model.train_on_batch(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))
        np.testing.assert_allclose(model.get_layer("unit").kernel, [[weight]], rtol=1e-5)


def test_epochs_before_the_first_do_not_count(of):
    """As those of a ticket that is rewound to epoch 4."""
    tweak = lt.SoftActivation()
    model = tweak.prepare(_one_weight(of))
    model.compile("sgd", _mean)
    x = np.ones((5, 1), np.float32)
    callbacks = tweak.callbacks()
    model.fit(x, x, batch_size=1, initial_epoch=4, epochs=6, callbacks=callbacks, verbose=0)
    assert tweak.layers(model)[0].length.numpy() == 5


@pytest.mark.long
def test_the_length_of_the_training_can_be_said(of):
    """A training whose rest is fitted apart, as that of a rewound ticket may be."""
    tweak = lt.SoftActivation()
    model = tweak.prepare(_one_weight(of))
    model.compile("sgd", _mean)
    x = np.ones((5, 1), np.float32)
    for _ in range(2):
        model.fit(x, x, batch_size=1, callbacks=tweak.callbacks(steps=16), verbose=0)
    assert tweak.layers(model)[0].length.numpy() == 8
    assert tweak.progress(model) == 1.0
    model = tweak.prepare(_one_weight(of))
    model.compile("sgd", _mean)
    endless = tf.data.Dataset.from_tensors((x, x)).repeat(3).filter(lambda *_: True)
    with pytest.raises(UsageError, match=r"known number of batches.* callbacks\(steps=…\)"):
        model.fit(endless, epochs=2, callbacks=tweak.callbacks(), verbose=0)


def _convolutional(of=keras):
    """Everything that fades: soft units, fused and not, and skips with variables of their own."""
    layers = of.layers
    return chain(
        layers.Conv2D(4, 3, strides=2, name="conv"),
        layers.BatchNormalization(momentum=0.5, name="norm"),
        layers.ReLU(name="relu"),
        layers.Flatten(),
        layers.Dense(6, activation="relu", name="hidden"),
        layers.Dense(3, name="head"),
        shape=(6, 6, 2),
    )


RECIPE = [
    lt.SoftActivation(unit="mish"),
    lt.GhostSkips(share=0.5, alpha=1.0, shortcut="conv", convolutions="all"),
    lt.LabelSmoothing(),
]
X, Y = examples(8, (6, 6, 2))  # two steps an epoch, eight in all


def _prepared(eager=False, of=keras):
    """``eager`` is faster where the graph of a step is not the subject."""
    keras.utils.set_random_seed(0)  # Keras 3 sets the same
    of.utils.set_random_seed(0)
    plain = _convolutional(of)
    recipe = lt.Recipe(RECIPE)
    model = recipe.prepare(lt.wrap(plain, random_masks(plain)))
    model.compile(
        *(of.optimizers.SGD(0.05, momentum=0.9), recipe.loss()),
        **{"metrics": ["accuracy"], "run_eagerly": eager},
    )
    return recipe, model


def _fit(model, callbacks, first=0, last=4):
    return model.fit(
        *(X, Y),
        batch_size=4,
        shuffle=False,
        initial_epoch=first,
        epochs=last,
        validation_data=(X, Y),
        callbacks=callbacks,
        verbose=0,
    ).history


@functools.cache
def _straight(eager=False, of=keras):
    """A whole training without a break: what comes of it and its history."""
    recipe, model = _prepared(eager, of)
    history = _fit(model, recipe.callbacks())
    return values(model), history


def test_a_model_without_what_fades_has_faded(of):
    model = chain(of.layers.Dense(2))
    assert lt.SoftActivation().progress(model) == lt.Recipe("tost").progress(model) == 1.0


@pytest.mark.long
def test_nothing_is_traced_anew(of, monkeypatch):
    """The first step may be traced twice, for Keras makes variables in it; those after are not."""
    recipe, model = _prepared(of=of)
    gain, traced = SoftUnit._gain, []
    monkeypatch.setattr(SoftUnit, "_gain", lambda *args: traced.append(args) or gain(*args))
    _fit(model, recipe.callbacks(8), last=1)
    before = len(traced)
    assert before
    _fit(model, recipe.callbacks(8), first=1)
    assert recipe.progress(model) == 1.0
    assert len(traced) == before


@pytest.mark.long
def test_the_history_has_the_values(of):
    _, history = _straight(of=of)
    np.testing.assert_allclose(history["soft_activation_blend"], [0.5, 1, 1, 1])
    np.testing.assert_allclose(history["ghost_skips_alpha"], [0.5, 0, 0, 0])


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "eager", "of"),
    [
        ("model.keras", True, keras),
        ("model.keras", True, keras3),
        pytest.param("model.keras", False, keras, marks=e2e),
        pytest.param("model.keras", False, keras3, marks=e2e),
        *(
            # From an .h5 file too the model is made of its config.
            pytest.param(file, eager, keras, marks=e2e)
            for file, eager in [("model", False), ("model.h5", True)]
        ),
    ],
)
def test_a_saved_model_goes_on_in_the_middle_of_the_fade(tmp_path, file, eager, of):
    """ModelCheckpoint after the first of four epochs, loaded anew.

    A .keras file keeps the optimizer as it is, so that the training is the same to the bit.
    """
    exact = file == "model.keras"
    recipe, model = _prepared(eager, of)
    path = str(tmp_path / file)
    save = of.callbacks.ModelCheckpoint(path)
    model.fit(X, Y, batch_size=4, shuffle=False, callbacks=[*recipe.callbacks(8), save], verbose=0)
    loaded = of.models.load_model(path)
    loaded.run_eagerly = eager
    assert recipe.progress(loaded) == 0.5
    with pytest.raises(UsageError, match="SoftActivation, which has gone 50 % of its way"):
        recipe.finish(loaded)
    history = _fit(loaded, recipe.callbacks(), first=1)
    if exact:
        expected, whole = _straight(eager, of)
        assert_same(values(loaded), expected)
        np.testing.assert_allclose(history["val_loss"], whole["val_loss"][1:], rtol=1e-6)
    np.testing.assert_allclose(history["ghost_skips_alpha"], [0, 0, 0])
    final = recipe.finish(loaded)
    np.testing.assert_allclose(final(X), loaded(X), atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "of"),
    [("some.weights.h5", keras), ("checkpoint", keras), ("some.weights.h5", keras3)],
)
def test_saved_weights_hold_the_fade(tmp_path, file, eager, of):
    recipe, model = _prepared(eager, of)
    _fit(model, recipe.callbacks(8), last=1)
    model.save_weights(tmp_path / file)
    _, other = _prepared(eager, of)
    other.load_weights(tmp_path / file)
    assert_same(values(other), values(model))
    assert recipe.progress(other) == 0.5


def _break(epoch, logs):
    """Breaks the training in the second epoch."""
    if epoch == 1:
        raise KeyboardInterrupt


@pytest.mark.long
@pytest.mark.parametrize(
    ("backup_first", "eager"),
    [(True, True), pytest.param(False, False, marks=e2e)],
)
def test_backup_and_restore_goes_on_in_the_middle(tmp_path, backup_first, eager, of):
    recipe, model = _prepared(eager, of)

    def callbacks(*more):
        backup = of.callbacks.BackupAndRestore(tmp_path)
        ours = recipe.callbacks()
        return [backup, *ours, *more] if backup_first else [*ours, backup, *more]

    with pytest.raises(KeyboardInterrupt):
        _fit(model, callbacks(of.callbacks.LambdaCallback(on_epoch_end=_break)))
    _, again = _prepared(eager, of)
    history = _fit(again, callbacks())
    assert len(history["loss"]) in (2, 3)
    assert_same(values(again), _straight(eager, of)[0])


@pytest.mark.long
def test_functions_that_were_compiled_without_the_tweaks_are_not_kept(tmp_path, of):
    """Evaluating a loaded model has Keras compile its plain step, once for all."""
    recipe, model = _prepared(of=of)
    model.save(tmp_path / "model.keras")
    loaded = of.models.load_model(tmp_path / "model.keras")
    loaded.evaluate(X, Y, verbose=0)
    loaded.make_train_function()
    history = _fit(loaded, recipe.callbacks())
    expected, whole = _straight(of=of)
    assert_same(values(loaded), expected)
    np.testing.assert_allclose(history["val_loss"], whole["val_loss"], rtol=1e-6)


@pytest.mark.long
def test_another_recipe_does_not_finish_it(of):
    recipe, model = _prepared(True, of)
    _fit(model, recipe.callbacks())
    for name in ("vanilla", "label_smoothing"):
        with pytest.raises(UsageError, match="still has ghost_skips and soft_activation in it"):
            lt.Recipe(name).finish(model)


def _resumed(of):
    """As from a file: within the fades, and no recipe's callbacks have been on it."""
    recipe = lt.Recipe([lt.SoftActivation(share=1.0), GHOSTS(share=1.0)])
    model = recipe.prepare(_pruned(of))
    of.callbacks.CallbackList(recipe.callbacks(steps=4), model=model).on_train_begin()
    for tweak in recipe.tweaks:
        for layer in tweak.layers(model):
            layer.step.assign(2)
    prepared, model = model, of.models.clone_model(model)
    model.set_weights(prepared.get_weights())
    model.compile("sgd", lt.Recipe("label_smoothing").loss(_loss(of)), run_eagerly=True)
    return recipe, model


def _loss(of):
    return of.losses.SparseCategoricalCrossentropy(from_logits=True)


NOT_COVERED = (
    r"within the fade of ghost_skips \(50 % of its way\) and soft_activation \(50 % of its way\), "
    r'which this recipe has not: use lt.Recipe\("ghost_skips,soft_activation"\)'
)


def test_another_recipe_does_not_train_it_on(of):
    recipe, model = _resumed(of)
    other = lt.Recipe("label_smoothing")
    before = values(model)
    with pytest.raises(UsageError, match=NOT_COVERED):
        model.fit(X, Y, verbose=0, callbacks=other.callbacks())
    assert_same(values(model), before)
    for each in (other, lt.Recipe("vanilla")):
        with pytest.raises(UsageError, match=NOT_COVERED):
            each.progress(model)
    both = [*other.callbacks(), *recipe.callbacks()]  # one of two has the fades
    model.fit(X, Y, batch_size=4, verbose=0, callbacks=both)
    assert recipe.progress(model) == other.progress(model) == 1
    model.fit(X, Y, verbose=0, callbacks=other.callbacks())  # they have no effect any more


def test_part_of_its_recipe_does_not_train_it_on(of):
    _, model = _resumed(of)
    part = lt.Recipe("soft_activation")
    with pytest.raises(UsageError, match=r"the fade of ghost_skips \(50 % of its way\), which"):
        model.fit(X, Y, verbose=0, callbacks=part.callbacks())


@pytest.mark.long
@pytest.mark.parametrize("eagerly", [True, False])
def test_without_callbacks_a_line_says_that_the_fade_stands_still(of, eagerly, lines):
    recipe, model = _resumed(of)
    model.run_eagerly = eagerly
    for _ in range(2):
        model.fit(X, Y, validation_data=(X, Y), verbose=0)
    (line,) = [line for line in lines if "saved in training" in line]
    assert "which has not faded and stands still in this training: train on with fit(" in line
    assert 'where recipe is lt.Recipe("ghost_skips,soft_activation")' in line
    assert recipe.progress(model) == 0.5


@pytest.mark.long
@pytest.mark.parametrize("eagerly", [True, False])
def test_a_checkpoint_within_the_fade_is_not_told_to_be_finished(of, eagerly, lines):
    _, model = _resumed(of)
    model.run_eagerly = eagerly
    del lines[:]
    model.evaluate(X, Y, verbose=0)
    (line,) = lines
    assert "which has not faded: train on with fit(callbacks=recipe.callbacks()) until" in line


def test_a_model_that_only_teaches_is_not_told_of(of, lines):
    """It stands still on purpose."""
    _, teacher = _resumed(of)

    class Learning(of.Sequential):
        def test_step(self, data):
            teacher(data[0], training=False)
            return super().test_step(data)

    learner = Learning([of.Input((6, 6, 2)), of.layers.Flatten(), of.layers.Dense(3)])
    learner.compile(loss=_loss(of), run_eagerly=True)
    del lines[:]
    learner.evaluate(X, Y, verbose=0)
    assert lines == []


def test_where_the_numbers_are_not_known_a_line_says_so(of, lines, monkeypatch):
    """As in a step that JAX compiles, or on several devices."""
    _, model = _resumed(of)
    del lines[:]
    monkeypatch.setattr("lottery_tf.tweaks.fade.on_jax", lambda model: True)
    model.evaluate(X, Y, verbose=0)
    (line,) = lines
    assert "in it, which may not have faded: train on with" in line


def _pruned(of=keras):
    layers = of.layers
    of.utils.set_random_seed(0)
    convolution = layers.Conv2D(2, 3, activation="relu", name="conv")
    plain = chain(convolution, layers.Flatten(), layers.Dense(3, name="head"), shape=(6, 6, 2))
    return lt.wrap(plain, random_masks(plain))


GHOSTS = functools.partial(lt.GhostSkips, convolutions="all")
UNFINISHED = {
    "strip": lambda model, path: lt.strip(model),
    "export": lambda model, path: lt.export(model, path),
    "write_exports": lambda model, path: write_exports(model, path, images=X),
    "Ticket.of": lambda model, path: lt.Ticket.of(model, lt.get_masks(model)),
    "from_pruned": lambda model, path: lt.Ticket.from_pruned(model),
    "rewind_to": lambda model, path: lt.Ticket.from_pruned(lt.strip(_pruned()), model),
    "prune": lambda model, path: lt.prune(model, "omp", 0.9),
    "find_tickets": lambda model, path: lt.find_ticket(
        *(model, tf.data.Dataset.from_tensors((X, Y))),
        **{"optimizer": keras.optimizers.SGD(), "epochs": 1, "rounds": 0},
    ),
}


@pytest.mark.parametrize(
    ("kind", "way", "share", "of"),
    [
        pytest.param(
            *(kind, way, share, of),
            marks=() if kind is lt.SoftActivation or way == "strip" else e2e,
        )
        for way, share in [*((way, 0.5) for way in UNFINISHED), ("strip", 0.0), ("export", 0.0)]
        for kind in (lt.SoftActivation, GHOSTS)
        for of in (keras, keras3)
        if of is keras or way in ("strip", "Ticket.of", "from_pruned", "prune")
    ],
)
def test_a_prepared_model_is_not_a_finished_one(tmp_path, way, share, kind, of):
    """Nor one that has faded."""
    tweak = kind(share=share)
    model = tweak.prepare(_pruned(of))
    of.callbacks.CallbackList(tweak.callbacks(steps=4), model=model).on_train_begin()
    name = lt.Recipe([tweak]).name
    words = rf"still has {name} in it: call finish of its recipe, lt.Recipe\(\"{name}\"\)"
    with pytest.raises(UsageError, match=words):
        UNFINISHED[way](model, tmp_path / "export")
    assert not any(tmp_path.iterdir())


def test_tweaks_that_have_no_layers_of_their_own_leave_a_model_that_can_be_stripped():
    recipe = lt.Recipe([lt.LabelSmoothing(), lt.Distillation(_pruned())])
    assert_same(values(lt.strip(recipe.prepare(_pruned()))), values(_pruned()))


@pytest.mark.long
@pytest.mark.parametrize("run", ["evaluate", "predict"])
def test_a_loaded_checkpoint_tells_how_to_finish_it(tmp_path, lines, run, of):
    def look(model):
        return model.evaluate(X, Y, verbose=0) if run == "evaluate" else model.predict(X, verbose=0)

    recipe = lt.Recipe([lt.SoftActivation(share=0.0), GHOSTS(share=0.0)])
    model = recipe.prepare(_pruned(of))
    of.callbacks.CallbackList(recipe.callbacks(steps=4), model=model).on_train_begin()
    model.compile("sgd", recipe.loss())
    del lines[:]
    look(model)
    assert not lines  # its recipe trains it
    model.save(tmp_path / "model.keras")
    loaded = of.models.load_model(tmp_path / "model.keras")
    for _ in range(2):
        look(loaded)
    (line,) = lines
    names = "ghost_skips,soft_activation"
    assert f'which has faded: lt.Recipe("{names}").finish(model)' in line
    np.testing.assert_allclose(lt.Recipe(names).finish(loaded)(X), model(X), atol=1e-6)


@pytest.mark.long
def test_a_tweak_that_never_began_is_not_finished(of):
    recipe, model = _prepared(True, of)
    _fit(model, [], last=1)
    with pytest.raises(UsageError, match=r"has not begun.* fit\(callbacks=recipe.callbacks\(\)\)"):
        recipe.finish(model)


@pytest.mark.long
@pytest.mark.parametrize(
    ("policy", "eager"),
    [
        ("mixed_float16", True),
        *(
            pytest.param(*each, marks=e2e)
            for each in [("mixed_float16", False), ("mixed_bfloat16", True), ("float64", True)]
        ),
    ],
)
def test_in_other_precisions(policy, eager, of):
    of.mixed_precision.set_global_policy(policy)
    try:
        recipe, model = _prepared(eager, of)
        _fit(model, recipe.callbacks(), last=2)
        final = recipe.finish(model)
    finally:
        of.mixed_precision.set_global_policy("float32")
    np.testing.assert_allclose(final(X), model(X), atol=1e-5)
    assert np.isfinite(final(X)).all()


@e2e
def test_two_replicas_fade_together(of):
    with two_devices().scope():
        recipe, model = _prepared(of=of)
    history = _fit(model, recipe.callbacks())
    assert model.distribute_strategy.num_replicas_in_sync == 2
    np.testing.assert_allclose(history["ghost_skips_alpha"], [0.5, 0, 0, 0])
    for layer in RECIPE[0].layers(model):
        assert [int(each) for each in replicas(layer.step)] == [8, 8]
    final = recipe.finish(model)
    np.testing.assert_allclose(final(X), model(X), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lt.SoftActivation(share=1.2), r"share of SoftActivation in \[0, 1\].*not 1.2"),
        (lambda: lt.GhostSkips(share=-1), r"share of GhostSkips in \[0, 1\]"),
        (lambda: lt.SoftActivation(curve="line"), "`curve` takes linear.*nearest: linear"),
        (lambda: lt.SoftActivation(unit="gelu"), "`unit` takes pswish or mish"),
        (lambda: lt.SoftActivation(beta_start=0.0), "beta_start and beta_end above 0"),
        (lambda: lt.SoftActivation(beta_end=0.0), "beta_start and beta_end above 0"),
        (lambda: lt.SoftActivation(beta_end=np.inf), "beta_start and beta_end above 0"),
        (lambda: lt.SoftActivation(unit="mish", curve="exponential"), "linear, cosine or const"),
        (lambda: lt.GhostSkips(curve="exponential"), "`curve` takes linear, cosine or const"),
        (lambda: lt.GhostSkips(alpha=0.0), "alpha above 0"),
        (lambda: lt.GhostSkips(alpha=np.inf), "alpha above 0"),
        (lambda: lt.GhostSkips(shortcut="pool"), "`shortcut` takes identity or conv"),
    ],
)
def test_parameters_out_of_range(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.long
def test_tensorboard_writes_the_values(tmp_path, of):
    """Where it comes after the recipe's callbacks."""
    recipe, model = _prepared(True, of)
    board = of.callbacks.TensorBoard(tmp_path, write_graph=False)
    _fit(model, [*recipe.callbacks(), board])
    found = {}
    for file in sorted((tmp_path / "train").iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(float(tf.make_ndarray(value.tensor)))
    assert found["epoch_soft_activation_blend"] == [0.5, 1, 1, 1]
    assert found["epoch_ghost_skips_alpha"] == [0.5, 0, 0, 0]
