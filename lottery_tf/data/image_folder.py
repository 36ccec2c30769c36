"""A folder of images, one folder a class: ``train/cat/1.png``, ``test/cat/7.jpg``, ….

Read by tensorflow-datasets' ``ImageFolder``, which mixes the images of a split, the same way every
time.
"""

import itertools
from pathlib import Path

import numpy as np

from lottery_tf.data.dataset import Source, Split
from lottery_tf.errors import UsageError


def read(data_dir: str) -> Source:
    """Reads PNG and JPEG files in ``train``, and in ``test`` or, where there is none, ``val``.

    Returns:
      images uint8 ``[N, H, W, 3]``, grey ones as RGB; classes are numbered by their names in
      alphabetical order.

    Raises:
      UsageError: a folder is missing or has no images, a class has none to train on, an image is
        damaged, or not all are of one shape.
    """
    import tensorflow_datasets as tfds  # takes seconds, which other datasets need not pay

    folder = Path(data_dir).expanduser()
    test = next((name for name in ("test", "val") if (folder / name).is_dir()), "test")
    for name in ("train", test):
        if not (folder / name).is_dir():
            raise UsageError(
                f"--dataset=image_folder expects a folder {name} in {folder}, and there is none; "
                "give a folder with train and test, and a folder a class in each, as --data_dir."
            )
    builder = tfds.folder_dataset.ImageFolder(str(folder))
    for name in ("train", test):
        if name not in builder.info.splits or not builder.info.splits[name].num_examples:
            raise UsageError(
                f"--dataset=image_folder expects images, *.png, *.jpg or *.jpeg, in a folder a "
                f"class in {folder / name}, and there are none; put them there."
            )
    train, test = (_in_memory(builder, name) for name in ("train", test))
    # The builder's are the folders in all folders beside these two as well, as in .git.
    classes = np.union1d(train.labels, test.labels)
    lost = np.setdiff1d(classes, train.labels)
    if len(lost):
        name = builder.info.features["label"].names[lost[0]]
        raise UsageError(
            f"--dataset=image_folder expects every class in {folder / 'train'}, and there are no "
            f"images of {name!r}; put them there, or remove the class."
        )
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UsageError(
            f"The training images in {folder} have the shape {train.images.shape[1:]} and those "
            f"for testing {test.images.shape[1:]}; give images of one shape."
        )
    train, test = (
        Split(each.images, np.searchsorted(classes, each.labels).astype(np.int32))
        for each in (train, test)
    )
    return Source(train, test, len(classes))


def _in_memory(builder, split: str) -> Split:
    """The images of a split; UsageError names the one that is damaged or of another shape."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def read(**how):
        config = tfds.ReadConfig(try_autocache=False)
        return builder.as_dataset(split=split, read_config=config, **how).as_numpy_iterator()

    count, first, images = builder.info.splits[split].num_examples, None, None
    labels, done = np.empty(count, np.int32), 0
    try:
        for example in read():
            image, path = example["image"], example["image/filename"].decode()
            if images is None:
                images, first = np.empty((count, *image.shape), np.uint8), path
            if image.shape != images.shape[1:]:
                raise UsageError(
                    f"--dataset=image_folder expects images of one shape, and {first} has "
                    f"{images.shape[1:]} and {path} {image.shape}; bring them to one size."
                )
            images[done], labels[done] = image, example["label"]
            done += 1
    except tf.errors.InvalidArgumentError as error:
        undecoded = read(decoders={"image": tfds.decode.SkipDecoding()})
        path = next(itertools.islice(undecoded, done, None))["image/filename"].decode()
        raise UsageError(
            f"--dataset=image_folder expects PNG and JPEG images, and {path} cannot be read as "
            "one; mend or remove it."
        ) from error
    return Split(images, labels)
