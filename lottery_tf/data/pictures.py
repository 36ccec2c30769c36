"""Pictures of files as a viewer shows them, or a sentence that names the file that is none.

Pillow decodes them: it tells what a file holds beside its pixels, as how the camera was held, and
takes JPEG's exact transform, where TensorFlow takes the fast one.
"""

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
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # Pillow's names of grey and RGB
_EXIF, _ORIENTATION = b"Exif\0\0", ExifTags.Base.Orientation
_THREADS = min(16, os.cpu_count() or 1)


class _Unfit(Exception):
    """What a whole file has that would be lost, and what to do: the end of a sentence."""


def read_all(paths: Sequence[Path]) -> Generator[np.ndarray, None, None]:
    """The picture of each file, uint8 ``[H, W, 3]``, turned as its EXIF orientation says.

    Grey and palette pictures become RGB. Colour profiles and gamma are not applied. Of EXIF data
    that are cut short the orientation is taken if it is there.

    Raises:
      UsageError: a file cannot be read, is damaged, or would have to lose something: it has 16
        bits a channel, transparent parts, several frames, or other colours than grey and RGB.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        warnings.filterwarnings("error", category=UserWarning, module="PIL")
        # Of EXIF data that are cut short, of which we want the orientation alone.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL.TiffImagePlugin")
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        # A photo whose preview an editor has thrown away.
        warnings.filterwarnings("ignore", ".*malformed MPO", UserWarning)
        yield from pool.map(_read, paths)


def _read(path: Path) -> np.ndarray:
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
        return _decoded(content)
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


def _decoded(content: bytes) -> np.ndarray:
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
        return np.asarray(seen.convert("RGB"))


def _check_png(content: bytes) -> None:
    """Raises ValueError for wrong sums and missing rows: Pillow overlooks them, libpng does not."""
    import tensorflow as tf  # takes seconds, and this module is read for its settings too

    try:
        tf.io.decode_png(content)
    except tf.errors.InvalidArgumentError:
        raise ValueError("it is damaged") from None


def _keep_orientation(image: Image.Image) -> None:
    """Sets the orientation where Pillow does not see it: a value that is cut off ends its reading.

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

    ``tiff`` begins with the order of its bytes, 42, and the place of its tags: their number, and 12
    bytes of each, which begin with what tag it is. They stand in rising order.
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
