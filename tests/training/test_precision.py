"""Mixed precision: what computes in 16 bits, what does not, and that nothing of it is left."""

import numpy as np
import pytest
import tensorflow as tf
from networks import (
    EachBatch,
    assert_same,
    assert_zeros,
    chain,
    eagerly,
    examples,
    random_masks,
    values,
)

import lottery_tf as lt
from lottery_tf.graph import architecture
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import named_layers, unwrapped
from lottery_tf.training.optimizers import SGD
from lottery_tf.training.precision import Precision, in_precision
from lottery_tf.training.trainer import Trainer

layers = keras.layers
MIXED = ("mixed_bfloat16", "mixed_float16")
SHAPE = (6, 6, 2)


def network():
    """Convolutions, BatchNorm, a softmax at the end."""
    return chain(
        layers.Rescaling(2.0, name="scale"),
        layers.Conv2D(4, 3, padding="same", name="conv"),
        layers.BatchNormalization(momentum=0.5, name="norm"),
        layers.ReLU(name="relu"),
        layers.Conv2D(4, 3, padding="same", activation="relu", name="conv2"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(3, name="head"),
        layers.Softmax(name="softmax"),
        shape=SHAPE,
    )


def data():
    return tf.data.Dataset.from_tensor_slices(examples(shape=SHAPE)).batch(6).repeat()


@pytest.mark.parametrize("precision", MIXED)
def test_layers_compute_in_it_on_float32_weights(precision):
    model = lt.wrap(network())
    mixed = in_precision(model, precision)
    for path, layer in named_layers(mixed).items():
        full = path in ("softmax", model.input_names[0])
        assert layer.dtype_policy.name == ("float32" if full else precision), path
        assert unwrapped(layer).dtype_policy.name == layer.dtype_policy.name, path
    assert all(variable.dtype == "float32" for variable in mixed.variables)
    assert mixed.output.dtype == "float32"
    assert_same(values(mixed), values(model))
    assert lt.get_masks(mixed) == lt.get_masks(model)


def test_what_computes_so_already_is_not_copied():
    model = network()
    assert in_precision(model, "float32") is model
    mixed = in_precision(model, MIXED[0])
    assert in_precision(mixed, MIXED[0]) is mixed
    again = in_precision(mixed, "float32")
    assert architecture.to_json(again) == architecture.to_json(model)
    assert_same(values(again), values(model))


def test_layers_of_float64_stay():
    model = chain(layers.Dense(4, dtype="float64", name="wide"), layers.Dense(2, name="head"))
    assert in_precision(model, MIXED[0]) is model


@pytest.mark.parametrize(
    ("precision", "eager"),
    [
        ("mixed_float16", True),
        *(
            pytest.param(*each, marks=pytest.mark.e2e)
            for each in [("mixed_float16", False), ("mixed_bfloat16", True)]
        ),
    ],
)
@pytest.mark.parametrize(
    "recipe",
    [
        lt.Recipe("vanilla"),
        lt.Recipe("tost", {"rescaled_init_iterations": 2, "ghost_skips_share": 0.4}),
        lt.Recipe([lt.Distillation(network())]),
    ],
    ids=lambda recipe: recipe.name,
)
def test_a_ticket_trained_in_it_is_finished_in_float32(precision, eager, recipe):
    model = network()
    masks = random_masks(model)
    ticket = lt.Ticket.of(model, masks)
    recipe = lt.Recipe([*recipe.tweaks, Precision(precision)])
    watch = EachBatch(lambda model: assert_zeros(model, masks, model.optimizer, slots=1))
    with eagerly(eager):
        prepared = recipe.prepare(ticket.build(), data())
        trainer = Trainer(prepared, lambda start: data(), 2, SGD(0.1, 0.9, l2=0.01), recipe.loss())
        trainer.reset(0)
        trainer.fit(5, [*recipe.callbacks(5), watch])
    assert trainer.step == watch.calls == 5
    final = recipe.finish(prepared)
    assert architecture.to_json(final) == ticket.architecture
    found = values(final)
    assert all(np.all(found[name][~mask] == 0) for name, mask in masks.items())
    moved = [name for name, value in ticket.weights.items() if (found[name] != value).any()]
    assert len(moved) == len(found)
    assert all(np.isfinite(value).all() for value in found.values())


def narrow(slope, l2=0.0, jit_compile=False):
    """A trainer in mixed_float16, at the rate 0.1, of w = 2 with the loss slope·w."""
    first = layers.Dense(1, use_bias=False, name="one")
    last = layers.Activation("linear", name="last")
    model = in_precision(chain(first, last, shape=(1,)), "mixed_float16")
    model.set_weights([np.array([[2.0]])])
    x = tf.data.Dataset.from_tensors((tf.ones((1, 1)), tf.zeros((1, 1)))).repeat()

    def loss(y, z):
        return slope * (z - y)

    return Trainer(model, lambda start: x, 3, SGD(0.1, l2=l2), loss, jit_compile, 3, metrics=())


@pytest.mark.parametrize("jit_compile", [False, True])
def test_l2_is_that_of_the_true_gradient(jit_compile):
    """w ← w − 0.1·(1 + 0.5·w) = 1.8, although the loss is scaled by 2¹⁵ for its derivatives."""
    trainer = narrow(1, 0.5, jit_compile)
    assert isinstance(trainer.model.optimizer, keras.mixed_precision.LossScaleOptimizer)
    trainer.fit(1)
    assert float(trainer.model.get_weights()[0][0, 0]) == pytest.approx(1.8)


def test_a_step_too_large_for_float16_is_left_out():
    """3·2¹⁵ is beyond 65504, the half of it is not: w ← 2 − 0.1·3·2 in three steps."""
    trainer = narrow(3)
    scale = float(trainer.model.optimizer.loss_scale)
    for _ in range(2):
        trainer.reset(7)
        assert trainer.step == 7 and float(trainer.model.optimizer.loss_scale) == scale == 2**15
        trainer.fit(10)
        assert trainer.step == 10 and trainer.learning_rate == pytest.approx(0.1)
        assert float(trainer.model.optimizer.loss_scale) == 2**14
    assert float(trainer.model.get_weights()[0][0, 0]) == pytest.approx(2 - 2 * 0.6, rel=1e-3)
    state = trainer.optimizer_state()
    trainer.reset(0)
    trainer.set_optimizer_state(state)
    assert trainer.step == 10 and float(trainer.model.optimizer.loss_scale) == 2**14
