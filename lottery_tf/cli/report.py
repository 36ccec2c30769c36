"""lottery-tf report: tables, figures and a page of what retrain runs came to."""

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from rich.measure import Measurement
from rich.table import Table

from lottery_tf.cli.console import console
from lottery_tf.cli.flags import Parsed
from lottery_tf.cli.settings import ReportSettings
from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted, log
from lottery_tf.common.stderr import quiet_start

if TYPE_CHECKING:  # `library` loads it where its own libraries are installed
    from lottery_tf import reporting as reports


def run(flags: Parsed) -> None:
    """Shows the table, and writes the page and what is beside it."""
    settings = flags.settings(ReportSettings)
    reporting = library()
    tune = tuple(name for name in settings.tune if name)
    with console.status("reading runs"), quiet_start():
        found = reporting.report(
            *(flags.positional, tune, whole_numbers(settings.tune_seeds)),
            baseline=settings.baseline.replace("+", ","),
        )
    for note in found.gathered.notes:
        log.info("%s", note)
    print_table(found.tables[0], reporting)
    console.print(" ".join(reporting.answer(found)), markup=False)
    console.print(" ".join(found.tables[0].about), markup=False)
    if found.pooled is not None:
        names, lines = reporting.pooled_head(found.pooled), reporting.pooled_cells(found.pooled)
        print_lines(reporting.POOLED_TITLE, names, lines)
        console.print(" ".join(found.pooled.about), markup=False)
    if settings.page is None:
        return
    try:
        with console.status("drawing"), quiet_start():
            written = reporting.write(found, settings.page, settings.flops)
    except OSError as error:
        raise UsageError(f"Expected --out to be a place that can be written; {error}.") from None
    beside = settings.page.with_suffix("")
    console.print(f"Written: {settings.page}, and {counted(written, 'file')} in {beside}")


def whole_numbers(seeds: Sequence[str]) -> list[int]:
    """The seeds that a flag lists.

    Raises:
      UsageError: if one is no whole number.
    """
    try:
        return [int(seed) for seed in seeds]
    except ValueError as error:
        raise UsageError(f"Expected whole numbers as seeds; {error}.") from None


def library() -> ModuleType:
    """``lottery_tf.reporting``.

    Raises:
      UsageError: if what it needs is not installed.
    """
    try:
        from lottery_tf import reporting
    except ImportError as error:
        raise UsageError(
            "Expected the libraries of reports, by which sweep --tune chooses too; "
            f"{error.name} is not installed: install lottery_tf with its extra [report]."
        ) from None
    return reporting


def print_table(found: "reports.Table", reporting: ModuleType) -> None:
    """In a terminal as wide as that is, in a file as wide as need be."""
    print_lines(found.title, reporting.head(found), reporting.cells(found))


def print_lines(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The like, of a table in words."""
    table = Table(title=title)
    for name in names:
        table.add_column(name, justify="left" if name in ("method", "recipe") else "right")
    for row in rows:
        table.add_row(*row)
    if not console.is_terminal:
        table.width = Measurement.get(console, console.options.update(width=1000), table).maximum
    console.print(table)
