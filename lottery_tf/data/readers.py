"""The datasets by name, and what is known of each beside its images."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from lottery_tf.data import catalogue, digits, glyphs, idx, image_folder
from lottery_tf.data.source import Source

READERS: dict[str, Callable[..., Source]] = {
    "digits": digits.read,
    "idx": idx.read,
    **{name: functools.partial(catalogue.read, name) for name in catalogue.NAMES},
    "image_folder": image_folder.read,
    "glyphs": glyphs.read,
    "tiny_imagenet": catalogue.read_tiny_imagenet,
}

# What ``data_dir`` has to name, for datasets that have no other place.
FOLDERS = {
    "idx": "a folder of IDX files",
    "image_folder": "a folder with a folder of images for each class, or with train and test that "
    "have these",
    "glyphs": "a folder with fonts in it or below it",
    "tiny_imagenet": "the unpacked folder tiny-imagenet-200",
}
# Those of them whose images are whatever lies there. Tiny-ImageNet is the same everywhere.
FOLDER_IS_DATASET = ("idx", "image_folder", "glyphs")

# The settings that a reader takes beside ``data_dir``; they decide what is read.
OPTIONS = {
    "image_folder": (
        *("image_size", "image_resize", "image_channels"),
        *("test_share", "test_seed"),
    ),
}

# Augmented where ``augment`` is not given; and never mirrored, since a mirrored digit is no digit.
AUGMENTED = ("cifar10", "cifar100", "tiny_imagenet")
NOT_FLIPPED = ("digits", "mnist", "svhn_cropped", "glyphs")


def options_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``settings``, by their names, that the reader of their dataset takes."""
    names = OPTIONS.get(str(settings.get("dataset")), ())
    return {name: settings[name] for name in names if name in settings}
