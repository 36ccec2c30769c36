"""The files of a report."""

from pathlib import Path

from lottery_tf.files import write_text
from lottery_tf.reporting.tables import Report, markdown


def write(report: Report, page: Path, flops: bool = True) -> int:
    """Writes the report.

    Args:
      report: the tables.
      page: the HTML file; tables and figures go to the folder beside it that is named as it is
        without ``.html``. What is there already is replaced.
      flops: whether to count the tickets' FLOPs, which takes TensorFlow.

    Returns:
      The number of files beside the page.
    """
    beside = page.with_suffix("")
    written = {"runs.csv": report.gathered.runs.to_csv(index=False)}
    for table in report.tables:
        written[f"{table.name}.csv"] = table.frame.to_csv(index=False)
        written[f"{table.name}.md"] = markdown(table)
    for name, text in written.items():
        write_text(beside / name, text)
    return len(written)
