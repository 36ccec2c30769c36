"""Runs of the commands on digits, small enough for every test to look at."""

import pytest

from lottery_tf.cli.main import main

TINY = (
    "--train_for=2ep",
    "--batch_size=64",
    "--optimizer=adam",
    "--learning_rate=0.002",
    "--width=30",
)


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    """The folder of a finished run of find with two rounds of pruning."""
    out = tmp_path_factory.mktemp("runs") / "find"
    assert main(["find", *TINY, "--rounds=2", "--rewind_to=5it", f"--out={out}"]) == 0
    return out


@pytest.fixture(scope="session")
def retrained(found):
    """The folder of a finished run of retrain."""
    out = found.parent / "retrained"
    ticket = found / "tickets" / "round_02"
    words = [f"--ticket={ticket}", "--recipe=label_smoothing", "--label_smoothing_epsilon=0.2"]
    assert main(["retrain", *words, f"--out={out}"]) == 0
    return out
