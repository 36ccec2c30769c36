"""DataSettings and load: what is refused, and how the examples are shared out."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from lottery_tf import data
from lottery_tf.common.errors import UsageError
from lottery_tf.data import DataSettings, Source, Split, load
from lottery_tf.data.source import channel_moments


@pytest.fixture
def numbered(monkeypatch):
    """A source of 100 images of one pixel, image i of value i and class i mod 2, as the digits."""
    values = np.arange(100, dtype=np.uint8)
    split = Split(values.reshape(-1, 1, 1, 1), (values % 2).astype(np.int32))
    monkeypatch.setitem(data.READERS, "digits", lambda data_dir: Source(split, split, 2))


def numbers(split: Split) -> list[int]:
    return split.images.ravel().tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(dataset="cifar_10"), "`dataset` takes .*not 'cifar_10'; nearest: cifar10"),
        (dict(dataset="idx"), "`dataset=idx` reads a folder of IDX files; name it with `data_dir`"),
        (dict(dev_share=1.0), "`dev_share` expects .*below 1, not 1.0"),
        (dict(dev_share=-0.1), "`dev_share` expects .*not -0.1"),
        (dict(dev_share=float("nan")), "`dev_share` expects .*not nan"),
        (dict(dev_split="last"), "`dev_split` takes random or first, not 'last'"),
        (dict(train_examples=0), "`train_examples` expects .*at least 1, not 0"),
        (dict(data_seed=-1), "`data_seed` expects .*at least 0, not -1"),
        (dict(batch_size=0), "`batch_size` expects .*at least 1, not 0"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        DataSettings(**arguments)


@pytest.mark.parametrize("dev_share", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_dev_and_train_share_the_examples_out_in_order(numbered, dev_share, seed):
    dataset = load(DataSettings(dev_share=dev_share, data_seed=seed))
    dev, train = numbers(dataset.dev), numbers(dataset.train)
    assert len(dev) == round(100 * dev_share)
    assert sorted([*dev, *train]) == list(range(100))
    assert train == sorted(train) and dev == sorted(dev)
    assert dataset.train.labels.tolist() == [number % 2 for number in train]


def test_the_seed_decides_the_dev_split(numbered):
    dev = [numbers(load(DataSettings(data_seed=seed)).dev) for seed in (0, 0, 1)]
    assert dev[0] == dev[1] != dev[2]


@pytest.fixture
def ten_classes(numbered, monkeypatch):
    """The numbered images as 10 classes in turn: 0 .. 9, 0 .. 9, …"""
    images = data.READERS["digits"](None).train.images
    split = Split(images, images.ravel() % np.int32(10))
    monkeypatch.setitem(data.READERS, "digits", lambda data_dir: Source(split, split, 10))
    return split


@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_tenth_can_be_the_dev_split(ten_classes, seed):
    dataset = load(DataSettings(dev_split="first", data_seed=seed))
    assert numbers(dataset.dev) == list(range(10))
    assert numbers(dataset.train) == list(range(10, 100))


def test_the_first_are_those_of_the_published_order(ten_classes, monkeypatch):
    # Published the other way round: image 99 first.
    source = Source(ten_classes, ten_classes, 10, np.arange(100)[::-1])
    monkeypatch.setitem(data.READERS, "digits", lambda data_dir: source)
    dataset = load(DataSettings(dev_split="first"))
    assert numbers(dataset.dev) == list(range(90, 100))
    assert numbers(dataset.train) == list(range(90))
    drawn, plain = load(DataSettings()), np.random.default_rng(0).permutation(100)
    assert numbers(drawn.dev) == sorted(plain[:10])


def test_fewer_examples_beside_the_first_are_drawn_by_the_seed(numbered):
    forty, ten, other = (
        load(DataSettings(dev_split="first", train_examples=n, data_seed=seed))
        for n, seed in ((40, 0), (10, 0), (10, 1))
    )
    assert [numbers(each.dev) for each in (forty, ten, other)] == [list(range(10))] * 3
    assert set(numbers(ten.train)) < set(numbers(forty.train)) <= set(range(10, 100))
    assert numbers(ten.train) != numbers(other.train)


def test_fewer_training_examples_are_some_of_the_more_and_leave_dev_alone(numbered):
    whole, forty, ten = (load(DataSettings(train_examples=n)) for n in (None, 40, 10))
    assert [len(d.train) for d in (whole, forty, ten)] == [90, 40, 10]
    assert set(numbers(ten.train)) < set(numbers(forty.train)) < set(numbers(whole.train))
    assert numbers(ten.dev) == numbers(whole.dev)
    assert numbers(ten.train) == sorted(numbers(ten.train))


def test_more_examples_than_there_are_is_refused(numbered):
    with pytest.raises(UsageError, match=r"`train_examples` expects at most the 90 .*not 91"):
        load(DataSettings(train_examples=91))


def test_a_dev_split_of_everything_is_refused(numbered):
    with pytest.raises(UsageError, match=r"`dev_share=0.999` leaves none of the 100 examples"):
        load(DataSettings(dev_share=0.999))


def test_a_batch_larger_than_the_training_split_is_refused(numbered):
    dataset = load(DataSettings(batch_size=91))
    for use in (lambda: dataset.steps_per_epoch, dataset.stream):
        with pytest.raises(UsageError, match="`batch_size` expects at most the 90 .*not 91"):
            use()


def test_moments_are_those_of_the_training_split_alone(numbered):
    dataset = load(DataSettings(dev_share=0.5))
    assert dataset.mean == (pytest.approx(dataset.train.images.mean()),)
    assert dataset.std == (pytest.approx(dataset.train.images.std()),)
    assert dataset.mean[0] != pytest.approx(49.5)


def test_moments_by_hand():
    # Channel 0: 0, 2, 4, 10: mean 4, mean square 30, variance 14. Channel 1: 255 throughout.
    images = np.array([[[[0, 255], [2, 255]]], [[[4, 255], [10, 255]]]], np.uint8)
    mean, std = channel_moments(images)
    assert mean == (4, 255)
    assert std == (pytest.approx(14**0.5), 1.0)


def test_moments_agree_with_numpy():
    # More than the thousand images that are summed at a time.
    images = np.random.default_rng(0).integers(0, 256, (2100, 7, 5, 3), np.uint8)
    mean, std = channel_moments(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, images.std((0, 1, 2)), rtol=1e-12)


def test_augmentation_is_the_habit_of_cifar_and_can_be_set(numbered, monkeypatch):
    monkeypatch.setitem(data.READERS, "cifar10", data.READERS["digits"])
    assert not load(DataSettings()).augment
    assert load(DataSettings(augment=True)).augment
    assert load(DataSettings(dataset="cifar10")).augment
    assert not load(DataSettings(dataset="cifar10", augment=False)).augment


def test_moments_of_many_images_take_little_memory_beside_them():
    images = np.full((20_000, 16, 16, 3), 255, np.uint8)
    tracemalloc.start()
    mean, std = channel_moments(images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (mean, std) == ((255,) * 3, (1.0,) * 3)
    assert peak < images.nbytes / 5


def test_digits_are_not_mirrored_and_others_are(numbered, monkeypatch):
    read = data.READERS["digits"]
    for name in ("cifar10", "svhn_cropped", "mnist"):
        monkeypatch.setitem(data.READERS, name, read)
    flips = {
        n: load(DataSettings(dataset=n, augment=True)).flip
        for n in data.READERS
        if read is data.READERS[n]
    }
    assert flips == {"digits": False, "cifar10": True, "svhn_cropped": False, "mnist": False}


def test_every_setting_has_a_help():
    assert all(field.metadata["help"] for field in dataclasses.fields(DataSettings))


def test_the_sum_is_of_all_that_decides_what_is_trained_on(numbered):
    """Not of how it lies in memory, or how wide its numbers are; and not of the split."""
    images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3, 1)
    labels, index = np.arange(4, dtype=np.int32), np.arange(4)
    train, test = Split(images, labels), Split(images[:2], labels[:2])
    source = Source(train, test, 4, order=index, groups=index)
    copied = Split(np.asfortranarray(images), labels.astype(np.int64))
    narrow = index.astype(np.int16)
    assert Source(copied, test, 4, narrow, narrow, ["a"] * 4).sha256 == source.sha256
    images, labels, last = images.copy(), labels.copy(), index[::-1]
    images[3, 1, 2, 0] += 1
    labels[3] = 0
    others = [
        *(
            source._replace(train=Split(images, train.labels), test=test),
            source._replace(test=train),
        ),
        *(source._replace(train=Split(train.images, labels)), source._replace(num_classes=5)),
        source._replace(train=Split(train.images.reshape(4, 3, 2, 1), train.labels)),
        source._replace(train=train.take(last), order=index),
        *(source._replace(order=last), source._replace(groups=last)),
        *(source._replace(order=None), source._replace(groups=None)),
    ]
    assert len({each.sha256 for each in [source, *others]}) == len(others) + 1
    sums = {load(DataSettings(dev_share=share, data_seed=3)).sha256 for share in (0.1, 0.5)}
    assert len(sums) == 1 and len(sums.pop()) == 64
