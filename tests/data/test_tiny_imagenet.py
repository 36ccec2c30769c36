"""Tiny-ImageNet from a small folder in the form of the true one."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from lottery_tf.data import DataSettings, load
from lottery_tf.errors import UsageError

pytest.importorskip("tensorflow_datasets")
CLASSES = 200
# As in the true wnids.txt they come in no order.
WNIDS = [f"n{(7 * i) % CLASSES:08d}" for i in range(CLASSES)]


def jpeg(grey: int, channels: int = 3) -> bytes:
    return tf.io.encode_jpeg(np.full((64, 64, channels), grey, np.uint8)).numpy()


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """Two training images and one validation image a class, of grey 10 + label; some grey JPEGs."""
    parent = tmp_path_factory.mktemp("data")
    folder = parent / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    lines = []
    for label, wnid in enumerate(sorted(WNIDS)):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for i in range(2):
            content = jpeg(10 + label, channels=1 if label % 50 == 0 else 3)
            (images / f"{wnid}_{i}.JPEG").write_bytes(content)
        name = f"val_{(3 * label) % CLASSES}.JPEG"
        (folder / "val" / "images" / name).write_bytes(jpeg(10 + label))
        lines.append(f"{name}\t{wnid}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return parent


def settings(folder, **more) -> DataSettings:
    return DataSettings("tiny_imagenet", str(folder), batch_size=4, **more)


def test_the_folder_is_read_with_its_labels(unpacked):
    dataset = load(settings(unpacked))
    assert (len(dataset.train), len(dataset.dev), len(dataset.test)) == (360, 40, 200)
    assert (dataset.input_shape, dataset.num_classes, dataset.augment) == ((64, 64, 3), 200, True)
    for split in (dataset.train, dataset.dev, dataset.test):
        assert split.images.dtype == np.uint8
        # The grey of a class, in all three channels and of all pixels.
        greys = np.broadcast_to((10 + split.labels)[:, None, None, None], split.images.shape)
        np.testing.assert_allclose(split.images.astype(int), greys, atol=1)
    assert sorted(dataset.test.labels) == list(range(200))
    images, _ = next(dataset.stream().as_numpy_iterator())
    assert images.shape == (4, 64, 64, 3)


def test_it_is_prepared_once_and_the_inner_folder_serves_as_well(unpacked):
    first = load(settings(unpacked))
    again = load(settings(unpacked / "tiny-imagenet-200"))
    np.testing.assert_array_equal(first.train.labels, again.train.labels)
    prepared = unpacked / "tiny_imagenet"
    assert prepared.is_dir()
    alone = unpacked / "alone"
    shutil.copytree(prepared, alone / "tiny_imagenet")
    np.testing.assert_array_equal(load(settings(alone)).test.labels, first.test.labels)


@pytest.fixture
def copied(unpacked, tmp_path):
    shutil.copytree(unpacked / "tiny-imagenet-200", tmp_path / "tiny-imagenet-200")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("wnids.txt", "n1\nn2\n", "wnids.txt should name 200 classes, and names 2"),
        ("val/val_annotations.txt", None, "There is no .*val_annotations.txt; unpack"),
        ("val/val_annotations.txt", "val_999.JPEG\tn00000000\t0\n", "val_999.JPEG n00000000'"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_and_nothing_is_left(copied, path, content, message):
    damaged = copied / "tiny-imagenet-200" / path
    damaged.unlink() if content is None else damaged.write_text(content)
    with pytest.raises(UsageError, match=message):
        load(settings(copied))
    assert not list(copied.glob("tiny_imagenet/*/*.tfrecord*"))


def test_a_class_without_images_is_named(copied):
    shutil.rmtree(copied / "tiny-imagenet-200" / "train" / "n00000003")
    with pytest.raises(UsageError, match="has none in train/n00000003/images"):
        load(settings(copied))


def test_a_folder_without_it_is_refused(tmp_path):
    with pytest.raises(UsageError, match="expects the folder tiny-imagenet-200 in --data_dir"):
        load(settings(tmp_path))
    with pytest.raises(UsageError, match="--dataset=tiny_imagenet reads the folder .* unpacked"):
        DataSettings("tiny_imagenet")
