"""Time of the search of re-scaled initialisation, before the training, by network.

    python benchmarks/scale_search.py

Tickets of ERK with 95.6 % sparsity on random images of 28×28×1, batches of 128, the default number
of iterations; tracing included. Writes scale_search.json. Four minutes on two idle cores.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from tweak_overhead import machine

HERE = Path(__file__).parent
NETWORKS = (("resnet8_half", 16), ("resnet20", 8), ("resnet20", 16))
SPARSITY, BATCHES = 0.956, 19


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="of each network, in turns")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder to write to")
    given = parser.parse_args()
    found = {f"{name}, width {width}": [] for name, width in NETWORKS}
    for _ in range(given.repeats):
        for name, width in NETWORKS:
            found[f"{name}, width {width}"].append(seconds(name, width))
            print(found, flush=True)
    medians = {network: statistics.median(times) for network, times in found.items()}
    facts = {"machine": machine(), "seconds": found, "median_seconds": medians}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "scale_search.json").write_text(json.dumps(facts, indent=2) + "\n")


def seconds(name: str, width: int) -> float:
    """Of one search on a new network."""
    import numpy as np
    import tensorflow as tf

    import lottery_tf as lt
    from lottery_tf.graph.compat import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    images = random.standard_normal((BATCHES * 128, 28, 28, 1)).astype(np.float32)
    labels = random.integers(0, 10, len(images))
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(128)
    ticket = lt.prune(lt.models.create(name, (28, 28, 1), 10, width), "erk", SPARSITY).build()
    start = time.perf_counter()
    lt.Recipe("rescaled_init").prepare(ticket, data)
    return round(time.perf_counter() - start, 2)


if __name__ == "__main__":
    main()
