"""Labels that are no classes, and classes without images to train on, of every dataset."""

import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from lottery_tf import data
from lottery_tf.cli.main import main
from lottery_tf.common.errors import UsageError
from lottery_tf.data import DataSettings, Source, Split, load


def split(*labels: int) -> Split:
    return Split(np.zeros((len(labels), 2, 2, 1), np.uint8), np.array(labels, np.int32))


@pytest.fixture(params=data.READERS)
def given(request, monkeypatch, tmp_path):
    """``load`` of a dataset by every reader, which has read this instead."""

    def load_of(train, test, classes=3, names=None, training=True, **settings):
        source = Source(split(*train), split(*test), classes, names=names)
        monkeypatch.setitem(data.READERS, request.param, lambda data_dir, **options: source)
        settings = {"dev_share": 0.0, **settings}
        return load(DataSettings(request.param, str(tmp_path), **settings), training)

    load_of.name = request.param
    return load_of


@pytest.mark.parametrize(
    ("train", "test", "what"),
    [
        ((0, 1, 2, -1), (0, 1, 2), "1 of its 4 training images have others, such as -1"),
        ((0, 1, 3, 3), (0, 1, 2), "2 of its 4 training images have others, such as 3"),
        ((0, 1, 2), (-1, -1, -1), "3 of its 3 test images have others, such as -1"),
        ((0, 1, 2), (0, 255), "1 of its 2 test images have others, such as 255"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_labels_that_are_no_classes(given, train, test, what, training):
    message = f"`dataset={given.name}` expects labels from 0 to 2, and {what}; label them or"
    with pytest.raises(UsageError, match=message):
        given(train, test, training=training)


@pytest.mark.parametrize(
    ("train", "names", "lost"),
    [
        ((0, 0, 2), None, "class 1"),
        ((1, 2, 2), ["cat", "1", "2"], "class 0 (cat)"),
        ((1, 1), ["cat", "cow", "dog"], "class 0 (cat), class 2 (dog)"),
    ],
)
def test_a_class_without_training_images(given, train, names, lost):
    message = (
        f"`dataset={given.name}` expects training images of every class, 0 to 2, and there are "
        "none of"
    )
    of_folders = given.name == "image_folder"
    do = "put images into the folder of that" if of_folders else "add some, or take the"
    with pytest.raises(UsageError, match=re.escape(f"{message} {lost}; {do}")):
        given(train, (0, 1, 2), names=names)
    # Measuring needs none.
    assert len(given(train, (0, 1, 2), names=names, training=False).test) == 3


def test_a_class_without_test_images_is_named(given, lines):
    assert given((0, 1, 2), (1, 1), names=["cat", "cow", "dog"]).num_classes == 3
    of = "class 0 (cat), class 2 (dog); the test accuracy says nothing about that"
    assert lines == [f"{given.name}: there are no test images of {of}"]
    assert given((0, 1, 2), (2, 1, 0)).num_classes == 3
    assert len(lines) == 1


def test_one_class_alone(given):
    with pytest.raises(UsageError, match="two classes or more, and there is only class 0; add"):
        given((0, 0), (0,), classes=1)


# By the seed 0 the first of five that are drawn is the third.
FIVE = (0, 0, 1, 0, 0)


def test_a_class_that_is_held_out(given):
    message = f"`dev_share=0.2` holds out all training images of class 1 of {given.name}; give a"
    with pytest.raises(UsageError, match=message):
        given(FIVE, (0, 1), classes=2, dev_share=0.2)
    assert len(given(FIVE, (0, 1), classes=2, dev_share=0.2, training=False).dev) == 1
    assert len(given((1, 1, 0, 0, 1), (0, 1), classes=2, dev_share=0.2).dev) == 1


def test_the_first_that_are_a_whole_class(given):
    message = f"`dev_split=first` .*holds out all those of class 0 of {given.name}; give"
    with pytest.raises(UsageError, match=message):
        given((0, 1, 1, 1, 1), (0, 1), classes=2, dev_share=0.2, dev_split="first")


def test_a_class_that_is_not_among_those_kept(given):
    few = dict(train=(0,) * 9 + (1,), test=(0, 1), classes=2)
    with pytest.raises(UsageError, match="`train_examples=1` leaves no training images of class"):
        given(**few, train_examples=1)
    with pytest.raises(UsageError, match="of class 1 of .*; give [0-9]+ or more") as caught:
        given(**few, train_examples=2)
    enough = int(re.search("give ([0-9]+) or", str(caught.value))[1])
    assert len(given(**few, train_examples=enough).train) == enough
    with pytest.raises(UsageError, match=f"; give {enough} or more, or another `data_seed`"):
        given(**few, train_examples=enough - 1)


def idx(folder, train, test):
    """A folder in MNIST's format; images of 2×2 pixels, of the value of their label."""
    for name, labels in (("train", train), ("t10k", test)):
        count = len(labels).to_bytes(4, "big")
        pixels = bytes(label for label in labels for _ in range(4))
        images = bytes([0, 0, 8, 3]) + count + bytes([0, 0, 0, 2] * 2) + pixels
        (folder / f"{name}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(
            bytes([0, 0, 8, 1]) + count + bytes(labels)
        )
    return DataSettings("idx", str(folder), dev_share=0.0)


@pytest.mark.parametrize(
    ("train", "test", "lost"),
    [
        ((0, 2, 2), (0, 2), "0 to 2, and there are none of class 1;"),
        ((0, 1), (0, 1, 4), "0 to 4, and there are none of class 2, class 3, class 4;"),
        ((1, 2), (1, 2), "0 to 2, and there are none of class 0;"),
    ],
    ids=["a gap", "a class of the test images alone", "numbered from 1"],
)
def test_idx(tmp_path, train, test, lost):
    with pytest.raises(UsageError, match=f"`dataset=idx` expects .* every class, {lost}"):
        load(idx(tmp_path, train, test))


def test_images_of_tensorflow_datasets_without_labels(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    def stored(builder, *_, split, **__):
        labels = np.arange(20) % 10 if split == "train" else np.full(20, -1)
        images = np.zeros((20, 32, 32, 3), np.uint8)
        return tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})

    with (
        tfds.testing.mock_data(as_dataset_fn=stored, data_dir=str(tmp_path)),
        pytest.raises(
            UsageError, match="`dataset=cifar10` expects labels from 0 to 9, and 20 of its 20 test"
        ),
    ):
        load(DataSettings("cifar10", str(tmp_path)))


def test_a_model_is_evaluated_where_a_class_has_no_training_images(tmp_path, capsys):
    """Its test images are what is measured."""
    idx(tmp_path, train=(0, 0, 2), test=(0, 1, 2))
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.save(tmp_path / "model")
    words = ["evaluate", f"--model={tmp_path / 'model'}", "--dataset=idx", f"--data_dir={tmp_path}"]
    assert main(words) == 0
    assert "idx test  accuracy" in capsys.readouterr().out
