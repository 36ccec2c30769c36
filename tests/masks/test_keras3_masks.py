"""Models of Keras 3: wrapped, trained by its own ``fit``, set and made plain again."""

import warnings

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers, optimizers
from layer_cases3 import CASES, EachBatch, Gate, mlp
from networks import (
    EVERYTHING,
    assert_finite_and_moved,
    assert_same,
    assert_zeros,
    chain,
    every_variable,
    examples,
    random_masks,
    values,
)

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.layers import named_layers, named_variables
from lottery_tf.graph.optimizers import slots as slots_of
from lottery_tf.masks.dense_norms import get_dense_norms
from lottery_tf.masks.prunable import left_dense, prunable_weights
from lottery_tf.masks.prune_by_mask3 import PruneByMask
from lottery_tf.masks.settings import PrunableSettings

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def same_outputs(one, other):
    for left, right in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
        np.testing.assert_array_equal(left, right)


# What is computed


def four_weights(optimizer, **options):
    """Dense 2 → 2 without bias: x = (1, 2), w = ((½, 1), (−1, 2)), of which w₀₁ is pruned."""
    model = lt.wrap(
        chain(layers.Dense(2, use_bias=False, name="d", **options), shape=(2,)),
        lt.Masks({"d/kernel": [[1, 0], [1, 1]]}),
    )
    (kernel,) = model.trainable_variables
    kernel.assign([[0.5, 0.0], [-1.0, 2.0]])
    model.compile(optimizer, "mse")
    return model, kernel


def test_one_step_of_sgd_by_hand():
    """y = (½ − 2, 4) = (−1½, 4); with t = (½, 3) the mse has ∂L/∂y = y − t = (−2, 1).

    ∂L/∂w = ((−2, ·), (−4, 2)); a step of ¼ gives ((1, 0), (0, 1½)).
    """
    model, kernel = four_weights(optimizers.SGD(0.25))
    np.testing.assert_array_equal(model.predict_on_batch(np.array([[1.0, 2.0]])), [[-1.5, 4.0]])
    model.train_on_batch(np.array([[1.0, 2.0]]), np.array([[0.5, 3.0]]))
    np.testing.assert_array_equal(kernel, [[1.0, 0.0], [0.0, 1.5]])


def test_the_gradient_norm_counts_live_weights_only_by_hand():
    """With t = (½, 2): ∂L/∂w = ((−2, ·), (−4, 4)) of norm 6 (√40 were the pruned one counted).

    Clipped to 3 it is ((−1, ·), (−2, 2)); a step of ¼ gives ((¾, 0), (−½, 1½)).
    """
    model, kernel = four_weights(optimizers.SGD(0.25, global_clipnorm=3.0))
    model.train_on_batch(np.array([[1.0, 2.0]]), np.array([[0.5, 2.0]]))
    np.testing.assert_allclose(kernel, [[0.75, 0.0], [-0.5, 1.5]], rtol=2e-7)
    assert kernel.numpy()[0, 1] == 0


def test_the_gradient_of_a_pruned_weight_is_exactly_zero():
    model, kernel = four_weights("sgd")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(np.array([[1.0, 2.0]])) ** 2)
    # 2 y xᵀ with y = (−1½, 4), masked
    np.testing.assert_array_equal(tape.gradient(loss, kernel.value), [[-3.0, 0.0], [-6.0, 16.0]])


@pytest.mark.parametrize("name", CASES)
def test_what_is_prunable_by_default_on_request_and_never(name):
    case = CASES[name]
    plain = case.build()
    for model in (plain, lt.wrap(plain, random_masks(plain))):
        by_default, everything = prunable_weights(model), prunable_weights(model, EVERYTHING)
        assert tuple(by_default) == case.prunable
        assert sorted(everything) == sorted(case.prunable + case.on_request)
        variables = named_variables(model)
        assert all(shape == tuple(variables[n].shape) for n, shape in everything.items())
        assert set(left_dense(model, set(everything))) == set(case.never)


@pytest.mark.parametrize(
    ("prune_layers", "expected"),
    [
        (("conv",), {"conv/kernel", "separable/pointwise_kernel", "transposed/kernel"}),
        (("dense",), {"head/kernel"}),
        (("depthwise",), {"depthwise/depthwise_kernel", "separable/depthwise_kernel"}),
        ((), set()),
    ],
)
def test_kinds_of_layers(prune_layers, expected):
    settings = PrunableSettings(prune_layers, keep_dense=())
    assert set(prunable_weights(CASES["images"].build(), settings)) == expected


@pytest.mark.parametrize("plus", [lambda x, y: x + y, lambda x, y: layers.Add()([x, y])])
def test_a_shortcut_ends_in_an_addition_of_either_kind(plus):
    inputs = keras.Input((4, 4, 2))
    y = layers.Conv2D(3, 3, padding="same", name="way")(inputs)
    y = plus(y, layers.Conv2D(3, 1, name="around")(inputs))
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="head")(y))
    settings = PrunableSettings(keep_dense=("shortcut", "last"))
    assert list(prunable_weights(model, settings)) == ["way/kernel"]


@pytest.mark.parametrize("name", CASES)
def test_a_model_of_any_layers(name):
    """Wrapped it computes kernel ⊙ mask, trains with zeros, and comes off as it went in."""
    case = CASES[name]
    model = case.build()
    masks, before = random_masks(model), values(model)
    wrapped = lt.wrap(model, masks)
    assert_same(values(model), before)
    assert lt.get_masks(wrapped) == masks
    assert list(named_layers(wrapped)) == list(named_layers(model))
    assert list(values(wrapped)) == list(before)

    variables = named_variables(model)
    for weight, mask in masks.items():
        variables[weight].assign(np.where(mask, variables[weight], 0))
    same_outputs(wrapped(case.x), model(case.x))
    assert_same(values(wrapped), values(model))

    optimizer = optimizers.SGD(0.01, momentum=0.9)
    for _ in range(2):
        with tf.GradientTape() as tape:
            outputs = keras.tree.flatten(wrapped(case.x, training=True))
            loss = sum(tf.reduce_sum((each - 3.0) ** 2) for each in outputs)
        trained = wrapped.trainable_variables
        gradients = tape.gradient(loss, [each.value for each in trained])
        optimizer.apply_gradients(zip(gradients, trained, strict=True))
        assert_zeros(wrapped, masks, optimizer, slots=1)
    moved = [n for n in masks if (values(wrapped)[n] != values(model)[n]).any()]
    assert moved, "nothing was trained"

    stripped = lt.strip(wrapped)
    assert [(path, type(each)) for path, each in named_layers(stripped).items()] == [
        (path, type(each)) for path, each in named_layers(model).items()
    ]
    assert stripped.count_params() == model.count_params()
    assert stripped.output_names == wrapped.output_names == model.output_names
    assert_same(values(stripped), values(wrapped))
    same_outputs(stripped(case.x), wrapped(case.x))


# Zeros under every optimizer

# Name → (optimizer, slots a weight has).
OPTIMIZERS = {
    "sgd": (lambda: optimizers.SGD(0.1), 0),
    "momentum": (lambda: optimizers.SGD(0.1, momentum=0.9), 1),
    "nesterov": (lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True), 1),
    "adam": (lambda: optimizers.Adam(0.01), 2),
    "amsgrad": (lambda: optimizers.Adam(0.01, amsgrad=True), 3),
    "adamw": (lambda: optimizers.AdamW(0.01, weight_decay=0.1), 2),
    "adamax": (lambda: optimizers.Adamax(0.01), 2),
    "nadam": (lambda: optimizers.Nadam(0.01), 2),
    "rmsprop": (lambda: optimizers.RMSprop(0.01, momentum=0.9), 2),
    "adadelta": (lambda: optimizers.Adadelta(1.0), 2),
    "lion": (lambda: optimizers.Lion(0.01), 1),
    "lamb": (lambda: optimizers.Lamb(0.01), 2),
    "global_clipnorm": (lambda: optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5), 1),
    "clipnorm": (lambda: optimizers.Adam(0.01, clipnorm=0.3), 2),
    "averaged": (lambda: optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2), 1),
    "accumulated": (lambda: optimizers.Adam(0.01, gradient_accumulation_steps=2), 3),
    "schedule": (lambda: optimizers.SGD(optimizers.schedules.CosineDecay(0.1, 9), 0.9), 1),
    "muon": (lambda: optimizers.Muon(0.01), 1),
    # Their sums begin above 0, and keep what they begin with.
    "adagrad": (lambda: optimizers.Adagrad(0.1), None),
    "ftrl": (lambda: optimizers.Ftrl(0.1), None),
    # Its sums over rows and columns count the zeros, and so do their products.
    "adafactor": (lambda: optimizers.Adafactor(0.01), None),
}
WAYS = {
    "eagerly": {"run_eagerly": True},
    "graph": {"jit_compile": False},
    "jit": {"jit_compile": True},
    "jit_3_steps": {"jit_compile": True, "steps_per_execution": 3},
}


IN_GRAPHS = [("momentum", "graph"), ("adamw", "jit"), ("muon", "jit_3_steps")]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, "eagerly") for name in OPTIMIZERS),
        *IN_GRAPHS,
        *(
            pytest.param(name, way, marks=pytest.mark.e2e)
            for number, name in enumerate(OPTIMIZERS)
            for way in (("graph", "jit")[number % 2],)  # each in one of the two
            if (name, way) not in IN_GRAPHS
        ),
    ],
)
def test_pruned_weights_are_zero_after_every_batch_of_fit(name, way):
    x, y = examples()
    model = chain(layers.Dense(6, activation="relu"), layers.Dense(3))
    masks = random_masks(model)
    model = lt.wrap(model, masks)
    before = values(model)
    optimizer, slots = OPTIMIZERS[name]
    model.compile(optimizer(), CROSS_ENTROPY, **WAYS[way])

    def check(model):
        assert_zeros(model, masks, None if slots is None else model.optimizer, slots)

    watch = EachBatch(check)
    model.fit(x, y, batch_size=2, callbacks=[watch], verbose=0)
    assert watch.calls == (2 if "3_steps" in way else 6)
    assert_zeros(model, masks)  # averages are put in the weights' place as a fit ends
    assert_finite_and_moved(model, before)


@pytest.mark.parametrize("name", ["momentum", "adamw", "rmsprop", "lion", "clipnorm", "lamb"])
def test_live_weights_go_the_way_they_would_go_alone(name):
    """Against variables that hold the live weights and nothing else, same optimizer.

    The sums of a norm and of a shorter vector run in another order, so a few units in the last
    place are left: 1e-6 of the largest.
    """
    x, y = examples(shape=(11,))
    model = chain(layers.Dense(17, activation="relu"), layers.Dense(3), shape=(11,))
    masks = random_masks(model, 0.3)
    wrapped = lt.wrap(model, masks)
    live, where = [], []
    for weight, value in values(wrapped).items():
        mask = masks.get(weight, np.ones(value.shape, bool))
        where.append(np.argwhere(mask))
        live.append(keras.Variable(value[mask]))

    def alone(x):
        pairs = zip(live, where, wrapped.trainable_variables, strict=True)
        w1, b1, w2, b2 = (tf.scatter_nd(at, v.value, whole.shape) for v, at, whole in pairs)
        return tf.nn.relu(x @ w1 + b1) @ w2 + b2

    ours, theirs = (OPTIMIZERS[name][0]() for _ in range(2))
    for _ in range(4):
        for network, weights, optimizer in (
            (wrapped, wrapped.trainable_variables, ours),
            (alone, live, theirs),
        ):
            with tf.GradientTape() as tape:
                loss = CROSS_ENTROPY(y, network(x))
            gradients = tape.gradient(loss, [weight.value for weight in weights])
            optimizer.apply_gradients(zip(gradients, weights, strict=True))
        for whole, part, at in zip(wrapped.trainable_variables, live, where, strict=True):
            np.testing.assert_allclose(
                whole.numpy()[tuple(at.T)], part, rtol=1e-6, atol=1e-6 * np.abs(part).max()
            )


def test_muon_is_masked_behind_its_update():
    """Its update is made of the singular vectors of the gradient as a whole: no zero stays 0."""
    gradient = keras.ops.convert_to_tensor([[2.0, 0.0], [1.0, 1.0]])
    assert (optimizers.Muon(0.01).zeropower_via_newtonschulz5(gradient, 5).numpy() != 0).all()
    model, kernel = four_weights(optimizers.Muon(0.25, momentum=0.0, nesterov=False))
    before = kernel.numpy()
    model.train_on_batch(np.array([[1.0, 2.0]]), np.array([[0.5, 3.0]]))
    assert kernel.numpy()[0, 1] == 0
    assert ((kernel.numpy() != before) == [[True, False], [True, True]]).all()


@keras.saving.register_keras_serializable("tests")
class PlusOne(keras.constraints.Constraint):
    def __call__(self, weight):
        return weight + 1


def test_a_constraint_that_moves_zeros_is_masked():
    """w ← w + 1 after each step."""
    model, kernel = four_weights(optimizers.SGD(0.25), kernel_constraint=PlusOne())
    model.train_on_batch(np.array([[1.0, 2.0]]), np.array([[0.5, 3.0]]))
    np.testing.assert_array_equal(kernel, [[2.0, 0.0], [1.0, 2.5]])


def test_a_constraint_sees_the_live_weights():
    """MaxNorm(1) makes each column of live weights at most 1 long."""
    model = chain(layers.Dense(3, kernel_constraint=keras.constraints.MaxNorm(1.0), name="d"))
    masks = random_masks(model)
    wrapped, optimizer = lt.wrap(model, masks), optimizers.SGD(10.0, momentum=0.9)
    train(wrapped, optimizer, steps=1)
    norms = np.linalg.norm(values(wrapped)["d/kernel"], axis=0)
    np.testing.assert_allclose(norms.max(), 1, rtol=1e-5)
    assert_zeros(wrapped, masks, optimizer, slots=1)


def train(model, optimizer, steps=3):
    x, y = examples()
    for _ in range(steps):
        with tf.GradientTape() as tape:
            loss = CROSS_ENTROPY(y, model(x, training=True)) + sum(model.losses)
        weights = model.trainable_variables
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        optimizer.apply_gradients(zip(gradients, weights, strict=True))


# Masks that change in the middle of training

MEMORIES = {
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: optimizers.Adam(0.01),
    "rmsprop": lambda: optimizers.RMSprop(0.01, momentum=0.9),
    "averaged": lambda: optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2),
    "accumulated": lambda: optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2),
    "muon": lambda: optimizers.Muon(0.01),
    "loss_scaled": lambda: optimizers.LossScaleOptimizer(optimizers.SGD(0.1, momentum=0.9)),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_momentum_does_not_move_a_weight_pruned_in_the_middle_of_training(name):
    model = mlp()
    outer = random_masks(model, 0.8)
    inner = lt.Masks({n: m & random_masks(model, 0.5, seed=1)[n] for n, m in outer.items()})
    model, optimizer = lt.wrap(model, outer), MEMORIES[name]()
    train(model, optimizer)
    slots = {n: slots_of(optimizer, named_variables(model)[n]).values() for n in inner}
    newly = {n: outer[n] & ~inner[n] for n in inner}
    assert any(slot.numpy()[newly[n]].any() for n in inner for slot in slots[n]), "nothing to lose"
    lt.set_masks(model, inner, optimizer)
    before = values(model)
    for _ in range(3):
        assert_zeros(model, inner, optimizer)
        train(model, optimizer, steps=1)
    assert_zeros(model, inner, optimizer)
    assert_finite_and_moved(model, before)


def test_what_an_optimizer_begins_with_is_not_always_zero():
    """Adagrad's sum begins at 0.1: it does so again for what is pruned and what returns."""
    model = lt.wrap(mlp(), lt.Masks({"first/kernel": np.arange(24).reshape(4, 6) % 2}))
    optimizer = optimizers.Adagrad(0.1)
    train(model, optimizer)
    kernel = named_variables(model)["first/kernel"]
    (sums,) = slots_of(optimizer, kernel).values()
    before = sums.numpy()
    masks = lt.Masks({"first/kernel": np.arange(24).reshape(4, 6) < 12})
    lt.set_masks(model, masks, optimizer)
    stay = masks["first/kernel"] & (np.arange(24).reshape(4, 6) % 2 == 1)
    np.testing.assert_array_equal(sums, np.where(stay, before, np.float32(0.1)))


def test_set_masks_takes_the_optimizer_that_the_model_is_compiled_with():
    x, y = examples()
    model = lt.wrap(mlp(), random_masks(mlp(), 0.8))
    model.compile(optimizers.SGD(0.1, momentum=0.9), CROSS_ENTROPY, jit_compile=False)
    model.fit(x, y, verbose=0)
    masks = random_masks(model, 0.3, seed=1)
    lt.set_masks(model, masks)
    assert_zeros(model, masks, model.optimizer, slots=1)


def test_a_schedule_is_no_memory():
    x, y = examples()
    model = lt.wrap(mlp(), random_masks(mlp(), 0.8))
    rate = optimizers.schedules.CosineDecay(0.1, 9)
    model.compile(optimizers.Adam(rate), CROSS_ENTROPY, run_eagerly=True)
    model.train_on_batch(x, y)
    lt.set_masks(model, random_masks(model, 0.3, seed=1))
    assert int(model.optimizer.iterations) == 1


@pytest.mark.parametrize("jit_compile", [False, True])
def test_new_masks_and_weights_do_not_trace_anew(jit_compile):
    traces = []

    class Counting(layers.Layer):
        def call(self, inputs):
            traces.append(1)
            return inputs

    x, y = examples()
    model = chain(layers.Dense(5, name="d"), Counting(), layers.Dense(3))
    model = lt.wrap(model, random_masks(model))
    model.compile(optimizers.SGD(0.1, momentum=0.9), CROSS_ENTROPY, jit_compile=jit_compile)
    model.fit(x, y, batch_size=4, verbose=0)
    before = values(model)
    masks = random_masks(model, 0.3, seed=1)
    lt.set_masks(model, masks)
    named_variables(model)["d/bias"].assign(np.ones(5))
    traces.clear()
    model.fit(x, y, batch_size=4, verbose=0)
    assert not traces
    assert_zeros(model, masks, model.optimizer, slots=1)
    assert_finite_and_moved(model, before)


def test_optimizers_of_the_other_keras_get_one_sentence():
    ours, theirs = lt.wrap(mlp()), lt.wrap(networks.mlp())
    for model, optimizer, words in (
        (ours, tf_keras.optimizers.Adam(), "Expected a keras optimizer, .*got a tf_keras"),
        (theirs, optimizers.Adam(), "Expected a tf_keras optimizer, .*got a keras"),
    ):
        before = every_variable(model)
        with pytest.raises(UsageError, match=words) as error:
            lt.set_masks(model, lt.get_masks(model), optimizer)
        assert str(error.value).count(". ") == 0
        assert_same(every_variable(model), before)


def test_masks_of_another_model_change_nothing():
    model = lt.wrap(mlp(), random_masks(mlp()))
    before = values(model)
    for masks in ({"x/kernel": np.eye(2)}, {"head/kernel": np.eye(3)}):
        with pytest.raises(UsageError, match="The masks are of another model"):
            lt.set_masks(model, lt.Masks(masks))
        with pytest.raises(UsageError, match="The masks are of another model"):
            lt.wrap(mlp(), lt.Masks(masks))
    assert_same(values(model), before)


# What is kept of a layer


def test_a_sequential_model_stays_one():
    """Built by an Input or by a first batch."""
    for first in ([keras.Input((4,))], []):
        model = keras.Sequential([*first, layers.Dense(3, name="d"), layers.Dense(2, name="e")])
        model(np.ones((1, 4)))
        wrapped = lt.wrap(model, random_masks(model))
        assert isinstance(wrapped, keras.Sequential) and wrapped.name == model.name
        stripped = lt.strip(wrapped)
        assert isinstance(stripped, keras.Sequential)
        assert [layer.name for layer in stripped.layers] == ["d", "e"]


def test_only_the_layers_in_the_masks_are_wrapped_and_again_replaces_them():
    model = chain(layers.Dense(4, name="one"), layers.Dense(4, name="two"))
    wrapped = lt.wrap(model, lt.Masks({"two/kernel": np.eye(4)}))
    assert [type(layer) for layer in wrapped.layers[1:]] == [layers.Dense, PruneByMask]
    again = lt.wrap(wrapped, lt.Masks({"one/kernel": np.eye(4)}))
    assert [type(layer) for layer in again.layers[1:]] == [PruneByMask, layers.Dense]


def test_each_regularizer_counts_once():
    """½ of Σ|w| over live weights, ¼ of Σ b², and one of the outputs, as in a plain layer."""
    regularizers = keras.regularizers
    model = chain(
        layers.Dense(
            3,
            kernel_regularizer=regularizers.L1(0.5),
            bias_regularizer=regularizers.L2(0.25),
            activity_regularizer=regularizers.L1(0.125),
            bias_initializer="ones",
            name="d",
        )
    )
    masks = random_masks(model)
    wrapped = lt.wrap(model, masks)
    x, _ = examples()
    kernel = values(model)["d/kernel"] * masks["d/kernel"]
    # What stands in a pruned place does not count.
    named_variables(wrapped)["d/kernel"].assign_add(~masks["d/kernel"] * np.float32(1))
    y = wrapped(x)
    np.testing.assert_allclose(y, x @ kernel + 1, rtol=1e-5, atol=1e-6)
    plain = lt.strip(wrapped)
    plain(x)
    expected = [0.5 * np.abs(kernel).sum(), 0.25 * 3]
    expected += [loss for loss in map(float, plain.losses) if not np.isclose(loss, expected).any()]
    assert len(expected) == 3
    np.testing.assert_allclose(sorted(wrapped.losses), sorted(expected), rtol=1e-5)
    for each in (wrapped, plain):
        each.compile(loss="mse", run_eagerly=True)
        np.testing.assert_allclose(each.evaluate(x, y, verbose=0), sum(expected), rtol=1e-5)


def test_the_training_flag_passes_through_and_what_is_frozen_stays_so():
    """Gate adds 100 in training; a layer without the argument is not given it."""
    model = chain(Gate(), layers.Dense(4, trainable=False))
    wrapped = lt.wrap(model, random_masks(model))
    x, _ = examples()
    first = keras.Model(wrapped.input, wrapped.layers[1].output)
    np.testing.assert_allclose(first(x, training=True) - first(x), 100, rtol=1e-4)
    np.testing.assert_array_equal(first(x, training=False), first(x))
    assert len(wrapped.trainable_variables) == len(model.trainable_variables) == 2
    model.trainable = False
    for each in (lt.wrap(model, random_masks(model)), lt.strip(wrapped_frozen(model))):
        assert not each.trainable_variables and not each.trainable


def wrapped_frozen(model):
    wrapped = lt.wrap(model)
    assert not wrapped.trainable
    return wrapped


def test_the_mask_of_padding_passes_through_wrapped_layers():
    """Embedding(mask_zero) → Dense → … → LSTM: the embedding of the padding is no matter."""
    case = CASES["tokens"]
    model = case.build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of layers that destroy a mask
        wrapped = lt.wrap(model, random_masks(model))
        before = wrapped(case.x)
    embeddings = named_variables(wrapped)["embedding/embeddings"]
    embeddings.assign(np.concatenate([embeddings.numpy()[:1] + 10.0, embeddings.numpy()[1:]], 0))
    np.testing.assert_array_equal(wrapped(case.x), before)
    embeddings.assign(embeddings + 1.0)
    assert (wrapped(case.x) != before).numpy().any()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    """Weights and masks are float32, the layer computes in 16 bits, the head in 32."""
    x, y = examples()
    model = chain(
        layers.Dense(6, activation="relu", dtype=policy, name="d"),
        layers.Dense(3, dtype="float32", name="head"),
    )
    masks = random_masks(model)
    wrapped = lt.wrap(model, masks)
    assert {variable.dtype for variable in wrapped.variables} == {"float32"}
    assert [layer.compute_dtype for layer in wrapped.layers[1:]] == [policy[6:], "float32"]
    named_variables(model)["d/kernel"].assign(values(wrapped)["d/kernel"])
    named_variables(model)["head/kernel"].assign(values(wrapped)["head/kernel"])
    np.testing.assert_array_equal(wrapped(x), model(x))
    before = values(wrapped)
    wrapped.compile(optimizers.Adam(0.01), CROSS_ENTROPY, run_eagerly=True)
    watch = EachBatch(lambda model: assert_zeros(model, masks, model.optimizer, slots=2))
    wrapped.fit(x, y, batch_size=6, callbacks=[watch], verbose=0)
    assert watch.calls == 2
    assert_finite_and_moved(wrapped, before)


def test_norms_before_the_mask_are_remembered():
    """‖((3, 4), (0, 12))‖ = 13."""
    model = chain(layers.Dense(2, name="d"), shape=(2,))
    named_variables(model)["d/kernel"].assign([[3, 4], [0, 12]])
    wrapped = lt.wrap(model, lt.Masks({"d/kernel": [[1, 1], [1, 0]]}))
    assert get_dense_norms(wrapped) == {"d/kernel": pytest.approx(13)}
    layer = PruneByMask.from_config(wrapped.layers[-1].get_config())
    assert layer.dense_norms == {"kernel": pytest.approx([13, 5])}
    assert layer.attributes == ["kernel"]


def test_adapters_and_low_precision_weights_are_left_alone():
    """With LoRA what multiplies the inputs is more than the kernel."""
    model = chain(layers.Dense(4, name="d"), layers.Dense(3, name="h"))
    model.layers[1].enable_lora(2)
    assert list(prunable_weights(model, EVERYTHING)) == ["h/kernel"]


# Files


@pytest.mark.parametrize("name", ["images", "functions", "nested", "several", "of_ones_own"])
def test_a_saved_model_computes_the_same(tmp_path, name):
    case = CASES[name]
    model = case.build()
    masks = random_masks(model)
    wrapped = lt.wrap(model, masks)
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert lt.get_masks(loaded) == masks
    assert get_dense_norms(loaded) == get_dense_norms(wrapped)
    assert_same(values(loaded), values(wrapped))
    same_outputs(loaded(case.x), wrapped(case.x))
    same_outputs(lt.strip(loaded)(case.x), wrapped(case.x))


def test_a_saved_model_goes_on_training(tmp_path):
    x, y = examples()
    model = lt.wrap(mlp(), random_masks(mlp()))
    masks = lt.get_masks(model)
    model.compile(optimizers.SGD(0.1, momentum=0.9), CROSS_ENTROPY, jit_compile=False)
    model.fit(x, y, batch_size=6, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 2
    assert_zeros(loaded, masks, loaded.optimizer, slots=1)
    before = values(loaded)
    watch = EachBatch(lambda model: assert_zeros(model, masks, model.optimizer, slots=1))
    loaded.fit(x, y, batch_size=6, callbacks=[watch], verbose=0)
    assert watch.calls == 2
    assert_finite_and_moved(loaded, before)


def test_saved_weights_bring_their_masks(tmp_path):
    model = lt.wrap(mlp(), random_masks(mlp()))
    model.save_weights(tmp_path / "w.weights.h5")
    other = lt.wrap(mlp(), random_masks(mlp(), seed=1))
    assert lt.get_masks(other) != lt.get_masks(model)
    other.load_weights(tmp_path / "w.weights.h5")
    assert lt.get_masks(other) == lt.get_masks(model)
    assert_same(values(other), values(model))


def test_both_kerases_in_one_process():
    """A tf_keras model and one of Keras 3 of the same weights give the same numbers."""
    x, _ = examples()
    theirs, ours = networks.mlp(), mlp()
    for name, value in values(theirs).items():
        named_variables(ours)[name].assign(value)
    masks = random_masks(ours)
    assert random_masks(theirs) == masks
    np.testing.assert_allclose(
        lt.wrap(ours, masks)(x), lt.wrap(theirs, masks)(x), rtol=1e-5, atol=1e-6
    )


# What is refused


class Own(keras.Model):
    """A functional model of a user's own class."""


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Subclassed(name="mine"), r"the subclassed model 'mine' \(Subclassed\)"),
        (lambda: chain(Subclassed(name="mine")), "subclassed model 'mine'"),
        (lambda: own(), "of Keras' own classes; 'mine' is a Own: build it as keras.Model"),
        (lambda: keras.Sequential([layers.Dense(2)], name="bare"), "built model, .*'bare' .*Input"),
        (lambda: layers.Dense(2), "Expected a Keras model, got a keras.*Dense"),
    ],
)
def test_what_is_no_graph_gets_one_sentence(build, words):
    for refuse in (lt.wrap, lt.strip, prunable_weights):
        with pytest.raises(UsageError, match=words) as error:
            refuse(build())
        assert str(error.value).count(". ") == 0


def own():
    inputs = keras.Input((4,))
    return Own(inputs, layers.Dense(2)(inputs), name="mine")


def test_a_method_that_was_set_on_a_model():
    model = mlp()
    model.train_step = lambda data: {}
    with pytest.raises(UsageError, match="whose train_step is that of its class"):
        lt.wrap(model)


def test_layers_that_cannot_be_copied_get_one_sentence():
    class Opaque(layers.Layer):
        def __init__(self, thing):
            super().__init__(name="opaque")

        def call(self, x):
            return x

    with pytest.raises(UsageError, match="the layer 'opaque' .*get_config"):
        lt.wrap(chain(Opaque(object()), layers.Dense(2)))
