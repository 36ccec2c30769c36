"""The page: one HTML file that holds all it shows, Plotly too, and asks no network."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lottery_tf.reporting.charts import Section
from lottery_tf.reporting.plots import plot
from lottery_tf.reporting.tables import (
    POOLED_TITLE,
    Report,
    cells,
    head,
    pooled_cells,
    pooled_head,
    pooled_values,
    values,
)


def page(report: Report, sections: Sequence[Section], notes: Sequence[str], beside: str) -> str:
    """The HTML text.

    Args:
      report: its tables.
      sections: its figures.
      notes: sentences on what is left out.
      beside: the folder of the same figures and tables as files, for the reader to know.
    """
    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))

    def lines(title: str, names: Any, texts: Any, words: Any, sorted_by: Any, about: Any) -> Any:
        rows = [list(zip(*each, strict=True)) for each in zip(words, sorted_by, strict=True)]
        return {"title": title, "head": names, "texts": texts, "rows": rows, "about": about}

    tables = [
        lines(table.title, head(table), [1, 2], cells(table), values(table), table.about)
        for table in report.tables
    ]
    if (pooled := report.pooled) is not None:
        words, sorted_by = pooled_cells(pooled), pooled_values(pooled)
        pooled_lines = (pooled_head(pooled), [0], words, sorted_by, pooled.about)
        tables.insert(1, lines(POOLED_TITLE, *pooled_lines))
    figures = [plot(figure) for section in sections for figure in section.figures]
    return template.render(
        runs=len(report.gathered.runs),
        tables=tables,
        sections=sections,
        notes=notes,
        beside=beside,
        # A name may hold "</script>" or "<!--", by which the block would end elsewhere.
        figures=Markup(json.dumps(figures).replace("<", "\\u003c")),
        plotly=Markup(get_plotlyjs()),
    )
