"""What is private in tf_keras, tfmot and TensorFlow does what the library takes it to do."""

import ast
import contextlib
import inspect
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from networks import both_kerases, chain, examples, layers, mlp

import lottery_tf
from lottery_tf.graph import compat, keras3
from lottery_tf.graph.compat import keras
from lottery_tf.masks.prune_by_mask import PruneByMask


def compiled(optimizer="sgd", **kwargs):
    model = mlp()
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(True), **kwargs)
    return model


def test_nothing_else_imports_private_modules():
    """Those of both Kerases, TensorFlow and tfmot that their own documentation does not have."""
    private = ("tf_keras.src", "tf_keras.protobuf", "tensorflow.python", "tensorflow.core")
    private += ("tensorflow_model_optimization.python", "keras.src")
    root = Path(lottery_tf.__file__).parent
    for path in root.rglob("*.py"):
        if path not in (root / "graph" / "compat.py", root / "graph" / "keras3.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in node.names]
                    names.append(getattr(node, "module", None) or "")
                    assert not any(name.startswith(private) for name in names), (path, names)
                if isinstance(node, ast.Attribute):
                    assert node.attr != "__internal__", path


def test_is_graph_network():
    class Own(keras.Model):
        pass

    assert compat.is_graph_network(mlp())
    assert not compat.is_graph_network(Own())
    assert not compat.is_graph_network(keras.Sequential([layers.Dense(1)]))


def test_input_layers_come_in_the_order_of_the_inputs():
    one, other = keras.Input((2,), name="one"), keras.Input((3,), name="other")
    model = keras.Model([other, one], layers.Concatenate()([one, other]))
    assert [layer.name for layer in compat.input_layers(model)] == ["other", "one"]
    chained = keras.Sequential([keras.Input((2,), name="first"), layers.Dense(1)])
    assert [layer.name for layer in compat.input_layers(chained)] == ["first"]


def test_parts_of():
    inner = layers.Dense(1)
    outer = layers.TimeDistributed(inner)
    assert list(compat.parts_of(outer)) == [outer, inner]


def test_listed_weights_do_not_hang_on_what_is_frozen():
    layer = layers.BatchNormalization()
    layer.build((None, 2))
    before = [id(each) for each in compat.listed_weights(layer)]
    layer.trainable = False
    assert [id(each) for each in compat.listed_weights(layer)] == before
    assert len(before) == 4


def test_rename():
    layer = layers.Dense(1, name="old")
    compat.rename(layer, "new")
    assert layer.name == "new" and layer.get_config()["name"] == "new"


@both_kerases
def test_what_keras_sets_on_models(its_keras):
    model = chain(its_keras.layers.Dense(3))
    model.compile("sgd", "mse", metrics=["mse"])
    model.fit(np.ones((4, 4)), np.ones((4, 3)), verbose=0)
    model._of_a_user = model.theirs = 1
    assert set(vars(model)) - compat.set_by_keras(model) == {"_of_a_user", "theirs"}


def test_the_vocabulary_is_what_was_adapted():
    layer = layers.StringLookup(output_mode="tf_idf")
    assert compat.vocabulary_of(layer) == {} == compat.vocabulary_of(layers.Dense(1))
    layer.adapt([["a", "b"], ["a", "c"]])
    found = compat.vocabulary_of(layer)
    assert found["vocabulary"][0] == "a" and sorted(found["vocabulary"]) == ["a", "b", "c"]
    again = layers.StringLookup.from_config({**layer.get_config(), **found})
    np.testing.assert_array_equal(again([["a", "x"]]), layer([["a", "x"]]))


def test_takes():
    assert compat.takes(layers.Dropout(0.5)) == {"training": True, "mask": False}
    assert compat.takes(layers.LSTM(1)) == {"training": True, "mask": True}
    assert compat.takes(layers.Dense(1)) == {"training": False, "mask": False}


def test_take_call_of():
    """What is given by place is in the description of a model then."""

    @keras.saving.register_keras_serializable("test_compat")
    class Times(layers.Layer):
        def call(self, x, factor, training=None):
            return x * factor

    @keras.saving.register_keras_serializable("test_compat")
    class Any(layers.Wrapper):
        def call(self, inputs, *args, **kwargs):
            return self.layer(inputs, *args)

    for taken in (False, True):
        layer = Any(Times())
        if taken:
            compat.take_call_of(layer, layer.layer)
        inputs = keras.Input((2,))
        config = keras.Model(inputs, layer(inputs, inputs + 1)).get_config()
        kwargs = config["layers"][-1]["inbound_nodes"][0][0][3]
        assert ("factor" in kwargs) == taken


def test_take_input_shape():
    first, taker = layers.Dense(1, input_shape=(3,)), layers.Dense(2)
    compat.take_input_shape(taker, first)
    assert keras.Sequential([taker]).input_shape == (None, 3)


def test_an_unconverted_call_has_the_layers_within_converted():
    class Branches(layers.Layer):
        def call(self, x):
            if tf.reduce_sum(x) > 0:
                return x
            return -x

    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Branches()

        @compat.unconverted
        def call(self, x):
            seen.append(inspect.currentframe().f_code.co_name)
            return self.inner(x)

    seen = []
    model = chain(Outer(), shape=(1,))
    assert model.predict([[-2.0]], verbose=0) == 2 and len(seen) == 2 and {*seen} == {"call"}
    assert tf.function(model)(tf.constant([[-2.0]])) == 2 and {*seen} == {"call"}


def test_regularize_instead():
    layer = layers.Dense(1, kernel_regularizer=keras.regularizers.L1(1.0))
    layer.build((None, 3))
    layer.kernel.assign([[1.0], [2.0], [3.0]])
    compat.regularize_instead(layer, layer.bias, lambda: tf.constant(100.0))
    assert float(layer.losses[0]) == 6
    compat.regularize_instead(layer, layer.kernel, lambda: layer.kernel * [[1.0], [0.0], [0.0]])
    assert float(layer.losses[0]) == 1


def test_in_place_of():
    layer = layers.Dense(1, use_bias=False)
    layer.build((None, 2))
    layer.kernel.assign([[1.0], [2.0]])
    kernel, x = layer.kernel, tf.ones((1, 2))
    with pytest.raises(RuntimeError), compat.in_place_of(layer, {"kernel": kernel * 0}):
        assert float(layer(x)[0, 0]) == 0
        raise RuntimeError
    assert layer.kernel is kernel and float(layer(x)[0, 0]) == 3
    assert [id(each) for each in layer.weights] == [id(kernel)]


def test_moments_by():
    layer = layers.BatchNormalization(epsilon=0.0)
    layer.build((None, 1))
    compat.moments_by(layer, lambda inputs, axes, keep_dims: (tf.ones(1), tf.fill(1, 4.0)))
    np.testing.assert_allclose(layer(tf.constant([[3.0], [5.0]]), training=True), [[1.0], [2.0]])


def test_calls_in_come_in_the_order_of_computation():
    model = chain(layers.Dense(2, name="one"), layers.ReLU(name="two"), layers.Dense(1, name="end"))
    assert [node.layer.name for node in compat.calls_in(model)] == ["one", "two", "end"]


@pytest.mark.parametrize("its_keras", [keras, keras3.keras], ids=["tf_keras", "Keras 3"])
def test_what_a_call_takes_and_makes(its_keras):
    """y + 2 x: one call is of a tensor and a number, the other of a list."""

    class Times(its_keras.layers.Layer):
        def call(self, given, factor):
            return given * factor

    x, y = its_keras.Input((2,), name="x"), its_keras.Input((2,), name="y")
    double, add = Times(), its_keras.layers.Add()
    model = its_keras.Model([x, y], add([y, double(x, factor=2.0)]))
    first, second = compat.calls_in(model)
    assert [compat.layer_of(node) for node in (first, second)] == [double, add]
    assert [id(each) for each in compat.inputs_of(first)] == [id(x)]
    (doubled,) = compat.outputs_of(first)
    assert [id(each) for each in compat.inputs_of(second)] == [id(y), id(doubled)]
    assert compat.producer_of(doubled) is double and compat.call_of(doubled) is first

    def seen(*args, **kwargs):
        return args, kwargs

    named = {id(x): "x", id(y): "y", id(doubled): "2 x"}
    again = [compat.called_again(node, seen, lambda t: named[id(t)]) for node in (first, second)]
    assert again == [(("x",), {"factor": 2.0}), ((["y", "2 x"],), {})]
    one, other = compat.ends_of(model)
    assert [id(each) for each in one] == [id(x), id(y)] and id(other) == id(model.output)


def test_variables_that_are_given_to_a_call():
    variable = tf.Variable(tf.ones((2, 2)))
    x = keras.Input((2,))
    model = keras.Model(x, tf.matmul(x, variable))
    (node,) = compat.calls_in(model)
    assert [id(each) for each in compat.given_to(node)] == [id(variable)]


def test_input_like():
    given = keras.Input((3,), batch_size=2, dtype="int32", name="given")
    new = compat.input_like(compat.producer_of(given))
    assert new is not given and compat.producer_of(new) is not compat.producer_of(given)
    assert compat.producer_of(new).get_config() == compat.producer_of(given).get_config()


def test_has_losses():
    model = mlp()
    assert not compat.has_losses(model)
    model.add_loss(tf.reduce_mean(model.output))
    assert compat.has_losses(model)


def test_producers_and_calls_of_tensors():
    """A shared layer is called twice; each tensor knows its own call."""
    one, other, shared = keras.Input((2,)), keras.Input((2,)), layers.Dense(1)
    first, second = shared(one), shared(other)
    assert compat.producer_of(first) is compat.producer_of(second) is shared
    assert compat.call_of(first).keras_inputs[0] is one
    assert compat.call_of(second).keras_inputs[0] is other


def only_computing():
    """A layer of each kind that is known to compute alone, and inputs for it."""
    of = {
        (6,): (
            *(
                layers.Dense(3),
                layers.Dropout(0.5),
                layers.LayerNormalization(),
                layers.LeakyReLU(),
            ),
            *(layers.PReLU(), layers.ReLU(), layers.Reshape((2, 3)), layers.Softmax()),
            *(layers.Activation("tanh"), layers.BatchNormalization()),
        ),
        (6, 2): (
            *(layers.Conv1D(3, 2), layers.GlobalAveragePooling1D(), layers.MaxPooling1D()),
            *(layers.Flatten(),),
        ),
        (6, 6, 2): (
            *(layers.AveragePooling2D(), layers.Conv2D(3, 3), layers.Conv2DTranspose(3, 2)),
            *(layers.DepthwiseConv2D(2), layers.GlobalAveragePooling2D(), layers.MaxPooling2D()),
            *(layers.GlobalMaxPooling2D(), layers.SeparableConv2D(3, 2), layers.ZeroPadding2D()),
        ),
        (3, 3, 3, 1): (layers.Conv3D(2, 2),),
    }
    cases = [(layer, keras.Input(shape)) for shape, some in of.items() for layer in some]
    merging = layers.Add(), layers.Concatenate(), layers.Multiply()
    return [*cases, *((layer, [keras.Input((2,)), keras.Input((2,))]) for layer in merging)]


def kept_by(layer):
    """What a layer and its parts keep, as far as it can be compared."""
    simple = (bool, int, float, str, tuple, tf.TensorSpec, tf.TensorShape, type(None))
    return [
        {name: value if isinstance(value, simple) else type(value) for name, value in held.items()}
        for held in map(vars, compat.parts_of(layer))
    ]


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "wrapped"])
def test_called_as_another_a_layer_is_what_keras_makes_of_it(wrapped):
    """Its variables, what it keeps, its outputs, and where that leaves the random numbers."""
    cases = only_computing()
    assert {type(layer) for layer, _ in cases} == compat._ONLY_COMPUTE
    for layer, inputs in cases:
        output = layer(inputs)
        assert compat.only_computes(layer)
        if wrapped and not hasattr(layer, "kernel"):
            continue

        def made(known, layer=layer, inputs=inputs):
            keras.utils.set_random_seed(0)
            new = type(layer).from_config(layer.get_config())
            new = PruneByMask(new) if wrapped else new
            with compat.called_as(new, layer) if known else contextlib.nullcontext():
                output = new(inputs)
            draws = keras.initializers.RandomNormal()((2,)).numpy(), tf.random.uniform((2,)).numpy()
            weights = [(each.name, each.trainable, each.numpy()) for each in new.weights]
            return output.type_spec, kept_by(new), str(weights), str(draws)

        known = made(True)
        assert known == made(False) and known[0] == output.type_spec, layer.name


def test_called_as_another_the_code_of_a_layer_does_not_run():
    class Counts(layers.Layer):
        calls = 0

        def call(self, x):
            Counts.calls += 1
            return x

    old, new, inputs = Counts(), Counts(), keras.Input((2,))
    old(inputs)
    with compat.called_as(new, old):
        output = new(inputs)
    assert Counts.calls == 1 and new.built and compat.producer_of(output) is new
    with compat.called_as(new, old):
        assert new(keras.Input((3,))).shape == (None, 3)  # the other was not called so
        assert new(keras.Input((2,), dtype="float64")).dtype == "float32"
        new(layers.Masking()(inputs))
    assert Counts.calls == 4
    new(inputs)
    assert Counts.calls == 5


def test_what_is_not_known_to_compute_alone():
    class Own(layers.Dense):
        pass

    with_layer = layers.Dense(1, activation=layers.ReLU())
    another_call = layers.Dense(1)
    another_call.call = print
    regularized = layers.Dense(1, activity_regularizer="l2")
    for layer in (Own(1), with_layer, another_call, regularized, layers.Lambda(abs)):
        assert not compat.only_computes(layer), layer
    assert compat.only_computes(layers.Dense(1))


def test_the_rate_of_an_optimizer():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    optimizer = keras.optimizers.SGD(schedule)
    assert compat.rate_of(optimizer) is schedule
    with compat.rate_replaced(optimizer, 0.5):
        assert optimizer.get_config()["learning_rate"] == 0.5
    assert compat.rate_of(optimizer) is schedule
    assert float(compat.rate_of(keras.optimizers.SGD(0.25))) == 0.25


def test_undecayed():
    optimizer = keras.optimizers.AdamW()
    assert compat.undecayed(optimizer) == (False, [])
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert compat.undecayed(optimizer) == (False, ["bias"])
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_list=[tf.Variable(1.0)])
    assert compat.undecayed(optimizer)[0]


def test_places_of_weights():
    weights, optimizer = [tf.Variable(1.0), tf.Variable([2.0])], keras.optimizers.Adam()
    assert compat.weights_known_to(optimizer) == {}
    assert compat.place_of(optimizer, weights[1]) is None
    compat.build_for(optimizer, weights)
    assert list(compat.weights_known_to(optimizer).values()) == [0, 1]
    assert [compat.place_of(optimizer, each) for each in weights] == [0, 1]
    assert compat.place_of(optimizer, tf.Variable(1.0)) is None
    of_keras = {name for name in vars(optimizer) if compat.is_list_of_keras(name)}
    assert sorted(len(vars(optimizer)[name]) for name in of_keras) == [2, len(optimizer.variables)]


def test_the_memory_of_an_optimizer():
    weight = tf.Variable([1.0, 2.0])
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 10))
    optimizer.apply_gradients([(tf.constant([1.0, 1.0]), weight)])
    rates = [name for name in vars(optimizer) if compat.is_rate(name)]
    assert [vars(optimizer)[name] for name in rates] == [compat.rate_of(optimizer)]
    assert compat.is_rate(f"{rates[0]}/schedule") and not compat.is_rate("iterations")
    assert not compat.is_no_memory("_momentums") and not compat.is_no_memory("_iterations")
    # The rate of a schedule is a variable that each step computes anew.
    (current,) = (
        part
        for name, part in vars(optimizer).items()
        if compat.is_no_memory(name) and isinstance(part, tf.Variable)
    )
    assert float(current) == pytest.approx(0.1)


def test_a_legacy_optimizer_is_built():
    weight, optimizer = tf.Variable([1.0]), keras.optimizers.legacy.SGD(momentum=0.9)
    compat.build_for(optimizer, [weight])
    assert optimizer.get_slot(weight, "momentum").shape == (1,)


def test_steps_per_execution_and_their_count():
    model = compiled(steps_per_execution=3)
    assert int(compat.steps_per_execution(model).numpy()) == 3
    x, y = examples(12)
    calls = []

    def two_batches(iterator):
        calls.append(next(iterator))
        compat.count_steps(model, tf.constant(3, tf.int32))
        return {"loss": tf.constant(7.0)}

    compat.train_by(model, two_batches)
    assert model.fit(x, y, batch_size=2, verbose=0).history["loss"] == [7.0]
    assert len(calls) == 2 and int(model._train_counter) == 6


def test_without_averages():
    weight = tf.Variable(1.0)
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    optimizer.build([weight])
    optimizer.apply_gradients([(tf.constant(1.0), weight)])
    with compat.without_averages(optimizer):
        optimizer.finalize_variable_values([weight])
    assert float(weight) == 0
    optimizer.finalize_variable_values([weight])
    assert float(weight) == 0.5


def test_gradients_are_added_in_order(monkeypatch):
    context = compat.context.context()
    monkeypatch.setattr(context, "_config", vars(context)["_config"])
    compat.add_gradients_in_order()
    options = context.config.graph_options.rewrite_options
    assert options.memory_optimization == options.SWAPPING_HEURISTICS
    monkeypatch.undo()
    tf.config.optimizer.set_experimental_options({})
    options = context.config.graph_options.rewrite_options
    assert options.memory_optimization == options.DEFAULT_MEM_OPT


def test_inner_variable():
    layer = layers.Dense(1, dtype="mixed_float16")
    layer.build((None, 1))
    assert compat.inner_variable(layer.kernel).dtype == tf.float32
    assert compat.inner_variable(tf.Variable(1.0)) is None


def test_symbols():
    assert compat.symbol("math.add").__module__ == "tensorflow.python.ops.math_ops"
    assert compat.symbol("math.no_such") is None
    assert isinstance(compat.symbol("keras.layers.Dense"), type)


def test_names_that_keras_finds():
    assert compat.is_metric("Accuracy") and not compat.is_metric("Dense")
    assert compat.is_found_by_name("Dense") and compat.is_found_by_name("relu")
    assert not compat.is_found_by_name("Own")


def test_saved_with(tmp_path):
    model = chain(layers.Dense(1))
    with compat.saved_with(model, {"added": tf.Variable(3.0)}):
        model.save(tmp_path / "saved", save_traces=False)
    assert float(tf.saved_model.load(tmp_path / "saved").added) == 3
    assert compat.read_saved_model(tmp_path / "saved").meta_graphs
    content = (tmp_path / "saved" / "keras_metadata.pb").read_bytes()
    assert compat.saved_metadata_pb2.SavedMetadata.FromString(content).nodes
    model.save(tmp_path / "plain", save_traces=False)
    assert not hasattr(tf.saved_model.load(tmp_path / "plain"), "added")


def test_classes():
    assert type(mlp()) is compat.Functional
    assert isinstance(tf.Variable(1.0), compat.Trackable)
    assert compat.has_functional_like_constructor(compat.Functional)
    function = keras.Model(one := keras.Input((1,)), tf.nn.relu(one)).layers[1]
    assert type(function) is compat.TFOpLambda
    assert issubclass(compat.PruneLowMagnitude, keras.layers.Wrapper)


@pytest.mark.parametrize("seeded", [True, False])
def test_random_state_kept(seeded, monkeypatch):
    """Of Python, NumPy, Keras' initial values and TensorFlow; before any seed there is none."""

    def drawn():
        initial = keras.initializers.GlorotUniform()((2, 2)).numpy().tolist()
        drawn = tf.random.normal((3,)).numpy().tolist()
        return [random.random(), np.random.random(), initial, drawn]

    if not seeded:
        monkeypatch.delattr(compat.context.context(), "_rng")
        with compat.random_state_kept():
            pass
        return
    keras.utils.set_random_seed(1)
    before = drawn()
    keras.utils.set_random_seed(1)
    with compat.random_state_kept():
        assert drawn() == before
    assert drawn() == before
