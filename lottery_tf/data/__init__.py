"""Datasets: ``load`` reads one into memory, splits it, and says how it is normalised.

A new dataset is a function ``data_dir -> Source`` and one line in ``READERS``.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from lottery_tf.data import catalogue, digits, idx
from lottery_tf.data.dataset import Dataset, Source, Split, channel_moments
from lottery_tf.errors import UsageError
from lottery_tf.settings import check_choices, setting

__all__ = ["AUGMENTED", "READERS", "DataSettings", "Dataset", "Source", "Split", "load"]

READERS: dict[str, Callable[[str | None], Source]] = {
    "digits": digits.read,
    "idx": idx.read,
    **{name: functools.partial(catalogue.read, name) for name in catalogue.NAMES},
}

AUGMENTED = ("cifar10", "cifar100")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which data, how it is split, and in what order it comes.

    Raises:
      UsageError: a value out of its range.
    """

    dataset: str = setting("digits", "the dataset", choices=READERS)
    data_dir: str | None = setting(
        None, "folder of the IDX files (idx) or of tensorflow-datasets; digits needs none"
    )
    dev_share: float = setting(
        0.1, "share of the training examples held out as the dev split, at least 0, below 1"
    )
    train_examples: int | None = setting(
        None, "training examples to keep once the dev split is taken; all where not given"
    )
    augment: bool | None = setting(
        None, f"random crops and flips; where not given, of {' and '.join(AUGMENTED)} only"
    )
    data_seed: int = setting(
        0, "seed of the dev split, of the kept examples, of the order of batches, of augmentation"
    )
    batch_size: int = setting(128, "examples a training step")

    def __post_init__(self):
        check_choices(self)
        if self.dataset == "idx" and self.data_dir is None:
            raise UsageError("--dataset=idx reads a folder of IDX files; name it with --data_dir.")
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


def load(settings: DataSettings) -> Dataset:
    """Reads the dataset and splits it.

    One permutation, drawn with ``data_seed``, gives the dev split its first examples and the
    training split the next ``train_examples``; so the dev split is the same for any
    ``train_examples``, and a smaller training split lies within a larger one. Both keep the
    order of the source. Mean and standard deviation are those of the training split.

    Raises:
      UsageError: the data are not where they should be, or too few.
      RuntimeError: a download failed.
    """
    source = READERS[settings.dataset](settings.data_dir)
    order = np.random.default_rng(settings.data_seed).permutation(len(source.train))
    held_out = round(settings.dev_share * len(order))
    dev, rest = order[:held_out], order[held_out:]
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
    )
