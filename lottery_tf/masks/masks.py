"""Masks: which weights of a model survive (m ∈ {0,1}^|w|)."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lottery_tf.common.errors import UsageError
from lottery_tf.common.ownership import Kind, check_ours, has_arrays


class Masks(Mapping[str, np.ndarray]):
    """A named set of boolean arrays, ``True`` where a weight survives.

    A mask is stored and never inferred from ``w != 0``: a surviving weight may pass through
    zero. The arrays are copies and read-only, so masks can be shared without care.

    >>> masks = Masks({"dense/kernel": [[1, 0], [0, 0]]})
    >>> masks.sparsity, masks.kept, masks.total
    (0.75, 1, 4)

    Args:
      arrays: name of a weight → its mask, of booleans, or of numbers that are each 0 or 1.

    Raises:
      UsageError: if a value is neither 0 nor 1.
    """

    def __init__(self, arrays: Mapping[str, ArrayLike]):
        self._arrays = {name: _boolean(name, array) for name, array in arrays.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return self.keys() == other.keys() and all(
            np.array_equal(mask, other[name]) for name, mask in self.items()
        )

    __hash__ = None  # type: ignore[assignment]  # Python's rule for a class with __eq__ alone

    def __repr__(self) -> str:
        return f"Masks({len(self)} weights, {self.kept:,} of {self.total:,} kept)"

    @property
    def total(self) -> int:
        """Number of prunable weights, pruned or not."""
        return sum(mask.size for mask in self.values())

    @property
    def kept(self) -> int:
        """Number of surviving weights."""
        return sum(int(np.count_nonzero(mask)) for mask in self.values())

    @property
    def sparsity(self) -> float:
        """Share of the *prunable* weights that are pruned, in [0, 1]; 0 where there are none."""
        return (self.total - self.kept) / self.total if self.total else 0.0

    def sparsity_total(self, trainable: int) -> float:
        """Share of all ``trainable`` parameters that are pruned, as some papers count; 0 if none
        are trainable."""
        return (self.total - self.kept) / trainable if trainable else 0.0

    @property
    def collapsed(self) -> list[str]:
        """Names of the masks that keep nothing: no signal passes there."""
        return [name for name, mask in self.items() if mask.size and not mask.any()]

    def nested_in(self, other: "Masks") -> bool:
        """Whether each weight kept here is kept in ``other`` too."""
        return self.keys() == other.keys() and all(
            mask.shape == other[name].shape and not np.any(mask & ~other[name])
            for name, mask in self.items()
        )

    @classmethod
    def ones(cls, shapes: Mapping[str, tuple[int, ...]]) -> "Masks":
        """Masks that keep everything."""
        return cls({name: np.ones(shape, bool) for name, shape in shapes.items()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an ``.npz`` file with a boolean array for each weight.

        A file of older masks is replaced. It is known by its content: one or more boolean arrays,
        each with a weight's name, ``layer/variable``.

        Raises:
          UsageError: if anything else is at ``path``; it is never replaced.
        """
        path = os.fspath(path)
        path = path if path.endswith(".npz") else f"{path}.npz"
        check_ours(path, _MASKS)
        arrays: dict[str, Any] = self._arrays  # else mypy takes an array for allow_pickle
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Masks":
        """Reads what ``save`` wrote. Nothing is unpickled.

        Raises:
          UsageError: if the file is missing, damaged, or holds other values than 0 and 1.
        """
        return cls(read_arrays(path))


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file, read without unpickling.

    Raises:
      UsageError: if the file is missing or damaged, or holds pickled objects.
    """
    if not Path(path).is_file():
        raise UsageError(f"Expected an .npz file at {path}; there is none.")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise UsageError(
            f"Expected arrays in {path}; it is damaged or no .npz file ({error}). Make it anew."
        ) from error


def shapes_in(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of an ``.npz`` file. Only their headers are read.

    Raises:
      UsageError: as ``read_arrays``.
    """
    if not Path(path).is_file():
        raise UsageError(f"Expected an .npz file at {path}; there is none.")
    found = {}
    try:
        with zipfile.ZipFile(path) as file:
            for name in file.namelist():
                with file.open(name) as array:
                    version = np.lib.format.read_magic(array)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    found[name.removesuffix(".npy")] = tuple(read(array)[0])
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise UsageError(
            f"Expected arrays in {path}; it is damaged or no .npz file ({error}). Make it anew."
        ) from error
    return found


def _are_masks(file: Path) -> bool:
    with np.load(file, allow_pickle=False) as arrays:
        return _named_as_weights(file) and all(arrays[name].dtype == bool for name in arrays.files)


_named_as_weights = has_arrays("*/*")
_MASKS = Kind("masks", {".": _are_masks})


def _boolean(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype != bool and not np.all((array == 0) | (array == 1)):
        raise UsageError(f"Expected a mask of 0 and 1 for {name}; it holds other values.")
    array = array.astype(bool)
    array.setflags(write=False)
    return array
