"""Inputs that a model cannot take are refused in a sentence, before anything is computed."""

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from networks import both_kerases

import lottery_tf as lt
from lottery_tf.graph.compat import keras
from lottery_tf.graph.fit_data import batches

LABELS = np.arange(8) % 3


def images(*shape):
    return np.zeros((8, *shape), "float32")


def network(of, **size):
    return of.Sequential(
        [
            of.Input((4, 4, 1), name="image"),
            of.layers.Conv2D(2, 3, **size),
            of.layers.Flatten(),
            of.layers.Dense(3),
        ],
        name="net",
    )


WRONG = {
    "size": (images(5, 5, 1), "(None, 5, 5, 1) float32"),
    "channels": (images(4, 4, 3), "(None, 4, 4, 3) float32"),
    "flat": (images(16), "(None, 16) float32"),
    "texts": (np.array(["a"] * 8), "(None,) string"),
    "two inputs": ([images(4, 4, 1)] * 2, "(None, 4, 4, 1) float32 and (None, 4, 4, 1) float32"),
}
ENTRIES = {
    "find_ticket, train_data": lambda model, data: found(model, data),
    "find_ticket, dev_data": lambda model, data: found(model, (images(4, 4, 1), LABELS), data),
    "prune, data": lambda model, data: lt.prune(model, "snip", 0.5, data),
    "prepare, data": lambda model, data: lt.Recipe("rescaled_init").prepare(model, data),
    "signal, data": lt.signal,
}


def found(model, data, dev_data=None):
    sizes = {"epochs": 1, "rounds": 1, "verbose": 0}
    return lt.find_ticket(model, data, optimizer="sgd", dev_data=dev_data, **sizes)


@both_kerases
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("wrong", WRONG)
def test_inputs_of_another_kind_are_refused_by_all_that_takes_data(wrong, entry, its_keras):
    inputs, told = WRONG[wrong]
    what = entry.partition(", ")[2]
    sentence = (
        f"Expected {what} whose inputs fit the model 'net', which takes (None, 4, 4, 1) float32; "
        f"theirs are {told}: "
        + (
            "a tuple is (inputs, labels), a list is several inputs."
            if "and" in told
            else "change the data, or the model's Input."
        )
    )
    with pytest.raises(lt.UsageError) as error:
        ENTRIES[entry](network(its_keras), (inputs, LABELS))
    assert str(error.value) == sentence


@both_kerases
def test_inputs_by_name_need_the_names_of_the_model(its_keras):
    ends = [its_keras.Input((2,), name=name) for name in ("left", "right")]
    model = its_keras.Model(ends, its_keras.layers.Concatenate()(ends), name="net")
    parts = {"left": images(2), "right": images(2)}
    batches((parts, LABELS), model, "data")
    with pytest.raises(lt.UsageError, match="theirs are 'left' .* and 'rigth' ") as error:
        batches(({"left": images(2), "rigth": images(2)}, LABELS), model, "data")
    assert "takes 'left' (None, 2) float32 and 'right' (None, 2) float32" in str(error.value)


def test_what_keras_takes_all_the_same_is_taken():
    """Keras 3 runs a convolutional network on images of any size."""
    whole = network(keras3)
    model = keras3.Sequential([keras3.Input((4, 4, 1)), keras3.layers.Conv2D(2, 3)])
    batches((images(5, 5, 1), LABELS), model, "data")
    with pytest.raises(lt.UsageError, match="whose inputs fit"):
        batches((images(5, 5, 1), LABELS), whole, "data")


@both_kerases
def test_inputs_of_unknown_shape_are_left_to_the_training(its_keras):
    spec = tf.TensorSpec(None), tf.TensorSpec(None, tf.int64)
    data = tf.data.Dataset.from_generator(
        lambda: [(images(4, 4, 1), LABELS)], output_signature=spec
    )
    assert batches(data, network(its_keras), "data") is data


@both_kerases
def test_swapped_arrays_are_not_taken_for_single_examples(its_keras):
    model = its_keras.Sequential([its_keras.Input((4,)), its_keras.layers.Dense(3)])
    with pytest.raises(lt.UsageError, match=r"theirs are \(None,\) int64: change the data"):
        batches((LABELS, images(4)), model, "data")


@both_kerases
def test_one_input_by_another_name_is_refused_as_by_keras(its_keras):
    data = tf.data.Dataset.from_tensors(({"image": images(4)}, LABELS))
    model = its_keras.Sequential([its_keras.Input((4,), name="x"), its_keras.layers.Dense(3)])
    with pytest.raises(lt.UsageError, match=r"takes 'x' .* theirs are 'image' \(8, 4\) float32"):
        batches(data, model, "data")


def test_a_layer_that_decides_by_a_tensor_is_called_as_keras_calls_it():
    class Doubling(keras.layers.Layer):
        def call(self, x):
            if tf.reduce_sum(x) > 0:
                return 2 * x
            return x

    inputs = {"a": keras.Input((4,), name="x")}
    model = keras.Model(inputs, Doubling()(inputs["a"]))
    data = tf.data.Dataset.from_tensors(({"a": images(4)}, LABELS))
    assert batches(data, model, "data") is data
