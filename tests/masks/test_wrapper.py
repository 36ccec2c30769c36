"""The rule: a ticket trains as if its pruned weights did not exist."""

import numpy as np
import pytest
import tensorflow as tf
from networks import (
    assert_finite_and_moved,
    assert_zeros,
    both_kerases,
    chain,
    cross_entropy,
    each_batch,
    examples,
    mlp,
    random_masks,
    tape_step,
    values,
)

import lottery_tf as lt
from lottery_tf.graph.compat import is_keras3, keras, tf_variable
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import named_variables
from lottery_tf.graph.optimizers import slots as slots_of
from lottery_tf.training.optimizers import SGD, Adam

# Name → (Keras → optimizer, slots a weight has in it).
OPTIMIZERS = {
    "momentum": (lambda k: k.optimizers.SGD(0.1, momentum=0.9), 1),
    "nesterov": (lambda k: k.optimizers.SGD(0.1, momentum=0.9, nesterov=True), 1),
    "adam": (lambda k: k.optimizers.Adam(0.01), 2),
    "adamw": (lambda k: k.optimizers.AdamW(0.01, weight_decay=0.1), 2),
    "rmsprop": (lambda k: k.optimizers.RMSprop(0.01, momentum=0.9), 2),
    "global_clipnorm": (lambda k: k.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5), 1),
    "clipnorm": (lambda k: k.optimizers.Adam(0.01, clipnorm=0.3), 2),
    "lion": (lambda k: k.optimizers.Lion(0.01), 1),
}
OF_TF_KERAS = {
    **OPTIMIZERS,
    "sgd": (lambda k: k.optimizers.SGD(0.1), 1),
    "coupled_l2": (lambda k: SGD(0.1, momentum=0.9, l2=0.01), 1),
    "coupled_l2_adam": (lambda k: Adam(0.01, l2=0.01), 2),
    "legacy_momentum": (lambda k: k.optimizers.legacy.SGD(0.1, momentum=0.9), 1),
}
OF_KERAS3 = {
    **OPTIMIZERS,
    "sgd": (lambda k: k.optimizers.SGD(0.1), 0),
    "amsgrad": (lambda k: k.optimizers.Adam(0.01, amsgrad=True), 3),
    "adamax": (lambda k: k.optimizers.Adamax(0.01), 2),
    "nadam": (lambda k: k.optimizers.Nadam(0.01), 2),
    "adadelta": (lambda k: k.optimizers.Adadelta(1.0), 2),
    "lamb": (lambda k: k.optimizers.Lamb(0.01), 2),
    "averaged": (lambda k: k.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2), 1),
    "accumulated": (lambda k: k.optimizers.Adam(0.01, gradient_accumulation_steps=2), 3),
    "schedule": (lambda k: k.optimizers.SGD(k.optimizers.schedules.CosineDecay(0.1, 9), 0.9), 1),
    "muon": (lambda k: k.optimizers.Muon(0.01), 1),
    # Their sums begin above 0, and keep what they begin with.
    "adagrad": (lambda k: k.optimizers.Adagrad(0.1), None),
    "ftrl": (lambda k: k.optimizers.Ftrl(0.1), None),
    # Its sums over rows and columns count the zeros, and so do their products.
    "adafactor": (lambda k: k.optimizers.Adafactor(0.01), None),
}
OF = {keras: OF_TF_KERAS, keras3: OF_KERAS3}
# Ours, which add to a gradient, and one that is like the others.
NOT_IN_FIT = ("coupled_l2", "coupled_l2_adam", "lion")


def four_weights(optimizer, its_keras, **options):
    """Dense 2 → 2 without bias: x = (1, 2), w = ((½, 1), (−1, 2)), of which w₀₁ is pruned."""
    model = lt.wrap(
        chain(its_keras.layers.Dense(2, use_bias=False, name="d", **options), shape=(2,)),
        lt.Masks({"d/kernel": [[1, 0], [1, 1]]}),
    )
    (kernel,) = model.trainable_variables
    kernel.assign([[0.5, 0.0], [-1.0, 2.0]])
    model.compile(optimizer, "mse", jit_compile=False)
    return model, kernel


@both_kerases
def test_one_step_of_sgd_by_hand(its_keras):
    """y = (½ − 2, 4) = (−1½, 4); with t = (½, 3) the mse has ∂L/∂y = y − t = (−2, 1).

    ∂L/∂w = ((−2, ·), (−4, 2)); a step of ¼ gives ((1, 0), (0, 1½)).
    """
    model, kernel = four_weights(its_keras.optimizers.SGD(0.25), its_keras)
    np.testing.assert_array_equal(model.predict_on_batch(np.array([[1.0, 2.0]])), [[-1.5, 4.0]])
    model.train_on_batch(np.array([[1.0, 2.0]]), np.array([[0.5, 3.0]]))
    np.testing.assert_array_equal(kernel, [[1.0, 0.0], [0.0, 1.5]])


@both_kerases
def test_the_gradient_norm_counts_live_weights_only_by_hand(its_keras):
    """With t = (½, 2): ∂L/∂w = ((−2, ·), (−4, 4)) of norm 6 (√40 were the pruned one counted).

    Clipped to 3 it is ((−1, ·), (−2, 2)); a step of ¼ gives ((¾, 0), (−½, 1½)).
    """
    optimizer = its_keras.optimizers.SGD(0.25, global_clipnorm=3.0)
    model, kernel = four_weights(optimizer, its_keras)
    model.train_on_batch(np.array([[1.0, 2.0]]), np.array([[0.5, 2.0]]))
    np.testing.assert_allclose(kernel, [[0.75, 0.0], [-0.5, 1.5]], rtol=2e-7)
    assert kernel.numpy()[0, 1] == 0


@both_kerases
def test_the_gradient_of_a_pruned_weight_is_exactly_zero(its_keras):
    model, kernel = four_weights("sgd", its_keras)
    kernel.assign([[0.5, 1.0], [-1.0, 2.0]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(np.array([[1.0, 2.0]])) ** 2)
    # 2 y xᵀ with y = (−1½, 4), masked
    gradient = tape.gradient(loss, tf_variable(kernel))
    np.testing.assert_array_equal(gradient, [[-3.0, 0.0], [-6.0, 16.0]])


WAYS = {
    "fit_eagerly": {"run_eagerly": True},
    "fit": {"jit_compile": False},
    "fit_jit": {"jit_compile": True},
    "fit_3_steps": {"jit_compile": False, "steps_per_execution": 3},
    "fit_jit_3_steps": {"jit_compile": True, "steps_per_execution": 3},
}
IN_GRAPHS = [
    ("rmsprop", "fit", keras),
    ("momentum", "fit_jit", keras),
    ("adamw", "fit_3_steps", keras),
    ("adam", "fit_jit_3_steps", keras),
    ("momentum", "fit", keras3),
    ("adamw", "fit_jit", keras3),
    ("muon", "fit_jit_3_steps", keras3),
]
# A graph of theirs has branches, sums over rows and columns, or other variables.
OTHER_GRAPHS = [
    ("legacy_momentum", "fit", keras),
    ("averaged", "fit_jit", keras3),
    ("accumulated", "fit", keras3),
    ("adafactor", "fit", keras3),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "way", "its_keras"),
    [
        *(
            (name, "fit_eagerly", k)
            for k in OF
            for name in OF[k]
            if k is keras3 or name not in NOT_IN_FIT
        ),
        *IN_GRAPHS,
        *(pytest.param(*each, marks=pytest.mark.e2e) for each in OTHER_GRAPHS),
    ],
)
def test_pruned_weights_and_their_slots_are_zero_after_every_batch_of_fit(name, way, its_keras):
    """TRAPS 2 and 3, with no callback of ours."""
    x, y = examples()
    layers = its_keras.layers
    model = chain(layers.Dense(6, activation="relu"), layers.Dense(3))
    masks = random_masks(model)
    model = lt.wrap(model, masks)
    before = values(model)
    make, slots = OF[its_keras][name]
    model.compile(make(its_keras), cross_entropy(its_keras), **WAYS[way])

    def check(model):
        assert_zeros(model, masks, None if slots is None else model.optimizer, slots)

    watch = each_batch(check, its_keras)
    model.fit(x, y, batch_size=2, callbacks=[watch], verbose=0)
    assert watch.calls == (2 if "3_steps" in way else 6)
    assert_zeros(model, masks)  # averages are put in the weights' place as a fit ends
    assert_finite_and_moved(model, before)


def test_pruned_weights_and_their_slots_are_zero_after_every_train_on_batch():
    x, y = examples()
    model = mlp()
    masks = random_masks(model)
    model = lt.wrap(model, masks)
    before = values(model)
    model.compile(keras.optimizers.Adam(0.01), cross_entropy(keras))
    for _ in range(3):
        model.train_on_batch(x, y)
        assert_zeros(model, masks, model.optimizer, slots=2)
    assert_finite_and_moved(model, before)


class LiveWeightsOnly:
    """A network with a variable of a kernel's live weights; the pruned ones do not exist.

    Args:
      model: a plain model of either Keras, a chain; its weights are copied.
      masks: a mask for each kernel.
      apply: kernels and biases in order, inputs → outputs.
    """

    def __init__(self, model, masks, apply):
        self.apply, self.parts, self.trainable_variables, self.losses = apply, [], [], []
        for name, variable in named_variables(model).items():
            value = variable.numpy()
            where = np.argwhere(masks[name]) if name in masks else np.argwhere(np.ones_like(value))
            make = keras3.Variable if is_keras3(model) else tf.Variable
            live = make(value[tuple(where.T)], name=name.replace("/", "_"))
            self.parts.append((live, where, value.shape))
            self.trainable_variables.append(live)

    def __call__(self, x, training):
        return self.apply(x, *(tf.scatter_nd(w, tf_variable(v), s) for v, w, s in self.parts))


def dense_pair(layers):
    model = chain(layers.Dense(17, activation="relu"), layers.Dense(3), shape=(11,))

    def apply(x, w1, b1, w2, b2):
        return tf.nn.bias_add(tf.matmul(tf.nn.relu(tf.nn.bias_add(tf.matmul(x, w1), b1)), w2), b2)

    return model, apply, examples(shape=(11,))


def conv_pair(layers):
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
    ("name", "pair", "its_keras"),
    [
        *((name, dense_pair, keras) for name in OF_TF_KERAS),
        *(
            pytest.param(name, conv_pair, keras, marks=() if name in CONVOLVED else pytest.mark.e2e)
            for name in OF_TF_KERAS
        ),
        *(
            (name, dense_pair, keras3)
            for name in ("momentum", "adamw", "rmsprop", "lion", "clipnorm", "lamb")
        ),
        ("adamw", conv_pair, keras3),
    ],
)
def test_live_weights_go_the_way_they_would_go_alone(name, pair, its_keras):
    """Against variables that hold the live weights and nothing else, same optimizer.

    Elementwise updates are the same numbers; the sums of a gradient's norm and of a shorter
    vector run in another order, so a few units in the last place are left: 1e-6 of the largest.
    """
    model, apply, (x, y) = pair(its_keras.layers)
    masks = random_masks(model, 0.3)
    alone = LiveWeightsOnly(model, masks, apply)
    wrapped, loss = lt.wrap(model, masks), cross_entropy(its_keras)
    make, count = OF[its_keras][name]
    ours, theirs = (make(its_keras) for _ in range(2))
    for _step in range(4):
        tape_step(wrapped, x, y, loss, ours)
        tape_step(alone, x, y, loss, theirs)
        assert_zeros(wrapped, masks, ours, slots=count)
        for variable, (live, where, _) in zip(
            named_variables(wrapped).values(), alone.parts, strict=True
        ):
            np.testing.assert_allclose(
                variable.numpy()[tuple(where.T)],
                live.numpy(),
                rtol=1e-6,
                atol=1e-6 * np.abs(live.numpy()).max(),
            )
            for slot, slot_alone in zip(
                slots_of(ours, variable).values(), slots_of(theirs, live).values(), strict=True
            ):
                alone_too = slot_alone.numpy()
                atol = 1e-6 * np.abs(alone_too).max()
                np.testing.assert_allclose(
                    slot.numpy()[tuple(where.T)], alone_too, rtol=1e-5, atol=atol
                )


# What Keras 3 would move although its gradient is 0


def test_muon_is_masked_behind_its_update():
    """Its update is made of the singular vectors of the gradient as a whole: no zero stays 0."""
    gradient = keras3.ops.convert_to_tensor([[2.0, 0.0], [1.0, 1.0]])
    muon = keras3.optimizers.Muon
    assert (muon(0.01).zeropower_via_newtonschulz5(gradient, 5).numpy() != 0).all()
    model, kernel = four_weights(muon(0.25, momentum=0.0, nesterov=False), keras3)
    before = kernel.numpy()
    model.train_on_batch(np.array([[1.0, 2.0]]), np.array([[0.5, 3.0]]))
    assert kernel.numpy()[0, 1] == 0
    assert ((kernel.numpy() != before) == [[True, False], [True, True]]).all()


@keras3.saving.register_keras_serializable("test_wrapper")
class PlusOne(keras3.constraints.Constraint):
    def __call__(self, weight):
        return weight + 1


def test_a_constraint_that_moves_zeros_is_masked():
    """w ← w + 1 after each step."""
    sgd = keras3.optimizers.SGD(0.25)
    model, kernel = four_weights(sgd, keras3, kernel_constraint=PlusOne())
    model.train_on_batch(np.array([[1.0, 2.0]]), np.array([[0.5, 3.0]]))
    np.testing.assert_array_equal(kernel, [[2.0, 0.0], [1.0, 2.5]])
