"""Datasets: ``load`` reads one into memory, splits it, and says how it is normalised.

A new dataset is a function ``data_dir -> Source`` and one line in ``READERS``.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from lottery_tf.data import catalogue, classes, digits, glyphs, idx, image_folder
from lottery_tf.data.dataset import Dataset, Source, Split, channel_moments
from lottery_tf.errors import UsageError
from lottery_tf.settings import check_choices, setting

__all__ = ["AUGMENTED", "READERS", "DataSettings", "Dataset", "Source", "Split", "load"]

READERS: dict[str, Callable[[str | None], Source]] = {
    "digits": digits.read,
    "idx": idx.read,
    **{name: functools.partial(catalogue.read, name) for name in catalogue.NAMES},
    "image_folder": image_folder.read,
    "glyphs": glyphs.read,
    "tiny_imagenet": catalogue.read_tiny_imagenet,
}

# What --data_dir has to name, of those that have no other place.
FOLDERS = {
    "idx": "a folder of IDX files",
    "image_folder": "a folder of the folders train and test, with a folder a class in each",
    "glyphs": "a folder with fonts below it",
    "tiny_imagenet": "the unpacked folder tiny-imagenet-200",
}

# Augmented where --augment is not given; and never mirrored: a digit in a mirror is none.
AUGMENTED = ("cifar10", "cifar100", "tiny_imagenet")
NOT_FLIPPED = ("digits", "mnist", "svhn_cropped", "glyphs")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which data, how it is split, and in what order it comes.

    Raises:
      UsageError: a value out of its range.
    """

    dataset: str = setting("digits", "the dataset", choices=READERS)
    data_dir: str | None = setting(
        None,
        f"{'; '.join(f'{what} ({name})' for name, what in FOLDERS.items())}; else the folder of "
        "tensorflow-datasets, and digits needs none",
    )
    dev_share: float = setting(
        0.1, "share of the training examples held out as the dev split, at least 0, below 1"
    )
    dev_split: str = setting(
        "random",
        "which training examples to hold out: random ones, or the first (the paper's code)",
        choices=("random", "first"),
    )
    train_examples: int | None = setting(
        None, "training examples to keep once the dev split is taken; all where not given"
    )
    augment: bool | None = setting(
        None,
        f"random crops and flips (no flips of {', '.join(NOT_FLIPPED)}; idx is flipped, whatever "
        "it shows); where not given, of "
        f"{', '.join(AUGMENTED)} only",
    )
    data_seed: int = setting(
        0, "seed of the dev split, of the kept examples, of the order of batches, of augmentation"
    )
    batch_size: int = setting(128, "examples a training step")

    def __post_init__(self):
        check_choices(self)
        if self.dataset in FOLDERS and self.data_dir is None:
            raise UsageError(
                f"--dataset={self.dataset} reads {FOLDERS[self.dataset]}; name it with --data_dir."
            )
        if not 0 <= self.dev_share < 1:
            raise UsageError(
                f"--dev_share expects a share of at least 0 and below 1, not {self.dev_share}; "
                "give, say, 0.1."
            )
        for name, least in (("train_examples", 1), ("data_seed", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(
                    f"--{name} expects a whole number of at least {least}, not {value}; "
                    "give a larger one."
                )


def load(settings: DataSettings, training: bool = True) -> Dataset:
    """Reads the dataset and splits it.

    The dev split is the first examples of one permutation, drawn with ``data_seed``, or the first
    that the dataset has (``dev_split``); the training split is the first ``train_examples`` of the
    permutation that are not among them. Examples that belong together (glyphs: of a font family)
    come one after the other in it, and the dev split ends where such a group does. So the dev split
    is the same for any ``train_examples``, and a smaller training split lies within a larger one.
    Both keep the order of the source. Mean and standard deviation are those of the training split.

    Args:
      settings: which data, and how they are split.
      training: whether a model is to be trained on it, and not only measured, which a class without
        training images does not spoil.

    Raises:
      UsageError: the data are not where they should be, too few, labelled otherwise than by the
        classes, or, in ``training``, a class has no training images.
      RuntimeError: a download failed.
    """
    source = READERS[settings.dataset](settings.data_dir)
    classes.check_labels(settings.dataset, source)
    drawn = _drawn(source, np.random.default_rng(settings.data_seed))
    order = drawn if settings.dev_split == "random" else source.published_order()
    dev = order[: round(settings.dev_share * len(order))]
    if source.groups is not None:
        dev = order[np.isin(source.groups[order], source.groups[dev])]
    rest = drawn[~np.isin(drawn, dev)]
    if not len(rest):
        raise UsageError(
            f"--dev_share={settings.dev_share} leaves none of the {len(order)} examples of "
            f"{settings.dataset} to train on; give a smaller share."
        )
    wanted = settings.train_examples
    if wanted is not None and wanted > len(rest):
        raise UsageError(
            f"--train_examples expects at most the {len(rest)} examples that {settings.dataset} "
            f"has for training, not {wanted}; give fewer, or a smaller --dev_share."
        )
    if training:
        classes.check_trained(settings, source, rest)
    train = source.train.take(np.sort(rest[:wanted]))
    mean, std = channel_moments(train.images)
    habit = settings.dataset in AUGMENTED
    return Dataset(
        name=settings.dataset,
        train=train,
        dev=source.train.take(np.sort(dev)),
        test=source.test,
        num_classes=source.num_classes,
        mean=mean,
        std=std,
        augment=habit if settings.augment is None else settings.augment,
        data_seed=settings.data_seed,
        batch_size=settings.batch_size,
        flip=settings.dataset not in NOT_FLIPPED,
    )


def _drawn(source: Source, rng: np.random.Generator) -> np.ndarray:
    """A permutation of the training examples; of their groups where they belong together."""
    if source.groups is None:
        return rng.permutation(len(source.train))
    ranks = rng.permutation(source.groups.max() + 1)
    return np.argsort(ranks[source.groups], kind="stable")
