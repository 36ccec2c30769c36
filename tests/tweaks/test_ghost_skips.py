"""Ghost skips: what they add by hand, around which convolutions, and that they leave no trace."""

import numpy as np
import pytest
import tensorflow as tf
from networks import chain, examples, layers, random_masks

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import is_keras3, keras, keras_of, layer_of, output_names
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import named_layers
from lottery_tf.tweaks import scaling, signal_scaling
from lottery_tf.tweaks.ghost_skip import GhostSkip, GhostSkip3

both_kinds = pytest.mark.parametrize("kind", [GhostSkip, GhostSkip3])


def _bare(convolutions="all", **kwargs):
    """Skips around every convolution, that add α·S(x) and do nothing else."""
    return lt.GhostSkips(convolutions=convolutions, keep_signal=False, **kwargs)


def _ghosts(model):
    return [layer.name for layer in lt.GhostSkips().layers(model)]


def _alone(layer, shape, **kwargs):
    """(y, y + S(x), x) of one convolution with a ghost around it, and a ReLU behind."""
    its = keras_of(layer)
    model = _bare(alpha=1.0, **kwargs).prepare(chain(layer, its.layers.ReLU(), shape=shape))
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    return (*_outputs(model, x, layer.name, f"{layer.name}_ghost"), x)


def _outputs(model, x, *names):
    """What the layers of those names give."""
    tensors = [model.get_layer(name).output for name in names]
    return list(map(np.array, keras_of(model).Model(model.input, tensors)(x)))


def test_the_identity_by_hand(of):
    """Four pixels of one channel, a kernel (1, 2, 0) and α = 0.5."""
    layers = of.layers
    model = chain(layers.Conv1D(1, 3, padding="same", name="conv"), layers.ReLU(), shape=(4, 1))
    model.get_layer("conv").kernel.assign(np.reshape([1.0, 2.0, 0.0], (3, 1, 1)))
    soft = _bare(alpha=0.5).prepare(model)
    x = np.reshape([1.0, -2.0, 3.0, -4.0], (1, 4, 1))
    # y = (2, 1·1 − 4, −2 + 6, 3 − 8) = (2, −3, 4, −5), and half of x to it.
    np.testing.assert_allclose(np.ravel(soft(x)), np.maximum([2.5, -4.0, 5.5, -7.0], 0))


def test_alpha_falls_to_0(of):
    layers = of.layers
    model = chain(layers.Conv1D(1, 3, padding="same", name="conv"), layers.ReLU(), shape=(4, 1))
    tweak = _bare(curve="cosine", alpha=0.6)
    (ghost,) = tweak.layers(tweak.prepare(model))
    ghost.length.assign(4)
    y, x = tf.zeros((1, 4, 1)), tf.ones((1, 4, 1))
    for step, alpha in ((0, 0.6), (2, 0.3), (4, 0), (5, 0)):
        ghost.step.assign(step)
        np.testing.assert_allclose(ghost([y, x]), alpha * np.ones((1, 4, 1)), atol=1e-6)


@both_kinds
@pytest.mark.parametrize("shortcut", ["identity", "conv"])
def test_the_sum_keeps_the_signal_by_hand(shortcut, kind):
    """At α = 1, 1/2 and 1/8; when it is over, y itself."""
    ghost = kind(shortcut, (1,), keep_signal=True)
    y, x = np.full((1, 4, 1), 2.0), np.full((1, 4, 1), 4.0)
    ghost.build([y.shape, x.shape])
    ghost.length.assign(8)
    s = 4.0
    if shortcut == "conv":
        ghost.conv.kernel.assign([[[3.0]]])
        s = 12 / np.sqrt(1 + 1e-5)  # moving mean 0 and variance 1
    factors = {
        # atan(1) is π/4: ½ + 2·¾ + 1/π
        "identity": {
            1: (2 + 1 / np.pi) ** -0.5,
            0.5: (0.5 + 1.25 * (0.5 + np.arctan(0.5) / np.pi) + 0.5 / np.pi) ** -0.5,
            0.125: (0.5 + 65 / 64 * (0.5 + np.arctan(0.125) / np.pi) + 0.125 / np.pi) ** -0.5,
            0: 1,
        },
        "conv": {1: np.sqrt(1 / 2), 0.5: np.sqrt(4 / 5), 0.125: np.sqrt(64 / 65), 0: 1},
    }[shortcut]
    for alpha, factor in factors.items():
        ghost.step.assign(round(8 * (1 - alpha)))
        np.testing.assert_allclose(ghost([y, x]), np.full_like(y, factor * (2 + alpha * s)), 1e-6)
    np.testing.assert_array_equal(ghost([y, x]), y)


@pytest.mark.parametrize("shortcut", ["identity", "conv"])
@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("strength", [1.0, 0.5, 0.1])
def test_the_second_moment_is_never_above_the_dense_one(shortcut, alpha, strength):
    """Behind a ReLU, of y ~ N(0, s²) beside a rectified normal; 400,000 of each. What comes out of
    a BatchNorm is as normal as y. It is that of the dense y where the sum is as strong, and that of
    the sum itself where it is weaker."""
    random = np.random.default_rng(0)
    y, x = random.standard_normal((2, 4000, 100, 1)).astype(np.float32)
    x = np.maximum(x, 0) if shortcut == "identity" else x
    y *= strength

    def moment(**kwargs):
        ghost = GhostSkip(shortcut, (1,), start=alpha, strength=strength, **kwargs)
        return np.mean(np.square(tf.nn.relu(ghost([y, x], training=True))))

    ghost = GhostSkip("identity", (1,), start=alpha)
    if shortcut == "conv":
        sum_ = np.mean(np.square(np.maximum(y + alpha * x, 0)))
    else:
        sum_ = np.mean(np.square(tf.nn.relu(ghost([y, x]))))
    assert moment(keep_signal=True) == pytest.approx(min(sum_, 0.5), rel=0.02)


def _strengths(model):
    tweak = lt.GhostSkips()
    return {each.name: each.strength for each in tweak.layers(tweak.prepare(model))}


@pytest.mark.long
def test_a_skip_knows_what_is_left_of_its_convolution(of):
    """By norms; of one that a normalisation follows, or that the scaling has made whole, all."""

    layers = of.layers

    def conv(name):
        return layers.Conv2D(2, 3, padding="same", use_bias=False, name=name)

    plain = chain(
        *(conv("first"), layers.ReLU(), conv("bare"), layers.ReLU(), conv("normed")),
        *(layers.BatchNormalization(), layers.ReLU(), conv("dense"), layers.ReLU()),
        shape=(4, 4, 2),
    )
    half = np.broadcast_to([[True, False], [True, True]], (3, 3, 2, 2))
    masks = lt.Masks({f"{name}/kernel": half for name in ("first", "bare", "normed")})
    kernel = plain.get_layer("bare").kernel.numpy()
    left = np.linalg.norm(kernel * half) / np.linalg.norm(kernel)
    expected = {"bare_ghost": pytest.approx(left), "normed_ghost": 1, "dense_ghost": 1}
    assert left < 0.99 and _strengths(lt.wrap(plain, masks)) == expected
    scaled = lt.SignalScaling().prepare(lt.wrap(plain, masks))
    assert _strengths(scaled) == dict.fromkeys(expected, pytest.approx(1))
    # The search for scales multiplies what is left, and more than whole is whole.
    for scales, strength in (({"bare/kernel": 0.5}, left / 2), ({"bare/kernel": 9.0}, 1)):
        again = scaling.scaled(lt.wrap(plain, masks), scales)
        assert _strengths(again) == expected | {"bare_ghost": pytest.approx(strength)}
    from_zeros = lt.Ticket.from_pruned(lt.strip(lt.wrap(plain, masks))).build()
    assert _strengths(from_zeros)["bare_ghost"] == pytest.approx(0.75**0.5)


def test_a_separable_convolution_is_as_strong_as_its_two_kernels():
    plain = chain(
        layers.Conv2D(2, 3, padding="same"),
        layers.SeparableConv2D(2, 3, padding="same", name="both"),
        layers.ReLU(),
        shape=(4, 4, 2),
    )
    deep, point = (f"both/{each}_kernel" for each in ("depthwise", "pointwise"))
    model = lt.wrap(plain, masks := random_masks(plain))
    assert {deep, point} & masks.keys() == set(masks) - {"conv2d/kernel"}
    (strength,) = _strengths(model).values()
    left = signal_scaling.strengths(model)
    assert strength == pytest.approx(left.get(deep, 1) * left.get(point, 1)) and strength < 0.99


def _drops(kind=GhostSkip, **kwargs):
    ghost = kind("identity", (1,), fade="drop", start=0.5, keep_signal=True, **kwargs)
    y, x = tf.fill((4000, 2, 1), 3.0), tf.fill((4000, 2, 1), 2.0)
    ghost.build([y.shape, x.shape])
    ghost.length.assign(8)
    return ghost, [y, x]


@both_kinds
def test_images_go_without_it_more_and_more(kind):
    """An image has the whole skip or none; their share is α/α₀, of 4,000 known to 0.8 %."""
    ghost, data = _drops(kind)
    whole = 4 * (0.5 + 1.25 * (0.5 + np.arctan(0.5) / np.pi) + 0.5 / np.pi) ** -0.5
    for step, share in ((0, 1), (2, 3 / 4), (4, 1 / 2), (7, 1 / 8), (8, 0)):
        ghost.step.assign(step)
        seen = ghost(data, training=True).numpy()
        np.testing.assert_array_equal(seen[:, 0], seen[:, 1])  # of one image
        has_it = np.isclose(seen[:, 0, 0], whole)
        np.testing.assert_allclose(seen[~has_it], 3)
        assert has_it.mean() == pytest.approx(share, abs=0.03 * (0 < share < 1))
    ghost.step.assign(4)
    gentle = kind("identity", (1,), start=0.25, keep_signal=True)
    np.testing.assert_allclose(ghost(data, training=False), gentle(data), 1e-6)


@both_kinds
def test_the_draws_are_those_of_the_step_and_the_seed(kind):
    """So that a training that is resumed draws what it would have drawn, in either Kerases."""
    ghost, data = _drops(kind, seed=1)
    ghost.step.assign(3)
    first = ghost(data, training=True).numpy()
    np.testing.assert_array_equal(ghost(data, training=True), first)
    again, _ = _drops(seed=1)
    again.step.assign(3)
    np.testing.assert_array_equal(again(data, training=True), first)
    ghost.step.assign(2)
    other, _ = _drops(seed=2)
    other.step.assign(3)
    assert all((each(data, training=True).numpy() != first).any() for each in (ghost, other))


def test_each_skip_that_is_dropped_has_a_seed_of_its_own():
    """Drawn from NumPy's, as Keras' own ``set_random_seed`` sets it."""

    def seeds_of(seed):
        keras.utils.set_random_seed(seed)
        convs = [layers.Conv2D(2, 3, padding="same", name=f"conv{n}") for n in range(4)]
        tweak = lt.GhostSkips(fade="drop", convolutions=("all",))
        model = tweak.prepare(chain(*convs, layers.Flatten(), shape=(3, 3, 2)))
        return [layer.seed for layer in model.layers if isinstance(layer, GhostSkip)]

    assert len(set(seeds_of(0))) == 4 and seeds_of(0) == seeds_of(0) != seeds_of(1)


def test_the_convolutional_shortcut_is_dropped_by_default():
    plain = chain(
        *(layers.Conv2D(3, 3, padding="same") for _ in range(3)), layers.ReLU(), shape=(6, 6, 3)
    )

    def fades(**kwargs):
        keras.utils.set_random_seed(0)
        tweak = lt.GhostSkips(**kwargs)
        skips = tweak.layers(tweak.prepare(plain))
        return {each.fade for each in skips}, len({each.seed for each in skips})

    assert fades() == ({"weight"}, 1) and fades(shortcut="conv", fade="weight") == ({"weight"}, 1)
    assert fades(shortcut="conv") == fades(fade="drop") == ({"drop"}, 2)


def test_the_epoch_logs_the_largest():
    model = keras.Sequential([_with_a_block()])
    model.build((None, 6, 6, 1))
    tweak = lt.GhostSkips()
    prepared = tweak.prepare(model)
    prepared.compile("sgd", "mse", run_eagerly=True)
    x = np.zeros((4, 6, 6, 1), np.float32)
    history = prepared.fit(
        *(x, model(x)), epochs=10, batch_size=1, callbacks=tweak.callbacks(), verbose=0
    ).history
    np.testing.assert_allclose(history["ghost_skips_alpha"], [0.5] + 9 * [0], atol=1e-6)


def _with_a_block(of=keras):
    """A stem, a block with a shortcut around two convolutions, and one behind it."""
    keras, layers = of, of.layers

    def conv(name):
        return layers.Conv2D(2, 3, padding="same", name=name)

    inputs = keras.Input((6, 6, 1))
    x = conv("stem")(inputs)
    x = layers.Add()([x, conv("two")(layers.ReLU()(conv("one")(x)))])
    return keras.Model(inputs, layers.Flatten()(conv("last")(x)))


def _alphas(model, **kwargs):
    tweak = lt.GhostSkips(**kwargs)
    return {each.name: each.schedule.start for each in tweak.layers(tweak.prepare(model))}


@pytest.mark.long
def test_alpha_by_place(of):
    """1 where there is no other way, 0.1 beside a shortcut; one that is given holds everywhere."""
    plain = chain(*(of.layers.Conv1D(2, 3, name=name) for name in "abcd"), shape=(9, 2))
    assert _alphas(plain) == {"b_ghost": 1, "c_ghost": 1}  # d is the output
    block = _with_a_block(of)
    assert _alphas(block) == {"one_ghost": 0.1, "two_ghost": 0.1, "last_ghost": 1}
    assert _alphas(lt.wrap(block)) == _alphas(block)
    assert _alphas(block, alpha=0.3) == dict.fromkeys(_alphas(block), 0.3)


def test_alpha_by_place_in_a_resnet():
    model = lt.models.create("resnet8_half", (8, 8, 3), 10, width=2)
    blocks = [f"stage{i}_block1_conv{k}" for i in (1, 2, 3) for k in (1, 2)]
    usual, of_all = _alphas(model), _alphas(model, convolutions="all")
    assert usual == {f"{name}_ghost": 0.1 for name in blocks}
    (stem,) = of_all.keys() - usual.keys()
    assert of_all == usual | {stem: 1}
    assert _alphas(model, convolutions=stem.removesuffix("_ghost")) == {stem: 1}


def test_what_a_release_before_has_saved_does_not_keep_the_signal():
    config = GhostSkip("identity", (1,)).get_config()
    del config["keep_signal"]
    assert GhostSkip.from_config(config).keep_signal is False
    assert GhostSkip.from_config({**config, "keep_signal": True}).keep_signal is True


def test_strides_average_and_channels_are_padded_with_zeros(of):
    y, sum_, x = _alone(of.layers.Conv2D(5, 3, strides=2, padding="same", name="conv"), (4, 6, 3))
    pooled = x.reshape(2, 2, 2, 3, 2, 3).mean((2, 4))
    np.testing.assert_allclose(sum_[..., :3], y[..., :3] + pooled, atol=1e-5)
    np.testing.assert_array_equal(sum_[..., 3:], y[..., 3:])


def test_without_padding_the_middle_is_taken_and_surplus_channels_are_left_out(of):
    y, sum_, x = _alone(of.layers.Conv2D(2, 3, name="conv"), (5, 6, 3))
    np.testing.assert_allclose(sum_, y + x[:, 1:4, 1:5, :2], atol=1e-6)


@pytest.mark.parametrize("padding", [1, ((0, 1), (0, 1))])
def test_a_layer_that_pads_is_within_the_ghost(padding, eager, of):
    """As with padding="same": pixels 0 and 1 are averaged, not 0 and the padding."""
    layers = of.layers
    conv = layers.Conv2D(3, 3, strides=2, name="conv")
    plain = chain(layers.ZeroPadding2D(padding), conv, layers.ReLU(), shape=(4, 6, 3))
    model = _bare(alpha=1.0).prepare(plain)
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 3)).astype(np.float32)
    y, sum_ = _outputs(model, x, "conv", "conv_ghost")
    np.testing.assert_allclose(sum_, y + x.reshape(2, 2, 2, 3, 2, 3).mean((2, 4)), atol=1e-5)
    model.compile("sgd", "mse", run_eagerly=eager)
    model.fit(x, plain(x), callbacks=lt.GhostSkips().callbacks(), verbose=0)
    final = lt.GhostSkips().finish(model)
    assert [each.name for each in final.layers] == [each.name for each in plain.layers]
    np.testing.assert_allclose(final(x), model(x), atol=1e-5)


def test_a_layer_that_pads_for_a_dilated_convolution_is_within_too():
    """All on one side, so that the middle of what is padded is not the input."""
    conv = layers.Conv2D(3, 3, dilation_rate=2, name="conv")
    model = _bare("same", alpha=1.0).prepare(
        chain(layers.ZeroPadding2D(((4, 0), (0, 4))), conv, layers.ReLU(), shape=(5, 6, 3))
    )
    x = np.random.default_rng(0).standard_normal((2, 5, 6, 3)).astype(np.float32)
    y, sum_ = _outputs(model, x, "conv", "conv_ghost")
    np.testing.assert_allclose(sum_, y + x, atol=1e-5)


@pytest.mark.parametrize(
    ("pad", "padding", "added"),
    [(3, "valid", (2, 2)), ((1, 3), "valid", (0, 2)), (1, "same", (1, 1))],
)
def test_a_layer_that_pads_for_more_than_the_convolution_is_outside(pad, padding, added):
    """What the convolution leaves of it is in the skip; one in one direction is enough."""
    conv = layers.Conv2D(3, 3, padding=padding, name="conv")
    model = _bare(alpha=1.0).prepare(
        chain(layers.ZeroPadding2D(pad, name="pad"), conv, layers.ReLU(), shape=(4, 4, 3))
    )
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
    y, sum_ = _outputs(model, x, "conv", "conv_ghost")
    rows, columns = ((each, each) for each in added)
    np.testing.assert_allclose(sum_, y + np.pad(x, ((0, 0), rows, columns, (0, 0))), atol=1e-5)


CONVOLUTIONS = {
    "causal": (lambda each: each.Conv1D(3, 3, padding="causal", name="conv"), (7, 2)),
    "strided": (lambda each: each.Conv1D(2, 4, strides=3, name="conv"), (9, 2)),
    "3D": (
        lambda each: each.Conv3D(3, 3, strides=(1, 2, 2), padding="same", name="conv"),
        (3, 5, 5, 2),
    ),
    "depthwise": (
        lambda each: each.DepthwiseConv2D(3, strides=2, padding="same", name="conv"),
        (5, 5, 2),
    ),
    "dilated": (lambda each: each.SeparableConv2D(4, 3, dilation_rate=2, name="conv"), (7, 7, 2)),
    "oblong": (lambda each: each.Conv2D(4, (1, 3), strides=3, name="conv"), (7, 7, 2)),
    "any size": (lambda each: each.Conv2D(4, 3, padding="same", name="conv"), (None, None, 2)),
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "shortcut", "eager", "of"),
    [
        *((name, "identity", True, of) for name in CONVOLUTIONS for of in (keras, keras3)),
        # Both compute a skip by the same code: each skip's graph in one of them.
        *(
            pytest.param(name, shortcut, False, of, marks=pytest.mark.e2e)
            for number, name in enumerate(CONVOLUTIONS)
            for shortcut, of in zip(
                ("identity", "conv"), (keras, keras3)[:: -1 if number % 2 else 1], strict=True
            )
        ),
    ],
)
def test_any_convolution(name, shortcut, eager, of):
    """It has a ghost, the shapes are right, and the finished model is the trained one.

    In graphs that is with XLA, to which the size has to be known.
    """
    make, shape = CONVOLUTIONS[name]
    plain = chain(make(of.layers), of.layers.ReLU(), shape=shape)
    tweak = lt.GhostSkips(share=1.0, alpha=1.0, shortcut=shortcut, convolutions="all")
    model = tweak.prepare(plain)
    assert _ghosts(model) == ["conv_ghost"]
    assert model.output_shape == plain.output_shape
    x = np.random.default_rng(0).standard_normal((4, *(side or 6 for side in shape)))
    before = plain(x)
    assert np.abs(model(x) - before).max() > 0.01
    xla = not eager and shape[0] is not None
    model.compile("sgd", "mse", jit_compile=xla, run_eagerly=eager)
    model.fit(x, before, batch_size=2, callbacks=tweak.callbacks(), verbose=0)
    final = tweak.finish(model)
    np.testing.assert_allclose(final(x), model(x), atol=1e-5)
    assert [type(each) for each in final.layers] == [type(each) for each in plain.layers]


def test_the_convolutional_shortcut_by_hand(of):
    """A strided 1×1 convolution and BatchNorm, in inference and in training."""
    layers = of.layers
    conv = layers.Conv2D(4, 3, strides=2, padding="same", name="conv")
    model = _bare(shortcut="conv", alpha=0.25).prepare(chain(conv, layers.ReLU(), shape=(4, 4, 3)))
    ghost = model.get_layer("conv_ghost")
    random = np.random.default_rng(0)
    ghost.conv.kernel.assign(random.standard_normal((1, 1, 3, 4)))
    x, y = random.standard_normal((2, 4, 4, 3)), random.standard_normal((2, 2, 2, 4))
    skip = x[:, ::2, ::2] @ ghost.conv.kernel.numpy()[0, 0]
    fresh = skip / np.sqrt(1 + 1e-5)  # moving mean 0 and variance 1
    np.testing.assert_allclose(ghost([y, x]), y + 0.25 * fresh, atol=1e-5)
    batch = (skip - skip.mean((0, 1, 2))) / np.sqrt(skip.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(ghost([y, x], training=True), y + 0.25 * batch, atol=1e-4)
    # A tenth of the way from 0, as the reference's momentum has it.
    np.testing.assert_allclose(ghost.norm.moving_mean, 0.1 * skip.mean((0, 1, 2)), atol=1e-6)


def _network(of=keras):
    """Convolution → BatchNorm → Add → ReLU in several orders; nested, shared, two outputs."""
    keras, layers = of, of.layers

    def conv(name, filters=4, **kwargs):
        return layers.Conv2D(filters, 3, padding="same", name=name, **kwargs)

    inside = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            conv("in_conv", activation="relu"),
            layers.BatchNormalization(name="in_norm"),
        ],
        name="inside",
    )
    first, second = keras.Input((6, 6, 4), name="first"), keras.Input((6, 6, 4), name="second")
    shared = conv("shared")
    x = layers.Add(name="add_shared")([shared(first), shared(second)])
    y = layers.BatchNormalization(name="norm")(conv("with_norm")(x))
    x = layers.ReLU(name="relu")(layers.Add(name="add")([x, y]))
    x = inside(x)
    forked = conv("forked")(x)
    x = layers.Concatenate(name="both")(
        [layers.BatchNormalization(name="fork_norm")(forked), forked]
    )
    x = layers.Conv2D(4, 1, name="pointwise")(x)
    x = layers.Conv2DTranspose(4, 3, padding="same", name="transposed")(x)
    out = conv("out", 3)(x)
    return keras.Model([first, second], [out, layers.GlobalAveragePooling2D(name="pooled")(x)])


@pytest.mark.long
def test_places(lines, of):
    plain = _network(of)
    tweak = lt.GhostSkips(share=0.0, convolutions="all")
    model = tweak.prepare(lt.wrap(plain, random_masks(plain)))
    assert lines[-1].partition(" without one: ")[0].endswith("4 ghost skips; spatial convolutions")
    assert sorted(lines[-1].rpartition(": ")[2].split(", ")) == ["out", "transposed"]
    assert sorted(_ghosts(model)) == [
        *("forked_ghost", "in_conv_ghost", "shared_ghost", "with_norm_ghost"),
    ]
    before = {
        name: [layer.name for layer in part.layers]
        for name, part in (("", model), ("inside", model.get_layer("inside")))
    }
    assert before["inside"][1:] == ["in_conv", "in_conv_ghost", "in_norm"]
    order = before[""]
    assert order.index("with_norm") < order.index("norm") < order.index("with_norm_ghost")
    assert order.index("with_norm_ghost") < order.index("add") < order.index("relu")
    forked = model.get_layer("forked_ghost")
    assert {layer_of(node).name for node in forked._outbound_nodes} == {"fork_norm", "both"}
    assert output_names(model) == output_names(plain)

    x = [np.random.default_rng(i).standard_normal((4, 6, 6, 4)) for i in range(2)]
    y = [np.zeros((4, 6, 6, 3)), np.zeros((4, 4))]
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(x, y, callbacks=tweak.callbacks(), verbose=0)
    final = lt.strip(tweak.finish(model))
    theirs, ours = named_layers(plain), named_layers(final)
    assert list(theirs) == list(ours)
    assert all(ours[path].get_config() == theirs[path].get_config() for path in ours)
    assert type(final.get_layer("inside")) is of.Sequential
    if is_keras3(plain):
        assert final.get_config() == plain.get_config()
    for one, other in zip(final(x), model(x), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_those_that_come_first_have_none(lines):
    """By default: here a shared one, that reads both inputs."""
    prepared = lt.GhostSkips().prepare(_network())
    end = "3 ghost skips; spatial convolutions without one: shared, transposed, out"
    assert lines[-1].endswith(end)
    assert sorted(_ghosts(prepared)) == ["forked_ghost", "in_conv_ghost", "with_norm_ghost"]


def test_a_sequential_model_comes_back_as_one(eager, of):
    keras, layers = of, of.layers
    plain = keras.Sequential(
        [
            keras.Input((5, 5, 2), name="image"),
            layers.Conv2D(3, 3, activation="relu", name="conv"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="head"),
        ],
        name="mine",
    )
    tweak = lt.GhostSkips(share=0.0, convolutions="all")
    model = tweak.prepare(lt.wrap(plain, random_masks(plain)))
    x, y = examples(8, (5, 5, 2))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True), run_eagerly=eager)
    model.fit(x, y, callbacks=tweak.callbacks(), verbose=0)
    final = lt.strip(tweak.finish(model))
    assert type(final) is keras.Sequential and final.name == "mine"
    assert [layer.name for layer in final.layers] == ["conv", "flat", "head"]
    assert final.to_json() == lt.strip(plain).to_json()
    np.testing.assert_allclose(final(x), model(x), atol=1e-6)


def test_which_convolutions():
    def names(*convolutions):
        return sorted(_ghosts(lt.GhostSkips(convolutions=convolutions).prepare(network())))

    def network():
        return chain(
            layers.Conv2D(3, 3, padding="same", name="same_shape"),
            layers.Conv2D(5, 3, padding="same", name="wider"),
            layers.Conv2D(5, 3, padding="same", name="again"),
            layers.ReLU(),
            shape=(6, 6, 3),
        )

    assert names("all") == ["again_ghost", "same_shape_ghost", "wider_ghost"]
    assert names("hidden") == ["again_ghost", "wider_ghost"]
    assert lt.GhostSkips() == lt.GhostSkips(convolutions="hidden")
    assert names("hidden", "same_shape") == names("all")
    assert names("same") == ["again_ghost", "same_shape_ghost"]
    assert names("wider", "again") == ["again_ghost", "wider_ghost"]
    assert lt.GhostSkips(convolutions="same") == lt.GhostSkips(convolutions=("same",))
    with pytest.raises(UsageError, match="kernel larger than 1, not 'widr'; nearest: wider"):
        names("widr")


def test_how_the_convolutional_shortcut_starts():
    """As the reference's, all weights 1e-4; to keep the signal Var w = 2/64, known to 1.1 %."""
    ghost = GhostSkip("conv", (1, 1))
    ghost.build([(None, 4, 4, 3), (None, 4, 4, 2)])
    np.testing.assert_array_equal(ghost.conv.kernel, np.full((1, 1, 2, 3), 1e-4, np.float32))
    ghost = GhostSkip("conv", (1, 1), keep_signal=True)
    ghost.build([(None, 4, 4, 64), (None, 4, 4, 64)])
    assert np.std(ghost.conv.kernel) == pytest.approx((2 / 64) ** 0.5, rel=0.06)


def test_the_skip_computes_in_the_precision_of_its_convolution(of):
    layers = of.layers
    conv = layers.Conv2D(3, 3, dtype="mixed_bfloat16", name="conv")
    tweak = lt.GhostSkips(shortcut="conv", convolutions="all")
    model = tweak.prepare(chain(conv, layers.Flatten(), shape=(4, 4, 3)))
    ghost = model.get_layer("conv_ghost")
    parts = (ghost, ghost.conv, ghost.norm)
    found = [(each.compute_dtype, each.variable_dtype) for each in parts]
    assert found == [("bfloat16", "float32")] * 3


def test_losses_on_tensors_are_refused():
    model = chain(layers.Conv2D(3, 3, padding="same"), layers.ReLU(), shape=(6, 6, 3))
    model.add_loss(tf.reduce_mean(model.output))
    with pytest.raises(UsageError, match="without add_loss"):
        lt.GhostSkips(convolutions="all").prepare(model)


@both_kinds
def test_the_layer_comes_back_from_its_config(kind):
    fade = {"start": 0.5, "curve": "cosine", "keep_signal": True, "strength": 0.5}
    fade |= {"fade": "drop", "seed": 3}
    ghost = kind("conv", (2, 2), activation="relu", sequential=True, **fade)
    layers = keras_of(ghost).layers
    again = layers.deserialize(layers.serialize(ghost))
    assert type(again) is kind and again.get_config() == ghost.get_config()


def test_a_name_that_is_taken_is_left_alone():
    model = chain(layers.Conv2D(3, 3, name="a"), layers.ReLU(name="a_ghost"), shape=(6, 6, 3))
    prepared = lt.GhostSkips(convolutions="all").prepare(model)
    names = [layer.name for layer in prepared.layers[1:]]
    assert names == ["a", "a_ghost_", "a_ghost"]


@pytest.mark.parametrize("tweak", [lt.GhostSkips(convolutions="all"), lt.SoftActivation()])
def test_a_model_is_prepared_once(tweak, of):
    model = chain(of.layers.Conv2D(3, 3), of.layers.ReLU(), shape=(6, 6, 3))
    with pytest.raises(UsageError, match="was prepared with it already"):
        tweak.prepare(tweak.prepare(model))


def _finished_is_trained(model, x):
    """Prepares, skips the fade, finishes; the largest difference between trained and finished."""
    tweak = lt.GhostSkips(share=0.0, convolutions="all")
    prepared = tweak.prepare(model)
    for ghost in tweak.layers(prepared):
        ghost.length.assign(0)
    pairs = zip(
        tf.nest.flatten(prepared(x)), tf.nest.flatten(tweak.finish(prepared)(x)), strict=True
    )
    before = zip(tf.nest.flatten(prepared(x)), tf.nest.flatten(model(x)), strict=True)
    differences = [np.abs(one - other).max() for one, other in [*pairs, *before]]
    assert max(differences) < 1e-6
    return _ghosts(prepared)


X = np.random.default_rng(0).standard_normal((4, 6, 6, 3)).astype(np.float32)


def _fused(name="conv", of=keras, **kwargs):
    return of.layers.Conv2D(3, 3, padding="same", activation="relu", name=name, **kwargs)


def test_a_fused_relu_that_makes_an_output_somewhere_stays_everywhere(lines, of):
    keras, layers = of, of.layers
    a, b, shared = keras.Input((6, 6, 3)), keras.Input((6, 6, 3)), _fused(of=of)
    model = keras.Model([a, b], [shared(a), layers.GlobalAveragePooling2D()(shared(b))])
    assert _finished_is_trained(model, [X, X]) == []
    assert lines[-1].endswith("0 ghost skips; spatial convolutions without one: conv")


def test_a_convolution_shared_with_a_nested_sequential(of):
    keras, layers = of, of.layers
    conv, inputs = _fused(of=of), keras.Input((6, 6, 3))
    nested = keras.Sequential([keras.Input((6, 6, 3)), conv, layers.ReLU(name="relu")])
    model = keras.Model(inputs, layers.Flatten()(layers.Add()([nested(inputs), conv(inputs)])))
    assert len(_finished_is_trained(model, X)) == 2


@pytest.mark.long
def test_a_model_within_two_models_has_its_ghost_behind_the_batchnorm(of):
    keras, layers = of, of.layers
    inner = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(3, 3, padding="same", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
        ],
        name="inner",
    )
    outer = []
    for name in ("one", "two"):
        inputs = keras.Input((6, 6, 3))
        outer.append(keras.Model(inputs, inner(inputs), name=name))
    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, layers.Flatten()(outer[1](outer[0](inputs))))
    prepared = lt.GhostSkips(convolutions="all").prepare(model)
    names = [layer.name for layer in prepared.get_layer("one").get_layer("inner").layers[1:]]
    assert names == ["conv", "norm", "conv_ghost", "relu"]
    _finished_is_trained(model, X)


def test_the_variables_of_a_fused_activation_come_along_and_back(of):
    layers = of.layers
    conv = layers.Conv2D(3, 3, padding="same", activation=layers.PReLU(), name="conv")
    model = chain(conv, layers.Flatten(), shape=(6, 6, 3))
    model(X)  # builds the unit, in Keras 3
    conv.activation.alpha.assign(tf.fill(conv.activation.alpha.shape, 0.5))
    assert _finished_is_trained(model, X) == ["conv_ghost"]


class Scaled(layers.Conv2D):
    """Does something with what its activation gives."""

    def call(self, x):
        return super().call(x) * 2


def _doubled(x):
    return 2 * x


@pytest.mark.parametrize("name", ["ghost_skips", "soft_activation,ghost_skips,label_smoothing"])
def test_a_fused_function_of_a_users_own_comes_along_and_back(name):
    plain = chain(
        layers.Conv2D(1, 3, padding="same", activation=_doubled, name="conv"),
        layers.Flatten(),
        layers.Dense(3),
        shape=(4, 4, 1),
    )
    x, _ = examples(2, (4, 4, 1))
    settings = {"ghost_skips_share": 0.0, "soft_activation_share": 0.0}
    recipe = lt.Recipe(name, {**settings, "ghost_skips_convolutions": ("all",)})
    model = recipe.prepare(plain)
    assert _ghosts(model) == ["conv_ghost"]
    for callback in recipe.callbacks(steps=1):
        callback.set_model(model)
        callback.on_train_begin()
    final = recipe.finish(model)
    assert final.get_layer("conv").activation is _doubled
    np.testing.assert_allclose(final(x), plain(x), rtol=1e-6)


def test_fused_activations_that_are_not_known_stay(lines):
    model = chain(
        Scaled(3, 3, padding="same", activation="relu", name="scaled"),
        _fused("regularised", activity_regularizer="l2"),
        layers.TimeDistributed(layers.Conv1D(3, 3, padding="same"), name="rows"),
        _fused("plain"),
        layers.Flatten(),
        shape=(6, 6, 3),
    )
    prepared = lt.GhostSkips(convolutions="all").prepare(model)
    assert _ghosts(prepared) == ["plain_ghost"]
    assert lines[-1].endswith("without one: scaled, regularised, rows")


class Own(keras.Model):
    """A functional model with a training step of its own."""

    def train_step(self, data):
        return {"mine": tf.constant(7.0)}


def test_a_training_step_of_ones_own_is_kept():
    inputs = keras.Input((6, 6, 3))
    model = Own(inputs, layers.Flatten()(_fused()(inputs)))
    tweak = lt.GhostSkips(share=1.0, convolutions="all")
    prepared = tweak.prepare(model)
    prepared.compile("sgd", "mse")
    history = prepared.fit(X, np.zeros((4, 108)), callbacks=tweak.callbacks(), verbose=0).history
    assert history["mine"] == [7.0]
    assert tweak.progress(prepared) == 1.0


@both_kinds
def test_channels_may_come_first(kind):
    """Two of them are padded to three, or cut to one; the pixels of a stride are those behind."""
    x = np.arange(16.0, dtype=np.float32).reshape(1, 2, 2, 4)
    for channels in (1, 3):
        y = np.ones((1, channels, 2, 4), np.float32)
        ghost = kind("identity", (1, 1), "channels_first", start=0.5)
        ghost.build([y.shape, x.shape])
        ghost.length.assign(9)
        by_hand = 1 + 0.5 * np.pad(x, [(0, 0), (0, 1), (0, 0), (0, 0)])[:, :channels]
        np.testing.assert_allclose(ghost([y, x]), by_hand)
    ghost = kind("conv", (1, 2), "channels_first")
    ghost.build([(1, 3, 2, 2), x.shape])
    assert tuple(ghost.conv.kernel.shape) == (1, 1, 2, 3) and ghost.norm.gamma.shape[0] == 3
    np.testing.assert_array_equal(ghost._thinned(x), x[:, :, :, ::2])
