"""Whether the input keeps up: images a second of the stream, and training on it against one batch.

    python benchmarks/input_pipeline.py

For images of 32×32 and 64×64 pixels, as many as CIFAR-10 and Tiny-ImageNet have to train on, random
and augmented: how many the stream gives when nobody trains; and the time per step of a ResNet on
that stream, beside the same training on one batch of it, kept in memory and repeated. Writes
input_pipeline.json and input_pipeline.md; about 15 minutes on two idle cores. A GPU is starved if
it trains more images a second than the stream alone gives.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tweak_overhead import machine

import lottery_tf as lt
from lottery_tf.data import Dataset, Split
from lottery_tf.graph.compat import keras
from lottery_tf.training.optimizers import make_optimizer
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.training.trainer import Trainer

HERE = Path(__file__).parent
SIZES = {32: (45_000, 10), 64: (90_000, 200)}  # side of an image → training images, classes
BATCHES = 200  # of the stream alone, a repeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sides", nargs="+", type=int, choices=SIZES, default=list(SIZES))
    parser.add_argument("--model", default="resnet20", choices=lt.models.BUILDERS)
    parser.add_argument("--width", type=int, default=16, help="below 16 oneDNN may crash at 64×64")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50, help="of training, a repeat")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder to write to")
    given = parser.parse_args()
    found = {side: measure(side, given) for side in given.sides}
    given.out.mkdir(parents=True, exist_ok=True)
    job = {name: getattr(given, name) for name in ("model", "width", "batch_size", "steps")}
    report = {"job": job, "machine": machine(), "images_per_second": found}
    (given.out / "input_pipeline.json").write_text(json.dumps(report, indent=2) + "\n")
    (given.out / "input_pipeline.md").write_text(table(report))
    print(table(report), end="")


def measure(side: int, given: argparse.Namespace) -> dict[str, list[float]]:
    """Images a second in each repeat: of the stream, of training on it, and on one batch."""
    data = dataset(side, given.batch_size)
    one_batch = data.stream().take(1).cache().repeat()
    runs = {
        "stream": (BATCHES, reader(data.stream(), BATCHES)),
        "training": (given.steps, trainer(data, data.stream(), given)),
        "training_on_one_batch": (given.steps, trainer(data, one_batch, given)),
    }
    rates = {name: [] for name in runs}
    for i in range(given.repeats):
        order = list(runs)[i % len(runs) :] + list(runs)[: i % len(runs)]
        for name in order:
            steps, run = runs[name]
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            rates[name].append(round(steps * given.batch_size / seconds, 1))
        print(f"{side}×{side} {i + 1}/{given.repeats}", flush=True)
    return rates


def dataset(side: int, batch_size: int) -> Dataset:
    """Random images of ``side``×``side`` pixels, augmented."""
    count, classes = SIZES[side]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    train = Split(images, rng.integers(0, classes, count, np.int32))
    none = train.take(np.arange(0))
    moments = (127.5,) * 3, (73.9,) * 3
    return Dataset("random", train, none, none, classes, *moments, True, 0, batch_size)


def reader(stream: tf.data.Dataset, count: int) -> Callable[[], None]:
    """Reads ``count`` batches; a first one is read here."""
    batches = iter(stream)
    next(batches)

    def run() -> None:
        for _ in range(count):
            next(batches)

    return run


def trainer(
    data: Dataset, stream: tf.data.Dataset, given: argparse.Namespace
) -> Callable[[], None]:
    """Trains for ``given.steps``, as within ``fit`` once it is under way; compiles here."""
    keras.utils.set_random_seed(0)
    training = Trainer(
        lt.models.create(given.model, data.input_shape, data.num_classes, given.width),
        lambda start: stream,
        given.steps,
        make_optimizer(TrainingSettings(learning_rate=0.01), given.steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=given.steps,
    )
    execute, batches = training.model.make_train_function(), iter(stream)

    def run() -> None:
        float(execute(batches)["loss"])  # waits for the result

    run()
    return run


def table(report: dict) -> str:
    """Markdown: medians, and the median of the ratios within a repeat."""
    job = report["job"]
    lines = [
        f"{job['model']}, width {job['width']}, batches of {job['batch_size']}, {job['steps']} "
        "steps a repeat.",
        "",
        "| images | stream alone, images/s | training on the stream, ms/step "
        "| on one batch, ms/step | ratio | lowest–highest |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for side, rates in report["images_per_second"].items():
        pairs = zip(rates["training_on_one_batch"], rates["training"], strict=True)
        ratios = [cached / streamed for cached, streamed in pairs]
        milliseconds = [
            1000 * job["batch_size"] / statistics.median(rates[name])
            for name in ("training", "training_on_one_batch")
        ]
        lines.append(
            f"| {side}×{side} | {statistics.median(rates['stream']):,.0f} "
            f"| {milliseconds[0]:.1f} | {milliseconds[1]:.1f} | {statistics.median(ratios):.3f} "
            f"| {min(ratios):.3f}–{max(ratios):.3f} |"
        )
    repeats = len(rates["stream"])
    return "\n".join(lines) + f"\n\n{repeats} interleaved repeats. {report['machine']}\n"


if __name__ == "__main__":
    main()
