"""Tiny-ImageNet: a folder of its form with 3 classes of 4 images, and each way to go wrong."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.data import DataSettings, catalogue, load

pytest.importorskip("tensorflow_datasets")
from lottery_tf.data import tiny_imagenet

# In the order of wnids.txt, which is not the alphabet's.
CLASSES = ["n02124075", "n04067472", "n01443537"]


def jpeg(value: int, channels: int = 3, side: int = 64) -> bytes:
    """An image of one colour, exact as JPEG."""
    return tf.io.encode_jpeg(np.full((side, side, channels), value, np.uint8)).numpy()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Training image i of class c has the value 10 c + i, and validation image i 100 + i."""
    for name, count in (("CLASSES", 3), ("TRAIN", 12), ("VALIDATION", 5)):
        monkeypatch.setattr(tiny_imagenet, name, count)
    root = tmp_path / "tiny-imagenet-200"
    for c, wnid in enumerate(CLASSES):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        for i in range(4):
            # The last of each class is grey.
            (images / f"{wnid}_{i}.JPEG").write_bytes(jpeg(10 * c + i, 1 if i == 3 else 3))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
    (root / "val" / "images").mkdir(parents=True)
    for i in range(5):
        (root / "val" / "images" / f"val_{i}.JPEG").write_bytes(jpeg(100 + i))
    rows = [f"val_{i}.JPEG\t{CLASSES[i % 3]}\t0\t32\t44\t62\n" for i in range(5)]
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    (root / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\n")
    (root / "test" / "images").mkdir(parents=True)
    (root / "test" / "images" / "test_0.JPEG").write_bytes(jpeg(200))
    return root


def found(split) -> dict[int, int]:
    """Value → label; all pixels of an image are alike."""
    assert split.images.shape[1:] == (64, 64, 3)
    assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
    values = split.images[:, 0, 0, 0]
    assert (split.images == values[:, None, None, None]).all()
    return dict(zip(values.tolist(), split.labels.tolist(), strict=True))


# By the alphabet n01443537, whose values are 20 .. 23, is class 0, n02124075 is 1, n04067472 is 2.
TRAIN = {
    **{i: 1 for i in range(4)},
    **{10 + i: 2 for i in range(4)},
    **{20 + i: 0 for i in range(4)},
}
VALIDATION = {100: 1, 101: 2, 102: 0, 103: 1, 104: 2}


@pytest.mark.parametrize("given", ["the folder itself", "the folder that holds it"])
def test_every_image_has_its_label_and_grey_is_rgb(folder, given):
    source = catalogue.read_tiny_imagenet(str(folder if "itself" in given else folder.parent))
    assert source.num_classes == 3
    assert found(source.train) == TRAIN
    assert found(source.test) == VALIDATION


def test_it_is_loaded_by_its_name(folder):
    settings = DataSettings(
        dataset="tiny_imagenet", data_dir=str(folder), dev_share=0.25, batch_size=4
    )
    one, two = load(settings), load(settings)
    assert (len(one.train), len(one.dev), len(one.test)) == (9, 3, 5)
    assert (one.input_shape, one.num_classes) == ((64, 64, 3), 3)
    assert one.augment and one.flip
    assert found(one.dev) | found(one.train) == TRAIN
    np.testing.assert_array_equal(one.train.images, two.train.images)
    assert next(one.stream().as_numpy_iterator())[0].shape == (4, 64, 64, 3)


def test_what_is_written_lies_in_data_dir_and_is_read_from_then_on(folder):
    before = catalogue.read_tiny_imagenet(str(folder.parent))
    assert sorted(p.name for p in folder.parent.iterdir()) == ["tiny-imagenet-200", "tiny_imagenet"]
    shutil.rmtree(folder)
    after = catalogue.read_tiny_imagenet(str(folder.parent))
    np.testing.assert_array_equal(before.train.images, after.train.images)
    np.testing.assert_array_equal(before.test.labels, after.test.labels)


# Prepares as the test above does, but not before the file "go" is there.
PREPARE = """
import sys, time
from pathlib import Path
from lottery_tf.data import catalogue, tiny_imagenet

tiny_imagenet.CLASSES, tiny_imagenet.TRAIN, tiny_imagenet.VALIDATION = 3, 12, 5
folder, name = Path(sys.argv[1]), sys.argv[2]
generate = tiny_imagenet.TinyImagenet._split_generators

def wait(self, manager):
    (folder / f"{name} prepares").touch()
    while not (folder / "go").exists():
        time.sleep(0.05)
    return generate(self, manager)

tiny_imagenet.TinyImagenet._split_generators = wait
print(len(catalogue.read_tiny_imagenet(str(folder)).train))
"""


@pytest.mark.e2e
def test_of_two_processes_one_prepares_and_the_other_waits(folder):
    root = folder.parent

    def start(name):
        command = [sys.executable, "-c", PREPARE, str(root), name]
        pipe = subprocess.PIPE
        # All that it prints at the end fits into a pipe.
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ)

    first = start("first")
    try:
        while not (root / "first prepares").exists():
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        second = start("second")
        try:
            before = []
            for line in second.stderr:
                before.append(line)
                if line == "tiny_imagenet: waits for another process, which prepares it\n":
                    break
            else:
                pytest.fail("".join(before))
            (root / "go").touch()
            for process in (first, second):
                out, err = process.communicate(timeout=120)
                assert process.returncode == 0, err
                assert out.split()[-1] == "12"
        finally:
            second.kill()
    finally:
        first.kill()
    assert not (root / "second prepares").exists()


def cut(path: Path, count: int) -> None:
    """Leaves the first ``count`` bytes of a file; those before its end where it is below 0."""
    path.write_bytes(path.read_bytes()[:count])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "wnids.txt").unlink(), "unpacked tiny-imagenet-200.zip in .*no wnids.txt"),
        (lambda f: cut(f / "wnids.txt", 20), "3 classes .*wnids.txt, and found 2; unpack"),
        (lambda f: shutil.rmtree(f / "train" / CLASSES[1]), "12 training .*/train, and found 8;"),
        (
            lambda f: (f / "train" / CLASSES[0] / "images" / f"{CLASSES[0]}_3.JPEG").unlink(),
            "12 training images .*/train, and found 11;",
        ),
        (lambda f: shutil.rmtree(f / "val"), "file .*/val_annotations.txt .*No such file"),
        (lambda f: cut(f / "val/val_annotations.txt", 60), "5 labels .*and found [123];"),
        (lambda f: cut(f / "val/val_annotations.txt", 0), "5 labels .*and found 0;"),
        (lambda f: (f / "val/images/val_4.JPEG").unlink(), "val_4.JPEG .*No such file"),
        (lambda f: cut(f / "val/images/val_2.JPEG", -40), "64×64 .*val_2.JPEG, and it is damaged"),
        (lambda f: cut(f / "val/images/val_2.JPEG", 0), "64×64 .*val_2.JPEG, and it is damaged"),
        (
            lambda f: (f / "val/images/val_0.JPEG").write_bytes(jpeg(1, side=32)),
            r"val_0.JPEG, and its shape is \(32, 32, 3\)",
        ),
    ],
)
def test_folders_that_are_not_what_they_should_be(folder, change, message):
    change(folder)
    with pytest.raises(UsageError, match=message):
        catalogue.read_tiny_imagenet(str(folder.parent))
    # Nothing is left that would be taken for the dataset.
    assert not (folder.parent / "tiny_imagenet" / "1.0.0").exists()


def test_a_folder_that_cannot_be_written(folder):
    (folder.parent / "tiny_imagenet").write_text("in the way")
    with pytest.raises(UsageError, match="expects to write .*/tiny_imagenet/1.0.0, and cannot"):
        catalogue.read_tiny_imagenet(str(folder.parent))


def test_no_folder_at_all(tmp_path):
    with pytest.raises(UsageError, match="tiny_imagenet` reads the unpacked .*with `data_dir`"):
        DataSettings(dataset="tiny_imagenet")
    with pytest.raises(UsageError, match="in .*/nowhere, and there is no wnids.txt"):
        catalogue.read_tiny_imagenet(str(tmp_path / "nowhere"))
