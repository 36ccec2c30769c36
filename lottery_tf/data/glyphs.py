"""Glyphs: the 94 printable characters of ASCII, drawn from the fonts of a folder.

There are many classes that share strokes, and few examples of each. A font family is for training
or for testing, never for both, so that the styles of the test images are new. On Debian, the
packages ``fonts-*`` put their fonts into ``/usr/share/fonts``.
"""

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import write_arrays
from lottery_tf.common.log import counted, log
from lottery_tf.common.ownership import Kind, stranger
from lottery_tf.data.source import Source, Split

CHARACTERS = "".join(map(chr, range(33, 127)))
SIDE, EM, BASELINE = 28, 20, 21  # pixels
KEPT = "glyphs.npz"
_SUFFIXES = (".ttf", ".otf")
_ONE_IN = 8  # families is for testing


def _may_be_kept(file: Path) -> bool:
    """Whether a file, whole or cut off, has been kept here."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
        return "images.npy" in names and bool(names & {"families.npy", "fonts.npy"})
    except zipfile.BadZipFile:  # its list of names is at its end
        head = file.read_bytes()[:64]
        return head.startswith(b"PK\3\4") and head[30:].startswith(b"images.npy")


_KEPT = Kind("glyphs that were kept", {".": _may_be_kept})


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

    One family in eight is for testing. The hash of its name decides, whatever other fonts there
    are. A face is left out if it lacks a character, draws nothing for one, or draws two alike, as
    fonts of capitals do. So is one that draws the same as another face.

    The images are kept in ``glyphs.npz`` of that folder, if it can be written and no other
    program's file has that name. They are read from there until the fonts or the release of Pillow
    change. Without fonts beside it this file is the dataset. The sum of the images is logged: it
    depends on the fonts and on the release of Pillow.

    Returns:
      images uint8 ``[N, 28, 28, 1]``, face by face; ``groups`` are the families.

    Raises:
      UsageError: the libraries are not installed, the folder is missing or has too few families.
        Also if ``glyphs.npz`` is damaged and there are no fonts to draw it from.
    """
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise UsageError(
            f"`dataset=glyphs` expects a folder of fonts, and there is none at {folder}; give "
            "another `data_dir`, such as /usr/share/fonts."
        )
    fonts, file = _fonts(folder), folder / KEPT
    origin = _origin(fonts)
    kept = _kept(file, origin, bool(fonts))
    images, families = kept or _draw(list(fonts))
    testing = np.array([_for_testing(family) for family in families.tolist()], bool)
    count = [len(set(families[of].tolist())) for of in (~testing, testing)]
    if min(count) == 0:
        where = f"in {file}" if kept else f"below {folder}"
        raise UsageError(
            f"`dataset=glyphs` expects font families with {len(CHARACTERS)} different characters, "
            f"one in {_ONE_IN} for testing; {where} are {count[0]} for training and {count[1]} for "
            f"testing: {'put fonts beside it' if kept else 'install more fonts'}."
        )
    if not kept:
        _keep(file, images=images, families=families, **origin)
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
        names=CHARACTERS,
    )


def _fonts(folder: Path) -> dict[Path, tuple[str, int, int]]:
    """The font files below ``folder`` in order, each with its place there, its size and time."""
    found = {}
    for top, _, names in os.walk(folder, followlinks=True):
        for path in (Path(top, name) for name in names):
            if path.suffix.lower() in _SUFFIXES:
                with contextlib.suppress(OSError):  # a link that leads nowhere
                    stat = path.stat()
                    place = path.relative_to(folder).as_posix()
                    found[path] = place, stat.st_size, stat.st_mtime_ns
    return dict(sorted(found.items()))


def _origin(fonts: dict[Path, tuple[str, int, int]]) -> dict[str, str]:
    """What the images depend on: ``fonts``, a sum, and ``library``, empty if not installed."""
    # Places, sizes and times tell fonts apart, as for make. Their contents would be hundreds of
    # megabytes to read at each start.
    listed = json.dumps([SIDE, EM, BASELINE, *fonts.values()])
    try:
        import PIL
        from PIL import features

        # FreeType draws; a distribution's Pillow takes the system's.
        library = f"Pillow {PIL.__version__}, FreeType {features.version('freetype2')}"
    except ImportError:
        library = ""
    return {"fonts": hashlib.sha256(listed.encode()).hexdigest(), "library": library}


def _kept(file: Path, origin: dict[str, str], fonts: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """Images and families that ``file`` keeps; None if it does not, or of another origin.

    Without ``fonts`` any origin will do; without the library any release of it.
    """
    if not file.is_file() or (fonts and stranger(file, _KEPT)):
        return None
    try:
        with np.load(file) as arrays:
            images, families = arrays["images"], arrays["families"]
            was = {name: str(arrays[name]) if name in arrays else "unknown" for name in origin}
        shape = len(families), len(CHARACTERS), SIDE, SIDE
        whole = (images.shape, images.dtype, families.dtype.kind) == (shape, np.uint8, "U")
    except Exception:  # a damaged archive raises all sorts of them
        whole = False
    same_fonts = whole and (not fonts or was["fonts"] == origin["fonts"])
    if same_fonts and (not fonts or origin["library"] in ("", was["library"])):
        return images, families
    if not fonts:
        raise UsageError(
            f"`dataset=glyphs` expects fonts or whole images of them, and {file} is damaged; put "
            "fonts beside it, or a copy that is whole in its place."
        )
    if not whole:
        why = "it is damaged"
    elif not same_fonts:
        why = "the fonts have changed"
    else:
        why = f"it is by {was['library']}, and this is {origin['library']}"
    log.warning("glyphs: %s is drawn anew: %s", KEPT, why)
    return None


def _draw(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[faces, 94, 28, 28]`` and families ``[faces]``."""
    try:
        import fontTools  # noqa: F401
        import PIL  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"`dataset=glyphs` expects Pillow and fonttools; {error.name} is not installed: "
            "install lottery_tf with its extra [glyphs]."
        ) from None
    faces = _different(_faces(paths))
    shape = len(faces), len(CHARACTERS), SIDE, SIDE
    images = np.array([face.images for face in faces], np.uint8).reshape(shape)
    return images, np.array([face.family for face in faces], str)


def _keep(file: Path, **arrays: np.ndarray | str) -> None:
    if stranger(file, _KEPT):
        log.warning(
            "glyphs: %s is another program's file and is not replaced, so each run draws them "
            "again: move it away",
            file,
        )
        return
    try:
        # Whole or not at all: of several processes that draw at once, each writes the same.
        write_arrays(file, arrays)
    except OSError as error:
        log.info(
            "glyphs: %s cannot be written here (%s), so each run draws them again: give a folder "
            "of your own with a link to the fonts",
            KEPT,
            error.strerror,
        )


def _faces(paths: list[Path]) -> Iterator[Face]:
    """Every face that has all characters, in an order that does not depend on the disk."""
    from fontTools.ttLib import TTFont, TTLibError

    wanted = set(map(ord, CHARACTERS))
    found = []
    for path in paths:
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
            image[...] = np.asarray(canvas)
    except (OSError, ValueError):
        return None
    return images


def _different(faces: Iterator[Face]) -> list[Face]:
    """The faces that draw 94 different images, each set of images once."""
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
