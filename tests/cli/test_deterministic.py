"""--deterministic gives the same bits twice, in processes of their own."""

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from conftest import TINY

from lottery_tf.files import read_json_lines, sha256


def test_the_same_bits_twice(tmp_path):
    words = [sys.executable, "-m", "lottery_tf"]
    runs = [tmp_path / "one", tmp_path / "two"]
    for run in runs:
        find = ["find", *TINY, "--rounds=1", "--rewind_to=5it", "--deterministic"]
        subprocess.run([*words, *find, f"--out={run}"], check=True)
    files = [f"tickets/round_{n:02}/{part}.npz" for n in range(2) for part in ("masks", "weights")]
    for file in files:
        assert sha256(runs[0] / file) == sha256(runs[1] / file)
    one, two = (
        [{**row, "seconds": 0} for row in read_json_lines(r / "metrics.jsonl")] for r in runs
    )
    assert one == two


def test_gradients_are_added_in_one_order():
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        before, after = process.submit(ops_of_a_large_sum).result()
    assert "TemporaryVariable" in before  # which what comes is added to
    assert "AddN" in after and "TemporaryVariable" not in after


def ops_of_a_large_sum() -> list[set[str]]:
    """What TensorFlow runs, before and after make_deterministic."""
    import tensorflow as tf
    from tensorflow.python.eager import context

    from lottery_tf.training import make_deterministic

    def ops():
        total = tf.function(lambda x: tf.add_n([tf.sin(x), tf.cos(x), tf.exp(x)]))
        with context.collect_graphs(optimized=True) as graphs:
            total(tf.ones([2**25]))
        return {node.op for graph in graphs for node in graph.node}

    before = ops()
    make_deterministic()
    return [before, ops()]
