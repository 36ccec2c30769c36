"""Figures for the page, by Plotly. The page sets the colours of text and background."""

import dataclasses
import html
import json
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lottery_tf.reporting.charts import Chart, HeatMap, Numbers, Panel, Series
from lottery_tf.reporting.drawing import COLOURS, style

_PANEL, _ROW = 300, 22  # pixels
_MOST_NUMBERS = 6  # columns of a heat map that leave room for numbers


def plot(figure: Chart | HeatMap) -> dict:
    """The figure as Plotly's JavaScript takes it: ``data`` and ``layout``."""
    figure = _escaped(figure)
    drawn = _heat_map(figure) if isinstance(figure, HeatMap) else _chart(figure)
    drawn.update_layout(template="none", margin={"l": 60, "r": 12, "t": 36, "b": 60})
    return json.loads(drawn.to_json())


def _escaped(value: Any) -> Any:
    """A figure with its words escaped, as Plotly reads tags and entities in them."""
    if isinstance(value, str):
        return html.escape(value, quote=False)
    if isinstance(value, list | tuple):
        return type(value)(map(_escaped, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        words = ((each.name, getattr(value, each.name)) for each in dataclasses.fields(value))
        return dataclasses.replace(value, **{name: _escaped(each) for name, each in words})
    return value


def _chart(chart: Chart) -> go.Figure:
    count = len(chart.panels)
    figure = make_subplots(count, 1, shared_xaxes=True, vertical_spacing=0.16 / max(count, 2))
    seen: set[str] = set()
    for row, panel in enumerate(chart.panels, 1):
        for series in panel.series:
            for trace in _traces(series, panel, series.label not in seen):
                if chart.tick_words and trace.text:
                    trace.hovertemplate = "%{y:.2f} at %{text}"
                figure.add_trace(trace, row, 1)
            seen.add(series.label)
        if panel.level:
            height, name = panel.level
            figure.add_hline(
                *(height, row, 1),
                line={"dash": "dot", "width": 1, "color": "#888888"},
                annotation={"text": name, "font": {"size": 11}},
                annotation_position="top right",
            )
        figure.update_yaxes(title_text=panel.y, title_standoff=6, row=row, col=1)
        if panel.window:
            figure.update_yaxes(range=panel.window, row=row, col=1)
    if ticks := chart.some_ticks:
        figure.update_xaxes(type="log", autorange="reversed" if chart.falling else True)
        figure.update_xaxes(tickvals=list(ticks), ticktext=list(ticks.values()), tickangle=0)
    figure.update_xaxes(title_text=chart.x, title_standoff=8, row=count, col=1)
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(zeroline=False)
    figure.update_layout(
        height=140 + _PANEL * count,
        hovermode="closest",
        legend={"orientation": "h", "y": -60 / (_PANEL * count), "yanchor": "top", "x": 0},
    )
    return figure


def _traces(series: Series, panel: Panel, first: bool) -> list[go.Scatter]:
    look = style(series.style)
    joined = {"legendgroup": series.label, "name": series.label}
    points = panel.form != "lines"
    main = go.Scatter(
        x=list(series.x),
        y=list(series.y),
        text=list(series.words) or None,
        mode="markers" if points else "lines+markers",
        line={"color": look.colour, "dash": look.dash, "width": 2},
        marker={"color": look.colour, "symbol": look.symbol, "size": 8, "maxdisplayed": 10},
        hovertemplate="%{y:.2f} at %{x:.4g}" + (", %{text}" if series.words else ""),
        showlegend=first,
        **joined,
    )
    if not series.low:
        return [main]
    if points:
        error = {"symmetric": False, "thickness": 1.5, "width": 4, "color": look.colour}
        error["array"] = _apart(series.high, series.y)
        error["arrayminus"] = _apart(series.y, series.low)
        main.error_y = error
        return [main]
    red, green, blue = (int(look.colour[i : i + 2], 16) for i in (1, 3, 5))
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    fill = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.1)"}
    upper = go.Scatter(x=list(series.x), y=list(series.high), **edge, **joined)
    lower = go.Scatter(x=list(series.x), y=list(series.low), **edge, **fill, **joined)
    return [upper, lower, main]


def _heat_map(heat: HeatMap) -> go.Figure:
    cells = [list(row) for row in heat.cells]
    numbers = "%{z:.1f}" if len(heat.columns) <= _MOST_NUMBERS else None
    unit = heat.values.split(", ")[-1]
    trace = go.Heatmap(
        x=list(heat.columns),
        y=list(heat.rows),
        z=cells,
        zmin=heat.ends[0],
        zmax=heat.ends[1],
        xgap=1,
        ygap=1,
        colorscale=COLOURS,
        colorbar={"title": {"text": heat.values, "side": "right"}, "thickness": 12},
        texttemplate=numbers,
        hovertemplate=f"%{{y}}: %{{z:.2f}} {unit} at %{{x}}<extra></extra>",
    )
    figure = go.Figure(trace)
    figure.update_layout(height=130 + _ROW * max(len(heat.rows), 6))
    figure.update_xaxes(
        title_text=heat.x, title_standoff=8, automargin=True, type="category", showgrid=False
    )
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False, automargin=True)
    return figure


def _apart(upper: Numbers, lower: Numbers) -> list[float | None]:
    return [
        None if one is None or other is None else one - other
        for one, other in zip(upper, lower, strict=True)
    ]
