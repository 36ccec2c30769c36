"""Structures: which weights are pruned together, or how many of each group stay.

- ``unstructured``: each weight by itself.
- ``M:N``: M of each N consecutive weights along the inputs of an output stay, as in 2:4 (Zhou et
  al. 2021, arXiv 2102.04010). The groups are those of tfmot's ``sparsity_m_by_n``, which counts
  the zeros: its (1, 4) is 3:4.
- ``block:HxW``: blocks of H inputs and W outputs, ranked by the mean of their scores, with ``:max``
  by the largest. tfmot has the same as ``block_size`` and ``block_pooling_type``.
- ``channel``: all weights that make an output (a filter of a convolution), ranked by the mean of
  their scores (Li et al. 2017, arXiv 1608.08710).

Blocks and channels are units: they are pruned as single weights are, with exact counts of units.
M:N keeps the M largest of each group, and prunes the other weights as if there were no groups. When
none of these is left, at a sparsity of 1 - M/N, the structure is reached.
"""

import dataclasses
import functools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import some
from lottery_tf.common.settings import nearest, one_of
from lottery_tf.masks.masks import Masks

_FORMS = ("unstructured", "M:N (M < N stay)", "block:HxW", "block:HxW:max", "channel")
# Up to four digits are enough for any kernel.
_M_BY_N = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})")
_BLOCK = re.compile(r"block:([1-9]\d{0,3})x([1-9]\d{0,3})(:max)?")
_NO_CHANNELS = "whose layer sums over no channels"


@dataclasses.dataclass(frozen=True)
class Axes:
    """The meaning of a kernel's axes.

    Attributes:
      inputs: the last axis that the layer sums over, that of the channels. None if it sums over
        no channels, as with a depthwise kernel.
      outputs: the axes of the outputs. The incoming weights of an output lie along the other axes.
      alone: False if another kernel makes the same outputs, such as a recurrent kernel.
    """

    inputs: int | None
    outputs: tuple[int, ...]
    alone: bool = True


@dataclasses.dataclass(frozen=True)
class Structure:
    """A structure in which each weight is a unit; subclasses have larger units, or groups.

    Attributes:
      text: its name, as ``parse`` takes it.
      axes: name → axes of each kernel; ``on`` sets them.
    """

    text: str = "unstructured"
    axes: Mapping[str, Axes] = dataclasses.field(default_factory=dict, repr=False)
    noun: ClassVar[str] = "weights"

    @property
    def sparsity(self) -> float | None:
        """The sparsity of the structure itself; None if any sparsity can be asked for."""
        return None

    @property
    def info(self) -> dict[str, str]:
        """The entry for a ticket's ``info``; empty for unstructured masks."""
        return {"structure": self.text} if self.text != Structure.text else {}

    def on(
        self, axes: Mapping[str, Axes | None], shapes: Mapping[str, tuple[int, ...]]
    ) -> "Structure":
        """The structure for kernels with these axes and shapes; axes are None below rank 2.

        Raises:
          UsageError: for kernels that do not fit, with the reason.
        """
        odd: dict[str, list[str]] = {}
        for name in shapes:
            if why := self._misfit(axes[name]):
                odd.setdefault(why, []).append(name)
        if odd:
            whose = "; nor ".join(f"{some(names)}, {why}" for why, names in odd.items())
            raise UsageError(
                f"Expected kernels that `structure={self.text}` fits, not {whose}: leave them "
                "dense with `prune_layers` or `keep_dense`, or choose another structure."
            )
        return dataclasses.replace(self, axes={n: found for n in shapes if (found := axes[n])})

    def _misfit(self, axes: Axes | None) -> str | None:
        """Why a kernel with these axes cannot have the structure; None if it can."""
        return None

    def remarks(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Sentences that name kernels with smaller last groups or blocks, for the log."""
        return []

    def counts(self, masks: Masks) -> Mapping[str, np.ndarray]:
        """Name → how many weights are left in each unit."""
        return masks

    def units(self, masks: Masks) -> Masks:
        """The masks of the units: True if any weight of the unit is left."""
        return masks

    def pooled(self, scores: Mapping[str, np.ndarray], masks: Masks) -> Mapping[str, np.ndarray]:
        """The scores of the units."""
        return scores

    def weights(self, units: Masks, masks: Masks) -> Masks:
        """``masks`` without the weights of the units that are pruned."""
        return units

    def held(self, scores: Mapping[str, np.ndarray], masks: Masks) -> dict[str, np.ndarray]:
        """The units that the structure itself keeps, by name; empty if it keeps none."""
        return {}


@dataclasses.dataclass(frozen=True)
class _Boxes(Structure):
    """Units that are boxes of a kernel; the last boxes along an axis may be smaller.

    Attributes:
      pooling: a unit's score is the ``average`` or the ``max`` of its weights' scores.
    """

    pooling: str = "average"

    def _box(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the units of a kernel."""
        raise NotImplementedError

    def counts(self, masks: Masks) -> Mapping[str, np.ndarray]:
        return {
            name: _reduced(np.add, mask.astype(np.int32), self._box(name, mask.shape))
            for name, mask in masks.items()
        }

    def units(self, masks: Masks) -> Masks:
        return Masks(
            {
                name: _reduced(np.logical_or, mask, self._box(name, mask.shape))
                for name, mask in masks.items()
            }
        )

    def pooled(self, scores: Mapping[str, np.ndarray], masks: Masks) -> Mapping[str, np.ndarray]:
        """The mean score of a unit's weights, where pruned ones count as 0; or the largest score of
        those that are left."""
        found = {}
        for name, mask in masks.items():
            box = self._box(name, mask.shape)
            if self.pooling == "max":
                found[name] = _reduced(np.maximum, np.where(mask, scores[name], -np.inf), box)
            else:
                alive = np.where(mask, scores[name], 0).astype(np.float64)
                found[name] = _reduced(np.add, alive, box) / _sizes(mask.shape, box)
        return found

    def weights(self, units: Masks, masks: Masks) -> Masks:
        return Masks(
            {
                name: mask & _spread(units[name], self._box(name, mask.shape), mask.shape)
                for name, mask in masks.items()
            }
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks(_Boxes):
    """Blocks of ``height`` inputs and ``width`` outputs, in a convolution at one place each."""

    height: int
    width: int
    noun: ClassVar[str] = "blocks"

    def _misfit(self, axes: Axes | None) -> str | None:
        if axes is None or axes.inputs is None:
            return _NO_CHANNELS
        return None if axes.outputs else "which make one output"

    def remarks(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        odd = [
            name
            for name, shape in shapes.items()
            if any(n % size for n, size in zip(shape, self._box(name, shape), strict=True))
        ]
        return [f"{self.text}: the last blocks of {some(odd)} are smaller."] if odd else []

    def _box(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        axes = self.axes[name]
        sizes = {axes.outputs[-1]: self.width, axes.inputs: self.height}
        return tuple(sizes.get(axis, 1) for axis in range(len(shape)))


@dataclasses.dataclass(frozen=True)
class Channels(_Boxes):
    """All incoming weights of an output."""

    noun: ClassVar[str] = "channels"

    def _misfit(self, axes: Axes | None) -> str | None:
        if axes is None:
            return _NO_CHANNELS
        return None if axes.alone else "several columns of which make an output"

    def _box(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        outputs = self.axes[name].outputs
        return tuple(1 if axis in outputs else size for axis, size in enumerate(shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MByN(Structure):
    """``m`` of each ``n`` weights along the inputs stay; at most ``m`` of a smaller last group."""

    m: int
    n: int

    @property
    def sparsity(self) -> float | None:
        return 1 - self.m / self.n

    def _misfit(self, axes: Axes | None) -> str | None:
        return _NO_CHANNELS if axes is None or axes.inputs is None else None

    def remarks(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        inputs = {name: shape[self._axis(name)] for name, shape in shapes.items()}
        dense = [name for name, count in inputs.items() if count <= self.m]
        odd = [name for name, count in inputs.items() if count > self.m and count % self.n]
        found = []
        if dense:
            found.append(f"{self.text} prunes nothing of {some(dense)}: {self.m} inputs or fewer.")
        if odd:
            found.append(f"{self.text}: the last groups of {some(odd)} are smaller.")
        return found

    def held(self, scores: Mapping[str, np.ndarray], masks: Masks) -> dict[str, np.ndarray]:
        """The ``m`` largest survivors of each group; of equal scores the earlier ones."""
        return {name: self._largest(name, scores[name], mask) for name, mask in masks.items()}

    def _axis(self, name: str) -> int:
        axis = self.axes[name].inputs
        assert axis is not None  # ``on`` has checked
        return axis

    def _largest(self, name: str, scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
        axis = self._axis(name)
        alive, values = (self._groups(np.moveaxis(each, axis, -1)) for each in (mask, scores))
        first = np.lexsort((-values, ~alive), axis=-1)[..., : self.m]
        held = np.zeros_like(alive)
        np.put_along_axis(held, first, True, axis=-1)
        held = (held & alive).reshape(*held.shape[:-2], -1)[..., : mask.shape[axis]]
        return np.moveaxis(held, -1, axis)

    def _groups(self, array: np.ndarray) -> np.ndarray:
        """[…, inputs] → […, groups, n]; the last group is padded with 0."""
        missing = -array.shape[-1] % self.n
        padded = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])
        return padded.reshape(*array.shape[:-1], -1, self.n)


UNSTRUCTURED = Structure()


class _Structures(Collection[str]):
    """The collection of all structures' texts. Iterating it gives their forms."""

    def __iter__(self) -> Iterator[str]:
        return iter(_FORMS)

    def __len__(self) -> int:
        return len(_FORMS)

    def __contains__(self, text: object) -> bool:
        return _parsed(str(text)) is not None


STRUCTURES = _Structures()


def parse(text: str) -> Structure:
    """The structure of that name, before it is put ``on`` kernels.

    >>> parse("2:4").sparsity
    0.5
    >>> parse("block:4x1")
    Blocks(text='block:4x1', pooling='average', height=4, width=1)

    Raises:
      UsageError: for any other text.
    """
    found = _parsed(text) if isinstance(text, str) else None
    if found is None:
        said = str(text)[:40]
        raise UsageError(
            f"`structure` takes {one_of(STRUCTURES)}, not '{said}'{nearest(said, STRUCTURES)}."
        )
    return found


def _parsed(text: str) -> Structure | None:
    if text == UNSTRUCTURED.text:
        return UNSTRUCTURED
    if text == "channel":
        return Channels(text)
    if match := _BLOCK.fullmatch(text):
        height, width, largest = match.groups()
        pooling = "max" if largest else "average"
        return Blocks(text=text, pooling=pooling, height=int(height), width=int(width))
    if match := _M_BY_N.fullmatch(text):
        m, n = map(int, match.groups())
        return MByN(text=text, m=m, n=n) if m < n else None
    return None


def _reduced(function: Any, array: np.ndarray, box: tuple[int, ...]) -> np.ndarray:
    """``array`` with each box of that shape reduced to a number by the ufunc ``function``."""
    for axis, size in enumerate(box):
        if size > 1:
            starts = np.arange(0, array.shape[axis], size)
            array = function.reduceat(array, starts, axis=axis)
    return array


def _sizes(shape: tuple[int, ...], box: tuple[int, ...]) -> np.ndarray:
    """The number of weights in each box; the last boxes along an axis may have fewer."""
    along = [
        np.minimum(size, length - np.arange(0, length, size))
        for length, size in zip(shape, box, strict=True)
    ]
    return functools.reduce(np.multiply.outer, along)


def _spread(units: np.ndarray, box: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """``units`` with each number repeated over its box."""
    for axis, size in enumerate(box):
        if size > 1:
            units = np.repeat(units, size, axis=axis)
    return units[tuple(map(slice, shape))]
