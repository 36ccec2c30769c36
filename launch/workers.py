"""Runs a command as two or more workers, which share each batch.

    python launch/workers.py --workers=2 -- lottery-tf find --flagfile=FILE --out=DIR

starts them on this machine. Worker 0 writes the files and shows its progress; the others show
errors only. If one fails the others are stopped, and its exit code is the command's.

    srun --kill-on-bad-exit python launch/workers.py --slurm -- lottery-tf find …

makes each task of a SLURM step a worker (launch/slurm.sbatch). All machines have to see --out and
the data. Both ways build TF_CONFIG and add --strategy=multi_worker.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from launching import arguments, become, parse, tf_config, visible, written

# The exit code of a command that SIGTERM has stopped and that has to be given again.
TO_BE_REQUEUED = 75


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--workers", type=int, help="how many (default: 2)")
    parser.add_argument("--gpus_per_worker", type=int, help="of this machine; 0: none (default: 1)")
    parser.add_argument(
        "--port",
        type=int,
        help="of the first worker of a machine; the next ones follow (default: any that is free; "
        "with --slurm 8888)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        help="seconds to end in, for those that are left when one fails, and when they are told to "
        "(default: 10)",
    )
    parser.add_argument("--slurm", action="store_true", help="be one task of a SLURM step")
    given = parse(parser)
    command = [*given.command, "--strategy=multi_worker"]
    if given.port is not None and not 0 < given.port < 2**16 - (given.workers or 2):
        parser.error(f"expected a --port from 1 on, and below 65536 for all, not {given.port}")
    if given.slurm:
        for name in ("workers", "gpus_per_worker", "grace"):
            if getattr(given, name) is not None:
                parser.error(f"expected no --{name} with --slurm, where srun decides it")
        try:
            environment = tf_config(*slurm_workers(os.environ, given.port or 8888))
        except KeyError as missing:
            parser.error(f"expected to be run by srun, which sets {missing}; start it with srun")
        become(command, environment, given.dry_run)
    count = 2 if given.workers is None else given.workers
    each = 1 if given.gpus_per_worker is None else given.gpus_per_worker
    if count < 2 or each < 0:
        parser.error(
            f"expected --workers of 2 or more and --gpus_per_worker of 0 or more, not {count} and "
            f"{each}"
        )
    addresses = [f"localhost:{port}" for port in ports(count, given.port)]
    environments = []
    for index in range(count):
        gpus = visible(range(index * each, (index + 1) * each))
        environments.append({**tf_config(addresses, index), **gpus})
    if given.dry_run:
        print("\n".join(written(command, environment) for environment in environments))
        return 0
    return run(command, environments, 10 if given.grace is None else given.grace)


def ports(count: int, first: int | None) -> list[int]:
    """Ports from ``first`` on, or any that are free."""
    if first is not None:
        return list(range(first, first + count))
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


def slurm_workers(variables, port: int) -> tuple[list[str], int]:
    """The addresses of the tasks of a SLURM step, and the number of this task.

    TensorFlow's SlurmClusterResolver does not serve here. It sorts the nodes as texts, node10
    before node2, where SLURM counts its tasks the other way, and it needs GPUs. Tasks fill one node
    after the other, as srun does by default.
    """
    step = [variables[f"SLURM_STEP_{name}"] for name in ("NODELIST", "TASKS_PER_NODE")]
    index = int(variables["SLURM_PROCID"])
    from lottery_tf.common.stderr import quiet_start

    with quiet_start():
        from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as slurm

    nodes, tasks = slurm.expand_hostlist(step[0]), slurm.expand_tasks_per_node(step[1])
    pairs = zip(nodes, tasks, strict=True)
    return [f"{node}:{port + i}" for node, count in pairs for i in range(count)], index


def run(command: list[str], environments: list[dict[str, str]], grace: float) -> int:
    """Runs a process an environment to their ends; returns the exit code."""

    def stop(number, frame):
        raise SystemExit(128 + number)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, stop)
    workers: list[subprocess.Popen] = []
    # A worker that is stopped leaves behind what it has there.
    with tempfile.TemporaryDirectory() as folder:
        try:
            for index, environment in enumerate(environments):
                workers.append(start(command, {**environment, "TMPDIR": folder}, index))
            return watch(workers, grace)
        except SystemExit as stopped:
            end(workers, grace)
            told = stopped.code == 128 + signal.SIGTERM
            if told and TO_BE_REQUEUED in [worker.returncode for worker in workers]:
                return TO_BE_REQUEUED  # they have saved what they trained
            raise
        finally:
            end(workers, grace)


def start(command: list[str], environment: dict[str, str], index: int) -> subprocess.Popen:
    """Starts a worker, as the head of a process group of its own."""
    others = {} if index == 0 else {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    worker = subprocess.Popen(
        command, env={**os.environ, **environment}, start_new_session=True, **others
    )
    if worker.stderr is not None:
        threading.Thread(target=show, args=(worker.stderr, index)).start()
    return worker


def show(lines, index: int) -> None:
    """Passes on what a worker says, to its end."""
    for line in lines:
        sys.stderr.buffer.write(b"worker %d: " % index + line)
        sys.stderr.flush()


def watch(workers: list[subprocess.Popen], grace: float) -> int:
    """Waits until all have ended well, or one has not; returns the exit code."""
    while True:
        codes = [worker.poll() for worker in workers]
        failed = [index for index, code in enumerate(codes) if code]
        if failed:
            break
        if None not in codes:
            return 0
        time.sleep(0.1)
    first = failed[0]
    wait(workers, grace)
    running = [index for index, worker in enumerate(workers) if worker.poll() is None]
    code = codes[first]
    how = f"with exit code {code}" if code > 0 else f"by {signal.Signals(-code).name}"
    rest = "; the others were stopped" if running else ""
    print(f"workers: worker {first} ended {how}{rest}.", file=sys.stderr)
    return code if code > 0 else 128 - code


def end(workers: list[subprocess.Popen], grace: float) -> None:
    """Stops the workers that are still running, and all that any of them has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, number)
        wait(workers, grace)


def wait(workers: list[subprocess.Popen], seconds: float) -> None:
    """Until all have ended, at most so many seconds."""
    deadline = time.monotonic() + seconds
    for worker in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(max(0, deadline - time.monotonic()))


if __name__ == "__main__":
    sys.exit(main())
