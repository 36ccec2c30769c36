"""The rule: a ticket trains as if its pruned weights did not exist."""

import numpy as np
import pytest
import tensorflow as tf
from networks import (
    EachBatch,
    assert_finite_and_moved,
    assert_zeros,
    chain,
    examples,
    layers,
    mlp,
    random_masks,
    tape_step,
    values,
)

import lottery_tf as lt
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import named_variables
from lottery_tf.graph.optimizers import slots as slots_of
from lottery_tf.training.optimizers import SGD, Adam

optimizers = keras.optimizers
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

# Name → (optimizer, slots a weight has).
OPTIMIZERS = {
    "sgd": (lambda: optimizers.SGD(0.1), 1),
    "momentum": (lambda: optimizers.SGD(0.1, momentum=0.9), 1),
    "nesterov": (lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True), 1),
    "adam": (lambda: optimizers.Adam(0.01), 2),
    "adamw": (lambda: optimizers.AdamW(0.01, weight_decay=0.1), 2),
    "rmsprop": (lambda: optimizers.RMSprop(0.01, momentum=0.9), 2),
    "global_clipnorm": (lambda: optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5), 1),
    "clipnorm": (lambda: optimizers.Adam(0.01, clipnorm=0.3), 2),
    "coupled_l2": (lambda: SGD(0.1, momentum=0.9, l2=0.01), 1),
    "coupled_l2_adam": (lambda: Adam(0.01, l2=0.01), 2),
    "lion": (lambda: optimizers.Lion(0.01), 1),
    "legacy_momentum": (lambda: optimizers.legacy.SGD(0.1, momentum=0.9), 1),
}


def four_weights(optimizer):
    """Dense 2 → 2 without bias: x = (1, 2), w = ((½, 1), (−1, 2)), of which w₀₁ is pruned."""
    model = lt.wrap(
        chain(layers.Dense(2, use_bias=False, name="d"), shape=(2,)),
        lt.Masks({"d/kernel": [[1, 0], [1, 1]]}),
    )
    lt.set_masks(model, lt.get_masks(model))
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
    assert kernel[0, 1] == 0


WAYS = {
    "fit": {},
    "fit_eagerly": {"run_eagerly": True},
    "fit_jit": {"jit_compile": True},
    "fit_3_steps": {"steps_per_execution": 3},
    "fit_jit_3_steps": {"jit_compile": True, "steps_per_execution": 3},
}


IN_FIT = [name for name in OPTIMIZERS if "coupled" not in name and name != "lion"]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, "fit_eagerly") for name in IN_FIT),
        ("rmsprop", "fit"),
        *(pytest.param(n, "fit", marks=pytest.mark.e2e) for n in IN_FIT if n != "rmsprop"),
        ("momentum", "fit_jit"),
        ("adamw", "fit_3_steps"),
        ("adam", "fit_jit_3_steps"),
    ],
)
def test_pruned_weights_and_their_slots_are_zero_after_every_batch_of_fit(name, way):
    """TRAPS 2 and 3, with no callback of ours."""
    x, y = examples()
    model = chain(layers.Dense(6, activation="relu"), layers.Dense(3))
    masks = random_masks(model)
    model = lt.wrap(model, masks)
    before = values(model)
    optimizer, slots = OPTIMIZERS[name]
    model.compile(optimizer(), CROSS_ENTROPY, **WAYS[way])
    watch = EachBatch(lambda model: assert_zeros(model, masks, model.optimizer, slots))
    model.fit(x, y, batch_size=2, callbacks=[watch], verbose=0)
    assert watch.calls == (2 if "3_steps" in way else 6)
    assert_finite_and_moved(model, before)


def test_pruned_weights_and_their_slots_are_zero_after_every_train_on_batch():
    x, y = examples()
    model = mlp()
    masks = random_masks(model)
    model = lt.wrap(model, masks)
    before = values(model)
    model.compile(optimizers.Adam(0.01), CROSS_ENTROPY)
    for _ in range(3):
        model.train_on_batch(x, y)
        assert_zeros(model, masks, model.optimizer, slots=2)
    assert_finite_and_moved(model, before)


class LiveWeightsOnly:
    """A network with a variable of a kernel's live weights; the pruned ones do not exist.

    Args:
      model: a plain model, a chain; its weights are copied.
      masks: a mask for each kernel.
      apply: kernels and biases in order, inputs → outputs.
    """

    def __init__(self, model, masks, apply):
        self.apply, self.parts, self.trainable_variables, self.losses = apply, [], [], []
        for name, variable in named_variables(model).items():
            value = variable.numpy()
            where = np.argwhere(masks[name]) if name in masks else np.argwhere(np.ones_like(value))
            live = tf.Variable(value[tuple(where.T)], name=name.replace("/", "_"))
            self.parts.append((live, where, value.shape))
            self.trainable_variables.append(live)

    def __call__(self, x, training):
        return self.apply(x, *(tf.scatter_nd(w, live, s) for live, w, s in self.parts))


def dense_pair():
    model = chain(layers.Dense(17, activation="relu"), layers.Dense(3), shape=(11,))

    def apply(x, w1, b1, w2, b2):
        return tf.nn.bias_add(tf.matmul(tf.nn.relu(tf.nn.bias_add(tf.matmul(x, w1), b1)), w2), b2)

    return model, apply, examples(shape=(11,))


def conv_pair():
    model = chain(
        layers.Conv2D(5, 3, activation="relu"), layers.Flatten(), layers.Dense(3), shape=(6, 6, 2)
    )

    def apply(x, w1, b1, w2, b2):
        x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, w1, 1, "VALID"), b1))
        return tf.nn.bias_add(tf.matmul(tf.reshape(x, (len(x), -1)), w2), b2)

    return model, apply, examples(shape=(6, 6, 2))


# Of each kind: decoupled decay, moments of squares, a norm of all gradients, L2.
CONVOLVED = ("adamw", "rmsprop", "global_clipnorm", "coupled_l2")


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        *((name, dense_pair) for name in OPTIMIZERS),
        *(
            pytest.param(name, conv_pair, marks=() if name in CONVOLVED else pytest.mark.e2e)
            for name in OPTIMIZERS
        ),
    ],
)
def test_live_weights_go_the_way_they_would_go_alone(name, pair):
    """Against variables that hold the live weights and nothing else, same optimizer.

    Elementwise updates are the same numbers; the sums of a gradient's norm and of a shorter
    vector run in another order, so a few units in the last place are left: 1e-6 of the largest.
    """
    model, apply, (x, y) = pair()
    masks = random_masks(model, 0.3)
    alone = LiveWeightsOnly(model, masks, apply)
    wrapped = lt.wrap(model, masks)
    ours, theirs = (OPTIMIZERS[name][0]() for _ in range(2))
    for _step in range(4):
        tape_step(wrapped, x, y, CROSS_ENTROPY, ours)
        tape_step(alone, x, y, CROSS_ENTROPY, theirs)
        assert_zeros(wrapped, masks, ours, slots=OPTIMIZERS[name][1])
        for variable, (live, where, _) in zip(
            named_variables(wrapped).values(), alone.parts, strict=True
        ):
            np.testing.assert_allclose(
                variable.numpy()[tuple(where.T)], live, rtol=1e-6, atol=1e-6 * np.abs(live).max()
            )
            for slot, slot_alone in zip(
                slots_of(ours, variable).values(), slots_of(theirs, live).values(), strict=True
            ):
                largest = np.abs(slot_alone).max()
                np.testing.assert_allclose(
                    slot.numpy()[tuple(where.T)], slot_alone, rtol=1e-5, atol=1e-6 * largest
                )
