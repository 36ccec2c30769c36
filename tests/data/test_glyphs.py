"""Glyphs from the fonts that come with matplotlib, and from files that are none."""

import os
import shutil
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from lottery_tf.common.errors import UsageError
from lottery_tf.data import DataSettings, glyphs, load

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
SHARED = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf")


@pytest.fixture
def folder(tmp_path):
    """Four faces of three families, in folders, and things that are no fonts."""
    for name in SHARED:
        (tmp_path / name[:8]).mkdir(exist_ok=True)
        shutil.copy(FONTS / name, tmp_path / name[:8])
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    (tmp_path / "folder.otf").mkdir()
    (tmp_path / "README").write_text("fonts")
    return tmp_path


@pytest.fixture
def serif_for_testing(monkeypatch):
    monkeypatch.setattr(glyphs, "_for_testing", lambda family: family == "dejavu serif")


def test_every_face_has_94_images(folder, serif_for_testing, lines):
    source = glyphs.read(str(folder))
    assert source.train.images.shape == (3 * 94, 28, 28, 1)
    assert source.test.images.shape == (94, 28, 28, 1)
    for split in (source.train, source.test):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        assert split.labels.tolist() == [*range(94)] * (len(split) // 94)
        assert split.images.reshape(len(split), -1).any(1).all()
    assert source.num_classes == 94
    assert source.groups.tolist() == [0] * 188 + [1] * 94  # sans in two styles, sans mono
    assert "3 faces of 2 families to train on, 1 of 1 to test, sha256 " in lines[-1]


def test_a_glyph_is_where_it_belongs(folder, serif_for_testing):
    """_ lies under the baseline, ^ high above it; l is taller than it is wide."""
    images = glyphs.read(str(folder)).test.images[..., 0]
    ink = {c: np.argwhere(images[glyphs.CHARACTERS.index(c)] > 127) for c in "_^lI."}
    assert ink["_"][:, 0].min() >= glyphs.BASELINE
    assert ink["^"][:, 0].max() < glyphs.BASELINE - 5
    assert ink["."][:, 0].max() == glyphs.BASELINE - 1
    for c in "lI":
        tall, wide = np.ptp(ink[c], 0)
        assert tall > 10 and wide < tall
        assert abs(ink[c][:, 1].mean() - 13.5) < 2


def test_the_same_fonts_elsewhere_give_the_same_images(folder, serif_for_testing, tmp_path, lines):
    first = glyphs.read(str(folder))
    other = tmp_path / "other"
    other.mkdir()
    for name in reversed(SHARED):
        shutil.copy(FONTS / name, other)
    shutil.copy(FONTS / SHARED[0], other / "copy.ttf")  # draws nothing new
    second = glyphs.read(str(other))
    np.testing.assert_array_equal(first.train.images, second.train.images)
    assert lines[0] == lines[1]


def test_what_was_drawn_is_kept(folder, serif_for_testing, monkeypatch, lines):
    first = glyphs.read(str(folder))
    monkeypatch.setattr(glyphs, "_faces", None)
    monkeypatch.setitem(sys.modules, "PIL", None)  # which reading does not need
    second = glyphs.read(str(folder))
    np.testing.assert_array_equal(first.train.images, second.train.images)
    np.testing.assert_array_equal(first.groups, second.groups)
    assert lines[0] == lines[1]
    for font in [*folder.rglob("*.ttf"), folder / "README"]:
        font.unlink()
    third = glyphs.read(str(folder))
    np.testing.assert_array_equal(first.test.images, third.test.images)


def new_font(folder):
    shutil.copy(FONTS / "DejaVuSerif-Bold.ttf", folder)


def touched_font(folder):
    os.utime(folder / "broken.ttf", ns=(1, 1))


def other_library(folder):
    keep(folder, library="Pillow 1.0, FreeType 1.0")


def older_release(folder):
    keep(folder, fonts=None, library=None)


def keep(folder, **changed):
    """Changes arrays of what is kept; None takes one away."""
    arrays = dict(np.load(folder / glyphs.KEPT)) | changed
    np.savez(folder / glyphs.KEPT, **{k: v for k, v in arrays.items() if v is not None})


@pytest.mark.parametrize(
    ("change", "why", "test_faces"),
    [
        (new_font, "the fonts have changed", 2),
        (touched_font, "the fonts have changed", 1),
        (older_release, "the fonts have changed", 1),
        (other_library, "it is by Pillow 1.0, FreeType 1.0, and this is Pillow", 1),
        (lambda folder: cut(folder, 2000), "it is damaged", 1),
        (lambda folder: keep(folder, families=None), "it is damaged", 1),
        (lambda folder: keep(folder, images=np.zeros((4, 94, 20, 20), np.uint8)), "is damaged", 1),
    ],
)
def test_what_was_drawn_of_others_is_drawn_anew(
    folder, serif_for_testing, lines, change, why, test_faces
):
    glyphs.read(str(folder))
    change(folder)
    del lines[:]
    drawn = glyphs.read(str(folder))
    assert lines[0].startswith("glyphs: glyphs.npz is drawn anew: ") and why in lines[0]
    assert len(drawn.test) == test_faces * 94
    del lines[:]
    kept = glyphs.read(str(folder))
    assert len(lines) == 1  # nothing was drawn
    np.testing.assert_array_equal(drawn.test.images, kept.test.images)


def to_others(folder):
    (folder / glyphs.KEPT).symlink_to(folder / "mine.npz")
    np.savez(folder / "mine.npz", images=np.zeros(3))


@pytest.mark.parametrize(
    "leave",
    [
        lambda folder: (folder / glyphs.KEPT).write_bytes(b""),
        lambda folder: (folder / glyphs.KEPT).write_bytes(b"no archive"),
        lambda folder: np.savez(folder / glyphs.KEPT, weights=np.zeros(3)),
        lambda folder: (folder / glyphs.KEPT).mkdir(),
        to_others,
    ],
)
def test_what_others_left_in_the_place_is_not_replaced(folder, serif_for_testing, lines, leave):
    leave(folder)
    before = contents(folder)
    assert len(glyphs.read(str(folder)).test) == 94
    assert "glyphs.npz is another program's file and is not replaced" in lines[0]
    assert contents(folder) == before


def contents(folder):
    return {p: p.is_symlink() or (p.is_file() and p.read_bytes()) for p in folder.rglob("*")}


def cut(folder, count):
    file = folder / glyphs.KEPT
    file.write_bytes(file.read_bytes()[:count])


def test_too_few_fonts_are_not_kept(folder, serif_for_testing):
    serif = folder / "DejaVuSe"
    serif.rename(folder.parent / "elsewhere")
    with pytest.raises(UsageError, match=f"below {folder} are 2 for training and 0 for testing"):
        glyphs.read(str(folder))
    assert not (folder / glyphs.KEPT).exists()
    (folder.parent / "elsewhere").rename(serif)
    assert len(glyphs.read(str(folder)).test) == 94


def test_two_that_draw_at_once_write_the_same(folder, serif_for_testing, monkeypatch):
    """The second begins and ends while the first draws."""
    draw, contents = glyphs._draw, []

    def overtaken(paths):
        monkeypatch.setattr(glyphs, "_draw", draw)
        second = glyphs.read(str(folder))
        contents.append((folder / glyphs.KEPT).read_bytes())
        assert len(second.test) == 94
        return draw(paths)

    monkeypatch.setattr(glyphs, "_draw", overtaken)
    assert len(glyphs.read(str(folder)).test) == 94
    assert contents == [(folder / glyphs.KEPT).read_bytes()]
    assert not [*folder.glob(".glyphs*")]


def test_a_folder_that_is_read_through_a_link(folder, serif_for_testing, tmp_path_factory):
    mine = tmp_path_factory.mktemp("mine")
    (mine / "fonts").symlink_to(folder)
    (mine / "nowhere.ttf").symlink_to(folder / "missing.ttf")
    assert len(glyphs.read(str(mine)).test) == 94
    assert (mine / glyphs.KEPT).exists() and not (folder / glyphs.KEPT).exists()


def test_a_folder_that_cannot_be_written(folder, serif_for_testing, monkeypatch, lines):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(glyphs, "write_arrays", refuse)
    assert len(glyphs.read(str(folder)).test) == 94
    assert "glyphs.npz cannot be written here (Permission denied)" in lines[0]


def test_a_family_is_in_one_split(folder, serif_for_testing):
    for seed in range(4):
        data = load(DataSettings("glyphs", str(folder), dev_share=0.1, data_seed=seed))
        sizes = len(data.train), len(data.dev)
        assert sizes in {(188, 94), (94, 188)}
        faces = [
            {face.tobytes() for face in split.images.reshape(-1, 94, 28, 28)}
            for split in (data.train, data.dev)
        ]
        assert len(faces[0] | faces[1]) == 3 and not faces[0] & faces[1]
    few = load(DataSettings("glyphs", str(folder), dev_share=0, train_examples=100))
    assert len(few.train) == 100 and not few.augment and not few.flip


def test_faces_that_confuse_characters_are_left_out(folder, serif_for_testing, monkeypatch):
    draw = glyphs._drawn

    def capitals(path):
        images = draw(path)
        if "Mono" in path.name:
            images[glyphs.CHARACTERS.index("a")] = images[glyphs.CHARACTERS.index("A")]
        return images

    monkeypatch.setattr(glyphs, "_drawn", capitals)
    assert len(glyphs.read(str(folder)).train) == 2 * 94
    assert len(np.load(folder / glyphs.KEPT)["images"]) == 3


def test_a_share_of_all_families_is_for_testing():
    found = [glyphs._for_testing(f"family {number}") for number in range(2000)]
    assert 0.1 < np.mean(found) < 0.15
    assert found[:8] == [glyphs._for_testing(f"family {number}") for number in range(8)]


def test_mistakes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(glyphs, "_for_testing", lambda family: False)
    with pytest.raises(UsageError, match="3 for training and 0 for testing.*: install more fonts"):
        glyphs.read(str(folder))
    with pytest.raises(UsageError, match="a folder of fonts, and there is none at"):
        glyphs.read(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="name it with `data_dir`"):
        DataSettings("glyphs")
    monkeypatch.setitem(sys.modules, "fontTools", None)
    with pytest.raises(UsageError, match=r"extra \[glyphs\]"):
        glyphs.read(str(folder))


def test_mistakes_of_a_kept_file_name_it(folder, serif_for_testing, monkeypatch):
    """It has come without its fonts, which could be drawn anew."""
    glyphs.read(str(folder))
    alone = folder / "alone"
    alone.mkdir()
    (folder / glyphs.KEPT).rename(alone / glyphs.KEPT)
    monkeypatch.setattr(glyphs, "_for_testing", lambda family: False)
    with pytest.raises(UsageError, match=r"in .*/alone/glyphs.npz are 3 .* put fonts beside it\.$"):
        glyphs.read(str(alone))
    cut(alone, 2000)
    with pytest.raises(UsageError, match="and .*/alone/glyphs.npz is damaged; put fonts beside it"):
        glyphs.read(str(alone))
