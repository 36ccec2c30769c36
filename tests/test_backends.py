"""Keras 3 on JAX and on torch does what it does on TensorFlow, given the same weights.

A process has one backend, so that each of the three has one of its own, in which all runs: most of
its time would go into starting it.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

pytestmark = pytest.mark.e2e
BEGINNING = """
import json, os, sys, warnings
import keras
import numpy as np
import tensorflow as tf
import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.exporting.exports import write_exports
from lottery_tf.finding.scores.network import Network
from lottery_tf.graph.layers import named_variables

warnings.simplefilter("ignore")
layers, out = keras.layers, sys.argv[1]
backend = keras.backend.backend()
random = np.random.default_rng(0)
x, y = random.normal(size=(36, 6, 6, 1)).astype("float32"), random.integers(0, 3, 36)
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(6)
found = {}


def network(strides=1):
    random = np.random.default_rng(1)
    image = keras.Input((6, 6, 1))
    h = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(image)
    h = layers.ReLU()(layers.BatchNormalization(momentum=0.5, name="norm")(h))
    if strides == 1:
        h = keras.ops.relu(layers.Conv2D(4, 3, padding="same", name="second")(h) + h)
    else:
        h = keras.ops.relu(layers.Conv2D(6, 3, strides, name="second")(h))
        h = layers.Conv2D(6, 3, padding="same", activation="relu", name="third")(h)
    model = keras.Model(image, layers.Dense(3, name="head")(layers.Flatten()(h)))
    for name, variable in named_variables(model).items():
        variable.assign(abs(random.normal(1, 0.1, variable.shape)) if "norm" in name
                        else random.normal(0, 0.3, variable.shape))
    return model


def is_refused(what, sentence):
    try:
        what()
    except UsageError as error:
        assert sentence in str(error), error
    else:
        raise AssertionError(sentence)


"""
FINDING = """
for method, settings in (
    ("imp", {"sparsity": 0.4}), ("gmp", {"sparsity": 0.4}), ("imp", {"structure": "2:4"}),
    ("gmp", {"sparsity": 0.4, "structure": "channel", "min_kept": 1}),
):
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 18)
    tickets = list(lt.find_tickets(
        network(), data, optimizer=keras.optimizers.SGD(schedule, momentum=0.9), epochs=2,
        dev_data=data, method=method, rewind_to="2it", steps_per_execution=2, **settings,
    ))
    name = f"{method} {settings.get('structure', '')}".strip().replace(":", "_")
    found[name] = [[each.info["dev_loss"], each.masks.sparsity] for each in tickets]
    np.savez(f"{out}/{name}.npz", **tickets[-1].masks)
tickets[-1].save(f"{out}/ticket")
assert lt.inspect(lt.Ticket.load(f"{out}/ticket")).kept == tickets[-1].masks.kept
found["flops"] = [int(each) for each in lt.count_flops(network()).values()]
for name in ("Adam", "Ftrl"):
    model = tickets[-1].build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(getattr(keras.optimizers, name)(0.01), loss)
    model.fit(x, y, batch_size=12, verbose=0)
    for weight, mask in lt.get_masks(model).items():
        value = keras.ops.convert_to_numpy(named_variables(model)[weight])
        assert not value[~mask].any() and value[mask].any(), (name, weight)
        assert np.isfinite(value).all(), (name, weight)
# In 16 bits the optimizer is within another one; each round begins anew all the same.
keras.config.set_dtype_policy("mixed_float16")
model = network()
keras.config.set_dtype_policy("float32")
half = list(lt.find_tickets(model, data, optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
                            epochs=1, rounds=1, rewind="learning_rate"))
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
"""
TWEAKS = """
ticket = lt.prune(network(2), "omp", 0.5)
teacher = network(2)
plain_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for name, settings in [
    ("tost", {"rescaled_init_iterations": 6}),
    ("soft_activation,ghost_skips,rescaled_init", {
        "soft_activation_unit": "mish", "soft_activation_curve": "cosine",
        "ghost_skips_fade": "drop", "ghost_skips_shortcut": "conv",
        "rescaled_init_iterations": 6, "rescaled_init_optimizer": "adam"}),
    ("distillation,label_smoothing", {"distillation_teacher": teacher}),
]:
    recipe = lt.Recipe(name, settings)
    np.random.seed(0)
    model = recipe.prepare(ticket.build(), data)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), recipe.loss())
    history = model.fit(
        data, epochs=2, callbacks=recipe.callbacks(), validation_data=data, verbose=0)
    done = recipe.finish(model)
    weights = named_variables(done)
    for each, mask in ticket.masks.items():
        assert not weights[each].numpy()[~mask].any(), (name, each)
    assert [type(each) for each in done.layers] == [type(each) for each in network(2).layers]
    np.testing.assert_array_equal(done.predict(x, verbose=0), model.predict(x, verbose=0))
    found[f"{name} learned"] = [[*each["loss"], *each["norm"], *each["scales"].values()]
                                for each in [recipe.learned(model).get("rescaled_init")] if each]
    if "ghost_skips_fade" not in settings:  # which the backend draws
        values = {each: np.abs(weights[each].numpy()).sum().tolist() for each in weights}
        found[name] = {**history.history, **values}
# What is compiled anew trains by the new loss.
model = lt.Recipe("soft_activation").prepare(network(2))
for loss in (plain_loss, lambda y, p: keras.ops.sum(p * 0.0, -1) + 7.0):
    model.compile(keras.optimizers.SGD(0.0), loss)
    losses = model.fit(data, verbose=0).history["loss"]
np.testing.assert_allclose(losses, 7.0)
# Neither teacher nor smoothing is in what is evaluated.
plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
expected = float(plain(y, done.predict(x, verbose=0)))
np.testing.assert_allclose(history.history["val_loss"][-1], expected, rtol=1e-5)

wrong = tf.data.Dataset.from_tensor_slices((x, y + 1)).batch(6)
recipe = lt.Recipe("label_smoothing")
model = recipe.prepare(network(2))
model.compile("sgd", recipe.loss())
try:
    losses = model.fit(wrong, verbose=0).history["loss"]
except Exception as error:
    assert "Expected labels" in str(error), error
else:
    assert backend == "jax" and np.isnan(losses).all()
kept = lt.Recipe("soft_activation,ghost_skips",
                 {"soft_activation_keep": True, "ghost_skips_keep": True})
model = kept.prepare(network(2))
np.testing.assert_allclose(kept.finish(model).predict(x, verbose=0), model.predict(x, verbose=0),
                           atol=1e-5)
if backend != "tensorflow":
    import tf_keras
    other = tf_keras.Sequential([tf_keras.Input((6, 6, 1)), tf_keras.layers.Flatten(),
                                 tf_keras.layers.Dense(3)])
    is_refused(lambda: lt.Distillation(teacher=other).prepare(network()),
               "Expected a teacher of Keras 3")
    is_refused(lambda: lt.Distillation(teacher=teacher).with_logits(data),
               "Expected Keras 3 on TensorFlow for")
"""
LOOKING = """
for method in ("snip", "grasp"):
    ticket = lt.prune(network(), method, 0.5, data, batches=3)
    np.savez(f"{out}/{method}.npz", **ticket.masks)
scored = Network(lt.wrap(network()), data, batches=2)
gradient = scored.gradient(2.0)
product = scored.hessian_product(gradient, 2.0)
found["derivatives"] = [np.abs(each).sum() for found_ in (gradient, product)
                        for each in found_.values()]
scored = Network(lt.wrap(network()), data)
scored.gradient()
lt.set_masks(scored.model, ticket.masks)  # which no step that was compiled before may keep
for name, each in scored.gradient().items():
    assert not each[~ticket.masks[name]].any(), name
seen = lt.signal(ticket.build(), ((x[i:i + 6], y[i:i + 6]) for i in (0, 6, 12)), batches=3)
found["of a generator"] = seen.loss
words = keras.Sequential([keras.Input((5, 4)), layers.LSTM(2, name="lstm"), layers.Dense(3)])
assert [*lt.prune(words, "omp", 0.5).masks] == ["lstm/kernel", "lstm/recurrent_kernel"]
for batches in (1, 2):
    seen = lt.signal(ticket.build(), data, batches=batches)
    found[f"signal {batches}"] = [each for row in seen.layers
                                  for each in (row.activations, row.gradient)]
    found[f"signal {batches}"] += [seen.loss, seen.inputs]
wrong = tf.data.Dataset.from_tensor_slices((x, y + 1)).batch(6)
narrow = data.map(lambda x, y: (x[:, :4], y))
sized = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 3, name="conv"),
                          layers.GlobalAveragePooling2D(), layers.Dense(3)])
larger = np.linspace(0, 1, 432, dtype="float32").reshape(12, 6, 6, 1), np.arange(12) % 3
assert lt.prune(sized, "snip", 0.5, larger).sparsity == 0.5  # as fit takes them
for what in (
    lambda given: lt.signal(network(), given),
    lambda given: lt.prune(network(), "snip", 0.5, given),
    lambda given: lt.RescaledInit(iterations=3).prepare(network(), given),
):
    is_refused(lambda: what(wrong), "Expected labels that are classes of the model")
    is_refused(lambda: what(narrow), "Expected data whose inputs fit the model")

facts = write_exports(ticket.build(), f"{out}/export", ["keras"], images=x, labels=y)["keras"]
assert facts["max_abs_difference"] <= 1e-6 and 0 <= facts["test_accuracy"] <= 1
found["parameters"] = [facts["parameters"], facts["nonzero_parameters"]]
loaded = keras.models.load_model(f"{out}/export/model.keras")
np.testing.assert_allclose(loaded.predict(x, verbose=0),
                           lt.strip(ticket.build()).predict(x, verbose=0), atol=1e-6)
if backend != "tensorflow":
    is_refused(lambda: lt.prune(network(), "synflow", 0.5), "Expected Keras 3 on TensorFlow for")
    is_refused(lambda: lt.export(network(), f"{out}/never"), "Expected Keras 3 on TensorFlow for")
    is_refused(lambda: write_exports(network(), f"{out}/never", ["keras", "tflite"], images=x),
               "Expected Keras 3 on TensorFlow for")
    assert not os.path.exists(f"{out}/never")
"""
SCRIPT = f"{BEGINNING}{FINDING}{TWEAKS}{LOOKING}print(json.dumps(found))"


def ran(backend, out):
    out.mkdir()
    words = [sys.executable, "-c", SCRIPT, str(out)]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    environment.pop("TF_USE_LEGACY_KERAS", None)  # which tfmot sets
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def by_tensorflow(tmp_path_factory):
    """The numbers on TensorFlow, and the folder of what it wrote."""
    folder = tmp_path_factory.mktemp("by") / "tensorflow"
    return ran("tensorflow", folder), folder


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_backend_does_what_tensorflow_does(backend, request, tmp_path):
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: it comes with the extra [backends]")
    (expected, theirs), mine = request.getfixturevalue("by_tensorflow"), tmp_path / backend
    found = ran(backend, mine)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        parts = values.items() if isinstance(values, dict) else [(name, values)]
        got = found[name] if isinstance(values, dict) else {name: found[name]}
        for part, value in parts:
            np.testing.assert_allclose(got[part], value, 2e-4, 1e-5, err_msg=f"{name} {part}")
    for file in theirs.glob("*.npz"):
        with np.load(file) as one, np.load(mine / file.name) as other:
            for name in one.files:
                np.testing.assert_array_equal(one[name], other[name], err_msg=file.name)
