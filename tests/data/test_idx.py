"""IDX folders: a tiny one written by hand, the real Fashion-MNIST, and each way to go wrong."""

import gzip
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lottery_tf.common.errors import UsageError
from lottery_tf.data import DataSettings, idx, load

NAMES = [name for pair in idx.FILES.values() for name in pair]
# Three images of 2×3 pixels, and their labels, byte by byte.
IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 3, *range(18)])
LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 0, 2])


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        (tmp_path / name).write_bytes(IMAGES if "images" in name else LABELS)
    return tmp_path


def test_a_folder_written_by_hand(folder):
    source = idx.read(str(folder))
    assert source.num_classes == 3
    for split in (source.train, source.test):
        assert split.images.shape == (3, 2, 3, 1) and split.images.dtype == np.uint8
        assert split.images[1, :, :, 0].tolist() == [[6, 7, 8], [9, 10, 11]]
        assert split.labels.tolist() == [1, 0, 2] and split.labels.dtype == np.int32


def test_gzipped_files_and_a_home_folder(folder, monkeypatch):
    for name in NAMES[1:]:
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    monkeypatch.setenv("HOME", str(folder.parent))
    source = idx.read(f"~/{folder.name}")
    assert source.test.images.ravel().tolist() == [*range(18)]


def test_classes_are_counted_over_both_splits(folder):
    (folder / NAMES[3]).write_bytes(LABELS[:-1] + b"\x07")
    assert idx.read(str(folder)).num_classes == 8


def test_a_missing_folder(tmp_path):
    with pytest.raises(UsageError, match=r"`data_dir` expects a folder .*no folder .*/nowhere;"):
        idx.read(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(UsageError, match=f"expects {name} or {name}.gz in .*neither is there"):
        idx.read(str(folder))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (NAMES[0], b"", "begins with nothing"),
        (NAMES[0], b"PK\x03\x04" + IMAGES, "00 00 08 03, and it begins with 50 4b 03 04"),
        (NAMES[0], LABELS, "uint8 in 3 dimensions.* begins with 00 00 08 01"),
        (NAMES[1], IMAGES, "uint8 in 1 dimensions.* begins with 00 00 08 03"),
        (NAMES[0], b"\0\0\x0d" + IMAGES[3:], "begins with 00 00 0d 03"),
        (NAMES[0], IMAGES[:9], "should be an IDX file"),
        (NAMES[0], IMAGES[:-1], r"18 values by its header, \(3, 2, 3\), and holds 17"),
        (NAMES[2], IMAGES + b"\0", r"18 values by its header, \(3, 2, 3\), and holds more"),
        (NAMES[1], bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 0]), "and hold 3 and 2"),
        (NAMES[2], IMAGES[:11] + b"\x03\0\0\0\x02" + IMAGES[16:], r"\(2, 3\) and the test .*3, 2"),
    ],
)
def test_files_that_are_not_what_they_should_be(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        idx.read(str(folder))


def test_a_header_beyond_all_memory_is_not_believed(folder):
    (folder / NAMES[0]).write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12 + bytes(18))
    with pytest.raises(UsageError, match="by its header"):
        idx.read(str(folder))


@pytest.mark.parametrize("packed", [True, False])
def test_no_more_is_read_than_the_header_says(folder, packed, monkeypatch):
    """Half a megabyte of gzip may unpack to 512."""
    read = []

    class Counting(io.BytesIO):
        def read(self, size=-1):
            read.append(size)
            return super().read(size)

    content = IMAGES + bytes(1 << 20)
    if packed:
        monkeypatch.setattr(idx.gzip, "open", lambda path, mode: Counting(content))
        (folder / NAMES[0]).unlink()
        (folder / f"{NAMES[0]}.gz").write_bytes(b"")
    else:
        (folder / NAMES[0]).write_bytes(content)
    with pytest.raises(UsageError, match="and holds more"):
        idx.read(str(folder))
    assert not packed or (min(read) >= 0 and sum(read) <= len(IMAGES) + 1)


def test_a_folder_without_images(folder):
    (folder / NAMES[0]).write_bytes(bytes([0, 0, 8, 3, *[0] * 12]))
    (folder / NAMES[1]).write_bytes(bytes([0, 0, 8, 1, *[0] * 4]))
    with pytest.raises(UsageError, match="holds no pixels"):
        idx.read(str(folder))


@pytest.mark.parametrize(
    "content", [gzip.compress(IMAGES)[:-9], IMAGES, b""], ids=["cut short", "not packed", "empty"]
)
def test_a_gzip_file_that_is_none_or_cut_short(folder, content):
    (folder / NAMES[0]).unlink()
    (folder / f"{NAMES[0]}.gz").write_bytes(content)
    with pytest.raises(UsageError):
        idx.read(str(folder))


def fashion_mnist() -> Path:
    if not shutil.which("dpkg"):
        pytest.skip("not a Debian machine, where Fashion-MNIST is a package")
    listing = subprocess.run(
        ["dpkg", "-L", "dataset-fashion-mnist"], capture_output=True, text=True, check=False
    )
    found = [line for line in listing.stdout.split() if line.endswith("ubyte.gz")]
    if not found:
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    return Path(found[0]).parent


def test_the_real_fashion_mnist():
    dataset = load(DataSettings(dataset="idx", data_dir=str(fashion_mnist())))
    assert (len(dataset.train), len(dataset.dev), len(dataset.test)) == (54_000, 6_000, 10_000)
    assert (dataset.input_shape, dataset.num_classes) == ((28, 28, 1), 10)
    labels = np.concatenate([dataset.train.labels, dataset.dev.labels])
    assert np.bincount(labels).tolist() == [6_000] * 10
    # The published moments, 0.2860 and 0.3530 of 255, are of all 60,000 images.
    assert dataset.mean[0] / 255 == pytest.approx(0.2860, abs=1e-3)
    assert dataset.std[0] / 255 == pytest.approx(0.3530, abs=1e-3)
