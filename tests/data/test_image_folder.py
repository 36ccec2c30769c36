"""Image folders: one written by hand, and each way to go wrong."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from lottery_tf.data import DataSettings, image_folder, load
from lottery_tf.errors import UsageError

pytest.importorskip("tensorflow_datasets")


def write(path: Path, value: int, shape: tuple = (4, 5, 3)) -> None:
    """An image of one colour, in the format of its name: exact as JPEG too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = tf.io.encode_png if path.suffix == ".png" else tf.io.encode_jpeg
    path.write_bytes(encode(np.full(shape, value, np.uint8)).numpy())


@pytest.fixture
def folder(tmp_path):
    """Class cat has the values 10 and 11, class dog 20 and 21; 1 and 2 more are for testing."""
    write(tmp_path / "train/dog/a.png", 20)
    write(tmp_path / "train/dog/b.JPG", 21, (4, 5, 1))  # grey
    write(tmp_path / "train/cat/z.png", 10)
    write(tmp_path / "train/cat/y.jpeg", 11)
    write(tmp_path / "test/cat/1.png", 12)
    write(tmp_path / "test/dog/1.png", 22)
    write(tmp_path / "test/dog/2.png", 23)
    (tmp_path / "train/dog/notes.txt").write_text("no image")
    return tmp_path


def found(split) -> dict[int, int]:
    """Value → label; all pixels of an image are alike."""
    assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
    values = split.images[:, 0, 0, 0]
    assert (split.images == values[:, None, None, None]).all()
    return dict(zip(values.tolist(), split.labels.tolist(), strict=True))


def test_classes_are_numbered_by_name_and_grey_is_rgb(folder):
    source = image_folder.read(str(folder))
    assert source.num_classes == 2
    assert source.train.images.shape == (4, 4, 5, 3)
    assert found(source.train) == {10: 0, 11: 0, 20: 1, 21: 1}
    assert found(source.test) == {12: 0, 22: 1, 23: 1}


def test_it_is_loaded_by_its_name_and_in_the_same_order_every_time(folder):
    settings = DataSettings(
        dataset="image_folder", data_dir=str(folder), dev_share=0.25, batch_size=3
    )
    one, two = load(settings), load(settings)
    assert (len(one.train), len(one.dev), len(one.test)) == (3, 1, 3)
    assert (one.input_shape, one.num_classes, one.augment) == ((4, 5, 3), 2, False)
    np.testing.assert_array_equal(one.train.images, two.train.images)
    images, labels = next(one.stream().as_numpy_iterator())
    assert images.shape == (3, 4, 5, 3) and set(labels) <= {0, 1}


def test_val_is_for_testing_where_there_is_no_test(folder, monkeypatch):
    (folder / "test").rename(folder / "val")
    monkeypatch.setenv("HOME", str(folder.parent))
    source = image_folder.read(f"~/{folder.name}")
    assert found(source.test) == {12: 0, 22: 1, 23: 1}


def test_test_goes_before_val(folder):
    write(folder / "val/cat/1.png", 99)
    assert found(image_folder.read(str(folder)).test) == {12: 0, 22: 1, 23: 1}


def test_folders_beside_train_and_test_are_no_classes(folder):
    """As tensorflow-datasets takes them for."""
    write(folder / "val/ant/1.png", 99)
    for name in (".git/branches", "annotations/xmls", "train/bird"):
        (folder / name).mkdir(parents=True)
    source = image_folder.read(str(folder))
    assert source.num_classes == 2
    assert found(source.train) == {10: 0, 11: 0, 20: 1, 21: 1}
    assert found(source.test) == {12: 0, 22: 1, 23: 1}


def remove(folder: Path) -> None:
    for file in folder.glob("**/*.*"):
        file.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "train").rename(f / "training"), "a folder train in .*there is none"),
        (lambda f: (f / "test").rename(f / "testing"), "a folder test in .*there is none"),
        (lambda f: remove(f / "train"), r"images, \*.png, .*/train, and there are none"),
        (lambda f: remove(f / "test"), r"images, \*.png, .*/test, and there are none"),
        (lambda f: remove(f / "train/cat"), "every class in .*/train, .* no images of 'cat'"),
        (lambda f: write(f / "test/cow/1.png", 1), "every class in .*/train, .* images of 'cow'"),
        (lambda f: write(f / "train/cat/y.jpeg", 1, (5, 5, 3)), r"one shape, .*\(5, 5, 3\)"),
        (lambda f: [write(p, 1, (4, 4, 3)) for p in f.glob("test/*/*")], r"5, 3\) .*ing \(4, 4, 3"),
        (lambda f: (f / "train/cat/z.png").write_bytes(b"PNG"), "/train/cat/z.png cannot be read"),
        (lambda f: (f / "train/dog/b.JPG").write_bytes(b""), "/train/dog/b.JPG cannot be read"),
    ],
)
def test_folders_that_are_not_what_they_should_be(folder, change, message):
    change(folder)
    with pytest.raises(UsageError, match=message):
        image_folder.read(str(folder))


def test_a_missing_folder(tmp_path):
    with pytest.raises(UsageError, match="expects a folder train in .*/nowhere"):
        image_folder.read(str(tmp_path / "nowhere"))


def test_no_folder_at_all():
    with pytest.raises(UsageError, match="image_folder reads a folder .*; name it with --data_dir"):
        DataSettings(dataset="image_folder")
