"""lottery-tf export: writes a retrained model as SavedModel or TFLite."""

import dataclasses
from pathlib import Path
from typing import Any

from rich.table import Table

from lottery_tf.cli.console import console, percent
from lottery_tf.cli.find import OutSettings
from lottery_tf.cli.flags import Parsed
from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import one_of, setting
from lottery_tf.exporting import FORMATS, MAX_DIFFERENCE
from lottery_tf.graph.model_files import CodeSettings
from lottery_tf.runs.export import export_run


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """What to export."""

    run: str | None = setting(None, "folder of the retrain run whose finished model is exported")
    formats: tuple[str, ...] = setting(
        ("saved_model",), f"formats to write, among {one_of(FORMATS)}"
    )
    tolerance: float = setting(
        MAX_DIFFERENCE, "largest difference to the model's outputs on the test images"
    )
    data_dir: str | None = setting(
        None, "where the run's dataset lies now; default: where it lay for the run"
    )


SETTINGS = (ExportSettings, CodeSettings, OutSettings)


def run(flags: Parsed) -> None:
    """Exports, proves that the files compute what the model computes, and shows their sizes."""
    settings, out = flags.settings(ExportSettings), flags.settings(OutSettings).folder
    if not settings.run:
        raise UsageError("Expected --run=DIR, the retrain run to export; none was given.")
    with console.status("writing and proving in a fresh process"):
        facts = export_run(
            *(Path(settings.run), out, settings.formats, settings.tolerance, settings.data_dir),
            allow_code=flags.settings(CodeSettings).allow_code,
        )
    print_export(out, facts)


def print_export(out: Path, facts: dict[str, dict[str, Any]]) -> None:
    """Shows the sizes and the proof of each format as a table."""
    table = Table("export", "test accuracy", "max |Δ|", "bytes", "gzip'd", title=str(out))
    for each in facts.values():
        table.add_row(
            each["file"],
            percent(each["test_accuracy"]),
            f"{each['max_abs_difference']:.1e}",
            f"{each['bytes']:,}",
            f"{each['bytes_gzip']:,}",
        )
    console.print(table)
