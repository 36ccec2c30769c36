"""What retrain runs come to: tables with statistics, figures, and a page that shows both."""

from lottery_tf.reporting.kinds import answer, short_tables
from lottery_tf.reporting.reports import write
from lottery_tf.reporting.runs import gather
from lottery_tf.reporting.tables import (
    POOLED_TITLE,
    Report,
    Table,
    cells,
    head,
    markdown,
    pooled_cells,
    pooled_head,
    report,
)
from lottery_tf.reporting.tuning import Tuned, tuned

__all__ = [
    "POOLED_TITLE",
    "Report",
    "Table",
    "Tuned",
    "answer",
    "cells",
    "gather",
    "head",
    "markdown",
    "pooled_cells",
    "pooled_head",
    "report",
    "short_tables",
    "tuned",
    "write",
]
