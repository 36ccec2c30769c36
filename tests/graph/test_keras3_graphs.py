"""Models of Keras 3 through the door, their graphs, copies, and descriptions."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers, ops
from layer_cases import CASES3 as CASES
from networks import assert_same, chain, mlp, values

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph import compat, keras3
from lottery_tf.graph.architecture import from_json, to_json
from lottery_tf.graph.copies import copy_layer, copy_with_paths, rebuild
from lottery_tf.graph.layers import (
    assign,
    calls,
    layer_paths,
    named_layers,
    named_variables,
    trainable_names,
)

# The door


def test_the_two_doors_agree_in_names_and_arguments():
    """What ``compat`` hands on is in ``keras3``, and nothing is there that no door leads to."""
    one = compat.inputs_of.__code__
    handed_on = {
        name: function.__wrapped__
        for name, function in vars(compat).items()
        if getattr(function, "__code__", None) is one
    }
    assert len(handed_on) > 30
    for name, function in handed_on.items():
        theirs = getattr(keras3, name)
        assert list(inspect.signature(theirs).parameters) == list(
            inspect.signature(function).parameters
        ), name
    own = {
        name
        for name, each in vars(keras3).items()
        if inspect.isfunction(each) and each.__module__ == keras3.__name__ and name[0] != "_"
    }
    assert own - set(handed_on) <= set(compat.__all__)


def test_which_keras_a_thing_is_of_is_seen_from_it():
    x, y = keras.Input((2,)), tf_keras.Input((2,))
    ours, theirs = (
        keras.Model(x, layers.Dense(1)(x)),
        tf_keras.Model(y, tf_keras.layers.Dense(1)(y)),
    )
    for model, kind in ((ours, keras), (theirs, tf_keras)):
        things = [model, model.layers[1], model.layers[1].kernel, next(compat.calls_in(model))]
        things += [model.output, kind.optimizers.SGD()]
        assert [compat.keras_of(thing) for thing in things] == [kind] * 6
        assert [compat.is_keras3(thing) for thing in things] == [kind is keras] * 6
        assert [compat.is_layer(each) for each in things] == [True, True, *[False] * 4]
        assert [compat.is_model(each) for each in things] == [True, *[False] * 5]
        assert [compat.is_variable(each) for each in things[:4]] == [False, False, True, False]


@pytest.mark.e2e
@pytest.mark.skipif(
    importlib.util.find_spec("openvino") is not None, reason="openvino is installed"
)
def test_a_backend_that_is_not_installed_gets_one_sentence():
    done = subprocess.run(
        [sys.executable, "-c", "import lottery_tf; lottery_tf.wrap"],
        env={**os.environ, "KERAS_BACKEND": "openvino"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "UsageError: Expected Keras 3 with its chosen backend" in done.stderr


def test_layer_classes():
    assert compat.layer_classes("Dense") == (tf_keras.layers.Dense, layers.Dense)
    of_one_alone = (tf_keras.layers.ThresholdedReLU,)
    assert compat.layer_classes("ThresholdedReLU") == of_one_alone


def test_held_variables_have_public_names():
    dense, norm = layers.Dense(2), layers.BatchNormalization()
    for layer in (dense, norm):
        layer.build((None, 3))
    assert set(compat.held_variables(dense)) == {"kernel", "bias"}
    assert compat.held_variables(dense)["kernel"] is dense.kernel
    assert set(compat.held_variables(norm)) == {"gamma", "beta", "moving_mean", "moving_variance"}
    with compat.in_place_of(dense, {"kernel": ops.ones((3, 2))}):
        np.testing.assert_array_equal(dense(np.ones((1, 3))), [[3, 3]])
    assert dense.kernel is compat.held_variables(dense)["kernel"]
    assert len(dense.trainable_variables) == 2


def test_what_is_frozen_was_made_to_be_trained():
    layer = layers.BatchNormalization()
    layer.build((None, 2))
    before = [id(each) for each in compat.listed_weights(layer)]
    layer.trainable = False
    assert [id(each) for each in compat.listed_weights(layer)] == before
    assert [each.name for each in compat.made_trainable(layer)] == ["gamma", "beta"]
    model = mlp(layers)
    names = trainable_names(model)
    model.trainable = False
    assert trainable_names(model) == names == {n for n in values(model) if "moving" not in n}


def test_variables_that_are_given_to_a_call():
    variable = keras.Variable(np.ones((2, 2)))
    x = keras.Input((2,))
    (node,) = compat.calls_in(keras.Model(x, ops.matmul(x, variable)))
    assert [id(each) for each in compat.given_to(node)] == [id(variable)]
    (_, given), named = compat.arguments_of(node)
    assert given is variable and named == {}
    assert compat.function_of(compat.layer_of(node)) == "Matmul"
    assert compat.function_of(layers.Dense(1)) is None


def test_the_memory_of_an_optimizer():
    model = mlp(layers)
    optimizer = keras.optimizers.AdamW(0.1)
    assert compat.weights_known_to(optimizer) == {}
    assert compat.place_of(optimizer, model.trainable_variables[1]) is None
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma"])
    assert sorted(compat.undecayed(optimizer)[1]) == ["bias", "gamma"]
    compat.build_for(optimizer, model.trainable_variables)
    assert compat.place_of(optimizer, model.trainable_variables[1]) == 1
    assert compat.place_of(optimizer, keras.Variable(1.0)) is None


# The graph and its copies


def test_calls_of_layers_and_functions():
    model = CASES["nested"].build()
    found, outputs = calls(model)
    assert [call.path for call in found] == [
        "block/half/dense",
        "block/half/relu",
        "block/dense",
        "block/add()",
        "dense",
    ]
    assert [call.path for call in outputs] == ["dense"]
    assert [before.path for before in found[3].before] == ["block/half/relu", "block/dense"]


@pytest.mark.parametrize("name", CASES)
def test_a_copy_computes_the_same_and_shares_nothing(name):
    case = CASES[name]
    model = case.build()
    expected = keras.tree.flatten(model(case.x))
    copy = rebuild(model, copy_layer)
    assert list(named_layers(copy)) == list(named_layers(model))
    assert copy.output_names == model.output_names
    for one, other in zip(expected, keras.tree.flatten(copy(case.x)), strict=True):
        np.testing.assert_array_equal(one, other)
    for variable in named_variables(copy).values():
        variable.assign(variable + 1)
    for one, other in zip(expected, keras.tree.flatten(model(case.x)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.to_json() == json.dumps(json.loads(model.to_json()))


def test_what_a_layer_calls_within_its_call_is_copied_with_its_variables():
    """Such a PReLU is built when it first computes."""
    model = chain(layers.Dense(3, activation=layers.PReLU(), name="dense"))
    x = -np.ones((1, 4), np.float32)
    model(x)
    model.get_layer("dense").activation.alpha.assign([0.5, 2.0, 3.0])
    copy = rebuild(model, copy_layer)
    assert_same(values(copy), values(model))
    np.testing.assert_array_equal(copy(x), model(x))


def test_a_copy_of_a_compiled_model_is_not_compiled():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(np.ones((2, 4)), np.ones((2, 3)), verbose=0)
    assert not rebuild(model, copy_layer).compiled


def test_a_function_of_ones_own_is_called_twice_by_one_object():
    class Halve(keras.Operation):
        def call(self, x):
            return x / 2

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    halve, inputs = Halve(), keras.Input((2,))
    model = keras.Model(inputs, halve(layers.Dense(2, name="d")(halve(inputs))))
    x = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(rebuild(model, copy_layer)(x), model(x))


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_lambdas_come_along_as_they_are():
    """With what they refer to, which their code alone would lose."""
    two = keras.Variable(2.0, trainable=False)
    model = chain(
        layers.Lambda(lambda x, by: ops.multiply(x, two) + by, arguments={"by": 1.0}),
        layers.Dense(2, activation=lambda x: ops.abs(x), name="d"),
    )
    copy = rebuild(model, copy_layer)
    assert copy.layers[1].function is model.layers[1].function
    x = -np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(copy(x), model(x))
    with pytest.raises(UsageError, match="the model has a Lambda layer or a lambda function"):
        from_json(to_json(model))


def test_layers_at_one_path_become_one():
    model = CASES["shared"].build()
    paths = layer_paths(model)
    again = copy_with_paths(keras.models.model_from_json(model.to_json()), paths)
    assert layer_paths(again) == paths
    assert again.count_params() == model.count_params()
    assign(again, values(model))
    for one, other in zip(again(CASES["shared"].x), model(CASES["shared"].x), strict=True):
        np.testing.assert_array_equal(one, other)


def tied_by(how):
    first = layers.Dense(4, use_bias=False, name="first")
    inputs = keras.Input((4,))
    x = first(inputs)
    if how == "held":
        last = layers.Dense(4, use_bias=False, name="last")
        outputs = last(x)
        last._untrack_variable(last._kernel)
        last._tracker.unlock()
        last._kernel = first._kernel
    elif how == "variable":
        outputs = ops.matmul(x, first.kernel)
    elif how == "lambda":
        outputs = layers.Lambda(lambda y: ops.matmul(y, first.kernel), output_shape=(4,))(x)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("how", ["held", "variable", "lambda"])
def test_tied_weights_are_refused(how):
    with pytest.raises(UsageError, match="with weights of their own") as error:
        rebuild(tied_by(how), copy_layer)
    assert str(error.value).count(". ") <= 1  # what was found, and what to do


# Descriptions


@pytest.mark.parametrize("name", CASES)
def test_a_description_gives_the_same_model(name):
    case = CASES[name]
    model = case.build()
    again = from_json(to_json(model))
    assert isinstance(again, keras.Model)
    assert layer_paths(again) == layer_paths(model)
    assign(again, values(model))
    assert_same(values(again), values(model))
    for one, other in zip(
        keras.tree.flatten(again(case.x)), keras.tree.flatten(model(case.x)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_functions_of_keras_are_data():
    model = chain(
        layers.Dense(2, activation=ops.relu, name="d"),
        layers.Activation(keras.activations.gelu),
        layers.Dense(2, activation="swish", kernel_regularizer="l2", dtype="mixed_float16"),
    )
    model = keras.Model(model.inputs, keras.activations.relu(model.output, max_value=0.1))
    again = from_json(to_json(model))
    assign(again, values(model))
    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(again(x), model(x))


def described(change):
    """The description of a model with something else in its Dense layer."""
    description = json.loads(to_json(keras.Sequential([keras.Input((4,)), layers.Dense(2)])))
    change(description["config"]["layers"][1])
    return json.dumps(description)


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.update(module="os", class_name="system", registered_name=None),
        lambda it: it.update(class_name="Lambda"),
        lambda it: it.update(class_name="TFSMLayer", config={"filepath": "a"}),
        lambda it: it.update(class_name="TorchModuleWrapper"),
        lambda it: it.update(class_name="JaxLayer"),
        lambda it: it.update(module="keras.utils", class_name="get_file"),
        lambda it: it.update(module="keras.src.ops.numpy", class_name="broadcast_shapes"),
        lambda it: it.update(module="keras.src.ops.function", class_name="Function"),
        lambda it: it.update(module="keras.src.utils.file_utils", class_name="get_file"),
        lambda it: it.update(module="mine", class_name="Mine", registered_name="mine>Mine"),
        lambda it: it["config"].update(activation=function("keras.utils", "get_file")),
        lambda it: it["config"].update(activation=function("builtins", "exec")),
        lambda it: it["config"].update(activation=function("os", "system")),
        lambda it: it["config"].update(activation=function("keras.saving", "load_model")),
        lambda it: it["config"].update(
            activation={"class_name": "__lambda__", "config": {"value": ["x", None, None]}}
        ),
        lambda it: it["config"].update(
            activation={"class_name": "__typespec__", "config": [], "module": "os"}
        ),
    ],
)
def test_nothing_else_is_made_from_a_description(change, monkeypatch):
    monkeypatch.setattr(keras.models, "model_from_json", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(UsageError, match="Expected layers") as error:
        from_json(described(change))
    assert "division" not in str(error.value)


def test_classes_of_ones_own_are_passed():
    class Mine(layers.Layer):
        def call(self, x):
            return x

    text = to_json(chain(layers.Dense(2), Mine()))
    with pytest.raises(UsageError, match="pass custom_objects="):
        from_json(text)
    assert isinstance(from_json(text, {"Mine": Mine}).layers[-1], Mine)


def test_the_values_of_one_keras_are_assigned_to_the_other():
    ours = mlp(layers)
    theirs = tf_keras.Sequential(
        [
            tf_keras.Input((4,)),
            tf_keras.layers.Dense(6, activation="relu", name="first"),
            tf_keras.layers.BatchNormalization(name="norm"),
            tf_keras.layers.Dense(5, activation="relu", name="second"),
            tf_keras.layers.Dense(3, name="head"),
        ]
    )
    assign(theirs, values(ours))
    assert_same(values(theirs), values(ours))
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(theirs(x), ours(x), rtol=1e-5)
    assert tf.is_tensor(ours(x))


class Scaled(keras.layers.Layer):
    """As LayerScale of ConvNeXt: its weights have no names."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones")
        self.beta = self.add_weight(shape=(shape[-1],), initializer="zeros")

    def call(self, inputs):
        return inputs * self.gamma + self.beta


def test_weights_without_names_are_known_by_their_place():
    """Keras counts them through the process, so that those of a copy are called otherwise."""
    x = keras.Input((2,))
    scaled = Scaled(name="b")(Scaled(name="a")(layers.Dense(3, name="d")(x)))
    model = keras.Model(x, layers.Dense(2, name="head")(scaled))
    names = [f"{layer}/{name}" for layer in "ab" for name in ("variable", "variable_1")]
    ticket = lt.prune(model, "omp", 0.5)
    finished = lt.strip(ticket.build())
    assert named_variables(finished).keys() == named_variables(model).keys()
    for name in names:
        np.testing.assert_array_equal(named_variables(finished)[name], named_variables(model)[name])
