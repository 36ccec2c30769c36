"""Tiny-ImageNet, the tiny-imagenet-200.zip of Stanford's course CS231n, for tensorflow-datasets.

200 classes of 500 training and 50 validation images of 64×64 pixels. Those for testing have no
published labels, so the validation images are tested on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from lottery_tf.common.errors import UsageError

CLASSES, TRAIN, VALIDATION = 200, 100_000, 10_000
SHAPE = (64, 64, 3)


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """The unpacked folder, given as ``manual_dir``, as a dataset; nothing is downloaded.

    The classes are numbered by their WordNet ids in alphabetical order. The few grey images become
    RGB.

    Raises:
      UsageError: the folder lacks files, or an image is damaged.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip there."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=SHAPE, encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=CLASSES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu/",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        classes = sorted(_content(folder / "wnids.txt").decode().split())
        _expect(CLASSES, "classes", folder / "wnids.txt", len(classes))
        self.info.features["label"].names = classes
        train = {
            path: wnid
            for wnid in classes
            for path in (folder / "train" / wnid / "images").glob("*.JPEG")
        }
        _expect(TRAIN, "training images", folder / "train", len(train))
        # "val_0.JPEG", its class and a box, separated by tabs
        lines = _content(folder / "val" / "val_annotations.txt").decode().splitlines()
        rows = [line.split("\t")[:2] for line in lines]
        validation = {
            folder / "val" / "images" / row[0]: row[1] for row in rows if row[-1] in classes
        }
        _expect(VALIDATION, "labels", folder / "val" / "val_annotations.txt", len(validation))
        return {
            tfds.Split.TRAIN: self._generate_examples(train),
            tfds.Split.VALIDATION: self._generate_examples(validation),
        }

    def _generate_examples(self, labels: dict[Path, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for path, wnid in labels.items():
            jpeg = _content(path)
            # The file itself is stored. If it is not checked now, damage shows only later.
            try:
                shape = tuple(tf.io.decode_jpeg(jpeg, channels=SHAPE[-1]).shape)
            except tf.errors.InvalidArgumentError:
                shape = None
            if shape != SHAPE:
                found = "it is damaged" if shape is None else f"its shape is {shape}"
                raise UsageError(
                    f"Expected a JPEG of 64×64 pixels at {path}, and {found}; unpack "
                    "tiny-imagenet-200.zip again."
                )
            yield path.name, {"image": jpeg, "label": wnid}


def unpacked(data_dir: Path) -> Path:
    """``data_dir``, or the folder ``tiny-imagenet-200`` in it, whichever holds ``wnids.txt``.

    Raises:
      UsageError: neither does.
    """
    for folder in (data_dir / "tiny-imagenet-200", data_dir):
        if (folder / "wnids.txt").is_file():
            return folder
    raise UsageError(
        f"`dataset=tiny_imagenet` expects the unpacked tiny-imagenet-200.zip in {data_dir}, and "
        "there is no wnids.txt; give tiny-imagenet-200 or the folder that holds it as `data_dir`."
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"Expected the file {path} of Tiny-ImageNet, and it cannot be read "
            f"({error.strerror}); unpack tiny-imagenet-200.zip again."
        ) from error


def _expect(count: int, what: str, where: Path, found: int) -> None:
    if found != count:
        raise UsageError(
            f"Expected {count} {what} of Tiny-ImageNet in {where}, and found {found}; unpack "
            "tiny-imagenet-200.zip again."
        )
