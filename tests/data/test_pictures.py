"""Pictures as a viewer shows them: every kind of PNG and JPEG, and each way to be none."""

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from lottery_tf.common.errors import UsageError
from lottery_tf.data.pictures import read_all

# 4 rows of 6 pixels, no two alike, and dim enough for the palettes and greys below.
PIXELS = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
PICTURE = Image.fromarray(PIXELS)
GREY = PICTURE.convert("L")
ORIENTATION = 0x0112


def file(image: Image.Image, form: str = "PNG", **how) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **how)
    return stream.getvalue()


def jpeg(image: Image.Image = PICTURE, **how) -> bytes:
    return file(image, "JPEG", quality=100, **how)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks, with their true sums."""
    written = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (*chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def header(width: int, height: int, depth: int, colours: int) -> tuple[bytes, bytes]:
    """colours: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)


def rows(*lines: bytes) -> tuple[bytes, bytes]:
    return b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines))


def read(folder: Path, content: bytes, name: str = "x.png") -> np.ndarray:
    (folder / name).write_bytes(content)
    (pixels,) = all_of([folder / name], channels=3)
    assert pixels.shape[2] == 3
    return pixels


def all_of(paths: list[Path], **how) -> list[np.ndarray]:
    with contextlib.closing(read_all(paths, **how)) as pictures:
        found = [*pictures]
    assert all(pixels.dtype == np.uint8 and pixels.ndim == 3 for pixels in found)
    return found


def rgb(grey) -> np.ndarray:
    return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, -1)


def with_alpha(image: Image.Image, alpha: int = 255) -> Image.Image:
    image = image.copy()
    image.putalpha(255)
    image.putpixel((0, 0), (*image.getpixel((0, 0))[:-1], alpha))
    return image


PALETTE = GREY.convert("P")
BIT = Image.fromarray(np.tile([[False, True]], (4, 3)))
WHOLE = {
    "RGB": (file(PICTURE), PIXELS),
    "grey": (file(GREY), rgb(GREY)),
    "1 bit": (file(BIT), rgb(np.tile([[0, 255]], (4, 3)))),
    "2 bits": (png(header(4, 1, 2, 0), rows(b"\x1b")), rgb([[0, 85, 170, 255]])),
    "4 bits": (png(header(4, 1, 4, 0), rows(b"\x01\xef")), rgb([[0, 17, 238, 255]])),
    "palette": (file(PALETTE), rgb(GREY)),
    "palette of 1 bit": (
        png(header(2, 1, 1, 3), (b"PLTE", bytes([1, 2, 3, 4, 5, 6])), rows(b"\x40")),
        np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8),
    ),
    "opaque RGBA": (file(with_alpha(PICTURE)), PIXELS),
    "opaque grey and alpha": (file(with_alpha(GREY)), rgb(GREY)),
    "a transparent colour that does not occur": (file(GREY, transparency=250), rgb(GREY)),
    "a transparent palette entry that does not occur": (file(PALETTE, transparency=250), rgb(GREY)),
    "interlaced": (  # Adam7: of two pixels, pass 1 has the first and pass 6 the second
        png(
            (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 0, 0, 0, 1)),
            (b"IDAT", zlib.compress(b"\0\x07\0\x09")),
        ),
        rgb([[7, 9]]),
    ),
    "a BMP by the name of a PNG": (file(PICTURE, "BMP"), PIXELS),
    "bytes after the end": (file(PICTURE) + b"more", PIXELS),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_pngs_are_exact(tmp_path, kind):
    content, pixels = WHOLE[kind]
    np.testing.assert_array_equal(read(tmp_path, content), pixels)


@pytest.mark.parametrize(
    ("content", "pixels"),
    [
        (jpeg(), PIXELS),
        (jpeg(progressive=True), PIXELS),
        (jpeg(GREY), rgb(GREY)),
        (file(PICTURE, "MPO", quality=100, save_all=True, append_images=[BIT]), PIXELS),
    ],
    ids=["RGB", "progressive", "grey", "with a preview beside it"],
)
def test_jpegs_are_as_near_as_jpeg_is(tmp_path, content, pixels):
    assert np.abs(read(tmp_path, content).astype(int) - pixels).max() <= 4


# As the EXIF standard describes where row 0 and column 0 are.
SHOWN = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS, -1),
    7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PIXELS),
}


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_the_orientation_is_followed(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    how = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    pixels = read(tmp_path, file(PICTURE, form, exif=exif, **how))
    assert pixels.shape == SHOWN[orientation].shape
    assert np.abs(pixels.astype(int) - SHOWN[orientation]).max() <= (3 if how else 0)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    np.testing.assert_array_equal(read(tmp_path, file(PICTURE, exif=exif)), PIXELS)


def cut_exif(tags: dict[int, int | str], end: int | None) -> bytes:
    """EXIF data with ``end`` bytes: 6 of its name, 8 of a head, 2 of a count, 12 a tag, 4, values.

    Tags are in rising order: 0x010F the maker's name, 0x0112 the orientation, 0x011A a resolution.
    """
    exif = Image.Exif()
    exif.update(tags)
    return exif.tobytes()[:end]


def profile(exif: bytes) -> PngImagePlugin.PngInfo:
    """EXIF data as ImageMagick puts them into a PNG."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n")
    return info


MAKER = {0x010F: "the maker's name"}
CUT_EXIF = {
    "no value of the tag before": (MAKER | {ORIENTATION: 6}, 44, 6),
    "nothing after the tags": (MAKER | {ORIENTATION: 6}, 40, 6),
    "no tag after": ({ORIENTATION: 6, 0x011A: 72.0}, 28, 6),
    "half a tag after": ({ORIENTATION: 8, 0x011A: 72.0}, 34, 8),
    "none, and no value": (MAKER, 32, 1),
    "none, nor a tag after the next": ({0x011A: 72.0, 0x0131: "a program"}, 30, 1),
    "whole, without one": (MAKER, None, 1),
}


@pytest.mark.parametrize("kind", CUT_EXIF)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "a PNG's text"])
def test_of_exif_data_cut_short_the_orientation_is_taken(tmp_path, form, kind):
    tags, end, orientation = CUT_EXIF[kind]
    exif = cut_exif(tags, end)
    if form == "JPEG":
        content = jpeg(exif=exif, subsampling=0)
    else:
        how = {"pnginfo": profile(exif)} if form == "a PNG's text" else {"exif": exif}
        content = file(PICTURE, **how)
    pixels = read(tmp_path, content)
    assert np.abs(pixels.astype(int) - SHOWN[orientation]).max() <= (3 if form == "JPEG" else 0)


def sixteen(colours: int, channels: int) -> bytes:
    return png(header(2, 1, 16, colours), rows(bytes(range(4 * channels))))


def animated() -> bytes:
    return file(PICTURE, save_all=True, append_images=[ImageOps.invert(PICTURE)])


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


LOSING = {
    "16-bit grey": (sixteen(0, 1), "has 16; convert it to 8"),
    "16-bit RGB": (sixteen(2, 3), "has 16; convert it to 8"),
    "16-bit grey and alpha": (sixteen(4, 2), "has 16; convert it to 8"),
    "16-bit RGBA": (sixteen(6, 4), "has 16; convert it to 8"),
    "animated": (animated(), "is animated; save one frame"),
    "RGBA": (file(with_alpha(PICTURE, 254)), "has transparent parts; lay it"),
    "grey and alpha": (file(with_alpha(GREY, 0)), "has transparent parts"),
    "a transparent grey": (file(GREY, transparency=GREY.getpixel((0, 0))), "transparent parts"),
    "a transparent colour": (file(PICTURE, transparency=(0, 1, 2)), "transparent parts"),
    "a transparent palette entry": (
        file(PALETTE, transparency=PALETTE.getpixel((0, 0))),
        "transparent parts",
    ),
    "a transparent bit": (file(BIT, transparency=0), "transparent parts"),
    "CMYK": (jpeg(PICTURE.convert("CMYK")), "has the colours CMYK; convert it to RGB"),
}
DAMAGED = {
    "empty": (b"", r"\(it is empty\)"),
    "text": (b"PNG", r"\(it is none\)"),
    "another format": (file(PICTURE, "GIF"), r"\(it is none\)"),
    "a PNG cut short": (file(PICTURE)[:-20], "it is damaged"),
    "a PNG without an end": (file(PICTURE)[:-12], "it is damaged"),
    "a bit of a PNG's pixels": (flipped(file(PICTURE), -20), "it is damaged"),
    "a bit of a PNG's header": (flipped(file(PICTURE), 19), r"\(it is none\)"),
    "no header": (png((b"tEXt", b"a\0b"), header(1, 1, 8, 0), rows(b"\0")), "it is damaged"),
    "too few rows": (png(header(1, 2, 8, 0), rows(b"\0")), "it is damaged"),
    "no palette": (png(header(1, 1, 8, 3), rows(b"\0")), "it is damaged"),
    "beyond the palette": (
        png(header(2, 1, 8, 3), (b"PLTE", bytes(6)), rows(b"\x01\x02")),
        "more than the 2 colours",
    ),
    "a JPEG cut short": (jpeg()[:-30], "truncated"),
    **{
        f"EXIF data of {end} bytes": (
            jpeg(exif=cut_exif(MAKER | {ORIENTATION: 6}, end)),
            "its EXIF data end before the orientation",
        )
        for end in (14, 20, 28, 38)
    },
    "a PNG's text of EXIF data cut short": (
        file(PICTURE, pnginfo=profile(cut_exif(MAKER | {ORIENTATION: 6}, 30))),
        "its EXIF data end before the orientation",
    ),
    "EXIF data that are none": (jpeg(exif=b"Exif\0\0years of work"), "not a TIFF file"),
    "a bomb": (png(header(10**5, 10**5, 8, 2), rows(b"")), r"10000000000 pixels\) exceeds"),
    "a small bomb": (png(header(10**4, 10**4, 8, 2), rows(b"")), r"100000000 pixels\) exceeds"),
}


@pytest.mark.parametrize("kind", LOSING)
def test_what_would_lose_something_is_refused(tmp_path, kind):
    content, message = LOSING[kind]
    with pytest.raises(UsageError, match=f"of 8 bits a channel, and .*/x.png .*{message}"):
        read(tmp_path, content)


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_damaged_is_refused(tmp_path, kind):
    content, message = DAMAGED[kind]
    with pytest.raises(
        UsageError, match=f"(?i)/x.png cannot be read as one .*{message}.*; mend or"
    ):
        read(tmp_path, content)


def pipe(path: Path) -> None:
    os.mkfifo(path)  # reading it would wait for ever


@pytest.mark.parametrize(
    "make",
    [lambda p: p.symlink_to("nowhere"), lambda p: p.symlink_to(p), lambda p: p.mkdir(), pipe],
    ids=["a link to nowhere", "a link to itself", "a folder", "a pipe"],
)
def test_what_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / "x.png")
    with pytest.raises(UsageError, match="/x.png leads nowhere or is no file; mend or remove it"):
        next(read_all([tmp_path / "x.png"]))


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UsageError, match=r"/x.png cannot be read \(Permission denied\); mend"):
        read(tmp_path, file(PICTURE))


def test_many_come_in_their_order(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(50)]
    for number, path in enumerate(paths):
        path.write_bytes(file(Image.new("L", (1, 1), number)))
    assert [int(pixels[0, 0, 0]) for pixels in read_all(paths)] == [*range(50)]


# Grey, and other sizes


def paths_of(folder: Path, **contents: bytes) -> list[Path]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_grey_files_stay_grey_and_colours_become_grey_where_asked(tmp_path):
    paths = paths_of(tmp_path, grey=file(GREY), bit=file(BIT), rgb=file(PICTURE))
    grey, bit, colours = all_of(paths)
    np.testing.assert_array_equal(grey[..., 0], np.asarray(GREY))
    np.testing.assert_array_equal(bit[..., 0], 255 * np.tile([[0, 1]], (4, 3)))
    np.testing.assert_array_equal(colours, PIXELS)
    grey, _, colours = all_of(paths, channels=1)
    assert grey.shape == colours.shape == (4, 6, 1)
    np.testing.assert_array_equal(grey[..., 0], np.asarray(GREY))
    # 0.299, 0.587 and 0.114 of red, green and blue: ITU-R 601.
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])
    assert np.abs(colours[..., 0] - luma).max() <= 0.5 + 1e-3
    assert [pixels.shape[2] for pixels in all_of(paths, channels=3)] == [3, 3, 3]


def test_a_picture_is_brought_to_a_size_and_antialiased(tmp_path):
    stripes = np.tile(np.array([[0, 255]], np.uint8), (8, 8))  # 8x16, of one pixel each
    paths = paths_of(tmp_path, stripes=file(Image.fromarray(stripes)))
    (halved,) = all_of(paths, size=(4, 4))
    assert halved.shape == (4, 4, 1)
    # Without antialiasing one of the two colours would be left.
    assert np.abs(halved[:, 1:-1].astype(int) - 127).max() <= 20
    (same,) = all_of(paths, size=(8, 16))
    np.testing.assert_array_equal(same[..., 0], stripes)


def test_a_centre_crop_keeps_the_ratio_of_the_sides(tmp_path):
    thirds = np.repeat(np.array([[10, 100, 200]], np.uint8), 4, 1).repeat(4, 0)  # 4x12
    paths = paths_of(tmp_path, wide=file(Image.fromarray(thirds)))
    (middle,) = all_of(paths, size=(4, 4), resize="center_crop")
    np.testing.assert_array_equal(middle, np.full((4, 4, 1), 100))
    (whole,) = all_of(paths, size=(4, 4))
    assert whole[0, 0, 0] < 100 < whole[0, -1, 0]
    paths = paths_of(tmp_path, tall=file(Image.fromarray(thirds.T.copy())))
    np.testing.assert_array_equal(
        all_of(paths, size=(4, 4), resize="center_crop")[0], np.full((4, 4, 1), 100)
    )
