"""Crops and flips, against a slow version that a person can check."""

import numpy as np
import pytest
import tensorflow as tf

from lottery_tf.data.augment import crop_and_flip


def views(image: np.ndarray) -> dict[bytes, tuple[int, int, bool]]:
    """Every crop of ``image`` padded by 4, upright and mirrored: 9 · 9 · 2 of them."""
    height, width, _ = image.shape
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)])
    found = {}
    for down in range(9):
        for right in range(9):
            crop = padded[down : down + height, right : right + width]
            found[crop.tobytes()] = (down, right, False)
            found[crop[:, ::-1].tobytes()] = (down, right, True)
    return found


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    # No two pixels alike, so that a crop tells where it came from.
    return np.random.default_rng(0).integers(1, 256, (300, 6, 7, 3), np.uint8)


@pytest.fixture(scope="module")
def origins(images) -> list[tuple[int, int, bool]]:
    crops = crop_and_flip(tf.constant(images), tf.constant([0, -1], tf.int64)).numpy()
    assert crops.shape == images.shape and crops.dtype == np.uint8
    # A KeyError is a crop that is none of its image.
    return [views(image)[crop.tobytes()] for image, crop in zip(images, crops, strict=True)]


def test_each_image_becomes_one_of_its_own_crops(origins):
    assert len(origins) == 300


def test_every_shift_and_both_sides_occur_about_as_often(origins):
    down, right, mirrored = (np.array(values) for values in zip(*origins, strict=True))
    # 300 draws of 9 values: 33 each, with a standard deviation of 5.4; of 2: 150, with 8.7.
    for shifts in (down, right):
        counts = np.bincount(shifts, minlength=9)
        assert len(counts) == 9 and (abs(counts - 33) < 22).all()
    assert abs(mirrored.sum() - 150) < 35
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.25
    assert abs(np.corrcoef(down, mirrored)[0, 1]) < 0.25


def test_the_middle_crop_is_the_image_and_the_corner_crop_is_padding():
    image = np.arange(1, 5, dtype=np.uint8).reshape(1, 2, 2, 1)
    found = {origin: crop for crop, origin in views(image[0]).items()}
    assert found[4, 4, False] == bytes([1, 2, 3, 4])
    assert found[4, 4, True] == bytes([2, 1, 4, 3])
    assert found[3, 4, False] == bytes([0, 0, 1, 2])
    assert views(np.ones((2, 2, 1), np.uint8)).keys() >= {bytes(4)}


def test_a_seed_gives_its_crops_again_and_another_gives_others(images):
    def crops(seed):
        return crop_and_flip(tf.constant(images), tf.constant(seed, tf.int64)).numpy()

    np.testing.assert_array_equal(crops([3, -8]), crops([3, -8]))
    assert not np.array_equal(crops([3, -8]), crops([3, -9]))
    assert not np.array_equal(crops([3, -8]), crops([4, -8]))


def test_without_flips_the_crops_are_the_same_and_upright(images, origins):
    crops = crop_and_flip(tf.constant(images), tf.constant([0, -1], tf.int64), flip=False).numpy()
    found = [views(image)[crop.tobytes()] for image, crop in zip(images, crops, strict=True)]
    assert found == [(down, right, False) for down, right, _ in origins]


def test_images_of_64_pixels_are_padded_by_4_too():
    # Column j is j + 1 throughout, so that a row tells its shift, mirrored or not.
    images = np.tile(np.arange(1, 65, dtype=np.uint8)[:, None], (100, 64, 1, 3))
    crops = crop_and_flip(tf.constant(images), tf.constant([0, -1], tf.int64)).numpy()
    assert crops.shape == images.shape == (100, 64, 64, 3)
    padded = np.pad(images[0], [(4, 4), (4, 4), (0, 0)])
    strips = {padded[36, right : right + 64, 0].tobytes(): right for right in range(9)}
    middle = crops[:, 32, :, 0]
    shifts = {strips.get(row.tobytes(), strips.get(row[::-1].tobytes())) for row in middle}
    assert shifts == set(range(9))


def test_it_is_the_same_in_a_graph(images):
    seed = tf.constant([0, -1], tf.int64)
    eager = crop_and_flip(tf.constant(images), seed)
    graph = tf.function(crop_and_flip)(tf.constant(images), seed)
    np.testing.assert_array_equal(eager, graph)
