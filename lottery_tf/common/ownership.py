"""What may be replaced: only what this library has written, known by its names and its contents.

A writer names the kind of its files. ``check_ours`` checks that everything at a place is of that
kind. If there is one file, folder or link more, or a file whose content is not the writer's, it
refuses and nothing is changed. A link within a folder is never ours; a link at the place itself
stands for its target. Files that a file manager leaves are ignored, and deleted with the folder.
"""

import contextlib
import dataclasses
import fnmatch
import itertools
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lottery_tf.common.errors import UsageError

Recognise = Callable[[Path], bool]

# In lower case: files in which macOS and Windows note how to show a folder.
OF_FILE_MANAGERS = frozenset({".ds_store", "desktop.ini", "thumbs.db"})
# The mark that matplotlib writes into a picture's header for us, by the file's suffix.
PICTURE_MARKS = {".png": {"Software": "lottery_tf"}, ".svg": {"Creator": "lottery_tf"}}
_MARKS = (b"Software\0lottery_tf", b"<dc:title>lottery_tf</dc:title>")


@dataclasses.dataclass(frozen=True)
class Kind:
    """The files that a writer makes.

    Attributes:
      what: its name in messages, such as "a ticket".
      files: place of a file below the folder → function that tells whether a file there is the
        writer's. A place is ``variables/variables.index``; ``*`` and ``?`` match anything in the
        file's name. For a kind that is a single file the place is ``.``.
      marker: the file that every folder of the kind has.
    """

    what: str
    files: Mapping[str, Recognise]
    marker: str | None = None

    def below(self, folder: str) -> dict[str, Recognise]:
        """``files`` of a kind that has this one in a folder."""
        return {f"{folder}/{place}": ours for place, ours in self.files.items()}

    def recognises(self, place: PurePosixPath, file: Path) -> bool:
        """Whether the file that lies at ``place`` below a folder is the writer's."""
        for pattern, ours in self.files.items():
            known = PurePosixPath(pattern)
            if known.parent == place.parent and fnmatch.fnmatchcase(place.name, known.name):
                # A damaged file raises whatever its reader stumbles over: it is not known then.
                with contextlib.suppress(Exception):
                    return file.is_file() and bool(ours(file))
        return False


def check_ours(path: str | os.PathLike[str], kind: Kind) -> None:
    """Raises UsageError unless ``path`` is free, an empty folder, or holds only ``kind``'s files.

    Writers call it before they begin, so that no work is done in vain, and before they replace.
    """
    found = stranger(path, kind)
    if found is None:
        return
    real = Path(os.path.realpath(path))
    if found in real.parents:
        raise UsageError(
            f"Expected {path} to be a place for files that can be written; {found} is no folder: "
            "choose another place."
        )
    at = "" if found == real else f", {found}"
    raise UsageError(
        f"Expected {path} to be new or {kind.what}; it holds something else{at}, which is never "
        "replaced or deleted: move it away, or choose another place."
    )


def check_all_ours(folder: str | os.PathLike[str], kinds: Mapping[str, Kind]) -> None:
    """``check_ours`` of several places below a folder, by their names there."""
    for place, kind in kinds.items():
        check_ours(Path(folder, place), kind)


def remove_ours(path: str | os.PathLike[str], kind: Kind) -> None:
    """Removes what is at ``path`` if all of it is ``kind``'s. A link or anything else stays."""
    path = Path(path)
    if path.is_symlink() or stranger(path, kind) is not None:
        return
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def stranger(path: str | os.PathLike[str], kind: Kind) -> Path | None:
    """The first file or folder at ``path`` that is not of the kind; None if there is none."""
    path = Path(os.path.realpath(path))
    if not os.path.lexists(path):
        above = next(parent for parent in path.parents if parent.exists())
        return None if above.is_dir() else above
    if "." in kind.files:
        return None if kind.recognises(PurePosixPath("."), path) else path
    if not path.is_dir():
        return path
    found = _below(path)
    if kind.marker is not None and (first := next(found, None)) is not None:
        marker = path / kind.marker
        if not os.path.lexists(marker):
            return first
        found = itertools.chain([marker, first], found)  # the marker may identify the others
    folders = {above for place in kind.files for above in PurePosixPath(place).parents}
    for each in found:
        place = PurePosixPath(each.relative_to(path).as_posix())
        if each.is_symlink():
            return each
        if place not in folders if each.is_dir() else not kind.recognises(place, each):
            return each
    return None


def of_file_manager(path: Path) -> bool:
    """Whether a file is one that a file manager leaves in any folder."""
    return path.name.lower() in OF_FILE_MANAGERS and path.is_file() and not path.is_symlink()


def _below(folder: Path) -> Iterator[Path]:
    """Everything below a folder except file managers' files; links are not followed."""
    for top, folders, names in os.walk(folder):
        folders.sort()
        found = (Path(top, name) for name in sorted([*names, *folders]))
        yield from (path for path in found if not of_file_manager(path))


def head_has(*marks: bytes) -> Recognise:
    """Whether one of these is in the first 2 KiB of a file."""
    return lambda file: any(mark in _head(file) for mark in marks)


def begins_with(start: str) -> Recognise:
    """Whether a file begins with this text."""
    return lambda file: _head(file).startswith(start.encode())


is_picture = head_has(*_MARKS)


def has_keys(*keys: str) -> Recognise:
    """Whether a file is a JSON object with at least these keys."""
    return lambda file: set(keys) <= _object(file.read_text(encoding="utf-8")).keys()


def lines_have_keys(*keys: str) -> Recognise:
    """Whether each line of a file is a JSON object with at least these keys."""

    def ours(file: Path) -> bool:
        with open(file, encoding="utf-8") as opened:
            return all(set(keys) <= _object(line).keys() for line in opened)

    return ours


def has_arrays(*names: str) -> Recognise:
    """Whether a file is an ``.npz`` with one or more arrays and nothing else.

    Each array's name has to match one of ``names``; ``*/*`` matches the names of variables."""

    def ours(file: Path) -> bool:
        with zipfile.ZipFile(file) as archive:
            found = archive.namelist()
        return bool(found) and all(
            any(fnmatch.fnmatchcase(name, f"{each}.npy") for each in names) for name in found
        )

    return ours


def _head(file: Path) -> bytes:
    with open(file, "rb") as opened:
        return opened.read(2048)


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError("no JSON object")
    return value
