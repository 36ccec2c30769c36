"""The digits: what scikit-learn ships, and a test split that no seed moves."""

import numpy as np
from sklearn.datasets import load_digits

from lottery_tf.data import DataSettings, digits, load


def test_the_two_splits_are_the_1797_digits():
    source = digits.read()
    assert (len(source.train), len(source.test)) == (1438, 359)
    for split in (source.train, source.test):
        assert split.images.shape[1:] == (8, 8, 1) and split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
    raw = load_digits()
    expected = sorted(
        (*image.ravel().astype(int), int(y))
        for image, y in zip(raw.images, raw.target, strict=True)
    )
    got = sorted(
        (*image.ravel().tolist(), int(y))
        for split in (source.train, source.test)
        for image, y in zip(split.images, split.labels, strict=True)
    )
    assert got == expected
    assert max(source.train.images.max(), source.test.images.max()) == 16


def test_a_fifth_of_each_class_is_for_testing():
    # Of 178, 182, 177, 183, 181, 182, 181, 179, 174 and 180 digits.
    assert np.bincount(digits.read().test.labels).tolist() == [
        36, 36, 35, 37, 36, 36, 36, 36, 35, 36,
    ]  # fmt: skip


def test_the_test_split_is_the_same_for_every_seed():
    tests = [load(DataSettings(data_seed=seed)).test for seed in (0, 7)]
    np.testing.assert_array_equal(tests[0].images, tests[1].images)
    np.testing.assert_array_equal(tests[0].labels, tests[1].labels)


def test_the_default_settings_load_them():
    dataset = load(DataSettings())
    assert (dataset.name, dataset.input_shape, dataset.num_classes) == ("digits", (8, 8, 1), 10)
    assert (len(dataset.train), len(dataset.dev), len(dataset.test)) == (1294, 144, 359)
    assert dataset.steps_per_epoch == 1294 // 128 == 10
    assert not dataset.augment
