"""ResNet-18 of full width on Fashion-MNIST: float32 and mixed_bfloat16, beside plain tf_keras.

    python benchmarks/resnet18.py --data_dir=DIR

DIR holds the four IDX files of Fashion-MNIST. First a ticket of 90 % sparsity is trained for 300
steps in either precision, from the same weights on the same batches: the loss curves. Then the
time of a step is measured, in turns with a ResNet-18 in plain tf_keras, written below and trained
by fit on the same stream of batches. Writes resnet18.json, resnet18.md and resnet18.png (extra
[plot]); about ten minutes on two idle cores.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import time
from pathlib import Path

import numpy as np
from tweak_overhead import machine

import lottery_tf as lt
from lottery_tf.data import Dataset, DataSettings, load
from lottery_tf.graph.compat import keras
from lottery_tf.training.optimizers import make_optimizer
from lottery_tf.training.precision import Precision
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.training.trainer import Trainer

HERE = Path(__file__).parent
PRECISIONS = ("float32", "mixed_bfloat16")
SPARSITY, RATE, BETWEEN = 0.9, 0.02, 10  # steps between two points of a curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", required=True, help="folder of Fashion-MNIST's IDX files")
    parser.add_argument("--steps", type=int, default=300, help="of each curve")
    parser.add_argument("--repeats", type=int, default=7, help="of each contender")
    parser.add_argument("--images_per_repeat", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=32, help="of the curves")
    parser.add_argument("--timed_batch_sizes", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder to write to")
    given = parser.parse_args()
    data = load(DataSettings("idx", given.data_dir, batch_size=given.batch_size))
    curves = {precision: curve(ours(data, precision), given.steps) for precision in PRECISIONS}
    times = {
        size: measure(
            dataclasses.replace(data, batch_size=size),
            *(given.repeats, given.images_per_repeat // size),
        )
        for size in given.timed_batch_sizes
    }
    facts = {"machine": machine(), "batch_size": given.batch_size, "steps_between": BETWEEN}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "resnet18.json").write_text(
        json.dumps({**facts, "loss": curves, "milliseconds_per_step": times}, indent=2) + "\n"
    )
    (given.out / "resnet18.md").write_text(table(curves, times))
    plot(curves, given.out / "resnet18.png")


def ours(data: Dataset, precision: str) -> Trainer:
    """A ticket of random masks, the same for both precisions, to be trained as retrain does."""
    keras.utils.set_random_seed(0)
    model = lt.models.create("resnet18", data.input_shape, data.num_classes)
    recipe = lt.Recipe([Precision(precision)])
    model = recipe.prepare(lt.prune(model, "random", SPARSITY).build())
    optimizer = make_optimizer(TrainingSettings(learning_rate=RATE), BETWEEN)
    return Trainer(model, data.stream, BETWEEN, optimizer, recipe.loss())


def curve(trainer: Trainer, steps: int) -> list[float]:
    """Mean training loss of every ``BETWEEN`` steps."""
    losses = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: losses.append(logs["loss"]))
    trainer.fit(steps, [note])
    print(f"loss {losses[0]:.3f} → {losses[-1]:.3f}", flush=True)
    return [float(loss) for loss in losses]


def measure(data: Dataset, repeats: int, steps: int) -> dict[str, list[float]]:
    """Contender → milliseconds a step in each repeat; they take turns within a repeat."""
    contenders = {}
    for precision in PRECISIONS:
        contenders[f"lottery_tf, {precision}"] = stepper(ours(data, precision))
        contenders[f"plain tf_keras, {precision}"] = plain(data, precision)
    found = {name: [] for name in contenders}
    for run in contenders.values():
        run(3)  # compiles
    for i in range(repeats):
        names = list(contenders)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = time.perf_counter()
            contenders[name](steps)
            found[name].append(1000 * (time.perf_counter() - start) / steps)
        print(f"{i + 1}/{repeats}", flush=True)
    return found


def stepper(trainer: Trainer):
    trainer.steps_per_epoch = 10**9  # each call of fit is one epoch
    return lambda steps: trainer.fit(trainer.step + steps)


def plain(data: Dataset, precision: str):
    """What a Keras user would write: the network, compile, fit; the batches are those of ours."""
    keras.mixed_precision.set_global_policy(precision)
    layers = keras.layers

    def conv_bn(x, channels, size=3, stride=1):
        x = layers.Conv2D(channels, size, stride, "same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    images = x = keras.Input(data.input_shape)
    x = layers.ReLU()(conv_bn(x, 64))
    for stage in range(4):
        for block in range(2):
            channels, stride = 64 * 2**stage, 2 if stage and not block else 1
            shortcut = conv_bn(x, channels, 1, stride) if stride > 1 else x
            x = layers.ReLU()(conv_bn(x, channels, 3, stride))
            x = layers.ReLU()(layers.Add()([conv_bn(x, channels), shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, layers.Dense(data.num_classes, dtype="float32")(x))
    keras.mixed_precision.set_global_policy("float32")
    model.compile(
        keras.optimizers.SGD(RATE, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return lambda steps: model.fit(data.stream(), steps_per_epoch=steps, verbose=0)


def ratios(times: dict[str, list[float]], precision: str) -> list[float]:
    """Ours over plain within each repeat."""
    mine, theirs = times[f"lottery_tf, {precision}"], times[f"plain tf_keras, {precision}"]
    return [one / other for one, other in zip(mine, theirs, strict=True)]


def table(curves: dict[str, list[float]], times: dict[int, dict[str, list[float]]]) -> str:
    """Markdown: medians, and the median and range of the ratios within a repeat."""
    lines = [
        "| precision | batch size | ms/step | plain tf_keras ms/step | ratio (range) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for precision, (size, found) in itertools.product(curves, times.items()):
        mine, theirs = (
            statistics.median(found[f"{who}, {precision}"])
            for who in ("lottery_tf", "plain tf_keras")
        )
        ratio = ratios(found, precision)
        lines.append(
            f"| {precision} | {size} | {mine:.0f} | {theirs:.0f} | "
            f"{statistics.median(ratio):.3f} ({min(ratio):.3f} to {max(ratio):.3f}) |"
        )
    (repeats,) = {len(values) for found in times.values() for values in found.values()}
    ends = ", ".join(f"{name} {each[0]:.3f} → {each[-1]:.3f}" for name, each in curves.items())
    gap = np.abs(np.subtract(*curves.values())).max()
    return "\n".join(
        [
            *lines,
            "",
            f"Losses, means of {BETWEEN} steps: {ends}; they differ by {gap:.3f} at "
            f"most. {repeats} interleaved repeats. {machine()}",
            "",
        ]
    )


def plot(curves: dict[str, list[float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for (precision, losses), style in zip(curves.items(), ("-", "--"), strict=True):
        axes.plot(
            range(BETWEEN, BETWEEN * len(losses) + 1, BETWEEN), losses, style, label=precision
        )
    axes.set_xlabel("step")
    axes.set_ylabel(f"training loss, mean of {BETWEEN} steps")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main()
