"""SNIP and GraSP against the papers' equations, written anew in NumPy with complex steps."""

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from networks import (
    EVERYTHING,
    assert_same,
    both_kerases,
    chain,
    every_variable,
    examples,
    layers,
    random_masks,
    values,
)

import lottery_tf as lt
from lottery_tf.finding.scores import grasp, snip
from lottery_tf.finding.scores.network import Network
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import assign
from lottery_tf.losses.cross_entropy import CrossEntropy
from lottery_tf.masks.allocate import prune_to
from lottery_tf.masks.prunable import prunable_weights
from lottery_tf.masks.wrapper import set_masks

SHAPE = (4, 4, 1)


def all_kept(model):
    return lt.Masks.ones(prunable_weights(model, EVERYTHING))


def both_scores(model, masks=None, **options):
    """SNIP's and GraSP's scores of all kernels of ``model``."""
    network = Network(lt.wrap(model, masks or all_kept(model)), **options)
    return snip.score(network), grasp.score(network)


def assert_close(found, expected, rtol=1e-9, atol=0.0):
    """By name; ``atol`` is a share of the largest."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[name], value, rtol, atol * scale, err_msg=name)


# Four weights by hand


def test_four_weights_by_hand():
    """x → w2·(w1 x) and L = mean (s x − y)² with s = w1·w2.

    With u = (w2, w1): g = D u and H = 2 mean x² u uᵀ + D P, where P exchanges w1 and w2 and
    D = 2 (s mean x² − mean xy).
    """
    model = chain(
        layers.Dense(2, use_bias=False, dtype="float64", name="one"),
        layers.Dense(1, use_bias=False, dtype="float64", name="two"),
        shape=(1,),
    )
    w1, w2 = np.array([2.0, 1.0]), np.array([0.5, -0.25])
    assign(model, {"one/kernel": w1[None], "two/kernel": w2[:, None]})
    x, y = np.array([[1.0], [2.0]]), np.array([2.0, 1.0])
    square, product = 2.5, 2.0  # mean x² and mean xy
    slope = 2 * (0.75 * square - product)
    assert slope == -0.25
    first, second = slope * w2, slope * w1  # g
    along = 2 * square * (w1 @ w1 + w2 @ w2) * slope
    expected = {
        "one/kernel": (w1 * (along * w2 + slope * second))[None],
        "two/kernel": (w2 * (along * w1 + slope * first))[:, None],
    }
    data = tf.data.Dataset.from_tensors((x, y))
    saliency, flow = both_scores(model, data=data, loss="mean_squared_error")
    assert_close(
        saliency, {"one/kernel": [[0.25, 0.0625]], "two/kernel": [[0.25], [0.0625]]}, rtol=1e-12
    )
    assert_close(flow, expected, rtol=1e-12)


# A convolution, BatchNorm and dense layers, by complex steps


def network(dtype="float32", last="logits", frozen=(), drop=False, policy=None, its_keras=keras):
    """Its weights are the same whatever else it is."""
    layers, kind = its_keras.layers, {"dtype": policy or dtype}
    stack = [
        layers.Conv2D(3, 2, name="conv", **kind),
        layers.BatchNormalization(epsilon=1e-3, name="norm", **kind),
        layers.ReLU(**kind),
        *([layers.Dropout(0.5, **kind)] if drop else []),
        layers.Flatten(**kind),
        layers.Dense(5, use_bias=False, name="dense", **kind),
        layers.BatchNormalization(epsilon=1e-5, name="dense_norm", **kind),
        layers.Activation("tanh", **kind),
        layers.Dense(3, activation="softmax" if last == "softmax" else None, name="head", **kind),
        *([layers.Softmax(**kind)] if last == "softmax layer" else []),
    ]
    model = chain(*stack, shape=SHAPE)
    random = np.random.default_rng(5)
    for variable in model.trainable_variables:
        start = 1.0 if "gamma" in variable.name else 0.0
        variable.assign(start + 0.4 * random.standard_normal(variable.shape))
    for name in frozen:
        model.get_layer(name).trainable = False
    return model


def two_batches(dtype="float32"):
    """Of 7 and 5 examples."""
    x, y = examples(12, SHAPE)
    return tf.data.Dataset.from_tensor_slices((x.astype(dtype), y)).batch(7)


class ByHand:
    """L and its derivatives by the prunable weights, in NumPy.

    ∂L/∂w is Im L(w + ih)/h, exact but for rounding; H v is the central difference of that.
    """

    def __init__(self, model, masks, batches, loss=None):
        self.fixed = {name: value.astype(complex) for name, value in values(model).items()}
        self.masks, self.batches, self.loss = masks, batches, loss or self.cross_entropy
        self.weights = {name: self.fixed[name].real * mask for name, mask in masks.items()}

    @staticmethod
    def norm(x, axes, gamma, beta, epsilon):
        mean = x.mean(axes, keepdims=True)
        variance = ((x - mean) ** 2).mean(axes, keepdims=True)
        return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta

    def logits(self, w, x):
        kernel = w["conv/kernel"]
        windows = [x[:, i : i + 3, j : j + 3] @ kernel[i, j] for i in (0, 1) for j in (0, 1)]
        h = sum(windows) + w["conv/bias"]
        h = self.norm(h, (0, 1, 2), w["norm/gamma"], w["norm/beta"], 1e-3)
        h = (h * (h.real > 0)).reshape(len(h), -1) @ w["dense/kernel"]
        h = self.norm(h, 0, w["dense_norm/gamma"], w["dense_norm/beta"], 1e-5)
        return np.tanh(h) @ w["head/kernel"] + w["head/bias"]

    @staticmethod
    def cross_entropy(z, y):
        return np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]

    def mean_loss(self, weights, temperature):
        w, total, count = {**self.fixed, **weights}, 0, 0
        for x, y in self.batches:
            total += self.loss(self.logits(w, x) / temperature, y).sum()
            count += len(y)
        return total / count

    def gradient(self, weights, temperature):
        found = {}
        for name, mask in self.masks.items():
            found[name] = np.zeros(mask.shape)
            for place in zip(*mask.nonzero(), strict=True):
                moved = weights[name].astype(complex)
                moved[place] += 1e-30j
                moved = {**weights, name: moved}
                found[name][place] = self.mean_loss(moved, temperature).imag / 1e-30
        return found

    def hessian_product(self, vector, temperature):
        size = np.sqrt(sum((v**2).sum() for v in vector.values()))
        ends = [
            self.gradient(
                {n: w + sign * 1e-5 / size * vector[n] for n, w in self.weights.items()},
                temperature,
            )
            for sign in (1, -1)
        ]
        return {n: (ends[0][n] - ends[1][n]) * size / 2e-5 for n in self.weights}

    def scores(self, temperature=200.0):
        first = self.gradient(self.weights, 1.0)
        divided = self.gradient(self.weights, temperature)
        product = self.hessian_product(divided, temperature)
        return (
            {name: np.abs(w * first[name]) for name, w in self.weights.items()},
            {name: w * product[name] for name, w in self.weights.items()},
        )


def as_arrays(data, count):
    return [(x.astype(float), y) for x, y in data.take(count).as_numpy_iterator()]


@pytest.fixture(scope="module")
def masks():
    return random_masks(network(), 0.8)


@pytest.fixture(scope="module")
def by_hand(masks):
    """The scores of ``network()`` under ``masks`` on both batches."""
    return ByHand(network("float64"), masks, as_arrays(two_batches(), 2)).scores()


@pytest.mark.long
@both_kerases
def test_float64(masks, by_hand, its_keras):
    """BatchNorm takes the batch's statistics, L is the mean over all 12 examples."""
    model = network("float64", its_keras=its_keras)
    found = both_scores(model, masks, data=two_batches("float64"), batches=2)
    assert_close(found[0], by_hand[0], rtol=1e-10, atol=1e-12)
    assert_close(found[1], by_hand[1], rtol=1e-6, atol=1e-7)


VARIANTS = {
    "logits": {},
    "softmax": {"last": "softmax"},
    "mixed_float16": {"policy": "mixed_float16", "last": "softmax layer"},
    "frozen, dropout": {"frozen": ("conv", "dense"), "drop": True},
    "mixed_bfloat16 softmax": {"policy": "mixed_bfloat16", "last": "softmax"},
}


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.usefixtures("all_eager")
def test_float32(variant, masks, by_hand, its_keras):
    """With fused BatchNorm. Frozen layers are scored, Dropout drops nothing, halves are not used.

    The model stays as it was, its moving statistics too.
    """
    model = network(**VARIANTS[variant], its_keras=its_keras)
    model.compile("adam", "sparse_categorical_crossentropy")
    before = every_variable(model)
    found = both_scores(model, masks, data=two_batches(), batches=2)
    assert_close(found[0], by_hand[0], rtol=1e-3, atol=1e-5)
    assert_close(found[1], by_hand[1], rtol=1e-2, atol=1e-4)
    assert_same(every_variable(model), before)
    assert [layer.trainable for layer in model.layers].count(False) == len(
        VARIANTS[variant].get("frozen", ())
    )


@pytest.mark.usefixtures("all_eager")
def test_data_are_read_once(masks):
    """Where there are two batches a third is not the first once more."""
    model, data = network("float64"), two_batches("float64")
    expected = ByHand(model, masks, as_arrays(data, 2)).scores()
    found = both_scores(model, masks, data=data, batches=3)
    assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
    assert_close(found[1], expected[1], rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("all_eager")
def test_the_loss_is_the_one_that_is_given(masks):
    """Label smoothing (ours: ε/(C−1)) is part of L; a loss that has no logits is not divided."""
    model, data = network("float64"), two_batches("float64")

    def smoothed(z, y):
        target = np.where(np.arange(3) == y[:, None], 0.8, 0.1)
        return np.log(np.exp(z).sum(1)) - (target * z).sum(1)

    def squares(z, y):
        return ((z - np.eye(3)[y]) ** 2).mean(1)

    one_hot = data.map(lambda x, y: (x, tf.one_hot(y, 3, dtype=tf.float64)))
    for loss, by_hand, temperature, labels in (
        (CrossEntropy(label_smoothing=0.2), smoothed, 200.0, data),
        ("mse", squares, 1.0, one_hot),
        (keras.losses.CategoricalCrossentropy(from_logits=True), None, 200.0, one_hot),
    ):
        hand = ByHand(model, masks, as_arrays(data, 1), by_hand)
        found = both_scores(model, masks, data=labels, loss=loss)
        expected = hand.scores(temperature)
        assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
        assert_close(found[1], expected[1], rtol=1e-6, atol=1e-7)


# What the masks are


@pytest.mark.parametrize("method", ["snip", "grasp"])
def test_the_largest_survive(method, masks, by_hand):
    """Of SNIP the largest |w ∂L/∂w|; of GraSP the highest w ⊙ Hg, the sign counting."""
    model = lt.wrap(network("float64"), masks)
    ticket = lt.prune(model, method, 0.7, two_batches("float64"), batches=2)
    scores = by_hand[method == "grasp"]
    flat = sorted(
        ((scores[name][place], name, place) for name, mask in masks.items()
         for place in zip(*mask.nonzero(), strict=True)),
        key=lambda each: each[0],
    )  # fmt: skip
    kept = flat[-(masks.total - round(0.7 * masks.total)) :]
    expected = {name: np.zeros(mask.shape, bool) for name, mask in masks.items()}
    for _, name, place in kept:
        expected[name][place] = True
    assert ticket.masks == lt.Masks(expected)


def test_iterative_snip_by_hand():
    """Each round scores what the one before has left; the densities fall as a power."""
    model, data = network("float64"), two_batches("float64")
    masks = lt.Masks.ones({name: values(model)[name].shape for name in ("conv/kernel",
                                                                      "dense/kernel")})  # fmt: skip
    found = lt.prune(model, "iterative_snip", 0.9, data, rounds=3, batches=1).masks
    once = lt.prune(model, "iterative_snip", 0.9, data, rounds=1, batches=1).masks
    for i in (1, 2, 3):
        hand = ByHand(model, masks, as_arrays(data, 1))
        gradient = hand.gradient(hand.weights, 1.0)
        scores = {name: np.abs(w * gradient[name]) for name, w in hand.weights.items()}
        masks = prune_to(scores, masks, 1 - 0.1 ** (i / 3))
    assert found == masks
    assert once != masks


# Derivatives of the library's own gradient


@pytest.mark.usefixtures("all_eager")
def test_the_hessian_product_is_the_derivative_of_the_gradient(masks):
    """By central differences, for any vector; what is pruned has neither."""
    random = np.random.default_rng(2)
    network_ = Network(lt.wrap(network("float64"), masks), two_batches("float64"), batches=2)
    vector = {name: random.standard_normal(mask.shape) for name, mask in masks.items()}
    start, ends = network_.values(), []
    product = network_.hessian_product(vector, 2.0)
    for sign in (1, -1):
        for name, weight in network_.weights.items():
            weight.assign(start[name] + sign * 1e-6 * vector[name])
        ends.append(network_.gradient(2.0))
    expected = {name: (ends[0][name] - ends[1][name]) / 2e-6 for name in masks}
    assert_close(product, expected, rtol=1e-5, atol=1e-7)
    for name, mask in masks.items():
        assert not product[name][~mask].any() and not ends[0][name][~mask].any()


NORMALISATIONS = [
    (keras, "LayerNormalization", {"epsilon": 1e-6}),
    (keras, "LayerNormalization", {"axis": (1, 2)}),
    (keras, "GroupNormalization", {"groups": 2}),
    (keras3, "LayerNormalization", {"epsilon": 1e-6}),
    (keras3, "LayerNormalization", {"axis": (1, 2)}),
    (keras3, "LayerNormalization", {"rms_scaling": True}),
    (keras3, "RMSNormalization", {}),
    (keras3, "GroupNormalization", {"groups": 2}),
    (keras3, "GroupNormalization", {"groups": 3, "axis": 1}),
]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:You passed `rms_scaling=True`")
@pytest.mark.parametrize(("its_keras", "norm", "options"), NORMALISATIONS)
@pytest.mark.usefixtures("untraced")  # test_float32 has one in graphs
def test_other_normalisations_have_the_right_hessian(its_keras, norm, options):
    """The moments of ``tf.nn.moments``, which many of them take, have not."""
    layers, kind = its_keras.layers, {"dtype": "float64"}
    model = chain(
        layers.Conv2D(4, 2, activation="tanh", **kind),
        getattr(layers, norm)(**options, **kind),
        layers.Activation("tanh", **kind),
        layers.Flatten(**kind),
        layers.Dense(3, **kind),
        shape=SHAPE,
    )
    for variable in model.layers[2].trainable_variables:  # γ and β
        shape = tuple(variable.shape)
        variable.assign_add(np.linspace(-0.5, 0.4, np.prod(shape)).reshape(shape))
    network_ = Network(lt.wrap(model), two_batches("float64"))
    (name,) = network_.weights
    x, y = next(iter(two_batches("float64")))
    loss = CrossEntropy()(y, model(x))
    np.testing.assert_allclose(loss, CrossEntropy()(y, network_.model(x, training=True)), 1e-12)
    gradient, start, ends = network_.gradient(), network_.values()[name], []
    product = network_.hessian_product(gradient)[name]
    for sign in (1, -1):
        network_.weights[name].assign(start + sign * 1e-5 * gradient[name])
        ends.append(network_.gradient()[name])
    np.testing.assert_allclose(product, (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("all_eager")
def test_what_grasp_means(masks):
    """Taking a share ε of a weight away changes ‖g‖² by −2ε·score, to first order.

    So the gradient flow falls with the weights of the highest scores: they are kept.
    """
    network_ = Network(lt.wrap(network("float64"), masks), two_batches("float64"), batches=2)
    scores, start = grasp.score(network_), network_.values()

    def flow():
        return sum((each**2).sum() for each in network_.gradient(grasp.TEMPERATURE).values())

    seen = []
    for name in masks:
        order = np.argsort(scores[name].ravel())
        for place in (order[0], order[-1], order[-2]):
            ends = []
            for share in (-1e-5, 1e-5):
                moved = start[name].copy()
                moved.flat[place] *= 1 - share
                network_.weights[name].assign(moved)
                ends.append(flow())
            network_.weights[name].assign(start[name])
            change = (ends[1] - ends[0]) / 2e-5
            np.testing.assert_allclose(change, -2 * scores[name].flat[place], rtol=1e-4)
            seen.append(np.sign(change))
    assert {-1, 1} <= set(seen)


def test_one_trace_serves_all_rounds(masks):
    """And masks that are set between two scores count."""
    network_ = Network(lt.wrap(network("float64")), two_batches("float64"), batches=1)
    first = snip.score(network_)
    few = {name: masks[name] for name in first}
    set_masks(network_.model, lt.Masks(few))
    second = snip.score(network_)
    for name, mask in few.items():
        assert not second[name][~mask].any()
        assert (first[name][mask] != second[name][mask]).any()
    derivatives = next(iter(network_._made.values()))
    assert derivatives.gradient.experimental_get_tracing_count() == 1
