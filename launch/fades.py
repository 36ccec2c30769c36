"""How, and how long, soft activations and ghost skips should fade, measured on the dev split.

Retrains tickets of flags/fashion_mnist_resnet8_half.cfg at 95.6 % sparsity, of three seeds, with
one fade each. Writes results.json and table.md. The test images have no part in the choice. Takes
about 15 minutes on two cores.

    python launch/fades.py --data_dir=DIR --runs=runs/fades --out=docs/results/fades

DIR holds the four IDX files of Fashion-MNIST.
"""

from studies import Cell, Study, arguments, percent

SEEDS = (10, 11, 12)
ROUNDS = (14,)
SHARES = (0.2, 0.5, 0.8)
SOFT = {f"pswish 1 to 10, linear, {share:g}": {"share": share} for share in SHARES} | {
    "pswish 1 to 30, exponential, 0.5": {"beta_end": 30.0, "curve": "exponential"},
    "pswish 1 to 30, exponential, 0.8": {"beta_end": 30.0, "curve": "exponential", "share": 0.8},
    "mish, linear, 0.5": {"unit": "mish"},
}
GHOST = {f"alpha 1, linear, {share:g}": {"alpha": 1.0, "share": share} for share in SHARES} | {
    "alpha 1, cosine, 0.5": {"alpha": 1.0, "curve": "cosine"},
    "alpha 0.3, linear, 0.5": {"alpha": 0.3},
    "convolutions of 1x1, alpha 1, linear, 0.5": {"alpha": 1.0, "shortcut": "conv"},
    "same, alpha 1, linear, 0.5": {"alpha": 1.0, "convolutions": ("same",)},
}


def main() -> None:
    given = arguments(__doc__).parse_args()
    recipes = [("vanilla", "vanilla", ())]
    for tweak, variants in (("soft_activation", SOFT), ("ghost_skips", GHOST)):
        for name, values in variants.items():
            settings = {"share": 0.5, "curve": "linear", **values}
            flags = tuple((f"{tweak}_{key}", value) for key, value in settings.items())
            recipes.append((f"{tweak}: {name}", tweak, flags))
    cells = [
        Cell(seed, number, name, recipe, settings)
        for seed in SEEDS
        for number in ROUNDS
        for name, recipe, settings in recipes
    ]
    study = Study(
        "fashion_mnist_resnet8_half.cfg",
        given.data_dir,
        given.runs,
        rounds=max(ROUNDS),
        processes=given.processes,
    )
    rows = study.run(cells)

    from lottery_tf.common.files import write_json, write_text

    kept = ("name", "recipe", "settings", "seed", "round", "sparsity", "dev_accuracy", "dev_loss")
    write_json(given.out / "results.json", [{key: row[key] for key in kept} for row in rows])
    write_text(given.out / "table.md", table(rows))


def table(rows: list[dict]) -> str:
    """Markdown: dev accuracy and the paired gain over vanilla, in points, mean ± standard error."""
    accuracy = {(row["name"], row["round"], row["seed"]): row["dev_accuracy"] for row in rows}
    sparsities = {row["round"]: f"{100 * row['sparsity']:.1f} %" for row in rows}
    lines = [
        f"| fade | {' | '.join(f'dev at {s} | gain' for s in sparsities.values())} |",
        "| --- |" + " ---: | ---: |" * len(sparsities),
    ]
    for name in dict.fromkeys(row["name"] for row in rows):
        fields = []
        for number in sparsities:
            values = [accuracy[name, number, seed] for seed in SEEDS]
            plain = [accuracy["vanilla", number, seed] for seed in SEEDS]
            gains = [v - p for v, p in zip(values, plain, strict=True)]
            fields += [percent(values), "" if name == "vanilla" else percent(gains, "+")]
        lines.append(f"| {name} | {' | '.join(fields)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
