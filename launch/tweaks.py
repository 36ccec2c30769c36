"""The tweaks on the same tickets of a flagfile: IMP at 89.3, 95.6 and 98.2 %.

Each seed has its own initial weights, training images (where the flagfile takes a part of them)
and IMP run. Every recipe retrains the same tickets (masks, rewound weights, data order, number of
steps) at each learning rate; for each recipe and sparsity the rate with the best mean dev accuracy
is chosen, and its test accuracy is what counts. Writes results.json (all runs), table.md and
gain.png. An interrupted study goes on where it was.

    python launch/tweaks.py --data_dir=DIR --runs=runs/tweaks --out=docs/results/tweaks
    python launch/tweaks.py --data_dir=DIR --runs=runs/tweaks_32 --out=docs/results/tweaks_32 \
        --width=32

DIR holds the four IDX files of Fashion-MNIST. About three hours on two cores at width 16, some ten
hours at width 32. Other flags, such as
--precision=mixed_bfloat16, are those of `lottery-tf find`. Needs the extra [plot].
"""

from pathlib import Path

from scipy import stats
from studies import Cell, Study, arguments, mean_and_error, percent

SEEDS = (0, 1, 2)
ROUNDS = (10, 14, 18)
RATES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
RECIPES = (
    "vanilla",
    *("soft_activation", "ghost_skips", "rescaled_init", "label_smoothing", "tost"),
    *("distillation", "tost,distillation"),
)
# Of a sparsity: colours that colour-blind readers can tell, and markers.
LOOKS = tuple(zip(("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"), "os^Dv", strict=True))
KEPT = ("sparsity", "sparsity_total", "test_accuracy", "dev_accuracy", "train_accuracy", "seconds")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--flagfile",
        default="fashion_mnist_resnet8_half.cfg",
        help="a path, or a name in flags/ (default: %(default)s)",
    )
    parser.add_argument("--width", type=int, help="of the network; default: the flagfile's")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=list(RATES), help="learning rates to choose from"
    )
    parser.add_argument(
        "--rounds", type=int, nargs="+", default=list(ROUNDS), help="whose tickets are retrained"
    )
    parser.add_argument(
        "--recipes", nargs="+", default=list(RECIPES), help="vanilla, and what to compare with it"
    )
    given, more = parser.parse_known_args()
    if "vanilla" not in given.recipes or len(given.recipes) < 2 or len(given.rounds) > len(LOOKS):
        parser.error(
            f"expected vanilla and another of --recipes, and at most {len(LOOKS)} --rounds; got "
            f"{' '.join(given.recipes)} and {len(given.rounds)} rounds"
        )
    study = Study(
        given.flagfile,
        given.data_dir,
        given.runs,
        rounds=max(given.rounds),
        width=given.width,
        processes=given.processes,
        more=tuple(more),
    )
    study.check(parser)
    cells = [
        Cell(seed, number, recipe, recipe, learning_rate=rate)
        for rate in given.rates
        for recipe in given.recipes
        for seed in SEEDS
        for number in given.rounds
    ]
    rows = study.run(cells)

    from lottery_tf.files import read_json_lines, write_json, write_text

    results = [
        {
            **{key: row[key] for key in ("recipe", "learning_rate", "round", "seed")},
            **{key: row[key] for key in KEPT},
        }
        for row in rows
    ]
    dense = [
        read_json_lines(given.runs / f"seed_{seed}" / "find" / "metrics.jsonl")[0] for seed in SEEDS
    ]
    write_json(given.out / "results.json", {"dense": dense, "retrained": results})
    cells = summary(results)
    write_text(given.out / "table.md", table(cells, dense))
    plot(cells, given.out / "gain.png")


def summary(results: list[dict]) -> list[dict]:
    """For each recipe and sparsity the chosen rate's accuracies, and the pairs against vanilla."""
    by_run = {(r["recipe"], r["round"], r["learning_rate"], r["seed"]): r for r in results}

    def values(recipe, number, rate, key):
        return [by_run[recipe, number, rate, seed][key] for seed in SEEDS]

    rates = sorted({row["learning_rate"] for row in results})
    chosen = {}
    for recipe, number in dict.fromkeys((r["recipe"], r["round"]) for r in results):
        dev = {rate: sum(values(recipe, number, rate, "dev_accuracy")) for rate in rates}
        chosen[recipe, number] = max(rates, key=dev.get)
    cells = []
    for (recipe, number), rate in chosen.items():
        test = values(recipe, number, rate, "test_accuracy")
        vanilla = values("vanilla", number, chosen["vanilla", number], "test_accuracy")
        cells.append(
            {
                "recipe": recipe,
                "sparsity": values(recipe, number, rate, "sparsity")[0],
                "learning_rate": rate,
                "on_the_edge": len(rates) > 1 and rate in (rates[0], rates[-1]),
                "test": test,
                "train": values(recipe, number, rate, "train_accuracy"),
                "gain": [one - other for one, other in zip(test, vanilla, strict=True)],
                "p": float(stats.ttest_rel(test, vanilla).pvalue),
            }
        )
    return cells


def table(cells: list[dict], dense: list[dict]) -> str:
    """Markdown: accuracies in percent, mean ± standard error over the seeds, paired t-test."""
    lines = [
        "| sparsity | recipe | learning rate | train | test | gain over vanilla | p |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cell in sorted(cells, key=lambda cell: cell["sparsity"]):
        plain = cell["recipe"] == "vanilla"
        rate = f"{cell['learning_rate']:g}{'*' if cell['on_the_edge'] else ''}"
        fields = [f"{100 * cell['sparsity']:.1f} %", cell["recipe"], rate]
        fields += [percent(cell["train"]), percent(cell["test"])]
        fields += ["", ""] if plain else [percent(cell["gain"], "+"), f"{cell['p']:.2f}"]
        lines.append(f"| {' | '.join(fields)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Dense, at the flagfile's rate: {percent([row['test_accuracy'] for row in dense])}. "
            f"{len(SEEDS)} seeds; p of a paired t-test, not corrected for the number of "
            "comparisons. *: the rate is at the edge of the grid.",
            "",
        ]
    )


def plot(cells: list[dict], path: Path) -> None:
    """Gain over vanilla by recipe, a group a sparsity."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4), layout="constrained")
    sparsities = sorted({cell["sparsity"] for cell in cells})
    recipes = [r for r in dict.fromkeys(cell["recipe"] for cell in cells) if r != "vanilla"]
    for i, (sparsity, (colour, marker)) in enumerate(zip(sparsities, LOOKS, strict=False)):
        found = {c["recipe"]: c["gain"] for c in cells if c["sparsity"] == sparsity}
        means, errors = zip(
            *(mean_and_error([100 * gain for gain in found[recipe]]) for recipe in recipes),
            strict=True,
        )
        aside = 0.6 * ((i + 0.5) / len(sparsities) - 0.5)
        places = [place + aside for place in range(len(recipes))]
        label = f"{100 * sparsity:.1f} % pruned"
        axes.errorbar(places, means, errors, fmt=marker, color=colour, capsize=3, label=label)
    axes.axhline(0, color="#777777", linewidth=1)
    axes.set_xticks(range(len(recipes)), [recipe.replace(",", "\n+ ") for recipe in recipes])
    axes.tick_params(axis="x", rotation=20)
    axes.set_ylabel("gain over vanilla (points)")
    rates = {cell["learning_rate"] for cell in cells}
    tuned = (
        "learning rate of each chosen on dev" if len(rates) > 1 else f"learning rate {rates.pop()}"
    )
    axes.set_title(f"Same tickets, {tuned}; mean ± standard error", fontsize="medium")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main()
