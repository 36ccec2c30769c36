"""Soft units and ghost skips that are kept: the finished model computes them in plain layers."""

import subprocess
import sys

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from networks import chain, eagerly, examples, functions, random_masks

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras, parts_of
from lottery_tf.graph.layers import named_variables
from lottery_tf.tweaks.soft_activation import SoftReLU, SoftReLU3


def network(of=keras):
    """Units fused, alone and as functions; a stride, more channels, a kernel without padding."""
    keras, layers = of, of.layers
    inputs = keras.Input((9, 9, 1))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs)
    y = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False, name="one")(x)
    y = layers.ReLU(6.0, name="relu6")(layers.BatchNormalization(momentum=0.5, name="norm")(y))
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="two")(y)
    x = layers.Conv2D(6, 1, strides=2, name="shortcut")(x)
    x = functions(of).relu(layers.Add(name="add")([x, y]))
    x = layers.ReLU(name="last_relu")(layers.Conv2D(5, 3, name="three")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


BOTH = {"soft_activation_keep": True, "ghost_skips_keep": True}
KEPT = [
    ("tost_reference", {"rescaled_init_iterations": 2}),
    (
        "ghost_skips,soft_activation",
        {**BOTH, "soft_activation_unit": "mish", "ghost_skips_alpha": 0.3},
    ),
    ("soft_activation,ghost_skips", {**BOTH, "ghost_skips_convolutions": ("all",)}),
    ("soft_activation,ghost_skips", {"soft_activation_keep": True}),
    ("ghost_skips,soft_activation", {"ghost_skips_keep": True, "ghost_skips_shortcut": "conv"}),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "settings", "of"), [(*each, of) for of in (keras, keras3) for each in KEPT]
)
def test_the_finished_model_computes_what_the_trained_one_computes(name, settings, of, lines):
    of.utils.set_random_seed(0)
    x, y = examples(16, (9, 9, 1))
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    recipe = lt.Recipe(name, settings)
    plain = network(of)
    ticket = lt.wrap(plain, random_masks(plain))
    with eagerly():
        model = recipe.prepare(ticket, data.repeat())
        model.compile(of.optimizers.SGD(0.05), recipe.loss())
        history = model.fit(data, epochs=2, callbacks=recipe.callbacks(), verbose=0).history
    final = recipe.finish(model)
    np.testing.assert_allclose(final(x), model(x, training=False), atol=1e-6)
    kinds = {type(part) for part in parts_of(final)}
    assert all(kind.__module__.startswith(f"{of.__name__}.") for kind in kinds)
    for path, mask in lt.get_masks(model).items():
        ours = [v for n, v in named_variables(final).items() if n == path]
        assert len(ours) == 1 and not ours[0].numpy()[mask == 0].any()
    for tweak in ("soft_activation", "ghost_skips"):
        told = sum(f"{tweak} stays in the finished model" in line for line in lines)
        assert told == (name == "tost_reference" or f"{tweak}_keep" in settings)
    if name == "tost_reference":
        assert history["soft_activation_beta"] == [2, 2]
        assert history["ghost_skips_alpha"] == [1, 1]


@pytest.mark.parametrize("of", [keras, keras3], ids=["tf_keras", "keras"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_kept_skip_is_cut_as_the_convolution_without_padding_cuts(rank, of, untraced):
    """By 3 in each direction: 1 in front and 2 behind, or the other way round."""
    convolution, shape = getattr(of.layers, f"Conv{rank}D"), (6, 7, 8)[:rank]
    model = chain(
        convolution(2, 3, padding="same", name="first"),
        convolution(2, 4, name="one"),
        convolution(2, 1, name="two"),
        of.layers.Flatten(),
        of.layers.Dense(3),
        shape=(*shape, 2),
    )
    prepared = lt.GhostSkips(keep=True, convolutions=("all",)).prepare(model)
    x = examples(4, (*shape, 2))[0]
    final = lt.GhostSkips(keep=True, convolutions=("all",)).finish(prepared)
    np.testing.assert_allclose(final(x), prepared(x, training=False), atol=1e-6)
    assert np.abs(final(x) - model(x)).max() > 0.01


# In a process that has not heard of lottery_tf.
LOADS = """
import sys
import keras, numpy as np, tf_keras
for of in (keras, tf_keras):
    model = of.models.load_model(of.__name__ + ".keras")
    y = np.load(of.__name__ + ".npy")
    np.testing.assert_allclose(model(np.load("x.npy")), y, atol=1e-6)
assert "lottery_tf" not in sys.modules
"""


@pytest.mark.e2e
def test_the_finished_model_is_loaded_where_there_is_no_lottery_tf(tmp_path):
    x, _ = examples(4, (9, 9, 1))
    np.save(tmp_path / "x.npy", x)
    recipe = lt.Recipe("ghost_skips,soft_activation", BOTH)
    for of in (keras, keras3):
        model = recipe.prepare(network(of))
        of.callbacks.CallbackList(recipe.callbacks(steps=4), model=model).on_train_begin()
        final = recipe.finish(model)
        final.save(tmp_path / f"{of.__name__}.keras")
        np.save(tmp_path / f"{of.__name__}.npy", final(x))
    subprocess.run([sys.executable, "-c", LOADS], cwd=tmp_path, check=True)


@pytest.mark.parametrize("kind", [SoftReLU, SoftReLU3])
def test_a_kept_unit_by_hand(kind):
    """x·σ(2x) at −1, 0 and 3: −1/(1 + e²), 0, 3/(1 + e⁻⁶); cut off at 6, 7 is 6."""
    x = np.array([[-1.0, 0.0, 3.0, 7.0]], np.float32)
    for cap, last in ((None, 7 / (1 + np.exp(-14))), (6.0, 6)):
        unit = kind(cap=cap, start=2.0, end=2.0, name="unit")
        unit.build(x.shape)
        y = x
        for layer in unit.in_plain_layers("unit"):
            y = layer(y)
        expected = [-1 / (1 + np.exp(2)), 0, 3 / (1 + np.exp(-6)), last]
        np.testing.assert_allclose(y[0], expected, rtol=1e-5)


def trained_to_its_end(layer):
    layer.length.assign(2)
    layer.step.assign(2)
    return layer


@pytest.mark.parametrize("kind", [SoftReLU, SoftReLU3])
def test_a_unit_past_its_fade_is_kept_as_relu(kind):
    x = np.array([[-1.0, 0.0, 3.0, 7.0]], np.float32)
    unit = kind(start=1.0, end=10.0, name="unit")
    unit.build(x.shape)
    (relu,) = trained_to_its_end(unit).in_plain_layers("unit")
    assert type(relu).__name__ == "ReLU"
    np.testing.assert_array_equal(relu(x)[0], [0, 0, 3, 7])


@pytest.mark.parametrize("kind", [SoftReLU, SoftReLU3])
def test_a_mish_within_its_fade_has_no_plain_layers(kind):
    unit = kind(unit="mish", start=0.0, end=1.0, name="unit")
    unit.build((None, 4))
    assert [type(each).__name__ for each in unit.in_plain_layers("unit")] == ["Activation"]
    unit.length.assign(4)
    unit.step.assign(2)
    with pytest.raises(UsageError, match="that of 'unit' was blended into ReLU: train it from"):
        unit.in_plain_layers("unit")


def test_a_skip_past_its_fade_is_not_in_the_finished_model(of, untraced):
    layers = of.layers
    model = chain(layers.Conv2D(3, 3, padding="same", name="conv"), layers.ReLU(), shape=(4, 4, 3))
    tweak = lt.GhostSkips(keep=True, convolutions="all")
    prepared = tweak.prepare(model)
    trained_to_its_end(prepared.get_layer("conv_ghost"))
    final, (x, _) = tweak.finish(prepared), examples(2, (4, 4, 3))
    np.testing.assert_array_equal(final(x), model(x))


def test_the_layers_of_what_is_kept_have_names_of_their_own(of, untraced):
    """Where a layer of the model has such a name already."""
    layers = of.layers
    model = chain(
        layers.Conv2D(3, 3, padding="same", activation="relu", name="conv"),
        *(layers.Flatten(name="conv_unit"), layers.Dense(3, name="conv_ghost_add")),
        shape=(4, 4, 3),
    )
    recipe = lt.Recipe([lt.GhostSkips(keep=True, convolutions="all"), lt.SoftActivation(keep=True)])
    for each in (recipe, lt.Recipe([lt.SoftActivation(keep=True)])):
        prepared = each.prepare(model)
        for callback in each.callbacks(steps=4):
            callback.set_model(prepared)
            callback.on_train_begin()
        final, (x, _) = each.finish(prepared), examples(2, (4, 4, 3))
        names = [layer.name for layer in final.layers]
        assert {"conv_unit", "conv_ghost_add"} < set(names) and len({*names}) == len(names)
        np.testing.assert_allclose(final(x), prepared(x, training=False), atol=1e-6)
    assert "conv_unit_" in names


def test_the_parameters_of_a_skip_are_those_that_were_trained(of):
    layers = of.layers
    model = chain(layers.Conv2D(3, 3, padding="same", name="conv"), layers.ReLU(), shape=(4, 4, 3))
    tweak = lt.GhostSkips(
        keep=True, shortcut="conv", convolutions="all", alpha=0.5, keep_signal=False
    )
    prepared = tweak.prepare(model)
    ghost = prepared.get_layer("conv_ghost")
    ghost.conv.kernel.assign(np.arange(9.0).reshape(1, 1, 3, 3))
    final = tweak.finish(prepared)
    assert tweak.progress(prepared) == 1
    np.testing.assert_array_equal(final.get_layer("conv_ghost_conv").kernel, ghost.conv.kernel)
    x, _ = examples(2, (4, 4, 3))
    skip = x @ np.arange(9.0).reshape(3, 3) / np.sqrt(1 + 1e-5)
    by_hand = np.maximum(model.get_layer("conv")(x) + 0.5 * skip, 0)
    np.testing.assert_allclose(final(x), by_hand, atol=1e-5)


def test_images_of_any_size_are_refused_before_the_training(of):
    layers = of.layers
    model = chain(layers.Conv2D(4, 3, name="conv"), layers.ReLU(), shape=(None, None, 2))
    tweak = lt.GhostSkips(keep=True, convolutions="all")
    with pytest.raises(UsageError, match="images of a known size, to keep .* around 'conv'"):
        tweak.prepare(model)


def test_what_is_not_kept_refuses_what_was_trained_to_be(of):
    recipe = lt.Recipe([lt.SoftActivation(keep=True)])
    model = recipe.prepare(network(of))
    for callback in recipe.callbacks(steps=4):
        callback.set_model(model)
        callback.on_train_begin()
    assert recipe.progress(model) == 1
    with pytest.raises(UsageError, match="past the fade of SoftActivation, which has not begun"):
        lt.Recipe("soft_activation").finish(model)
