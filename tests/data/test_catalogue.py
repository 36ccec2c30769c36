"""tensorflow-datasets, with its own made-up examples in place of a download."""

import numpy as np
import pytest
import tensorflow as tf

from lottery_tf.data import DataSettings, catalogue, load

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.mark.parametrize(
    ("name", "shape", "classes", "augment"),
    [
        ("cifar10", (32, 32, 3), 10, True),
        ("cifar100", (32, 32, 3), 100, True),
        ("fashion_mnist", (28, 28, 1), 10, False),
        ("mnist", (28, 28, 1), 10, False),
        ("svhn_cropped", (32, 32, 3), 10, False),
    ],
)
def test_the_catalogue_is_read_into_memory(tmp_path, name, shape, classes, augment):
    with tfds.testing.mock_data(num_examples=20):
        dataset = load(DataSettings(dataset=name, data_dir=str(tmp_path), batch_size=4))
    assert (len(dataset.train), len(dataset.dev), len(dataset.test)) == (18, 2, 20)
    assert (dataset.input_shape, dataset.num_classes) == (shape, classes)
    assert dataset.augment is augment
    assert dataset.train.images.dtype == np.uint8 and dataset.train.labels.dtype == np.int32
    assert dataset.flip is (name not in ("mnist", "svhn_cropped"))
    images, labels = next(dataset.stream().as_numpy_iterator())
    assert images.shape == (4, *shape) and labels.max() < classes


def test_the_cifars_know_the_order_in_which_they_were_published(tmp_path):
    def examples(self, *_, **__):
        ids = [f"train_{number:05d}" for number in (2, 0, 3, 1)]
        images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), "u1")
        parts = {"id": ids, "image": images, "label": np.arange(4)}
        return tf.data.Dataset.from_tensor_slices(parts)

    with tfds.testing.mock_data(num_examples=4, as_dataset_fn=examples):
        source = catalogue.read("cifar10", str(tmp_path))
    # The first image published is the second example, and so on.
    assert list(source.order) == [1, 3, 0, 2]
    assert list(source.train.images[:, 0, 0, 0]) == [0, 1, 2, 3]


def test_a_failed_download_says_so_in_one_sentence_and_keeps_its_cause(tmp_path, monkeypatch):
    def offline(self, **_):
        raise ConnectionError("Failed to resolve\n'www.cs.toronto.edu'")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", offline)
    with pytest.raises(RuntimeError, match="could not be downloaded") as caught:
        catalogue.read("cifar10", str(tmp_path))
    message = str(caught.value)
    assert message.startswith(f"cifar10 is not in {tmp_path}")
    assert "(ConnectionError: Failed to resolve 'www.cs.toronto.edu')" in message
    assert isinstance(caught.value.__cause__, ConnectionError)
