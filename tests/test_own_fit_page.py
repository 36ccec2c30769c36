"""docs/own_fit.md: its programs run, and what it says of the order of data is so."""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from networks import both_kerases

import lottery_tf as lt

PAGE = (Path(__file__).parents[1] / "docs" / "own_fit.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.e2e
@pytest.mark.parametrize("line", ["import keras", "import tf_keras as keras"])
def test_a_training_from_step_k(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(BLOCKS[0].replace("import keras", line, 1), names)
    assert names["k"] == names["steps_per_epoch"] == 56
    optimizer = names["optimizer"]
    assert int(optimizer.iterations.numpy()) == names["steps"] - names["k"]
    assert float(np.asarray(optimizer.learning_rate)) == pytest.approx(0, abs=1e-6)
    kernel = names["final"].layers[0].kernel.numpy()
    (mask,) = names["ticket"].masks.values()
    assert np.all(kernel[~mask] == 0)
    stateless = [[labels.numpy() for _, labels in names["batches"](0)] for _ in range(2)]
    np.testing.assert_array_equal(*stateless)


@pytest.mark.e2e
def test_a_loop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(BLOCKS[1], {})
    names = {}
    exec(BLOCKS[2], names)
    assert type(names["final"].layers[0]).__name__ == "Dense" and names["value"] < 2.3


def shuffled():
    return tf.data.Dataset.range(32).shuffle(32, seed=0).batch(32)


def orders(data, count=3):
    return [tuple(next(iter(data)).numpy()) for _ in range(count)]


def test_each_reading_of_a_shuffled_dataset_has_another_order():
    data = shuffled()
    first, again = orders(data), orders(data)
    assert len({*first, *again}) == 6
    assert orders(shuffled()) == first
    assert len(set(orders(shuffled().map(lambda x: x)))) == 3
    same = tf.data.Dataset.range(32).shuffle(32, seed=0, reshuffle_each_iteration=False).batch(32)
    assert len(set(orders(same))) == 1
    tf.random.set_seed(7)
    assert orders(shuffled()) != first


@both_kerases
def test_the_orders_that_fit_sees(its_keras):
    """Which readings are those of its epochs: from the second on, or every other one."""
    seen = []

    def note(rows):
        seen.append(tuple(rows))
        return rows.astype(np.float32)

    def noted(rows):
        values = tf.ensure_shape(tf.numpy_function(note, [rows], tf.float32), (32,))
        return values[:, None], values[:, None]

    model = its_keras.Sequential([its_keras.Input((1,)), its_keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    data = shuffled().map(noted)
    for _ in range(2):
        model.fit(data, epochs=2, verbose=0)
    readings = orders(shuffled(), 7)
    places = [readings.index(each) for each in seen]
    assert places == ([0, 2, 4, 6] if its_keras.__name__ == "keras" else [1, 2, 4, 5])


@pytest.mark.parametrize("shuffles", [True, False])
def test_the_orders_that_rounds_see(shuffles, all_eager):
    """A dataset that shuffles gives each round orders of its own; arrays, the same."""
    seen = []

    class Noting(tf_keras.layers.Layer):
        def call(self, x, training=None):
            if training:
                tf.numpy_function(lambda rows: seen.append(tuple(rows[:, 0])), [x], [])
            return x

    layers = [Noting(), tf_keras.layers.Dense(3, "relu"), tf_keras.layers.Dense(2)]
    model = tf_keras.Sequential([tf_keras.Input((1,)), *layers])
    x, y = np.arange(32.0, dtype=np.float32)[:, None], np.zeros(32, np.int64)
    data = (x, y)
    if shuffles:
        data = tf.data.Dataset.from_tensor_slices(data).shuffle(32, seed=0).batch(32)
    settings = {"optimizer": tf_keras.optimizers.SGD(0.0), "epochs": 2, "rounds": 1}
    lt.find_ticket(model, data, metrics=None, jit_compile=False, **settings)
    assert len(seen) == 4 and len(set(seen)) == (4 if shuffles else 2)
    assert (seen[:2] == seen[2:]) is not shuffles
