"""Tickets against reinitialised tickets: LeNet-300-100 on Fashion-MNIST.

Draws tickets with flags/fashion_mnist_lenet_300_100.cfg for three seeds. Trains the same masks from
new initial weights (the control) and with label smoothing. Writes results.json, table.md and
accuracy.png. An interrupted study goes on where it was. Takes about 25 minutes on two cores.

    python launch/lenet_tickets.py --data_dir=DIR --runs=runs/lenet_tickets \
        --out=docs/results/lenet_tickets

DIR holds the four IDX files of Fashion-MNIST. Needs the extra [plot].
"""

import argparse
import statistics
from pathlib import Path

import matplotlib.pyplot as plt

from lottery_tf.cli import find
from lottery_tf.cli.flags import parse
from lottery_tf.cli.settings import FIND
from lottery_tf.common.files import write_json, write_text
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.runs.find import round_folder
from lottery_tf.runs.folder import read_config
from lottery_tf.runs.retrain import retrain_ticket
from lottery_tf.runs.settings import Experiment
from lottery_tf.tweaks.recipe import Recipe

FLAGFILE = Path(__file__).parents[1] / "flags" / "fashion_mnist_lenet_300_100.cfg"
SEEDS = (0, 1, 2)
# 48.8, 79.0, 89.3 and 95.6 % of the weights are gone in these rounds.
RETRAINED_ROUNDS = (3, 7, 10, 14)
OTHERS = {"reinitialised": ("vanilla", True), "label smoothing": ("label_smoothing", False)}
KEPT = ("sparsity", "sparsity_total", "test_accuracy", "dev_accuracy", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", required=True, help="folder of Fashion-MNIST's IDX files")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    given = parser.parse_args()
    results = [row for seed in SEEDS for row in run(given.data_dir, given.runs, seed)]
    config = read_config(given.runs / "seed_0" / "find")
    for name in ("data_dir", "seed", "data_seed"):
        del config[name]
    write_json(given.out / "results.json", {"config": config, "results": results})
    cells = summary(results)
    write_text(given.out / "table.md", table(cells))
    plot(cells, given.out / "accuracy.png")


def run(data_dir: str, runs: Path, seed: int) -> list[dict]:
    """Finds the tickets of a seed and trains the others; a row a trained network."""
    folder = runs / f"seed_{seed}"
    words = [f"--flagfile={FLAGFILE}", f"--data_dir={data_dir}"]
    flags = parse([*words, f"--seed={seed}", f"--data_seed={seed}"], FIND)
    experiment = Experiment(*(flags.settings(owner) for owner in Experiment.owners()))
    found = find.run_find(folder / "find", experiment, flags.settings(FindingSettings))
    rows = [{"start": "ticket", "round": number, **row} for number, row in enumerate(found)]
    for number in RETRAINED_ROUNDS:
        for start, (recipe, reinit) in OTHERS.items():
            out = folder / f"round_{number:02}_{recipe}{'_reinit' if reinit else ''}"
            ticket = round_folder(folder / "find", number)
            result = retrain_ticket(out, ticket, Recipe(recipe), reinit=reinit)
            rows.append({"start": start, "round": number, **result})
            print(f"seed {seed} round {number} {start}: test {result['test_accuracy']:.4f}")
    return [
        {"start": row["start"], "round": row["round"], "seed": seed, **{k: row[k] for k in KEPT}}
        for row in rows
    ]


def summary(results: list[dict]) -> list[dict]:
    """Mean and standard error over the seeds, and the difference to the ticket paired by seed."""
    accuracy = {(r["start"], r["round"], r["seed"]): r["test_accuracy"] for r in results}
    cells = []
    for start, number in dict.fromkeys((r["start"], r["round"]) for r in results):
        values = [100 * accuracy[start, number, seed] for seed in SEEDS]
        gains = [
            value - 100 * accuracy["ticket", number, seed]
            for value, seed in zip(values, SEEDS, strict=True)
        ]
        (sparsity,) = {r["sparsity"] for r in results if r["round"] == number}
        cells.append(
            {
                "start": start,
                "sparsity": 100 * sparsity,
                "accuracy": statistics.mean(values),
                "error": statistics.stdev(values) / len(values) ** 0.5,
                "gain": statistics.mean(gains),
                "gain_error": statistics.stdev(gains) / len(gains) ** 0.5,
            }
        )
    return cells


def table(cells: list[dict]) -> str:
    """Markdown: accuracies on the test images in percent, mean ± standard error."""
    lines = [
        "| sparsity | trained from | test accuracy | against the ticket |",
        "| ---: | --- | ---: | ---: |",
    ]
    for cell in sorted(cells, key=lambda cell: cell["sparsity"]):
        gain = f"{cell['gain']:+.2f} ± {cell['gain_error']:.2f}"
        lines.append(
            f"| {cell['sparsity']:.2f} % | {cell['start']} | {cell['accuracy']:.2f} ± "
            f"{cell['error']:.2f} | {'' if cell['start'] == 'ticket' else gain} |"
        )
    return "\n".join(lines) + "\n"


def plot(cells: list[dict], path: Path) -> None:
    """Test accuracy against the share of weights that are left."""
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    styles = {"ticket": ("#0072b2", "o-"), "reinitialised": ("#d55e00", "s--")}
    styles["label smoothing"] = ("#009e73", "^:")  # colours that colour-blind readers can tell
    for start, (colour, style) in styles.items():
        chosen = sorted((c for c in cells if c["start"] == start), key=lambda c: c["sparsity"])
        left = [100 - cell["sparsity"] for cell in chosen]
        heights = [cell["accuracy"] for cell in chosen]
        errors = [cell["error"] for cell in chosen]
        label = {"ticket": "ticket", "reinitialised": "same mask, new initial weights"}
        axes.errorbar(
            *(left, heights, errors), fmt=style, color=colour, capsize=3, markersize=4,
            label=label.get(start, f"ticket with {start}"),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([100, 50, 20, 10, 5], ["100", "50", "20", "10", "5"])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set_xlabel("weights left (%)")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(
        "LeNet-300-100 on Fashion-MNIST, mean ± standard error of 3 seeds", fontsize="medium"
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main()
