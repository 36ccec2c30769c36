"""Models that between them hold every kind of layer, with the names that are prunable in each.

``CASES`` has them in tf_keras, ``CASES3`` in Keras 3.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import networks
import numpy as np
from networks import KERASES, chain, examples

from lottery_tf.graph.compat import keras
from lottery_tf.graph.keras3 import keras as keras3


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

    build: Callable[[], Any]
    x: Any
    prunable: tuple[str, ...]
    on_request: tuple[str, ...]
    never: tuple[str, ...] = ()


def own_layers(k):
    """Layers that a user writes for a Keras."""
    f = networks.functions(k)

    @k.saving.register_keras_serializable("layer_cases")
    class Gate(k.layers.Layer):
        """x ⊙ σ(gate · w + v), 100 more in training; w may be pruned, v may not.

        Without ``get_config``, so that its name is not in its config.
        """

        def build(self, x_shape, gate_shape=None):
            shape = (x_shape[-1], x_shape[-1])
            self.w = self.add_weight(name="w", shape=shape, initializer="random_normal")
            self.v = self.add_weight(name="v", shape=shape, initializer="random_normal")

        def get_prunable_weights(self):
            return [self.w]

        def call(self, x, gate=None, training=None):
            gate = f.matmul(x if gate is None else gate, self.w)
            gated = x * f.sigmoid(gate + f.sum(self.v))
            return gated + 100.0 if training else gated

    @k.saving.register_keras_serializable("layer_cases")
    class Plain(k.layers.Layer):
        """x · w; tells nobody that w may be pruned."""

        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, input_shape):
            self.w = self.add_weight(name="w", shape=(input_shape[-1], self.units))

        def call(self, x):
            return f.matmul(x, self.w)

    return Gate, Plain


OWN = {k: own_layers(k) for k in KERASES.values()}


def images(k):
    layers = k.layers
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


def sequence(k):
    layers = k.layers
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


def tokens(k):
    layers = k.layers
    inputs = k.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True, name="embedding")(inputs)
    x = layers.Dense(6, activation="relu", name="dense")(x)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.LayerNormalization(name="layer_norm")(x)
    x = layers.LSTM(4, unroll=True, name="lstm")(x)
    return k.Model(inputs, layers.Dense(2, name="head")(x))


def functions(k):
    layers, f = k.layers, networks.functions(k)
    inputs = k.Input((6,))
    x = f.relu(layers.Dense(8, name="dense")(inputs[:, 1:]))
    x = f.concatenate([x, 2.0 * inputs - 1.0], -1)[:, ::2] + 0.5
    return k.Model(inputs, f.softmax(layers.Dense(3, name="head")(x)))


def nested_block(k):
    """A model with a model in it."""
    layers = k.layers
    half = k.Sequential([layers.Dense(5, name="dense"), layers.ReLU(name="relu")], name="half")
    inner = k.Input((4,))
    return k.Model(inner, half(inner) + layers.Dense(5, name="dense")(inner), name="block")


def nested(k):
    inputs = k.Input((4,))
    return k.Model(inputs, k.layers.Dense(2, name="dense")(nested_block(k)(inputs)))


def shared(k):
    """``both`` works in the nested and in the outer model, ``twice`` on both towers."""
    layers = k.layers
    both, twice = layers.Dense(4, name="both"), layers.Dense(3, name="twice")
    inner = k.Input((4,))
    tower = k.Model(inner, twice(both(inner)), name="tower")
    left, right = k.Input((4,), name="left"), k.Input((4,), name="right")
    joined = networks.functions(k).concatenate([tower(left), tower(right), twice(both(left))], -1)
    return k.Model([left, right], layers.Dense(2, name="head")(joined))


def several(k):
    """Two inputs, two outputs."""
    layers = k.layers
    one, two = k.Input((4,), name="one"), k.Input((3,), name="two")
    towers = [layers.Dense(5, name="a")(one), layers.Dense(5, name="b")(two)]
    x = layers.Concatenate(name="joined")(towers)
    x = layers.Dense(4, activation="relu", name="trunk")(x)
    return k.Model(
        {"one": one, "two": two},
        [layers.Dense(2, name="left")(x), layers.Dense(1, name="right")(x)],
    )


def of_ones_own(k):
    layers, (Gate, Plain) = k.layers, OWN[k]
    # This Gate is "gate", one with a name of its own is "gate_1" in tf_keras.
    if k is keras:
        k.backend.reset_uids()
    else:
        k.utils.clear_session(free_memory=False)
    inputs = k.Input((4,))
    x = Gate()(layers.Dense(4, name="dense")(inputs), inputs)
    return k.Model(inputs, layers.Dense(2, name="head")(Plain(3)(Gate(name="named")(x))))


def volumes(k):
    layers = k.layers
    return chain(
        layers.Conv3D(2, 2, name="conv"),
        layers.Conv3DTranspose(2, 2, name="transposed"),
        layers.Flatten(),
        layers.Dense(2, name="head"),
        shape=(3, 3, 3, 1),
    )


def cases(k):
    """Name → the case of a Keras."""
    return {
        "images": Case(
            functools.partial(images, k),
            examples(4, (6, 6, 2))[0],
            ("conv/kernel", "separable/pointwise_kernel", "transposed/kernel"),
            ("depthwise/depthwise_kernel", "separable/depthwise_kernel", "head/kernel"),
        ),
        "sequence": Case(
            functools.partial(sequence, k),
            examples(4, (5, 3))[0],
            (
                *("conv/kernel", "transposed/kernel", "separable/pointwise_kernel", "each/kernel"),
                "einsum/kernel",
            ),
            ("separable/depthwise_kernel", "head/kernel"),
        ),
        "tokens": Case(
            functools.partial(tokens, k),
            np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0]]),
            (
                "dense/kernel",
                *(f"attention/{part}" for part in ("kernel", "kernel_1", "kernel_2", "kernel_3")),
                *("lstm/kernel", "lstm/recurrent_kernel"),
            ),
            ("embedding/embeddings", "head/kernel"),
            ("attention/bias", "attention/bias_1", "attention/bias_2"),
        ),
        "functions": Case(
            functools.partial(functions, k),
            examples(4, (6,))[0],
            ("dense/kernel",),
            ("head/kernel",),
        ),
        "nested": Case(
            functools.partial(nested, k),
            examples(4)[0],
            ("block/half/dense/kernel", "block/dense/kernel"),
            ("dense/kernel",),
        ),
        "shared": Case(
            functools.partial(shared, k),
            [examples(4)[0], examples(5)[0][1:]],
            ("both/kernel", "tower/twice/kernel"),
            ("head/kernel",),
        ),
        "several": Case(
            functools.partial(several, k),
            {"one": examples(4)[0], "two": examples(4, (3,))[0]},
            ("a/kernel", "b/kernel", "trunk/kernel"),
            ("left/kernel", "right/kernel"),
        ),
        "of_ones_own": Case(
            functools.partial(of_ones_own, k),
            examples(4)[0],
            ("dense/kernel", "gate/w", "named/w"),
            ("head/kernel",),
            ("gate/v", "named/v", "plain/w"),
        ),
        "volumes": Case(
            functools.partial(volumes, k),
            examples(4, (3, 3, 3, 1))[0],
            ("conv/kernel", "transposed/kernel"),
            ("head/kernel",),
        ),
    }


CASES = cases(keras)
CASES3 = cases(keras3)
CASES_OF = {keras: CASES, keras3: CASES3}
