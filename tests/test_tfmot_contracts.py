"""What tensorflow-model-optimization promises of pruning, and its own tests look at, is true here.

Each contract is of models of both Kerases, in our words: ``prune_low_magnitude`` is ``lt.prune``
or ``lt.wrap``, ``strip_pruning`` is ``lt.strip``. Not ours are: layers that are wrapped in place
(copies are made here), the callback without which tfmot does not train, its policies, and a layer
alone in the place of a model. Schedules are in finding/test_gmp, structures in
masks/test_structure.
"""

import numpy as np
import pytest
import tensorflow as tf
from networks import (
    KERASES,
    assert_same,
    assert_zeros,
    both_kerases,
    chain,
    examples,
    mlp,
    values,
)

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.masks.prunable import prunable_weights
from lottery_tf.masks.prune_by_mask import get_masks
from lottery_tf.masks.settings import PrunableSettings

# As tfmot's: no layer is left dense for its place, and embeddings are pruned.
AS_TFMOT = PrunableSettings(
    prune_layers=("conv", "dense", "recurrent", "attention", "embedding"), keep_dense=()
)
AS_ARGUMENTS = {"prune_layers": AS_TFMOT.prune_layers, "keep_dense": AS_TFMOT.keep_dense}

# Name → (a layer of a Keras, the shape of an example). All kinds that tfmot's registry prunes, and
# some of those that it knows and leaves.
IMAGE, VOLUME, ROW, STEPS = (6, 6, 2), (4, 4, 4, 2), (5,), (4, 3)
LAYERS = {
    "Dense": (lambda k: k.Dense(3), ROW),
    "Conv1D": (lambda k: k.Conv1D(3, 2), STEPS),
    "Conv2D": (lambda k: k.Conv2D(3, 2), IMAGE),
    "Conv2DTranspose": (lambda k: k.Conv2DTranspose(3, 2), IMAGE),
    "Conv3D": (lambda k: k.Conv3D(3, 2), VOLUME),
    "Conv3DTranspose": (lambda k: k.Conv3DTranspose(3, 2), VOLUME),
    "SeparableConv1D": (lambda k: k.SeparableConv1D(3, 2), STEPS),
    "SeparableConv2D": (lambda k: k.SeparableConv2D(3, 2), IMAGE),
    "DepthwiseConv2D": (lambda k: k.DepthwiseConv2D(2), IMAGE),
    "Embedding": (lambda k: k.Embedding(7, 3), ROW),
    "LocallyConnected1D": (lambda k: k.LocallyConnected1D(3, 2), STEPS),
    "LocallyConnected2D": (lambda k: k.LocallyConnected2D(3, 2), IMAGE),
    "LSTM": (lambda k: k.LSTM(3), STEPS),
    "GRU": (lambda k: k.GRU(3), STEPS),
    "SimpleRNN": (lambda k: k.SimpleRNN(3), STEPS),
    "RNN of a cell": (lambda k: k.RNN(k.GRUCell(3)), STEPS),
    "RNN of cells": (lambda k: k.RNN([k.LSTMCell(3), k.SimpleRNNCell(2)]), STEPS),
    "BatchNormalization": (lambda k: k.BatchNormalization(), ROW),
    "LayerNormalization": (lambda k: k.LayerNormalization(), ROW),
    "Dropout": (lambda k: k.Dropout(0.5), ROW),
    "Flatten": (lambda k: k.Flatten(), IMAGE),
    "MaxPooling2D": (lambda k: k.MaxPooling2D(), IMAGE),
}


def alone(its_keras, name):
    make, shape = LAYERS[name]
    return its_keras.Sequential([its_keras.Input(shape), make(its_keras.layers)])


def attending(its_keras):
    inputs = its_keras.Input(STEPS)
    outputs = its_keras.layers.MultiHeadAttention(2, 3)(inputs, inputs)
    return its_keras.Model(inputs, outputs)


@pytest.mark.parametrize("name", [*LAYERS, "MultiHeadAttention"])
def test_the_registrys_weights_are_prunable_and_no_others(name):
    """Of tf_keras the very variables that tfmot prunes; of Keras 3 those of the same names."""
    registry = pytest.importorskip(
        "tensorflow_model_optimization.python.core.sparsity.keras.prune_registry"
    ).PruneRegistry
    model = attending(keras) if name == "MultiHeadAttention" else alone(keras, name)
    layer = model.layers[-1]
    found = prunable_weights(model, AS_TFMOT)
    ours = sorted(map(tuple, found.values()))
    if name not in ("LSTM", "GRU", "SimpleRNN"):  # tfmot's own check is for another class of cells
        assert registry.supports(layer)
    theirs = registry.make_prunable(layer).get_prunable_weights()
    assert ours == sorted(tuple(each.shape) for each in theirs)
    other = KERASES["keras"]
    if hasattr(other.layers, name.partition(" ")[0]):
        twin = attending(other) if name == "MultiHeadAttention" else alone(other, name)
        assert sorted(map(tuple, prunable_weights(twin, AS_TFMOT).values())) == ours


LEFT = ("BatchNormalization", "LayerNormalization", "Dropout", "Flatten", "MaxPooling2D")
PRUNED = [
    pytest.param(name, its_keras, id=f"{name}-{which}")
    for which, its_keras in KERASES.items()
    for name in LAYERS
    if name not in (*LEFT, "DepthwiseConv2D")
    and hasattr(its_keras.layers, name.partition(" ")[0])  # Keras 3 has no LocallyConnected
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "its_keras"), PRUNED)
def test_a_layer_reaches_its_sparsity_and_stays_there(name, its_keras, untraced):
    model = alone(its_keras, name)
    total = sum(int(np.prod(shape)) for shape in prunable_weights(model, AS_TFMOT).values())
    ticket = lt.prune(model, "omp", 0.5, **AS_ARGUMENTS)
    assert ticket.masks.total == total and ticket.masks.kept == total - round(total / 2)
    built = ticket.build()
    built.compile(its_keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
    x = np.random.default_rng(0).uniform(0, 5, (4, *LAYERS[name][1])).astype(np.float32)
    built.fit(x, np.ones((4, *built.output_shape[1:])), epochs=2, verbose=0)
    assert_zeros(lt.strip(built), ticket.masks)


@pytest.mark.long
@both_kerases
def test_a_sparsity_of_zero_changes_nothing(its_keras, untraced):
    x, y = examples()
    found = []
    for wrapped in (False, True):
        its_keras.utils.set_random_seed(0)
        model = mlp(its_keras.layers)
        if wrapped:
            model = lt.prune(model, "omp", 0.0).build()
        model.compile(its_keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
        model.fit(x, np.eye(3)[y], epochs=2, verbose=0, shuffle=False)
        found.append(values(lt.strip(model)))
    assert_same(*found)


@both_kerases
@pytest.mark.parametrize("scope", ["global", "layerwise", "erk"])
def test_a_very_high_sparsity_leaves_a_weight_a_layer_where_asked(scope, its_keras):
    """tfmot keeps at least one, whatever the sparsity."""
    ticket = lt.prune(mlp(its_keras.layers), "omp", 0.999, scope=scope, min_kept=1)
    assert all(np.any(mask) for mask in ticket.masks.values())


@both_kerases
def test_wrapping_keeps_the_inference_and_the_built_state(its_keras):
    x, _ = examples()
    for model in (
        mlp(its_keras.layers),
        its_keras.Sequential([its_keras.Input((4,)), its_keras.layers.Dense(3)]),
    ):
        wrapped = lt.wrap(model, lt.Masks.ones(prunable_weights(model, AS_TFMOT)))
        assert wrapped.built and type(wrapped).__name__ == type(model).__name__
        np.testing.assert_array_equal(wrapped(x), model(x))
        stripped = lt.strip(wrapped)
        assert [type(each) for each in stripped.layers] == [type(each) for each in model.layers]
        assert not get_masks(stripped)
        np.testing.assert_array_equal(stripped(x), model(x))


@both_kerases
def test_a_wrapped_model_is_compiled_anew(its_keras):
    model = mlp(its_keras.layers)
    model.compile("sgd", "mse")
    assert getattr(lt.prune(model, "omp", 0.5).build(), "optimizer", None) is None


@both_kerases
def test_what_is_wrapped_is_not_wrapped_again(its_keras):
    model = lt.prune(mlp(its_keras.layers), "omp", 0.5).build()
    again = lt.prune(model, "omp", 0.75).build()
    assert len(get_masks(again)) == len(get_masks(model))
    assert all((get_masks(model)[name] | ~mask).all() for name, mask in get_masks(again).items())


@both_kerases
def test_a_layer_that_is_used_twice_has_one_mask(its_keras):
    shared, inputs = its_keras.layers.Dense(4, name="shared"), its_keras.Input((4,))
    model = its_keras.Model(inputs, shared(shared(inputs)))
    ticket = lt.prune(model, "omp", 0.5, **AS_ARGUMENTS)
    assert list(ticket.masks) == ["shared/kernel"]
    x = examples()[0]
    kernel, bias = lt.strip(ticket.build()).get_weights()
    assert np.count_nonzero(kernel) == 8
    np.testing.assert_allclose(
        ticket.build()(x), (x @ kernel + bias) @ kernel + bias, rtol=1e-5, atol=1e-6
    )


@both_kerases
def test_models_within_models_are_pruned(its_keras):
    inner = its_keras.Sequential([its_keras.Input((4,)), its_keras.layers.Dense(4, name="one")])
    outer = chain(inner, its_keras.layers.Dense(3, name="two"))
    names = list(prunable_weights(outer, AS_TFMOT))
    assert names == [f"{inner.name}/one/kernel", "two/kernel"]
    assert_zeros(lt.prune(outer, "omp", 0.5, **AS_ARGUMENTS).build(), {})


@both_kerases
def test_own_layers_are_pruned_where_they_say_so(its_keras):
    class Own(its_keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 4))
            self.scale = self.add_weight(name="scale", shape=(4,))

        def call(self, x):
            return its_keras.activations.relu(x @ self.kernel) * self.scale

    class Says(Own):
        def get_prunable_weights(self):
            return [self.kernel]

    silent = chain(Own(name="own"), its_keras.layers.Dense(3, name="head"))
    assert list(prunable_weights(silent, AS_TFMOT)) == ["head/kernel"]
    told = chain(Says(name="own"), its_keras.layers.Dense(3, name="head"))
    assert list(prunable_weights(told, AS_TFMOT)) == ["own/kernel", "head/kernel"]
    ticket = lt.prune(told, "omp", 0.5, **AS_ARGUMENTS)
    assert ticket.masks.kept == round(0.5 * ticket.masks.total)


@both_kerases
def test_what_is_no_graph_is_refused(its_keras):
    class Subclassed(its_keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = its_keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    for thing in (Subclassed(), object(), its_keras.Sequential([its_keras.layers.Dense(3)])):
        with pytest.raises(UsageError, match="^Expected a (Keras|Sequential|built)"):
            lt.prune(thing, "omp", 0.5)


@pytest.mark.long
@both_kerases
def test_a_stop_and_restart_keeps_the_zeros(its_keras, tmp_path, untraced):
    ticket = lt.prune(mlp(its_keras.layers), "omp", 0.5)
    x, y = examples()

    def trained(model):
        model.compile(its_keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
        model.fit(x, np.eye(3)[y], epochs=1, verbose=0)
        return model

    model = trained(ticket.build())
    model.save_weights(tmp_path / "w.weights.h5")
    restored = ticket.build()
    restored.load_weights(tmp_path / "w.weights.h5")
    model.save(tmp_path / "model.keras")
    loaded = its_keras.models.load_model(tmp_path / "model.keras")  # no scope is needed
    for again in (restored, loaded):
        assert_same(values(again), values(model))
        assert_zeros(trained(again), ticket.masks)


@both_kerases
def test_a_loop_of_ones_own_keeps_the_zeros(its_keras):
    ticket, (x, y) = lt.prune(mlp(its_keras.layers), "omp", 0.5), examples()
    model, optimizer = ticket.build(), its_keras.optimizers.Adam(0.1)
    loss = its_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for _ in range(2):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))
        assert_zeros(lt.strip(model), ticket.masks)
