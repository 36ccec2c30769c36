"""Models as graphs of named layers."""

import numpy as np
import pytest
from layer_cases import CASES
from networks import KERASES, assert_same, chain, layers, mlp, values

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import assign, calls, check_graph, named_layers, named_variables
from lottery_tf.masks.prunable import prunable_weights


def test_names_of_layers_and_variables():
    block = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")], name="block")
    model = chain(block, layers.BatchNormalization(name="norm"), layers.Dense(2, name="dense"))
    assert list(named_layers(model))[1:] == ["block/dense", "norm", "dense"]
    assert list(named_variables(model)) == [
        *("block/dense/kernel", "block/dense/bias"),
        *("norm/gamma", "norm/beta", "norm/moving_mean", "norm/moving_variance"),
        *("dense/kernel", "dense/bias"),
    ]


@pytest.mark.parametrize("name", CASES)
def test_every_variable_has_one_name(name):
    model = CASES[name].build()
    variables = named_variables(model)
    assert {id(v) for v in variables.values()} == {id(v) for v in model.variables}
    assert len(variables) == len(model.variables)


def test_assigning_by_name():
    model, other = mlp(), mlp()
    wanted = {name: value + 1 for name, value in values(other).items()}
    assign(model, dict(reversed(list(wanted.items()))))
    assert_same(values(model), wanted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.pop("head/bias"), "not in both: head/bias. They belong to another model"),
        (lambda v: v.update(other=np.ones(1)), "not in both: other."),
        (
            lambda v: v.update({"head/bias": np.ones(4)}),
            r"shape \(3,\) for head/bias .* got \(4,\)",
        ),
    ],
)
def test_values_of_another_model_change_nothing(change, words):
    model = mlp()
    before, wanted = values(model), {name: value + 1 for name, value in values(model).items()}
    change(wanted)
    with pytest.raises(UsageError, match=words):
        assign(model, wanted)
    assert_same(values(model), before)


def edges(model):
    """(path, path) of each two calls of which the second reads the first, and the outputs."""
    graph, outputs = calls(model)
    assert all(call in earlier.after for call in graph for earlier in call.before)
    return (
        [(earlier.path, call.path) for call in graph for earlier in call.before],
        [call.path for call in outputs],
    )


def test_the_graph_of_a_residual_block():
    inputs = keras.Input((4,))
    one = layers.Dense(4, name="one")(inputs)
    two = layers.Dense(4, name="two")(one)
    model = keras.Model(inputs, layers.Add(name="add")([one, two]))
    found, outputs = edges(model)
    source = model.inputs[0].node.layer.name
    assert sorted(found) == [(source, "one"), ("one", "add"), ("one", "two"), ("two", "add")]
    assert outputs == ["add"]


def test_the_graph_goes_through_nested_models():
    model = CASES["nested"].build()
    found, outputs = edges(model)
    source = model.inputs[0].node.layer.name
    add = next(later for _, later in found if "add" in later)
    assert sorted(found) == sorted(
        [
            *((source, "block/half/dense"), (source, "block/dense")),
            *(("block/half/dense", "block/half/relu"), ("block/half/relu", add)),
            ("block/dense", add),
            (add, "dense"),
        ]
    )
    assert outputs == ["dense"]


def test_a_shared_layer_is_called_at_each_of_its_places():
    graph, _ = calls(CASES["shared"].build())
    paths = [call.path for call in graph]
    assert (paths.count("both"), paths.count("tower/twice"), paths.count("head")) == (3, 3, 1)
    both = [call for call in graph if call.path == "both"]
    assert sorted(call.before[0].path for call in both) == ["left", "left", "right"]


def test_the_outputs_of_several_inputs():
    found, outputs = edges(CASES["several"].build())
    assert outputs == ["left", "right"]
    assert {earlier for earlier, later in found if later == "joined"} == {"a", "b"}


def no_graph(k):
    """Kind → what has no graph that can be copied, of a Keras, and what is said of it."""

    class Subclassed(k.Model):
        def __init__(self):
            super().__init__(name="mine")
            self.dense = k.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    return {
        "a layer": (k.layers.Dense(2), f"Expected a Keras model, got a {k.__name__}.*Dense."),
        "subclassed": (
            Subclassed(),
            r"got the subclassed model 'mine' \(Subclassed\); .* build it as keras.Model\(",
        ),
        "within": (chain(Subclassed()), "subclassed model 'mine'"),
        "bare": (
            k.Sequential([k.layers.Dense(2)], name="bare"),
            "built model, .* 'bare' .*Input",
        ),
    }


@pytest.mark.parametrize(
    ("kind", "its_keras"),
    [
        *((kind, k) for k in KERASES.values() for kind in ("a layer", "subclassed", "within")),
        *(("bare", k) for k in KERASES.values()),
    ],
)
def test_what_is_no_graph_gets_one_sentence(kind, its_keras):
    model, words = no_graph(its_keras)[kind]
    for refuse in (check_graph, lt.wrap, lt.strip, prunable_weights):
        with pytest.raises(UsageError, match=words) as error:
            refuse(model)
        assert str(error.value).count(". ") == 0


def test_what_is_of_no_keras_gets_one_sentence():
    with pytest.raises(UsageError, match="got a builtins.str: lt.load_model reads a file."):
        check_graph("model.keras")
    with pytest.raises(UsageError, match="Expected a Keras model, got a builtins.object."):
        check_graph(object())


def test_a_subclassed_model_that_has_no_layers_yet():
    class Own(keras3.Model):
        pass

    with pytest.raises(UsageError, match="Expected a Sequential or functional model"):
        check_graph(Own())
