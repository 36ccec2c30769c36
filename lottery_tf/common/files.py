"""Files that appear whole or not at all: written beside their place, then renamed.

What stands at the place beforehand stays whole too until it is replaced; ``ours`` says whether it
may be. A process that is killed
may leave a hidden file or folder beside the place (``.NAME.`` and eight digits), which nobody
reads; between the two renames that replace a folder, that is where the old one is.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.ownership import Kind, check_ours, of_file_manager


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str], kind: Kind) -> Iterator[Path]:
    """Yields a temporary folder beside ``path`` that becomes ``path`` if the block succeeds.

    An empty folder at ``path`` is replaced, and one of the same kind; where ``path`` is a link, the
    folder it leads to. If the block raises, what stood at ``path`` stays and nothing else is left
    behind.

    Args:
      path: the folder.
      kind: what the block makes.

    Raises:
      UsageError: if there is anything else at ``path``.
    """
    check_ours(path, kind)
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = _beside(path), _beside(path)
    try:
        new.mkdir()
        yield new
        for file in new.rglob("*"):
            if file.is_file():
                _to_disk(file)
        check_ours(path, kind)  # again: the block may have taken hours
        # Two renames: to delete the old folder first would leave half of it after a crash.
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes ``content`` to ``path``, whole or not at all; the folder is made if it is missing.

    Whatever file is there is replaced, and where a link is, the file it leads to: where it may be
    another's, ``check_ours`` comes first.
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
    """``write_bytes`` of ``text`` in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes ``value`` as indented JSON, whole or not at all; NaN and infinities as ``null``."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """What ``write_json`` writes."""
    return json.dumps(_strict(value), indent=2, allow_nan=False) + "\n"


def write_json_lines(path: str | os.PathLike[str], rows: list[dict[str, Any]]) -> None:
    """Writes one JSON object a line, whole or not at all; NaN and infinities as ``null``."""
    write_text(path, "".join(json.dumps(_strict(row), allow_nan=False) + "\n" for row in rows))


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds.

    Raises:
      UsageError: if it is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"Expected JSON in {path}; it is damaged ({error}).") from None


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; none where there is no file."""
    path = Path(path)
    if not path.exists():
        return []
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except ValueError as error:
        raise UsageError(
            f"Expected a JSON object a line in {path}; it is damaged ({error})."
        ) from None


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, or of the names and sums of a folder's files, in hexadecimal.

    A SavedModel that is made again has the same: its fingerprint.pb, which TensorFlow gives a new
    random number each time, does not count. Nor does what a file manager leaves in a folder. A file
    of any size is read a mebibyte at a time.
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


def _beside(path: Path) -> Path:
    """A hidden name beside ``path`` that no other process, thread or machine has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _to_disk(file: Path) -> None:
    """Waits until the file's content is on the disk: a rename can get there before it."""
    # Windows flushes only what may be written; elsewhere a read-only file is no hindrance.
    with open(file, "rb" if os.name == "posix" else "rb+") as written:
        os.fsync(written.fileno())


def _strict(value: Any) -> Any:
    """``value`` with None for NaN and infinities, which are no JSON though Python writes them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return value
