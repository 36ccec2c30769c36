"""Image datasets from the catalogue of tensorflow-datasets, https://www.tensorflow.org/datasets."""

from pathlib import Path

import numpy as np

from lottery_tf.data.dataset import Source, Split

NAMES = ("cifar10", "cifar100", "fashion_mnist", "mnist", "svhn_cropped")


def read(name: str, data_dir: str | None) -> Source:
    """Reads ``name`` into memory, downloading it into ``data_dir`` if it is not there.

    Args:
      name: one of ``NAMES``.
      data_dir: tensorflow-datasets' folder; None for its own default, ``~/tensorflow_datasets``.

    Returns:
      images uint8 ``[N, H, W, C]``; of cifar100 the 100 fine labels.

    Raises:
      RuntimeError: the dataset is not in ``data_dir`` and cannot be downloaded.
    """
    import tensorflow_datasets as tfds  # takes seconds, which other datasets need not pay

    if data_dir is not None:
        data_dir = str(Path(data_dir).expanduser())
    builder = tfds.builder(name, data_dir=data_dir)
    try:
        builder.download_and_prepare()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise RuntimeError(
            f"{name} is not in {builder.data_dir} and could not be downloaded "
            f"({type(error).__name__}: {reason}); prepare it where there is a network, with "
            f"`tfds build {name}`, and give that folder as --data_dir."
        ) from error
    whole = tfds.ReadConfig(try_autocache=False)
    train, test = (
        _in_memory(builder.as_dataset(split=split, as_supervised=True, read_config=whole))
        for split in ("train", "test")
    )
    return Source(train, test, builder.info.features["label"].num_classes)


def _in_memory(examples) -> Split:
    images, labels = zip(*examples.batch(1000).as_numpy_iterator(), strict=True)
    return Split(np.concatenate(images), np.concatenate(labels).astype(np.int32))
