"""Wrapping and stripping models of every kind of layer."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
from layer_cases import CASES, CASES_OF, OWN
from networks import (
    assert_finite_and_moved,
    assert_same,
    assert_zeros,
    both_kerases,
    chain,
    cross_entropy,
    each_batch,
    examples,
    layers,
    mlp,
    random_masks,
    tape_step,
    values,
)
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import (
    PruneLowMagnitude,
)

import lottery_tf as lt
from lottery_tf.graph.compat import keras, parts_of, tf_variable
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import assign, named_layers, named_variables
from lottery_tf.masks.dense_norms import get_dense_norms
from lottery_tf.masks.prune_by_mask import OURS, PruneByMask


def same_outputs(one, other):
    for left, right in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
@both_kerases
def test_a_model_of_any_layers(name, its_keras):
    """Wrapped it computes kernel ⊙ mask, trains with zeros, and comes off as it went in."""
    case = CASES_OF[its_keras][name]
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

    optimizer = its_keras.optimizers.SGD(0.01, momentum=0.9)
    for _ in range(2):
        with tf.GradientTape() as tape:
            outputs = tf.nest.flatten(wrapped(case.x, training=True))
            loss = sum(tf.reduce_sum((each - 3.0) ** 2) for each in outputs)
        trained = wrapped.trainable_variables
        gradients = tape.gradient(loss, [tf_variable(each) for each in trained])
        optimizer.apply_gradients(zip(gradients, trained, strict=True))
        assert_zeros(wrapped, masks, optimizer, slots=1)
    moved = [n for n in masks if (values(wrapped)[n] != values(model)[n]).any()]
    assert moved, "nothing was trained"

    stripped = lt.strip(wrapped)
    assert not any(isinstance(each, (PruneLowMagnitude, *OURS)) for each in parts_of(stripped))
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


@both_kerases
def test_only_the_layers_in_the_masks_are_wrapped(its_keras):
    layers = its_keras.layers
    model = chain(layers.Dense(4, name="one"), layers.Dense(4, name="two"))
    wrapped = lt.wrap(model, lt.Masks({"two/kernel": np.eye(4)}))
    assert type(wrapped.layers[1]) is layers.Dense and isinstance(wrapped.layers[2], OURS)
    assert lt.wrap(model, lt.Masks({})).count_params() == model.count_params()
    again = lt.wrap(wrapped, lt.Masks({"one/kernel": np.eye(4)}))
    assert isinstance(again.layers[1], OURS) and type(again.layers[2]) is layers.Dense


@both_kerases
def test_wrapping_again_replaces_the_masks(its_keras):
    model = chain(its_keras.layers.Dense(4, name="d"))
    one, two = np.eye(4) == 1, np.eye(4)[::-1] == 1
    again = lt.wrap(lt.wrap(model, lt.Masks({"d/kernel": one})), lt.Masks({"d/kernel": two}))
    assert lt.get_masks(again) == lt.Masks({"d/kernel": two})
    assert type(again.layers[-1].layer) is its_keras.layers.Dense
    assert not named_variables(again)["d/kernel"].numpy().any()


@both_kerases
def test_a_sequential_model_stays_one(its_keras):
    """Built by an Input or by a first batch."""
    keras, layers = its_keras, its_keras.layers
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


@both_kerases
def test_each_regularizer_counts_once(its_keras):
    """½ of Σ|w| over live weights, ¼ of Σ b², and ⅛ of the outputs' mean Σ|y| over the batch."""
    layers, regularizers = its_keras.layers, its_keras.regularizers
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
    # What stands in a pruned place does not count.
    named_variables(wrapped)["d/kernel"].assign_add(~masks["d/kernel"] * np.float32(1))
    x, _ = examples()
    activity = 0.125 * np.abs(x @ kernel + 1).sum(1).mean()
    y = wrapped(x)
    np.testing.assert_allclose(y, x @ kernel + 1, rtol=1e-5, atol=1e-6)
    expected = [0.5 * np.abs(kernel).sum(), 0.25 * 3, activity]
    np.testing.assert_allclose(sorted(wrapped.losses), sorted(expected), rtol=1e-5)
    for each in (wrapped, lt.strip(wrapped)):
        each.compile(loss="mse", run_eagerly=True)
        np.testing.assert_allclose(each.evaluate(x, y, verbose=0), sum(expected), rtol=1e-5)


@both_kerases
def test_a_constraint_sees_the_live_weights(its_keras):
    """MaxNorm(1) makes each column of live weights at most 1 long."""
    shortened = its_keras.constraints.MaxNorm(1.0)
    model = chain(its_keras.layers.Dense(3, kernel_constraint=shortened, name="d"))
    masks = random_masks(model)
    wrapped, optimizer = lt.wrap(model, masks), its_keras.optimizers.SGD(10.0, momentum=0.9)
    tape_step(wrapped, *examples(), cross_entropy(its_keras), optimizer)
    norms = np.linalg.norm(values(wrapped)["d/kernel"], axis=0)
    np.testing.assert_allclose(norms.max(), 1, rtol=1e-5)
    assert_zeros(wrapped, masks, optimizer, slots=1)


@both_kerases
def test_the_training_flag_passes_through(its_keras):
    """Gate adds 100 in training; a layer without the argument is not given it."""
    Gate, _ = OWN[its_keras]
    model = chain(Gate(), its_keras.layers.Dense(4, trainable=False))
    wrapped = lt.wrap(model, random_masks(model))
    x, _ = examples()
    first = its_keras.Model(wrapped.input, wrapped.layers[1].output)
    np.testing.assert_allclose(first(x, training=True) - first(x), 100, rtol=1e-4)
    np.testing.assert_array_equal(first(x, training=False), first(x))
    # trainable=False is kept.
    assert len(wrapped.trainable_variables) == len(model.trainable_variables) == 2


@both_kerases
def test_a_model_that_is_frozen_as_a_whole_stays_so(its_keras):
    model = chain(its_keras.layers.Dense(4))
    model.trainable = False
    wrapped = lt.wrap(model, random_masks(model))
    for each in (wrapped, lt.strip(wrapped)):
        assert not each.trainable_variables
        assert its_keras is keras or not each.trainable  # which tf_keras keeps of layers alone


@both_kerases
def test_the_mask_of_padding_passes_through_wrapped_layers(its_keras):
    """Embedding(mask_zero) → Dense → … → LSTM: the embedding of the padding is no matter."""
    case = CASES_OF[its_keras]["tokens"]
    model = case.build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of layers that destroy a mask
        wrapped = lt.wrap(model, random_masks(model))
        before = wrapped(case.x)
    embeddings = named_variables(wrapped)["embedding/embeddings"]
    embeddings.assign(np.concatenate([embeddings.numpy()[:1] + 10.0, embeddings.numpy()[1:]]))
    np.testing.assert_array_equal(wrapped(case.x), before)
    embeddings.assign(embeddings + 1.0)
    assert (wrapped(case.x) != before).numpy().any()


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request, its_keras):
    its_keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    its_keras.mixed_precision.set_global_policy("float32")


@pytest.mark.long
@both_kerases
def test_mixed_precision(policy, its_keras):
    """TRAP 13: masks are float32; a float32 head is wrapped as well as a float16 layer."""
    x, y = examples()
    layers = its_keras.layers
    model = chain(layers.Dense(6, activation="relu"), layers.Dense(3, dtype="float32"))
    masks = random_masks(model)
    wrapped = lt.wrap(model, masks)
    assert {tf_variable(each).dtype for each in wrapped.variables} == {tf.float32}
    assert [layer.compute_dtype for layer in wrapped.layers[1:]] == [policy[6:], "float32"]
    named = named_variables(model)
    for name, mask in masks.items():
        named[name].assign(named[name] * mask)
    np.testing.assert_array_equal(wrapped(x), model(x))
    before = values(wrapped)
    optimizer = its_keras.optimizers.SGD(0.1, momentum=0.9)
    wrapped.compile(optimizer, cross_entropy(its_keras), jit_compile=False)
    check = each_batch(lambda model: assert_zeros(model, masks, model.optimizer), its_keras)
    wrapped.fit(x, y, batch_size=6, callbacks=[check], verbose=0)
    assert check.calls == 2
    assert_finite_and_moved(wrapped, before)
    stripped = lt.strip(wrapped)
    np.testing.assert_array_equal(stripped(x), wrapped(x))
    assert stripped.layers[1].compute_dtype == policy[6:]


@both_kerases
def test_an_orthogonal_regularizer_does_not_move_pruned_weights(its_keras):
    """Its gradient at a weight of 0 is not 0: the regularizer must see kernel ⊙ mask too."""
    x, y = examples()
    orthogonal = its_keras.regularizers.OrthogonalRegularizer(0.5)
    dense = its_keras.layers.Dense
    model = chain(dense(6, kernel_regularizer=orthogonal), dense(3))
    masks = random_masks(model)
    model = lt.wrap(model, masks)
    (loss,) = model.losses
    assert loss > 0
    optimizer = its_keras.optimizers.SGD(0.1, momentum=0.9)
    tape_step(model, x, y, cross_entropy(its_keras), optimizer)
    assert_zeros(model, masks, optimizer, slots=1)
    assert model.losses[0] != loss


@both_kerases
def test_norms_before_the_mask_are_remembered(its_keras):
    """‖((3, 4), (0, 12))‖ = 13."""
    model = chain(its_keras.layers.Dense(2, name="d"), shape=(2,))
    named_variables(model)["d/kernel"].assign([[3, 4], [0, 12]])
    wrapped = lt.wrap(model, lt.Masks({"d/kernel": [[1, 1], [1, 0]]}))
    assert get_dense_norms(wrapped) == {"d/kernel": pytest.approx(13)}
    layer = wrapped.layers[-1]
    layer = type(layer).from_config(layer.get_config())
    assert layer.dense_norms == {"kernel": pytest.approx([13, 5])}
    assert layer.attributes == ["kernel"]


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


def test_both_kerases_in_one_process():
    """A tf_keras model and one of Keras 3 of the same weights give the same numbers."""
    x, _ = examples()
    theirs, ours = mlp(), mlp(keras3.layers)
    assign(ours, values(theirs))
    masks = random_masks(ours)
    assert random_masks(theirs) == masks
    np.testing.assert_allclose(
        lt.wrap(ours, masks)(x), lt.wrap(theirs, masks)(x), rtol=1e-5, atol=1e-6
    )
