"""The launchers: what they would run, and that no worker outlives another's failure."""

import contextlib
import json
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from networks import chain, layers

import lottery_tf as lt
from lottery_tf.graph.layers import assign
from lottery_tf.masks.masks import Masks

LAUNCH = Path(__file__).parents[2] / "launch"
PYTHON = sys.executable


def launched(name, *words, **variables):
    return subprocess.run(
        [PYTHON, str(LAUNCH / name), *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def dry_run(name, *words, **variables):
    """What would run: for each process its environment and its command."""
    done = launched(name, "--dry_run", *words, **variables)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = []
    for line in done.stdout.splitlines():
        parts = shlex.split(line)
        count = next(i for i, part in enumerate(parts) if "=" not in part)
        found.append((dict(part.split("=", 1) for part in parts[:count]), parts[count:]))
    return found


@pytest.mark.parametrize("name", ["one_gpu.py", "all_gpus.py", "workers.py"])
def test_help_and_mistakes(name):
    done = launched(name, "--help")
    assert done.returncode == 0 and "--dry_run" in done.stdout and "lottery-tf find" in done.stdout
    done = launched(name, "--", "no-such-command")
    assert done.returncode == 2 and "there is no 'no-such-command'" in done.stderr
    assert launched(name).returncode == 2


def test_one_gpu():
    (found,) = dry_run("one_gpu.py", "--gpu=3", "--", PYTHON, "-m", "lottery_tf", "find")
    environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "3"}
    assert found == (environment, [PYTHON, "-m", "lottery_tf", "find"])
    script = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    assert launched("one_gpu.py", "--gpu=3", "--", PYTHON, "-c", script).stdout == "3\n"


def test_gpus_are_places_among_those_that_a_scheduler_has_chosen(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    found = dry_run("workers.py", "--", PYTHON)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment, _ in found] == ["4", "7"]
    done = launched("one_gpu.py", "--gpu=-1", "--", PYTHON)
    assert done.returncode == 1 and "GPU numbers of 0 or more, not -1" in done.stderr
    done = launched("workers.py", "--workers=3", "--", PYTHON)
    assert done.returncode == 1
    assert "Expected a GPU number 2 among CUDA_VISIBLE_DEVICES=4,7, which has 2" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port=99999", "--", PYTHON], "expected a --port from 1 on"),
        (["--slurm", "--workers=2", "--", PYTHON], "expected no --workers with --slurm"),
        (["--workers=1", "--", PYTHON], "expected --workers of 2 or more"),
        ([PYTHON, "--out=x"], "expected the command behind --"),
    ],
)
def test_mistakes_of_several_workers(words, message):
    done = launched("workers.py", *words)
    assert done.returncode == 2 and message in done.stderr


def test_all_gpus():
    ((environment, command),) = dry_run("all_gpus.py", "--", PYTHON, "find", "--seed=1")
    assert (environment, command) == ({}, [PYTHON, "find", "--seed=1", "--strategy=mirrored"])
    ((environment, _),) = dry_run("all_gpus.py", "--gpus", "0", "2", "--", PYTHON, "find")
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,2"


def test_workers():
    words = ("--workers=3", "--gpus_per_worker=2", "--port=7000", "--", PYTHON, "find")
    found = dry_run("workers.py", *words)
    cluster = {"worker": ["localhost:7000", "localhost:7001", "localhost:7002"]}
    for index, (environment, command) in enumerate(found):
        config = json.loads(environment["TF_CONFIG"])
        assert config == {"cluster": cluster, "task": {"type": "worker", "index": index}}
        assert environment["CUDA_VISIBLE_DEVICES"] == f"{2 * index},{2 * index + 1}"
        assert command == [PYTHON, "find", "--strategy=multi_worker"]
    ((one, _), (other, _)) = dry_run("workers.py", "--gpus_per_worker=0", "--", PYTHON)
    assert one["CUDA_VISIBLE_DEVICES"] == other["CUDA_VISIBLE_DEVICES"] == "-1"
    addresses = json.loads(one["TF_CONFIG"])["cluster"]["worker"]
    assert len(set(addresses)) == 2 and json.loads(other["TF_CONFIG"])["cluster"] == {
        "worker": addresses
    }
    assert "--workers of 2 or more" in launched("workers.py", "--workers=1", "--", PYTHON).stderr


@pytest.mark.e2e
def test_the_tasks_of_a_slurm_step():
    """SLURM gives node2 the tasks 0 and 1 and node10 the task 2."""
    step = {"SLURM_STEP_NODELIST": "node[2,10]", "SLURM_STEP_TASKS_PER_NODE": "2,1"}
    words = ("--slurm", "--", PYTHON, "find")
    ((environment, command),) = dry_run("workers.py", *words, SLURM_PROCID="2", **step)
    assert json.loads(environment["TF_CONFIG"]) == {
        "cluster": {"worker": ["node2:8888", "node2:8889", "node10:8888"]},
        "task": {"type": "worker", "index": 2},
    }
    assert command == [PYTHON, "find", "--strategy=multi_worker"]
    done = launched("workers.py", *words)
    assert done.returncode == 2 and "expected to be run by srun" in done.stderr


# Each leaves a process behind, which has the pipes of its parent, and says in a file who it is.
WORKER = """
import json, os, signal, sys, time
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
if os.fork() == 0:
    time.sleep(60)
    os._exit(0)
print("out", index, flush=True)
print("error", index, file=sys.stderr, flush=True)
with open(os.path.join(sys.argv[1], str(index)), "w") as file:
    file.write(str(os.getpid()))
"""


def words_of(folder, ending):
    return ("workers.py", "--grace=2", "--", PYTHON, "-c", WORKER + ending, str(folder))


def assert_none_left(folder):
    """No process of the workers' groups but those that wait for their exit code to be read."""
    groups = {file.read_text() for file in folder.iterdir()}
    assert len(groups) == 2

    def left():
        for file in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has just ended
                state, _, group, *_ = file.read_text().rpartition(")")[2].split()
                if state != "Z" and group in groups:
                    yield file

    # One that was killed ends when it has a core again.
    deadline = time.monotonic() + 30
    while found := list(left()):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


@pytest.mark.e2e
def test_the_chief_speaks_and_the_others_errors_are_shown(tmp_path):
    done = launched(*words_of(tmp_path, ""))
    assert (done.returncode, done.stdout) == (0, "out 0\n")
    assert sorted(done.stderr.splitlines()) == ["error 0", "worker 1: error 1"]
    assert_none_left(tmp_path)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        ("sys.exit(2)", 2, "ended with exit code 2."),
        (
            "time.sleep(60 * (1 - index)); sys.exit(3)",
            3,
            "worker 1 ended with exit code 3; the others were stopped.",
        ),
        (
            "time.sleep(60 * index); os.kill(os.getpid(), signal.SIGKILL)",
            137,
            "worker 0 ended by SIGKILL; the others were stopped.",
        ),
    ],
    ids=["all", "one", "killed"],
)
def test_a_worker_that_fails_takes_the_others_down(tmp_path, ending, code, message):
    done = launched(*words_of(tmp_path, ending))
    assert done.returncode == code and done.stderr.splitlines()[-1].endswith(message), done.stderr
    assert_none_left(tmp_path)


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_launcher_that_is_stopped_stops_its_workers(tmp_path, number):
    words = words_of(tmp_path, "time.sleep(60)")
    with subprocess.Popen([PYTHON, str(LAUNCH / words[0]), *words[1:]]) as launcher:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        launcher.send_signal(number)
        assert launcher.wait(30) == 128 + number
    assert_none_left(tmp_path)


SAVES = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
time.sleep(60)
"""


@pytest.mark.e2e
def test_workers_that_have_saved_are_to_be_requeued(tmp_path):
    words = words_of(tmp_path, SAVES)
    with subprocess.Popen([PYTHON, str(LAUNCH / words[0]), *words[1:]]) as launcher:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        time.sleep(0.5)  # until they heed it
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(30) == 75
    assert_none_left(tmp_path)


SAME = """
import sys
import numpy as np
from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.devices import check_same, from_chief, is_chief, own_folder, scope_of
from pathlib import Path

out = Path(sys.argv[1])
with scope_of(DeviceSettings(strategy="multi_worker")):
    mine = np.array([1.1, 2.2]) if is_chief() else np.array([3.3, np.nan])
    assert (from_chief(mine) == [1.1, 2.2]).all()
    for given in (np.array([True, False]), np.arange(256, dtype=np.uint8), np.float32([0.1])):
        found = from_chief(given)
        assert found.dtype == given.dtype and (found == given).all()
    with own_folder(out) as folder:
        assert (folder == out) == is_chief() and (folder / "begun").read_text() == "so far"
        (folder / "begun").write_text("chief" if is_chief() else "other")
    check_same("equal arrays", [np.ones(3), np.array([True])])
    check_same("random numbers", [mine])
"""


@pytest.mark.e2e
def test_what_differs_between_workers_is_an_error(tmp_path):
    (tmp_path / "begun").write_text("so far")
    words = ("--grace=1", "--", PYTHON, "-c", SAME, str(tmp_path))
    done = launched("workers.py", *words, TF_CPP_MIN_LOG_LEVEL="3")
    assert done.returncode == 1
    assert "worker 1: RuntimeError: Expected random numbers to be the same" in done.stderr
    assert "worker 1 ended with exit code 1" in done.stderr
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("begun", "chief")]


def test_the_control_of_the_scale():
    """Of eight weights of a unit two are left: they are doubled, and what is not masked stays."""
    model = chain(layers.Dense(1, name="unit"), shape=(8,))
    assign(model, {"unit/kernel": np.ones((8, 1), np.float32), "unit/bias": np.array([3.0])})
    mask = np.zeros((8, 1), bool)
    mask[2:4] = True
    ticket = lt.Ticket.of(model, Masks({"unit/kernel": mask}))
    found = runpy.run_path(str(LAUNCH / "scale_control.py"))["scaled"](ticket).weights
    assert found["unit/kernel"].dtype == np.float32
    np.testing.assert_array_equal(found["unit/kernel"], 2.0 * mask)
    np.testing.assert_array_equal(found["unit/bias"], [3.0])


def test_a_task_of_an_array_a_seed(tmp_path):
    """Of sweep.sbatch; what is no array would run the default seed alone, as if that were all."""
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    def submitted(**variables):
        return subprocess.run(
            ["bash", str(LAUNCH / "sweep.sbatch"), "--recipes=tost"],
            env={"PATH": path, "SLURM_CPUS_PER_TASK": "8", **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    done = submitted(SLURM_ARRAY_TASK_ID="3")
    assert done.returncode == 0
    assert done.stdout == "--cpus-per-task=8 lottery-tf sweep --recipes=tost --seeds=3\n"
    done = submitted()
    assert done.returncode != 0 and "give sbatch --array=0-4" in done.stderr and not done.stdout
