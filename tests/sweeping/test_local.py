"""The engine of this machine, with calls that need no TensorFlow."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lottery_tf.common.errors import UsageError
from lottery_tf.sweeping.local import LocalEngine


def variables():
    return {name: value for name, value in os.environ.items() if name[:2] in ("TF", "CU")}


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise OSError("no room")


def wait_for(path):
    while not Path(path).exists():
        pass


def test_a_process_that_dies_takes_only_its_own_call():
    with LocalEngine(1) as engine:
        first = engine.submit(os.getpid).result()
        assert engine.submit(os.getpid).result() == first != os.getpid()
        with pytest.raises(ChildProcessError, match="by SIGKILL"):
            engine.submit(kill).result()
        assert engine.submit(os.getpid).result() not in (first, os.getpid())


def test_an_error_comes_through_and_the_process_stays():
    with LocalEngine(1) as engine:
        first = engine.submit(os.getpid).result()
        with pytest.raises(OSError, match="no room"):
            engine.submit(fail).result()
        assert engine.submit(os.getpid).result() == first


def test_a_process_is_replaced_after_ten_calls():
    with LocalEngine(1) as engine:
        found = [engine.submit(os.getpid).result() for _ in range(11)]
    assert len(set(found[:10])) == 1 and found[10] != found[0]


def test_each_has_its_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    with LocalEngine(3) as engine:
        found = engine.submit(variables).result()
    assert found["TF_NUM_INTRAOP_THREADS"] == found["TF_NUM_INTEROP_THREADS"] == "2"


def test_a_system_that_does_not_tell_which_cores_are_ours(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    with LocalEngine(2) as engine:
        assert engine.submit(variables).result()["TF_NUM_INTRAOP_THREADS"] == "3"


@pytest.fixture
def machine(monkeypatch):
    """A machine of so many GPUs, which CUDA_VISIBLE_DEVICES names."""
    import tensorflow as tf

    def make(number, visible):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * number)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return make


@pytest.mark.parametrize(
    ("gpus", "processes", "expected"),
    [
        (1, None, ["3", "a", "7"]),
        (2, None, ["3,a"]),
        (0.5, None, ["3", "3", "a", "a", "7", "7"]),
        (1, 2, ["3", "a"]),
        (None, None, ["3", "a", "7"]),
    ],
)
def test_each_has_gpus_of_its_own(machine, gpus, processes, expected):
    machine(3, "3,a,7")
    engine = LocalEngine(processes, gpus)
    own = [worker._environment for worker in engine._all]
    engine.close()
    assert [each["CUDA_VISIBLE_DEVICES"] for each in own] == expected
    assert all(("TF_FORCE_GPU_ALLOW_GROWTH" in each) == (gpus == 0.5) for each in own)


@pytest.mark.parametrize(("number", "gpus"), [(2, 0), (0, None)])
def test_none_has_a_gpu_that_it_was_not_given(machine, number, gpus):
    machine(number, None)
    with LocalEngine(1, gpus) as engine:
        assert engine.submit(variables).result()["CUDA_VISIBLE_DEVICES"] == "-1"


def test_gpus_that_are_hidden_or_not_named(machine):
    machine(2, None)
    with LocalEngine(None, 1) as engine:
        assert [each._environment["CUDA_VISIBLE_DEVICES"] for each in engine._all] == ["0", "1"]
    machine(0, "-1")
    with pytest.raises(UsageError, match="at most 0, the machine's GPUs; got 1"):
        LocalEngine(None, 1)


def test_more_gpus_than_there_are(machine):
    machine(1, "0")
    with pytest.raises(UsageError, match="at most 1, the machine's GPUs; got 2"):
        LocalEngine(None, 2)
    with pytest.raises(UsageError, match="a whole number or a share below 1, got 1.5"):
        LocalEngine(None, 1.5)
    with pytest.raises(UsageError, match="at most 1 `processes` .* got 2"):
        LocalEngine(2, 1)


def test_what_is_at_work_ends_with_the_engine(tmp_path):
    with LocalEngine(1) as engine:
        pid = engine.submit(os.getpid).result()
        future = engine.submit(wait_for, tmp_path / "never")
        while not future.running():
            time.sleep(0.01)
    with pytest.raises(ChildProcessError):
        future.result(timeout=60)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


PARENT = """
import os, sys, time
from pathlib import Path
from lottery_tf.sweeping.local import LocalEngine

if __name__ == "__main__":
    engine = LocalEngine(1, 0)
    Path(sys.argv[1]).write_text(str(engine.submit(os.getpid).result()))
    engine.submit(time.sleep, 600)
    time.sleep(600)
"""


def is_alive(pid):
    """Whether it runs: one that has ended may wait for its parent to read how."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_process_at_work_ends_with_a_sweep_that_is_killed(tmp_path):
    script, told = tmp_path / "parent.py", tmp_path / "pid"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(told)])
    while not (told.exists() and told.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    pid = int(told.read_text())
    assert is_alive(pid)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(pid)
