"""What an experiment asks of its model and data."""

import types

import pytest
from networks import chain

from lottery_tf.common.errors import UsageError
from lottery_tf.graph import layers as graph_layers
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.runs.experiment import check_data


def data(shape=(4,), classes=3):
    return types.SimpleNamespace(input_shape=shape, num_classes=classes, name="digits")


def test_a_model_has_the_shapes_of_the_data(of):
    model = chain(of.layers.Dense(3))
    check_data(model, data(), "ticket")
    for other in (data((5,)), data(classes=4)):
        with pytest.raises(UsageError, match="the ticket has inputs and outputs"):
            check_data(model, other, "ticket")


def test_the_commands_compute_by_tensorflow(monkeypatch):
    """As find, retrain, evaluate, inspect and export ask it of a ticket's or a file's model."""
    monkeypatch.setattr(graph_layers, "on_tensorflow", lambda model: False)
    monkeypatch.setattr(graph_layers, "backend_of", lambda model: "JAX")
    with pytest.raises(
        UsageError, match="on TensorFlow for the commands, got Keras 3 on JAX: set KERAS"
    ):
        check_data(chain(keras3.layers.Dense(3)), data(), "ticket")
