"""``load`` reads a dataset into memory, splits it, and says how it is normalised."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.data import classes
from lottery_tf.data.dataset import Dataset
from lottery_tf.data.readers import AUGMENTED, FOLDERS, NOT_FLIPPED, READERS, options_of
from lottery_tf.data.settings import DataSettings
from lottery_tf.data.source import Source, channel_moments


def load(settings: DataSettings, training: bool = True) -> Dataset:
    """Reads the dataset and splits it.

    One permutation of the training examples is drawn with ``data_seed``. The dev split is its first
    examples, or the first that the dataset has (``dev_split``). The training split is the first
    ``train_examples`` of the others. So the dev split is the same for any ``train_examples``, and a
    smaller training split lies within a larger one.

    Examples that belong together, such as glyphs of one font family, are neighbours in the
    permutation. The dev split ends where such a group ends. Both splits keep the order of the
    source. Mean and standard deviation are those of the training split.

    Args:
      settings: which data, and how they are split.
      training: whether a model is trained on it. To measure one, each class need not have training
        images.

    Raises:
      UsageError: the data are missing, too few, or have labels that are no classes; with
        ``training`` also if a class has no training images.
      RuntimeError: a download failed.
    """
    _check_folder(settings.dataset, settings.data_dir)
    source = READERS[settings.dataset](settings.data_dir, **options_of(vars(settings)))
    classes.check_labels(settings.dataset, source)
    drawn = _drawn(source, np.random.default_rng(settings.data_seed))
    order = drawn if settings.dev_split == "random" else source.published_order()
    dev = order[: round(settings.dev_share * len(order))]
    if source.groups is not None:
        dev = order[np.isin(source.groups[order], source.groups[dev])]
    rest = drawn[~np.isin(drawn, dev)]
    if not len(rest):
        raise UsageError(
            f"`dev_share={settings.dev_share}` leaves none of the {len(order)} examples of "
            f"{settings.dataset} to train on; give a smaller share."
        )
    wanted = settings.train_examples
    if wanted is not None and wanted > len(rest):
        raise UsageError(
            f"`train_examples` expects at most the {len(rest)} examples that {settings.dataset} "
            f"has for training, not {wanted}; give fewer, or a smaller `dev_share`."
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
        sha256=source.sha256,
        class_names=tuple(source.names or ()),
        test_is_drawn=source.test_is_drawn,
    )


@functools.cache
def content_sha256(dataset: str, data_dir: str | None, **options: Any) -> str:
    """``Dataset.sha256`` of what lies in a folder, read once in a process.

    Args:
      dataset, data_dir: as in ``DataSettings``.
      **options: what else decides what is read, as ``readers.options_of`` gives it.

    Raises:
      UsageError: the data are not where they should be.
    """
    _check_folder(dataset, data_dir)
    return READERS[dataset](data_dir, **options).sha256


def _check_folder(dataset: str, data_dir: str | None) -> None:
    """Raises UsageError where nothing is at the path that a dataset is to be read from."""
    if dataset not in FOLDERS or data_dir is None:
        return
    try:
        Path(data_dir).expanduser().stat()
    except FileNotFoundError:
        raise UsageError(
            f"`data_dir` expects {FOLDERS[dataset]}; there is no folder {data_dir}."
        ) from None
    except OSError:
        return  # the reader tells of it


def _drawn(source: Source, rng: np.random.Generator) -> np.ndarray:
    """A permutation of the training examples, or of their groups, where there are groups."""
    if source.groups is None:
        return rng.permutation(len(source.train))
    ranks = rng.permutation(source.groups.max() + 1)
    return np.argsort(ranks[source.groups], kind="stable")
