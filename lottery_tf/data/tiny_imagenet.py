"""Tiny-ImageNet as a dataset of tensorflow-datasets, from the folder that its archive unpacks to.

Stanford's CS231n; 100,000 training and 10,000 validation images of 64×64 pixels in 200 classes. A
few are grey, and are read as RGB. The labels of its test images are not public.
"""

from pathlib import Path

import tensorflow_datasets as tfds

from lottery_tf.errors import UsageError

FOLDER = "tiny-imagenet-200"
CLASSES = 200


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """Splits ``train`` and ``validation``; labels are the places of the sorted WordNet ids."""

    name = "tiny_imagenet"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Unpack {FOLDER}.zip, so that there is a folder {FOLDER}."

    def _info(self):
        image = tfds.features.Image(shape=(64, 64, 3), encoding_format="jpeg")
        label = tfds.features.ClassLabel(num_classes=CLASSES)
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return self.dataset_info_from_configs(features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager):
        folder = Path(dl_manager.manual_dir) / FOLDER
        ids = sorted(_read(folder / "wnids.txt").split())
        if len(set(ids)) != CLASSES:
            raise UsageError(
                f"{folder / 'wnids.txt'} should name {CLASSES} classes, and names {len(set(ids))}; "
                f"unpack {FOLDER}.zip anew."
            )
        labels = {wnid: label for label, wnid in enumerate(ids)}
        return {"train": _train(folder, labels), "validation": _validation(folder, labels)}

    def _generate_examples(self, split):
        yield from split


def _train(folder: Path, labels: dict[str, int]):
    for wnid, label in labels.items():
        paths = sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
        if not paths:
            raise UsageError(
                f"{folder} should hold images of each class, and has none in train/{wnid}/images; "
                f"unpack {FOLDER}.zip anew."
            )
        for path in paths:
            yield path.name, {"image": path, "label": label}


def _validation(folder: Path, labels: dict[str, int]):
    for line in _read(folder / "val" / "val_annotations.txt").splitlines():
        name, wnid, *_ = line.split("\t")
        path = folder / "val" / "images" / name
        if wnid not in labels or not path.is_file():
            raise UsageError(
                f"val/val_annotations.txt in {folder} should give images their classes, and says "
                f"'{name} {wnid}', of which one is not there; unpack {FOLDER}.zip anew."
            )
        yield name, {"image": path, "label": labels[wnid]}


def _read(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"There is no {path}; unpack {FOLDER}.zip anew.")
    return path.read_text()
