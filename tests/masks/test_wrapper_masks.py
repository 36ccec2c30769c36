"""Masks that change in the middle of training, and what must change nothing."""

import numpy as np
import pytest
from networks import (
    assert_finite_and_moved,
    assert_same,
    assert_zeros,
    both_kerases,
    chain,
    cross_entropy,
    every_variable,
    examples,
    mlp,
    random_masks,
    tape_step,
    values,
)

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import named_variables
from lottery_tf.graph.optimizers import slots as slots_of


def _loss_scaled(k):
    scaled = k.mixed_precision if k is keras else k.optimizers
    return scaled.LossScaleOptimizer(k.optimizers.SGD(0.1, momentum=0.9))


MEMORIES = {
    "momentum": lambda k: k.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda k: k.optimizers.Adam(0.01),
    "rmsprop": lambda k: k.optimizers.RMSprop(0.01, momentum=0.9),
    "averaged": lambda k: k.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2),
    "loss_scaled": _loss_scaled,
}
OF_TF_KERAS = {"legacy": lambda k: k.optimizers.legacy.SGD(0.1, momentum=0.9)}
OF_KERAS3 = {
    "accumulated": lambda k: k.optimizers.SGD(0.1, 0.9, gradient_accumulation_steps=2),
    "muon": lambda k: k.optimizers.Muon(0.01),
}
MAKE = {**MEMORIES, **OF_TF_KERAS, **OF_KERAS3}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "its_keras"),
    [
        *((name, keras) for name in (*MEMORIES, *OF_TF_KERAS)),
        *((name, keras3) for name in (*MEMORIES, *OF_KERAS3)),
    ],
)
def test_momentum_does_not_move_a_weight_pruned_in_the_middle_of_training(name, its_keras):
    x, y = examples()
    model, loss = mlp(its_keras.layers), cross_entropy(its_keras)
    outer = random_masks(model, 0.8)
    inner = lt.Masks({n: m & random_masks(model, 0.5, seed=1)[n] for n, m in outer.items()})
    assert inner.kept < outer.kept
    model, optimizer = lt.wrap(model, outer), MAKE[name](its_keras)
    for _ in range(3):
        tape_step(model, x, y, loss, optimizer)
    slots = {n: slots_of(optimizer, named_variables(model)[n]).values() for n in inner}
    newly = {n: outer[n] & ~inner[n] for n in inner}
    assert any(slot.numpy()[newly[n]].any() for n in inner for slot in slots[n]), "nothing to lose"
    lt.set_masks(model, inner, optimizer)
    before = values(model)
    for _ in range(3):
        assert_zeros(model, inner, optimizer)
        tape_step(model, x, y, loss, optimizer)
    assert_zeros(model, inner, optimizer)
    assert_finite_and_moved(model, before)


@both_kerases
def test_what_an_optimizer_begins_with_is_not_always_zero(its_keras):
    """Adagrad's sum begins at 0.1: it does so again for what is pruned and what returns."""
    model = mlp(its_keras.layers)
    model = lt.wrap(model, lt.Masks({"first/kernel": np.arange(24).reshape(4, 6) % 2}))
    optimizer = its_keras.optimizers.Adagrad(0.1)
    for _ in range(3):
        tape_step(model, *examples(), cross_entropy(its_keras), optimizer)
    kernel = named_variables(model)["first/kernel"]
    (sums,) = slots_of(optimizer, kernel).values()
    before = sums.numpy()
    masks = lt.Masks({"first/kernel": np.arange(24).reshape(4, 6) < 12})
    lt.set_masks(model, masks, optimizer)
    stay = masks["first/kernel"] & (np.arange(24).reshape(4, 6) % 2 == 1)
    np.testing.assert_array_equal(sums.numpy(), np.where(stay, before, np.float32(0.1)))


@both_kerases
def test_a_schedule_is_no_memory(its_keras):
    x, y = examples()
    model = mlp(its_keras.layers)
    model = lt.wrap(model, random_masks(model, 0.8))
    rate = its_keras.optimizers.schedules.CosineDecay(0.1, 9)
    optimizer = its_keras.optimizers.Adam(rate)
    model.compile(optimizer, cross_entropy(its_keras), run_eagerly=True)
    model.train_on_batch(x, y)
    lt.set_masks(model, random_masks(model, 0.3, seed=1))
    assert int(model.optimizer.iterations) == 1


@both_kerases
def test_set_masks_takes_the_optimizer_that_the_model_is_compiled_with(its_keras):
    x, y = examples()
    model = mlp(its_keras.layers)
    model = lt.wrap(model, random_masks(model, 0.8))
    optimizer = its_keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, cross_entropy(its_keras), jit_compile=False)
    model.train_on_batch(x, y)
    masks = random_masks(model, 0.3, seed=1)
    lt.set_masks(model, masks)
    assert_zeros(model, masks, model.optimizer, slots=1)


@both_kerases
def test_weights_that_a_mask_brings_back_start_at_zero_and_train(its_keras):
    x, y = examples()
    model = mlp(its_keras.layers)
    model = lt.wrap(model, random_masks(model, 0.3))
    revived = {name: ~mask for name, mask in lt.get_masks(model).items()}
    lt.set_masks(model, lt.Masks.ones({name: mask.shape for name, mask in revived.items()}))
    kernel = named_variables(model)["head/kernel"]
    assert not kernel.numpy()[revived["head/kernel"]].any()
    tape_step(model, x, y, cross_entropy(its_keras), its_keras.optimizers.SGD(0.1))
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
@both_kerases
def test_masks_of_another_model_change_nothing(change, words, its_keras):
    model = mlp(its_keras.layers)
    model = lt.wrap(model, random_masks(model))
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
@both_kerases
def test_wrapping_with_masks_of_another_model(masks, words, its_keras):
    with pytest.raises(UsageError, match=words):
        lt.wrap(mlp(its_keras.layers), lt.Masks(masks))


def test_optimizers_of_the_other_keras_get_one_sentence():
    theirs, ours = (lt.wrap(mlp(k.layers)) for k in (keras, keras3))
    for model, optimizer, words in (
        (ours, keras.optimizers.Adam(), "Expected a keras optimizer, .*got a tf_keras"),
        (theirs, keras3.optimizers.Adam(), "Expected a tf_keras optimizer, .*got a keras"),
    ):
        before = every_variable(model)
        with pytest.raises(UsageError, match=words) as error:
            lt.set_masks(model, lt.get_masks(model), optimizer)
        assert str(error.value).count(". ") == 0
        assert_same(every_variable(model), before)


@pytest.mark.long
@pytest.mark.parametrize("jit_compile", [False, True])
@both_kerases
def test_new_masks_and_weights_do_not_trace_anew(jit_compile, its_keras):
    traces, layers = [], its_keras.layers

    class Counting(layers.Layer):
        """Python runs its call once a trace in a compiled model."""

        def call(self, inputs):
            traces.append(1)
            return inputs

    x, y = examples()
    model = chain(layers.Dense(5, name="d"), Counting(), layers.Dense(3))
    model = lt.wrap(model, random_masks(model))
    optimizer = its_keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, cross_entropy(its_keras), jit_compile=jit_compile)
    model.fit(x, y, batch_size=4, validation_data=(x, y), verbose=0)
    assert traces
    del traces[:]
    before = values(model)
    masks = random_masks(model, 0.3, seed=1)
    lt.set_masks(model, masks)
    named_variables(model)["d/bias"].assign(np.ones(5))
    model.fit(x, y, batch_size=4, validation_data=(x, y), verbose=0)
    assert not traces
    assert_zeros(model, masks, model.optimizer, slots=1)
    assert_finite_and_moved(model, before)


@pytest.mark.long
@both_kerases
def test_evaluation_prediction_and_saving_change_no_variable(tmp_path, its_keras):
    """TRAP 2: tfmot's wrapper assigns weights in ``predict``."""
    x, y = examples()
    model = mlp(its_keras.layers)
    model = lt.wrap(model, random_masks(model))
    model.compile(its_keras.optimizers.Adam(0.01), cross_entropy(its_keras), jit_compile=False)
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
    model.save_weights(tmp_path / "model.weights.h5")
    assert_same(every_variable(model), before)


@both_kerases
def test_a_ticket_in_the_place_of_masks_or_of_a_model(its_keras):
    model = mlp(its_keras.layers)
    ticket = lt.Ticket.of(model, random_masks(model))
    for given in (lambda: lt.wrap(model, ticket), lambda: lt.set_masks(ticket.build(), ticket)):
        with pytest.raises(UsageError, match=r"those of ticket\.masks, got a Ticket"):
            given()
    with pytest.raises(UsageError, match=r"got a .*Ticket: its build\(\) makes the model"):
        lt.strip(ticket)
