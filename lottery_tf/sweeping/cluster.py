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

# Read when Ray is imported: 0 is for Ray on this machine alone, which then listens on the loopback
# address, as it does by default on macOS and Windows only. Whoever reaches its ports can run code.
_SEVERAL_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class RayEngine:
    """A cluster, every node of which has this environment and sees the present folder.

    An attempt whose node or process is lost raises Ray's error; whether it is begun again is for
    whoever submitted it: what Ray kills for lack of memory it would itself begin again for ever.

    Args:
      address: of the cluster, ``auto`` for that of this machine; None starts one of this machine
        alone, which listens on the loopback address and has no dashboard. A line is logged where it
        listens elsewhere too, as Ray had been imported before.
      cpus_per_trial, gpus_per_trial: what a trial takes of a node; of GPUs None for one where any
        node has one. A line is logged if no node has as much: the trials wait until one joins.

    Raises:
      UsageError: if Ray is not installed, or there is no cluster at the address.
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
                "Expected Ray with `engine=ray`; it is not installed: install lottery_tf with its "
                "extra [ray]."
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
                "Ray listens on all addresses of this machine, where whoever reaches it can run "
                "code: import ray after this, or set %s=0 before.",
                _SEVERAL_MACHINES,
            )
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if gpus_per_trial is None:
            gpus_per_trial = 1 if any(node.get("GPU") for node in nodes) else 0
        wanted = {"CPU": cpus_per_trial, "GPU": gpus_per_trial}
        if not any(all(node.get(k, 0) >= count for k, count in wanted.items()) for node in nodes):
            log.warning(
                "No node of the cluster has %g CPUs and %g GPUs for a trial; waiting for one.",
                *wanted.values(),
            )
        variables = environment(max(1, int(cpus_per_trial)), gpus_per_trial)
        # Made once: Ray counts the calls of each remote function by itself. A process of Ray's
        # that keeps a GPU's memory has to go with its trial.
        self._remote = ray.remote(
            num_cpus=cpus_per_trial,
            num_gpus=gpus_per_trial,
            max_calls=1 if gpus_per_trial else MOST_CALLS,
            max_retries=0,
            runtime_env={"env_vars": {**variables, "TF_CPP_MIN_LOG_LEVEL": "2"}},
        )(_here)

    def submit(self, function: Callable[..., Made], *args: Any) -> Future[Made]:
        """The future of ``function(*args)`` on some node; it raises Ray's errors."""
        return self._remote.remote(os.getcwd(), function, args).future()

    def close(self) -> None:
        """Leaves the cluster, and ends it if it was started here."""
        self._ray.shutdown()

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _knock(address: str | None) -> None:
    """Raises OSError if nobody listens at HOST:PORT, where Ray would wait for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=10).close()


def _here(folder: str, function: Callable, args: tuple) -> Any:
    os.chdir(folder)  # paths may be relative to where the sweep was started
    return function(*args)
