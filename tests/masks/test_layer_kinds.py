"""Layers that hold their kernels in layers within them, and others of a kind of their own."""

import numpy as np
import pytest
import tensorflow as tf
from kinds_of_layers import KINDS, built, in_each
from networks import (
    EVERYTHING,
    KERASES,
    assert_same,
    assert_zeros,
    both_kerases,
    chain,
    cross_entropy,
    each_batch,
    random_masks,
    values,
)

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras, keras_of, tf_variable
from lottery_tf.graph.layers import named_variables
from lottery_tf.masks.prunable import KINDS as NAMES
from lottery_tf.masks.prunable import prunable_weights
from lottery_tf.masks.settings import PrunableSettings

each_kind = pytest.mark.parametrize(("name", "its_keras"), in_each())
# Those whose files differ in more than a number or the name of a class of the same making.
IN_FILES = (
    *("LSTM", "LSTM with a state", "LSTM shared", "GRU", "RNN of cells", "Bidirectional"),
    *("Bidirectional of two", "TimeDistributed", "TimeDistributed twice", "TimeDistributed LSTM"),
    *("ConvLSTM2D", "attention", "attention in groups", "Embedding", "LocallyConnected2D"),
)
# Those that a graph, or a SavedModel, could treat otherwise than each other.
DIFFERENT = (
    *("LSTM", "RNN of cells", "Bidirectional", "TimeDistributed LSTM", "ConvLSTM2D", "attention"),
    "LocallyConnected2D",
)


def by_hand(model, masks, x):
    """The outputs of a plain model with 0 in the place of what ``masks`` prune; it is left as it
    is."""
    variables = {name: named_variables(model)[name] for name in masks}
    before = {name: variable.numpy() for name, variable in variables.items()}
    for name, variable in variables.items():
        variable.assign(np.where(masks[name], before[name], 0))
    outputs = np.asarray(model(x))
    for name, variable in variables.items():
        variable.assign(before[name])
    return outputs


def train(model, x, callbacks=(), **options):
    k = keras_of(model)
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.SGD(0.1, momentum=0.9), loss, **options)
    model.fit(x, np.arange(4) % 3, batch_size=2, callbacks=callbacks, verbose=0)


@each_kind
def test_what_is_prunable(name, its_keras):
    kind, model = KINDS[name], built(name, its_keras)
    weights = [*kind.flops_in(its_keras)]
    assert list(prunable_weights(model)) == (weights if kind.by_default else [])
    assert list(prunable_weights(model, EVERYTHING)) == [*weights, "head/kernel"]
    for one in NAMES:
        alone = [*prunable_weights(model, PrunableSettings((one,), ()))]
        head = ["head/kernel"] if one == "dense" else []
        assert alone == (weights if one == kind.kind else []) + head
    variables = named_variables(model)
    shapes = prunable_weights(model, EVERYTHING).items()
    assert all(shape == tuple(variables[n].shape) for n, shape in shapes)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "its_keras", "eager"),
    [
        *((name, of, True) for name, of in in_each()),
        *(
            pytest.param(name, of, False, marks=pytest.mark.e2e)
            for name, of in in_each()
            if name in DIFFERENT
        ),
    ],
)
def test_masked_in_every_call_and_after_every_step(name, its_keras, eager):
    """In inference it is the plain layer with zeros, in training it has zeros after each step, and
    both come off as they went in."""
    kind, model = KINDS[name], built(name, its_keras)
    x, masks = kind.inputs(), random_masks(model)
    wrapped = lt.wrap(model, masks)
    assert lt.get_masks(wrapped) == masks and list(values(wrapped)) == list(values(model))
    # Weights that are not 0 are masked all the same.
    assert all(not values(wrapped)[weight][~mask].any() for weight, mask in masks.items())
    for weight in masks:
        named_variables(wrapped)[weight].assign(values(wrapped)[weight] + ~masks[weight])
    np.testing.assert_array_equal(wrapped(x), by_hand(model, masks, x))
    lt.set_masks(wrapped, masks)
    before = values(wrapped)

    watch = each_batch(
        lambda model: assert_zeros(model, masks, model.optimizer, slots=1), KERASES[its_keras]
    )
    train(wrapped, x, [watch], run_eagerly=eager)
    assert watch.calls == 2
    for weight in kind.flops_in(its_keras):
        assert (values(wrapped)[weight] != before[weight]).any(), weight
    stripped = lt.strip(wrapped)
    assert_same(values(stripped), values(wrapped))
    np.testing.assert_array_equal(stripped(x), wrapped(x))


@each_kind
def test_gradients_are_those_of_the_plain_layer_where_nothing_is_pruned(name, its_keras):
    kind, model = KINDS[name], built(name, its_keras)
    if "dropout" in name:
        pytest.skip("draws other numbers in a copy")
    x, found = kind.inputs(), []
    for each in (model, lt.wrap(model, lt.Masks.ones(prunable_weights(model, EVERYTHING)))):
        with tf.GradientTape() as tape:
            loss = cross_entropy(keras_of(model))(np.arange(4) % 3, each(x, training=True))
        weights = {n: v for n, v in named_variables(each).items() if v.trainable}
        gradients = tape.gradient(loss, [tf_variable(each) for each in weights.values()])
        found.append(dict(zip(weights, map(tf.convert_to_tensor, gradients), strict=True)))
    assert found[0].keys() == found[1].keys()
    for weight, gradient in found[0].items():
        np.testing.assert_allclose(found[1][weight], gradient, rtol=1e-5, atol=1e-7)
        assert np.any(gradient) or "bias" in weight, weight


@pytest.mark.long
@pytest.mark.parametrize(("name", "its_keras"), [each for each in in_each() if each[0] in IN_FILES])
def test_files_of_wrapped_models(name, its_keras, tmp_path):
    k, kind, model = KERASES[its_keras], KINDS[name], built(name, its_keras)
    x, masks = kind.inputs(), random_masks(model)
    wrapped = lt.wrap(model, masks)
    wrapped.save(tmp_path / "model.keras")
    loaded = k.models.load_model(tmp_path / "model.keras")
    assert lt.get_masks(loaded) == masks
    np.testing.assert_array_equal(loaded(x), wrapped(x))
    ticket = lt.Ticket.of(model, masks)
    ticket.save(tmp_path / "ticket")
    built_again = lt.Ticket.load(tmp_path / "ticket").build()
    np.testing.assert_array_equal(built_again(x), wrapped(x))


@pytest.mark.e2e
@pytest.mark.parametrize("name", DIFFERENT)
def test_saved_models_of_wrapped_models(name, tmp_path):
    model, x = built(name, "tf_keras"), KINDS[name].inputs()
    masks = random_masks(model)
    wrapped = lt.wrap(model, masks)
    wrapped.save(tmp_path / "model", save_format="tf")
    loaded = keras.models.load_model(tmp_path / "model")
    assert lt.get_masks(loaded) == masks
    np.testing.assert_array_equal(loaded(x), wrapped(x))


@each_kind
def test_facts_of_each_kind(name, its_keras):
    model = built(name, its_keras)
    masks = random_masks(model)
    facts = lt.inspect(lt.Ticket.of(model, masks))
    assert facts.unknown is None and facts.kept == masks.kept
    for row in facts.weights:
        assert row.flops_sparse == row.flops_dense * row.kept / max(masks[row.name].size, 1)


def own_layers(k):
    """A cell, and an attention layer that builds what it holds when it is called."""
    layers = k.layers

    class Cell(layers.Layer):
        """h + x · (w ⊙ v); v may not be pruned."""

        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = self.state_size = units

        def build(self, shape):
            shape = (shape[-1], self.units)
            self.w = self.add_weight(name="w", shape=shape, initializer="random_normal")
            self.v = self.add_weight(name="v", shape=shape, initializer="ones")

        def get_prunable_weights(self):
            return [self.w]

        def call(self, x, states):
            new = states[0] + x @ (self.w * self.v)
            return new, [new]

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    class Grouped(layers.Layer):
        """Its kernels are those of two EinsumDense, a list and a Sequential."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.query = layers.EinsumDense("abc,cd->abd", (None, 4))
            self.outer = k.Sequential([layers.Dense(4, "relu"), layers.Dense(4)])

        def build(self, shape):
            self.rest = [self.add_weight(name=f"r{i}", shape=(4, 4)) for i in range(2)]
            if k is not keras:
                self.query.build(shape)
                self.outer.build(shape)

        def get_prunable_weights(self):
            return [self.query.kernel, self.outer.layers[1].kernel, self.rest[1]]

        def call(self, x):
            return self.outer(self.query(x)) @ self.rest[0] @ self.rest[1]

    return Cell, Grouped


@both_kerases
@pytest.mark.parametrize("which", [0, 1], ids=["cell", "grouped"])
def test_layers_of_ones_own_say_what_is_prunable_within_them(which, its_keras):
    kind = own_layers(its_keras)[which]
    layers = its_keras.layers
    with its_keras.saving.custom_object_scope({kind.__name__: kind}):
        inputs = its_keras.Input((5, 4))
        layer = kind(name="it") if which else layers.RNN(kind(4, name="c"), name="it")
        model = its_keras.Model(inputs, layers.Dense(3, name="head")(layer(inputs)))
        names = list(prunable_weights(model))
        assert len(names) == (3 if which else 1) and all(name.startswith("it/") for name in names)
        masks, x = random_masks(model), np.ones((4, 5, 4), np.float32)
        wrapped = lt.wrap(model, masks)
        for weight in masks:
            named_variables(wrapped)[weight].assign(values(wrapped)[weight] + ~masks[weight])
        np.testing.assert_array_equal(wrapped(x), by_hand(model, masks, x))


@both_kerases
def test_what_is_no_attribute_cannot_be_masked(its_keras):
    class Hidden(its_keras.layers.Layer):
        def build(self, shape):
            w = self.add_weight(name="w", shape=(4, 4))
            self.get = lambda: w

        def get_prunable_weights(self):
            return [self.get()]

        def call(self, x):
            return x @ self.get()

    with pytest.raises(UsageError, match="'it' .Hidden. returns .*w.*: set it as an attribute"):
        prunable_weights(chain(Hidden(name="it"), its_keras.layers.Dense(2)))


@both_kerases
def test_a_weight_at_two_places_of_a_layer_is_masked_at_both(its_keras):
    class Twice(its_keras.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(name="w", shape=(4, 4))
            self.again = [self.w]

        def get_prunable_weights(self):
            return [self.w]

        def call(self, x):
            return x @ self.w + x @ self.again[0]

    with its_keras.saving.custom_object_scope({"Twice": Twice}):
        model = chain(Twice(name="it"), its_keras.layers.Dense(2))
        wrapped = lt.wrap(model, lt.Masks({"it/w": np.zeros((4, 4))}))
        named_variables(wrapped)["it/w"].assign(np.ones((4, 4)))
        assert not np.any(wrapped.layers[1](np.ones((1, 4), np.float32)))


@both_kerases
def test_a_stateful_layer_keeps_and_forgets_its_state(its_keras):
    layers = its_keras.layers
    inputs = its_keras.Input((2, 4), batch_size=1)
    outputs = layers.SimpleRNN(2, stateful=True, name="it")(inputs)
    model = its_keras.Model(inputs, layers.Dense(2)(outputs))
    masks = random_masks(model)
    wrapped = lt.wrap(model, masks)
    for name, mask in masks.items():
        variable = named_variables(model)[name]
        variable.assign(np.where(mask, variable.numpy(), 0))
    x, found = np.ones((1, 2, 4), np.float32), []
    for each in (model, wrapped):
        first, second = each.predict(x, verbose=0), each.predict(x, verbose=0)
        if its_keras is keras:
            each.reset_states()
        else:
            getattr(each.layers[1], "layer", each.layers[1]).reset_state()
        found.append([first, second, each.predict(x, verbose=0)])
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[1][0] != found[1][1]).any()
    np.testing.assert_array_equal(found[1][0], found[1][2])


@both_kerases
def test_a_regularizer_of_a_cells_kernel_sees_it_masked(its_keras):
    """½ of Σ|w| over the live weights of each kernel."""
    l1 = its_keras.regularizers.L1(0.5)
    layer = its_keras.layers.LSTM(2, kernel_regularizer=l1, recurrent_regularizer=l1, name="it")
    model = chain(layer, its_keras.layers.Dense(2), shape=(3, 4))
    masks = random_masks(model)
    wrapped = lt.wrap(model, masks)
    for weight in masks:
        named_variables(wrapped)[weight].assign(values(wrapped)[weight] + ~masks[weight])
    live = [np.abs(values(wrapped)[n][masks[n]]).sum() for n in masks if n.startswith("it/")]
    np.testing.assert_allclose(sum(map(float, wrapped.losses)), sum(live) / 2, rtol=1e-5)


@both_kerases
def test_a_part_in_another_precision_than_its_layer(its_keras):
    """What is of float32 within a layer of float16 reads its kernel in float32."""
    layers = its_keras.layers
    if its_keras is keras:
        layer = layers.TimeDistributed(layers.Dense(3, dtype="float32"), dtype="mixed_float16")
    else:
        layer = layers.RNN(layers.LSTMCell(3, dtype="float32"), dtype="mixed_float16")
    model = chain(layer, layers.Dense(2, dtype="float32"), shape=(3, 4))
    masks, x = random_masks(model), np.ones((2, 3, 4), np.float32) / 3
    wrapped = lt.wrap(model, masks)
    np.testing.assert_array_equal(wrapped(x), by_hand(model, masks, x))


@both_kerases
def test_a_wrapper_within_a_layer_is_refused(its_keras):
    """Its masks would count as weights."""
    layers = its_keras.layers
    inner = lt.wrap(chain(layers.Dense(3, name="d"), layers.Dense(2))).layers[1]
    model = chain(layers.TimeDistributed(inner, name="it"), layers.Dense(2), shape=(5, 4))
    with pytest.raises(UsageError, match="around whole layers; 'it' .TimeDistributed. holds a"):
        lt.wrap(model)


@both_kerases
def test_a_cell_of_two_layers_is_refused(its_keras):
    layers = its_keras.layers
    cell, inputs = layers.LSTMCell(2), its_keras.Input((5, 4))
    one, two = (layers.RNN(cell, name=name)(inputs) for name in ("one", "two"))
    model = its_keras.Model(inputs, layers.Dense(2)(layers.Add()([one, two])))
    with pytest.raises(UsageError, match="'two' of the model .* uses .*kernel, which 'one' holds"):
        lt.wrap(model)


@both_kerases
def test_masks_of_padding_reach_attention_and_recurrent_layers(its_keras):
    """Padded steps change nothing, masked or not."""
    layers = its_keras.layers
    inputs = its_keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True)(inputs)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.Bidirectional(layers.LSTM(2, unroll=True), name="lstm")(x)
    model = its_keras.Model(inputs, layers.Dense(2)(x))
    masks, words = random_masks(model), np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0]])
    wrapped = lt.wrap(model, masks)
    np.testing.assert_array_equal(wrapped(words), by_hand(model, masks, words))


def test_a_layer_compiled_by_xla():
    model = built("LSTM unrolled", "tf_keras")
    masks, x = random_masks(model), KINDS["LSTM"].inputs()
    wrapped = lt.wrap(model, masks)
    expected = wrapped(x)
    compiled = tf.function(wrapped, jit_compile=True)(tf.constant(x))
    np.testing.assert_allclose(compiled, expected, rtol=1e-5, atol=1e-6)
    train(wrapped, x, jit_compile=True)
    assert_zeros(wrapped, masks)


def own_objects(k):
    """(parameter, object) of classes that nobody has registered."""

    class Penalty(k.regularizers.Regularizer):
        def __init__(self, strength=1e-3):
            self.strength = strength

        def __call__(self, x):
            return self.strength * k.backend.sum(x * x) if k is keras else x[0, 0] ** 2

        def get_config(self):
            return {"strength": self.strength}

    class Ones(k.initializers.Initializer):
        def __call__(self, shape, dtype=None, **options):
            return tf.ones(shape, dtype or "float32")

    class Clip(k.constraints.Constraint):
        def __call__(self, w):
            return tf.clip_by_value(w, -1, 1)

    return {"regularizer": Penalty(), "initializer": Ones(), "constraint": Clip()}


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("what", ["regularizer", "initializer", "constraint"])
@pytest.mark.parametrize("kind", ["Dense", "LSTM"])
def test_objects_of_ones_own_need_not_be_registered(kind, what, its_keras):
    options = {f"kernel_{what}": own_objects(its_keras)[what]}
    layer = getattr(its_keras.layers, kind)(3, name="it", **options)
    model = chain(layer, its_keras.layers.Dense(2), shape=(4,) if kind == "Dense" else (5, 4))
    wrapped = lt.wrap(model)
    assert lt.get_masks(wrapped) and lt.strip(wrapped).get_layer("it").get_config().keys()
    assert_same(values(wrapped), values(model))


@both_kerases
def test_rows_of_zeros_do_not_make_an_embedding_a_pruned_one(its_keras):
    """A pretrained one has such for words that it does not know."""
    layers, inputs = its_keras.layers, its_keras.Input((5,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(3, 2, name="words")(inputs))
    model = its_keras.Model(inputs, layers.Dense(2)(layers.Dense(2, name="d")(x)))
    weights = named_variables(model)
    weights["d/kernel"].assign(np.eye(10, 2))
    for rows, expected in (([[1, 1], [0, 0], [1, 1]], 1), ([[1, 1], [0, 0], [1, 0]], 2)):
        weights["words/embeddings"].assign(np.array(rows, np.float32))
        masks = lt.Ticket.from_pruned(model).masks
        assert len(masks) == expected
    np.testing.assert_array_equal(masks["words/embeddings"], np.array(rows) == 1)
