"""Tickets of every mask method, with and without the tweaks: ResNet-20 on Fashion-MNIST.

At the sparsities of IMP's rounds 10, 14 and 18 (89.3, 95.6 and 98.2 %) each method finds a mask of
flags/fashion_mnist_resnet20.cfg; every mask is trained from the same weights at step k, on the same
batches, by each recipe. Three seeds, each with its own initial weights, training images and masks.
Writes results.json (all runs) and table.md. An interrupted study goes on where it was.

    python launch/masks.py --data_dir=DIR --runs=runs/masks --out=docs/results/masks

DIR holds the four IDX files of Fashion-MNIST. About five hours on two cores.
"""

from scipy import stats
from studies import Cell, Study, arguments, percent

SEEDS = (0, 1, 2)
ROUNDS = (10, 14, 18)
RECIPES = ("vanilla", "tost")
METHODS = ("imp", "omp", "gmp", "snip", "iterative_snip", "grasp", "synflow", "erk", "random")
KEPT = ("sparsity", "sparsity_total", "test_accuracy", "dev_accuracy", "train_accuracy", "seconds")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, nargs="+", default=list(ROUNDS))
    given = parser.parse_args()
    study = Study(
        "fashion_mnist_resnet20.cfg",
        given.data_dir,
        given.runs,
        rounds=max(ROUNDS),
        processes=given.processes,
    )
    cells = [
        Cell(seed, number, recipe, recipe, method=method)
        for number in given.rounds
        for method in given.methods
        for recipe in RECIPES
        for seed in SEEDS
    ]
    rows = study.run(cells)

    from lottery_tf.files import write_json, write_text
    from lottery_tf.ticket import Ticket

    results = []
    for row in rows:
        masks = Ticket.load(row["ticket"]).masks
        fields = {key: row[key] for key in ("method", "round", "recipe", "seed", *KEPT)}
        results.append({**fields, "empty_layers": masks.collapsed})
    write_json(given.out / "results.json", results)
    write_text(given.out / "table.md", table(results))


def table(results: list[dict]) -> str:
    """Markdown: test accuracies in percent, mean ± standard error, and the paired gain of tost."""
    lines = [
        "| sparsity | mask | vanilla | tost | gain of tost | p | empty layers |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for number, method in dict.fromkeys((row["round"], row["method"]) for row in results):
        rows = [r for r in results if (r["round"], r["method"]) == (number, method)]
        plain, tweaked = (
            [row["test_accuracy"] for row in rows if row["recipe"] == recipe] for recipe in RECIPES
        )
        gain = [one - other for one, other in zip(tweaked, plain, strict=True)]
        empty = [str(len(row["empty_layers"])) for row in rows if row["recipe"] == "vanilla"]
        fields = [f"{100 * rows[0]['sparsity']:.1f} %", method, percent(plain), percent(tweaked)]
        fields += [percent(gain, "+"), f"{stats.ttest_rel(tweaked, plain).pvalue:.2f}"]
        lines.append(f"| {' | '.join([*fields, ', '.join(empty)])} |")
    return "\n".join(
        [
            *lines,
            "",
            f"{len(SEEDS)} seeds; p of a paired t-test, not corrected for their number. "
            "Empty layers: by seed.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
