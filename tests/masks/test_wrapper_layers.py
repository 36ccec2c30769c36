"""Wrapping and stripping models of every kind of layer."""

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import CASES, Gate
from networks import (
    EachBatch,
    assert_finite_and_moved,
    assert_same,
    assert_zeros,
    chain,
    examples,
    layers,
    random_masks,
    tape_step,
    values,
)
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import (
    PruneLowMagnitude,
)

import lottery_tf as lt
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import named_layers, named_variables
from lottery_tf.masks.prune_by_mask import PruneByMask

optimizers = keras.optimizers
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def same_outputs(one, other):
    for left, right in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_array_equal(left, right)


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
            outputs = tf.nest.flatten(wrapped(case.x, training=True))
            loss = sum(tf.reduce_sum((each - 3.0) ** 2) for each in outputs)
        trained = wrapped.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, trained), trained, strict=True))
        assert_zeros(wrapped, masks, optimizer, slots=1)
    moved = [n for n in masks if (values(wrapped)[n] != values(model)[n]).any()]
    assert moved, "nothing was trained"

    stripped = lt.strip(wrapped)
    assert not any(isinstance(layer, PruneLowMagnitude) for layer in stripped.submodules)
    assert [(path, type(each)) for path, each in named_layers(stripped).items()] == [
        (path, type(each)) for path, each in named_layers(model).items()
    ]
    assert stripped.count_params() == model.count_params()
    assert stripped.output_names == wrapped.output_names == model.output_names
    assert_same(values(stripped), values(wrapped))
    same_outputs(stripped(case.x), wrapped(case.x))


def backwards(masks):
    return dict(reversed(list(masks.items())))


def test_masks_are_set_by_name_and_not_by_position():
    """TRAP 6: no bias, layers of the same shape, masks in another order."""
    stack = [layers.Dense(4, use_bias=False, name=name) for name in ("one", "two", "three")]
    model = chain(*stack)
    masks = random_masks(model)
    wrapped = lt.wrap(model, lt.Masks(backwards(masks)))
    for name, kernel in named_variables(wrapped).items():
        np.testing.assert_array_equal(kernel.numpy() != 0, masks[name])
    fewer = lt.Masks({name: mask & (np.arange(4) < 2) for name, mask in backwards(masks).items()})
    lt.set_masks(wrapped, fewer)
    for name, kernel in named_variables(wrapped).items():
        np.testing.assert_array_equal(kernel.numpy() != 0, fewer[name])


def test_only_the_layers_in_the_masks_are_wrapped():
    model = chain(layers.Dense(4, name="one"), layers.Dense(4, name="two"))
    wrapped = lt.wrap(model, lt.Masks({"two/kernel": np.eye(4)}))
    assert [type(layer) for layer in wrapped.layers[1:]] == [layers.Dense, PruneByMask]
    assert lt.wrap(model, lt.Masks({})).count_params() == model.count_params()


def test_wrapping_again_replaces_the_masks():
    model = chain(layers.Dense(4, name="d"))
    one, two = np.eye(4) == 1, np.eye(4)[::-1] == 1
    again = lt.wrap(lt.wrap(model, lt.Masks({"d/kernel": one})), lt.Masks({"d/kernel": two}))
    assert lt.get_masks(again) == lt.Masks({"d/kernel": two})
    assert not isinstance(again.layers[-1].layer, PruneLowMagnitude)
    assert not named_variables(again)["d/kernel"].numpy().any()


def test_a_sequential_model_stays_one():
    """Built by an Input or by a first batch."""
    for first in ([keras.Input((4,))], []):
        model = keras.Sequential([*first, layers.Dense(3, name="d"), layers.Dense(2, name="e")])
        model(tf.ones((1, 4)))
        wrapped = lt.wrap(model, random_masks(model))
        assert isinstance(wrapped, keras.Sequential) and wrapped.name == model.name
        stripped = lt.strip(wrapped)
        assert isinstance(stripped, keras.Sequential)
        assert [layer.name for layer in stripped.layers] == ["d", "e"]


def test_losses_by_the_names_of_wrapped_outputs():
    """A wrapped layer keeps its name: losses, targets and logs go by it."""
    inputs = keras.Input((4,))
    outputs = [layers.Dense(2, name="left")(inputs), layers.Dense(1, name="right")(inputs)]
    model = keras.Model(inputs, outputs)
    model = lt.wrap(model, random_masks(model))
    model.compile("sgd", {"left": "mse", "right": "mae"})
    x = np.ones((4, 4), np.float32)
    logs = model.train_on_batch(x, {"left": x[:, :2], "right": x[:, :1]}, return_dict=True)
    assert set(logs) == {"loss", "left_loss", "right_loss"}
    assert model.get_layer("left").layer.units == 2


def test_each_regularizer_counts_once():
    """½ of Σ|w| over live weights, ¼ of Σ b², and ⅛ of the outputs' mean Σ|y| over the batch."""
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
    kernel = values(model)["d/kernel"] * masks["d/kernel"]
    x, _ = examples()
    activity = 0.125 * np.abs(x @ kernel + 1).sum(1).mean()
    y = wrapped(x)
    expected = [0.5 * np.abs(kernel).sum(), 0.25 * 3, activity]
    np.testing.assert_allclose(sorted(wrapped.losses), sorted(expected), rtol=1e-5)
    for each in (wrapped, lt.strip(wrapped)):
        each.compile(loss="mse")
        np.testing.assert_allclose(each.evaluate(x, y, verbose=0), sum(expected), rtol=1e-5)


def test_a_constraint_sees_the_live_weights():
    """MaxNorm(1) makes each column of live weights at most 1 long."""
    model = chain(layers.Dense(3, kernel_constraint=keras.constraints.MaxNorm(1.0), name="d"))
    masks = random_masks(model)
    wrapped, optimizer = lt.wrap(model, masks), optimizers.SGD(10.0)
    tape_step(wrapped, *examples(), CROSS_ENTROPY, optimizer)
    norms = np.linalg.norm(values(wrapped)["d/kernel"], axis=0)
    np.testing.assert_allclose(norms.max(), 1, rtol=1e-5)
    assert_zeros(wrapped, masks, optimizer, slots=1)


def test_the_training_flag_passes_through():
    """Gate adds 100 in training; a layer without the argument is not given it."""
    model = chain(Gate(), layers.Dense(4, trainable=False))
    wrapped = lt.wrap(model, random_masks(model))
    x, _ = examples()
    first = keras.Model(wrapped.input, wrapped.layers[1].output)
    np.testing.assert_allclose(first(x, training=True) - first(x), 100, rtol=1e-4)
    np.testing.assert_array_equal(first(x, training=False), first(x))
    # trainable=False is kept.
    assert len(wrapped.trainable_variables) == len(model.trainable_variables) == 2


def test_the_mask_of_padding_passes_through_wrapped_layers():
    """Embedding(mask_zero) → Dense → … → LSTM: the embedding of the padding is no matter."""
    case = CASES["tokens"]
    model = case.build()
    wrapped = lt.wrap(model, random_masks(model))
    before = wrapped(case.x)
    embeddings = named_variables(wrapped)["embedding/embeddings"]
    embeddings.assign(tf.concat([embeddings[:1] + 10.0, embeddings[1:]], 0))
    np.testing.assert_array_equal(wrapped(case.x), before)
    embeddings.assign(embeddings + 1.0)
    assert (wrapped(case.x) != before).numpy().any()


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request):
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


def test_mixed_precision(policy):
    """TRAP 13: masks are float32; a float32 head is wrapped as well as a float16 layer."""
    x, y = examples()
    model = chain(layers.Dense(6, activation="relu"), layers.Dense(3, dtype="float32"))
    masks = random_masks(model)
    wrapped = lt.wrap(model, masks)
    assert {v.dtype for v in wrapped.variables} == {tf.float32}
    assert [layer.compute_dtype for layer in wrapped.layers[1:]] == [policy[6:], "float32"]
    named = named_variables(model)
    for name, mask in masks.items():
        named[name].assign(named[name] * mask)
    np.testing.assert_array_equal(wrapped(x), model(x))
    before = values(wrapped)
    wrapped.compile(optimizers.SGD(0.1, momentum=0.9), CROSS_ENTROPY)
    watch = EachBatch(lambda model: assert_zeros(model, masks, model.optimizer, slots=1))
    wrapped.fit(x, y, batch_size=6, callbacks=[watch], verbose=0)
    assert_finite_and_moved(wrapped, before)
    stripped = lt.strip(wrapped)
    np.testing.assert_array_equal(stripped(x), wrapped(x))
    assert stripped.layers[1].compute_dtype == policy[6:]


def test_an_orthogonal_regularizer_does_not_move_pruned_weights():
    """Its gradient at a weight of 0 is not 0: the regularizer must see kernel ⊙ mask too."""
    x, y = examples()
    model = chain(
        layers.Dense(6, kernel_regularizer=keras.regularizers.OrthogonalRegularizer(0.5)),
        layers.Dense(3),
    )
    masks = random_masks(model)
    model = lt.wrap(model, masks)
    (loss,) = model.losses
    assert loss > 0
    optimizer = optimizers.SGD(0.1, momentum=0.9)
    tape_step(model, x, y, CROSS_ENTROPY, optimizer)
    assert_zeros(model, masks, optimizer, slots=1)
    assert model.losses[0] != loss


def test_after_an_error_in_the_layer_its_kernel_is_the_variable_again():
    model = chain(layers.Dense(2))
    model = lt.wrap(model, random_masks(model))
    layer = model.layers[-1]
    assert isinstance(layer, PruneByMask)
    with pytest.raises(ValueError, match="incompatible"):
        layer(tf.ones((1, 3)))
    assert layer.layer.kernel is layer.trainable_variables[0]


def test_a_regularizer_of_a_kernel_in_float64():
    model = lt.wrap(
        chain(layers.Dense(6, dtype="float64", kernel_regularizer="l2"), layers.Dense(2))
    )
    assert model.losses[0].dtype == tf.float64
