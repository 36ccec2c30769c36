"""The models of ``layer_cases``, of Keras 3."""

import functools

import keras
import networks
import numpy as np
from keras import layers, ops
from layer_cases import Case
from networks import chain, examples

mlp = functools.partial(networks.mlp, layers)


class EachBatch(keras.callbacks.Callback):
    """Calls a function after each batch of training, and counts."""

    def __init__(self, check):
        super().__init__()
        self.check, self.calls = check, 0

    def on_train_batch_end(self, batch, logs=None):
        self.check(self.model)
        self.calls += 1


@keras.saving.register_keras_serializable("layer_cases3")
class Gate(layers.Layer):
    """x ⊙ σ(gate · w + v), 100 more in training; w may be pruned, v may not.

    Without ``get_config``, so that its name is not in its config.
    """

    def build(self, x_shape, gate_shape=None):
        width = x_shape[-1]
        self.w = self.add_weight(name="w", shape=(width, width), initializer="random_normal")
        self.v = self.add_weight(name="v", shape=(width, width), initializer="random_normal")

    def get_prunable_weights(self):
        return [self.w]

    def call(self, x, gate=None, training=None):
        gate = x if gate is None else gate
        gated = x * ops.sigmoid(ops.matmul(gate, self.w) + ops.sum(self.v))
        return gated + 100.0 if training else gated


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
        layers.GlobalAveragePooling1D(),
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
    x = ops.relu(layers.Dense(8, name="dense")(inputs[:, 1:]))
    x = ops.concatenate([x, 2.0 * inputs - 1.0], axis=-1)[:, ::2] + 0.5
    return keras.Model(inputs, ops.softmax(layers.Dense(3, name="head")(x)))


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
    joined = ops.concatenate([tower(left), tower(right), twice(both(left))], axis=-1)
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
    keras.utils.clear_session(free_memory=False)  # this Gate is "gate"
    inputs = keras.Input((4,))
    x = Gate()(layers.Dense(4, name="dense")(inputs), inputs)
    return keras.Model(inputs, layers.Dense(2, name="head")(Gate(name="named")(x)))


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
        ("gate/v", "named/v"),
    ),
    "volumes": Case(
        volumes,
        examples(4, (3, 3, 3, 1))[0],
        ("conv/kernel", "transposed/kernel"),
        ("head/kernel",),
    ),
}
