"""Small networks of every kind in both Kerases, with the same names and weights."""

import functools

import keras as keras3
import numpy as np
from layer_cases import nested_block
from networks import chain, functions

from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import named_variables


def mlp(k):
    layers = k.layers
    return chain(
        layers.Dense(6, "tanh", name="first"),
        layers.BatchNormalization(name="norm"),
        layers.Dropout(0.5),
        layers.Dense(5, "relu", use_bias=False, name="second"),
        layers.Dense(3, "softmax", name="head"),
    )


def images(k):
    """Convolutions of every kind, BatchNorm, a shortcut, and functions between them."""
    layers, f = k.layers, functions(k)
    kind = {"padding": "same", "bias_initializer": "normal"}
    inputs = k.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="conv", **kind)(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    y = layers.DepthwiseConv2D(3, activation="elu", name="depthwise", **kind)(x)
    y = layers.SeparableConv2D(4, 2, name="separable", **kind)(y)
    y = layers.BatchNormalization(name="branch_norm")(y)
    x = f.relu(y + layers.Conv2D(4, 1, name="shortcut", **kind)(x))
    x = layers.Conv2DTranspose(3, 2, strides=2, name="transposed", **kind)(x)
    x = layers.MaxPooling2D()(layers.LeakyReLU()(x))
    x = layers.Flatten()(layers.AveragePooling2D(3)(x))
    return k.Model(inputs, layers.Dense(3, name="head")(x))


def attention(k):
    layers = k.layers
    inputs = k.Input((5, 4))
    x = layers.Dense(6, name="dense")(inputs)
    y = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.LayerNormalization(name="norm")(layers.Add()([x, y]))
    x = layers.EinsumDense("abc,cd->abd", (5, 6), bias_axes="d", name="einsum")(x)
    x = layers.Conv1D(4, 2, activation="gelu", name="conv")(x)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(name="last_norm")(x))
    return k.Model(inputs, layers.Dense(3, name="head")(x))


def tokens(k):
    """With steps of padding: BatchNorm and the loss leave them out."""
    layers = k.layers
    inputs = k.Input((4,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True, name="embedding")(inputs)
    x = layers.LSTM(5, return_sequences=True, unroll=True, name="lstm")(x)
    x = layers.Dense(6, "relu", name="dense")(x)
    x = layers.BatchNormalization(name="norm")(x)
    return k.Model(inputs, layers.Dense(3, name="head")(x))


def shared(k):
    """``both`` is called in the tower, twice, and outside of it."""
    layers = k.layers
    both, twice = layers.Dense(4, "swish", name="both"), layers.Dense(3, name="twice")
    inner = k.Input((4,))
    tower = k.Model(inner, twice(both(inner)), name="tower")
    left, right = k.Input((4,), name="left"), k.Input((4,), name="right")
    joined = layers.Concatenate()([tower(left), tower(right), twice(both(left))])
    return k.Model([left, right], layers.Dense(3, name="head")(joined))


def nested(k):
    layers = k.layers
    inputs = k.Input((4,))
    x = layers.BatchNormalization(name="norm")(nested_block(k)(2.0 * inputs - 1.0))
    return k.Model(inputs, layers.Dense(3, name="dense")(x))


def sequential(k):
    layers = k.layers
    return k.Sequential(
        [k.Input((4,)), layers.Dense(6, "sigmoid", name="first"), layers.Dense(3, name="head")]
    )


BUILD = {
    each.__name__: each for each in (mlp, images, attention, tokens, shared, nested, sequential)
}


@functools.cache
def twins(name):
    """The model in tf_keras and in Keras 3, not to be changed; what begins at 0 or 1 does not do so
    here."""
    theirs, ours = BUILD[name](keras), BUILD[name](keras3)
    random, variables = np.random.default_rng(2), named_variables(ours)
    assert named_variables(theirs).keys() == variables.keys()
    for each, variable in named_variables(theirs).items():
        value = variable.numpy() + 0.2 * random.random(variable.shape)
        for one in (variable, variables[each]):
            one.assign(value)
    return theirs, ours


def batch(name, size=7):
    """(inputs, labels) for a model of that name; of several steps there are as many labels."""
    random = np.random.default_rng(1)
    if name == "tokens":
        lengths = random.integers(1, 5, (size, 1))
        x = np.where(np.arange(4) < lengths, random.integers(1, 7, (size, 4)), 0)
        return x, random.integers(0, 3, (size, 4))
    shape = {"images": (6, 6, 2), "attention": (5, 4)}.get(name, (4,))
    x = random.standard_normal((2, size, *shape)).astype(np.float32)
    return tuple(x) if name == "shared" else x[0], random.integers(0, 3, size)
