"""The files of a report."""

from pathlib import Path
from typing import Any

import pandas as pd

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import write_bytes, write_text
from lottery_tf.common.log import log
from lottery_tf.common.ownership import (
    PICTURE_MARKS,
    Kind,
    begins_with,
    check_all_ours,
    check_ours,
    head_has,
    is_picture,
)
from lottery_tf.reporting.drawing import draw
from lottery_tf.reporting.figures import Figures
from lottery_tf.reporting.page import page as html
from lottery_tf.reporting.tables import Report, markdown, pooled_markdown
from lottery_tf.reporting.tickets import ticket_flops

_RUNS, _PAGE = "runs.csv", Kind("a report", {".": head_has(b"<title>lottery_tf report</title>")})
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_of_runs, _table = begins_with("run,recipe,method,"), begins_with("recipe,method,sparsity,")
_read = begins_with("| sparsity | method | recipe |")
_TABLES = {
    _RUNS: _of_runs,
    **{"table.csv": _table, "tuned.csv": _table, "tried.csv": _table},
    **{"table.md": _read, "tuned.md": _read},
    "pooled.csv": begins_with("recipe,"),
    "pooled.md": begins_with("| recipe |"),
}
_by_matplotlib = head_has(b"Matplotlib v")


def _is_figure(file: Path) -> bool:
    """Whether it is a picture of ours: one with our mark or, from before there were marks, one by
    matplotlib beside a report's tables."""
    return is_picture(file) or (_by_matplotlib(file) and _of_runs(file.with_name(_RUNS)))


def _kind(name: str) -> Kind:
    return Kind("a report's", {".": _TABLES.get(name, _is_figure)})


def write(report: Report, page: Path, flops: bool = True) -> int:
    """Writes the page, and its tables and figures as files.

    Args:
      report: the tables.
      page: the HTML file. The other files go to the folder beside it, named like the page without
        ``.html``. Files of an earlier report are replaced, others stay.
      flops: whether to count the tickets' FLOPs, which needs TensorFlow.

    Returns:
      The number of files beside the page.

    Raises:
      UsageError: if something else has the name of a file that would be written. Then nothing is
        written.
    """
    check_ours(page, _PAGE)
    if (beside := page.with_suffix("")).exists() and not beside.is_dir():
        raise UsageError(
            f"Expected {beside} to be new or a folder, for the report's tables and figures. It is "
            "a file; choose another `out`."
        )
    runs = report.gathered.runs
    files = {_RUNS: _csv(runs)}
    for table in report.tables:
        files[f"{table.name}.csv"] = _csv(table.frame)
        files[f"{table.name}.md"] = _utf8(markdown(table))
        if len(table.tried):
            files["tried.csv"] = _csv(table.tried)
    if report.pooled is not None:
        files["pooled.csv"] = _csv(report.pooled.frame)
        files["pooled.md"] = _utf8(pooled_markdown(report.pooled))
    tickets = list(runs["ticket"].dropna().unique())
    figures = Figures(report, ticket_flops(tickets) if flops else {})
    sections = figures.sections()
    drawn = {figure.name for section in sections for figure in section.figures}
    pictures = [f"{name}{suffix}" for name in drawn for suffix in PICTURE_MARKS]
    check_all_ours(beside, {name: _kind(name) for name in (*files, *pictures)})
    for note in figures.notes():
        log.info("%s", note)
    for section in sections:
        for figure in section.figures:
            for suffix, content in draw(figure, section.title).items():
                files[f"{figure.name}{suffix}"] = content
    for name, content in files.items():
        write_bytes(beside / name, content)
    notes = [*report.gathered.notes, *figures.notes()]
    write_text(page, html(report, sections, notes, beside.name))
    return len(files)


def _csv(frame: pd.DataFrame) -> bytes:
    """A table in CSV. A text that a spreadsheet would take for a formula has a ' in front."""
    safe = frame.rename(columns=_no_formula)
    for name in safe.columns:
        if any(isinstance(value, str) for value in safe[name]):
            safe[name] = pd.Series(map(_no_formula, safe[name]), safe.index, dtype=object)
    return _utf8(safe.to_csv(index=False))


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _utf8(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # bytes of a folder's name may be no UTF-8
