"""Gradual magnitude pruning against the formula and against an implementation by hand."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
from networks import (
    EachBatch,
    assert_zeros,
    both_kerases,
    chain,
    each_batch,
    eagerly,
    examples,
    layers,
    mlp,
    values,
)

import lottery_tf as lt
from lottery_tf.finding.gmp import prune_gradually, schedule
from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.graph.layers import assign, named_variables
from lottery_tf.training.trainer import Trainer


@pytest.mark.parametrize(
    ("initial", "final", "begin", "end", "frequency"),
    [(0.0, 0.9, 0, 100, 10), (0.3, 0.8, 7, 50, 9), (0.5, 0.5, 0, 4, 1), (0.0, 0.99, 3, 5, 100)],
)
def test_the_schedule_is_tfmots_to_the_end(initial, final, begin, end, frequency):
    """At each of tfmot's updates, and at the end, to the final sparsity."""
    decay = tfmot.sparsity.keras.PolynomialDecay(initial, final, begin, end, frequency=frequency)
    theirs = [step for step in range(end) if decay(step)[0]]
    found = schedule(initial, final, begin, end, frequency)
    assert [step for step, _ in found] == [*theirs, end]
    assert found[-1] == (end, final)
    for step, sparsity in found:
        share = (step - begin) / (end - begin)
        expected = final + (initial - final) * (1 - share) ** 3
        assert sparsity == pytest.approx(expected, abs=1e-6)
        assert sparsity == pytest.approx(float(decay(step)[1]), abs=1e-6)


@pytest.mark.parametrize("end", [36750, 48000])
@pytest.mark.parametrize("final", [0.9, 0.95, 0.98, 0.99])
def test_the_sparsities_never_fall(final, end):
    """As float32 the curve ends above 0.98, for one: the last update would be to less."""
    sparsities = [sparsity for _, sparsity in schedule(0.0, final, 0, end, 100)]
    assert sparsities == sorted(sparsities) and sparsities[-1] == final


# A tiny run by hand

RATE, MOMENTUM = 0.3, 0.9


def updates_of(regrow):
    """So few survive from the first update on that some return, if they may."""
    return schedule(0.6 if regrow else 0.1, 0.8, begin=2, end=17, frequency=4)


def data():
    """Five batches, an epoch."""
    return tf.data.Dataset.from_tensor_slices(examples(20)).batch(4, drop_remainder=True)


def cross_entropy(model):
    return keras_of(model).losses.SparseCategoricalCrossentropy(from_logits=True)


def trainer_of(model, masks, **options):
    optimizer = keras_of(model).optimizers.SGD(RATE, momentum=MOMENTUM)
    loss = cross_entropy(model)
    return Trainer(
        *(lt.wrap(model, masks), lambda start: data().repeat().skip(start), 5, optimizer, loss),
        **options,
    )


def gmp_by_hand(model, updates, regrow):
    """The paper in plain TensorFlow, SGD's momentum too; the masks made and the weights after."""
    loss_of = cross_entropy(model)
    kernels = {name: named_variables(model)[name] for name in ("first/kernel", "second/kernel")}
    masks = {name: np.ones(kernel.shape, np.float32) for name, kernel in kernels.items()}
    last = {name: kernel.numpy() for name, kernel in kernels.items()}  # when it was alive
    speeds = [np.zeros(variable.shape, np.float32) for variable in model.trainable_variables]
    batches, step, made = iter(data().repeat()), 0, []

    def mask_of(variable):
        return next((masks[name] for name in masks if kernels[name] is variable), 1)

    for until, sparsity in updates:
        for _ in range(step, until):
            x, y = next(batches)
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            pairs = zip(model.trainable_variables, gradients, strict=True)
            for place, (variable, gradient) in enumerate(pairs):
                speeds[place] = MOMENTUM * speeds[place] - RATE * gradient * mask_of(variable)
                variable.assign_add(speeds[place])
        step = until
        ranked = []
        for name, kernel in kernels.items():
            last[name] = np.where(masks[name], kernel.numpy(), last[name])
            for index, value in enumerate(last[name].ravel()):
                if regrow or masks[name].ravel()[index]:
                    ranked.append((abs(value), name, index))
        old = masks
        masks = {name: np.zeros(kernel.shape, np.float32) for name, kernel in kernels.items()}
        for _, name, index in sorted(ranked)[-(54 - round(sparsity * 54)) :]:
            masks[name].ravel()[index] = 1
        for name, kernel in kernels.items():
            # What comes back has the value that it went with.
            kernel.assign(np.where(old[name], kernel.numpy(), last[name]) * masks[name])
        for place, variable in enumerate(model.trainable_variables):
            speeds[place] = speeds[place] * mask_of(variable)
        made.append(lt.Masks(masks))
    return made, values(model)


@pytest.mark.long
@pytest.mark.parametrize(
    ("regrow", "eager", "jit_compile"),
    [
        (False, True, False),
        (True, False, False),
        pytest.param(False, False, False, marks=pytest.mark.e2e),
        pytest.param(True, False, True, marks=pytest.mark.e2e),
    ],
)
@both_kerases
def test_a_tiny_run_by_hand(regrow, eager, jit_compile, its_keras):
    """Updates after 2, 6, 10, 14 and 17 steps, three steps an execution, five an epoch.

    Between updates the pruned weights are exactly 0, their momentum too.
    """
    model, updates = mlp(its_keras.layers), updates_of(regrow)
    by_hand = mlp(its_keras.layers)
    assign(by_hand, values(model))
    expected, weights = gmp_by_hand(by_hand, updates, regrow)
    start = lt.Masks.ones({name: mask.shape for name, mask in expected[0].items()})
    trainer = trainer_of(model, start, jit_compile=jit_compile, steps_per_execution=3)
    seen = [start]

    def check(model):
        masks = lt.get_masks(model)
        assert_zeros(model, masks, model.optimizer, slots=1)
        if masks != seen[-1]:
            seen.append(masks)

    each = each_batch(check, its_keras)
    with eagerly(eager):
        found = prune_gradually(trainer, start, updates, regrow=regrow, callbacks=[each])
    assert each.calls and trainer.step == 17
    assert [*seen, found] == [start, *expected]
    assert lt.get_masks(trainer.model) == found
    assert_zeros(trainer.model, found, trainer.model.optimizer, slots=1)
    for name, value in values(trainer.model).items():
        np.testing.assert_allclose(value, weights[name], rtol=1e-4, atol=1e-5, err_msg=name)
    nested = [after.nested_in(before) for before, after in itertools.pairwise(expected)]
    assert all(nested) != regrow
    assert [masks.kept for masks in expected] == [54 - round(54 * s) for _, s in updates]


@pytest.mark.parametrize("scope", ["layerwise", "erk"])
@pytest.mark.usefixtures("all_eager")
def test_other_scopes(scope):
    start = lt.Masks.ones({"first/kernel": (4, 6), "second/kernel": (6, 5)})
    trainer = trainer_of(mlp(), start, jit_compile=False)
    found = prune_gradually(trainer, start, [(1, 0.2), (2, 0.5)], scope)
    kept = [int(mask.sum()) for mask in found.values()]
    assert kept == ([12, 15] if scope == "layerwise" else [13, 14])  # sums of the shapes: 10, 11


# Four weights by hand


def four_weights(target, mask=(1, 1, 1, 1)):
    """x = 1 → w = (4, 3, 2, 1); a step of the optimizer takes each weight to its target."""
    model = chain(layers.Dense(4, use_bias=False, name="one"), shape=(1,))
    assign(model, {"one/kernel": np.array([[4, 3, 2, 1]], np.float32)})
    masks = lt.Masks({"one/kernel": [mask]})
    batch = tf.ones([1, 1]), tf.constant([target], tf.float32)
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    optimizer, loss = keras.optimizers.SGD(2.0, momentum=0.0), keras.losses.MeanSquaredError()
    model = lt.wrap(model, masks)
    return masks, Trainer(model, lambda start: batches, 3, optimizer, loss, False, metrics=())


def run(masks, trainer, updates, regrow):
    """The weights after each of the updates, one at a time."""
    found = []
    each = EachBatch(lambda model: found.append(values(model)["one/kernel"][0].tolist()))
    last = prune_gradually(trainer, masks, updates, regrow=regrow, callbacks=[each])
    return found, last["one/kernel"][0].astype(int).tolist(), values(trainer.model)


def test_a_weight_returns_with_the_value_that_it_was_pruned_with():
    """The last is pruned at 1. The first falls to 0.5, below it, and gives its place up."""
    updates = [(0, 0.25), (1, 0.25), (2, 0.5)]
    steps, mask, after = run(*four_weights([0.5, 3, 2, 1.5]), updates, regrow=True)
    # Trained to 1.5 when it is back, it stays behind 2 and 3 at the last update.
    assert steps == [[0.5, 3, 2, 0], [0, 3, 2, 1.5]]
    assert mask == [0, 1, 1, 0]
    assert after["one/kernel"].tolist() == [[0, 3, 2, 0]]

    masks, trainer = four_weights([0.5, 3, 2, 1.5])
    prune_gradually(trainer, masks, updates[:2], regrow=True)
    assert values(trainer.model)["one/kernel"].tolist() == [[0, 3, 2, 1]]


def test_without_regrowth_it_does_not():
    updates = [(0, 0.25), (1, 0.25), (2, 0.5)]
    steps, mask, after = run(*four_weights([0.5, 3, 2, 1.5]), updates, regrow=False)
    assert steps == [[0.5, 3, 2, 0], [0.5, 3, 2, 0]]
    assert mask == [0, 1, 1, 0]
    assert after["one/kernel"].tolist() == [[0, 3, 2, 0]]


def test_what_was_pruned_before_never_returns():
    """It is none of those that regrow, though the others fall to 0: the last returns, at 1."""
    masks, trainer = four_weights([0, 0, 0, 0], mask=(0, 1, 1, 1))
    steps, mask, _ = run(masks, trainer, [(0, 0.5), (1, 0.5)], regrow=True)
    assert steps == [[0, 0, 0, 0]]
    # Of the two others at 0 the earlier; the first of all is at 0 too.
    assert mask == [0, 1, 0, 1]


def eight_weights():
    """1 and 2, 3 to 6, 7 and 8 in three layers."""
    options = {"use_bias": False}
    model = chain(
        layers.Dense(2, name="one", **options),
        layers.Dense(2, name="two", **options),
        layers.Dense(1, name="three", **options),
        shape=(1,),
    )
    weights = {"one": [[1, 2]], "two": [[3, 4], [5, 6]], "three": [[7], [8]]}
    assign(model, {f"{name}/kernel": np.float32(each) for name, each in weights.items()})
    masks = lt.Masks.ones({name: each.shape for name, each in values(model).items()})
    return masks, trainer_of(model, masks, jit_compile=False)


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.usefixtures("all_eager")
def test_a_layer_is_named_at_the_update_that_empties_it(regrow, lines):
    """Once. Of 8 weights the first layer has the smallest two: 1 may go, up to 1.5 / 8.

    When the second goes, pruned weights that regrow could all be ranked anew, others not.
    """
    masks, trainer = eight_weights()
    updates = [(0, share / 8) for share in range(8)]
    assert prune_gradually(trainer, masks, updates, regrow=regrow).kept == 1
    assert lines == [
        "Nothing is left of one/kernel at a sparsity of 25.00 %: no signal passes there. "
        "Up to 18.74 % each layer keeps a weight.",
        "Nothing is left of one/kernel, two/kernel at a sparsity of 75.00 %: no signal passes "
        "there." + " Up to 18.74 % each layer keeps a weight." * regrow,
    ]


def test_layerwise_each_is_named_by_its_own_share(lines):
    """1.5 of two weights is two, and of four three."""
    masks, trainer = eight_weights()
    prune_gradually(trainer, masks, [(0, 0.75)], "layerwise")
    assert lines == [
        "Nothing is left of one/kernel, three/kernel at a sparsity of 87.50 %: no signal passes "
        "there. Up to 74.99 % each layer keeps a weight."
    ]


@pytest.mark.parametrize("target", [np.nan, np.inf, -np.inf])
@pytest.mark.usefixtures("all_eager")
def test_a_training_that_diverges(target):
    """In one step; a second would make NaN of the infinite weight."""
    masks, trainer = four_weights([4, 3, target, 1])
    with pytest.raises(RuntimeError, match="to step 1 of gradual pruning diverged"):
        prune_gradually(trainer, masks, [(0, 0.0), (1, 0.5)])
