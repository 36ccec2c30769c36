"""A folder of images, a folder a class."""

import numpy as np
import pytest
import tensorflow as tf

from lottery_tf.data import DataSettings, load
from lottery_tf.errors import UsageError

pytest.importorskip("tensorflow_datasets")


def png(grey: int, shape: tuple[int, ...] = (5, 6, 3)) -> bytes:
    return tf.io.encode_png(np.full(shape, grey, np.uint8)).numpy()


def written(folder, test: str = "test"):
    """Three classes of four training images and one test image, of grey 100 · label + number."""
    for label, name in enumerate(("apple", "bear", "cup")):
        for split, count in (("train", 4), (test, 1)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                shape = (5, 6, 1) if i == 1 else (5, 6, 3)
                (folder / split / name / f"{i}.png").write_bytes(png(100 * label + i, shape))
    return folder


def settings(folder, **more) -> DataSettings:
    return DataSettings("image_folder", str(folder), batch_size=2, **more)


@pytest.mark.parametrize("test", ["test", "val"])
def test_classes_are_folders_by_name(tmp_path, test):
    dataset = load(settings(written(tmp_path, test), dev_share=0.25))
    assert (len(dataset.train), len(dataset.dev), len(dataset.test)) == (9, 3, 3)
    assert (dataset.input_shape, dataset.num_classes, dataset.augment) == ((5, 6, 3), 3, False)
    for split in (dataset.train, dataset.dev, dataset.test):
        np.testing.assert_array_equal(split.images[:, 0, 0, 0] // 100, split.labels)
        np.testing.assert_array_equal(split.images.std((1, 2, 3)), 0)  # grey ones became RGB
    greys = np.concatenate([dataset.train.images, dataset.dev.images])[:, 0, 0, 0]
    assert sorted(greys) == [0, 1, 2, 3, 100, 101, 102, 103, 200, 201, 202, 203]


def test_two_readings_are_alike(tmp_path):
    first, again = (load(settings(folder)) for folder in [written(tmp_path)] * 2)
    np.testing.assert_array_equal(first.train.images, again.train.images)


def test_an_image_of_another_size_is_named(tmp_path):
    (written(tmp_path) / "test" / "bear" / "0.png").write_bytes(png(0, (5, 7, 3)))
    with pytest.raises(UsageError, match=r"test/bear/0.png has \(5, 7\) .* first has \(5, 6\)"):
        load(settings(tmp_path))


def test_a_damaged_image_is_refused(tmp_path):
    (written(tmp_path) / "train" / "cup" / "2.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match="An image of the split train in .* cannot be read"):
        load(settings(tmp_path))


@pytest.mark.parametrize(("missing", "has"), [("test", "train and 3"), ("train", "test and 3")])
def test_another_layout_is_refused(tmp_path, missing, has):
    (written(tmp_path) / missing).rename(tmp_path.with_name(f"{tmp_path.name}_{missing}"))
    with pytest.raises(UsageError, match=f"expects train/CLASS/IMAGE .* splits {has} classes"):
        load(settings(tmp_path))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no folder .*nowhere; give one with train/CLASS"):
        load(settings(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="--dataset=image_folder reads a folder with train/CLASS"):
        DataSettings("image_folder")
