"""The variables of a layer and of the layers within it, by path."""

import numpy as np
import pytest
from networks import both_kerases

from lottery_tf.graph import compat
from lottery_tf.graph.compat import keras
from lottery_tf.graph.parts import at, holder_of, in_places_of, layers_held, parts_at, variables_at


def holding(k):
    """A layer with variables in a list, in a dictionary, in layers and in a Sequential."""
    layers = k.layers

    class Holding(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2, use_bias=False)
            self.several = [layers.Dense(2, use_bias=False)]
            self.mlp = k.Sequential([layers.Dense(2, use_bias=False)])

        def build(self, shape):
            self.w = self.add_weight(name="w", shape=(2, 2), initializer="ones")
            self.listed = [self.w, self.add_weight(name="v", shape=(2, 2), initializer="ones")]
            self.named = {"one": self.add_weight(name="u", shape=(2, 2), initializer="ones")}
            for each in (self.dense, *self.several, self.mlp):
                each.build(shape)

        def call(self, x):
            x = self.several[0](self.dense(x))
            return self.mlp(x) @ self.w @ self.listed[1] @ self.named["one"]

    layer = Holding()
    layer(np.ones((1, 2), np.float32))
    return layer


@both_kerases
def test_paths_of_all_that_is_held(its_keras):
    layer = holding(its_keras)
    found = variables_at(layer)
    assert sorted(found) == sorted(
        [
            *("w", "listed/0", "listed/1", "named/one", "dense/kernel", "several/0/kernel"),
            "mlp/layers/0/kernel",
        ]
    )
    assert found["w"] is found["listed/0"] is layer.w
    assert {id(each) for each in found.values()} == {id(each) for each in layer.weights}
    assert all(at(layer, path) is variable for path, variable in found.items())
    assert holder_of(layer, "mlp/layers/0/kernel") is layer.mlp.layers[0]
    assert holder_of(layer, "named/one") is holder_of(layer, "w") is layer
    assert [path for path, _ in layers_held(layer)] == ["dense", "several/0", "mlp"]
    assert list(parts_at(layer)) == ["", "dense/", "several/0/", "mlp/", "mlp/layers/0/"]


@both_kerases
def test_tensors_in_the_places_of_variables_and_back_again(its_keras):
    layer = holding(its_keras)
    x, before = np.ones((1, 2), np.float32), list(layer.weights)
    listed, expected = layer.listed, layer(x)
    for path in variables_at(layer):
        if path not in ("w", "listed/0"):
            with in_places_of(layer, {path: np.zeros((2, 2), np.float32)}):
                assert not np.any(layer(x)), path
    with (
        pytest.raises(RuntimeError),
        in_places_of(layer, {p: np.zeros((2, 2), np.float32) for p in variables_at(layer)}),
    ):
        raise RuntimeError
    assert layer.listed is listed and [id(v) for v in layer.weights] == [id(v) for v in before]
    np.testing.assert_array_equal(layer(x), expected)


@both_kerases
def test_a_recurrent_layer_without_fused_kernels_is_the_same(its_keras):
    layer, x = its_keras.layers.Bidirectional(its_keras.layers.LSTM(2)), np.ones((1, 3, 2))
    expected = layer(x)
    compat.unfuse(layer)
    flag = "_could_use_gpu_kernel" if its_keras is keras else "use_cudnn"
    assert not any(getattr(each, flag) for each in (layer.forward_layer, layer.backward_layer))
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5)
