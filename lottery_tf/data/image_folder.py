"""A folder of images, one folder a class.

``train/cat/1.png`` and ``test/cat/7.jpg``, or ``cat/1.png`` alone: then test images are drawn.
"""

import contextlib
import hashlib
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted, log, some
from lottery_tf.common.ownership import OF_FILE_MANAGERS
from lottery_tf.data.pictures import parse_size, read_all
from lottery_tf.data.source import Source, Split

# __MACOSX is what macOS puts into an archive beside the folders that are packed.
_OF_THE_SYSTEM = OF_FILE_MANAGERS | {"__macosx"}
_ENDINGS = (".jpeg", ".jpg", ".png")
_OTHERS = (".bmp", ".gif", ".tif", ".tiff", ".webp")


class _Found:
    """What is found in the folders that have a folder for each class.

    Attributes:
      classes: the names of the class folders in each.
      files: the images in each, ``(path, name of the class)``, sorted.
      left_out: why → the paths that are not read.
    """

    def __init__(self, folder: Path, splits: tuple[str, ...]):
        """Looks into the folders ``splits`` of ``folder``, or into ``folder`` itself, which is
        called ``""``; UsageError where it may not."""
        self.folder = folder
        self.classes: dict[str, list[str]] = {split: [] for split in splits}
        self.files: dict[str, list[tuple[Path, str]]] = {split: [] for split in splits}
        self.left_out: dict[str, list[Path]] = defaultdict(list)
        try:
            if "" not in splits:
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
            elif path.is_dir() and not split and not _may_be_class(path):
                self.left_out["no class"].append(path)
            elif path.is_dir():
                self.classes[split].append(path.name)
                self._look_into_class(split, path)
            else:
                self.left_out["beside"].append(path)

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

    def check_not_too_deep(self) -> None:
        """Raises UsageError where pictures lie in the place of the classes' folders."""
        for split, classes in self.classes.items():
            beside = [p for p in self.left_out["beside"] if p.parent == self.folder / split]
            count = sum(path.name.lower().endswith((*_ENDINGS, *_OTHERS)) for path in beside)
            if not count or classes:
                continue
            here = self.folder / split
            above = f", or give `data_dir={_above(here)}`, if its folders are the classes"
            raise UsageError(
                f"`dataset=image_folder` expects a folder for each class in {here}, and "
                f"{counted(count, 'picture')} {'lies' if count == 1 else 'lie'} directly in it; "
                f"put those of each class in a folder of its own{'' if split else above}."
            )

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
        if paths := left["no class"]:
            said.append(f"folders without images and of runs ({named(paths)})")
        if paths := left["split"]:
            said.append(f"folders beside {' and '.join(self.files)} ({named(paths)})")
        if said:
            log.warning("image_folder: reads *.png, *.jpg, *.jpeg; left out: %s", "; ".join(said))


def read(
    data_dir: str,
    image_size: str | None = None,
    image_resize: str = "resize",
    image_channels: int | None = None,
    test_share: float = 0.2,
    test_seed: int = 0,
) -> Source:
    """Reads PNG and JPEG files: training images in ``train``, test images in ``test`` or ``val``.

    Without these folders ``data_dir`` holds a folder for each class, and test images are drawn from
    each of them. Folders without images, and those of runs, are no classes there. A line says what
    is left out, and how many images of a class are for what. The images of a split are mixed, the
    same way every time.

    Args:
      data_dir: the folder.
      image_size: ``HxW`` or ``N``: what every image is brought to; None for images of one size.
      image_resize: how, as ``pictures.read_all`` has it.
      image_channels: 1 for grey, 3 for RGB; None for grey if all files are grey, else RGB.
      test_share: of each class, without ``test`` and ``val``: at least one image, and one is left.
        ``test_seed`` and an image's class and name decide its place in the draw, so that other
        images change almost nothing.

    Returns:
      images uint8 ``[N, H, W, C]`` as ``pictures.read_all`` has them. The classes are the folders,
      empty ones too, numbered by their names in alphabetical order.

    Raises:
      UsageError: a folder is missing or has no images, an image cannot be read, or the images have
        several sizes and none is given.
    """
    folder = Path(data_dir).expanduser()
    splits = _splits_of(folder)
    found = _Found(folder, splits)
    found.check_not_too_deep()
    found.say_what_is_left_out()
    for name, images in found.files.items():
        if not images:
            raise UsageError(
                "`dataset=image_folder` expects images, *.png, *.jpg or *.jpeg, in a folder for "
                f"each class in {folder / name}, and there are none; put them there."
            )
    classes = sorted({name for names in found.classes.values() for name in names})
    files = [*found.files.values()]
    if splits == ("",):
        files = [*_drawn(files[0], test_share, test_seed)]
        _say_how_it_is_split(folder, files, classes, test_share, test_seed)
    for images, split in zip(files, ("train", splits[-1] or "test"), strict=True):
        # As tensorflow-datasets' ImageFolder does, so that runs of when it read them are repeated.
        random.Random(split).shuffle(images)
    train, test = files
    size = None if image_size is None else parse_size(image_size)
    both = _in_memory([*train, *test], classes, size, image_resize, image_channels)
    return Source(
        Split(both.images[: len(train)], both.labels[: len(train)]),
        Split(both.images[len(train) :], both.labels[len(train) :]),
        len(classes),
        names=classes,
        test_is_drawn=splits == ("",),
    )


def _splits_of(folder: Path) -> tuple[str, ...]:
    """The folders of the training and of the test images; ``("",)`` where they are yet to be drawn
    from the classes in ``folder`` itself."""
    there = [name for name in ("train", "test", "val") if (folder / name).is_dir()]
    if "train" in there and len(there) > 1:
        return ("train", there[1])
    by_name = there == ["train"] and _is_plain_class(folder / "train")  # that of a railway
    if (not there or by_name) and folder.is_dir():
        return ("",)
    lacking = "train" if "train" not in there else "test"
    raise UsageError(
        f"`dataset=image_folder` expects a folder {lacking} in {folder}, and there is none; add "
        "it, or give a `data_dir` with nothing but a folder for each class."
    )


def _above(folder: Path) -> Path:
    """The folder that would be the ``data_dir`` if ``folder`` were a class."""
    above = (folder.resolve() if folder.name in ("", "..") else folder).parent
    with contextlib.suppress(UsageError):
        if above.name in _splits_of(above.parent):
            return above.parent
    return above


def _is_plain_class(folder: Path) -> bool:
    """Whether a folder holds images, and no folders, as ``train`` does where it is a class."""
    _, folders, names = next(os.walk(folder), ("", [], []))
    folders, names = ([n for n in each if not _hidden(Path(n))] for each in (folders, names))
    return not folders and any(name.lower().endswith(_ENDINGS) for name in names)


def _may_be_class(folder: Path) -> bool:
    """Whether a folder holds images, or pictures that are not read: these are told, not left out.

    What lies in a run's folder, which may be a sweep's, are no images of a class.
    """
    for where, folders, names in os.walk(folder):
        if where != str(folder) and "config.json" in names:
            folders.clear()
        elif any(name.lower().endswith((*_ENDINGS, *_OTHERS)) for name in names):
            return True
        elif "config.json" in names:
            return False
    return False


_Files = list[tuple[Path, str]]


def _drawn(files: _Files, share: float, seed: int) -> tuple[_Files, _Files]:
    """The files for training and those for testing, of each class its share."""
    members: dict[str, _Files] = defaultdict(list)
    for path, name in files:
        members[name].append((path, name))
    train: _Files = []
    test: _Files = []
    for own in members.values():
        # By each image's own sum, so that an image more or less moves one other at most. All
        # others stay what they were: a ticket that is retrained has not been trained on them.
        own.sort(key=lambda each: (_place(each, seed), each))
        count = min(max(round(share * len(own)), 1), len(own) - 1)
        test += sorted(own[:count])
        train += sorted(own[count:])
    return train, test


def _place(file: tuple[Path, str], seed: int) -> str:
    """The place of an image in the draw of its class: those with the lowest are for testing."""
    path, name = file
    drawn_by = b"%d/%s/%s" % (seed, os.fsencode(name), os.fsencode(path.name))
    return hashlib.sha256(drawn_by).hexdigest()


def _say_how_it_is_split(
    folder: Path, files: Sequence[_Files], classes: Sequence[str], share: float, seed: int
) -> None:
    train, test = (Counter(name for _, name in each) for each in files)
    if not test:
        raise UsageError(
            f"`dataset=image_folder` expects two images or more of a class in {folder}, one for "
            "training and one for testing; add some."
        )
    log.info(
        "image_folder: no folders train and test in %s: %s images are drawn for training, %s for "
        "testing (test_share %s, test_seed %s): %s",
        *(folder, train.total(), test.total(), share, seed),
        some([f"{name} {train[name]} and {test[name]}" for name in classes]),
    )


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _OF_THE_SYSTEM


def _in_memory(
    files: _Files,
    classes: Sequence[str],
    size: tuple[int, int] | None,
    resize: str,
    channels: int | None,
) -> Split:
    """The images of ``files``; UsageError names the one that is of another size."""
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name] for _, name in files], np.int32)
    paths, grey = [path for path, _ in files], 0
    images: np.ndarray = np.empty(0, np.uint8)
    read = read_all(paths, size, resize, channels)
    with contextlib.closing(read) as pictures:  # the first mistake ends the reading
        for done, (path, image) in enumerate(zip(paths, pictures, strict=True)):
            if done == 0:
                images = np.empty((len(paths), *image.shape), np.uint8)
            if image.shape[:2] != images.shape[1:3]:
                one, other = (f"{h}x{w}" for h, w in (images.shape[1:3], image.shape[:2]))
                raise UsageError(
                    f"`dataset=image_folder` expects images of one size (height x width), and "
                    f"{paths[0]} has {one} and {path} {other}; bring them to one with "
                    "`image_size=HxW`."
                )
            if image.shape[2] > images.shape[3]:  # the first of colours behind grey ones
                images = np.repeat(images, image.shape[2], -1)
            images[done] = image
            grey += image.shape[2] == 1
    if 0 < grey < len(paths):
        log.info(
            "image_folder: %s of %s images are grey, the others have colours: all are read as RGB "
            "(image_channels=1 reads all as grey)",
            *(grey, len(paths)),
        )
    return Split(images, labels)
