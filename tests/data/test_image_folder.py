"""Image folders: one written by hand, what is left out of it, and each way to go wrong."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lottery_tf.common.errors import UsageError
from lottery_tf.data import DataSettings, image_folder, load


def write(path: Path, value: int, shape: tuple = (4, 5, 3)) -> None:
    """An image of one colour, in the format of its name: exact as JPEG too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8).squeeze()).save(path)


@pytest.fixture
def folder(tmp_path):
    """Class cat has the values 10 and 11, class dog 20 and 21; 1 and 2 more are for testing."""
    write(tmp_path / "train/dog/a.png", 20)
    write(tmp_path / "train/dog/b.JPG", 21)
    write(tmp_path / "train/cat/z.png", 10)
    write(tmp_path / "train/cat/y.jpeg", 11)
    write(tmp_path / "test/cat/1.png", 12)
    write(tmp_path / "test/dog/1.png", 22)
    write(tmp_path / "test/dog/2.png", 23)
    return tmp_path


def found(split) -> dict[int, int]:
    """Value → label; all pixels of an image are alike."""
    assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
    values = split.images[:, 0, 0, 0]
    assert (split.images == values[:, None, None, None]).all()
    return dict(zip(values.tolist(), split.labels.tolist(), strict=True))


def test_classes_are_numbered_by_name(folder):
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


def test_the_order_is_that_of_tensorflow_datasets(folder):
    """By which they were read once: a run that is repeated has its dev split and batches again."""
    tfds = pytest.importorskip("tensorflow_datasets")
    for number in range(30):
        name = ("cat", "dog", "Ant", "é [x]")[number % 4]
        write(folder / "train" / name / f"{number * 7 % 10}{number}.png", 30 + number)
        write(folder / "test" / name / f"{number}.PNG", 70 + number)
    (folder / "train/cat/linked.png").symlink_to(folder / "test/cat/1.png")
    builder, source = tfds.folder_dataset.ImageFolder(str(folder)), image_folder.read(str(folder))
    for name, split in (("train", source.train), ("test", source.test)):
        examples = [*builder.as_dataset(split=name).as_numpy_iterator()]
        assert split.labels.tolist() == [example["label"] for example in examples]
        np.testing.assert_array_equal(split.images, [example["image"] for example in examples])
    assert source.names == builder.info.features["label"].names


def test_nothing_is_said_of_a_folder_that_is_read_wholly(folder, lines):
    for path in (
        *(".git/x", "train/.DS_Store", "train/dog/Thumbs.db", "train/dog/.gitkeep"),
        *("__MACOSX/train/._dog", "train/__MACOSX/dog/._a.png", "test/dog/__MACOSX/._1.png"),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    assert load(DataSettings("image_folder", str(folder), dev_share=0)).num_classes == 2
    assert lines == []


def several(folder: Path) -> None:
    """More folders than a line should name."""
    for number in range(9):
        write(folder / f"train/dog/{number}/x.png", 1)


LEFT_OUT = {
    "other endings": (
        lambda f: [write(f / path, 1) for path in ("train/dog/c.bmp", "test/cat/c.WEBP")],
        "2 files with other endings (.bmp, .webp) in test/cat, train/dog",
    ),
    "no ending": (
        lambda f: (f / "train/dog/notes").touch(),
        "1 file with other endings (none) in train/dog",
    ),
    "a folder in a class": (
        lambda f: [write(f / f"train/dog/2024/{path}", 1) for path in ("a.png", "b/c.png")],
        "2 files in folders within a class (train/dog/2024)",
    ),
    "a folder by the name of an image": (
        lambda f: (f / "test/dog/x.png").mkdir(),
        "0 files in folders within a class (test/dog/x.png)",
    ),
    "many folders": (
        several,
        "9 files in folders within a class (train/dog/0, train/dog/1, train/dog/2, train/dog/3, "
        "train/dog/4, train/dog/5 and 3 more)",
    ),
    "beside the classes": (
        lambda f: [write(f / "train/x.png", 1), (f / "test/labels.csv").touch()],
        "2 files beside the classes (test/labels.csv, train/x.png)",
    ),
    "hidden images": (
        lambda f: [write(f / path, 1) for path in ("train/cat/.x.png", "train/.old/1.png")],
        "what is hidden (train/.old, train/cat/.x.png)",
    ),
    "what a Mac puts beside an image": (
        lambda f: (f / "train/cat/._z.png").write_bytes(b"no image"),
        "what is hidden (train/cat/._z.png)",
    ),
    "another split": (
        lambda f: [write(f / "val/ant/1.png", 1), (f / "annotations").mkdir()],
        "folders beside train and test (annotations, val)",
    ),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_is_left_out_is_said_in_a_line(folder, lines, kind):
    change, message = LEFT_OUT[kind]
    change(folder)
    dataset = load(DataSettings("image_folder", str(folder), dev_share=0))
    assert lines == [f"image_folder: reads *.png, *.jpg, *.jpeg; left out: {message}"]
    assert found(dataset.train) == {10: 0, 11: 0, 20: 1, 21: 1}
    assert found(dataset.test) == {12: 0, 22: 1, 23: 1}


def test_all_that_is_left_out_is_one_line(folder, lines):
    for change, _ in LEFT_OUT.values():
        change(folder)
    image_folder.read(str(folder))
    assert len(lines) == 1 and lines[0].count("; ") == 5


@pytest.mark.parametrize("split", ["train", "all"])
def test_a_class_given_as_the_folder_is_told_and_the_one_above_it_named(folder, lines, split):
    if split == "all":  # no test folder: the classes are those of the folder itself
        shutil.rmtree(folder / "test")
        (folder / "train").rename(folder / "all")
    (folder / split / "dog/labels.csv").touch()
    above = folder if split == "train" else folder / split
    with pytest.raises(UsageError) as refused:
        image_folder.read(str(folder / split / "dog"))
    assert str(refused.value) == (
        f"`dataset=image_folder` expects a folder for each class in {folder / split / 'dog'}, and "
        "2 pictures lie directly in it; put those of each class in a folder of its own, or give "
        f"`data_dir={above}`, if its folders are the classes."
    )
    assert lines == []


def test_the_folder_above_where_one_is(folder, monkeypatch):
    (folder / "train/cat/y.jpeg").unlink()
    monkeypatch.chdir(folder / "train/cat")
    with pytest.raises(UsageError, match=rf"1 picture lies directly in .*data_dir={folder}`"):
        image_folder.read(".")


def test_pictures_of_no_class_in_train_are_told(folder, lines):
    shutil.rmtree(folder / "train")
    write(folder / "train/x.png", 1)
    with pytest.raises(UsageError, match=r"in .*/train, and 1 picture lies .* of its own\.$"):
        image_folder.read(str(folder))
    assert lines == []


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def as_bmp(folder: Path) -> None:
    for path in folder.iterdir():
        path.rename(path.with_suffix(".bmp"))


def nested(folder: Path) -> None:
    folder.rename(folder.parent / "moved")
    folder.mkdir()
    (folder.parent / "moved").rename(folder / "2024")


@pytest.mark.parametrize("lose", [emptied, as_bmp, nested, shutil.rmtree])
@pytest.mark.parametrize("name", ["cat", "dog"])
def test_a_class_is_not_lost(folder, lines, name, lose):
    settings = DataSettings("image_folder", str(folder), dev_share=0)
    number = ["cat", "dog"].index(name)
    lose(folder / "test" / name)
    assert load(settings).num_classes == 2
    assert f"no test images of class {number} ({name}); the test accuracy" in lines[-1]
    write(folder / "test" / name / "1.png", 12 + 10 * number)
    lose(folder / "train" / name)
    with pytest.raises(
        UsageError, match=rf"every class, 0 to 1, .*none of class {number} \({name}"
    ):
        load(settings)
    # What is measured is right: the class keeps its number.
    assert 12 + 10 * number in found(load(settings, training=False).test)


def test_names_of_classes_may_be_odd(folder):
    names = ["[x]", "a b", "émeu", "日本", "x.png", "%2F{0}"]
    for number, name in enumerate(names):
        for split in ("train", "test"):
            write(folder / split / name / "1 [é].PNG", 100 + number)
    source = image_folder.read(str(folder))
    assert source.names == sorted([*names, "cat", "dog"])
    for split in (source.train, source.test):
        of = found(split)
        assert [source.names[of[100 + number]] for number in range(6)] == names


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
        (
            lambda f: write(f / "test/cow/1.png", 1),
            r"every class, .* none of class 1 \(cow\); put images into the folder of that class "
            "for training, or remove it",
        ),
        (
            lambda f: [shutil.rmtree(f / "train/cat"), shutil.rmtree(f / "test/cat")],
            r"two classes or more, and there is only class 0 \(dog\)",
        ),
        (
            lambda f: write(f / "train/cat/y.jpeg", 1, (5, 5, 3)),
            "one size .* 4x5 and .* 5x5;",
        ),
        (lambda f: [write(p, 1, (4, 4, 3)) for p in f.glob("test/*/*")], "4x5 and .*/test/.* 4x4"),
        (lambda f: (f / "train/cat/z.png").write_bytes(b"PNG"), "/train/cat/z.png cannot be read"),
        (lambda f: (f / "train/dog/b.JPG").write_bytes(b""), "/train/dog/b.JPG cannot be read"),
        (lambda f: (f / "test/cat/x.jpg").symlink_to("no"), "/test/cat/x.jpg leads nowhere"),
    ],
)
def test_folders_that_are_not_what_they_should_be(folder, change, message):
    change(folder)
    with pytest.raises(UsageError, match=message):
        load(DataSettings("image_folder", str(folder), dev_share=0))


def test_a_folder_that_may_not_be_read(folder, monkeypatch):
    list_ = Path.iterdir

    def refuse(path):
        if path.name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return list_(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UsageError, match=r"cannot read .*/train/dog \(Permission denied\); mend"):
        image_folder.read(str(folder))


def test_a_missing_folder(tmp_path):
    with pytest.raises(UsageError, match="expects a folder train in .*/nowhere"):
        image_folder.read(str(tmp_path / "nowhere"))


def test_no_folder_at_all():
    told = "`dataset=image_folder` reads a folder .*; name it with `data_dir`"
    with pytest.raises(UsageError, match=told):
        DataSettings(dataset="image_folder")


# Classes alone, of which test images are drawn


@pytest.fixture
def classes(tmp_path):
    """10 images of ant, 5 of bee, 2 of cow, 1 of dog; each image has a value of its own."""
    values = iter(range(100))
    for name, count in (("ant", 10), ("bee", 5), ("cow", 2), ("dog", 1)):
        for number in range(count):
            write(tmp_path / name / f"{number}.png", next(values))
    return tmp_path


SPLIT = (
    "image_folder: no folders train and test in {}: 14 images are drawn for training, 4 for "
    "testing (test_share 0.2, test_seed 0): ant 8 and 2, bee 4 and 1, cow 1 and 1, dog 1 and 0"
)


def test_classes_alone_are_split_by_class_and_seed(classes, lines):
    one, two = image_folder.read(str(classes)), image_folder.read(str(classes))
    assert lines[0] == SPLIT.format(classes)
    assert one.names == ["ant", "bee", "cow", "dog"]
    assert np.bincount(one.test.labels, minlength=4).tolist() == [2, 1, 1, 0]
    assert sorted({**found(one.train), **found(one.test)}) == [*range(18)]
    assert one.sha256 == two.sha256
    other = image_folder.read(str(classes), test_seed=1)
    assert found(other.test) != found(one.test) and other.sha256 != one.sha256
    half = image_folder.read(str(classes), test_share=0.5)
    assert np.bincount(half.test.labels, minlength=4).tolist() == [5, 2, 1, 0]
    assert np.bincount(half.train.labels).tolist() == [5, 3, 1, 1]


def test_the_test_images_are_the_same_for_every_data_seed(classes):
    """A ticket of one data_seed that is retrained with another never meets them."""
    settings = {"dataset": "image_folder", "data_dir": str(classes), "dev_share": 0.1}
    one, two = (load(DataSettings(**settings, data_seed=seed), training=False) for seed in (0, 1))
    np.testing.assert_array_equal(one.test.images, two.test.images)
    assert one.sha256 == two.sha256 and one.class_names == ("ant", "bee", "cow", "dog")


def test_another_class_changes_nothing_of_the_others(classes):
    before = image_folder.read(str(classes))
    write(classes / "aardvark/1.png", 90)
    write(classes / "aardvark/2.png", 91)
    after = image_folder.read(str(classes))
    kept = {value: label - 1 for value, label in found(after.test).items() if label}
    assert kept == found(before.test)


def test_what_is_drawn_stays_so(classes):
    """By the sums of seed, class and name, those with the lowest."""
    sums = {n: hashlib.sha256(f"0/ant/{n}.png".encode()).hexdigest() for n in range(10)}
    drawn = sorted(sums, key=sums.get)[:2]
    test = found(image_folder.read(str(classes)).test)
    assert sorted(value for value, label in test.items() if label == 0) == sorted(drawn)


@pytest.mark.parametrize("count", [10, 12, 13, 100])
def test_another_image_moves_one_at_most(count):
    """Of a retrained ticket's test images nearly none have been trained on."""

    def drawn(names):
        parts = image_folder._drawn([(Path("cat", name), "cat") for name in names], 0.2, 0)
        return [{path.name for path, _ in part} for part in parts]

    names = [f"{number:04}.png" for number in range(count)]
    train, test = drawn(names)
    for more in ("0000a.png", "9999.png", "x.jpg", "y.jpg"):
        after_train, after_test = drawn(sorted([*names, more]))
        assert len(after_test & train) + len(after_train & test) <= 1
    for less in (names[0], names[-1], min(test)):
        after_train, after_test = drawn([name for name in names if name != less])
        assert len(after_test & train) + len(after_train & test) <= 1


def test_what_else_lies_beside_the_classes_is_said(classes, lines):
    (classes / "labels.csv").touch()
    image_folder.read(str(classes))
    assert lines[0].endswith("left out: 1 file beside the classes (labels.csv)")


def test_a_run_within_is_no_class(classes, lines):
    """Nor is a sweep, with runs that keep pictures, nor a folder without images."""
    before = image_folder.read(str(classes))
    lines.clear()
    for path in ("run/config.json", "sweep/seed_0/find/config.json", "notes/a.txt"):
        (classes / path).parent.mkdir(parents=True)
        (classes / path).touch()
    for path in ("run/plots/x.png", "sweep/seed_0/find/x.png"):
        write(classes / path, 1)
    after = image_folder.read(str(classes))
    assert after.names == before.names and after.sha256 == before.sha256
    assert lines[0].endswith("left out: folders without images and of runs (notes, run, sweep)")
    write(classes / "run/1.png", 1)  # images go before a file
    assert "run" in image_folder.read(str(classes)).names


def test_a_class_may_be_called_train(classes):
    (classes / "bee").rename(classes / "train")
    source = image_folder.read(str(classes))
    assert source.names == ["ant", "cow", "dog", "train"]
    assert np.bincount(source.test.labels, minlength=4).tolist() == [2, 1, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "train").mkdir(), "a folder test in .*, and there is none; add it"),
        (lambda f: (f / "val").mkdir(), "a folder train in .*, and there is none; add it"),
        (lambda f: [p.unlink() for p in f.glob("*/*")], "a folder for each class in .*, and there"),
        (
            lambda f: [shutil.rmtree(f / name) for name in ("ant", "bee", "cow")],
            "two images or more of a class",
        ),
        (
            lambda f: write(f / "elk/1.bmp", 1),
            r"none of class 4 \(elk\); put images into the folder of",
        ),
        (
            lambda f: write(f / "elk/2024/1.png", 1),
            r"none of class 4 \(elk\); put images into the folder of",
        ),
        (lambda f: write(f / "train/ant/1.png", 1), "a folder test in .*, and there is none"),
    ],
)
def test_classes_alone_that_are_not_what_they_should_be(classes, change, message):
    change(classes)
    with pytest.raises(UsageError, match=message):
        load(DataSettings("image_folder", str(classes), dev_share=0))


# Sizes and colours


@pytest.mark.parametrize("size", [6, "6", "6X6", "6x6", "06x6"])
def test_a_size_is_written_in_one_way(size):
    assert DataSettings("image_folder", "x", image_size=size).image_size == "6x6"


def test_images_of_several_sizes_are_brought_to_one(folder):
    write(folder / "train/cat/wide.png", 13, (8, 20, 3))
    write(folder / "train/dog/tall.png", 24, (9, 3, 3))
    for how in ("resize", "center_crop"):
        data = load(DataSettings("image_folder", str(folder), image_size="6x7", image_resize=how))
        assert data.input_shape == (6, 7, 3)
        assert {13: 0, 24: 1}.items() <= (found(data.train) | found(data.dev)).items()
    square = load(DataSettings("image_folder", str(folder), image_size="8"))
    assert square.input_shape == (8, 8, 3)


def test_grey_folders_are_grey_and_mixed_ones_are_rgb(folder, lines):
    """Whatever comes first, and in whichever split."""
    write(folder / "test/cat/grey.png", 30, (4, 5, 1))
    mixed = image_folder.read(str(folder))
    assert mixed.train.images.shape[1:] == mixed.test.images.shape[1:] == (4, 5, 3)
    assert found(mixed.test)[30] == 0
    assert lines == [
        "image_folder: 1 of 8 images are grey, the others have colours: all are read as RGB "
        "(image_channels=1 reads all as grey)"
    ]
    assert image_folder.read(str(folder), image_channels=1).train.images.shape == (4, 4, 5, 1)
    for path in [*folder.glob("*/*/*.*")]:
        write(path, 50, (4, 5, 1))
    grey = image_folder.read(str(folder))
    assert grey.train.images.shape == (4, 4, 5, 1)
    assert image_folder.read(str(folder), image_channels=3).train.images.shape == (4, 4, 5, 3)
    assert len(lines) == 1


def test_colours_behind_grey_ones(folder, lines):
    greys = [path for path in folder.glob("train/*/*") if path.name != "z.png"]
    for path in greys:
        write(path, 40, (4, 5, 1))
    assert image_folder.read(str(folder)).train.images.shape[1:] == (4, 5, 3)
    assert "3 of 7 images are grey" in lines[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": "0"}, "HxW or N"),
        ({"image_size": "32x"}, "HxW or N"),
        ({"image_size": "1x2x3"}, "HxW or N"),
        ({"image_size": "10000"}, "from 1 to 4,096"),
        ({"image_size": "9" * 5000}, "from 1 to 4,096"),
        ({"image_size": (6, 7)}, r"HxW or N, .* not '\(6, 7\)'"),
        ({"image_size": True}, "HxW or N, .* not 'True'"),
        ({"image_size": 0}, "HxW or N"),
        ({"image_channels": 2}, "1 .grey. or 3"),
        ({"image_resize": "crop"}, "`image_resize` takes resize or center_crop"),
        ({"test_share": 0.0}, "above 0"),
        ({"test_share": float("nan")}, "above 0"),
        ({"test_seed": -1}, "`test_seed`"),
        ({"dataset": "digits", "image_size": "8"}, "is for `dataset=image_folder`, not for"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UsageError, match=message):
        DataSettings(**{"dataset": "image_folder", "data_dir": "x", **settings})
