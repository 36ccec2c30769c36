"""A run's folder: one process at a time is at work on it."""

import json
import subprocess
import sys

import pytest

from lottery_tf.common.errors import UsageError
from lottery_tf.runs.folder import LOCK, Run

HOLD = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def run_in(out):
    return Run(out, "find", {"rounds": 1})


def held_by_another(out):
    """Another process that is at work on a run, as the lock has it."""
    out.mkdir()
    command = [sys.executable, "-c", HOLD, str(out / LOCK)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_and_writes_nothing(tmp_path):
    out = tmp_path / "run"
    process = held_by_another(out)
    try:
        words = "without another process at work on it; .*run: wait for it"
        with pytest.raises(UsageError, match=words), run_in(out).at_work():
            pytest.fail("began")
        assert [each.name for each in out.iterdir()] == [LOCK]
    finally:
        process.kill()
        process.wait()
    with run_in(out).at_work():  # the lock of a killed process does not hold
        assert json.loads((out / "config.json").read_text())["command"] == "find"


def test_a_run_may_go_on_when_its_block_has_ended(tmp_path):
    for fails in (True, False):
        try:
            with run_in(tmp_path).at_work():
                with (
                    pytest.raises(UsageError, match="there is one at work"),
                    run_in(tmp_path).at_work(),
                ):
                    pytest.fail("began")
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert fails


def test_a_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"), run_in(tmp_path).at_work():
        pytest.fail("began")
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]
