"""Without tf_keras and tfmot all of the Keras 3 part is there."""

import os
import subprocess
import sys

import keras
import pytest

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.absent import absent_keras

WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Without(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("tf_keras", "tensorflow_model_optimization"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Without())

import keras
import numpy as np
import tensorflow as tf
import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras as absent

layers = keras.layers
x, y = np.random.default_rng(0).normal(size=(24, 6, 6, 1)).astype("float32"), np.arange(24) % 3
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
model = keras.Sequential([
    keras.Input((6, 6, 1)),
    layers.Conv2D(4, 3, padding="same", activation="relu", name="first"),
    layers.Conv2D(4, 3, padding="same", activation="relu", name="second"),
    layers.Flatten(),
    layers.Dense(3, name="head"),
])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for method in ("imp", "gmp", "snip", "synflow"):
    ticket = lt.find_ticket(
        model, data, optimizer=keras.optimizers.SGD(0.1), loss=loss, epochs=1, method=method,
        sparsity=0.5, rounds=None,
    )
    assert abs(ticket.sparsity - 0.5) < 0.01
ticket.save(sys.argv[1] + "/ticket")
ticket = lt.Ticket.load(sys.argv[1] + "/ticket")
recipe = lt.Recipe("tost,distillation", {"distillation_teacher": model})
prepared = recipe.prepare(ticket.build(), data)
prepared.compile(keras.optimizers.SGD(0.1), recipe.loss())
prepared.fit(data, epochs=5, callbacks=recipe.callbacks(), verbose=0)
finished = recipe.finish(prepared)
assert lt.inspect(ticket).kept
assert lt.count_flops(finished)
assert lt.export(finished, sys.argv[1] + "/export", x)["max_abs_difference"] <= 1e-5
try:
    absent.layers.Dense(3)
except UsageError as error:
    assert "tf_keras.layers.Dense; No module named 'tf_keras': install tf-keras" in str(error)
else:
    raise AssertionError
assert not {"tf_keras", "tensorflow_model_optimization"} & sys.modules.keys()
"""


@pytest.mark.e2e
def test_keras_3_alone(tmp_path):
    # tfmot, where it is imported, sets it for all that comes after.
    env = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    command = [sys.executable, "-c", WITHOUT, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_names_are_there_and_of_nothing():
    absent = absent_keras("No module named 'tf_keras'")
    dense = absent.layers.Dense
    assert dense is absent.layers.Dense and isinstance(dense, type)
    assert not isinstance(keras.layers.Dense(3), dense | absent.Model)
    assert absent.saving.register_keras_serializable("lottery_tf")(dense) is dense

    class Ours(dense):
        pass

    for used in (Ours, dense, absent.losses.get):
        with pytest.raises(UsageError, match="No module named 'tf_keras': install tf-keras and "):
            used(3)

    class OfBoth(keras.callbacks.Callback, absent.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.made = True

    assert OfBoth().made
