"""lottery-tf quickstart: tickets drawn, retrained by three recipes and exported, on digits."""

import itertools
import statistics
from pathlib import Path
from typing import Any

from rich.table import Table

from lottery_tf.cli.console import console
from lottery_tf.cli.export import print_export
from lottery_tf.cli.find import run_find
from lottery_tf.cli.flags import Parsed
from lottery_tf.cli.settings import QuickstartSettings
from lottery_tf.cli.terminal import Countdown, TrainingStatus
from lottery_tf.common.files import read_json, write_json, write_text
from lottery_tf.common.ownership import Kind, begins_with, check_all_ours
from lottery_tf.common.summary import percent
from lottery_tf.data import DataSettings
from lottery_tf.exporting import EXPORT
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.models import ModelSettings
from lottery_tf.runs.export import export_run
from lottery_tf.runs.find import check_find_places, round_folder
from lottery_tf.runs.folder import Run
from lottery_tf.runs.retrain import check_retrain_places, retrain_ticket
from lottery_tf.runs.settings import Experiment
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.tweaks.recipe import Recipe

# 91.41 and 97.19 % of the weights are gone in these rounds of 20 %.
RETRAINED_ROUNDS = (11, 16)
RECIPES = ("vanilla", "tost", "distillation")

_HEAD = ["sparsity", "recipe", "test accuracy", "gain over vanilla"]


def _is_summary(file: Path) -> bool:
    return all({"sparsity", "recipe", "gain"} <= row.keys() for row in read_json(file))


_WRITES = {
    "summary.json": Kind("a summary", {".": _is_summary}),
    "summary.md": Kind("a summary", {".": begins_with(f"| {' | '.join(_HEAD)} |")}),
    "export": EXPORT,
}


def _run_folder(folder: Path, number: int, recipe: str) -> Path:
    """Where a seed's folder has the retraining of a round."""
    return folder / f"round_{number:02}_{recipe}"


def run(flags: Parsed) -> None:
    """Finds, retrains, exports, and prints the table that it writes."""
    settings = flags.settings(QuickstartSettings)
    out = Path(settings.out)
    finding = FindingSettings(rounds=RETRAINED_ROUNDS[-1])
    run = Run(out, "quickstart", {"seeds": list(settings.seeds)})
    run.check()
    check_all_ours(out, _WRITES)
    for folder in (out / f"seed_{seed}" for seed in settings.seeds):
        check_find_places(folder / "find", finding)
        for number, name in itertools.product(RETRAINED_ROUNDS, RECIPES):
            check_retrain_places(_run_folder(folder, number, name))
    run.begin()
    results = []
    for seed in settings.seeds:
        folder = out / f"seed_{seed}"
        console.print(f"Seed {seed}: drawing tickets from LeNet-300-100 on digits")
        run_find(
            folder / "find",
            Experiment(
                DataSettings(batch_size=32, data_seed=int(seed)),
                ModelSettings(),
                TrainingSettings(
                    train_for="25ep", optimizer="adam", learning_rate=1.2e-3, seed=int(seed)
                ),
            ),
            finding,
        )
        countdown = Countdown(len(RETRAINED_ROUNDS) * len(RECIPES))
        with console.status("retraining") as status:
            for number in RETRAINED_ROUNDS:
                for name in RECIPES:
                    status.update(f"retraining round {number} by {name}")
                    ticket = round_folder(folder / "find", number)
                    run_folder = _run_folder(folder, number, name)
                    watch = TrainingStatus(status, f"round {number} by {name}")
                    result = retrain_ticket(run_folder, ticket, Recipe(name), callbacks=[watch])
                    results.append({**result, "round": number, "seed": seed})
                    console.print(
                        f"retrained  sparsity {percent(result['sparsity']):>7}  {name:16} test "
                        f"{percent(result['test_accuracy'])}  {countdown.one_more()}"
                    )
    rows = summary(results)
    write_json(out / "summary.json", rows)
    write_text(out / "summary.md", markdown(rows))

    last = _run_folder(out / f"seed_{settings.seeds[-1]}", RETRAINED_ROUNDS[-1], RECIPES[-1])
    with console.status("exporting, and proving it in a fresh process"):
        # Outputs reach 24, where float32 steps by 2e-6 and LiteRT rounds by the processor.
        facts = export_run(last, out / "export", ("saved_model", "tflite"), tolerance=1e-4)
    print_export(out / "export", facts)
    print_summary(rows)
    console.print(f"Written: {out / 'summary.json'}, {out / 'summary.md'}")


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of means over the seeds, the gain over vanilla paired by seed.

    Returns:
      For each sparsity and recipe ``sparsity``, ``recipe``, ``test_accuracy``, ``gain`` (both as
      shares), the standard errors ``test_accuracy_sem`` and ``gain_sem`` (None for one seed), and
      ``seeds``.
    """
    by_cell = {(r["round"], r["recipe"], r["seed"]): r for r in results}
    rows = []
    for number, recipe in dict.fromkeys((r["round"], r["recipe"]) for r in results):
        seeds = [s for n, name, s in by_cell if (n, name) == (number, recipe)]
        accuracies = [by_cell[number, recipe, s]["test_accuracy"] for s in seeds]
        vanilla = [by_cell[number, "vanilla", s]["test_accuracy"] for s in seeds]
        gains = [a - v for a, v in zip(accuracies, vanilla, strict=True)]
        rows.append(
            {
                "sparsity": by_cell[number, recipe, seeds[0]]["sparsity"],
                "recipe": recipe,
                "test_accuracy": statistics.mean(accuracies),
                "gain": statistics.mean(gains),
                "test_accuracy_sem": _standard_error(accuracies),
                "gain_sem": _standard_error(gains),
                "seeds": len(seeds),
            }
        )
    return rows


def _standard_error(values: list[float]) -> float | None:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def _cells(row: dict[str, Any]) -> list[str]:
    """A row of the table as it is shown; gains in points of accuracy."""
    accuracy, gain = percent(row["test_accuracy"]), f"{100 * row['gain']:+.2f}"
    if row["gain_sem"] is not None:
        accuracy += f" ± {100 * row['test_accuracy_sem']:.2f}"
        gain += f" ± {100 * row['gain_sem']:.2f}"
    return [percent(row["sparsity"]), row["recipe"], accuracy, gain]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The summary as a Markdown table."""
    lines = [_HEAD, ["---:", "---", "---:", "---:"], *map(_cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def print_summary(rows: list[dict[str, Any]]) -> None:
    """Shows the summary as a table."""
    table = Table(*_HEAD, title=f"Mean ± standard error over {rows[0]['seeds']} seeds")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
