"""A folder in MNIST's format: four IDX files, plain or gzipped.

The format is described at http://yann.lecun.com/exdb/mnist/. A file has two zero bytes, the type of
the values (0x08 is uint8) and the number of dimensions. The dimensions follow as big-endian 32-bit
integers, then the values.
"""

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.data.source import Source, Split

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read(data_dir: str) -> Source:
    """Reads ``data_dir``; images uint8 ``[N, H, W, 1]``, classes up to the largest label.

    Raises:
      UsageError: the folder or a file is missing, is not IDX, is cut short, or the files do not
        belong together.
    """
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise UsageError(
            f"`data_dir` expects a folder of IDX files, and there is no folder {folder}; "
            "give the folder that holds train-images-idx3-ubyte."
        )
    train, test = (_split(folder, *FILES[name]) for name in ("train", "test"))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UsageError(
            f"The training images in {folder} have the shape {train.images.shape[1:3]} and the "
            f"test images {test.images.shape[1:3]}; give a folder whose images are of one shape."
        )
    return Source(train, test, num_classes=int(max(train.labels.max(), test.labels.max())) + 1)


def _split(folder: Path, images_name: str, labels_name: str) -> Split:
    images = read_array(_find(folder, images_name), dimensions=3)
    labels = read_array(_find(folder, labels_name), dimensions=1)
    if len(images) != len(labels):
        raise UsageError(
            f"{images_name} and {labels_name} in {folder} should hold as many images as labels, "
            f"and hold {len(images)} and {len(labels)}; take both from one dataset."
        )
    if not images.size:
        raise UsageError(f"{images_name} in {folder} holds no pixels; give a folder with images.")
    return Split(images[..., None], labels.astype(np.int32))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UsageError(
        f"`dataset=idx` expects {name} or {name}.gz in {folder}, and neither is there; "
        "give the folder of the four MNIST-format files as `data_dir`."
    )


def read_array(path: str | os.PathLike[str], dimensions: int) -> np.ndarray:
    """The uint8 array of one IDX file, gzipped where its name ends in ``.gz``.

    Raises:
      UsageError: the file is not IDX, does not hold uint8 in so many ``dimensions``, or its
        length is not what its header says.
    """
    path = Path(path)
    try:
        opening: Any = gzip.open if path.suffix == ".gz" else open
        with opening(path, "rb") as file:
            return _read_array(file, path, dimensions)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(
            f"{path} is not a whole gzip file ({error}); download it again."
        ) from error


def _read_array(file: IO[bytes], path: Path, dimensions: int) -> np.ndarray:
    """Reads no more than the header says: half a megabyte of gzip may unpack to 512."""
    expected = bytes([0, 0, 0x08, dimensions])
    header = file.read(4 + 4 * dimensions)
    if header[:4] != expected or len(header) < 4 + 4 * dimensions:
        raise UsageError(
            f"{path} should be an IDX file of uint8 in {dimensions} dimensions, which begins with "
            f"the bytes {expected.hex(' ')}, and it begins with {header[:4].hex(' ') or 'nothing'}"
            "; give MNIST-format files."
        )
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4", dimensions, offset=4))
    content, wanted = bytearray(), math.prod(shape)
    while chunk := file.read(min(wanted - len(content), 1 << 20)):
        content += chunk
    more = bool(file.read(1))
    if more or len(content) != wanted:
        raise UsageError(
            f"{path} should hold {wanted} values by its header, {shape}, and holds "
            f"{'more' if more else len(content)}; download it again."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
