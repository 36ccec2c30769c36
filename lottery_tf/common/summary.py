"""Short tables of what a program prints or a notebook shows: as text, and as HTML.

Names come from models and files of others: on a terminal they are readable, in HTML escaped.
"""

import dataclasses
import html
from collections.abc import Sequence

from lottery_tf.common.log import one_line

UNKNOWN = "–"


@dataclasses.dataclass(frozen=True)
class Summary:
    """A title, a table, and sentences below it.

    Attributes:
      title: one line.
      head: the names of the columns.
      rows: the cells, as many in each row as there are columns. The first column is to the left,
        the others to the right where all of their cells begin with a digit, a sign or a dash.
      notes: sentences.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Lines of text, the columns one below the other.

        >>> rows = [["a", "1,024"], ["b/kernel", "3"]]
        >>> print(Summary("Two layers", ["layer", "kept"], rows).text())
        Two layers
        layer      kept
        a         1,024
        b/kernel      3
        """
        lines = [[one_line(str(cell)) for cell in line] for line in (self.head, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = self._right()

        def line(cells: Sequence[str]) -> str:
            placed = (
                cell.rjust(width) if place in right else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            return "  ".join(placed).rstrip()

        table = map(line, lines) if self.rows else ()
        return "\n".join([one_line(self.title), *table, *map(one_line, self.notes)])

    def html(self) -> str:
        """A table of HTML for notebooks."""
        right = self._right()

        def row(tag: str, cells: Sequence[str]) -> str:
            sides = ("right" if place in right else "left" for place in range(len(cells)))
            made = (
                f'<{tag} style="text-align:{side}">{escaped(cell)}</{tag}>'
                for side, cell in zip(sides, cells, strict=True)
            )
            return f"<tr>{''.join(made)}</tr>"

        head = f"<thead>{row('th', self.head)}</thead>" if self.rows else ""
        body = "".join(row("td", each) for each in self.rows)
        notes = "".join(f"<p>{escaped(note)}</p>" for note in self.notes)
        return (
            f'<div><table><caption style="text-align:left">{escaped(self.title)}</caption>'
            f"{head}<tbody>{body}</tbody></table>{notes}</div>"
        )

    def _right(self) -> set[int]:
        """The places of the columns of numbers."""
        starts = "0123456789+-−<≈" + UNKNOWN
        return {
            place
            for place, column in enumerate(zip(*self.rows, strict=True))
            if place and all(not (text := str(cell)) or text[0] in starts for cell in column)
        }


class Summarised:
    """What has a ``summary``: ``print`` shows it as text, a notebook as a table."""

    def summary(self) -> Summary:
        """What is shown."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.summary().text()

    def _repr_html_(self) -> str:
        return self.summary().html()


def escaped(text: object) -> str:
    """``text`` on one line, as HTML shows it.

    >>> escaped("<b>")
    '&lt;b&gt;'
    """
    return html.escape(one_line(str(text)))


def percent(share: float | None) -> str:
    """``89.26 %``; a dash where it is not known."""
    return UNKNOWN if share is None else f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """``42 s``, ``3 min`` or ``1.5 h``.

    >>> duration(42), duration(200), duration(6000)
    ('42 s', '3 min', '1.7 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def in_short(text: object, most: int = 40) -> str:
    """``text`` on one line, cut where it is longer than ``most``.

    >>> in_short("a" * 50, 5)
    'aaaa…'
    """
    line = one_line(str(text))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def pairs(settings: dict[str, object]) -> str:
    """``share=0.5, curve='linear'``."""
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())
