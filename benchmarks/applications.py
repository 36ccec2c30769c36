"""The operations of lottery_tf on the networks of keras.applications, and what prepare costs.

    python benchmarks/applications.py --out=benchmarks/results/applications

Each network has random weights, ten classes, the smallest images that it takes well, and a process
of its own. For each operation the table says "yes", or the sentence or error that came. `prepare`
is that of `tost`, in seconds of the processor, with two iterations in its search for scales, whose
length is a setting. Δ is the largest difference of an output of the export from the model's, over
the largest output: with random weights those of some networks are as large as 1e9.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = {
    **dict.fromkeys(("MobileNet", "MobileNetV2", "MobileNetV3Small", "VGG19", "RegNetX002"), 32),
    **dict.fromkeys(("ResNet50", "ResNet50V2", "ConvNeXtTiny", "EfficientNetB0"), 32),
    **{"EfficientNetV2B0": 32, "DenseNet121": 32, "Xception": 71, "InceptionV3": 75},
    "NASNetMobile": 32,
}
ONLY_TF_KERAS = ("RegNetX002",)
# Of random weights, magnitude would leave nothing of its first convolution. Behind that, gradients
# through 120 normalisations of zeros overflow where activations are soft.
AT_LEAST_ONE_KEPT = ("DenseNet121",)
OPERATIONS = (
    *("wrap and train", "from_pruned", "tost", "prepare, s", "SavedModel", "LiteRT", ".keras"),
    *("snip", "grasp", "synflow", "erk", "FLOPs"),
)
SPARSITY, STEPS, BATCH = 0.8, 3, 4


def measure(name: str, module: str) -> dict[str, object]:
    """Operation → what came of it, for one network of one Keras."""
    import importlib

    import numpy as np
    import tensorflow as tf

    import lottery_tf as lt
    from lottery_tf.graph.layers import values

    keras = importlib.import_module(module)
    keras.utils.set_random_seed(0)
    shape = (SIZES[name], SIZES[name], 3)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=shape, classes=10, classifier_activation=None
    )
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (BATCH, *shape)).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, np.arange(BATCH) % 10)).batch(BATCH).repeat()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ticket = lt.prune(model, "omp", SPARSITY, min_kept=int(name in AT_LEAST_ONE_KEPT))
    found: dict[str, object] = {"parameters": model.count_params()}

    def trained(prepared, recipe=None):
        prepared.compile(keras.optimizers.SGD(1e-3), recipe.loss() if recipe else loss)
        callbacks = recipe.callbacks() if recipe else []
        prepared.fit(data, steps_per_epoch=STEPS, verbose=0, callbacks=callbacks)
        return recipe.finish(prepared) if recipe else lt.strip(prepared)

    def check_zeros(finished):
        kernels = values(finished)
        for weight, mask in ticket.masks.items():
            assert not np.any(kernels[weight][~mask]), f"{weight} has weights that were pruned"
        return finished

    def wrapped():
        check_zeros(trained(ticket.build()))

    def from_pruned():
        again = lt.Ticket.from_pruned(lt.strip(ticket.build()), rewind_to=model)
        assert all(np.array_equal(again.masks[n], mask) for n, mask in ticket.masks.items())

    finished = []

    def tost():
        recipe = lt.Recipe("tost", {"rescaled_init_iterations": 2})
        begun = time.process_time()
        prepared = recipe.prepare(ticket.build(), data)
        found["prepare, s"] = round(time.process_time() - begun, 1)
        finished.append(check_zeros(trained(prepared, recipe)))

    def exported(path, images=x):
        with tempfile.TemporaryDirectory() as folder:
            largest = max(1, float(np.abs(finished[0](x)).max()))
            facts = lt.export(finished[0], Path(folder) / path, images, tolerance=1e-5 * largest)
            return f"yes, Δ {facts['max_abs_difference'] / largest:.0e}"

    def scored(method):
        masks = lt.prune(model, method, SPARSITY, data, batches=1).masks
        assert masks.total - masks.kept == round(SPARSITY * masks.total)

    def flops():
        sparse, dense = (
            sum(lt.count_flops(model, masks).values()) for masks in (ticket.masks, None)
        )
        return f"{sparse / dense:.0%} of {dense / 1e6:,.0f} M"

    runs = {
        "wrap and train": wrapped,
        "from_pruned": from_pruned,
        "tost": tost,
        "SavedModel": lambda: exported("saved"),
        "LiteRT": lambda: exported("file.tflite"),
        ".keras": lambda: exported("file.keras"),
        **{each: (lambda each=each: scored(each)) for each in ("snip", "grasp", "synflow", "erk")},
        "FLOPs": flops,
    }
    for operation, run in runs.items():
        try:
            found[operation] = run() or "yes"
        except Exception as error:  # all that may come is told
            kind = "" if isinstance(error, lt.UsageError) else f"{type(error).__name__}: "
            found[operation] = f"{kind}{error}".splitlines()[0][:300]
    return found


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| network | Keras | " + " | ".join(OPERATIONS) + " |",
        "|---|---|" + "---|" * len(OPERATIONS),
    ]
    for row in rows:
        cells = [str(row.get(name, "–")).replace("|", "\\|") for name in OPERATIONS]
        lines.append(f"| {row['network']} | {row['keras']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--networks", nargs="*", help="default: those that the table lacks")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out = Path(arguments.out)
    if arguments.one:
        out.write_text(json.dumps(measure(*arguments.one), ensure_ascii=False))
        return
    out.mkdir(parents=True, exist_ok=True)
    file = out / "applications.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    for name in arguments.networks or SIZES:
        for module in ("tf_keras", "keras"):
            there = any((row["network"], row["keras"]) == (name, module) for row in rows)
            only = name in ONLY_TF_KERAS and module != "tf_keras"
            if only or (there and not arguments.networks):
                continue
            with tempfile.TemporaryDirectory() as folder:
                part = Path(folder) / "row.json"
                begun = time.perf_counter()
                command = [sys.executable, __file__, f"--out={part}", "--one", name, module]
                subprocess.run(command, check=True)
                row = json.loads(part.read_text())
            row |= {"network": name, "keras": module, "seconds": round(time.perf_counter() - begun)}
            print(json.dumps(row, ensure_ascii=False), flush=True)
            rows = [r for r in rows if (r["network"], r["keras"]) != (name, module)] + [row]
            order = {each: place for place, each in enumerate(SIZES)}
            rows.sort(key=lambda r: (order[r["network"]], r["keras"] != "tf_keras"))
            file.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
            (out / "applications.md").write_text(table(rows))


if __name__ == "__main__":
    main()
