"""SynFlow against the paper's equation in NumPy, its conservation law, its rounds and its range."""

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from networks import (
    EVERYTHING,
    assert_same,
    both_kerases,
    chain,
    every_variable,
    layers,
    random_masks,
    values,
)

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.finding.scores import synflow
from lottery_tf.finding.scores.linear_layers import linear
from lottery_tf.finding.scores.network import Network
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import assign
from lottery_tf.masks.prunable import prunable_weights

STEP = 1e-30


def scores_of(model, masks=None):
    """SynFlow's scores of all kernels of ``model``."""
    masks = masks or lt.Masks.ones(prunable_weights(model, EVERYTHING))
    return synflow.score(Network(lt.wrap(model, masks)))


def by_hand(flow, weights):
    """(R, |w ∂R/∂w|) of ``flow``, a function of the weights; by complex steps, exact."""
    absolute = {name: np.abs(value).astype(complex) for name, value in weights.items()}
    found = {}
    for name, value in absolute.items():
        found[name] = np.zeros(value.shape)
        for place in np.ndindex(value.shape):
            moved = value.copy()
            moved[place] += STEP * 1j
            slope = flow({**absolute, name: moved}).imag / STEP
            found[name][place] = np.abs(value[place].real * slope)
    return flow(absolute).real, found


def scramble(model):
    """Values of both signs for all variables, BatchNorm's statistics too; variances above 0."""
    random = np.random.default_rng(3)
    for name, variable in {v.name: v for v in model.variables}.items():
        value = random.standard_normal(variable.shape)
        variable.assign(np.abs(value) + 0.3 if "variance" in name else value)
    return model


def norm(w, path, epsilon):
    """What BatchNorm in inference mode multiplies with."""
    gamma, variance = (w[f"{path}/{name}"].astype(float) for name in ("gamma", "moving_variance"))
    return np.abs(gamma) / np.sqrt(variance + epsilon)


def plain(last="softmax", policy="float32", its_keras=keras):
    """Biases, BatchNorm, and no ReLU anywhere."""
    layers, kind = its_keras.layers, {"dtype": policy}
    return scramble(
        chain(
            layers.Conv2D(3, 2, activation="swish", name="conv", **kind),
            layers.BatchNormalization(epsilon=1e-3, name="norm", **kind),
            layers.LeakyReLU(**kind),
            layers.Flatten(**kind),
            layers.Dense(4, activation="tanh", name="one", **kind),
            layers.BatchNormalization(epsilon=1e-5, name="one_norm", **kind),
            layers.Dense(3, activation="sigmoid", name="two", **kind),
            layers.Dense(2, activation=last, name="head", **kind),
            shape=(3, 3, 2),
        )
    )


def plain_flow(model):
    """R as a function of the kernels: a linear network."""
    fixed = values(model)

    def flow(w):
        kernel = w["conv/kernel"]
        x = np.ones((3, 3, 2))
        x = sum(x[i : i + 2, j : j + 2] @ kernel[i, j] for i in (0, 1) for j in (0, 1))
        x = (x * norm(fixed, "norm", 1e-3)).ravel() @ w["one/kernel"]
        return (x * norm(fixed, "one_norm", 1e-5) @ w["two/kernel"] @ w["head/kernel"]).sum()

    return flow


def kernels(model):
    return {name: v for name, v in values(model).items() if name.endswith("kernel")}


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_plain_network(policy, its_keras):
    """The scores of each layer sum to R; the model, its statistics too, stays as it was."""
    model = plain(policy=policy, its_keras=its_keras)
    before = every_variable(model)
    total, expected = by_hand(plain_flow(model), kernels(model))
    found = scores_of(model)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == np.float64
        np.testing.assert_allclose(value, expected[name], rtol=1e-12)
        np.testing.assert_allclose(value.sum(), total, rtol=1e-12)
    assert_same(every_variable(model), before)


def test_every_layer_of_vgg_16_passes_on_the_whole_flow():
    """The scores of each of its 14 kernels sum to R, with a third of the weights pruned too.

    R is what the network itself puts out for ones: of |w|, without what is added, no ReLU cuts.
    """
    model = scramble(lt.models.create("vgg16", (16, 16, 3), 10, width=2))
    masks = random_masks(model, 2 / 3)
    found = scores_of(model, masks)
    assert len(found) == 14
    added = ("bias", "beta", "moving_mean")
    weights = {n: np.abs(v) * (not n.endswith(added)) for n, v in values(model).items()}
    assign(model, {n: v * masks.get(n, np.True_) for n, v in weights.items()})
    total = float(tf.reduce_sum(model(tf.ones([1, 16, 16, 3]), training=False)))
    assert total > 0
    sums = [each.sum() for each in found.values()]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-12)
    assert sums[0] == pytest.approx(total, rel=1e-4)


def test_five_rounds_by_hand():
    """Round i leaves the density ρ^(i/5); what is pruned has no score any more (trap 21)."""
    model = plain()
    masks = lt.Masks.ones({name: each.shape for name, each in kernels(model).items()})
    found = lt.prune(model, "synflow", 0.6, rounds=5, keep_dense=()).masks
    counts = []
    for i in range(1, 6):
        left = {name: value * masks[name] for name, value in kernels(model).items()}
        scores = by_hand(plain_flow(model), left)[1]
        flat = [(value, n, place) for n, each in scores.items()
                for place, value in enumerate(each.ravel()) if masks[n].flat[place]]  # fmt: skip
        kept = masks.total - round((1 - 0.4 ** (i / 5)) * masks.total)
        survivors = sorted(flat, key=lambda each: each[0])[len(flat) - kept :]
        arrays = {name: np.zeros(mask.shape, bool) for name, mask in masks.items()}
        for _, name, place in survivors:
            arrays[name].flat[place] = True
        masks = lt.Masks(arrays)
        counts.append(masks.kept)
    assert counts == [75, 62, 52, 43, 36]
    assert found == masks
    assert lt.prune(model, "synflow", 0.6, rounds=1, keep_dense=()).masks != masks


@both_kerases
def test_a_residual_network(its_keras):
    """The scores of all weights that a cut passes sum to R: both branches of a block together."""
    layers = its_keras.layers
    inputs = its_keras.Input((4,))
    x = layers.Dense(5, activation="gelu", name="stem")(inputs)
    y = layers.BatchNormalization(epsilon=1e-3, name="norm")(
        layers.Dense(5, activation="elu", name="inner")(x)
    )
    x = layers.Add()([x, y])
    y = layers.Dense(3, name="branch")(x) + layers.Dense(3, name="shortcut")(x)
    model = scramble(its_keras.Model(inputs, layers.Dense(2, name="head")(layers.ReLU()(y))))
    factor = norm(values(model), "norm", 1e-3)

    def flow(w):
        x = np.ones(4) @ w["stem/kernel"]
        x = x + x @ w["inner/kernel"] * factor
        return (x @ (w["branch/kernel"] + w["shortcut/kernel"]) @ w["head/kernel"]).sum()

    total, expected = by_hand(flow, kernels(model))
    found = scores_of(model)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12)
    sums = {name.partition("/")[0]: value.sum() for name, value in found.items()}
    for cut in (sums["stem"], sums["branch"] + sums["shortcut"], sums["head"]):
        np.testing.assert_allclose(cut, total, rtol=1e-12)
    assert 0 < sums["inner"] < 0.99 * total


@both_kerases
def test_a_recurrent_layer_keeps_its_activation(its_keras):
    """h ← tanh(x |W| + h |U|) twice."""
    layers = its_keras.layers
    model = chain(
        layers.Dense(3, activation="relu", name="one"),
        layers.SimpleRNN(2, bias_initializer="ones", name="recurrent"),
        layers.Dense(2, name="head"),
        shape=(2, 3),
    )

    def flow(w):
        x, h = np.ones(3) @ w["one/kernel"], np.zeros(2)
        for _ in range(2):
            h = np.tanh(x @ w["recurrent/kernel"] + h @ w["recurrent/recurrent_kernel"])
        return (h @ w["head/kernel"]).sum()

    found = scores_of(model)
    _, expected = by_hand(flow, {name: kernels(model)[name] for name in found})
    of_layer = ("recurrent/kernel", "recurrent/recurrent_kernel")
    assert list(found) == ["one/kernel", *of_layer, "head/kernel"]
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12)


@pytest.mark.long
@both_kerases
def test_an_embedding_gives_the_mean_of_its_rows(its_keras):
    """Whatever is looked up: all rows have a score. The row of padding is none of them."""
    layers = its_keras.layers
    for mask_zero in (False, True):
        inputs = its_keras.Input((2,), dtype="int32")
        x = layers.Embedding(4, 3, mask_zero=mask_zero, name="words")(inputs)
        x = layers.LSTM(2, name="head")(x) if mask_zero else layers.Flatten()(x)
        model = its_keras.Model(inputs, x if mask_zero else layers.Dense(2, name="head")(x))
        found = scores_of(model)
        if mask_zero:
            assert not found["words/embeddings"][0].any() and found["words/embeddings"][1:].all()
            continue

        def flow(w):
            return (np.tile(w["words/embeddings"].mean(0), 2) @ w["head/kernel"]).sum()

        total, expected = by_hand(flow, {name: values(model)[name] for name in found})
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-12)
            np.testing.assert_allclose(value.sum(), total)


@both_kerases
def test_attention_is_a_product_of_three(its_keras):
    """Queries and keys of 2 steps have scores, each kernel's adding up to R."""
    layers = its_keras.layers
    inputs = its_keras.Input((2, 3))
    x = layers.MultiHeadAttention(2, 4, name="it")(inputs, inputs)
    model = its_keras.Model(inputs, layers.Dense(2, name="head")(x))
    found = scores_of(model)

    def flow(w):
        x = np.ones((2, 3))
        parts = [w["it/kernel"] / 2, w["it/kernel_1"], w["it/kernel_2"]]  # √4 divides the query
        q, k, v = (np.einsum("tc,chd->thd", x, part) for part in parts)
        seen = np.einsum("thd,shd->hts", q, k) / 2  # the mean of two keys
        y = np.einsum("hts,shd->thd", seen, v)
        return (np.einsum("thd,hdc->tc", y, w["it/kernel_3"]) @ w["head/kernel"]).sum()

    total, expected = by_hand(flow, {name: values(model)[name] for name in found})
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, err_msg=name)
        np.testing.assert_allclose(value.sum(), total)


def of_any_graph(k):
    """Name → what stands between two Dense layers, and the shape of its input, without the 64 bits
    of the others: a model in which R is the sum of the last layer's scores all the same."""
    layers = k.layers

    class Block(layers.Layer):
        """A branch of layers of 32 bits, added to what it takes."""

        def __init__(self, units=4, **kwargs):
            super().__init__(**kwargs)
            self.units = units
            self.mlp = k.Sequential([layers.Dense(units), layers.Dense(units)])

        def call(self, x):
            return x + self.mlp(x) * np.float32(0.5)

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    return {
        "own": ([Block()], (4,)),
        "Lambda": ([layers.Lambda(own_function)], (4,)),
        "average 3D": ([layers.AveragePooling3D(2), layers.Flatten()], (2, 2, 4, 3)),
        "max 3D": ([layers.MaxPooling3D(2), layers.Flatten()], (2, 2, 4, 3)),
        "upsampling 3D": ([layers.UpSampling3D(2), layers.Flatten()], (1, 2, 2, 3)),
        "resizing": ([layers.Resizing(3, 3), layers.Flatten()], (2, 2, 3)),
        "each": ([layers.TimeDistributed(layers.Dense(3)), layers.Flatten()], (2, 3)),
        "cells": (
            [layers.RNN([layers.SimpleRNNCell(3, "linear"), layers.SimpleRNNCell(2, "linear")])],
            (2, 3),
        ),
    }


def own_function(x):
    return x * np.float32(2)


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("name", of_any_graph(keras))
def test_any_graph_conserves_the_flow(name, its_keras):
    stack, shape = of_any_graph(its_keras)[name]
    first, last = (its_keras.layers.Dense(4, name=n, use_bias=False) for n in ("first", "last"))
    model = chain(first, *stack, last, shape=shape)
    found = scores_of(model)
    assert found["first/kernel"].all() and found["last/kernel"].all()
    whole = np.sum(found["last/kernel"])
    np.testing.assert_allclose(np.sum(found["first/kernel"]), whole, rtol=1e-5)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("pool", "strides"), [(2, None), ((3, 2, 1), (2, 1, 2))])
@both_kerases
def test_of_equal_maxima_in_three_dimensions_one_takes_the_flow(its_keras, pool, strides, padding):
    layer = its_keras.layers.MaxPooling3D(pool, strides, padding)
    copy = linear(layer)
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3, 2))
    np.testing.assert_allclose(copy(x), layer(x.astype("float32")), rtol=1e-6)
    ones = tf.Variable(tf.ones((1, 4, 4, 4, 1), tf.float64))
    with tf.GradientTape() as tape:
        out = copy(ones)
    np.testing.assert_allclose(np.sum(tape.gradient(out, ones)), np.size(out))


@both_kerases
def test_of_pooling_in_three_dimensions_the_channels_may_come_first(its_keras):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4, 3))
    first, last = (
        linear(its_keras.layers.MaxPooling3D((3, 2, 1), data_format=f"channels_{place}"))
        for place in ("first", "last")
    )
    np.testing.assert_array_equal(
        first(x), np.transpose(last(np.transpose(x, (0, 2, 3, 4, 1))), (0, 4, 1, 2, 3))
    )


@both_kerases
def test_a_layer_of_32_bits_takes_what_is_beyond_them(its_keras):
    """The second half of four matrices of ones times 1e15 is a layer of the user's own: R is
    2^5 · 1e60, and what flows in between is 2^3 · 1e30 and 2^4 · 1e45."""

    class Own(its_keras.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(name="w", shape=(2, 2))

        def get_prunable_weights(self):
            return [self.w]

        def call(self, x):
            return x @ self.w

    with its_keras.saving.custom_object_scope({"Own": Own}):
        dense = [its_keras.layers.Dense(2, use_bias=False, name=n) for n in "abd"]
        model = chain(dense[0], dense[1], Own(name="c"), dense[2], shape=(2,))
        assign(model, {n: np.full((2, 2), 1e15, np.float32) for n in values(model)})
        found = scores_of(model)
    assert list(found) == ["a/kernel", "b/kernel", "c/w", "d/kernel"]
    for name, value in found.items():
        np.testing.assert_allclose(value, 2**5 * 1e60 / 4, rtol=1e-5, err_msg=name)


@both_kerases
@pytest.mark.parametrize("kind", ["int", "string", "multi_hot", "string multi_hot", "hashed"])
def test_the_flow_begins_behind_what_looks_up(kind, its_keras):
    """An encoding of words or numbers is an input of ones; a number of a word finds a mean row."""
    layers = its_keras.layers
    of_strings = "string" in kind or kind == "hashed"
    inputs = its_keras.Input((1,), dtype="string" if of_strings else "int64")
    mode = "multi_hot" if "hot" in kind else "int"
    if kind == "hashed":
        x = layers.Hashing(4)(inputs)
    elif of_strings:
        x = layers.StringLookup(vocabulary=["a", "b", "c"], output_mode=mode)(inputs)
    else:
        x = layers.IntegerLookup(vocabulary=[1, 2, 3], output_mode=mode)(inputs)
    if "hot" not in kind:
        x = layers.Flatten()(layers.Embedding(5, 4, name="words")(x))
    model = its_keras.Model(inputs, layers.Dense(2, name="head", use_bias=False)(x))
    found = scores_of(model)
    assert all(value.all() for value in found.values())
    if "hot" in kind:
        np.testing.assert_allclose(found["head/kernel"], np.abs(values(model)["head/kernel"]))


FUNCTIONS = {
    "softmax": tf.nn.softmax,
    "sigmoid": tf.sigmoid,
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, alpha=0.1),
    "gelu of Keras": keras.activations.gelu,
    "cast": lambda x: tf.cast(x, tf.float16),
    "mathematics": lambda x: 2.0 * x[:, ::-1] - tf.constant(-1.0) * x,
}
FUNCTIONS3 = {
    "softmax": ops.softmax,
    "relu of Keras": lambda x: keras3.activations.relu(x, max_value=1e-3),
    "leaky_relu": lambda x: ops.leaky_relu(x, 0.1),
    "gelu of Keras": keras3.activations.gelu,
    "cast": lambda x: ops.cast(x, "float16"),
    "cast and back": lambda x: ops.cast(ops.cast(x, "float16"), "float32"),
    "mathematics": lambda x: 2.0 * x[:, ::-1] - ops.convert_to_tensor(-1.0) * x,
}


@pytest.mark.parametrize(
    ("its_keras", "function"),
    [*((keras, each) for each in FUNCTIONS), *((keras3, each) for each in FUNCTIONS3)],
)
def test_functions_in_the_graph(its_keras, function):
    """Activations and casts that are called on tensors let everything pass; the rest is kept."""
    layers = its_keras.layers
    inputs = its_keras.Input((4,))
    call = (FUNCTIONS if its_keras is keras else FUNCTIONS3)[function]
    x = call(layers.Dense(3, name="one")(inputs))
    model = scramble(its_keras.Model(inputs, call(layers.Dense(3, name="two")(x))))
    one, two = (np.abs(value).astype(float) for value in kernels(model).values())
    found = scores_of(model)
    turned = function == "mathematics"
    x = one.sum(0) + 2 * one.sum(0)[::-1] if turned else one.sum(0)
    expected = x[:, None] * two * (3 if turned else 1)
    np.testing.assert_allclose(found["two/kernel"], expected, rtol=1e-12)
    np.testing.assert_allclose(found["one/kernel"].sum(), expected.sum(), rtol=1e-12)


def test_whole_numbers_may_be_cast():
    """ops.cast of tokens to floating numbers is part of the linear network, in float64."""
    inputs = keras3.Input((3,), dtype="int32")
    x = keras3.layers.Dense(2, name="one")(ops.cast(inputs, "float32"))
    found = scores_of(keras3.Model(inputs, x))["one/kernel"]
    assert found.dtype == np.float64 and found.all()


class Relu(keras3.Operation):
    """A function of the user's own, named as one of Keras' is."""

    def call(self, x):
        return 2.0 * x

    def compute_output_spec(self, x):
        return keras3.KerasTensor(x.shape, x.dtype)


def test_a_function_of_ones_own_is_kept():
    inputs = keras3.Input((4,))
    one = keras3.layers.Dense(3, name="one")
    plain, doubled = (
        scores_of(keras3.Model(inputs, keras3.layers.Dense(2, name="two")(function(one(inputs)))))
        for function in (ops.relu, Relu())
    )
    ratio = doubled["one/kernel"].sum() / doubled["two/kernel"].sum()
    assert ratio == pytest.approx(1, rel=1e-12) and plain.keys() == doubled.keys()


ACTIVATIONS = [
    *(layers.ReLU(0.1), layers.LeakyReLU(), layers.ELU(), layers.ThresholdedReLU(9.0)),
    *(layers.Softmax(), layers.Activation("softmax"), layers.Activation(tf.nn.relu6)),
    *(tf.nn.elu, tf.nn.gelu, tf.nn.leaky_relu, tf.nn.log_softmax, tf.nn.relu, tf.nn.relu6),
    *(tf.nn.selu, tf.nn.sigmoid, tf.nn.silu, tf.nn.softmax, tf.nn.softplus, tf.nn.softsign),
    *(tf.nn.tanh, tf.math.log_sigmoid),
]
ACTIVATIONS3 = [
    *(keras3.layers.ReLU(0.1, name="a"), keras3.layers.LeakyReLU(name="b")),
    *(
        keras3.layers.ELU(name="c"),
        keras3.layers.Softmax(name="d"),
        keras3.layers.Activation("mish", name="e"),
    ),
    *(ops.celu, ops.elu, ops.gelu, ops.hard_sigmoid, ops.hard_silu, ops.hard_tanh),
    *(ops.leaky_relu, ops.log_sigmoid, ops.log_softmax, ops.relu, ops.relu6, ops.selu),
    *(ops.sigmoid, ops.silu, ops.soft_shrink, ops.softmax, ops.softplus, ops.softsign),
    *(ops.sparse_plus, ops.squareplus, ops.tanh, ops.tanh_shrink, ops.sparsemax),
    *(keras3.activations.relu, lambda x: ops.clip(x, 0.0, 1e-3)),
]


@pytest.mark.parametrize(
    ("its_keras", "activations"),
    [(keras, ACTIVATIONS), (keras3, ACTIVATIONS3)],
    ids=["tf_keras", "keras"],
)
def test_every_activation_lets_everything_pass(its_keras, activations):
    layers = its_keras.layers
    inputs = its_keras.Input((4,))
    x = layers.Dense(3, name="one")(inputs)
    for activation in activations:
        x = activation(x)
    model = scramble(its_keras.Model(inputs, layers.Dense(2, name="two")(x)))
    one, two = (np.abs(value).astype(float) for value in kernels(model).values())
    expected = {"one/kernel": one * two.sum(1), "two/kernel": one.sum(0)[:, None] * two}
    for name, value in scores_of(model).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12)


@both_kerases
def test_several_inputs_and_outputs_nested_and_shared(its_keras):
    """Of a layer that is called twice R is a polynomial in the weights."""
    layers = its_keras.layers
    small, large = its_keras.Input((2,), name="small"), its_keras.Input((3,), name="large")
    inner = its_keras.Input((4,))
    x = layers.Dense(4, activation="softplus", name="shared")(inner)
    encoder = its_keras.Model(
        inner, layers.BatchNormalization(epsilon=1e-3, name="norm")(x), name="encoder"
    )
    a, b = layers.Dense(4, name="a")(small), layers.Dense(4, name="b")(large)
    heads = {
        "first": layers.Dense(2, activation="softmax", name="first")(encoder(encoder(a))),
        "second": layers.Dense(1, name="second")(layers.Add()([encoder(b), a])),
    }
    model = scramble(its_keras.Model({"small": small, "large": large}, heads))
    factor = norm(values(model), "encoder/norm", 1e-3)

    def flow(w):
        def encode(x):
            return x @ w["encoder/shared/kernel"] * factor

        a, b = np.ones(2) @ w["a/kernel"], np.ones(3) @ w["b/kernel"]
        first = encode(encode(a)) @ w["first/kernel"]
        return first.sum() + ((encode(b) + a) @ w["second/kernel"]).sum()

    _, expected = by_hand(flow, kernels(model))
    found = scores_of(model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)


# Range


def deep(weight, layers=layers):
    """16 layers of 10 units, all weights the same: R is 10·(10·weight)¹⁶."""
    stack = [layers.Dense(10, use_bias=False, name=f"dense{i}") for i in range(16)]
    model = chain(*stack, shape=(10,))
    assign(model, {name: np.full(value.shape, weight) for name, value in values(model).items()})
    return model


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize(
    ("weight", "nested"),
    [
        (1e-5, False),
        (1e3, True),
        *(pytest.param(*case, marks=pytest.mark.e2e) for case in [(1e3, False), (1e-5, True)]),
    ],
)
def test_no_overflow_and_no_underflow(weight, nested, its_keras):
    """float32 ends at 3e38 and at 1e-45. A nested model would cast what it is given to it."""
    weight = float(np.float32(weight))
    total = 10 * (10 * weight) ** 16
    assert total > 1e60 or total < 1e-60
    model = deep(weight, its_keras.layers)
    if nested:
        half = its_keras.Sequential([its_keras.Input((10,)), *model.layers[1:9]])
        model = chain(half, its_keras.Sequential(model.layers[9:]), shape=(10,))
    found = scores_of(model)
    assert len(found) == 16
    for each in found.values():
        np.testing.assert_allclose(each, total / 100, rtol=1e-10)


def test_what_float64_cannot_hold_is_said():
    with pytest.raises(RuntimeError, match="synflow are not finite for dense0/kernel.*range"):
        lt.prune(deep(1e30), "synflow", 0.5)


def test_an_input_of_unknown_size():
    model = chain(
        layers.Conv2D(2, 2), layers.GlobalAveragePooling2D(), layers.Dense(2), shape=(None, None, 1)
    )
    with pytest.raises(UsageError, match=r"known shape for synflow.*\(None, None, None, 1\)"):
        lt.prune(model, "synflow", 0.5)


@pytest.mark.parametrize(
    ("name", "size", "width"),
    [("conv4", 8, 4), pytest.param("vgg16", 16, 8, marks=pytest.mark.e2e)],
)
def test_no_layer_collapses(name, size, width):
    """TRAP 23: at 99 % every layer keeps weights; scored in one round they would not."""
    keras.utils.set_random_seed(0)
    model = lt.models.create(name, (size, size, 3), 10, width=width)
    assert not lt.prune(model, "synflow", 0.99).masks.collapsed
    assert lt.prune(model, "synflow", 0.99, rounds=1).masks.collapsed


SQUARES = {
    "layer": (keras, lambda x: keras.layers.Multiply()([x, x])),
    "function": (keras, lambda x: tf.multiply(x, x)),
    "layer of Keras 3": (keras3, lambda x: keras3.layers.Multiply()([x, x])),
    "function of Keras 3": (keras3, lambda x: x * x),
}


@pytest.mark.parametrize("size", [1e3, 1.0, 1e-3])
@pytest.mark.parametrize("kind", SQUARES)
def test_products_one_behind_the_other_stay_in_range(kind, size):
    """R is a power of w of degree 2ⁿ⁻ⁱ in layer i, up to size^4095: each layer's scores sum to its
    degree times R, whatever R is divided by."""
    its_keras, square = SQUARES[kind]
    inputs = x = its_keras.Input((1,))
    ones = its_keras.initializers.Constant(size)
    for i in range(11):
        x = square(its_keras.layers.Dense(1, kernel_initializer=ones, name=f"dense{i}")(x))
    head = its_keras.layers.Dense(1, kernel_initializer=ones, name="head")
    found = scores_of(its_keras.Model(inputs, head(x)))
    degrees = [each.sum() / found["head/kernel"].sum() for each in found.values()]
    np.testing.assert_allclose(degrees, [*(2.0 ** (11 - i) for i in range(11)), 1], rtol=1e-9)


@pytest.mark.parametrize("its_keras", [keras, keras3])
def test_products_behind_a_shortcut_are_as_they_are_in_float64(its_keras):
    """R = 1ᵀ(1 + w₂w₁)… is 1e27 here: each layer of a block has the same sum of scores."""
    layers = its_keras.layers
    its_keras.utils.set_random_seed(0)
    inputs = x = its_keras.Input((64,))
    for i in range(3):
        h = layers.Dense(64, name=f"in{i}", use_bias=False)(x)
        h = layers.Multiply()([h, layers.Dense(64, name=f"gate{i}", use_bias=False)(h)])
        x = layers.Add()([x, layers.Dense(64, name=f"out{i}", use_bias=False)(h)])
    found = scores_of(its_keras.Model(inputs, layers.Dense(3, name="head")(x)))
    # The flow through a block is nearly all that there is, and its first layer counts twice in it.
    sums = {name: each.sum() for name, each in found.items()}
    np.testing.assert_allclose(sums["in2/kernel"], 2 * sums["out2/kernel"], rtol=1e-9)
    np.testing.assert_allclose(sums["gate2/kernel"], sums["out2/kernel"], rtol=1e-9)
    assert 1e20 < sums["head/kernel"] < 1e40
    np.testing.assert_allclose(sums["out2/kernel"], sums["head/kernel"], rtol=1e-3)


@pytest.mark.parametrize("its_keras", [keras, keras3])
def test_products_of_whole_numbers_are_as_they_are(its_keras):
    layers = its_keras.layers
    ids = [its_keras.Input((3,), dtype="int32") for _ in range(2)]
    x = layers.Flatten()(layers.Embedding(5, 4)(layers.Multiply()(ids)))
    scores = scores_of(its_keras.Model(ids, layers.Dense(2, name="head")(x)))
    assert scores["head/kernel"].all()


@pytest.mark.parametrize(
    ("its_keras", "function", "told"),
    [
        (keras, keras.activations.mish, ["tf.math.multiply"]),  # x · tanh(softplus(x))
        *(
            (k, lambda x, k=k: k.layers.Multiply(name="gate")([x, x]), ["gate"])
            for k in (keras, keras3)
        ),
        *((k, lambda x: 2 * x, []) for k in (keras, keras3)),
        (keras, lambda x: tf.clip_by_value(x, 0.0, 1e-3), []),
        (keras3, lambda x: x * ops.sigmoid(x), ["multiply"]),
        pytest.param(
            *(keras3, ops.glu, ["glu"]),
            marks=pytest.mark.skipif(
                ops.glu(keras3.Input((6,))).shape != (None, 3),
                reason="older releases say it has as many outputs as inputs",
            ),
        ),
    ],
    ids=["mish", *["gate"] * 2, *["scaled"] * 2, "clipped", "swish", "glu"],
)
def test_products_of_activations_are_told(lines, its_keras, function, told):
    layers = its_keras.layers
    inputs = its_keras.Input((4,))
    hidden = function(layers.Dense(6, name="one")(inputs))
    model = its_keras.Model(inputs, layers.Dense(2)(hidden))
    found = scores_of(model)
    assert [line for line in lines if "multiply activations" in line] == [
        f"synflow: {name} of '{model.name}' multiply activations, so that the scores do not add up "
        "there as in a linear network."
        for name in told
    ]
    if not told:
        sums = [each.sum() for each in found.values()]
        np.testing.assert_allclose(sums, sums[0], rtol=1e-12)


SHIFTS = {
    "rescaling": (lambda k: k.layers.Rescaling(1 / 127.5, offset=-1), 1 / 127.5),
    "negative rescaling": (lambda k: k.layers.Rescaling(-2.0), 2.0),
    "normalization": (lambda k: k.layers.Normalization(mean=124.0, variance=58.0**2), 1 / 58),
    "adapted": (lambda k: adapted(k.layers.Normalization()), 0.5),
    "inverted": (lambda k: k.layers.Normalization(mean=-9.0, variance=4.0, invert=True), 2.0),
}


def adapted(layer):
    """To columns of mean 7 and variance 4."""
    layer.adapt(np.array([[5.0] * 4, [9.0] * 4], "float32"))
    return layer


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("kind", SHIFTS)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_what_is_added_to_the_pixels_does_not_count(dtype, kind, its_keras):
    """The flow through a layer in front is that without it, times its factor: no bias, no sign."""
    make, factor = SHIFTS[kind]
    k = its_keras.layers
    inputs = its_keras.Input((4,), dtype=dtype)
    tail = its_keras.Sequential([k.Dense(5, "relu", name="first"), k.Dense(3, name="head")])
    whole = its_keras.Model(inputs, tail(make(its_keras)(inputs)))
    alone = its_keras.Sequential([its_keras.Input((4,)), *tail.layers])
    found, expected = scores_of(whole), scores_of(alone)
    for (name, each), other in zip(found.items(), expected.values(), strict=True):
        assert (each > 0).any()
        np.testing.assert_allclose(each, factor * other, rtol=1e-6, err_msg=name)


@both_kerases
def test_a_constant_feature_has_no_flow(its_keras):
    """Keras would multiply it by 1e7, so that its weights alone would stay."""
    norm = its_keras.layers.Normalization()
    norm.adapt(np.array([[3.0, 5.0], [3.0, 9.0]], "float32"))
    model = its_keras.Sequential([its_keras.Input((2,)), norm, its_keras.layers.Dense(5)])
    (found,) = scores_of(model).values()
    assert np.all(found[0] == 0) and np.all(found[1] > 0)


def normalised(k, name):
    """A network with a layer that normalises, and γ = 2 in it where it has one."""
    layer = {
        "layer": lambda: k.LayerNormalization(gamma_initializer=two),
        "groups": lambda: k.GroupNormalization(groups=2, gamma_initializer=two),
        "rms": lambda: k.RMSNormalization(),
        "unit": lambda: k.UnitNormalization(),
        "within a layer": lambda: k.TimeDistributed(k.LayerNormalization(gamma_initializer=two)),
    }[name]()
    return [k.Dense(6, name="first"), layer, k.Dense(4, name="second"), k.Dense(3, name="head")]


def two(shape, dtype=None):
    return tf.fill(shape, tf.constant(2.0, dtype or "float32"))


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("name", ["layer", "groups", "rms", "unit", "within a layer"])
@pytest.mark.parametrize("seed", range(4))
def test_a_normalisation_of_each_example_multiplies_by_gamma_alone(seed, name, its_keras):
    """What it subtracts would give the flow a sign that hangs on the seed."""
    if name == "rms" and its_keras is keras:
        pytest.skip(reason="tf_keras has no RMSNormalization")
    its_keras.utils.set_random_seed(seed)
    layers_ = normalised(its_keras.layers, name)
    shape = (5, 4) if name == "within a layer" else (4,)
    model = its_keras.Sequential([its_keras.Input(shape), *layers_])
    plain = its_keras.Sequential([its_keras.Input(shape), layers_[0], *layers_[2:]])
    found, expected = scores_of(model), scores_of(plain)
    for weight, each in expected.items():
        factor = 1 if name in ("unit", "rms") else 2
        np.testing.assert_allclose(found[weight], factor * each, rtol=1e-6, err_msg=weight)


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("within", ["a layer", "a model in a layer", "a layer of one's own"])
def test_what_is_added_within_a_layer_does_not_count(within, its_keras):
    k = its_keras.layers

    class Own(k.Layer):
        def __init__(self, inner, **settings):
            super().__init__(**settings)
            self.inner = inner

        def call(self, x):
            return self.inner(x)

        def get_config(self):
            return {**super().get_config(), "inner": its_keras.layers.serialize(self.inner)}

        @classmethod
        def from_config(cls, config):
            return cls(k.deserialize(config.pop("inner")), **config)

    shift = k.Rescaling(1 / 127.5, offset=-1)
    outer = {
        "a layer": lambda: k.TimeDistributed(shift),
        "a model in a layer": lambda: k.TimeDistributed(
            its_keras.Sequential([its_keras.Input((4,)), shift])
        ),
        "a layer of one's own": lambda: Own(shift),
    }[within]()
    head = k.Dense(3, name="head")
    model = its_keras.Sequential([its_keras.Input((5, 4)), outer, head])
    plain = its_keras.Sequential([its_keras.Input((5, 4)), head])
    (found,), (expected,) = (list(scores_of(each).values()) for each in (model, plain))
    np.testing.assert_allclose(found, expected / 127.5, rtol=1e-5)


@both_kerases
def test_a_negative_flow_to_one_of_the_outputs_is_refused(its_keras):
    k = its_keras.layers
    inputs = its_keras.Input((4,))
    heads = [k.Dense(9)(inputs), k.Dense(2)(k.Lambda(lambda x: x / 127.5 - 1)(inputs))]
    with pytest.raises(UsageError, match="a positive flow for synflow"):
        scores_of(its_keras.Model(inputs, heads))


@both_kerases
def test_a_negative_flow_is_refused(its_keras):
    """It would give what matters most the lowest score."""
    k = its_keras.layers
    model = its_keras.Sequential(
        [its_keras.Input((4,)), k.Lambda(lambda x: x - 5), k.Dense(5), k.Dense(3)], name="net"
    )
    with pytest.raises(UsageError, match="a positive flow for synflow; that of 'net' is negative"):
        scores_of(model)
