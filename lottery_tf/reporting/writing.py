"""The files of a report."""

from pathlib import Path

from lottery_tf.files import write_bytes, write_text
from lottery_tf.log import log
from lottery_tf.reporting.drawing import draw
from lottery_tf.reporting.figures import Figures
from lottery_tf.reporting.page import page as html
from lottery_tf.reporting.tables import Report, markdown
from lottery_tf.reporting.tickets import ticket_flops


def write(report: Report, page: Path, flops: bool = True) -> int:
    """Writes the page, and its tables and figures as files.

    Args:
      report: the tables.
      page: the HTML file; the others go to the folder beside it that is named as it is without
        ``.html``. A file that is there already is replaced, others stay.
      flops: whether to count the tickets' FLOPs, which takes TensorFlow.

    Returns:
      The number of files beside the page.
    """
    runs = report.gathered.runs
    files = {"runs.csv": runs.to_csv(index=False).encode()}
    for table in report.tables:
        files[f"{table.name}.csv"] = table.frame.to_csv(index=False).encode()
        files[f"{table.name}.md"] = markdown(table).encode()
        if len(table.tried):
            files["tried.csv"] = table.tried.to_csv(index=False).encode()
    tickets = list(runs["ticket"].dropna().unique())
    figures = Figures(report, ticket_flops(tickets) if flops else {})
    sections = figures.sections()
    for note in figures.notes():
        log.info("%s", note)
    for section in sections:
        for figure in section.figures:
            for suffix, content in draw(figure, section.title).items():
                files[f"{figure.name}{suffix}"] = content
    beside = page.with_suffix("")
    for name, content in files.items():
        write_bytes(beside / name, content)
    notes = [*report.gathered.notes, *figures.notes()]
    write_text(page, html(report, sections, notes, beside.name))
    return len(files)
