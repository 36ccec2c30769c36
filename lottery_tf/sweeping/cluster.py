"""Attempts on a Ray cluster."""

import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import ip_address
from typing import Any, TypeVar

from lottery_tf.common.errors import UsageError
from lottery_tf.common.interruption import heed_again
from lottery_tf.common.log import log
from lottery_tf.sweeping.process import MOST_CALLS, environment

Made = TypeVar("Made")

# Ray reads this when it is imported. With 0 it runs on this machine alone and listens on the
# loopback address only, as it always does on macOS and Windows. Whoever reaches its ports can run
# code.
_SEVERAL_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class RayEngine:
    """A Ray cluster. Every node needs this environment, and the current folder at the same path.

    An attempt whose node or process is lost raises Ray's error. The caller decides whether to try
    again: Ray itself would go on for ever with trials that it kills for lack of memory.

    Args:
      address: of the cluster; ``auto`` for the one of this machine. None starts a cluster on this
        machine alone, which listens on the loopback address and has no dashboard. If Ray had been
        imported before, it may listen elsewhere too; then a warning is logged.
      cpus_per_trial: CPUs that a trial takes.
      gpus_per_trial: GPUs that a trial takes. None for one if any node has one, else 0. If no node
        has enough, a warning is logged, and the trials wait until one joins.

    Raises:
      UsageError: if Ray is not installed, or if there is no cluster at the address.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus_per_trial: float = 1,
        gpus_per_trial: float | None = None,
    ):
        if address is None:
            os.environ.setdefault(_SEVERAL_MACHINES, "0")
        try:
            import ray
        except ImportError:
            raise UsageError(
                "Expected Ray to be installed for `engine=ray`; it is not. Install lottery_tf with "
                "its extra [ray]."
            ) from None
        self._ray = ray
        try:
            _knock(address)
            alone: dict[str, Any] = {} if address else {"include_dashboard": False}
            ray.init(
                address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **alone,
            )
            heed_again()
        except (OSError, ValueError, RuntimeError) as error:
            asked = f"a Ray cluster at `ray_address={address}`" if address else "Ray to start here"
            raise UsageError(f"Expected {asked}; {' '.join(str(error).split())}") from error
        if address is None and not ip_address(ray.util.get_node_ip_address()).is_loopback:
            log.warning(
                "Ray listens on all addresses of this machine, and whoever reaches it can run "
                "code. Import ray after this, or set %s=0 before.",
                _SEVERAL_MACHINES,
            )
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if gpus_per_trial is None:
            gpus_per_trial = 1 if any(node.get("GPU") for node in nodes) else 0
        wanted = {"CPU": cpus_per_trial, "GPU": gpus_per_trial}
        if not any(all(node.get(k, 0) >= count for k, count in wanted.items()) for node in nodes):
            log.warning(
                "No node of the cluster has the %g CPUs and %g GPUs of a trial. Waiting for one.",
                *wanted.values(),
            )
        variables = environment(max(1, int(cpus_per_trial)), gpus_per_trial)
        # Made once, as Ray counts the calls of each remote function. With a GPU each process does
        # one trial only, as it would keep the GPU's memory.
        self._remote = ray.remote(
            num_cpus=cpus_per_trial,
            num_gpus=gpus_per_trial,
            max_calls=1 if gpus_per_trial else MOST_CALLS,
            max_retries=0,
            runtime_env={"env_vars": {**variables, "TF_CPP_MIN_LOG_LEVEL": "2"}},
        )(_here)

    def submit(self, function: Callable[..., Made], *args: Any) -> Future[Made]:
        """Calls ``function(*args)`` on some node; the future raises Ray's errors."""
        return self._remote.remote(os.getcwd(), function, args).future()

    def close(self) -> None:
        """Leaves the cluster. A cluster that was started here ends."""
        self._ray.shutdown()

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _knock(address: str | None) -> None:
    """Raises OSError if nothing listens at HOST:PORT. Ray itself would wait for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=10).close()


def _here(folder: str, function: Callable, args: tuple) -> Any:
    os.chdir(folder)  # paths may be relative to where the sweep was started
    return function(*args)
