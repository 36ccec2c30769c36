"""Runs of the commands on digits, small enough for every test to look at."""

import contextlib

import pytest

from lottery_tf import retraining
from lottery_tf.cli.main import main
from lottery_tf.stages import retrain as stage

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


@pytest.fixture
def broken_off(monkeypatch):
    """(epochs, error) → a block in which a retraining ends by ``error`` when so many are written.

    Until the test ends a checkpoint is made after each epoch.
    """
    monkeypatch.setattr(retraining._Watch, "seconds_between_checkpoints", 0)

    @contextlib.contextmanager
    def breaking(epochs, error=KeyboardInterrupt):
        write = stage.write_json_lines

        def write_and_stop(path, rows):
            write(path, rows)
            if len(rows) == epochs:
                raise error

        with monkeypatch.context() as patch:
            patch.setattr(stage, "write_json_lines", write_and_stop)
            yield

    return breaking
