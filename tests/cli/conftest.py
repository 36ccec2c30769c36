"""Runs of the commands on digits, small enough for every test to look at."""

import contextlib
import os
import shutil

import pytest
from filelock import FileLock

from lottery_tf.cli.main import main
from lottery_tf.runs import retrain as stage
from lottery_tf.training import checkpoints

TINY = (
    "--train_for=2ep",
    "--batch_size=64",
    "--optimizer=adam",
    "--learning_rate=0.002",
    "--width=30",
    "--nojit_compile",  # XLA compiles for longer than these train
    "--steps_per_execution=1",  # of a loop over steps Keras traces the step twice
)


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory):
    """(name, words) → the folder of a finished run that pytest's processes make once for all.

    None may write to it: others read it at the same time.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)

    def run(name, *words):
        out, whole = shared / name, shared / f"{name} is whole"
        with FileLock(shared / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(out, ignore_errors=True)
                assert main([*words, f"--out={out}"]) == 0
                whole.touch()
        return out

    return run


@pytest.fixture(scope="session")
def found(shared_run):
    """The folder of a finished run of find with two rounds of pruning."""
    return shared_run("find", "find", *TINY, "--rounds=2", "--rewind_to=5it")


@pytest.fixture(scope="session")
def retrained(shared_run, found):
    """The folder of a finished run of retrain."""
    ticket = found / "tickets" / "round_02"
    words = [f"--ticket={ticket}", "--recipe=label_smoothing", "--label_smoothing_epsilon=0.2"]
    return shared_run("retrained", "retrain", *words)


@pytest.fixture(scope="session")
def unfinished(found, tmp_path_factory):
    """The folder of the same run, broken off after its second epoch: it has a checkpoint."""
    out, write = tmp_path_factory.mktemp("unfinished") / "run", stage.write_json_lines

    def write_and_stop(path, rows, **options):
        write(path, rows, **options)
        if len(rows) == 2:
            raise KeyboardInterrupt

    words = [f"--ticket={found / 'tickets' / 'round_02'}", f"--out={out}"]
    words += ["--recipe=label_smoothing", "--label_smoothing_epsilon=0.2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "parse_minutes", lambda text: 0.0)
        patch.setattr(stage, "write_json_lines", write_and_stop)
        assert main(["retrain", *words]) == 130
    return out


@pytest.fixture
def each_epoch(monkeypatch):
    """Until the test ends a checkpoint is made after each epoch, whatever the flags say."""
    monkeypatch.setattr(checkpoints, "parse_minutes", lambda text: None)
    monkeypatch.setattr(checkpoints, "parse_steps", lambda text, steps_per_epoch: steps_per_epoch)


@pytest.fixture
def broken_off(each_epoch, monkeypatch):
    """(epochs, error) → a block in which a retraining ends by ``error`` when so many are written.

    Its checkpoint is that of the epoch before.
    """

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
