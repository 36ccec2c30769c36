"""Devices: what a run runs on. What it computes stays the same but for the order of its sums."""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.errors import UsageError
from lottery_tf.common.interruption import heed_again


@contextlib.contextmanager
def scope_of(settings: DeviceSettings) -> Iterator[None]:
    """Within the block models are made for these devices. Comes before anything is computed.

    Raises:
      UsageError: without TF_CONFIG for several workers, without a GPU for all GPUs.
    """
    if settings.memory_growth:
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    strategy = _strategy(settings)
    heed_again()
    with strategy.scope():
        yield
        meet()  # The chief holds the connection: it goes last.


def _strategy(settings: DeviceSettings) -> tf.distribute.Strategy:
    if settings.strategy == "multi_worker":
        try:
            json.loads(os.environ.get("TF_CONFIG", ""))
        except ValueError as error:
            raise UsageError(
                "Expected TF_CONFIG, a JSON text which says who the workers are, with "
                "`strategy=multi_worker`; there is none: start them with launch/workers.py."
            ) from error
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if settings.strategy == "mirrored":
        if len(devices) > 1:
            return tf.distribute.MirroredStrategy()
        if devices[0].device_type == "CPU":
            raise UsageError(
                "Expected GPUs with `strategy=mirrored`, and TensorFlow sees none: install "
                "lottery_tf with its extra [cuda] where there are any, or leave the flag out."
            )
    return tf.distribute.get_strategy()


def check_batch_size(batch_size: int) -> None:
    """Raises UsageError unless the present strategy's replicas have equal shares of a batch."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if batch_size % replicas:
        raise UsageError(
            f"Expected a `batch_size` that the {replicas} devices can share equally, not "
            f"{batch_size}: give a multiple of {replicas}."
        )


def is_chief() -> bool:
    """Whether this process is the only one or the first of several workers."""
    return tf.distribute.get_strategy().extended.should_checkpoint


def from_chief(array: np.ndarray) -> np.ndarray:
    """What the chief among the workers has given; all of them have to call it.

    Args:
      array: floats, bytes or booleans, of one shape and dtype on all workers.
    """
    if not _are_several():
        return array
    return _sum(array, of_chief=True).astype(array.dtype)


def of_any(flag: bool) -> bool:
    """Whether ``flag`` is true on any of the workers; all of them have to call it."""
    return bool(_sum(np.array(flag), of_chief=False)) if _are_several() else flag


def _are_several() -> bool:
    return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def _sum(array: np.ndarray, of_chief: bool) -> np.ndarray:
    """The sum over all replicas, in which with ``of_chief`` only the first has a part."""
    strategy = tf.distribute.get_strategy()
    sent = array if array.dtype.kind == "f" else array.astype(np.float32)
    shared = strategy.run(_shared(of_chief), args=(tf.constant(sent),))
    return strategy.experimental_local_results(shared)[0].numpy()


@functools.cache
def _shared(of_chief: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    """Compiled once for each shape: it may come after every execution of a training."""

    @tf.function
    def share(given: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        # Added to zeros: exact. A tensor as it was given has no device, which all_reduce asks for.
        has_part = (replica.replica_id_in_sync_group == 0) | (not of_chief)
        mine = tf.where(has_part, given, tf.zeros_like(given))
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, mine)

    return share


def meet() -> None:
    """Waits until all workers have come here."""
    from_chief(np.zeros(1))


def check_same(what: str, arrays: Iterable[np.ndarray]) -> None:
    """Raises RuntimeError where ``arrays``, ``what`` they are, are not bit for bit the chief's."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    mine = np.frombuffer(digest.digest(), np.uint8)
    if (from_chief(mine) != mine).any():
        raise RuntimeError(
            f"Expected {what} to be the same on all workers; here they are not the chief's. Do all "
            "have the same data and the same versions?"
        )


@contextlib.contextmanager
def chief_first() -> Iterator[None]:
    """The chief among the workers runs the block before the others do."""
    try:
        if not is_chief():
            meet()
        yield
    finally:
        if is_chief():
            meet()


@contextlib.contextmanager
def own_folder(out: Path) -> Iterator[Path]:
    """Where this process writes what belongs to ``out``.

    The chief writes to ``out`` itself. Any other worker has a copy of it, with all that decides
    what is left to do, and throws it away: the same code runs on all of them, and reading a
    model's variables, in which all have to take part, needs no thought of who writes.
    """
    if is_chief():
        meet()  # until the others have their copies
        yield out
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "run")
        if out.exists():
            shutil.copytree(out, copy)
        meet()
        yield copy
