"""Time and memory of finding a mask without training, by each method.

    python benchmarks/mask_scoring.py

Prunes ResNet-18 and VGG-16 of full width to 99 % on one batch of 128 random images of 32×32×3, each
method in a process of its own, and writes mask_scoring.json and mask_scoring.md. Memory is the
highest resident size of that process above what it is with the model built. iterative_snip runs
ten of its hundred rounds, the first of which traces. A quarter of an hour on two idle cores.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
NETWORKS = ("resnet18", "vgg16")
BATCH_SIZE, SPARSITY = 128, 0.99
ROUNDS = {"iterative_snip": 10}


def main() -> None:
    from lottery_tf.finding.scores import METHODS

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=3, help="of each method")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "METHOD"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*given.one)))
        return
    found = []
    for i in range(given.repeats):
        for network in given.networks:
            for method in given.methods:
                words = [sys.executable, __file__, "--one", network, method]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
                print(f"{i + 1}/{given.repeats} {found[-1]}", flush=True)
    from tweak_overhead import machine

    given.out.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine(), "runs": found}
    (given.out / "mask_scoring.json").write_text(json.dumps(facts, indent=2) + "\n")
    (given.out / "mask_scoring.md").write_text(table(found, given.repeats) + f" {machine()}\n")


def measure(network: str, method: str) -> dict:
    """One run: seconds, and GiB above those of the process with the model built."""
    import numpy as np
    import tensorflow as tf

    import lottery_tf as lt
    from lottery_tf.graph.compat import keras

    keras.utils.set_random_seed(0)
    model = lt.models.create(network, (32, 32, 3), 10)
    random = np.random.default_rng(0)
    x = random.standard_normal((BATCH_SIZE, 32, 32, 3)).astype(np.float32)
    data = tf.data.Dataset.from_tensors((x, random.integers(0, 10, BATCH_SIZE)))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    ticket = lt.prune(model, method, SPARSITY, data, rounds=ROUNDS.get(method), batches=1)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "network": network,
        "method": method,
        "seconds": round(seconds, 2),
        "gibibytes": round(memory / 2**20, 3),
        "collapsed": ticket.masks.collapsed,
    }


def table(found: list[dict], repeats: int) -> str:
    """Markdown: medians over the repeats."""
    networks = list(dict.fromkeys(run["network"] for run in found))
    lines = [
        f"| method | {' | '.join(f'{name} s | GiB | empty layers' for name in networks)} |",
        "| --- |" + " ---: | ---: | ---: |" * len(networks),
    ]
    for method in dict.fromkeys(run["method"] for run in found):
        fields = []
        for network in networks:
            runs = [run for run in found if (run["network"], run["method"]) == (network, method)]
            for key in ("seconds", "gibibytes"):
                fields.append(f"{statistics.median(run[key] for run in runs):.1f}")
            fields.append(str(len(runs[0]["collapsed"])))
        rounds = f", {ROUNDS[method]} rounds" if method in ROUNDS else ""
        lines.append(f"| {method}{rounds} | {' | '.join(fields)} |")
    return "\n".join(lines) + f"\n\nMedian of {repeats} runs."


if __name__ == "__main__":
    main()
