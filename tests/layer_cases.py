"""Models that between them hold every kind of layer, with the names that are prunable in each."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from networks import chain, examples, layers

from lottery_tf.graph.compat import keras


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and what is known of it.

    Attributes:
      build: makes the model.
      x: inputs for it.
      prunable: the names that are pruned by default, in order.
      on_request: those that are pruned only when asked for (output layers, depthwise kernels,
        embeddings).
      never: other trainable weights of rank 2 and more.
    """

    build: Callable[[], keras.Model]
    x: Any
    prunable: tuple[str, ...]
    on_request: tuple[str, ...]
    never: tuple[str, ...] = ()


@keras.saving.register_keras_serializable("layer_cases")
class Gate(layers.Layer):
    """x ⊙ σ(gate · w + v) with noise in training; w may be pruned, v may not.

    Without ``get_config``, so that its name is not in its config.
    """

    def build(self, input_shape):
        width = input_shape[-1]
        self.w = self.add_weight("w", (width, width), initializer="random_normal")
        self.v = self.add_weight("v", (width, width), initializer="random_normal")

    def get_prunable_weights(self):
        return [self.w]

    def call(self, x, gate=None, training=None):
        gated = x * tf.sigmoid((x if gate is None else gate) @ self.w + tf.reduce_sum(self.v))
        return gated + 100.0 if training else gated


@keras.saving.register_keras_serializable("layer_cases")
class Plain(layers.Layer):
    """x · w; tells nobody that w may be pruned."""

    def __init__(self, units):
        super().__init__()
        self.units = units

    def build(self, input_shape):
        self.w = self.add_weight("w", (input_shape[-1], self.units))

    def call(self, x):
        return x @ self.w


def images():
    return chain(
        layers.Rescaling(1 / 2),
        layers.Conv2D(4, 3, use_bias=False, name="conv"),
        layers.BatchNormalization(name="batch_norm"),
        layers.ReLU(),
        layers.DepthwiseConv2D(2, name="depthwise"),
        layers.GroupNormalization(2, name="group_norm"),
        layers.SeparableConv2D(4, 2, name="separable"),
        layers.Conv2DTranspose(3, 2, name="transposed"),
        layers.GlobalAveragePooling2D(),
        layers.Dropout(0.5),
        layers.Dense(3, activation="softmax", name="head"),
        shape=(6, 6, 2),
    )


def sequence():
    return chain(
        layers.Conv1D(4, 2, padding="causal", name="conv"),
        layers.Conv1DTranspose(4, 2, name="transposed"),
        layers.SeparableConv1D(4, 2, name="separable"),
        layers.TimeDistributed(layers.Dense(3), name="each"),
        layers.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d", name="einsum"),
        layers.Flatten(),
        layers.Dense(2, name="head"),
        shape=(5, 3),
    )


def tokens():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True, name="embedding")(inputs)
    x = layers.Dense(6, activation="relu", name="dense")(x)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.LayerNormalization(name="layer_norm")(x)
    x = layers.LSTM(4, unroll=True, name="lstm")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def functions():
    inputs = keras.Input((6,))
    x = tf.nn.relu(layers.Dense(8, name="dense")(inputs[:, 1:]))
    x = tf.concat([x, 2.0 * inputs - 1.0], axis=-1)[:, ::2] + 0.5
    return keras.Model(inputs, tf.nn.softmax(layers.Dense(3, name="head")(x)))


def nested():
    half = keras.Sequential([layers.Dense(5, name="dense"), layers.ReLU(name="relu")], name="half")
    inner = keras.Input((4,))
    block = keras.Model(inner, half(inner) + layers.Dense(5, name="dense")(inner), name="block")
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(2, name="dense")(block(inputs)))


def shared():
    """``both`` works in the nested and in the outer model, ``twice`` on both towers."""
    both, twice = layers.Dense(4, name="both"), layers.Dense(3, name="twice")
    inner = keras.Input((4,))
    tower = keras.Model(inner, twice(both(inner)), name="tower")
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    joined = tf.concat([tower(left), tower(right), twice(both(left))], axis=-1)
    return keras.Model([left, right], layers.Dense(2, name="head")(joined))


def several():
    """Two inputs, two outputs."""
    one, two = keras.Input((4,), name="one"), keras.Input((3,), name="two")
    towers = [layers.Dense(5, name="a")(one), layers.Dense(5, name="b")(two)]
    x = layers.Concatenate(name="joined")(towers)
    x = layers.Dense(4, activation="relu", name="trunk")(x)
    return keras.Model(
        {"one": one, "two": two},
        [layers.Dense(2, name="left")(x), layers.Dense(1, name="right")(x)],
    )


def of_ones_own():
    keras.backend.reset_uids()  # this Gate is "gate", one with a name of its own is "gate_1"
    inputs = keras.Input((4,))
    x = Gate()(layers.Dense(4, name="dense")(inputs), inputs)
    return keras.Model(inputs, layers.Dense(2, name="head")(Plain(3)(Gate(name="named")(x))))


def volumes():
    return chain(
        layers.Conv3D(2, 2, name="conv"),
        layers.Conv3DTranspose(2, 2, name="transposed"),
        layers.Flatten(),
        layers.Dense(2, name="head"),
        shape=(3, 3, 3, 1),
    )


CASES = {
    "images": Case(
        images,
        examples(4, (6, 6, 2))[0],
        ("conv/kernel", "separable/pointwise_kernel", "transposed/kernel"),
        ("depthwise/depthwise_kernel", "separable/depthwise_kernel", "head/kernel"),
    ),
    "sequence": Case(
        sequence,
        examples(4, (5, 3))[0],
        (
            *("conv/kernel", "transposed/kernel", "separable/pointwise_kernel", "each/kernel"),
            "einsum/kernel",
        ),
        ("separable/depthwise_kernel", "head/kernel"),
    ),
    "tokens": Case(
        tokens,
        np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0]]),
        (
            "dense/kernel",
            *(f"attention/{part}" for part in ("kernel", "kernel_1", "kernel_2", "kernel_3")),
            *("lstm/kernel", "lstm/recurrent_kernel"),
        ),
        ("embedding/embeddings", "head/kernel"),
        ("attention/bias", "attention/bias_1", "attention/bias_2"),
    ),
    "functions": Case(functions, examples(4, (6,))[0], ("dense/kernel",), ("head/kernel",)),
    "nested": Case(
        nested,
        examples(4)[0],
        ("block/half/dense/kernel", "block/dense/kernel"),
        ("dense/kernel",),
    ),
    "shared": Case(
        shared,
        [examples(4)[0], examples(5)[0][1:]],
        ("both/kernel", "tower/twice/kernel"),
        ("head/kernel",),
    ),
    "several": Case(
        several,
        {"one": examples(4)[0], "two": examples(4, (3,))[0]},
        ("a/kernel", "b/kernel", "trunk/kernel"),
        ("left/kernel", "right/kernel"),
    ),
    "of_ones_own": Case(
        of_ones_own,
        examples(4)[0],
        ("dense/kernel", "gate/w", "named/w"),
        ("head/kernel",),
        ("gate/v", "named/v", "plain/w"),
    ),
    "volumes": Case(
        volumes,
        examples(4, (3, 3, 3, 1))[0],
        ("conv/kernel", "transposed/kernel"),
        ("head/kernel",),
    ),
}
