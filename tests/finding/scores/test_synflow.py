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
    """h ← tanh(x |W| + h |U|) twice; its own kernels are none of the prunable."""
    layers = its_keras.layers
    model = chain(
        layers.Dense(3, activation="relu", name="one"),
        layers.SimpleRNN(2, bias_initializer="ones", name="recurrent"),
        layers.Dense(2, name="head"),
        shape=(2, 3),
    )
    inner, recurrent = (np.abs(each.numpy()) for each in model.get_layer("recurrent").weights[:2])

    def flow(w):
        x, h = np.ones(3) @ w["one/kernel"], np.zeros(2)
        for _ in range(2):
            h = np.tanh(x @ inner + h @ recurrent)
        return (h @ w["head/kernel"]).sum()

    found = scores_of(model)
    _, expected = by_hand(flow, {name: kernels(model)[name] for name in found})
    assert list(found) == ["one/kernel", "head/kernel"]
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12)


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
    assert [line for line in lines if "multiplied" in line] == [
        f"synflow: what flows is multiplied in {name} of '{model.name}', so that its scores do not "
        "add up there as in a linear network."
        for name in told
    ]
    if not told:
        sums = [each.sum() for each in found.values()]
        np.testing.assert_allclose(sums, sums[0], rtol=1e-12)
