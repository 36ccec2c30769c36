"""What a report's figures show, whoever draws them: lines, points and heat maps as numbers."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

Numbers = Sequence[float | None]
_MOST_TICKS = 9


@dataclasses.dataclass(frozen=True)
class Series:
    """What belongs to one entry of a legend.

    Attributes:
      label: in the legend.
      style: its number, as ``drawing.style`` takes it, the same in every figure of a report.
      x, y: the points, None for a gap.
      low, high: bounds around y, None for none; empty if there are none at all.
      words: what a reader who points at a point is told besides; empty for nothing.
    """

    label: str
    style: int
    x: Numbers
    y: Numbers
    low: Numbers = ()
    high: Numbers = ()
    words: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
      y: what is along the y axis, with its unit.
      series: what is drawn.
      form: ``lines`` (bounds as bands), ``points``, or ``bars`` (points, bounds as bars).
      level: a horizontal line to compare with, and its name; None for none.
      window: where the y axis begins and ends; None where it shows all.
    """

    y: str
    series: Sequence[Series]
    form: str = "lines"
    level: tuple[float, str] | None = None
    window: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Chart:
    """Panels above each other over one x axis.

    Attributes:
      name: of its files.
      title: what it is of, among those of its section; may be empty.
      x: what is along the x axis, with its unit.
      panels: from above.
      ticks: where the x axis is logarithmic: from the first to the last of these, or some of them
        where they are many. Empty for a plain axis.
    """

    name: str
    title: str
    x: str
    panels: Sequence[Panel]
    ticks: Sequence[float] = ()

    @property
    def falling(self) -> bool:
        """Whether the x axis is one on which numbers fall, as those of what is left do."""
        return bool(self.ticks) and self.ticks[0] >= self.ticks[-1]

    @property
    def some_ticks(self) -> dict[float, str]:
        """Not too many of the ticks, and what stands there: ``10.7``, ``0.52``."""
        apart = math.ceil(len(self.ticks) / _MOST_TICKS) or 1
        return {tick: f"{tick:.3g}" for tick in self.ticks[::apart]}


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """A colour a cell.

    Attributes:
      name, title: as those of a ``Chart``.
      x, values: what is along the x axis, and what the colours say, its unit last (``pruned, %``).
      columns, rows: their names.
      cells: a row a row; None where there is nothing.
      texts: what stands in the cells, and for the colours' scale; empty for the numbers.
      ends: the numbers of the first and the last colour; about 0, those below and above it have
        colours of their own.
      pale: which cells are drawn in a paler colour; empty for none.
    """

    name: str
    title: str
    x: str
    values: str
    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Numbers]
    texts: Sequence[Sequence[str]] = ()
    ends: tuple[float, float] = (0, 100)
    pale: Sequence[Sequence[bool]] = ()

    @property
    def signed(self) -> bool:
        """Whether 0 is in the middle of the colours."""
        return self.ends[0] == -self.ends[1]


@dataclasses.dataclass(frozen=True)
class Section:
    """Figures of one kind, and how they are to be read.

    Attributes:
      title, about: above the figures.
      figures: at least one.
      on_page: whether the page draws them too; they are files in any case.
    """

    title: str
    about: str
    figures: Sequence[Chart | HeatMap]
    on_page: bool = True


def side_by_side(count: int, ticks: Sequence[float]) -> list[float]:
    """Factors that set so many points apart on a logarithmic axis, within their own tick's room."""
    room = min((one / other for one, other in itertools.pairwise(ticks)), default=2.0)
    step = min(1.03, room ** (0.6 / count))
    return [step ** ((count - 1) / 2 - place) for place in range(count)]


def joined(*parts: str) -> str:
    """A title from those parts that are not empty."""
    return ", ".join(filter(None, parts))
