"""Attempts in processes of this machine."""

import multiprocessing
import os
import queue
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar, cast

from lottery_tf.common.errors import UsageError
from lottery_tf.sweeping.process import MOST_CALLS, end_with_parent, environment

Made = TypeVar("Made")


class LocalEngine:
    """Processes of this machine, each with its share of the cores and GPUs.

    If a process dies, by a crash or for lack of memory, only its attempt is lost.

    Args:
      processes: how many; None for one a core or, with GPUs, as many as the GPUs serve.
      gpus_per_trial: GPUs that a trial takes. 0 for none; a share such as 0.5 lets two trials share
        one GPU; None for one GPU if there is any, else 0.

    Raises:
      UsageError: if the machine has not the GPUs for that.
    """

    def __init__(self, processes: int | None = None, gpus_per_trial: float | None = None):
        gpus = [] if gpus_per_trial == 0 else _visible_gpus()
        if gpus_per_trial is None:
            gpus_per_trial = min(len(gpus), 1)
        if gpus_per_trial > 1 and gpus_per_trial % 1:
            raise UsageError(
                "Expected `gpus_per_trial` to be a whole number or a share below 1, got "
                f"{gpus_per_trial:g}."
            )
        if gpus_per_trial > len(gpus):
            raise UsageError(
                f"Expected `gpus_per_trial` of at most {len(gpus)}, the machine's GPUs; got "
                f"{gpus_per_trial:g}."
            )
        cores = _cores()
        most = _sets_of(gpus, gpus_per_trial) if gpus else [None] * (processes or cores)
        if processes and processes > len(most):
            raise UsageError(
                f"Expected at most {len(most)} `processes` with `gpus_per_trial="
                f"{gpus_per_trial:g}`, as {len(gpus)} GPUs serve; got {processes}."
            )
        sets = most[:processes]
        shared = environment(max(1, cores // len(sets)), gpus_per_trial)
        self._workers: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all = []
        for visible in sets:
            own = {} if visible is None else {"CUDA_VISIBLE_DEVICES": ",".join(visible)}
            self._all.append(_Worker(shared | own))
            self._workers.put(self._all[-1])
        self._threads = ThreadPoolExecutor(len(self._all))

    def submit(self, function: Callable[..., Made], *args: Any) -> Future[Made]:
        """Calls ``function(*args)`` in one of the processes.

        The future raises ChildProcessError if the process dies. What the function prints is lost.
        """
        return self._threads.submit(self._call, function, args)

    def close(self) -> None:
        """Ends the processes, also those at work."""
        for worker in self._all:
            worker.end()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.join()

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, function: Callable[..., Made], args: tuple) -> Made:
        worker = self._workers.get()
        try:
            return worker.call(function, args)
        finally:
            self._workers.put(worker)


class _Worker:
    """A process that calls the functions it is sent.

    It starts at its first call. After a crash, or after ``MOST_CALLS`` calls, a new one is started.
    """

    def __init__(self, environment: dict[str, str]):
        self._environment = environment
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._calls = 0
        self._ended = False

    def call(self, function: Callable[..., Made], args: tuple) -> Made:
        process, connection = self._process, self._connection
        if process is None or connection is None:
            process, connection = self._start()
        if self._ended:
            raise ChildProcessError("The engine is closed.")
        try:
            connection.send((function, args))
            found, error = connection.recv()
        except (EOFError, ConnectionError) as lost:
            process.join()
            self._process = None
            code = cast(int, process.exitcode)  # it has ended
            why = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise ChildProcessError(f"The process died {why}.") from lost
        self._calls += 1
        if self._calls == MOST_CALLS:
            connection.close()  # at which the process ends
            self.join()
        if error is not None:
            raise error
        return found

    def end(self) -> None:
        """Ends it, also in the middle of a call; any thread may call this."""
        self._ended = True
        if process := self._process:
            process.terminate()

    def join(self) -> None:
        if self._process is not None:
            self._process.join()
            self._process = None

    def _start(self) -> tuple[SpawnProcess, Connection]:
        spawn = multiprocessing.get_context("spawn")  # a fork has not TensorFlow's threads
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(theirs, self._environment), daemon=True)
        process.start()
        theirs.close()
        self._process, self._connection, self._calls = process, ours, 0
        if self._ended:
            process.terminate()
        return process, ours


def _serve(connection: Connection, environment: dict[str, str]) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at Ctrl-C the sweep itself ends them
    os.environ.update(environment)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with open(os.devnull, "wb") as nowhere:  # hides what TensorFlow prints when `recv` imports it
        for number in (1, 2):
            os.dup2(nowhere.fileno(), number)
    answer: tuple[Any, Exception | None]
    while True:
        try:
            function, args = connection.recv()
            answer = function(*args), None
        except EOFError:
            return
        except Exception as error:
            answer = None, error
        connection.send(answer)


def _cores() -> int:
    """How many cores this process may use. macOS and Windows do not tell; there, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _visible_gpus() -> list[str]:
    """The GPUs by their numbers or names in CUDA_VISIBLE_DEVICES."""
    import tensorflow as tf

    count = len(tf.config.list_physical_devices("GPU"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [*map(str, range(count))] if visible is None else visible.split(",")[:count]


def _sets_of(gpus: list[str], each: float) -> list[list[str]]:
    """The GPUs of each process; there are as many processes as the GPUs serve."""
    if each < 1:
        return [[gpu] for gpu in gpus for _ in range(int(1 / each))]
    count = int(each)
    return [gpus[start : start + count] for start in range(0, len(gpus) - count + 1, count)]
