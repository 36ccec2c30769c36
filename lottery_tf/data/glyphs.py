"""Glyphs: the 94 printable characters of ASCII, drawn from the fonts of a folder.

Many classes that share strokes, few examples of each, and test images whose style was never seen:
families are for training or for testing, never both. On Debian, the packages ``fonts-*`` put their
fonts into ``/usr/share/fonts``.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lottery_tf.data.dataset import Source, Split
from lottery_tf.errors import UsageError
from lottery_tf.files import write_bytes
from lottery_tf.log import counted, log

CHARACTERS = "".join(map(chr, range(33, 127)))
SIDE, EM, BASELINE = 28, 20, 21  # pixels
KEPT = "glyphs.npz"
_SUFFIXES = (".ttf", ".otf")
_ONE_IN = 8  # families is for testing


class Face(NamedTuple):
    """A font in one style.

    Attributes:
      family: its name, by which styles belong together.
      images: uint8 ``[94, 28, 28]``, ink 255, in the order of ``CHARACTERS``.
    """

    family: str
    images: np.ndarray


def read(data_dir: str) -> Source:
    """Draws the characters of every face in the TrueType and OpenType files below ``data_dir``.

    A family is for testing if the hash of its name says so, one in eight, whatever other fonts
    there are. Left out are faces that lack a character, draw nothing for one, draw two alike (all
    of them capitals) or draw what another face draws. What was drawn is kept there, in
    ``glyphs.npz``, if that can be written, and read from then on. Its sum is logged: it hangs on
    the fonts and on the release of Pillow.

    Returns:
      images uint8 ``[N, 28, 28, 1]``, face by face; ``groups`` are the families.

    Raises:
      UsageError: the libraries are not installed, the folder is missing, or its fonts are of too
        few families.
    """
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise UsageError(
            f"--dataset=glyphs expects a folder of fonts, and there is none at {folder}; give "
            "another --data_dir, such as /usr/share/fonts."
        )
    if (folder / KEPT).is_file():
        with np.load(folder / KEPT) as kept:
            images, families = kept["images"], kept["families"]
    else:
        images, families = _draw(folder)
    testing = np.array([_for_testing(family) for family in families.tolist()], bool)
    count = [len(set(families[of].tolist())) for of in (~testing, testing)]
    if min(count) == 0:
        raise UsageError(
            f"--dataset=glyphs expects fonts of many families, one in {_ONE_IN} for testing; "
            f"below {folder} are {count[0]} for training and {count[1]} for testing that draw all "
            f"{len(CHARACTERS)} characters differently: install more fonts."
        )
    log.info(
        "glyphs: %s of %d families to train on, %d of %d to test, sha256 %s",
        *(counted(int((~testing).sum()), "face"), count[0], testing.sum(), count[1]),
        hashlib.sha256(images.tobytes()).hexdigest(),
    )
    groups = np.unique(families[~testing], return_inverse=True)[1]
    return Source(
        _split(images[~testing]),
        _split(images[testing]),
        len(CHARACTERS),
        groups=np.repeat(groups, len(CHARACTERS)),
    )


def _draw(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[faces, 94, 28, 28]`` and families ``[faces]``, kept for the next run."""
    try:
        import fontTools  # noqa: F401
        import PIL  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--dataset=glyphs expects Pillow and fonttools; {error.name} is not installed: "
            "install lottery_tf with its extra [glyphs]."
        ) from None
    faces = _different(_faces(folder))
    images = np.array([face.images for face in faces], np.uint8)
    families = np.array([face.family for face in faces], str)
    file = io.BytesIO()
    np.savez_compressed(file, images=images, families=families)
    try:
        if faces:
            write_bytes(folder / KEPT, file.getvalue())
    except OSError as error:
        log.info("glyphs: drawn again by each run; %s cannot be kept (%s)", KEPT, error.strerror)
    return images, families


def _faces(folder: Path) -> Iterator[Face]:
    """Every face that has all characters, whichever order the disk has them in."""
    from fontTools.ttLib import TTFont, TTLibError

    wanted = set(map(ord, CHARACTERS))
    found = []
    paths = [
        Path(top, name) for top, _, names in os.walk(folder, followlinks=True) for name in names
    ]
    for path in (path for path in paths if path.suffix.lower() in _SUFFIXES):
        try:
            with TTFont(path, lazy=True) as font:
                if wanted <= (font.getBestCmap() or {}).keys():
                    name = font["name"]
                    family = name.getBestFamilyName() or path.stem
                    style = name.getBestSubFamilyName() or ""
                    found.append((family.casefold(), style, path.name, path))
        except (TTLibError, KeyError, OSError, AssertionError, UnicodeError):
            continue  # no font, or a damaged one
    for family, _, _, path in sorted(found):
        images = _drawn(path)
        if images is not None:
            yield Face(family, images)


def _drawn(path: Path) -> np.ndarray | None:
    """The characters, each centred by its advance on one baseline; None if Pillow cannot."""
    from PIL import Image, ImageDraw, ImageFont

    images = np.empty((len(CHARACTERS), SIDE, SIDE), np.uint8)
    try:
        font = ImageFont.truetype(str(path), EM, layout_engine=ImageFont.Layout.BASIC)
        for image, character in zip(images, CHARACTERS, strict=True):
            canvas = Image.new("L", (SIDE, SIDE))
            ImageDraw.Draw(canvas).text((SIDE / 2, BASELINE), character, 255, font, anchor="ms")
            image[...] = canvas
    except (OSError, ValueError):
        return None
    return images


def _different(faces: Iterator[Face]) -> list[Face]:
    """Those that draw 94 images, and not the ones of another face."""
    found: dict[bytes, Face] = {}
    for face in faces:
        several = {image.tobytes() for image in face.images if image.any()}
        if len(several) == len(CHARACTERS):
            found.setdefault(face.images.tobytes(), face)
    return list(found.values())


def _for_testing(family: str) -> bool:
    return hashlib.sha256(family.encode()).digest()[0] % _ONE_IN == 0


def _split(images: np.ndarray) -> Split:
    labels = np.tile(np.arange(len(CHARACTERS), dtype=np.int32), len(images))
    return Split(images.reshape(-1, SIDE, SIDE, 1), labels)
