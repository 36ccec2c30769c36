"""What each tweak costs in time per training step, against vanilla training of the same ticket.

    python benchmarks/tweak_overhead.py

Trains LeNet-300-100, resnet8_half and resnet20 (width 8) at 90 % sparsity on random images of 28×28
pixels by each recipe, in turns, in one process, and writes tweak_overhead.json and
tweak_overhead.md. "fading" is the time while the tweak has its effect, "faded" the time after it;
tost is without its search for scales, which comes before the first step. About 20 minutes on two
idle cores.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import lottery_tf as lt
from lottery_tf.graph.compat import keras
from lottery_tf.masks.prunable import prunable_weights
from lottery_tf.training.optimizers import make_optimizer
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.training.trainer import Trainer

HERE = Path(__file__).parent
NETWORKS = {  # name → width, batch size, steps a repeat
    "lenet_300_100": (None, 60, 900),
    "resnet8_half": (16, 128, 95),
    "resnet20": (8, 128, 38),
}
IMAGES, SPARSITY = 12_800, 0.9
CACHED = "distillation, logits cached"
FOREVER = 10**9  # steps of a training whose fade does not end here


def recipes(dense: keras.Model) -> dict[str, lt.Recipe]:
    """What is compared; the first is what the others are compared with."""
    return {
        "vanilla": lt.Recipe("vanilla"),
        "soft_activation, pswish, fading": lt.Recipe([lt.SoftActivation(share=1.0)]),
        "soft_activation, mish, fading": lt.Recipe([lt.SoftActivation(share=1.0, unit="mish")]),
        "soft_activation, faded": lt.Recipe([lt.SoftActivation(share=0.0)]),
        "ghost_skips, identity, fading": lt.Recipe([lt.GhostSkips(share=1.0)]),
        "ghost_skips, conv, fading": lt.Recipe([lt.GhostSkips(share=1.0, shortcut="conv")]),
        "ghost_skips, faded": lt.Recipe([lt.GhostSkips(share=0.0)]),
        "label_smoothing": lt.Recipe([lt.LabelSmoothing()]),
        "tost, fading": lt.Recipe(
            [lt.SoftActivation(share=1.0), lt.GhostSkips(share=1.0), lt.LabelSmoothing()]
        ),
        "distillation, teacher run each step": lt.Recipe([lt.Distillation(teacher=dense)]),
        CACHED: lt.Recipe([lt.Distillation(teacher=dense)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=7, help="of each recipe")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder to write to")
    given = parser.parse_args()
    found = {name: measure(name, given.repeats) for name in given.networks}
    given.out.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine(), "milliseconds_per_step": found}
    (given.out / "tweak_overhead.json").write_text(json.dumps(facts, indent=2) + "\n")
    (given.out / "tweak_overhead.md").write_text(table(found))


def measure(network: str, repeats: int) -> dict[str, list[float]]:
    """Recipe → milliseconds a step in each repeat; a repeat trains by each recipe in turn."""
    width, batch_size, steps = NETWORKS[network]
    keras.utils.set_random_seed(0)
    dense = lt.models.create(network, (28, 28, 1), 10, width)
    random = np.random.default_rng(0)
    masks = lt.Masks(
        {name: random.random(shape) >= SPARSITY for name, shape in prunable_weights(dense).items()}
    )
    x = random.standard_normal((IMAGES, 28, 28, 1)).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, random.integers(0, 10, IMAGES)))
    data = data.batch(batch_size, drop_remainder=True)
    options = tf.data.Options()
    # An iterator that is done with would wait for its tuner, now and then as long as it ran.
    options.autotune.enabled = False
    trainers = {}
    for name, recipe in recipes(dense).items():
        batches = recipe.tweaks[0].with_logits(data) if name == CACHED else data.cache()
        for _ in batches:  # to the end, or nothing is kept
            pass
        stream = batches.repeat()
        trainer = Trainer(
            recipe.prepare(lt.wrap(dense, masks), data),
            lambda start, stream=stream: stream.with_options(options),
            steps,
            make_optimizer(TrainingSettings(optimizer="sgd", learning_rate=0.01), steps),
            recipe.loss(),
            steps_per_execution=50,
        )
        trainer.fit(steps, recipe.callbacks(FOREVER))  # compiles
        trainers[name] = trainer, recipe
    rates = {name: [] for name in trainers}
    for i in range(repeats):
        order = list(trainers)[i % len(trainers) :] + list(trainers)[: i % len(trainers)]
        for name in order:
            trainer, recipe = trainers[name]
            start = time.perf_counter()
            trainer.fit(trainer.step + steps, recipe.callbacks(FOREVER))
            rates[name].append(1000 * (time.perf_counter() - start) / steps)
        print(f"{network} {i + 1}/{repeats}", flush=True)
    return rates


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: median milliseconds a step, and the median of the ratios within a repeat."""
    lines = [
        f"| recipe | {' | '.join(f'{network} ms/step | × vanilla' for network in found)} |",
        "| --- |" + " ---: | ---: |" * len(found),
    ]
    for name in next(iter(found.values())):
        fields = []
        for rates in found.values():
            pairs = zip(rates[name], rates["vanilla"], strict=True)
            ratio = statistics.median(one / other for one, other in pairs)
            fields += [f"{statistics.median(rates[name]):.2f}", f"{ratio:.2f}"]
        lines.append(f"| {name} | {' | '.join(fields)} |")
    repeats = len(next(iter(next(iter(found.values())).values())))
    return "\n".join(lines) + f"\n\n{repeats} interleaved repeats. {machine()}\n"


def machine() -> str:
    """The machine in a line."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    cores = os.cpu_count()
    return f"{cores} cores, {model}; tensorflow {tf.__version__}, tf_keras {keras.__version__}."


if __name__ == "__main__":
    main()
