"""Data as fit takes them become the same batches."""

import collections

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.graph.fit_data import Stream, batches

X = np.arange(140.0).reshape(70, 2)  # float64, as NumPy has it
Y = np.arange(70) % 3


def model(of=keras, inputs=1):
    ends = [of.Input((2,), name=f"in_{n}") for n in range(inputs)]
    joined = of.layers.Concatenate()(ends) if inputs > 1 else ends[0]
    return of.Model(ends if inputs > 1 else ends[0], of.layers.Dense(3, name="head")(joined))


def some_batches():
    return [(X[n : n + 32], Y[n : n + 32]) for n in (0, 32, 64)]


class Indexed:
    """Has what a Sequence has."""

    def __init__(self):
        super().__init__()
        self.epochs = 0

    def __len__(self):
        return 3

    def __getitem__(self, place):
        return some_batches()[place]

    def on_epoch_end(self):
        self.epochs += 1


class Sequence(Indexed, keras.utils.Sequence):
    pass


class PyDataset(Indexed, keras3.utils.PyDataset):
    pass


class Sized:
    """As a DataLoader of PyTorch: in its own order, and lists in the place of tuples."""

    def __len__(self):
        return 3

    def __iter__(self):
        return (list(each) for each in some_batches())


FORMS = {
    "dataset": lambda: tf.data.Dataset.from_tensor_slices((X.astype("f"), Y)).batch(32),
    "arrays": lambda: (X, Y),
    "tensors": lambda: (tf.constant(X, tf.float32), tf.constant(Y)),
    "sequence": Sequence,
    "pydataset": PyDataset,
    "duck": Indexed,
    "sized": Sized,
    "generator": lambda: (each for each in some_batches()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_batches(form, of):
    found = list(batches(FORMS[form](), model(of), "data"))
    assert [len(y) for _, y in found] == [32, 32, 6]
    assert all(x.dtype == tf.float32 for x, _ in found)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), X)
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), Y)


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_begins_at_any_step(form, of):
    """Batch t is the same from whatever step one begins; 7 steps are two epochs and a batch."""
    if form == "generator":
        assert len(list(Stream(FORMS[form](), model(of), "data", 3)(5))) == 3  # it reads on
        return
    stream = Stream(FORMS[form](), model(of), "data", seed=5)
    assert stream.steps_per_epoch == 3
    whole = [x.numpy() for x, _ in stream(0).take(9)]
    for start in (2, 3, 7):
        for x, other in zip(stream(start).take(2), whole[start : start + 2], strict=True):
            np.testing.assert_array_equal(x[0], other)
    epochs = [np.concatenate(whole[start : start + 3]) for start in (0, 3, 6)]
    shuffled = form not in ("dataset", "sized")
    for epoch in epochs:  # each example once an epoch, in another order
        np.testing.assert_array_equal(np.sort(epoch, axis=0), X)
    assert (any((a != epochs[0]).any() for a in epochs[1:])) == shuffled
    again = Stream(FORMS[form](), model(of), "data", seed=6)
    other = [x.numpy() for x, _ in again(0).take(9)]
    assert (
        any(a.shape != b.shape or (a != b).any() for a, b in zip(whole, other, strict=True))
        == shuffled
    )


def test_a_sequence_is_told_of_the_end_of_each_epoch():
    data = Sequence()
    assert len(list(Stream(data, model(), "data")(0).take(7))) == 7
    assert data.epochs == 2


def test_several_inputs_and_weights(of):
    """Lists and dictionaries of arrays, as compile and fit have them; None is nothing."""
    two = model(of, inputs=2)
    for x in ([X, 2 * X], {"in_0": X, "in_1": 2 * X}):
        ((first, y, weight), *_) = batches((x, Y, Y / 2), two, "data")
        left, right = first.values() if isinstance(x, dict) else first
        np.testing.assert_array_equal(right, 2 * left)
        np.testing.assert_array_equal(weight, y / 2)
        assert two(first).shape == (32, 3)
    assert len(next(iter(batches(([X, X], Y, None), two, "data")))) == 2
    assert next(iter(batches(X, model(of), "data"))).shape == (32, 2)


def test_texts_and_ragged_arrays():
    texts = np.array([["a"], ["b"]])
    assert next(iter(batches((texts, [0, 1]), None, "data")))[0].dtype == tf.string
    ragged = tf.ragged.constant([[1], [2, 3]])
    assert next(iter(batches((ragged, np.array([0, 1])), None, "data")))[0].to_list() == [
        [1],
        [2, 3],
    ]


def test_batches_of_many_lengths(of):
    """Of the sizes of one batch only those stay that the model has fixed."""
    i = of.Input((None, 2))
    sequences = of.Model(i, of.layers.Dense(3)(i))

    def lengths():
        return [(np.zeros((2, n, 2)), np.zeros((2, n), int)) for n in (3, 5)]

    (x, y) = batches(iter_of(lengths()), sequences, "data").element_spec
    assert x.shape.as_list() == [None, None, 2] and y.shape.as_list() == [None, None]
    assert len(list(batches(iter_of(lengths()), sequences, "data"))) == 2


def iter_of(parts):
    yield from parts


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:-1]), "equal numbers of rows .* shapes \\(70, 2\\), \\(69,\\)"),
        ((X, Y, Y, Y), "tuple of arrays .* got a tuple of 4"),
        (None, "tf.data.Dataset of batches, .* got None"),
        (7, "arrays of numbers or texts; got a int"),
        ((X, np.array([None] * 70)), "arrays of numbers or texts"),
        ((tf.sparse.from_dense(X), Y), "one is sparse: give tf.data.Dataset.from_tensor_slices"),
        (collections.deque(), "at least one batch, got none"),
        (
            tf.data.Dataset.from_tensor_slices((X, Y)),
            r"as batches; .*\(2,\), .*train_data.batch\(n\)",
        ),
        (tf.data.Dataset.from_tensor_slices(({"in_0": X}, Y)), "as batches"),
    ],
)
def test_what_fits_no_form_is_told(data, message):
    with pytest.raises(UsageError, match=message):
        batches(data, model(), "train_data")


def test_images_of_one_channel_are_no_batch(of):
    """Keras adds a last axis of one; a single image is not taken for a batch of rows."""
    i = of.Input((4, 4, 1))
    images = of.Model(i, of.layers.Flatten()(i))
    single = tf.data.Dataset.from_tensor_slices(np.zeros((3, 4, 4, 1), "f"))
    with pytest.raises(UsageError, match="as batches"):
        batches(single, images, "data")
    for fine in (single.batch(2), tf.data.Dataset.from_tensors(np.zeros((5, 4, 4), "f"))):
        assert batches(fine, images, "data") is fine


@pytest.mark.parametrize("form", ["dataset", "arrays", "sequence"])
def test_an_unbuilt_sequential_is_built_for_the_data(form, of):
    unbuilt = of.Sequential([of.layers.Dense(4, "relu"), of.layers.Dense(3)])
    batches(FORMS[form](), unbuilt, "data")
    assert [tuple(each.shape) for each in unbuilt.weights] == [(2, 4), (4,), (4, 3), (3,)]
    assert tuple(unbuilt.outputs[0].shape) == (None, 3)


def test_an_unbuilt_sequential_of_another_shape_is_told(of):
    wrong = of.Sequential([of.layers.Conv2D(2, 3), of.layers.Dense(3)])
    with pytest.raises(UsageError, match="for which the Sequential .* can be built"):
        batches((X, Y), wrong, "data")


class Once(Sized):
    """Has a length, and can be read once."""

    def __init__(self):
        self.left = iter(some_batches())

    def __iter__(self):
        return self.left


def test_what_can_be_read_once_comes_to_an_end(of):
    stream = Stream(Once(), model(of), "train_data")
    assert stream.steps_per_epoch == 3
    assert len(list(stream(0))) == 3 and not list(stream(0))
    assert len(list(Stream(Sized(), model(of), "train_data")(0).take(7))) == 7


def test_a_length_that_is_a_mistake_is_not_known(of):
    class Streams(Sized):  # as torch's DataLoader of an IterableDataset
        def __len__(self):
            raise TypeError("object of type 'Streams' has no len()")

    with pytest.raises(UsageError, match="steps_per_epoch"):
        Stream(Streams(), model(of), "train_data")
    assert len(list(Stream(Streams(), model(of), "train_data", 5)(1).take(5))) == 5


def test_a_dataset_hears_of_each_epoch():
    class Told(PyDataset):
        begun = 0

        def on_epoch_begin(self):
            self.begun += 1

    data = Told()
    assert len(list(Stream(data, model(keras3), "train_data")(0).take(6))) == 6
    assert data.begun >= 2
