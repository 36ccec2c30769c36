"""What a report's figures show, as numbers: lines, points and heat maps, for any library."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

Numbers = Sequence[float | None]
_MOST_TICKS = 9


@dataclasses.dataclass(frozen=True)
class Series:
    """The points of one entry of a legend.

    Attributes:
      label: in the legend.
      style: its number, as ``drawing.style`` takes it, the same in every figure of a report.
      x, y: the points, None for a gap.
      low, high: bounds around y, None where a point has none; empty if no point has any.
      words: more that a reader sees who points at a point; empty for nothing.
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
      y: the label of the y axis, with its unit.
      series: what is drawn.
      form: ``lines`` (bounds as bands), ``points``, or ``bars`` (points, bounds as bars).
      level: the height and name of a horizontal line to compare with; None for no line.
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
      title: what it shows, among the figures of its section; may be empty.
      x: the label of the x axis, with its unit.
      panels: from top to bottom.
      ticks: those of a logarithmic x axis, which goes from the first to the last. If they are many
        only some are drawn. Empty for a plain axis.
      tick_words: the words of the ticks, if numbers do not do. Then the ``words`` of a series say
        where its points are.
    """

    name: str
    title: str
    x: str
    panels: Sequence[Panel]
    ticks: Sequence[float] = ()
    tick_words: Sequence[str] = ()

    @property
    def falling(self) -> bool:
        """Whether numbers fall along the x axis, as the share of weights that are left does."""
        return bool(self.ticks) and self.ticks[0] >= self.ticks[-1]

    @property
    def some_ticks(self) -> dict[float, str]:
        """The ticks that are drawn, at most nine, with their words: ``0.1``, ``0.52``."""
        apart = math.ceil(len(self.ticks) / _MOST_TICKS) or 1
        words = self.tick_words or [f"{tick:.3g}" for tick in self.ticks]
        return dict(zip(self.ticks[::apart], words[::apart], strict=True))


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """A table whose cells are colours.

    Attributes:
      name, title: as those of a ``Chart``.
      x, values: the label of the x axis, and what the colours mean, its unit last (``pruned, %``).
      columns, rows: their names.
      cells: the numbers, row by row; None for an empty cell.
      texts: the words in the cells, which then need no colour scale; empty for the numbers.
      ends: the numbers of the first and the last colour. If 0 is in the middle, numbers below and
        above it have different colours.
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
    """Factors that set points apart on a logarithmic axis, within the room of their tick."""
    room = min((one / other for one, other in itertools.pairwise(ticks)), default=2.0)
    step = min(1.03, room ** (0.6 / count))
    return [step ** ((count - 1) / 2 - place) for place in range(count)]


def joined(*parts: str) -> str:
    """A title from those parts that are not empty."""
    return ", ".join(filter(None, parts))
