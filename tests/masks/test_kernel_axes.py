"""The axes of kernels, of both Kerases."""

import keras as keras3
import kinds_of_layers
import numpy as np
import pytest
from networks import EVERYTHING, KERASES, both_kerases, chain

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.masks.kernel_axes import kernel_axes, structured
from lottery_tf.masks.prunable import prunable_weights
from lottery_tf.masks.structure import Axes


def axes(model):
    masks = lt.Masks.ones(prunable_weights(model, EVERYTHING))
    found = kernel_axes(model, masks)
    assert found.keys() == masks.keys()
    return found


@both_kerases
def test_convolutions_and_dense(its_keras):
    layers = its_keras.layers
    model = chain(
        layers.Conv2D(4, 3, groups=2, name="conv"),  # 3, 3, 1, 4
        layers.Conv2DTranspose(6, 3, name="transposed"),  # 3, 3, 6, 4
        layers.SeparableConv2D(5, 2, depth_multiplier=2, name="separable"),
        layers.DepthwiseConv2D(2, name="depthwise"),
        layers.Reshape((-1, 5), name="reshape"),
        layers.Conv1D(2, 3, name="conv1"),
        layers.Conv1DTranspose(3, 3, name="transposed1"),
        layers.Dense(3, name="dense"),
        shape=(8, 8, 2),
    )
    assert axes(model) == {
        "conv/kernel": Axes(2, (3,)),
        "transposed/kernel": Axes(3, (2,)),
        "separable/depthwise_kernel": Axes(None, (2, 3)),
        "separable/pointwise_kernel": Axes(2, (3,)),
        "depthwise/depthwise_kernel": Axes(None, (2, 3)),
        "conv1/kernel": Axes(1, (2,)),
        "transposed1/kernel": Axes(2, (1,)),
        "dense/kernel": Axes(0, (1,)),
    }


@pytest.mark.parametrize(
    ("equation", "shape", "found"),
    [
        ("abc,cd->abd", (5, 6), Axes(0, (1,))),
        ("abc,bcd->ad", 6, Axes(1, (2,))),  # summed over both
        ("abc,cde->abde", (5, 2, 3), Axes(0, (1, 2))),
        ("abc,bcd->abd", (5, 6), Axes(1, (0, 2))),  # at each place weights of its own
        ("abc,dc->abd", (5, 6), Axes(1, (0,))),
        ("abc,bc->abc", (5, 4), Axes(None, (0, 1))),
        ("abc,c->ab", 5, None),
        ("abc,bc->a", (), Axes(1, ())),
        ("...c,cd->...d", 6, Axes(0, (1,))),
    ],
)
@both_kerases
def test_equations(its_keras, equation, shape, found):
    layer = its_keras.layers.EinsumDense(equation, shape, name="einsum")
    assert axes(chain(layer, shape=(5, 4))) == {"einsum/kernel": found}


# Of the first kernel, and of the others; ``-1`` is the last axis.
KINDS = {
    "conv": Axes(2, (3,)),
    "dense": Axes(0, (1,)),
    "embedding": Axes(0, (1,)),
    "LocallyConnected as a matrix": Axes(1, (2, 3)),
    "LocallyConnected as a list": None,
}


@pytest.mark.parametrize(("kind", "of"), kinds_of_layers.in_each())
def test_every_kind_of_layer(kind, of):
    """The kernels of a recurrent layer are [inputs, gates], of ConvLSTM with places in front; those
    of attention [numbers, heads, size], and of its output [heads, size, numbers]."""
    known = kinds_of_layers.KINDS[kind]
    found = axes(known.build(KERASES[of]))
    found.pop("head/kernel")
    assert found.keys() == known.flops.keys()
    for name, each in found.items():
        if known.kind == "recurrent":
            assert each == Axes(each.outputs[0] - 1, each.outputs, alone=False)
        elif known.kind == "attention":
            assert each == (Axes(1, (2,)) if name == "it/kernel_3" else Axes(0, (1, 2)))
        elif kind in ("LocallyConnected1D", "LocallyConnected2D"):
            assert each == Axes(1, (0, 2))
        else:
            assert each == KINDS.get(kind, KINDS[known.kind])


@both_kerases
def test_layers_of_ones_own_are_as_dense(its_keras):
    class Own(its_keras.layers.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(name="matrix", shape=(shape[-1], 3))
            self.scale = self.add_weight(name="scale", shape=(3,), initializer="ones")
            super().build(shape)

        def call(self, x):
            return x @ self.matrix * self.scale

        def get_prunable_weights(self):
            return [self.matrix, self.scale]

    model = chain(Own(name="own"))
    assert axes(model) == {"own/matrix": Axes(0, (1,)), "own/scale": None}


@both_kerases
def test_wrapped_models_have_the_same(its_keras):
    model = chain(its_keras.layers.Dense(3, name="dense"))
    assert axes(lt.wrap(model)) == axes(model)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2:4", ["2:4 prunes nothing of one/kernel: 2 inputs or fewer.",
                 "2:4: the last groups of two/kernel are smaller."]),
        ("3:6", ["3:6 prunes nothing of one/kernel: 3 inputs or fewer."]),
        ("block:2x5", ["block:2x5: the last blocks of one/kernel are smaller."]),
        ("block:1x1", []),
        ("channel", []),
        ("unstructured", []),
    ],
)  # fmt: skip
def test_what_is_smaller_is_told(text, expected, lines):
    """Inputs × outputs: 1 × 6 and 6 × 5."""
    model = chain(keras.layers.Dense(6, name="one"), keras.layers.Dense(5, name="two"), shape=(1,))
    structured(model, lt.Masks.ones(prunable_weights(model, EVERYTHING)), text)
    assert lines == expected


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("2:4", "depthwise/depthwise_kernel, whose layer"),
        ("block:2x2", "depthwise/depthwise_kernel, whose layer"),
        ("channel", "lstm/kernel, lstm/recurrent_kernel, several columns"),
    ],
)
def test_what_does_not_fit_is_refused(text, names):
    layers = keras3.layers
    model = chain(
        layers.DepthwiseConv1D(2, name="depthwise"), layers.LSTM(3, name="lstm"), shape=(5, 4)
    )
    with pytest.raises(UsageError, match=f"not {names}"):
        lt.prune(model, "random", 0.5, structure=text, prune_layers=("depthwise", "recurrent"),
                 keep_dense=())  # fmt: skip


def test_only_the_masked_weights_have_to_fit():
    layers = keras.layers
    model = chain(layers.LSTM(4, name="lstm"), layers.Dense(4, name="dense"), shape=(5, 4))
    masks = lt.Masks({"dense/kernel": np.ones((4, 4))})
    assert structured(model, masks, "channel").axes == {"dense/kernel": Axes(0, (1,))}
