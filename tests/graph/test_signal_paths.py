"""Where a scale comes through to the outputs, and what every signal has to go through."""

import keras as keras3
import pytest
from networks import both_kerases, chain

import lottery_tf as lt
from lottery_tf.graph.layers import calls
from lottery_tf.graph.signal_paths import first_of, on_every_way, unnormalised

K = {"kernel_size": 2, "padding": "same"}


def kernels(model, **kwargs):
    return {name for name in unnormalised(model, **kwargs) if name.endswith("kernel")}


@both_kerases
@pytest.mark.parametrize(
    ("between", "comes_through"),
    [
        (lambda layers: [], False),
        (lambda layers: [layers.ReLU()], False),
        (lambda layers: [layers.Activation("relu"), layers.MaxPooling2D()], False),
        (lambda layers: [layers.Dropout(0.5), layers.ZeroPadding2D()], False),
        (lambda layers: [layers.ReLU(max_value=6)], True),
        (lambda layers: [layers.Activation("tanh")], True),
        (lambda layers: [layers.Conv2D(3, name="other", **K)], True),
    ],
)
def test_behind_a_normalisation_no_factor_comes_through(between, comes_through, its_keras):
    layers = its_keras.layers
    model = chain(
        layers.Conv2D(3, name="conv", **K),
        *between(layers),
        layers.BatchNormalization(),
        shape=(4, 4, 2),
    )
    assert ("conv/kernel" in kernels(model)) == comes_through
    assert ("conv/kernel" in kernels(lt.wrap(model))) == comes_through


@both_kerases
def test_a_fused_activation_counts(its_keras):
    layers = its_keras.layers

    def model(activation):
        conv = layers.Conv2D(3, activation=activation, name="conv", **K)
        return chain(conv, layers.LayerNormalization(), shape=(4, 4, 2))

    assert kernels(model("relu")) == set() and kernels(model("tanh")) == {"conv/kernel"}


@both_kerases
def test_one_way_without_a_normalisation_is_enough(its_keras):
    layers = its_keras.layers
    x = its_keras.Input((4, 4, 2))
    y = layers.Conv2D(2, name="conv", **K)(x)
    model = its_keras.Model(x, layers.Add()([layers.BatchNormalization()(y), y]))
    assert kernels(model) == {"conv/kernel"}


@both_kerases
def test_layers_of_the_outputs_are_not_hidden(its_keras):
    layers = its_keras.layers
    model = chain(layers.Dense(3, name="one"), layers.Dense(2, name="two"))
    assert kernels(model) == {"one/kernel", "two/kernel"}
    assert kernels(model, hidden=True) == {"one/kernel"}


def names_on_every_way(model):
    necessary = on_every_way(model)
    return [call.layer.name for call in calls(model)[0] if id(call.node) in necessary]


@both_kerases
def test_a_chain_is_necessary_throughout(its_keras):
    layers = its_keras.layers
    model = chain(*(layers.Dense(2, name=name) for name in "abc"))
    assert names_on_every_way(model) == ["a", "b", "c"]


@both_kerases
def test_a_shortcut_goes_around_a_block(its_keras):
    layers = its_keras.layers
    x = its_keras.Input((4, 4, 2))
    y = layers.Conv2D(2, name="stem", **K)(x)
    z = layers.Conv2D(2, name="one", **K)(y)
    z = layers.Conv2D(2, name="two", **K)(z)
    y = layers.Add(name="sum")([y, z])
    model = its_keras.Model(x, layers.Conv2D(2, name="last", **K)(y))
    assert names_on_every_way(model) == ["stem", "sum", "last"]


@both_kerases
def test_ways_around_from_an_input_and_to_an_output(its_keras):
    layers = its_keras.layers
    x, other = its_keras.Input((2,)), its_keras.Input((2,))
    a = layers.Dense(2, name="a")(x)
    b = layers.Dense(2, name="b")(layers.Concatenate(name="join")([a, other]))
    c = layers.Dense(2, name="c")(b)
    assert names_on_every_way(its_keras.Model([x, other], [c])) == ["join", "b", "c"]
    assert names_on_every_way(its_keras.Model([x, other], [b, c])) == ["join", "b"]
    assert names_on_every_way(its_keras.Model(x, [a])) == ["a"]


@both_kerases
def test_within_a_nested_model(its_keras):
    layers = its_keras.layers
    inner = chain(*(layers.Dense(2, name=name) for name in "ab"), shape=(2,))
    x = its_keras.Input((2,))
    y = layers.Dense(2, name="first")(x)
    model = its_keras.Model(x, layers.Add(name="sum")([inner(y), y]))
    assert names_on_every_way(model) == ["first", "sum"]


@both_kerases
def test_what_comes_first(its_keras):
    layers = its_keras.layers
    x = its_keras.Input((4, 4, 2))
    one, two = (layers.Conv2D(2, name=name, **K)(x) for name in ("one", "two"))
    y = layers.Conv2D(2, name="three", **K)(layers.Add()([one, two]))
    model = its_keras.Model(x, y)
    first = first_of(model, lambda layer: isinstance(layer, layers.Conv2D))
    assert [each.name for each in model.layers if id(each) in first] == ["one", "two"]


def test_a_function_has_no_variables_and_passes_nothing_that_is_known():
    inputs = keras3.Input((4,))
    x = keras3.ops.relu(keras3.layers.Dense(3, name="one")(inputs))
    model = keras3.Model(inputs, keras3.layers.BatchNormalization(name="norm")(2.0 * x))
    assert kernels(model) == {"one/kernel"}
