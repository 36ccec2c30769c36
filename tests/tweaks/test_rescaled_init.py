"""Re-scaled initialisation: GradInit's objectives and their derivatives, on what is not pruned."""

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from networks import (
    assert_same,
    assert_zeros,
    chain,
    eagerly,
    every_variable,
    examples,
    layers,
    mlp,
    random_masks,
    replicas,
    two_devices,
    values,
)

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import assign
from lottery_tf.losses.derivatives import as_watched, differentiable
from lottery_tf.losses.objective import Objective
from lottery_tf.masks.prunable import prunable_weights
from lottery_tf.masks.wrapper import masked_by_us
from lottery_tf.tweaks import signal_scaling
from lottery_tf.tweaks.rescaled_init import (
    RescaledInit,
    Scales,
    _search,
    _Space,
    _tell,
    find_scales,
)
from lottery_tf.tweaks.virtual_step import after_step

both_optimizers = pytest.mark.parametrize("optimizer", ["sgd", "adam"])


def batches(size=6, **kwargs):
    return tf.data.Dataset.from_tensor_slices(examples(**kwargs)).batch(size)


# Four weights by hand

W1, W2 = np.array([2.0, 1.0]), np.array([0.5, -0.25])
X = np.array([[1.0, 2.0], [3.0, 1.0], [-1.0, 2.0]])  # three batches of two examples
Y = np.array([[2.0, 1.0], [1.0, 0.5], [-1.0, 2.5]])
SETTINGS = RescaledInit(
    step_size=0.1,
    norm="l2",
    max_norm=1.5,
    iterations=12,
    learning_rate=0.05,
    clip=0.5,
    keep_signal=False,
    criterion="mse",
)


def four_weights(of=keras):
    """x → w2·(w1 x), in float64."""
    layers = of.layers
    model = chain(
        layers.Dense(2, use_bias=False, dtype="float64", name="one"),
        layers.Dense(1, use_bias=False, dtype="float64", name="two"),
        shape=(1,),
    )
    assign(model, {"one/kernel": W1[None], "two/kernel": W2[:, None]})
    return model


def three_batches():
    return tf.data.Dataset.from_tensor_slices((X[..., None], Y))


class ByHand:
    """L = mean (s x − y)², s = w1·w2: the gradient is D (w2, w1) with D = 2 (s mean x² − mean xy).

    ‖g‖ = |D| R with R² = |w1|² + |w2|², where w1 = c1 W1 and w2 = c2 W2.
    """

    def __init__(self, optimizer="sgd", eta=0.1):
        self.optimizer, self.eta = optimizer, eta

    def gradient(self, c, x, y):
        w1, w2 = c[0] * W1, c[1] * W2
        slope = 2 * (w1 @ w2 * np.mean(x * x) - np.mean(x * y))
        return slope, slope * np.concatenate([w2, w1])

    def norm(self, c, x, y):
        return np.linalg.norm(self.gradient(c, x, y)[1])

    def norm_derivative(self, c, x, y):
        """dD/dc1 = 2 mean x² c2 W1·W2 and dR/dc1 = c1 |W1|²/R."""
        slope, _ = self.gradient(c, x, y)
        radius = np.sqrt(c[0] ** 2 * W1 @ W1 + c[1] ** 2 * W2 @ W2)
        by_slope = 2 * np.mean(x * x) * W1 @ W2 * c[::-1] * radius
        return np.sign(slope) * by_slope + abs(slope) * c * [W1 @ W1, W2 @ W2] / radius

    def stepped(self, c, x, y, direction=None):
        """Weights after the virtual step; ``direction`` as a constant or as it is at c."""
        gradient = self.gradient(c, x, y)[1]
        unit = gradient / np.linalg.norm(gradient)
        if direction is None:
            direction = unit if self.optimizer == "sgd" else np.sign(gradient)
        return np.concatenate([c[0] * W1, c[1] * W2]) - self.eta * direction, direction

    def loss(self, c, first, second, direction=None):
        after, _ = self.stepped(c, *first, direction)
        x, y = (np.array([one[0], two[1]]) for one, two in zip(first, second, strict=True))
        return np.mean((after[:2] @ after[2:] * x - y) ** 2)

    def loss_derivative(self, c, first, second, direction=None):
        """By central differences; of a cubic root of float64's precision."""
        found, h = np.zeros(2), 1e-5
        for place in range(2):
            ends = [
                self.loss(c + sign * h * np.eye(2)[place], first, second, direction)
                for sign in (1, -1)
            ]
            found[place] = (ends[0] - ends[1]) / (2 * h)
        return found


def objective(model, data, settings):
    """The compiled objective of ``model`` and its first two batches."""
    model = differentiable(model)
    weights = [as_watched(model, each) for each in model.trainable_variables]
    trained_by = Objective(model, settings.criterion)
    settings = settings.for_training_by("sgd")
    sgd = settings.optimizer == "sgd"
    how = sgd, settings.step_size, settings.norm == "l1"
    found = after_step(trained_by, weights, data.element_spec, *how)
    return lambda c, bound: [each.numpy() for each in found(c, *list(data)[:2], bound)]


@pytest.mark.long
@both_optimizers
def test_four_weights_by_hand(optimizer, of):
    """TRAP 26: the derivative goes through the step's direction, not only through θ_c."""
    hand, c = ByHand(optimizer), np.array([0.9, 1.2])
    first, second = (X[0], Y[0]), (X[1], Y[1])
    compute = objective(
        four_weights(of), three_batches(), dataclasses.replace(SETTINGS, optimizer=optimizer)
    )
    loss, norm, derivative = compute(c, 0.0)
    assert np.isnan(loss)
    np.testing.assert_allclose(norm, hand.norm(c, *first), rtol=1e-12)
    np.testing.assert_allclose(derivative, hand.norm_derivative(c, *first), rtol=1e-12)

    loss, norm, derivative = compute(c, np.inf)
    np.testing.assert_allclose(loss, hand.loss(c, first, second), rtol=1e-12)
    np.testing.assert_allclose(norm, hand.norm(c, *first), rtol=1e-12)
    np.testing.assert_allclose(derivative, hand.loss_derivative(c, first, second), rtol=1e-8)
    _, direction = hand.stepped(c, *first)
    detached = hand.loss_derivative(c, first, second, direction)
    apart = np.abs(derivative - detached).max()
    assert apart > 1e-3 if optimizer == "sgd" else apart < 1e-8


@both_optimizers
def test_a_whole_search_by_hand(optimizer):
    """Step for step GradInit's RescaleAdam: a first moment for each objective, one second moment,
    each derivative clipped, the loss divided by η. First down to the norm's bound, then the loss;
    the scales that the first two batches find best are those that are found."""
    settings = dataclasses.replace(SETTINGS, optimizer=optimizer)
    found = find_scales(four_weights(), three_batches(), settings)
    hand, c, rows = ByHand(optimizer), np.ones(2), []
    exp_avg, exp_avg_sq, steps = {"norm": 0.0, "loss": 0.0}, 0.0, {"norm": 0, "loss": 0}

    def judged(c):
        return hand.loss(c, (X[0], Y[0]), (X[1], Y[1])), hand.norm(c, X[0], Y[0])

    candidates = {0: (c, *judged(c))}
    for step in range(settings.iterations):
        first, second = ((X[i % 3], Y[i % 3]) for i in (step, step + 1))
        norm, loss = hand.norm(c, *first), math.nan
        kind = "norm" if norm > settings.max_norm else "loss"
        if kind == "norm":
            grad = hand.norm_derivative(c, *first)
        else:
            loss = hand.loss(c, first, second)
            grad = hand.loss_derivative(c, first, second) / settings.step_size
        rows.append((norm, loss))
        grad = np.maximum(np.minimum(grad, 0.5), -0.5)
        steps[kind] += 1
        exp_avg[kind] = exp_avg[kind] * 0.9 + grad * 0.1
        exp_avg_sq = exp_avg_sq * 0.999 + grad * grad * 0.001
        denom = np.sqrt(exp_avg_sq / (1 - 0.999 ** sum(steps.values()))) + 1e-8
        step_size = 0.05 / (1 - 0.9 ** steps[kind])
        c = np.maximum(c - step_size * exp_avg[kind] / denom, 0.01)
        if step in (9, 11):
            candidates[step + 1] = c, *judged(c)
    assert all(steps.values()), "only one of the objectives was met"
    np.testing.assert_allclose(found.norms, [norm for norm, _ in rows], rtol=1e-6)
    np.testing.assert_allclose(found.losses, [loss for _, loss in rows], rtol=1e-6)
    within = {n: each for n, each in candidates.items() if each[2] <= settings.max_norm}
    best = min(within, key=lambda number: within[number][1])
    assert found.best == best and not found.converged
    assert list(found.scales) == ["one/kernel", "two/kernel"]
    np.testing.assert_allclose(list(found.scales.values()), candidates[best][0], rtol=1e-6)
    np.testing.assert_allclose(found.loss, [candidates[n][1] for n in (0, best)], rtol=1e-6)
    np.testing.assert_allclose(found.norm, [candidates[n][2] for n in (0, best)], rtol=1e-6)


def test_the_norm_of_adam_is_the_sum_of_sizes():
    """‖g‖₁ and its derivative H sign(g), by central differences."""
    settings = dataclasses.replace(SETTINGS, optimizer="adam", norm=None)
    assert settings.for_training_by("sgd").norm == "l1"
    compute = objective(four_weights(), three_batches(), settings)
    hand, c = ByHand("adam"), np.array([0.9, 1.2])

    def norm(c):
        return np.abs(hand.gradient(c, X[0], Y[0])[1]).sum()

    loss, found, derivative = compute(c, 0.0)
    assert np.isnan(loss)
    np.testing.assert_allclose(found, norm(c), rtol=1e-12)
    expected = [(norm(c + h) - norm(c - h)) / 2e-6 for h in 1e-6 * np.eye(2)]
    np.testing.assert_allclose(derivative, expected, rtol=1e-6)


def test_bounds_by_default():
    assert [
        (each.norm, each.max_norm, each.step_size)
        for each in (
            RescaledInit().for_training_by("sgd"),
            RescaledInit().for_training_by("adamw"),
            RescaledInit(norm="l2").for_training_by("adam"),
            RescaledInit(max_norm=3.0, step_size=0.2).for_training_by("adam"),
        )
    ] == [("l2", 1, 0.1), ("l1", 1000, 0.001), ("l2", 1, 0.001), ("l1", 3, 0.2)]


@pytest.mark.parametrize("which", ["norm", "sgd", "adam"])
@pytest.mark.usefixtures("all_eager")
def test_the_derivative_is_that_of_central_differences(which):
    """A masked convolution, BatchNorm, Dense and biases, in float64.

    BatchNorm's own mean and variance, those of ``tf.nn.moments``, have wrong second derivatives.
    """
    kind = {"dtype": "float64"}
    plain = chain(
        layers.Conv2D(3, 2, activation="softplus", bias_initializer="normal", **kind),
        layers.Flatten(**kind),
        layers.Dense(4, use_bias=False, **kind),
        layers.BatchNormalization(beta_initializer="normal", **kind),
        layers.Activation("tanh", **kind),
        layers.Dense(3, bias_initializer="normal", **kind),
        shape=(3, 3, 2),
    )
    model = lt.wrap(plain, random_masks(plain, 0.6))
    settings = RescaledInit(optimizer="sgd" if which == "norm" else which, step_size=0.3)
    compute = objective(model, batches(shape=(3, 3, 2)), settings)
    bound, place = (0.0, 1) if which == "norm" else (np.inf, 0)
    c = np.linspace(0.7, 1.4, len(model.trainable_variables))
    derivative, h = compute(c, bound)[2], 1e-5
    ends = [
        [compute(c + sign * h * row, bound)[place] for sign in (1, -1)] for row in np.eye(len(c))
    ]
    expected = [(up - down) / (2 * h) for up, down in ends]
    np.testing.assert_allclose(derivative, expected, rtol=1e-6, atol=1e-9)
    assert np.abs(derivative).max() > 0.01


@pytest.mark.usefixtures("all_eager")
def test_batchnorm_of_images():
    """Its fused operation, float32 only, has the derivatives that float64 has without it."""

    def network(kind):
        return chain(
            layers.Conv2D(3, 2, dtype=kind),
            layers.BatchNormalization(dtype=kind),
            layers.Activation("softplus", dtype=kind),
            layers.Flatten(dtype=kind),
            layers.Dense(3, dtype=kind),
            shape=(3, 3, 2),
        )

    fused, exact = network("float32"), network("float64")
    assert (fused.layers[2].fused, exact.layers[2].fused) == (True, False)
    for one, other in zip(exact.variables, fused.variables, strict=True):
        one.assign(other.numpy().astype("float64"))
    data, c = batches(shape=(3, 3, 2)), np.linspace(0.7, 1.4, 6)
    both = [objective(each, data, RescaledInit(step_size=0.3)) for each in (fused, exact)]
    for bound in (0.0, np.inf):
        np.testing.assert_allclose(*[each(c, bound)[2] for each in both], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("untraced")
def test_the_second_batch_overlaps_by_half():
    """TRAP 26. With a step of no length the loss is that of B̃ at the weights as they are."""
    model = mlp()
    settings = RescaledInit(step_size=1e-12, max_norm=1e9, iterations=3)
    x, y = examples(15)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(6, drop_remainder=True)
    found = find_scales(model, data, dataclasses.replace(settings, learning_rate=1e-12))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rows = [[0, 1, 2, 9, 10, 11], [6, 7, 8, 3, 4, 5], [0, 1, 2, 9, 10, 11]]  # 2 batches, repeated
    expected = [loss(y[each], model(x[each], training=True)) for each in rows]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)


# Pruned weights


@pytest.mark.parametrize(("optimizer", "max_norm"), [("adam", 0.2), ("sgd", 1e9), ("adam", 1e9)])
@pytest.mark.usefixtures("untraced")
def test_pruned_weights_do_not_exist(optimizer, max_norm):
    """TRAP 25: the same search as that of a model without them.

    The biases differ: the softmax does not see equal ones, and the sign of what rounding leaves of
    their scale's derivative would lead Adam.
    """
    plain = chain(
        layers.Dense(5, activation="tanh", use_bias=False, name="one"),
        layers.Dense(3, bias_initializer="normal", name="two"),
    )
    live = np.array([0, 2, 3])
    masks = {"one/kernel": np.zeros((4, 5), bool), "two/kernel": np.zeros((5, 3), bool)}
    masks["one/kernel"][:, live] = masks["two/kernel"][live] = True
    small = chain(
        layers.Dense(3, activation="tanh", use_bias=False, name="one"),
        layers.Dense(3, bias_initializer="normal", name="two"),
    )
    whole = values(plain)
    assign(
        small,
        {
            "one/kernel": whole["one/kernel"][:, live],
            "two/kernel": whole["two/kernel"][live],
            "two/bias": whole["two/bias"],
        },
    )
    settings = RescaledInit(optimizer, max_norm=max_norm, iterations=10, step_size=0.3)
    masked = find_scales(lt.wrap(plain, lt.Masks(masks)), batches(), settings)
    alone = find_scales(small, batches(), settings)
    for one, two in ((masked.norms, alone.norms), (masked.losses, alone.losses)):
        np.testing.assert_allclose(one, two, rtol=1e-5)
    assert masked.scales.keys() == alone.scales.keys()
    for name in masked.scales:
        np.testing.assert_allclose(masked.scales[name], alone.scales[name], rtol=1e-5)


# What is changed, and what is not


@pytest.fixture
def rescaled(all_eager):
    return search_of(all_eager)


@functools.cache
def search_of(eager):
    """A masked network before and after, and what the search says; ``eager`` is how it was made."""
    keras.utils.set_random_seed(0)
    plain = chain(
        layers.Conv2D(2, 3, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(),
        layers.Dropout(0.5),
        layers.Flatten(),
        layers.Dense(3, name="head"),
        shape=(6, 6, 1),
    )
    masks = random_masks(plain)
    model = lt.wrap(plain, masks)
    model.trainable_variables[-1].assign([0.3, 0.0, -0.2])
    data, tweak = batches(shape=(6, 6, 1)), RescaledInit(iterations=8)
    before = every_variable(model)
    changed = tweak.prepare(model, data)
    assert_same(every_variable(model), before)
    found = find_scales(model, data, tweak)
    told = {"scales": found.scales, "loss": list(found.loss), "norm": list(found.norm)}
    told |= {"iterations": 8, "converged": False}
    assert tweak.learned(changed) == told and tweak.learned(model) == {}
    return model, changed, masks, found, data


def test_the_weights_are_scaled_and_nothing_else_is_changed(rescaled):
    """Moving statistics are those of the given model; the scales are the public ones, bit for bit.

    So the second search gave the same bits, under Dropout too.
    """
    model, changed, masks, found, _ = rescaled
    before, after = values(model), values(changed)
    trainable = ["conv/kernel", "conv/bias", "norm/gamma", "norm/beta", "head/kernel", "head/bias"]
    assert list(found.scales) == trainable
    assert sorted(set(before) - set(trainable)) == ["norm/moving_mean", "norm/moving_variance"]
    for name, value in before.items():
        scale = np.float32(found.scales.get(name, 1.0))
        np.testing.assert_array_equal(after[name], value * scale)
    assert_zeros(changed, masks)
    assert lt.get_masks(changed) == masks
    assert all(found.scales[n] != 1 for n in ("conv/kernel", "norm/gamma", "head/kernel"))
    assert not changed.optimizer


@pytest.mark.usefixtures("untraced")
def test_the_scales_are_for_the_ticket_without_what_fades():
    """In whatever order a recipe names its tweaks; the skips' own weights have none."""
    model, changed, _, _, data = search_of(eager=True)
    tweaks = [lt.SoftActivation(), lt.GhostSkips(shortcut="conv"), RescaledInit(iterations=8)]
    for order in (tweaks, tweaks[::-1]):
        after = values(lt.Recipe(order).prepare(model, data))
        assert len(after) > len(values(changed))
        assert_same({name: after[name] for name in values(changed)}, values(changed))


@pytest.mark.usefixtures("untraced")
def test_a_recipe_tells_what_was_learned():
    """Of each model that it has prepared; another recipe of the same tweaks knows it too, since
    the model has it and the tweaks keep nothing."""
    model, _, _, found, data = search_of(eager=True)
    tweaks = [lt.LabelSmoothing(), RescaledInit(iterations=8), lt.SoftActivation()]
    before = [dict(vars(tweak)) for tweak in tweaks]
    recipe = lt.Recipe(tweaks)
    assert recipe.learned(model) == {}
    prepared = [recipe.prepare(model, read) for read in (data.map(lambda x, y: (2 * x, y)), data)]
    told = [lt.Recipe(tweaks).learned(each) for each in prepared]
    assert [list(each) for each in told] == [["rescaled_init"]] * 2
    other, same = (each["rescaled_init"]["scales"] for each in told)
    assert same == found.scales != other
    assert [dict(vars(tweak)) for tweak in tweaks] == before
    assert recipe.learned(model) == {}


def test_a_tensor_of_zeros_keeps_its_scale(rescaled):
    """TRAP 26: new biases, β. They are multiplied by 1."""
    _, _, _, found, _ = rescaled
    assert found.scales["conv/bias"] == found.scales["norm/beta"] == 1
    assert found.scales["head/bias"] != 1


@pytest.mark.usefixtures("untraced")
def test_frozen_layers_stay():
    model, _, _, _, data = search_of(eager=True)
    frozen = lt.strip(model)
    frozen.get_layer("conv").trainable = False
    found = find_scales(frozen, data, RescaledInit(iterations=1))
    assert list(found.scales) == ["norm/gamma", "norm/beta", "head/kernel", "head/bias"]


def test_scales_have_a_lower_bound():
    """Of kernels min_scale, of BatchNorm's γ min_gamma, of biases and β 0: the norm falls with
    all."""
    model = mlp(bias_initializer="ones")
    model.get_layer("norm").beta.assign(np.ones(6))
    settings = RescaledInit(
        max_norm=1e-9, learning_rate=0.3, iterations=60, min_scale=0.4, keep_signal=False
    )
    found = find_scales(model, batches(), settings).scales
    biases = {name: scale for name, scale in found.items() if name.endswith(("bias", "beta"))}
    kernels = {name: scale for name, scale in found.items() if name.endswith("kernel")}
    assert found["norm/gamma"] == 0.1  # no channel vanishes
    assert min(kernels.values()) == 0.4
    assert 0 <= min(biases.values()) < 0.1


@both_optimizers
def test_the_search_does_what_it_is_for(optimizer, lines):
    """From a norm far above its bound to one below it, with a lower loss; then it ends."""
    keras.utils.set_random_seed(1)
    model = mlp()
    model.get_layer("head").kernel.assign(4 * model.get_layer("head").kernel)
    settings = RescaledInit(optimizer, norm="l2", learning_rate=0.02, iterations=400)
    found = find_scales(model, batches(12), settings)
    assert isinstance(found, Scales)
    assert found.norm[0] > 1.5 and found.norm[1] <= 1
    assert found.loss[1] < found.loss[0]
    assert found.converged is True and found.best <= len(found.losses) == len(found.norms) < 400
    above = np.array(found.norms) > 1
    np.testing.assert_array_equal(np.isnan(found.losses), above)
    assert above[0] and not above.all()
    scales = list(found.scales.values())
    _, line = lines  # the first says that it begins
    assert line.startswith(
        f"rescaled_init: converged after {len(found.norms)} iterations (best at {found.best}): "
        f"scales {min(scales):.3g} to {max(scales):.3g}, median "
    )
    assert f"{found.loss[0]:.4g} → {found.loss[1]:.4g}, gradient norm" in line


def test_scales_are_judged_every_ten_iterations_and_at_the_end():
    """By the first two batches; the best are kept, the first of equal ones."""
    judged, done = [], []

    def objective(c, batch, following, bound):
        if math.isinf(bound):
            judged.append((len(done), batch, following))
            return {0: 4.0, 10: 2.0, 20: 2.0}.get(len(done), 3.0), 0.5, np.ones(1)
        done.append((batch, following))
        return 1.0, 0.5, np.ones(1)

    settings = dataclasses.replace(SETTINGS, iterations=25, patience=100)
    space = _Space(np.array([0.01]), np.array([], int))
    found = Scales({}, *_search(objective, itertools.count(), space, settings)[1:])
    assert judged == [(number, 0, 1) for number in (0, 10, 20, 25)]
    assert done == [(number, number + 1) for number in range(25)]
    assert (found.best, found.loss, found.converged) == (10, (4.0, 2.0), False)


@pytest.mark.usefixtures("untraced")
def test_what_was_not_reached_is_told(lines):
    """With a bound that nothing meets the lowest norm is kept, and said to be too high."""
    settings = dataclasses.replace(SETTINGS, max_norm=1e-3)
    found = find_scales(four_weights(), three_batches(), settings)
    assert 1e-3 < found.norm[1] < found.norm[0]
    assert "stopped at its limit after 12 iterations" in lines[1]
    assert "above its bound of 0.001" in lines[2]


@pytest.mark.parametrize(
    ("loss", "norm", "told"),
    [
        ((0.5, 0.25), (3.0, 1.5), []),
        ((0.5, 0.5), (3.0, 1.5), []),
        ((0.5, 0.75), (3.0, 1.5), ["the norm met its bound of 1.5 at the price of a higher loss"]),
        ((0.5, 0.25), (3.0, 2.0), ["the gradient's norm is still 2, above its bound of 1.5"]),
    ],
)
def test_what_the_bound_has_cost_is_told(loss, norm, told, lines):
    scales = {"a": 0.5, "b": 1.0, "c": 4.0}
    _tell(Scales(scales, (0.5,), (3.0,), loss, norm, best=1, converged=False), SETTINGS)
    assert lines.pop(0).startswith(
        "rescaled_init: stopped at its limit after 1 iteration (best at 1): scales 0.5 to 4, "
        f"median 1; loss after the first step 0.5 → {loss[1]:g}, gradient norm 3 → {norm[1]:g}"
    )
    assert len(lines) == len(told) and all(each in lines[0] for each in told)


@pytest.mark.usefixtures("untraced")
def test_no_scales_are_kept_that_are_worse_than_none():
    """The weights stay as they are where every step makes it worse by the first batches."""
    settings = dataclasses.replace(SETTINGS, max_norm=1e9, learning_rate=0.9, iterations=10)
    found = find_scales(four_weights(), three_batches(), settings)
    assert found.best == 0 and set(found.scales.values()) == {1.0}
    assert found.loss[0] == found.loss[1] and found.norm[0] == found.norm[1]


@pytest.mark.usefixtures("untraced")
def test_the_signal_is_kept():
    """Two layers without a normalisation: only that of the outputs may get smaller."""
    model = chain(
        *(layers.Dense(4, "relu", name=name) for name in ("one", "two")),
        layers.Dense(3, name="head"),
    )
    settings = RescaledInit(max_norm=1e-9, learning_rate=0.1, iterations=20)
    for keep in (True, False):
        found = find_scales(model, batches(), dataclasses.replace(settings, keep_signal=keep))
        hidden = found.scales["one/kernel"] * found.scales["two/kernel"]
        assert hidden >= 1 - 1e-9 if keep else hidden < 0.5
        assert found.scales["head/kernel"] < 0.5


def test_the_search_may_come_before_the_mask(tmp_path):
    """ToST's other order: the dense network's scales, on the ticket."""
    keras.utils.set_random_seed(1)
    model = mlp()
    dense = lt.Ticket.of(model, lt.Masks.ones(prunable_weights(model)))
    masks = {n: m for n, m in random_masks(model).items() if n in dense.masks}
    ticket = dense.with_masks(lt.Masks(masks))
    dense.save(tmp_path / "dense")
    settings = RescaledInit(iterations=10, learning_rate=0.05)
    first = dataclasses.replace(settings, order="search_first", dense=str(tmp_path / "dense"))
    scaled = first.prepare(ticket.build(), batches())
    scales = first.learned(scaled)["scales"]
    assert scales == find_scales(model, batches(), settings).scales
    assert scales != find_scales(ticket.build(), batches(), settings).scales
    for name, value in ticket.weights.items():
        expected = value * np.float32(scales.get(name, 1))
        np.testing.assert_array_equal(values(scaled)[name], expected)
    assert lt.get_masks(scaled) == ticket.masks
    for dense_at, told in ((None, "rescaled_init_dense"), (str(tmp_path / "no"), "a ticket's")):
        with pytest.raises(UsageError, match=told):
            dataclasses.replace(first, dense=dense_at).prepare(ticket.build(), batches())
    ticket.save(tmp_path / "dense")
    with pytest.raises(UsageError, match="it is pruned or of another network"):
        first.prepare(ticket.build(), batches())


# Models and data of all kinds


class Switch(layers.Layer):
    """Softplus until step 5, as a tweak's layer may be: a branch on a variable."""

    def build(self, input_shape):
        self.step = self.add_weight(
            "step", shape=(), dtype=tf.int64, initializer="zeros", trainable=False
        )

    def call(self, inputs):
        return tf.cond(self.step < 5, lambda: tf.nn.softplus(inputs), lambda: inputs)


@pytest.mark.parametrize(
    ("optimizer", "max_norm"),
    [("sgd", 9), pytest.param("adam", 9, marks=pytest.mark.e2e), ("adam", 0.1)],
)
def test_second_derivatives_through_a_branch(optimizer, max_norm):
    def network(layer):
        keras.utils.set_random_seed(0)
        return chain(layers.Dense(5, name="one"), layer, layers.Dense(3, name="two"))

    settings = RescaledInit(optimizer, max_norm=max_norm, iterations=4)
    found = find_scales(network(Switch(name="between")), batches(), settings)
    expected = find_scales(network(layers.Activation("softplus")), batches(), settings)
    np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-6)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-6)
    assert found.scales == pytest.approx(expected.scales, rel=1e-6)


def two_in_two_out():
    """A nested model called twice (shared), convolutions, an embedding, two heads."""
    image, word = keras.Input((6, 6, 1), name="image"), keras.Input((), name="word", dtype="int32")
    inner = keras.Input((6, 6, 1))
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(inner)
    x = layers.MaxPool2D()(layers.BatchNormalization(name="norm")(x))
    encoder = keras.Model(inner, layers.Flatten()(x), name="encoder")
    x = layers.Concatenate()([encoder(image), encoder(-image), layers.Embedding(5, 4)(word)])
    x = layers.SpatialDropout1D(0.3)(x[:, None])[:, 0]
    heads = [layers.Dense(3, name="a")(x), layers.Dense(2, name="b")(x)]
    return keras.Model([image, word], heads)


@pytest.mark.parametrize(
    ("optimizer", "eager"),
    [
        ("sgd", True),
        *(pytest.param(*case, marks=pytest.mark.e2e) for case in [("adam", True), ("sgd", False)]),
    ],
)
def test_several_inputs_outputs_and_batches(optimizer, eager):
    """Dictionaries and tuples say the same; the last batch is smaller."""
    (x, a), (_, b) = examples(10, (6, 6, 1)), examples(10, classes=2)
    word = np.arange(10, dtype=np.int32) % 5
    forms = [
        ({"image": x, "word": word}, {"b": b, "a": a}),
        ((x, word), (a, b)),
    ]
    plain = two_in_two_out()
    masks = random_masks(plain)
    model = lt.wrap(plain, masks)
    tweak = RescaledInit(optimizer, iterations=4, max_norm=1.0)
    results = []
    for form in forms if optimizer == "sgd" else forms[:1]:
        data = tf.data.Dataset.from_tensor_slices(form).batch(4)
        with eagerly(eager):
            results.append(tweak.change(model, data))
    assert_same(values(results[0]), values(results[-1]))
    assert_zeros(results[0], masks)
    before, after = values(model), values(results[0])
    for name in masks:
        assert np.isfinite(after[name]).all() and (after[name] != before[name]).any(), name


@pytest.mark.parametrize(
    "policy", [pytest.param("mixed_bfloat16", marks=pytest.mark.e2e), "mixed_float16"]
)
@pytest.mark.usefixtures("all_eager")
def test_mixed_precision(policy):
    model = chain(
        layers.Dense(8, activation="relu", dtype=policy, name="one"),
        layers.BatchNormalization(dtype=policy, name="norm"),
        layers.Dense(3, dtype=policy, name="two"),
    )
    plain = chain(
        layers.Dense(8, activation="relu", name="one"),
        layers.BatchNormalization(name="norm"),
        layers.Dense(3, name="two"),
    )
    assign(plain, values(model))
    settings = RescaledInit(iterations=5, max_norm=0.8)
    found = find_scales(model, batches(12), settings)
    expected = find_scales(plain, batches(12), settings)
    np.testing.assert_allclose(found.norms, expected.norms, rtol=0.03)
    assert found.scales == pytest.approx(expected.scales, abs=0.02)


@pytest.mark.usefixtures("untraced")
def test_losses_by_name_and_by_object():
    """Labels [batch] fit an output [batch, 1], as they do in ``fit``."""
    x, _ = examples()
    data = tf.data.Dataset.from_tensor_slices((x, x.sum(1))).batch(6).repeat()
    model = chain(layers.Dense(3, activation="tanh"), layers.Dense(1))
    few = {"iterations": 3, "max_norm": 1e9}
    by_name = find_scales(model, data, RescaledInit(criterion="mean_squared_error", **few))
    loss = keras.losses.MeanSquaredError()
    assert find_scales(model, data, RescaledInit(criterion="mae", **few), loss) == by_name
    column = data.map(lambda x, y: (x, y[:, None]))
    assert find_scales(model, column, RescaledInit(criterion="mse", **few)) == by_name


@pytest.mark.usefixtures("untraced")
def test_a_loss_for_each_output():
    """By name and in order; where all outputs have one it is that of all."""
    x, y = examples()
    inputs = keras.Input((4,))
    heads = [layers.Dense(3, name=name)(layers.Dense(3, "tanh")(inputs)) for name in "ab"]
    model = keras.Model(inputs, heads)
    data = tf.data.Dataset.from_tensor_slices((x, {"a": y, "b": y})).batch(6)
    few = RescaledInit(iterations=3, max_norm=1e9)

    def cross_entropy():
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    alone = find_scales(model, data, few, {"a": cross_entropy(), "b": None})
    assert alone.scales["b/kernel"] == 1 != alone.scales["a/kernel"]
    only = data.map(lambda x, y: (x, {"a": y["a"]}))
    assert find_scales(model, only, few, {"a": cross_entropy()}) == alone
    both = find_scales(model, data, few, [cross_entropy(), cross_entropy()])
    assert both == find_scales(model, data, few, cross_entropy())
    for loss, words in (
        ([cross_entropy()], "losses for 1 of 2 outputs"),
        ({"c": cross_entropy()}, "losses for c of a, b"),
        ({"b": cross_entropy()}, "no labels for b"),
    ):
        with pytest.raises(UsageError, match=words):
            find_scales(model, only, few, loss)


@pytest.mark.usefixtures("untraced")
def test_one_batch_is_enough():
    found = find_scales(mlp(), batches(12), RescaledInit(iterations=3, max_norm=9.0))
    assert np.isfinite(found.losses).all()


@pytest.mark.e2e
def test_on_two_devices():
    found = []
    for strategy in (tf.distribute.get_strategy(), two_devices()):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            plain = mlp()
            masks = random_masks(plain)
            model = lt.wrap(plain, masks)
        model = RescaledInit(max_norm=0.85, iterations=6).change(model, batches())
        assert_zeros(model, masks)
        for variable in model.variables:
            copies = replicas(variable)
            assert len(copies) == strategy.num_replicas_in_sync
            np.testing.assert_array_equal(copies[0], copies[-1])
        found.append(values(model))
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-5)


# Whose step it looks at


def test_what_is_not_given_is_taken_from_the_training():
    def taken(trains, **given):
        settings = RescaledInit(**given).for_training_by(trains)
        return settings.optimizer, settings.step_size

    assert taken("sgd") == ("sgd", 0.1)
    assert taken("adam") == taken("adamw") == taken("sgd", optimizer="adam") == ("adam", 0.001)
    assert taken("adam", optimizer="sgd", step_size=0.3) == ("sgd", 0.3)


@pytest.mark.parametrize(
    ("given", "trains", "told"),
    [(None, "SGD", 0), (None, "Adam", 1), ("sgd", "Adam", 0), ("adam", "Adam", 0)],
)
@pytest.mark.usefixtures("untraced")
def test_a_training_by_another_optimizer_is_told(lines, given, trains, told):
    recipe = lt.Recipe([RescaledInit(given, iterations=1)])
    data = batches()
    model = recipe.prepare(mlp(), data)
    model.compile(getattr(keras.optimizers, trains)(), recipe.loss())
    model.fit(data, callbacks=recipe.callbacks(), verbose=0)
    assert sum("a step of SGD, but Adam trains" in line for line in lines) == told


def test_what_scales_the_loss_is_not_the_optimizer_that_trains(lines):
    model = mlp()
    model.compile(keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD()), "mse")
    RescaledInit().attach(model)
    assert lines == []


# The user's mistakes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: None, "Expected training data for rescaled_init.* recipe.prepare.*, not None"),
        (examples, "Expected training data .* tf.data.Dataset of batches .*, not tuple"),
        (lambda: batches().take(0), "not an empty one"),
        (lambda: batches().map(lambda x, y: x), "with labels, .*no losses of its own"),
        (lambda: batches().map(lambda x, y: (x, y, y, y)), "or .inputs, labels, weights of"),
        (lambda: batches(shape=(5,)), "that fit the model 'model.*incompatible with the layer"),
        (lambda: batches(classes=9), "whole numbers from 0 to 2; .*labels from 0 to [3-8]"),
        (lambda: batches().map(lambda x, y: (x, (y, y))), "labels for 2 of 1 outputs"),
        (
            lambda: batches().map(lambda x, y: (x, tf.one_hot(y, 4))),
            "as rows of 3, the model.s classes; got rows of 4",
        ),
        (lambda: batches().map(lambda x, y: (x, {"tail": y})), "labels for tail of head"),
    ],
)
def test_data_that_do_not_fit(data, message):
    with pytest.raises(UsageError, match=message):
        RescaledInit(iterations=2).change(mlp(), data())


def test_operations_without_a_second_derivative():
    def cropped(x):
        boxes = tf.tile([[0.0, 0.0, 1.0, 1.0]], [tf.shape(x)[0], 1])
        return tf.image.crop_and_resize(x, boxes, tf.range(tf.shape(x)[0]), (4, 4))

    model = chain(
        layers.Reshape((2, 2, 1)), layers.Lambda(cropped), layers.Flatten(), layers.Dense(3)
    )
    model = chain(layers.Dense(4), model, shape=(4,))
    with pytest.raises(UsageError, match="differentiated as often.*CropAndRes.*Leave rescaled_in"):
        find_scales(model, batches())


def test_a_loss_has_to_be_named():
    with pytest.raises(UsageError, match=r"single unit.* RescaledInit\(criterion=…\)"):
        find_scales(chain(layers.Dense(1)), batches())


def test_models_without_scales():
    model = mlp()
    model.trainable = False
    with pytest.raises(UsageError, match="Expected trainable weights .* has none"):
        find_scales(model, batches())


@pytest.mark.usefixtures("untraced")
def test_a_search_that_diverges():
    x, y = examples()
    x[7, 1] = np.nan
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(3)
    with pytest.raises(RuntimeError, match="diverged at iteration 2: the gradient's norm is "):
        find_scales(mlp(), data, RescaledInit(max_norm=9.0))


def test_a_search_that_diverges_in_its_last_iteration():
    """No gradient comes after it that would tell."""
    settings = dataclasses.replace(SETTINGS, iterations=1, learning_rate=1e308)
    with pytest.raises(RuntimeError, match="diverged: scales, loss or gradient"):
        find_scales(four_weights(), three_batches(), settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "rmsprop"}, "sgd or adam, not 'rmsprop'"),
        ({"step_size": 0}, "step_size of RescaledInit above 0, not 0"),
        ({"max_norm": math.nan}, "max_norm .* not nan"),
        ({"learning_rate": -1.0}, "learning_rate .* not -1"),
        ({"step_size": math.inf}, "step_size .* not inf"),
        ({"iterations": 0}, "iterations .* not 0"),
        ({"clip": 0.0}, "clip .* not 0"),
        ({"min_scale": 1.5}, r"min_scale of RescaledInit in \[0, 1\].* not 1.5"),
        ({"min_scale": -0.1}, r"min_scale of RescaledInit in \[0, 1\].* not -0.1"),
        ({"criterion": "mena_squared_error"}, "mean_squared_error, not 'mena_squared_error'"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UsageError, match=message):
        RescaledInit(**settings)


@pytest.mark.usefixtures("untraced")
def test_scales_of_a_stock_tfmot_model_are_those_of_its_mask():
    """TRAP 25: by find_scales itself, to which a recipe hands masks of our own."""
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    prune = tfmot.sparsity.keras
    model = prune.prune_low_magnitude(mlp(), prune.ConstantSparsity(0.5, 0))
    for layer in model.layers:
        for weight, mask, _ in getattr(layer, "pruning_vars", ()):
            keep = np.arange(mask.shape.num_elements()).reshape(mask.shape) % 2
            mask.assign(keep)
            weight.assign(np.where(keep, weight, 100.0))
    data = batches()
    found = find_scales(model, data, RescaledInit(iterations=2))
    assert found == find_scales(masked_by_us(model), data, RescaledInit(iterations=2))


def test_what_is_scaled_is_still_known_to_have_been_dense():
    """Or a ghost skip would take the kernel's density for its strength."""
    model = chain(layers.Dense(4, name="hidden"), layers.ReLU(), layers.Dense(3), shape=(4,))
    masks = random_masks(model)
    recipe = lt.Recipe("signal_scaling,rescaled_init", {"rescaled_init_iterations": 10})
    data = tf.data.Dataset.from_tensor_slices(examples(16, (4,))).batch(8)
    prepared = recipe.prepare(lt.wrap(model, masks), data)
    scales = recipe.learned(prepared)["rescaled_init"]["scales"]
    strengths = signal_scaling.strengths(prepared)
    assert strengths == {name: pytest.approx(scales[name]) for name in masks}
    assert any(abs(scales[name] - 1) > 0.01 for name in masks)
