"""Figures as PNG and SVG by matplotlib, and the colours and markers that the page shares."""

import io
from typing import Any, NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from lottery_tf.common.ownership import PICTURE_MARKS
from lottery_tf.reporting.charts import Chart, HeatMap, Numbers, Panel, Series


class Style(NamedTuple):
    """A colour, and a marker and a line by which a series is known without it.

    Attributes:
      colour: as HTML has it.
      marker, line: as matplotlib has them.
      symbol, dash: as Plotly has them.
    """

    colour: str
    marker: str
    line: str | tuple
    symbol: str
    dash: str


# Okabe and Ito's palette, whose colours colour-blind readers can tell apart. Its yellow is darker
# here and its black is grey, so that both are seen on white and on black. The first is vanilla's.
STYLES = (
    Style("#7a7a7a", "o", "-", "circle", "solid"),
    Style("#0072b2", "s", "--", "square", "dash"),
    Style("#e69f00", "^", "-.", "triangle-up", "dashdot"),
    Style("#009e73", "D", ":", "diamond", "dot"),
    Style("#d55e00", "v", (0, (8, 3)), "triangle-down", "longdash"),
    Style("#56b4e9", "P", (0, (8, 2, 2, 2)), "cross", "longdashdot"),
    Style("#cc79a7", "X", "-", "x", "solid"),
    Style("#a59a00", "*", "--", "star", "dash"),
)
# Of heat maps, by Plotly's and matplotlib's names. Colour-blind readers can read both.
COLOURS, SIGNED_COLOURS = "cividis", "RdBu"
_PALE = 0.3  # how opaque a pale cell is


def style(number: int) -> Style:
    """The look of a series. After the last colour all but vanilla's come again, with other lines
    and markers."""
    vanilla, *others = STYLES
    if number == 0:
        return vanilla
    again, place = divmod(number - 1, len(others))
    other = others[(place + 3 * again) % len(others)]
    return other._replace(colour=others[place].colour)


@matplotlib.rc_context({"text.parse_math": False})  # a name may hold $
def draw(figure: Chart | HeatMap, title: str) -> dict[str, bytes]:
    """The picture as files: suffix → content."""
    drawn = _heat_map(figure) if isinstance(figure, HeatMap) else _chart(figure)
    drawn.suptitle(": ".join(filter(None, [title, figure.title])), fontsize="medium")
    files = {}
    for suffix in (".png", ".svg"):
        content = io.BytesIO()
        marks = PICTURE_MARKS[suffix]
        drawn.savefig(content, format=suffix[1:], dpi=150, metadata=marks)
        files[suffix] = content.getvalue()
    return files


def _chart(chart: Chart) -> Figure:
    count = len(chart.panels)
    labels = {series.label for panel in chart.panels for series in panel.series}
    columns = max(1, min(3, 75 // max(map(len, labels))))
    rows = len(labels) / columns
    figure = Figure(figsize=(7.2, 1.2 + 2.8 * max(count, 1.4) + 0.2 * rows))
    figure.set_layout_engine("constrained")
    every = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(every, chart.panels, strict=True):
        _panel(axes, panel)
    last = every[-1]
    last.set_xlabel(chart.x)
    if ticks := chart.some_ticks:
        last.set_xscale("log")
        if chart.falling:
            last.invert_xaxis()
        last.xaxis.set_major_locator(FixedLocator(list(ticks)))
        last.xaxis.set_major_formatter(FixedFormatter(list(ticks.values())))
        last.xaxis.set_minor_locator(NullLocator())
    figure.align_ylabels()
    entries: dict[str, Artist] = {}
    for axes in every:
        handles, names = axes.get_legend_handles_labels()
        entries |= {name: h for h, name in zip(handles, names, strict=True) if name not in entries}
    figure.legend(
        [*entries.values()],
        [*entries],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize="small",
    )
    return figure


def _panel(axes: Axes, panel: Panel) -> None:
    if panel.level:
        height, name = panel.level
        axes.axhline(height, color="#404040", linewidth=0.8, linestyle=(0, (1, 1)), label=name)
    for series in panel.series:
        _series(axes, series, panel.form)
    if panel.window:
        axes.set_ylim(panel.window)
    axes.set_ylabel(panel.y)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _series(axes: Axes, series: Series, form: str) -> None:
    look = style(series.style)
    x, y, low, high = (_floats(v) for v in (series.x, series.y, series.low, series.high))
    many = len(x) > 15
    line: dict[str, Any] = {
        **{"color": look.colour, "label": series.label, "linestyle": look.line},
        **{"marker": look.marker, "markersize": 5, "markevery": max(1, len(x) // 8)},
    }
    if form != "lines":
        bounds = [_apart(y, low), _apart(high, y)] if low else None
        axes.errorbar(x, y, bounds, **line | {"linestyle": ""}, capsize=3, linewidth=1.2)
        return
    axes.plot(x, y, **line, linewidth=1.2 if many else 1.6)
    if low:
        axes.fill_between(x, low, high, color=look.colour, alpha=0.1, linewidth=0)


def _heat_map(heat: HeatMap) -> Figure:
    columns, rows = len(heat.columns), len(heat.rows)
    label, turned = max(map(len, heat.rows)), columns > 4
    below = 0.055 * max(map(len, heat.columns)) if turned else 0.2
    figure = Figure(figsize=(2.5 + 0.09 * label + 0.7 * columns, 1.6 + below + 0.26 * rows))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    cells = [_floats(row) for row in heat.cells]
    low, high = heat.ends
    colours = SIGNED_COLOURS if heat.signed else COLOURS
    opaque = [[_PALE if pale else 1.0 for pale in row] for row in heat.pale] or None
    image = axes.imshow(cells, cmap=colours, vmin=low, vmax=high, aspect="auto", alpha=opaque)
    slope: dict[str, Any] = (
        {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    )
    axes.set_xticks(range(columns), heat.columns, fontsize="small", **slope)
    axes.set_yticks(range(rows), heat.rows, fontsize="small")
    axes.set_xlabel(heat.x)
    for row, values in enumerate(cells):
        for column, value in enumerate(values):
            if value == value:
                text = heat.texts[row][column] if heat.texts else f"{value:.1f}"
                place = (value - low) / (high - low)
                light = 0.2 < place < 0.8 if heat.signed else place > 0.5
                light = light or bool(heat.pale and heat.pale[row][column])
                colour = "black" if light else "white"
                axes.text(column, row, text, color=colour, ha="center", va="center", fontsize=7)
    if not heat.texts:
        figure.colorbar(image, label=heat.values)
    return figure


def _floats(values: Numbers) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _apart(upper: list[float], lower: list[float]) -> list[float]:
    return [one - other for one, other in zip(upper, lower, strict=True)]
