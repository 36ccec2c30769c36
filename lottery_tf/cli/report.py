"""lottery-tf report: tables, figures and a page of what retrain runs came to."""

from collections.abc import Sequence
from types import ModuleType

from rich.measure import Measurement
from rich.table import Table

from lottery_tf.cli.console import console
from lottery_tf.cli.flags import Parsed
from lottery_tf.cli.settings import ReportSettings
from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted, log
from lottery_tf.common.stderr import quiet_start


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
    names, rows = reporting.head(found.tables[0]), reporting.cells(found.tables[0])
    if is_too_wide(names, rows):
        for title, names, rows in reporting.short_tables(found):
            print_lines(title, names, rows)
        console.print("A wider terminal, a file or --out shows all columns.", markup=False)
    else:
        print_lines(found.tables[0].title, names, rows)
    console.print(" ".join(reporting.answer(found)), markup=False)
    console.print(" ".join(found.tables[0].about), markup=False)
    if found.pooled is not None:
        names, lines = reporting.pooled_head(found.pooled), reporting.pooled_cells(found.pooled)
        if is_too_wide(names, lines):
            shown = [i for i, n in enumerate(names) if n not in ("kinds of tickets", "seeds")]
            names, *lines = [[line[i] for i in shown] for line in (names, *lines)]
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
            "Expected the libraries for reports, which sweep --tune needs too; "
            f"{error.name} is not installed: install lottery_tf with its extra [report]."
        ) from None
    return reporting


def is_too_wide(names: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether a table has no room in the terminal. A file is as wide as need be."""
    widest = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    return console.is_terminal and sum(widest) + 3 * len(widest) + 1 > console.width


def print_lines(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Shows a table in words: in a terminal as wide as that is, in a file as wide as need be."""
    table = Table(title=title)
    for name in names:
        if name in ("method", "recipe"):
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    if not console.is_terminal:
        table.width = Measurement.get(console, console.options.update(width=1000), table).maximum
    console.print(table)
