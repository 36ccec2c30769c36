"""Finding takes data, metrics and losses as compile and fit take them, and XLA where it can."""

import functools
import inspect

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from networks import assert_same, examples, values

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.finding import find as finding
from lottery_tf.finding.fit_checks import check_measurable
from lottery_tf.graph.compat import function_of
from lottery_tf.graph.layers import calls
from lottery_tf.training.trainer import Trainer
from lottery_tf.training.xla_support import _compiles, _is_plain, without_kernel

X, Y = examples(24, (4,), 3)


def mlp(of):
    layers = of.layers
    first, head = layers.Dense(5, "relu", name="first"), layers.Dense(3, name="head")
    return of.Sequential([of.Input((4,)), first, head])


def find(model, data, of, **settings):
    own = {"optimizer": of.optimizers.SGD(0.1), "epochs": 2, "rounds": 1, "jit_compile": False}
    return lt.find_ticket(model, data, **{**own, **settings})


class Sequence:
    """What a keras.utils.Sequence and a PyDataset have."""

    def __len__(self):
        return 3

    def __getitem__(self, place):
        return X[8 * place : 8 * place + 8], Y[8 * place : 8 * place + 8]


class Endless(Sequence):
    """A PyDataset that does not say how long it is."""

    num_batches = None


@pytest.mark.long
def test_the_forms_of_data_train_the_same(of, all_eager):
    """A Sequence is trained on as the dataset of its batches in the same order."""
    ticket = find(mlp(of), Sequence(), of, dev_data=(X, Y), seed=3)
    orders = [np.random.default_rng([3, epoch]).permutation(3) for epoch in range(2)]
    batches = [Sequence()[place] for order in orders for place in order]
    data = tf.data.Dataset.from_tensor_slices(tuple(map(np.stack, zip(*batches, strict=True))))
    of.utils.set_random_seed(0)
    same = find(mlp(of), data, of, dev_data=Sequence(), epochs=2, steps_per_epoch=3)
    assert ticket.info["dev_loss"] == pytest.approx(same.info["dev_loss"], rel=1e-6)
    assert [mask.tolist() for mask in ticket.masks.values()] == [
        mask.tolist() for mask in same.masks.values()
    ]


@pytest.mark.long
def test_arrays_train_whatever_looks_at_them(of, all_eager):
    ticket = find(mlp(of), (X, Y), of, epochs=1)
    assert ticket.sparsity == pytest.approx(0.2)
    model = lt.Recipe("signal_scaling").prepare(ticket.build(), (X, Y))
    assert lt.signal(model, (X, Y)).loss > 0
    assert lt.prune(mlp(of), "snip", 0.5, Sequence()).sparsity == 0.5
    generator = (Sequence()[place] for place in range(3))
    assert lt.prune(mlp(of), "snip", 0.5, generator, batches=2).sparsity == 0.5


def test_an_unbuilt_sequential_is_pruned_where_data_are_given(of, all_eager):
    def unbuilt():
        return of.Sequential([of.layers.Dense(5, "relu"), of.layers.Dense(3)])

    assert find(unbuilt(), (X, Y), of, epochs=1).sparsity == pytest.approx(0.2)
    assert lt.prune(unbuilt(), "snip", 0.5, (X, Y)).sparsity == 0.5
    assert lt.signal(unbuilt(), (X, Y)).loss > 0
    with pytest.raises(UsageError, match="Sequential .* without an input shape"):
        lt.prune(unbuilt(), "omp", 0.5)


@pytest.mark.parametrize(
    ("dev_data", "message"),
    [
        ((X[:, :2], Y), "dev_data whose inputs fit"),
        ((X, Y + 7), "classes of the model"),
        (X, "dev_data that fit|labels"),
        (tf.data.Dataset.from_tensor_slices((X, Y)), "dev_data as batches"),
        (tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat(), "with an end, .* have none"),
        (tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).take(0), "have no batch: give"),
        (lambda: iter_of([(X, Y)]), "a generator can be read only"),
        (lambda: Endless(), "their num_batches is None"),
    ],
)
def test_what_is_wrong_with_dev_data_is_told_before_the_training(
    dev_data, message, of, untraced, monkeypatch
):
    monkeypatch.setattr(finding, "find", None)  # no round begins
    with pytest.raises(UsageError, match=message):
        find(mlp(of), (X, Y), of, dev_data=dev_data() if callable(dev_data) else dev_data)


def test_looking_at_dev_data_before_the_training_changes_nothing(of):
    """Neither moving averages nor the random state of a Dropout."""
    layers = of.layers
    model = of.Sequential([of.Input((4,)), layers.BatchNormalization(), layers.Dropout(0.5)])
    trainer = Trainer(model, lambda start: None, 1, of.optimizers.SGD(), "mse", metrics=())
    before = values(trainer.model)
    check_measurable(trainer, tf.data.Dataset.from_tensors((X, X)))
    assert_same(values(trainer.model), before)


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (X, {}, "with labels, .* has no losses of its own"),
        (X, {"loss": "mse"}, "with labels for the loss"),
        (X, {"metrics": ["mae"]}, "with labels for the metrics"),
        (lambda: iter_of([(X, Y)]), {}, "steps_per_epoch"),
        (tf.data.Dataset.from_tensor_slices((X, Y)), {}, "as batches"),
        (tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat(), {}, "steps_per_epoch"),
        (lambda: iter_of([(X, Y)] * 3), {"steps_per_epoch": 2}, "they ended after"),
        (lambda: iter_of([(X, None, Y)] * 8), {"steps_per_epoch": 2}, "not with None for the"),
    ],
)
def test_data_that_cannot_be_trained_on(data, settings, message, of, untraced):
    with pytest.raises(UsageError, match=message):
        find(mlp(of), data() if callable(data) else data, of, **settings)


def rows(labels):
    return np.eye(3, dtype="float32")[labels]


@pytest.mark.parametrize(
    ("labels", "loss", "message"),
    [
        (Y, "CategoricalCrossentropy", r"one-hot rows of 3 .* shape \(None,\): use Sparse"),
        (Y[:, None], "CategoricalCrossentropy", r"shape \(None, 1\): use Sparse"),
        (Y, "categorical_crossentropy", r"one-hot rows of 3 .* shape \(None,\): use Sparse"),
        (rows(Y), "SparseCategoricalCrossentropy", r"class numbers .* 3 numbers, \(None, 3\): use"),
        (rows(Y), "sparse_categorical_crossentropy", "class numbers as labels"),
        (Y.astype(str), "SparseCategoricalCrossentropy", "labels as numbers; they are texts"),
        (Y.astype(str), None, "labels as numbers; they are texts"),
    ],
)
def test_labels_of_the_other_form_name_the_loss_for_them(labels, loss, message, of, untraced):
    if loss and loss[0].isupper():
        loss = getattr(of.losses, loss)(from_logits=True)
    for data in ({"train": (X, labels)}, {"train": (X, Y), "dev_data": (X, labels)}):
        with pytest.raises(UsageError, match=message):
            find(mlp(of), data.pop("train"), of, loss=loss, **data)


@pytest.mark.long
@pytest.mark.parametrize(
    ("labels", "loss"),
    [
        (Y, None),
        (rows(Y), None),
        (Y[:, None], "sparse_categorical_crossentropy"),
        (rows(Y), "categorical_crossentropy"),
    ],
)
def test_labels_of_the_form_of_their_loss_are_taken(labels, loss, of, all_eager):
    assert find(mlp(of), (X, labels), of, loss=loss).info["round"] == 1


def test_a_users_own_cross_entropy_may_take_labels_of_another_form(of, all_eager):
    class OfClasses(of.losses.CategoricalCrossentropy):
        def call(self, labels, outputs):
            rows = tf.one_hot(tf.cast(tf.reshape(labels, [-1]), tf.int32), outputs.shape[-1])
            return super().call(rows, outputs)

    class OfTexts(of.losses.SparseCategoricalCrossentropy):
        def call(self, labels, outputs):
            return super().call(tf.strings.to_number(labels), outputs)

    assert find(mlp(of), (X, Y), of, loss=OfClasses(from_logits=True)).info["round"] == 1
    if of is not keras3:  # Keras 3 casts labels to numbers
        texts = {"loss": OfTexts(from_logits=True), "metrics": None}
        assert find(mlp(of), (X, Y.astype(str)), of, **texts).info["round"] == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", 8, "arrays come in batches of 32; for others give tf.data"),
        ("validation_data", (X, Y), "no 'validation_data'; nearest: dev_data"),
        ("epochs", "3", "`epochs` to be a whole number, not '3'"),
        ("steps_per_epoch", 1.5, "`steps_per_epoch` to be a whole number, not 1.5"),
        ("seed", None, "`seed` to be a whole number, not None"),
        ("sparsity", "0.9", "`sparsity` to be a number, not '0.9'"),
        ("keep_dense", 3, "`keep_dense` to be a text, or several, not 3"),
    ],
)
def test_arguments_of_another_name_or_type(name, value, message, of):
    with pytest.raises(UsageError, match=message):
        find(mlp(of), (X, Y), of, **{name: value})


def test_the_nearest_to_a_misspelt_name_may_be_any_argument(of):
    for name in [*inspect.signature(lt.find_tickets).parameters][2:-1]:  # not settings
        with pytest.raises(UsageError, match=f"no 'x{name}'; nearest: {name}"):
            find(mlp(of), (X, Y), of, **{f"x{name}": 1})


def iter_of(parts):
    yield from parts


@pytest.mark.long
def test_a_wrong_number_of_batches_is_told(of):
    said = tf.data.experimental.assert_cardinality(3)
    endless = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat()
    with pytest.raises(UsageError, match="as many batches as assert_cardinality says"):
        find(mlp(of), endless.apply(said), of)
    assert find(mlp(of), endless, of, steps_per_epoch=3).info["round"] == 1


# Metrics


@pytest.mark.long
@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        ("accuracy", {"dev_loss", "dev_accuracy"}),
        (None, {"dev_loss"}),
        ((), {"dev_loss"}),
        ([["accuracy"]], {"dev_loss", "dev_accuracy"}),
    ],
)
def test_metrics_of_one_output(metrics, names, of, untraced):
    own = {"metrics": metrics, "dev_data": (X, Y), "epochs": 1, "rounds": 0}
    info = find(mlp(of), (X, Y), of, **own).info
    assert {name for name in info if name.startswith("dev_")} == names


@pytest.mark.long
@pytest.mark.parametrize(
    "metrics",
    [{"kind": ["accuracy"], "size": ["mae"]}, [["accuracy"], ["mae"]]],
    ids=["dict", "list"],
)
def test_metrics_of_several_outputs(metrics, of, untraced):
    inputs = of.Input((4,))
    x = of.layers.Dense(5, "relu")(inputs)
    ends = [of.layers.Dense(3, name="kind")(x), of.layers.Dense(1, name="size")(x)]
    data = (X, (Y, X.sum(1)))
    loss = [of.losses.SparseCategoricalCrossentropy(True), "mse"]
    model = of.Model(inputs, ends)
    own = {"metrics": metrics, "dev_data": data, "epochs": 1, "rounds": 0}
    info = find(model, data, of, loss=loss, **own).info
    assert {"dev_kind_accuracy", "dev_size_mae"} <= info.keys()


@pytest.mark.long
@pytest.mark.parametrize("by_key", [False, True])
def test_labels_of_some_outputs_alone(by_key, of, untraced):
    """Those of others have no loss. Keras has metrics of all outputs or none."""
    inputs = of.Input((4,))
    x = of.layers.Dense(5, "relu")(inputs)
    ends = {name: of.layers.Dense(3, name=name)(x) for name in ("kind", "size")}
    model = of.Model(inputs, ends if by_key else list(ends.values()))
    data = tf.data.Dataset.from_tensor_slices((X, {"kind": Y})).batch(8)
    own = {"optimizer": "adam", "epochs": 1, "rounds": 1, "dev_data": data}
    loss = {"kind": of.losses.SparseCategoricalCrossentropy(True)}
    ticket = find(model, data, of, loss=loss, **own)
    assert "dev_loss" in ticket.info
    with pytest.raises(lt.UsageError, match="labels of every output for the metrics.*size"):
        find(model, data, of, loss=loss, metrics=["mae"], **own)


# Losses of the model's own


def autoencoder(of, with_loss=True, with_check=False):
    class Squares(of.layers.Layer):
        def call(self, x):
            if with_check:
                tf.debugging.assert_positive(tf.reduce_max(tf.abs(x)))
            self.add_loss(tf.reduce_mean(tf.square(x)))
            return x

    inputs = of.Input((4,))
    hidden = of.layers.Dense(5, "relu")(inputs)
    outputs = of.layers.Dense(4)(Squares()(hidden) if with_loss else hidden)
    return of.Model(inputs, outputs)


@pytest.mark.long
@pytest.mark.parametrize("form", ["array", "batches", "alone in a tuple"])
def test_data_without_labels_train_by_the_models_own_losses(form, of, all_eager):
    forms = {
        "array": X,
        "batches": tf.data.Dataset.from_tensor_slices(X).batch(8),
        "alone in a tuple": tf.data.Dataset.from_tensor_slices((X,)).batch(8),
    }
    dense, pruned = lt.find_tickets(
        autoencoder(of),
        forms[form],
        optimizer=of.optimizers.SGD(0.1),
        epochs=2,
        rounds=1,
        rewind="learning_rate",
        dev_data=forms[form],
        jit_compile=False,
    )
    assert pruned.info["dev_loss"] < dense.info["dev_loss"]
    with pytest.raises(UsageError, match="no losses of its own"):
        find(autoencoder(of, with_loss=False), forms[form], of)


def test_a_loss_that_a_model_has_in_training_alone_is_seen(of, untraced):
    """As that of an activity regulariser behind a Dropout may be."""

    class Squares(of.layers.Layer):
        def call(self, x, training=False):
            if training:
                self.add_loss(tf.reduce_mean(tf.square(x)))
            return x

    inputs = of.Input((4,))
    model = of.Model(inputs, of.layers.Dense(4)(Squares()(of.layers.Dense(5)(inputs))))
    ticket = find(model, X, of, epochs=1)
    assert ticket.masks.kept == round(0.8 * ticket.masks.total)


def test_a_model_that_does_not_take_zeros_is_trained_all_the_same(of, untraced):
    """Whether it has losses is looked for with zeros; an error of theirs says nothing."""
    model = autoencoder(of, with_check=True)
    with pytest.raises(tf.errors.InvalidArgumentError):
        model(tf.zeros((1, 4)))
    ticket = find(model, X, of)
    assert ticket.masks.kept == round(0.8 * ticket.masks.total)
    assert all(np.isfinite(value).all() for value in ticket.weights.values())


def test_labels_beside_losses_on_tensors_need_a_loss():
    from lottery_tf.graph.compat import keras

    model = autoencoder(keras, with_loss=False)
    model.add_loss(tf.reduce_mean(tf.square(model.output)))
    with pytest.raises(UsageError, match="Expected a loss for the labels"):
        find(model, (X, X), keras)


# XLA


def lookup(of):
    inputs = of.Input((1,), dtype="int64")
    return inputs, of.layers.IntegerLookup(vocabulary=[1, 2], output_mode="one_hot")(inputs)


def turned(of):
    inputs = of.Input((4, 4, 1))
    return inputs, of.layers.Flatten()(of.layers.RandomRotation(0.1)(inputs))


def python(of):
    inputs = of.Input((4,))

    def twice(x):
        return tf.ensure_shape(tf.numpy_function(lambda a: 2 * a, [x], tf.float32), (None, 4))

    return inputs, of.layers.Lambda(twice, output_shape=(4,))(inputs)


def sparse(of):
    inputs = of.Input((4,), sparse=True)
    return inputs, of.layers.Dense(4)(inputs)


def texts(of):
    inputs = of.Input((1,), dtype="string")
    return inputs, of.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(inputs)


def plain(of):
    inputs = of.Input((4,))
    x = of.layers.Lambda(lambda x: tf.nn.relu(x) + 1)(inputs)
    return inputs, of.layers.BatchNormalization()(of.layers.Dense(5, "gelu")(x))


def broken(of):
    inputs = of.Input((4,))

    class Broken(of.layers.Layer):
        def call(self, x, training=False):
            if training:
                raise ValueError("its own")
            return x

    return inputs, Broken()(inputs)


KINDS = {
    lookup: "LookupTable",
    turned: "ImageProjectiveTransform",
    python: "PyFunc",
    sparse: "sparse inputs",
    texts: "texts as inputs",
    plain: None,
    broken: None,  # fit raises it again
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_xla_cannot_compile_is_known_beforehand(kind, of):
    inputs, x = kind(of)
    found = without_kernel(of.Model(inputs, of.layers.Dense(3)(x)))
    assert found is None if KINDS[kind] is None else KINDS[kind] in found


def test_a_function_is_looked_at_like_a_layer():
    """One of ``keras.ops``, as of ``x + 1``, which is no layer and no code of the user's."""
    inputs = keras3.Input((4,))
    model = keras3.Model(inputs, keras3.layers.Dense(3)(keras3.ops.add(inputs, 1)))
    (call,) = [call for call in calls(model)[0] if function_of(call.layer)]
    assert not _is_plain(call.layer)
    assert without_kernel(model) is None


def test_a_kernel_is_asked_for_by_the_types_that_it_is_called_with():
    """Of MatMul XLA has none for texts, of a lookup none at all."""
    node = tf.compat.v1.NodeDef(op="MatMul")
    for kind, compiles in ((tf.float32, True), (tf.string, False)):
        node.attr["T"].type = kind.as_datatype_enum
        assert _compiles(node, "CPU") is compiles
    assert not _compiles(tf.compat.v1.NodeDef(op="LookupTableFindV2"), "CPU")


def test_a_ragged_input_is_known_too():
    from lottery_tf.graph.compat import keras

    inputs = keras.Input((None,), dtype="int32", ragged=True)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(5, 3)(inputs))
    assert without_kernel(keras.Model(inputs, keras.layers.Dense(2)(x))) == "ragged inputs"


@pytest.mark.long
def test_a_loss_that_xla_cannot_compile_is_trained_without_it(of, lines):
    """It is known only when the step is compiled; what comes is as without."""

    def loss(y, outputs):
        theirs = tf.numpy_function(lambda a: a, [y], y.dtype)
        theirs = tf.cast(tf.reshape(tf.ensure_shape(theirs, y.shape), [-1]), tf.int64)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(theirs, outputs)

    ways = functools.partial(find, data=(X, Y), of=of, loss=loss, epochs=1, rounds=0)
    by_default = ways(mlp(of), jit_compile=None)
    assert any("without XLA, which cannot compile all" in line for line in lines)
    with pytest.raises(Exception, match="(?i)compil|XLA"):
        ways(mlp(of), jit_compile=True)
    of.utils.set_random_seed(0)
    assert_same(ways(mlp(of)).weights, by_default.weights)


def test_states_that_would_go_on_into_the_next_round_are_refused(of):
    layers, inputs = of.layers, of.Input((2, 4), batch_size=4)
    outputs = layers.Dense(3)(layers.SimpleRNN(2, stateful=True, name="rnn")(inputs))
    data = tf.data.Dataset.from_tensor_slices((np.ones((8, 2, 4), np.float32), Y[:8])).batch(4)
    with pytest.raises(UsageError, match="'?rnn'? of .* keeps its states from batch to batch"):
        find(of.Model(inputs, outputs), data, of)


def test_which_layers_need_no_look_at_their_operations(of):
    """Keras' own, but for those that hold any code or read texts; wrapped ones too."""
    layers = of.layers
    for plain in (layers.Dense(2, "relu"), layers.TimeDistributed(layers.Dense(2))):
        assert _is_plain(plain)
    model = lt.wrap(of.Sequential([of.Input((3,)), layers.Dense(2)]))
    assert _is_plain(model.layers[-1])
    for other in (
        layers.Dense(2, lambda x: x),
        layers.Lambda(lambda x: x),
        layers.StringLookup(),
        layers.TimeDistributed(layers.Lambda(lambda x: x)),
    ):
        assert not _is_plain(other)
