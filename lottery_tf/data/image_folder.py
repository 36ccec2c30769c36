"""A folder of images, one folder a class: ``train/cat/1.png``, ``test/cat/7.jpg``, …."""

import contextlib
import os
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted, log, some
from lottery_tf.common.ownership import OF_FILE_MANAGERS
from lottery_tf.data.pictures import read_all
from lottery_tf.data.source import Source, Split

# __MACOSX is what macOS puts into an archive beside the folders that are packed.
_OF_THE_SYSTEM = OF_FILE_MANAGERS | {"__macosx"}
_ENDINGS = (".jpeg", ".jpg", ".png")


class _Found:
    """What lies in ``train`` and in the folder for testing.

    Attributes:
      classes: the names of the class folders in each.
      files: the images in each, ``(path, name of the class)``, in the order of training.
      left_out: why → the paths that are not read.
    """

    def __init__(self, folder: Path, splits: tuple[str, str]):
        """Looks into the folders ``splits`` of ``folder``; UsageError where it may not."""
        self.folder = folder
        self.classes: dict[str, list[str]] = {split: [] for split in splits}
        self.files: dict[str, list[tuple[Path, str]]] = {split: [] for split in splits}
        self.left_out: dict[str, list[Path]] = defaultdict(list)
        try:
            others = [path for path in folder.iterdir() if path.name not in splits]
            self.left_out["split"] = [p for p in others if p.is_dir() and not _hidden(p)]
            for split in splits:
                self._look_into(split)
        except OSError as error:
            raise UsageError(
                f"`dataset=image_folder` expects to read the folders in {folder}, and cannot read "
                f"{error.filename} ({error.strerror}); mend or remove it."
            ) from error

    def _look_into(self, split: str) -> None:
        for path in sorted(self.folder.joinpath(split).iterdir()):
            if _hidden(path):
                self._leave_hidden(path)
            elif path.is_dir():
                self.classes[split].append(path.name)
                self._look_into_class(split, path)
            else:
                self.left_out["beside"].append(path)
        # As tensorflow-datasets' ImageFolder does, so that runs of when it read them are repeated.
        random.Random(split).shuffle(self.files[split])

    def _look_into_class(self, split: str, folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            if _hidden(path):
                self._leave_hidden(path)
            elif path.is_dir():
                self.left_out["nested"].append(path)
            elif path.name.lower().endswith(_ENDINGS):
                self.files[split].append((path, folder.name))
            else:
                self.left_out["ending"].append(path)

    def _leave_hidden(self, path: Path) -> None:
        if path.name.lower() in _OF_THE_SYSTEM:
            return
        if path.name.lower().endswith(_ENDINGS) or path.is_dir():
            self.left_out["hidden"].append(path)

    def say_what_is_left_out(self) -> None:
        """One line, if anything is."""

        def named(paths: Iterable[Path]) -> str:
            return some(sorted({path.relative_to(self.folder).as_posix() for path in paths}))

        said, left = [], self.left_out
        if paths := left["ending"]:
            endings = some(sorted({path.suffix.lower() or "none" for path in paths}))
            where = named(path.parent for path in paths)
            said.append(f"{counted(len(paths), 'file')} with other endings ({endings}) in {where}")
        if paths := left["nested"]:
            files = sum(len(names) for path in paths for _, _, names in os.walk(path))
            said.append(f"{counted(files, 'file')} in folders within a class ({named(paths)})")
        if paths := left["beside"]:
            said.append(f"{counted(len(paths), 'file')} beside the classes ({named(paths)})")
        if paths := left["hidden"]:
            said.append(f"what is hidden ({named(paths)})")
        if paths := left["split"]:
            said.append(f"folders beside {' and '.join(self.files)} ({named(paths)})")
        if said:
            log.warning("image_folder: reads *.png, *.jpg, *.jpeg; left out: %s", "; ".join(said))


def read(data_dir: str) -> Source:
    """Reads PNG and JPEG files in ``train``, and in ``test`` or, where there is none, ``val``.

    What it leaves out it says in a line. The images of a split are mixed, the same way every time.

    Returns:
      images uint8 ``[N, H, W, 3]`` as ``pictures.read_all`` has them; the classes are the folders
      in either split, numbered by their names in alphabetical order, with images or without.

    Raises:
      UsageError: a folder is missing or has no images, an image is damaged or not what a viewer
        shows, or not all are of one shape.
    """
    folder = Path(data_dir).expanduser()
    test = next((name for name in ("test", "val") if (folder / name).is_dir()), "test")
    for name in ("train", test):
        if not (folder / name).is_dir():
            raise UsageError(
                f"`dataset=image_folder` expects a folder {name} in {folder}, and there is none; "
                "give a folder with train and test, and a folder a class in each, as `data_dir`."
            )
    found = _Found(folder, ("train", test))
    found.say_what_is_left_out()
    for name, files in found.files.items():
        if not files:
            raise UsageError(
                f"`dataset=image_folder` expects images, *.png, *.jpg or *.jpeg, in a folder a "
                f"class in {folder / name}, and there are none; put them there."
            )
    classes = sorted({name for names in found.classes.values() for name in names})
    train, tested = (_in_memory(files, classes) for files in found.files.values())
    shapes = [split.images.shape[1:] for split in (train, tested)]
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"The training images in {folder} have the shape {shapes[0]} and those "
            f"for testing {shapes[1]}; give images of one shape."
        )
    return Source(train, tested, len(classes), names=classes)


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _OF_THE_SYSTEM


def _in_memory(files: list[tuple[Path, str]], classes: list[str]) -> Split:
    """The images of ``files``; UsageError names the one that is of another shape."""
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name] for _, name in files], np.int32)
    paths, images = [path for path, _ in files], np.empty(0, np.uint8)
    with contextlib.closing(read_all(paths)) as pictures:  # the first mistake ends the reading
        for done, (path, image) in enumerate(zip(paths, pictures, strict=True)):
            if done == 0:
                images = np.empty((len(paths), *image.shape), np.uint8)
            if image.shape != images.shape[1:]:
                raise UsageError(
                    f"`dataset=image_folder` expects images of one shape, and {paths[0]} has "
                    f"{images.shape[1:]} and {path} {image.shape}; bring them to one size."
                )
            images[done] = image
    return Split(images, labels)
