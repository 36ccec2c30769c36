"""Files that appear whole or not at all: written beside their place, then renamed.

An older file at the place stays whole until it is replaced; ``check_ours`` says whether it may be.
A process that is killed may leave a hidden file or folder beside the place (``.NAME.`` and eight
digits), which nobody reads. Killed between the two renames that replace a folder, it leaves the old
one as ``.NAME.DIGITS.old``. ``clear_leftovers`` puts both right.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log, some
from lottery_tf.common.ownership import Kind, check_ours, of_file_manager

_PATTERN = re.compile(r"[\[\]*?\\]|[\ud800-\udfff]")
_LEFT = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}(\.old)?", re.DOTALL)
SUMS = "sha256"  # key under which a record keeps the sums of itself and of its parts
_CHANGED = (
    "Expected {} to have the checksum that it was written with; it is damaged or changed: copy it "
    "again or make it anew. If you changed it yourself, remove its sha256 (in every line that has "
    "one)."
)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str], kind: Kind) -> Iterator[Path]:
    """Yields a temporary folder beside ``path`` that becomes ``path`` if the block succeeds.

    A folder at ``path`` is replaced if it is empty or of the same kind. If ``path`` is a link, the
    folder that it leads to is replaced. If the block raises, an older folder stays as it was and
    nothing else is left behind.

    Args:
      path: the folder.
      kind: what the block makes.

    Raises:
      UsageError: if there is anything else at ``path``.
    """
    check_ours(path, kind)
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _beside(path)
    old = new.with_name(f"{new.name}.old")
    try:
        new.mkdir()
        yield new
        for file in new.rglob("*"):
            if file.is_file():
                _to_disk(file)
        check_ours(path, kind)  # Once more: the block may have taken hours.
        # Two renames: if the old folder were deleted first, a crash would leave half of it.
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def clear_leftovers(folder: Path, places: Iterable[str]) -> None:
    """Removes what killed processes left in ``folder`` while they wrote.

    A folder that was taken away to be replaced, and never was, stands at its place again. Nobody
    else may be writing there.

    Args:
      folder: in which to look.
      places: paths below it, of what these processes wrote. Nothing else is touched, and nothing
        behind a link.
    """
    by_parent: dict[Path, set[str]] = {}
    for place in places:
        by_parent.setdefault((folder / place).parent, set()).add(Path(place).name)
    for parent, names in by_parent.items():
        if parent == folder or not parent.is_symlink():
            _clear(parent, names)


def _clear(parent: Path, names: Collection[str]) -> None:
    """``clear_leftovers`` beside these names in one folder."""
    left: dict[str, list[Path]] = {}
    for path in sorted(parent.glob(".*")):
        found = _LEFT.fullmatch(path.name)
        if found and found["name"] in names and not path.is_symlink():
            left.setdefault(found["name"], []).append(path)
    for name, paths in left.items():
        place, old = parent / name, [path for path in paths if path.suffix == ".old"]
        if old and not place.exists():
            os.rename(old[-1], place)
            paths.remove(old[-1])
        if len(paths) > 1 and not place.exists() and all(path.is_dir() for path in paths):
            # Of a release that gave the old folder no other name: one of them is whole.
            log.warning("%s is missing; it may be one of %s.", place, some([*map(str, paths)]))
            continue
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes ``content`` to ``path``, whole or not at all; the folder is made if it is missing.

    A file at ``path`` is replaced, and of a link the file that it leads to. If the file may belong
    to somebody else, call ``check_ours`` first.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _beside(path)
    try:
        new.write_bytes(content)
        _to_disk(new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Writes NumPy arrays as a compressed ``.npz``, whole or not at all."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(path, content.getvalue())


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """``write_bytes`` of ``text`` in UTF-8. What UTF-8 cannot hold is written as an escape."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes ``value`` as indented JSON, whole or not at all; NaN and infinities as ``null``."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """The text that ``write_json`` writes."""
    return json.dumps(_strict(value), indent=2, allow_nan=False) + "\n"


def write_record(
    path: str | os.PathLike[str], record: Mapping[str, Any], parts: Mapping[str, str] | None = None
) -> None:
    """``write_json`` of an object with checksums, so that ``read_json`` notices a change.

    Args:
      path: the file.
      record: the object. If it has a ``sha256``, the sum of this file in it is computed anew.
      parts: name → SHA-256 of each file or folder beside it that belongs to it.
    """
    sums = {**record.get(SUMS, {}), **(parts or {})}
    sums[Path(path).name] = sum_of({**record, SUMS: sums}, Path(path).name)
    write_json(path, {**record, SUMS: sums})


def sum_of(record: Mapping[str, Any], name: str) -> str:
    """The SHA-256 of a record's content without the sum itself, its ``sha256`` of ``name``.

    How the JSON is laid out does not matter."""
    parts = {part: each for part, each in record[SUMS].items() if part != name}
    return hashlib.sha256(_canonical({**record, SUMS: parts})).hexdigest()


def check_part(record: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Raises UsageError unless a file or folder has the sum that the record beside it gives.

    Records of older releases give no sum; then nothing is checked."""
    path, sums = Path(path), record.get(SUMS)
    stated = sums.get(path.name) if isinstance(sums, dict) else None
    if stated is not None and not (path.exists() and stated == sha256(path)):
        raise UsageError(
            f"Expected {path} to have the checksum that was written beside it; it is missing, "
            "damaged or changed: copy it again, or make it anew."
        )


def write_json_lines(
    path: str | os.PathLike[str], rows: list[dict[str, Any]], summed: bool = False
) -> None:
    """Writes one JSON object a line, whole or not at all; NaN and infinities as ``null``.

    Args:
      path: the file.
      rows: the objects.
      summed: give each line a ``sha256`` of all lines up to it, which ``read_json_lines`` checks
        and takes off.
    """
    given = _with_sums(rows) if summed else rows
    write_text(path, "".join(json.dumps(_strict(row), allow_nan=False) + "\n" for row in given))


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file, without the file's own sum if ``write_record`` wrote one.

    Raises:
      UsageError: if it is not JSON, or was changed since ``write_record`` wrote it.
    """
    path = Path(path)
    with _told_of_damage("JSON", path):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        return found
    if not isinstance(found.get(SUMS), dict):  # of an older release, or its name was damaged
        if any(isinstance(value, dict) and path.name in value for value in found.values()):
            raise UsageError(_CHANGED.format(path))
        return found
    stated = found[SUMS].get(path.name)
    if stated is not None and stated != sum_of(found, path.name):
        raise UsageError(_CHANGED.format(path))
    sums = {part: each for part, each in found.pop(SUMS).items() if part != path.name}
    return {**found, SUMS: sums} if sums else found


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; an empty list if there is no file.

    Raises:
      UsageError: if a line is not a JSON object, or was changed since it was written with a sum.
        Older releases gave no line a sum; one without among others was changed.
    """
    path = Path(path)
    if not path.exists():
        return []
    with _told_of_damage("a JSON object a line", path), open(path, encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
        if not all(isinstance(row, dict) for row in found):
            raise ValueError("a line is of another kind")
    rows = [{key: value for key, value in row.items() if key != SUMS} for row in found]
    told = zip(found, _with_sums(rows), strict=True)
    summed = any(SUMS in row for row in found)
    if summed and any(row.get(SUMS) != whole[SUMS] for row, whole in told):
        raise UsageError(_CHANGED.format(path))
    return rows


@contextlib.contextmanager
def _told_of_damage(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:  # RecursionError: too many nested lists
        raise UsageError(f"Expected {what} in {path}; it is damaged ({error}).") from None


def _with_sums(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    digest, summed = hashlib.sha256(), []
    for row in rows:
        digest.update(_canonical(row))
        summed.append({**row, SUMS: digest.hexdigest()})
    return summed


def _canonical(value: Any) -> bytes:
    """The same bytes for the same JSON, whatever its layout."""
    return json.dumps(json.loads(as_json(value)), sort_keys=True).encode()


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, or of the names and sums of a folder's files, in hexadecimal.

    fingerprint.pb of a SavedModel does not count, as TensorFlow gives it a new random number each
    time. So the same SavedModel, written again, has the same sum. Files that a file manager leaves
    in a folder do not count either. A file is read a mebibyte at a time.
    """
    digest, path = hashlib.sha256(), Path(path)
    if path.is_dir():
        files = [f for f in path.rglob("*") if f.is_file() and f.name != "fingerprint.pb"]
        for file in sorted(file for file in files if not of_file_manager(file)):
            digest.update(f"{sha256(file)}  {file.relative_to(path).as_posix()}\n".encode())
        return digest.hexdigest()
    with open(path, "rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def plain_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields ``path``, or a link to it whose name TensorFlow can read.

    It takes the brackets of ``runs[1]`` as a pattern, and cannot read names that are not UTF-8."""
    if not _PATTERN.search(os.fspath(path)):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "link").with_suffix(Path(path).suffix)
        if _PATTERN.search(link.name):
            link = link.with_suffix("")
        link.symlink_to(os.path.abspath(path), target_is_directory=os.path.isdir(path))
        yield link


def _beside(path: Path) -> Path:
    """A hidden name beside ``path`` that no other process, thread or machine has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _to_disk(file: Path) -> None:
    """Waits until the file's content is on the disk: a rename could reach the disk before it."""
    # Windows flushes only files opened for writing; elsewhere a file may be read-only.
    with open(file, "rb" if os.name == "posix" else "rb+") as written:
        os.fsync(written.fileno())


def _strict(value: Any) -> Any:
    """``value`` with None for NaN and infinities: Python writes them, but they are not JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return value
