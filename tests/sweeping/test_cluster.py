"""A sweep on a Ray cluster of two nodes, both on this machine."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from lottery_tf.cli.main import main
from lottery_tf.sweeping.cluster import RayEngine
from lottery_tf.sweeping.scheduling import run_trials

WORDS = (
    *("--train_for=2ep", "--batch_size=64", "--width=30", "--rounds=1", "--seeds=0,1"),
    *("--recipes=vanilla,label_smoothing", "--retries=2", "--engine=ray", "--nojit_compile"),
)


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of a core each."""
    pytest.importorskip("ray", reason="needs the extra [ray]")
    from ray.cluster_utils import Cluster

    # A lost node is given up after seconds, not half a minute, and trials need not wait for the
    # other tests, whose processes Ray lets go first.
    settings = {
        "health_check_failure_threshold": 2,
        "health_check_period_ms": 500,
        "worker_niceness": 0,
    }
    found = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": settings}
    )
    found.second = found.add_node(num_cpus=1)
    found.wait_for_nodes()
    yield found
    found.shutdown()


@pytest.mark.e2e
def test_a_node_is_lost_in_the_middle(cluster, tmp_path, capfd):
    """All runs are there, each once, and each says what it was."""
    out = tmp_path / "sweep"

    def lose_a_node():
        while not any(out.glob("retrain/*/config.json")):
            time.sleep(0.05)
        cluster.remove_node(cluster.second, allow_graceful=False)

    threading.Thread(target=lose_a_node, daemon=True).start()
    assert main(["sweep", *WORDS, f"--ray_address={cluster.address}", f"--out={out}"]) == 0
    assert len(cluster.list_all_nodes()) == 1
    runs = sorted((out / "retrain").iterdir())
    found = [json.loads((run / "result.json").read_text()) for run in runs]
    assert sorted((each["recipe"], each["seed"]) for each in found) == [
        (recipe, seed) for recipe in ("label_smoothing", "vanilla") for seed in (0, 1)
    ]
    for run, result in zip(runs, found, strict=True):
        epochs = (run / "metrics.jsonl").read_text().splitlines()
        assert len(epochs) == result["epochs"] == 2
        assert not (run / "checkpoint").exists()
    assert len(list((out / "find").iterdir())) == 2
    finished = [line for line in capfd.readouterr().out.splitlines() if "retrain/" in line]
    assert len([line for line in finished if "failed" not in line]) == 4


@pytest.mark.e2e
def test_a_cluster_of_this_machine(tmp_path, lines):
    """Errors say what they are in it, and only the sweep tries again what dies."""
    pytest.importorskip("ray", reason="needs the extra [ray]")
    begun = tmp_path / "begun"

    def die():
        with open(begun, "a") as file:
            file.write("1")
        os._exit(1)

    @dataclasses.dataclass(frozen=True)
    class Call:
        folder: str
        args: tuple
        kind: str = "call"
        needs: tuple = ()

        def finished(self, out):
            return False

    calls = [Call("lost", (die,)), Call("wrong", (open, "no such file"))]
    with RayEngine() as engine:
        done = run_trials(calls, None, lambda call: engine.submit(*call.args), retries=2)
    # Whoever imports Ray first has it for several machines, but on macOS and Windows.
    told = any(line.startswith("Ray listens on all addresses of this machine") for line in lines)
    assert told == (sys.platform == "linux")
    assert begun.read_text() == "111"
    assert done.failed["wrong"].startswith("FileNotFoundError: ")
    assert done.failed["wrong"].endswith("'no such file'")


LISTENING = """
import json, os, sys
from pathlib import Path
from lottery_tf.sweeping.cluster import RayEngine

def listening():
    # The addresses of this network's sockets in the state LISTEN, 0A, as hexadecimals.
    lines = [l.split() for name in ("tcp", "tcp6")
             for l in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {line[1] for line in lines if line[3] == "0A"}

before = listening()
with RayEngine() as engine:
    assert engine.submit(os.getpid).result() != os.getpid()
    print(json.dumps(sorted(listening() - before)))
"""


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_cluster_of_this_machine_listens_on_the_loopback_address_alone(tmp_path):
    """In a process of its own: Ray looks for that when it is imported."""
    pytest.importorskip("ray", reason="needs the extra [ray]")
    script = tmp_path / "listening.py"
    script.write_text(LISTENING)
    environment = {n: v for n, v in os.environ.items() if not n.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=True
    )
    assert "listens on all" not in done.stderr
    found = [address.split(":")[0] for address in json.loads(done.stdout.splitlines()[-1])]
    # 127.0.0.1, by itself and as an address of IPv6; and ::1.
    mapped = "0000000000000000FFFF00000100007F"
    assert len(found) >= 4
    assert {*found} <= {"0100007F", mapped, "00000000000000000000000001000000"}


def test_no_cluster_at_the_address(tmp_path, capfd):
    pytest.importorskip("ray", reason="needs the extra [ray]")
    words = [*WORDS, "--ray_address=127.0.0.1:1", f"--out={tmp_path / 'out'}"]
    assert main(["sweep", *words]) == 2
    assert "Expected a Ray cluster at --ray_address=127.0.0.1:1" in capfd.readouterr().err
