"""Tickets of Keras 3 on JAX are those that it draws on TensorFlow, given the same weights.

A process has one backend: JAX's is another one.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.e2e
METHODS = ("imp", "gmp", "random")
OPTIMIZERS = ("SGD", "Adam", "Nadam", "Ftrl", "Lamb")
DRAW = """
import json, sys, warnings
import keras
import numpy as np
import tensorflow as tf
import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.layers import named_variables

warnings.simplefilter("ignore")
layers, out = keras.layers, sys.argv[1]
random = np.random.default_rng(0)
x, y = random.normal(size=(36, 6, 6, 1)).astype("float32"), random.integers(0, 3, 36)
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(6)


def network():
    random = np.random.default_rng(1)
    image = keras.Input((6, 6, 1))
    h = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(image)
    h = layers.ReLU()(layers.BatchNormalization(momentum=0.5, name="norm")(h))
    h = keras.ops.relu(layers.Conv2D(4, 3, padding="same", name="second")(h) + h)
    model = keras.Model(image, layers.Dense(3, name="head")(layers.Flatten()(h)))
    for name, variable in named_variables(model).items():
        variable.assign(abs(random.normal(1, 0.1, variable.shape)) if "norm" in name
                        else random.normal(0, 0.3, variable.shape))
    return model


found = {}
for method in sys.argv[2].split(","):
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 18)
    tickets = list(lt.find_tickets(
        network(), data, optimizer=keras.optimizers.SGD(schedule, momentum=0.9), epochs=3,
        dev_data=data, sparsity=0.5, method=method, rewind_to="2it", steps_per_execution=2,
    ))
    found[method] = [[each.info["dev_loss"], each.masks.sparsity] for each in tickets]
    np.savez(f"{out}/{method}.npz", **tickets[-1].masks)
tickets[-1].save(f"{out}/ticket")
assert lt.inspect(lt.Ticket.load(f"{out}/ticket")).kept == tickets[-1].masks.kept
print(json.dumps(found))

for name in sys.argv[3].split(","):
    model = tickets[-1].build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(getattr(keras.optimizers, name)(0.01), loss)
    model.fit(x, y, batch_size=12, epochs=2, verbose=0)
    for weight, mask in lt.get_masks(model).items():
        value = named_variables(model)[weight].numpy()
        assert not value[~mask].any() and value[mask].any(), (name, weight)
        assert np.isfinite(value).all(), (name, weight)
# In 16 bits the optimizer is within another one; each round begins anew all the same.
keras.config.set_dtype_policy("mixed_float16")
model = network()
keras.config.set_dtype_policy("float32")
half = list(lt.find_tickets(model, data, optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
                            epochs=1, rounds=2, rewind="learning_rate"))
for before, after in zip(half[:-1], half[1:]):
    for name, mask in after.masks.items():
        assert (before.weights[name] != after.weights[name])[mask].any(), (before.info, name)

model = tickets[-1].build()
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(x, y, batch_size=12, verbose=0)
# What comes back is trained again, in a step that was compiled before.
lt.set_masks(model, lt.Masks({n: np.ones(m.shape, bool) for n, m in lt.get_masks(model).items()}))
before = {n: v.numpy().copy() for n, v in named_variables(model).items()}
model.fit(x, y, batch_size=12, verbose=0)
for weight, mask in tickets[-1].masks.items():
    assert mask.all() or (named_variables(model)[weight].numpy() != before[weight])[~mask].any()
plain = lt.strip(model)
np.testing.assert_allclose(plain.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
if keras.backend.backend() != "tensorflow":
    for what in (
        lambda: lt.prune(network(), "snip", 0.5, data),
        lambda: lt.prune(network(), "synflow", 0.5),
        lambda: lt.Recipe("tost").prepare(network(), data),
        lambda: lt.signal(network(), data),
        lambda: lt.export(network(), f"{out}/never"),
    ):
        try:
            what()
        except UsageError as error:
            assert "Expected Keras 3 on TensorFlow for" in str(error), error
        else:
            raise AssertionError
"""


def drawn(backend, out):
    out.mkdir()
    words = [sys.executable, "-c", DRAW, str(out), ",".join(METHODS), ",".join(OPTIMIZERS)]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    environment.pop("TF_USE_LEGACY_KERAS", None)  # which tfmot sets
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_both_backends_draw_the_same_tickets(tmp_path):
    pytest.importorskip("jax", reason="jax is not installed: it comes with the extra [test]")
    by_tensorflow, by_jax = (drawn(each, tmp_path / each) for each in ("tensorflow", "jax"))
    for method in METHODS:
        np.testing.assert_allclose(by_jax[method], by_tensorflow[method], rtol=2e-4)
        with (
            np.load(tmp_path / "jax" / f"{method}.npz") as one,
            np.load(tmp_path / "tensorflow" / f"{method}.npz") as other,
        ):
            for name in other.files:
                np.testing.assert_array_equal(one[name], other[name], err_msg=method)
