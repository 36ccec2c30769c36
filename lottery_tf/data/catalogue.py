"""Image datasets from the catalogue of tensorflow-datasets, https://www.tensorflow.org/datasets,
and Tiny-ImageNet, which it lacks.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log
from lottery_tf.data.source import Source, Split

NAMES = ("cifar10", "cifar100", "fashion_mnist", "mnist", "svhn_cropped")
KEYS = ("id", "image", "label")  # what is read of an example; "id" only the CIFARs have


def read(name: str, data_dir: str | None) -> Source:
    """Reads ``name`` into memory, downloading it into ``data_dir`` if it is not there.

    Of several processes one downloads, and the others wait for it.

    Args:
      name: one of ``NAMES``.
      data_dir: tensorflow-datasets' folder; None for its own default, ``~/tensorflow_datasets``.

    Returns:
      images uint8 ``[N, H, W, C]``; cifar100 has its 100 fine labels. tensorflow-datasets mixes the
      examples when it stores them. The order before that is known for cifar10 and cifar100 only.

    Raises:
      RuntimeError: the dataset is not in ``data_dir`` and cannot be downloaded.
    """
    import tensorflow_datasets as tfds  # takes seconds, so other datasets do without

    if data_dir is not None:
        data_dir = str(Path(data_dir).expanduser())
    make = functools.partial(tfds.builder, name, data_dir=data_dir)
    builder = make()
    try:
        builder = _prepared(make)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise RuntimeError(
            f"{name} is not in {builder.data_dir} and could not be downloaded "
            f"({type(error).__name__}: {reason}); run `tfds build {name}` where there is a "
            "network, and give its folder as `data_dir`."
        ) from error
    return _source(builder, "test")


def read_tiny_imagenet(data_dir: str) -> Source:
    """Reads Tiny-ImageNet into memory; its validation images are the test examples.

    The first time the images are mixed and written into ``data_dir/tiny_imagenet``, as a dataset of
    tensorflow-datasets. Later they are read from there, and the unpacked folder is not needed any
    more. Of several processes one writes them, and the others wait for it.

    Args:
      data_dir: the unpacked folder ``tiny-imagenet-200``, or the folder that holds it.

    Raises:
      UsageError: the unpacked folder is missing, lacks files or has a damaged image, or
        ``data_dir`` cannot be written.
    """
    import tensorflow_datasets as tfds

    from lottery_tf.data import tiny_imagenet

    folder = Path(data_dir).expanduser()
    make = functools.partial(tiny_imagenet.TinyImagenet, data_dir=str(folder))
    builder = make()
    if not builder.is_prepared():
        config = tfds.download.DownloadConfig(manual_dir=str(tiny_imagenet.unpacked(folder)))
        try:
            with tempfile.TemporaryDirectory() as nothing:  # is downloaded
                builder = _prepared(make, download_dir=nothing, download_config=config)
        except OSError as error:
            raise UsageError(
                f"`dataset=tiny_imagenet` expects to write {builder.data_dir}, and cannot "
                f"({error.strerror}); give a `data_dir` that can be written and holds "
                "tiny-imagenet-200 or a link to it."
            ) from error
    return _source(builder, "validation")


def _prepared(make: Callable[[], Any], **how: Any) -> Any:
    """The builder that ``make`` makes, its dataset prepared by this process or by another.

    tensorflow-datasets writes beside the dataset's place and renames, which fails for all
    processes but the first.

    Args:
      make: makes the builder.
      **how: arguments of ``download_and_prepare``.
    """
    builder = make()
    if builder.is_prepared():  # perhaps in a folder that cannot be written
        return builder
    place = Path(builder.data_dir)
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.with_name(f".{place.name}.lock"))  # a killed process lets go of it
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        log.info("%s: waits for another process, which prepares it", builder.name)
        held = lock.acquire()
    with held:
        builder = make()  # a new one sees what another process has prepared meanwhile
        builder.download_and_prepare(**how)  # does nothing then
    return builder


def _source(builder: Any, test: str) -> Source:
    """What a prepared builder holds, its split ``test`` as the test examples."""
    (train, ids), (tested, _) = (_in_memory(_examples(builder, split)) for split in ("train", test))
    order = None if ids is None else np.argsort(ids)  # "train_00000", "train_00001", …
    label = builder.info.features["label"]
    return Source(train, tested, label.num_classes, order, names=label.names)


def _examples(builder: Any, split: str) -> Any:
    import tensorflow_datasets as tfds

    # A cache of all examples would be of no use to who reads them once.
    examples = builder.as_dataset(split=split, read_config=tfds.ReadConfig(try_autocache=False))
    return examples.map(lambda example: {k: example[k] for k in KEYS if k in example})


def _in_memory(examples: Any) -> tuple[Split, np.ndarray | None]:
    """The examples and their ids, if they have any."""
    count, ids = int(examples.cardinality()), []
    images = np.empty((count, *examples.element_spec["image"].shape), np.uint8)
    labels = np.empty(count, np.int32)
    first = 0
    for batch in examples.batch(1000).as_numpy_iterator():
        rows = slice(first, first := first + len(batch["label"]))
        images[rows], labels[rows] = batch["image"], batch["label"]
        ids.extend(batch.get("id", ()))
    return Split(images, labels), np.array(ids) if ids else None
