"""Masks that change in the middle of training, and what must change nothing."""

import numpy as np
import pytest
from networks import (
    assert_finite_and_moved,
    assert_same,
    assert_zeros,
    chain,
    every_variable,
    examples,
    layers,
    mlp,
    random_masks,
    tape_step,
    values,
)

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import named_variables
from lottery_tf.graph.optimizers import slots as slots_of

optimizers = keras.optimizers
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
MEMORIES = {
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: optimizers.Adam(0.01),
    "rmsprop": lambda: optimizers.RMSprop(0.01, momentum=0.9),
    "legacy": lambda: optimizers.legacy.SGD(0.1, momentum=0.9),
    "averaged": lambda: optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2),
    "loss_scaled": lambda: keras.mixed_precision.LossScaleOptimizer(
        optimizers.SGD(0.1, momentum=0.9)
    ),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_momentum_does_not_move_a_weight_pruned_in_the_middle_of_training(name):
    x, y = examples()
    model = mlp()
    outer = random_masks(model, 0.8)
    inner = lt.Masks({n: m & random_masks(model, 0.5, seed=1)[n] for n, m in outer.items()})
    assert inner.kept < outer.kept
    model, optimizer = lt.wrap(model, outer), MEMORIES[name]()
    for _ in range(3):
        tape_step(model, x, y, CROSS_ENTROPY, optimizer)
    slots = {n: slots_of(optimizer, named_variables(model)[n]).values() for n in inner}
    newly = {n: outer[n] & ~inner[n] for n in inner}
    assert any(slot.numpy()[newly[n]].any() for n in inner for slot in slots[n]), "nothing to lose"
    lt.set_masks(model, inner, optimizer)
    before = values(model)
    for _ in range(3):
        assert_zeros(model, inner, optimizer)
        tape_step(model, x, y, CROSS_ENTROPY, optimizer)
    assert_zeros(model, inner, optimizer)
    assert_finite_and_moved(model, before)


def test_set_masks_takes_the_optimizer_that_the_model_is_compiled_with():
    x, y = examples()
    model = lt.wrap(mlp(), random_masks(mlp(), 0.8))
    model.compile(optimizers.SGD(0.1, momentum=0.9), CROSS_ENTROPY)
    model.train_on_batch(x, y)
    masks = random_masks(model, 0.3, seed=1)
    lt.set_masks(model, masks)
    assert_zeros(model, masks, model.optimizer, slots=1)


def test_weights_that_a_mask_brings_back_start_at_zero_and_train():
    x, y = examples()
    model = lt.wrap(mlp(), random_masks(mlp(), 0.3))
    revived = {name: ~mask for name, mask in lt.get_masks(model).items()}
    lt.set_masks(model, lt.Masks.ones({name: mask.shape for name, mask in revived.items()}))
    kernel = named_variables(model)["head/kernel"]
    assert not kernel.numpy()[revived["head/kernel"]].any()
    tape_step(model, x, y, CROSS_ENTROPY, optimizers.SGD(0.1))
    assert kernel.numpy()[revived["head/kernel"]].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda m: m.pop("head/kernel"),
            "not in both: head/kernel. The masks are of another model",
        ),
        (lambda m: m.update({"x/kernel": np.eye(2)}), "not in both: x/kernel."),
        (lambda m: m.update({"head/kernel": np.eye(3)}), r"shape \(5, 3\) for .* got \(3, 3\)"),
    ],
)
def test_masks_of_another_model_change_nothing(change, words):
    model = lt.wrap(mlp(), random_masks(mlp()))
    before, masks = every_variable(model), {n: ~mask for n, mask in lt.get_masks(model).items()}
    change(masks)
    with pytest.raises(UsageError, match=words):
        lt.set_masks(model, lt.Masks(masks))
    assert_same(every_variable(model), before)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ({"x/kernel": np.eye(2)}, "not in both: x/kernel. The masks are of another model"),
        ({"norm/gamma": np.ones(6)}, "not in both: norm/gamma."),
        ({"head/kernel": np.eye(3)}, r"shape \(5, 3\) for head/kernel .* got \(3, 3\)"),
    ],
)
def test_wrapping_with_masks_of_another_model(masks, words):
    with pytest.raises(UsageError, match=words):
        lt.wrap(mlp(), lt.Masks(masks))


class Counting(layers.Layer):
    """Counts how often Python runs its call: once a trace in a compiled model."""

    traces = 0

    def call(self, inputs):
        type(self).traces += 1
        return inputs


@pytest.mark.parametrize("jit_compile", [False, True])
def test_new_masks_and_weights_do_not_trace_anew(jit_compile):
    x, y = examples()
    model = chain(layers.Dense(5, name="d"), Counting(), layers.Dense(3))
    model = lt.wrap(model, random_masks(model))
    model.compile(optimizers.SGD(0.1, momentum=0.9), CROSS_ENTROPY, jit_compile=jit_compile)
    model.fit(x, y, batch_size=4, validation_data=(x, y), verbose=0)
    Counting.traces, before = 0, values(model)
    masks = random_masks(model, 0.3, seed=1)
    lt.set_masks(model, masks)
    named_variables(model)["d/bias"].assign(np.ones(5))
    model.fit(x, y, batch_size=4, validation_data=(x, y), verbose=0)
    assert Counting.traces == 0
    assert_zeros(model, masks, model.optimizer, slots=1)
    assert_finite_and_moved(model, before)


def test_evaluation_prediction_and_saving_change_no_variable(tmp_path):
    """TRAP 2: tfmot's wrapper assigns weights in ``predict``."""
    x, y = examples()
    model = lt.wrap(mlp(), random_masks(mlp()))
    model.compile(optimizers.Adam(0.01), CROSS_ENTROPY)
    model.train_on_batch(x, y)
    # Whoever assigns a pruned weight must find it as it was, and the output without it.
    expected = model.predict_on_batch(x)
    named_variables(model)["first/kernel"].assign_add(~lt.get_masks(model)["first/kernel"] * 1.0)
    before = every_variable(model)
    np.testing.assert_array_equal(model.predict_on_batch(x), expected)
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    model(x, training=False)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "weights.h5")
    assert_same(every_variable(model), before)
