"""Pictures of files as a viewer shows them, or a sentence that names the file that is none.

Pillow decodes them. It tells what a file holds beside its pixels, such as how the camera was held.
Of JPEG it uses the exact transform, where TensorFlow uses the fast one.
"""

import functools
import io
import os
import struct
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lottery_tf.common.errors import UsageError

_FORMATS = ("PNG", "JPEG", "BMP")  # by content, whatever the name: TensorFlow read these
_GREY = ("1", "L", "LA")  # Pillow's names
_MODES = (*_GREY, "P", "PA", "RGB", "RGBA")
_EXIF, _ORIENTATION = b"Exif\0\0", ExifTags.Base.Orientation
_LONGEST = 4096  # pixels of a side that pictures are brought to
_THREADS = min(16, os.cpu_count() or 1)


class _Unfit(Exception):
    """A file is whole, but something in it would be lost. Says what, and what to do, as the end of
    a sentence."""


def parse_size(size: str | int) -> tuple[int, int]:
    """``(height, width)`` of an ``image_size``.

    >>> parse_size("32x48"), parse_size("32"), parse_size(32)
    ((32, 48), (32, 32), (32, 32))

    Raises:
      UsageError: for anything else, and for sides of more than 4,096 pixels.
    """
    known = isinstance(size, str | int) and not isinstance(size, bool)
    text = str(size) if known else ""
    sides = text.lower().split("x")
    if len(sides) in (1, 2) and all(side.isascii() and side.isdecimal() for side in sides):
        height, width = (int(side[:9]) for side in (sides[0], sides[-1]))
        if min(height, width) >= 1 and max(height, width) <= _LONGEST:
            return height, width
    raise UsageError(
        f"`image_size` expects HxW or N, pixels from 1 to {_LONGEST:,} such as 32x48 or 32, not "
        f"'{size}'."
    )


def read_all(
    paths: Sequence[Path],
    size: tuple[int, int] | None = None,
    resize: str = "resize",
    channels: int | None = None,
) -> Generator[np.ndarray, None, None]:
    """The picture of each file, turned as its EXIF orientation says.

    Palette pictures become RGB. Colour profiles and gamma are not applied. Of EXIF data that are
    cut short the orientation is taken if it is there.

    Args:
      paths: the files.
      size: ``(H, W)`` to bring each picture to, by a bilinear filter that is antialiased. None
        leaves it as it is.
      resize: ``resize`` keeps the whole picture, but not the ratio of its sides. ``center_crop``
        keeps the ratio, and cuts off both ends of the longer side.
      channels: 3 for RGB, or 1 for grey, by the weights of ITU-R 601 for red, green and blue. None
        leaves grey files grey and makes the others RGB.

    Returns:
      uint8 ``[H, W, C]`` for each path, in their order.

    Raises:
      UsageError: a file cannot be read, is damaged, or would lose something. That are 16 bits a
        channel, transparent parts, several frames, and colours that are neither grey nor RGB.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        warnings.filterwarnings("error", category=UserWarning, module="PIL")
        # Of EXIF data that are cut short, of which we want the orientation alone.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL.TiffImagePlugin")
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        # A photo whose preview an editor has thrown away.
        warnings.filterwarnings("ignore", ".*malformed MPO", UserWarning)
        read = functools.partial(_read, size=size, resize=resize, channels=channels)
        yield from pool.map(read, paths)


def _read(
    path: Path, size: tuple[int, int] | None, resize: str, channels: int | None
) -> np.ndarray:
    expects = "`dataset=image_folder` expects PNG and JPEG images"
    try:
        if not path.is_file():
            raise UsageError(
                f"{expects}, and {path} leads nowhere or is no file; mend or remove it."
            )
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{expects}, and {path} cannot be read ({error.strerror}); mend or remove it."
        ) from error
    try:
        picture, grey = _decoded(content)
    except _Unfit as error:
        raise UsageError(
            f"{expects} that are opaque, grey or RGB, of 8 bits a channel, and {path} {error}."
        ) from None
    except Exception as error:  # a damaged file raises all sorts of them
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "it is none" if content else "it is empty"
        raise UsageError(
            f"{expects}, and {path} cannot be read as one ({reason}); mend or remove it."
        ) from error
    if (channels or (1 if grey else 3)) == 1:
        picture = picture.convert("L")  # exact for what was grey
    if size is not None:
        # Pillow's filters grow with what they shrink by.
        width_height, by = size[::-1], Image.Resampling.BILINEAR
        if resize == "center_crop":
            picture = ImageOps.fit(picture, width_height, by)
        else:
            picture = picture.resize(width_height, by)
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _decoded(content: bytes) -> tuple[Image.Image, bool]:
    """The picture as RGB, and whether its file is grey."""
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        if image.format == "PNG":
            _check_png(content)
            # Of 16 bits Pillow keeps the upper 8 of RGB, and calls that RGB; IHDR comes first.
            if content[24] == 16:
                raise _Unfit("has 16; convert it to 8")
            if getattr(image, "is_animated", False):  # which not every format has
                raise _Unfit("is animated; save one frame of it")
        if image.mode not in _MODES:
            raise _Unfit(f"has the colours {image.mode}; convert it to RGB")
        if image.mode == "P":
            colours = len(image.getpalette() or ()) // 3
            _, highest = cast(tuple[int, int], image.getextrema())  # of the one band
            if highest >= colours:  # which would be black
                raise ValueError(f"it uses more than the {colours} colours of its palette")
        image.load()  # a PNG's EXIF data may come after its pixels
        _keep_orientation(image)
        seen = ImageOps.exif_transpose(image)
        if seen.has_transparency_data:
            seen = seen.convert("RGBA")
            if seen.getchannel("A").getextrema() != (255, 255):
                raise _Unfit("has transparent parts; lay it on a background")
        return seen.convert("RGB"), image.mode in _GREY


def _check_png(content: bytes) -> None:
    """Raises ValueError for wrong sums and missing rows, which libpng sees and Pillow does not."""
    import tensorflow as tf  # takes seconds, and command lines are checked with this module

    try:
        tf.io.decode_png(content)
    except tf.errors.InvalidArgumentError:
        raise ValueError("it is damaged") from None


def _keep_orientation(image: Image.Image) -> None:
    """Sets the orientation where Pillow misses it, because data that are cut off end its reading.

    Raises:
      ValueError: if the data end before the orientation could be found.
    """
    data, read = image.info.get("exif", b""), Image.Exif()
    if not data and "Raw profile type exif" in image.info:  # ImageMagick's, in a PNG's text
        data = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
    read.load(data)
    if data and _ORIENTATION not in read:
        read.load(_of_orientation(data.removeprefix(_EXIF).removeprefix(_EXIF)))
        if _ORIENTATION in read:
            image.getexif()[_ORIENTATION] = read[_ORIENTATION]


def _of_orientation(tiff: bytes) -> bytes:
    """EXIF data with the orientation alone; nothing where there is none.

    ``tiff`` begins with the order of its bytes, the number 42, and the place of its tags. There is
    their number, then 12 bytes for each, which begin with the tag's own number. They are sorted.
    """
    order, beyond = "<" if tiff.startswith(b"II") else ">", False
    try:
        (place,) = struct.unpack_from(f"{order}L", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, place)
        for number in range(count):
            tag, rest = struct.unpack_from(f"{order}H10s", tiff, place + 2 + 12 * number)
            if tag == _ORIENTATION:
                return tiff[:4] + struct.pack(f"{order}LHH10sL", 8, 1, tag, rest, 0)
            beyond = beyond or tag > _ORIENTATION
    except struct.error:
        if not beyond:
            raise ValueError("its EXIF data end before the orientation") from None
    return b""
