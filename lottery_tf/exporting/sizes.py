"""What an artefact weighs, as it is and packed."""

import gzip
import io
import tarfile
from pathlib import Path

from lottery_tf.common.ownership import of_file_manager


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder but what a file manager has left there."""
    return sum(file.stat().st_size for file in _files(path))


def gzip_size(path: Path) -> int:
    """Bytes of a file's gzip, or of a folder's tar.gz, at level 9.

    The archive holds names and contents only, so that the same contents give the same number.
    """
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0) as stream:
        if path.is_file():
            stream.write(path.read_bytes())
        else:
            with tarfile.open(fileobj=stream, mode="w") as archive:
                for file in _files(path):
                    entry = tarfile.TarInfo(str(file.relative_to(path)))
                    entry.size = file.stat().st_size
                    with file.open("rb") as contents:
                        archive.addfile(entry, contents)
    return packed.tell()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in files if not of_file_manager(file))
