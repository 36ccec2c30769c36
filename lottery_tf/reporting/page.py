"""The page: one HTML file that holds all it shows, Plotly too, and asks no network."""

import json
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lottery_tf.reporting.charts import Section
from lottery_tf.reporting.plots import plot
from lottery_tf.reporting.tables import Report, cells, head, values


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
    tables = [
        {
            "title": table.title,
            "head": head(table),
            "rows": [
                list(zip(texts, sorted_by, strict=True))
                for texts, sorted_by in zip(cells(table), values(table), strict=True)
            ],
            "about": table.about,
        }
        for table in report.tables
    ]
    figures = [plot(figure) for section in sections for figure in section.figures]
    return template.render(
        runs=len(report.gathered.runs),
        tables=tables,
        sections=sections,
        notes=notes,
        beside=beside,
        # Within a script nothing ends it but its own tag.
        figures=Markup(json.dumps(figures).replace("</", "<\\/")),
        plotly=Markup(get_plotlyjs()),
    )
