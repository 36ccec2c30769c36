"""The devices of a run. They change nothing that it computes, except the order of its sums."""

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
    """Within the block models are made for these devices. Call it before anything is computed.

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
        meet()  # The chief holds the connection, so it has to end last.


def _strategy(settings: DeviceSettings) -> tf.distribute.Strategy:
    if settings.strategy == "multi_worker":
        try:
            json.loads(os.environ.get("TF_CONFIG", ""))
        except ValueError as error:
            raise UsageError(
                "Expected TF_CONFIG with `strategy=multi_worker`, a JSON text that names the "
                "workers; it is not set: start them with launch/workers.py."
            ) from error
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if settings.strategy == "mirrored":
        if len(devices) > 1:
            return tf.distribute.MirroredStrategy()
        if devices[0].device_type == "CPU":
            raise UsageError(
                "Expected GPUs with `strategy=mirrored`, but TensorFlow sees none: install "
                "lottery_tf with its extra [cuda] if there are any, or leave the flag out."
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
    """The array that the chief of the workers has passed. All workers have to call it.

    Args:
      array: floats, bytes or booleans, of the same shape and dtype on all workers.
    """
    if not _are_several():
        return array
    return _sum(array, of_chief=True).astype(array.dtype)


def of_any(flag: bool) -> bool:
    """Whether ``flag`` is true on any of the workers. All workers have to call it."""
    return bool(_sum(np.array(flag), of_chief=False)) if _are_several() else flag


def _are_several() -> bool:
    return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def _sum(array: np.ndarray, of_chief: bool) -> np.ndarray:
    """The sum over all replicas; with ``of_chief`` only the first one's array counts."""
    strategy = tf.distribute.get_strategy()
    sent = array if array.dtype.kind == "f" else array.astype(np.float32)
    shared = strategy.run(_shared(of_chief), args=(tf.constant(sent),))
    return strategy.experimental_local_results(shared)[0].numpy()


@functools.cache
def _shared(of_chief: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    """Compiled once for each shape, as a training may call it after every execution."""

    @tf.function
    def share(given: tf.Tensor) -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        # Adding zeros is exact. It also gives the tensor a device, which all_reduce needs.
        has_part = (replica.replica_id_in_sync_group == 0) | (not of_chief)
        mine = tf.where(has_part, given, tf.zeros_like(given))
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, mine)

    return share


def meet() -> None:
    """Waits until all workers have reached this call."""
    from_chief(np.zeros(1))


def check_same(what: str, arrays: Iterable[np.ndarray]) -> None:
    """Raises RuntimeError unless ``arrays`` equal the chief's bit for bit; ``what`` names them."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    mine = np.frombuffer(digest.digest(), np.uint8)
    if (from_chief(mine) != mine).any():
        raise RuntimeError(
            f"Expected {what} to be the same on all workers; here they differ from the chief's. "
            "Do all workers have the same data and the same versions?"
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

    The chief writes to ``out`` itself. Any other worker gets a copy of it, so that it sees what is
    left to do, and throws the copy away. So all workers run the same code, and all take part when
    a model's variables are read.
    """
    if is_chief():
        meet()  # Wait until the others have their copies.
        yield out
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "run")
        if out.exists():
            shutil.copytree(out, copy)
        meet()
        yield copy
