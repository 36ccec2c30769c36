"""Whether the labels of a dataset are classes, and whether every class has images to train on.

A label that is no class makes the loss NaN or is ignored. A class without images is an output that
is never right. An accuracy shows neither.
"""

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log, some
from lottery_tf.data.settings import DataSettings
from lottery_tf.data.source import Source

# What to do about classes without training images, where these are folders and where not.
_OF_FOLDERS = "put images into the folder of that class for training, or remove it everywhere"
_OF_NUMBERS = "add some, or take the class out and number the others without a gap"


def check_labels(dataset: str, source: Source) -> None:
    """Raises UsageError for labels outside 0 .. num_classes - 1, and warns of classes without test
    images."""
    for name, split in (("training", source.train), ("test", source.test)):
        wrong = split.labels[(split.labels < 0) | (split.labels >= source.num_classes)]
        if len(wrong):
            raise UsageError(
                f"`dataset={dataset}` expects labels from 0 to {source.num_classes - 1}, and "
                f"{len(wrong)} of its {len(split)} {name} images have others, such as {wrong[0]}; "
                "label them or take them out."
            )
    untested = _without(source, source.test.labels)
    if len(untested):
        log.warning(
            "%s: there are no test images of %s; the test accuracy says nothing about that",
            *(dataset, _named(source, untested)),
        )


def check_trained(settings: DataSettings, source: Source, rest: np.ndarray) -> None:
    """Raises UsageError where a class has no images to train on.

    Args:
      rest: the indices of the training examples that are not in the dev split, of which the first
        ``train_examples`` are kept.
    """
    dataset, labels, wanted = settings.dataset, source.train.labels, settings.train_examples
    if source.num_classes < 2:
        raise UsageError(
            f"`dataset={dataset}` expects images of two classes or more, and there is only "
            f"{_named(source, np.arange(source.num_classes))}; add another."
        )
    lost = _without(source, labels)
    if len(lost):
        raise UsageError(
            f"`dataset={dataset}` expects training images of every class, 0 to "
            f"{source.num_classes - 1}, and there are none of {_named(source, lost)}; "
            f"{_OF_FOLDERS if dataset == 'image_folder' else _OF_NUMBERS}."
        )
    lost = _without(source, labels[rest])
    if len(lost) and settings.dev_split == "first":
        raise UsageError(
            f"`dev_split=first` expects examples in a mixed order, and holds out all those of "
            f"{_named(source, lost)} of {dataset}; give `dev_split=random`."
        )
    if len(lost):
        raise UsageError(
            f"`dev_share={settings.dev_share}` holds out all training images of "
            f"{_named(source, lost)} of {dataset}; give a smaller share or another `data_seed`."
        )
    lost = _without(source, labels[rest[:wanted]])
    if len(lost):
        enough = np.unique(labels[rest], return_index=True)[1].max() + 1
        raise UsageError(
            f"`train_examples={wanted}` leaves no training images of {_named(source, lost)} of "
            f"{dataset}; give {enough} or more, or another `data_seed`."
        )


def _without(source: Source, labels: np.ndarray) -> np.ndarray:
    """The classes that are not among ``labels``."""
    return np.setdiff1d(np.arange(source.num_classes), labels)


def _named(source: Source, classes: np.ndarray) -> str:
    names = source.names or [""] * source.num_classes
    known = [(n, names[n]) for n in classes.tolist()]
    return some(
        [f"class {n} ({name})" if name not in ("", str(n)) else f"class {n}" for n, name in known]
    )
