"""lottery-tf export: writes a retrained model as SavedModel, TFLite, ONNX or Keras file."""

from pathlib import Path
from typing import Any

from rich.table import Table

from lottery_tf.cli.console import console
from lottery_tf.cli.flags import Parsed
from lottery_tf.cli.following import command, flags_of_data, say_next
from lottery_tf.cli.settings import ExportSettings, OutSettings
from lottery_tf.common.summary import percent
from lottery_tf.exporting.card import NAME as CARD
from lottery_tf.graph.settings import CodeSettings
from lottery_tf.runs.export import export_run
from lottery_tf.runs.records import read_config


def run(flags: Parsed) -> None:
    """Exports, proves that the files compute what the model computes, and shows their sizes."""
    settings, out = flags.settings(ExportSettings), flags.settings(OutSettings).folder
    with console.status("writing and proving in a fresh process"):
        facts = export_run(
            *(Path(settings.run), out, settings.formats, settings.tolerance, settings.data_dir),
            with_preprocessing=settings.with_preprocessing,
            allow_code=flags.settings(CodeSettings).allow_code,
        )
    print_export(out, facts)
    config = read_config(settings.run)
    if settings.data_dir:
        config["data_dir"] = settings.data_dir
    first = next(each for each in settings.formats if each in facts)  # in the order asked for
    model = f"--model={out / facts[first]['file']}"
    say_next(command("evaluate", model, *flags_of_data(config)))


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
    console.print(f"How to load it: {out / CARD}")
