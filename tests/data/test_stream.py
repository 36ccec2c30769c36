"""Dataset.stream and Dataset.batches: which example comes when."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from lottery_tf.data import Dataset, Split
from lottery_tf.data.source import channel_moments


def dataset(count=10, batch_size=3, augment=False, data_seed=0, side=1) -> Dataset:
    """Image i is of value i throughout and has label i."""
    labels = np.arange(count, dtype=np.int32)
    images = np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (count, side, side, 2))
    split = Split(np.ascontiguousarray(images), labels)
    return Dataset(
        name="numbered",
        train=split,
        dev=split.take(np.arange(4)),
        test=split.take(np.arange(7)),
        num_classes=count,
        mean=(4.0, 5.0),
        std=(2.0, 0.5),
        augment=augment,
        data_seed=data_seed,
        batch_size=batch_size,
    )


def take(batches: tf.data.Dataset, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(itertools.islice(batches.as_numpy_iterator(), count))


def labels_of(batches, count: int) -> np.ndarray:
    return np.stack([labels for _, labels in take(batches, count)])


@pytest.mark.parametrize("augment", [False, True])
def test_the_stream_from_any_step_is_the_stream_from_0_from_there_on(augment):
    # 10 examples in batches of 3: an epoch has 3 steps, so these starts cross epochs.
    data = dataset(augment=augment, side=6)
    whole = take(data.stream(), 12)
    for start in (0, 1, 2, 3, 5, 9):
        for expected, got in zip(whole[start:], take(data.stream(start), 12 - start), strict=True):
            np.testing.assert_array_equal(expected[0], got[0])
            np.testing.assert_array_equal(expected[1], got[1])


@settings(max_examples=10)
@given(
    batch_size=st.integers(1, 10),
    data_seed=st.integers(0, 2**31),
    start=st.integers(0, 40),
)
def test_one_batch_from_any_step_is_that_of_the_whole_stream(batch_size, data_seed, start):
    data = dataset(batch_size=batch_size, data_seed=data_seed)
    whole = labels_of(data.stream(), start + 1)
    np.testing.assert_array_equal(labels_of(data.stream(start), 1)[0], whole[start])


@settings(max_examples=10)
@given(batch_size=st.integers(1, 10), data_seed=st.integers(0, 2**31))
def test_an_epoch_visits_each_example_at_most_once(batch_size, data_seed):
    data = dataset(batch_size=batch_size, data_seed=data_seed)
    steps = data.steps_per_epoch
    assert steps == 10 // batch_size
    for epoch in labels_of(data.stream(), 3 * steps).reshape(3, -1):
        assert len(epoch) == len(set(epoch)) == steps * batch_size


def test_a_whole_epoch_visits_every_example_and_epochs_differ_in_order():
    epochs = labels_of(dataset(count=60, batch_size=20).stream(), 9).reshape(3, 60)
    for epoch in epochs:
        assert sorted(epoch) == list(range(60))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_example_left_out_differs_from_epoch_to_epoch():
    # 10 examples in 3 batches of 3 leave out one an epoch; in 30 epochs it is not always the same.
    epochs = labels_of(dataset().stream(), 30 * 3).reshape(30, 9)
    assert len({frozenset(range(10)).difference(epoch) for epoch in epochs}) > 5


def test_the_order_depends_on_the_seed_alone():
    orders = [labels_of(dataset(count=60, data_seed=s).stream(), 20).tolist() for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_a_step_of_billions_is_reached_at_once():
    # Reading up to it would take years.
    data = dataset()
    first = 3 * 10**9
    assert len(set(labels_of(data.stream(first), 3).ravel())) == 9
    np.testing.assert_array_equal(
        labels_of(data.stream(first), 4)[1:], labels_of(data.stream(first + 1), 3)
    )


@pytest.mark.parametrize("augment", [False, True])
def test_what_belongs_to_the_examples_comes_beside_them(augment):
    """From any step, and the batches are those of the plain stream."""
    data = dataset(augment=augment, side=6)
    beside = {"twice": 2.0 * np.arange(10, dtype=np.float32), "rows": np.arange(20).reshape(10, 2)}
    for start in (0, 4):
        stream = data.stream(start, beside)
        assert stream.element_spec["rows"] == tf.TensorSpec((3, 2), tf.int64)
        assert stream.cardinality() == tf.data.INFINITE_CARDINALITY
        for plain, got in zip(take(data.stream(start), 7), take(stream, 7), strict=True):
            assert got.keys() == {"batch", "twice", "rows"}
            np.testing.assert_array_equal(got["batch"][0], plain[0])
            np.testing.assert_array_equal(got["batch"][1], plain[1])
            np.testing.assert_array_equal(got["twice"], 2 * plain[1])
            np.testing.assert_array_equal(got["rows"], beside["rows"][plain[1]])


def test_what_does_not_belong_to_the_examples_is_refused():
    with pytest.raises(ValueError, match="each of the 10 training examples.*'logits': 9"):
        dataset().stream(0, {"logits": np.zeros((9, 3))})


def test_a_step_below_0_is_refused():
    with pytest.raises(ValueError, match="at least 0. Received: -1"):
        dataset().stream(-1)


@pytest.mark.parametrize("augment", [False, True])
def test_shapes_are_static_and_the_stream_is_known_to_be_endless(augment):
    data = dataset(augment=augment, side=5)
    stream = data.stream()
    assert stream.element_spec == (
        tf.TensorSpec((3, 5, 5, 2), tf.float32),
        tf.TensorSpec((3,), tf.int32),
    )
    assert stream.cardinality() == tf.data.INFINITE_CARDINALITY
    assert not stream.options().autotune.enabled
    assert stream.options().experimental_optimization.apply_default_optimizations is False
    assert data.input_shape == (5, 5, 2)


def test_streamed_images_are_normalised_and_belong_to_their_labels():
    # mean (4, 5) and std (2, 0.5): pixel i becomes (i - 4) / 2 and (i - 5) · 2, both exact.
    for images, labels in take(dataset().stream(), 3):
        np.testing.assert_array_equal(images[:, 0, 0, 0], (labels - 4) / 2)
        np.testing.assert_array_equal(images[:, 0, 0, 1], (labels - 5) * 2)


def test_augmented_images_are_padded_with_black():
    """Which becomes (0 - 4) / 2 and (0 - 5) · 2; the mean would become 0."""
    for images, labels in take(dataset(augment=True, side=6).stream(), 3):
        own = np.stack([(labels - 4) / 2, (labels - 5) * 2], 1)[:, None, None, :]
        black = (images == [-2.0, -10.0]).all(-1)
        assert ((images == own).all(-1) | black).all() and black.any()


def test_the_crops_are_those_of_the_seed_and_the_step():
    """Of the 9 · 9 · 2 of one image."""
    image = np.random.default_rng(0).integers(1, 256, (1, 6, 6, 2), np.uint8)

    def crops(data_seed):
        data = dataset(batch_size=1, augment=True, side=6, data_seed=data_seed)
        data = dataclasses.replace(data, train=Split(image, data.train.labels[:1]))
        return [images.tobytes() for images, _ in take(data.stream(), 20)]

    assert len(set(crops(0))) > 10
    assert crops(0) == crops(0) != crops(1)


@pytest.mark.parametrize("flip", [False, True])
def test_images_are_mirrored_where_they_may_be(flip):
    """As they may by default. The columns of each image are 1 to 6: mirrored they fall."""
    columns = np.broadcast_to(np.arange(1, 7, dtype=np.uint8)[:, None], (10, 6, 6, 2))
    data = dataset(batch_size=10, augment=True, side=6)
    changes = {} if flip else {"flip": False}
    data = dataclasses.replace(data, train=Split(columns, data.train.labels), **changes)
    ((images, _),) = take(data.stream(), 1)
    steps = np.diff(images[:, :, 1:-1, 0], axis=2)  # beside the padding 1/2 or -1/2
    mirrored = (steps == -0.5).any((1, 2))
    assert mirrored.any() == flip and not mirrored.all()


def test_normalise_agrees_with_the_batches_and_has_mean_0_and_deviation_1():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 5, 5, 3), np.uint8)
    mean, std = channel_moments(images)
    split = Split(images, np.zeros(40, np.int32))
    data = dataclasses.replace(dataset(), train=split, mean=mean, std=std)
    normalised = data.normalise(images)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.std((0, 1, 2)), 1, atol=1e-5)
    batched = np.concatenate([x for x, _ in data.batches("train").as_numpy_iterator()])
    np.testing.assert_allclose(batched, normalised, atol=1e-6)


@pytest.mark.parametrize(("split", "count"), [("train", 10), ("dev", 4), ("test", 7)])
def test_batches_give_each_example_once_in_order(split, count):
    data = dataset(augment=True, side=6)
    batches = list(data.batches(split, batch_size=3).as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [3] * (count // 3) + [count % 3] * (
        count % 3 > 0
    )
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), np.arange(count))
    np.testing.assert_array_equal(
        np.concatenate([x for x, _ in batches]), data.normalise(getattr(data, split).images)
    )
    assert data.batches(split, batch_size=3).cardinality() == len(batches)


def test_batches_of_an_empty_dev_split_are_none():
    data = dataset()
    data = dataclasses.replace(data, dev=data.train.take(np.arange(0)))
    assert list(data.batches("dev")) == []


def test_examples_are_taken_in_the_order_of_the_index():
    found = dataset().train.take(np.array([3, 0, 7]))
    assert found.labels.tolist() == found.images[:, 0, 0, 0].tolist() == [3, 0, 7]


def test_a_split_that_is_none_is_refused():
    with pytest.raises(ValueError, match="train, dev or test. Received: 'validation'"):
        dataset().batches("validation")


def test_the_training_images_are_one_tensor_however_many_streams_there_are():
    data = dataset()
    data.stream(), data.batches("train")
    made = data._tensors("train")[0]
    data.stream(5)
    assert data._tensors("train")[0] is made


def test_the_training_images_are_an_input_of_the_graph_and_no_constant_in_it():
    data = dataset(count=256, side=32)
    assert data.train.images.nbytes > 500_000
    stream = data.stream()
    while not hasattr(stream, "_map_func"):
        stream = stream._input_dataset
    function = stream._map_func.function
    assert any(captured is data._tensors("train")[0] for captured in function.captured_inputs)
    assert function.graph.as_graph_def().ByteSize() < 50_000
