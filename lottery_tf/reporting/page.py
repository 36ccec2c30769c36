"""The page: one HTML file that holds all it shows, Plotly too, and loads nothing."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from lottery_tf.common.log import counted, some
from lottery_tf.reporting.charts import Section
from lottery_tf.reporting.comparing import SIGNIFICANT
from lottery_tf.reporting.facts import RATE, facts
from lottery_tf.reporting.kinds import MOST_GAIN, Line, Part, answer, gain_text, gains_of, parts
from lottery_tf.reporting.plots import plot
from lottery_tf.reporting.tables import (
    POOLED_TITLE,
    UNKNOWN,
    Report,
    Table,
    accuracies,
    cells,
    gains_in_words,
    head,
    pooled_cells,
    pooled_head,
    pooled_values,
    setting_in_words,
    shown,
    values,
    with_error,
)
from lottery_tf.reporting.verdict import Comparison
from lottery_tf.tweaks.settings import as_read

_OPEN = 6  # up to so many kinds of tickets are all shown at first
_MOST_COLUMNS = 12  # of recipes that stand side by side in "Where it gains"


def page(report: Report, sections: Sequence[Section], notes: Sequence[str], beside: str) -> str:
    """The HTML text.

    Args:
      report: its tables.
      sections: its figures.
      notes: sentences on what is left out.
      beside: the name of the folder that has the same figures and tables as files.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = _breakable
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    template = environment.from_string(text)
    first, found = report.tables[0], parts(report)
    drawn = [section for section in sections if section.on_page]
    figures = [plot(figure) for section in drawn for figure in section.figures]
    one_each = all(len(part.lines) == 1 for part in found)
    common = report.gathered.common
    tables = (
        [_of_one_each(found, first, common)]
        if one_each
        else [_of_kind(part, first, common) for part in found]
    )
    return template.render(
        verdict=answer(report),
        facts=facts(report),
        where=_where(found),
        baseline=as_read(first.baseline),
        level=f"{SIGNIFICANT:g}",
        tables=tables,
        has_gains=bool(first.frame["gain"].notna().any()),
        open=_OPEN,
        about=first.about,
        others=_others(report),
        common=[(name, shown(v)) for name, v in sorted(common.items())],
        sections=drawn,
        notes=notes,
        beside=beside,
        # A name may hold "</script>" or "<!--", by which the block would end elsewhere.
        figures=Markup(json.dumps(figures).replace("<", "\\u003c")),
        plotly=Markup(get_plotlyjs()),
    )


def _breakable(name: str) -> Markup:
    """A name that a browser may break behind each + and _."""
    return Markup(re.sub(r"([+_])", r"\1<wbr>", str(escape(name))))


def _lines(title: str, names: Any, texts: Any, words: Any, sorted_by: Any, about: Any) -> Any:
    """A whole table for the page; the columns at ``texts`` to the left."""
    rows = [list(zip(*each, strict=True)) for each in zip(words, sorted_by, strict=True)]
    return {"title": title, "head": names, "texts": texts, "rows": rows, "about": about}


def _others(report: Report) -> list[Any]:
    """The tables with all their columns, and the pooled one."""
    found = [
        _lines(
            *(f"{table.title}, all columns", head(table), [1, 2], cells(table), values(table)),
            table.about if place else [],  # the first one's stands with its short form
        )
        for place, table in enumerate(report.tables)
    ]
    if (pooled := report.pooled) is not None:
        words, sorted_by = pooled_cells(pooled), pooled_values(pooled)
        found.append(_lines(POOLED_TITLE, pooled_head(pooled), [0], words, sorted_by, pooled.about))
    return found


def _where(found: Sequence[Part]) -> Mapping[str, Any] | None:
    """All gains, a row a kind of tickets; None where there is one kind, whose table says it."""
    every = gains_of(found)
    if not every.recipes or len(every.rows) < 2:
        return None
    rows = [
        (str(kind), [(name, _cell(of_kind.get(name))) for name in every.recipes])
        for kind, of_kind in every.rows
    ]
    return {"recipes": every.recipes, "rows": rows, "many": len(every.recipes) > _MOST_COLUMNS}


def _cell(compared: Comparison | None) -> Mapping[str, Any] | None:
    if compared is None:
        return None
    depth = min(1.0, abs(100 * compared.gain) / MOST_GAIN)
    return {
        "text": gain_text(compared.gain, compared.established),
        "side": _side(compared),
        "colour": ("under", "level", "over")[compared.side + 1],
        "depth": f"{depth * (1.0 if compared.established else 0.3):.2f}",
    }


def _side(compared: Comparison | None) -> str:
    """The class of a cell with a gain."""
    if compared is None or np.isnan(compared.gain):
        return ""
    if not compared.established:
        return "pale"
    return "ahead" if compared.side > 0 else "behind"


def _of_kind(part: Part, table: Table, common: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table of one kind of tickets: the recipe first, then what it comes to."""
    columns = _columns(table, common)
    rows = [
        {
            "standing": line.standing,
            "side": _side(line.compared),
            "cells": [cell(line) for cell in columns.values()],
        }
        for line in part.lines
    ]
    first = [line for line in part.lines if line.standing]
    names = [
        line.recipe
        + (f" {gain_text(c.gain, c.established)}" if (c := line.compared) and c.pairs else "")
        for line in first
    ]
    title, told = part.kind.title, f"{first[0].standing}: {some(names)}" if first else ""
    return {"title": title, "told": told, "head": [*columns], "left": 1, "rows": rows}


def _of_one_each(
    found: Sequence[Part], table: Table, common: Mapping[str, Any]
) -> Mapping[str, Any]:
    """One table of all kinds of tickets, where each has a single row."""
    kinds = [_of_kind(part, table, common) for part in found]
    rows = [
        {**row, "cells": [("recipe", str(part.kind), part.kind.sparsity), *row["cells"]]}
        for part, kind in zip(found, kinds, strict=True)
        for row in kind["rows"]
    ]
    names = ["tickets", *kinds[0]["head"]]
    return {"title": "All kinds of tickets", "told": "", "head": names, "left": 2, "rows": rows}


_Cells = dict[str, Callable[[Line], tuple[str, str, Any]]]


def _columns(table: Table, common: Mapping[str, Any]) -> _Cells:
    """The columns: name → a row's class, text, and what it is sorted by."""

    def accuracy(name: str) -> Callable[[Line], tuple[str, str, Any]]:
        return lambda line: (
            "number",
            with_error(line.row[name], line.row[f"{name}_sem"]),
            _sorted_by(line.row[name]),
        )

    def gain(place: int, name: str, kind: str) -> Callable[[Line], tuple[str, str, Any]]:
        def cell(line: Line) -> tuple[str, str, Any]:
            if line.compared is None:
                return kind, "", None
            text = gains_in_words(line.row)[place]
            if kind == "gain" and text != UNKNOWN:
                text = text if line.compared.established else f"({text})"
                if line.row["pairs"] != line.row["seeds"]:
                    text += f" {counted(line.compared.pairs, 'pair')}"
            return kind, text, _sorted_by(line.row[name])

        return cell

    def setting(name: str) -> Callable[[Line], tuple[str, str, Any]]:
        def cell(line: Line) -> tuple[str, str, Any]:
            if name not in table.settings:
                return "number", shown(common[name]), common[name]
            text = setting_in_words(table, line.row, name)
            return "number", text, _sorted_by(line.row[name])

        return cell

    found: _Cells = {"recipe": lambda line: ("recipe", line.recipe, line.recipe)}
    for name in accuracies(table):
        if name != "train_accuracy":
            found[name.replace("_", " ")] = accuracy(name)
    if table.frame["gain"].notna().any():
        found["gain"] = gain(0, "gain", "gain")
        found["95 % interval"] = gain(1, "gain_low", "number")
        found["p (Holm)"] = gain(3, "p_holm", "number")
    found["seeds"] = lambda line: ("number", str(line.row["seeds"]), line.row["seeds"])
    rate = [RATE] if RATE in table.settings or common.get(RATE) is not None else []
    for name in dict.fromkeys([*rate, *table.chosen]):
        found[name.replace("_", " ") if name == RATE else name] = setting(name)
    return found


def _sorted_by(value: Any) -> Any:
    return None if pd.isna(value) else value
