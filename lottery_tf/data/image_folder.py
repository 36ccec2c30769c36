"""A folder of images: a folder a split, in it a folder a class, as tensorflow-datasets reads it."""

from pathlib import Path

import numpy as np

from lottery_tf.data.dataset import Source, Split
from lottery_tf.errors import UsageError

TEST = ("test", "val", "validation")
LAYOUT = f"train/CLASS/IMAGE and {TEST[0]}/CLASS/IMAGE (or {' or '.join(TEST[1:])})"


def read(data_dir: str) -> Source:
    """Reads ``data_dir``; images uint8 ``[N, H, W, 3]``, classes in the order of their names.

    Grey images become RGB. All are to be of one size: they are not scaled.

    Raises:
      UsageError: the folder is missing or of another layout, or an image is damaged or of another
        size than the first.
    """
    import tensorflow_datasets as tfds  # takes seconds, which other datasets need not pay

    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise UsageError(
            f"--data_dir expects a folder of images, and there is no folder {folder}; give one "
            f"with {LAYOUT}."
        )
    builder = tfds.ImageFolder(str(folder))
    names = builder.info.features["label"].names or []
    splits = [name for name in ("train", *TEST) if name in builder.info.splits]
    if len(names) < 2 or splits[:1] != ["train"] or len(splits) < 2:
        raise UsageError(
            f"--dataset=image_folder expects {LAYOUT} in {folder}, with at least two classes; it "
            f"has the splits {', '.join(builder.info.splits) or 'none'} and {len(names)} classes."
        )
    train = _split(builder, "train")
    test = _split(builder, splits[1], train.images.shape[1:])
    return Source(train, test, len(names))


def _split(builder, name: str, shape: tuple[int, ...] | None = None) -> Split:
    """The images of a split, of ``shape``; by default, of the first one's."""
    from tensorflow import errors

    count = builder.info.splits[name].num_examples
    images, labels = None, np.empty(count, np.int32)
    try:
        for i, example in enumerate(builder.as_dataset(split=name).as_numpy_iterator()):
            shape = shape or example["image"].shape
            if example["image"].shape != shape:
                raise UsageError(
                    f"--dataset=image_folder expects images of one size; "
                    f"{example['image/filename'].decode()} has {example['image'].shape[:2]} pixels "
                    f"where the first has {shape[:2]}: scale them beforehand."
                )
            images = np.empty((count, *shape), np.uint8) if images is None else images
            images[i], labels[i] = example["image"], example["label"]
    except errors.InvalidArgumentError as error:
        raise UsageError(
            f"An image of the split {name} in {builder.data_dir} cannot be read "
            f"({error.message.splitlines()[0]}); take it out, or put it there whole."
        ) from error
    return Split(images, labels)
