"""tensorflow-datasets, with its own made-up examples in place of a download."""

import numpy as np
import pytest
import tensorflow as tf
from filelock import FileLock, Timeout

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
    def stored(builder, *_, **__):
        labels = np.arange(2 * classes) % classes
        images = np.zeros((len(labels), *shape), np.uint8)
        return tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})

    with tfds.testing.mock_data(as_dataset_fn=stored, data_dir=str(tmp_path)):
        dataset = load(
            DataSettings(dataset=name, data_dir=str(tmp_path), batch_size=4, dev_share=1 / classes)
        )
    assert (len(dataset.train), len(dataset.dev), len(dataset.test)) == (
        *(2 * classes - 2, 2),
        2 * classes,
    )
    assert (dataset.input_shape, dataset.num_classes) == (shape, classes)
    assert dataset.augment is augment
    assert dataset.flip is (name not in ("mnist", "svhn_cropped"))
    assert dataset.train.images.dtype == np.uint8 and dataset.train.labels.dtype == np.int32
    images, labels = next(dataset.stream().as_numpy_iterator())
    assert images.shape == (4, *shape) and labels.max() < classes


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_first_of_cifar_are_the_first_by_their_ids(tmp_path, name):
    """tensorflow-datasets stores them mixed: here in the order 7, 14, 21, … of 200."""
    classes = int(name.removeprefix("cifar"))

    def stored(builder, *_, **__):
        order = np.arange(1, 201) * 7 % 200
        examples = {
            "id": [f"train_{i:05d}" for i in order],
            "image": np.broadcast_to(order[:, None, None, None], (200, 32, 32, 3)).astype(np.uint8),
            "label": order % classes,
        }
        return tf.data.Dataset.from_tensor_slices(examples)

    with tfds.testing.mock_data(as_dataset_fn=stored, data_dir=str(tmp_path)):
        dataset = load(
            DataSettings(dataset=name, data_dir=str(tmp_path), dev_split="first", dev_share=0.1)
        )
    assert sorted(dataset.dev.images[:, 0, 0, 0]) == [*range(20)]
    assert dataset.train.images[:3, 31, 31, 2].tolist() == [21, 28, 35]
    assert dataset.train.labels[:3].tolist() == [21 % classes, 28 % classes, 35 % classes]


def test_no_other_process_prepares_meanwhile(tmp_path, monkeypatch):
    def prepare(self, **_):
        place = tmp_path / "cifar10" / str(self.version)
        with pytest.raises(Timeout):
            FileLock(place.with_name(f".{place.name}.lock")).acquire(timeout=0)
        prepared.append(place)

    prepared = []
    with (
        tfds.testing.mock_data(num_examples=20, data_dir=str(tmp_path)),
        monkeypatch.context() as patch,
    ):
        patch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", prepare)
        catalogue.read("cifar10", str(tmp_path))
    assert len(prepared) == 1
    FileLock(prepared[0].with_name(f".{prepared[0].name}.lock")).acquire(timeout=0)


def test_what_is_prepared_is_read_without_a_lock(tmp_path, monkeypatch):
    """Where it lies may be read-only."""
    monkeypatch.setattr(tfds.core.DatasetBuilder, "is_prepared", lambda self: True)
    with tfds.testing.mock_data(num_examples=20, data_dir=str(tmp_path)):
        assert len(catalogue.read("cifar10", str(tmp_path)).train) == 20
    assert not [*tmp_path.iterdir()]


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
