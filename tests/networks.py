"""Small networks, masks for them, and what must hold of a masked one."""

import contextlib
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import lottery_tf as lt
from lottery_tf.graph.compat import keras, keras_of, tf_variable
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import named_variables
from lottery_tf.graph.optimizers import slots as slots_of
from lottery_tf.masks.prunable import prunable_weights
from lottery_tf.masks.settings import KINDS, PrunableSettings

layers = keras.layers
# For trainings on two devices. TensorFlow has to hear of it before it computes anything.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
# A test of both Kerases takes one as ``its_keras``.
KERASES = {"tf_keras": keras, "keras": keras3}
both_kerases = pytest.mark.parametrize("its_keras", KERASES.values(), ids=KERASES)
EVERYTHING = PrunableSettings(prune_layers=KINDS, keep_dense=())


def chain(*stack, shape=(4,)):
    """The functional model of a chain of layers, of either Keras."""
    its_keras = keras_of(stack[0])
    inputs = outputs = its_keras.Input(shape)
    for layer in stack:
        outputs = layer(outputs)
    return its_keras.Model(inputs, outputs)


def functions(its_keras):
    """The functions for the graphs of a Keras: those of ``keras.ops``, or TensorFlow's likewise."""
    if its_keras is keras3:
        return keras3.ops
    return SimpleNamespace(
        **{"softmax": tf.nn.softmax, "log_softmax": tf.nn.log_softmax, "sigmoid": tf.sigmoid},
        **{
            "relu": tf.nn.relu,
            "softplus": tf.nn.softplus,
            "cast": tf.cast,
            "clip": tf.clip_by_value,
            "matmul": tf.matmul,
        },
        **{"mean": tf.reduce_mean, "transpose": tf.transpose, "log": tf.math.log, "eye": tf.eye},
        **{"einsum": tf.einsum, "stack": tf.stack, "ones": tf.ones, "multiply": tf.multiply},
        **{"concatenate": tf.concat, "sum": tf.reduce_sum, "add": tf.add},
    )


def mlp(layers=layers, **last):
    """4 → 6 → 5 → 3, with BatchNorm; ``layers`` are those of a Keras."""
    return chain(
        layers.Dense(6, activation="relu", name="first"),
        layers.BatchNormalization(momentum=0.5, name="norm"),
        layers.Dense(5, activation="relu", name="second"),
        layers.Dense(3, name="head", **last),
    )


def opaque_of(its_keras):
    """A layer that cannot be made from its config."""

    class Opaque(its_keras.layers.Layer):
        def __init__(self, thing):
            super().__init__(name="opaque")

        def call(self, x):
            return x

    return Opaque


Opaque = opaque_of(keras)


def examples(count=12, shape=(4,), classes=3):
    """Inputs and integer labels."""
    random = np.random.default_rng(0)
    x = random.standard_normal((count, *shape)).astype(np.float32)
    return x, random.integers(0, classes, count)


def random_masks(model, share=0.5, settings=EVERYTHING, seed=0):
    """Masks that keep about ``share`` of the prunable weights of each layer, at least one."""
    random = np.random.default_rng(seed)
    masks = {}
    for name, shape in prunable_weights(model, settings).items():
        masks[name] = random.random(shape) < share
        masks[name].flat[0] = True
    return lt.Masks(masks)


def values(model):
    """Name → value of the model's variables, the masks left out."""
    return {name: variable.numpy() for name, variable in named_variables(model).items()}


def every_variable(model):
    """The values of all variables: weights, masks, optimizer's."""
    optimizer = getattr(model, "optimizer", None)
    found = [*model.variables, *(optimizer.variables if optimizer else [])]
    return [variable.numpy() for variable in found]


def assert_same(one, other):
    """Two lists or dictionaries of arrays are bit for bit the same."""
    assert len(one) == len(other)
    for key in one if isinstance(one, dict) else range(len(one)):
        np.testing.assert_array_equal(one[key], other[key], err_msg=str(key))


def assert_zeros(model, masks, optimizer=None, slots=None):
    """Pruned weights are exactly 0, and so is what the optimizer remembers of them.

    Args:
      slots: the number of slots that each weight must have; default: any.
    """
    variables = named_variables(model)
    for name, mask in masks.items():
        held = slots_of(optimizer, variables[name]).values()
        assert slots is None or len(held) == slots, (name, len(held))
        for variable in (variables[name], *held):
            assert not variable.numpy()[~mask].any(), (name, variable.name)


def assert_finite_and_moved(model, before):
    """Training went somewhere: each trainable variable has new, finite values."""
    for name, value in values(model).items():
        assert np.isfinite(value).all(), name
        assert "moving" in name or (value != before[name]).any(), name


def cross_entropy(its_keras):
    return its_keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def each_batch(check, its_keras):
    """A callback that calls a function after each batch of training, and counts them: ``calls``."""

    class EachBatch(its_keras.callbacks.Callback):
        calls = 0

        def on_train_batch_end(self, batch, logs=None):
            check(self.model)
            self.calls += 1

    return EachBatch()


def EachBatch(check):
    """The same of tf_keras."""
    return each_batch(check, keras)


def tape_step(model, x, y, loss, optimizer):
    """One step of a training loop by hand."""
    with tf.GradientTape() as tape:
        value = loss(y, model(x, training=True)) + sum(model.losses)
    variables = model.trainable_variables
    gradients = tape.gradient(value, [tf_variable(each) for each in variables])
    optimizer.apply_gradients(zip(gradients, variables, strict=True))


def prove_here(patch):
    """Exports are proved in this process: a fresh one spends seconds on importing TensorFlow."""
    from lottery_tf.exporting import proof, reload

    def outputs(artefacts, inputs, names):
        named = {proof.signature_name(name): array for name, array in inputs.items()}
        return [reload.run_all(str(artefact), named, names) for artefact in artefacts]

    patch.setattr(proof, "reloaded_outputs", outputs)


@contextlib.contextmanager
def eagerly(yes=True):
    """Runs what a graph would be made of, unless ``yes`` is false; a decorator too.

    Tracing costs more than a few steps, and proves nothing where the graph is not the subject.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(yes)
    try:
        with warnings.catch_warnings():
            # That what tf.data maps is a graph all the same.
            warnings.filterwarnings("ignore", "Even though the .*run_functions_eagerly")
            yield
    finally:
        tf.config.run_functions_eagerly(before)


def keys_of_its_own():
    """For the next strategy, as in TensorFlow's own tests.

    What was summed over devices under a key has its shape in this process from then on.
    """
    tf.distribute.MirroredStrategy._collective_key_base += 100


def two_devices():
    """A strategy of two replicas."""
    keys_of_its_own()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def replicas(variable):
    """The values of a variable, of either Keras, on each device."""
    variable = tf_variable(variable)
    return [copy.numpy() for copy in getattr(variable, "values", [variable])]
