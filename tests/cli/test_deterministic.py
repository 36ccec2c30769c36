"""--deterministic gives the same bits twice, in processes of their own."""

import subprocess
import sys

import pytest
from conftest import TINY

from lottery_tf.common.files import read_json_lines, sha256


@pytest.mark.e2e
def test_the_same_bits_twice(tmp_path):
    words = [sys.executable, "-m", "lottery_tf"]
    runs = [tmp_path / "one", tmp_path / "two"]
    for run in runs:
        find = ["find", *TINY, "--train_for=1ep", "--jit_compile", "--rounds=1"]
        find += ["--steps_per_execution=50"]
        find += ["--rewind_to=5it", "--deterministic"]
        subprocess.run([*words, *find, f"--out={run}"], check=True)
    files = [f"tickets/round_{n:02}/{part}.npz" for n in range(2) for part in ("masks", "weights")]
    for file in (*files, "dense_model"):
        assert sha256(runs[0] / file) == sha256(runs[1] / file)
    one, two = (
        [{**row, "seconds": 0} for row in read_json_lines(r / "metrics.jsonl")] for r in runs
    )
    assert one == two
