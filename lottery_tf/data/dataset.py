"""Dataset: images in memory, in three splits, and the batches that training reads from them."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.data.augment import crop_and_flip
from lottery_tf.data.source import Split

_CORES = min(16, os.cpu_count() or 1)  # a GPU takes what more than two cores prepare


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset as ``lottery_tf.data.load`` makes it.

    Attributes:
      name: the setting ``dataset``.
      train, dev, test: the splits; ``dev`` may be empty.
      num_classes: labels are 0 .. num_classes - 1.
      mean, std: of each channel over the training split alone, in the pixels' own units; images
        are normalised as ``(pixel - mean) / std``.
      augment: whether ``stream`` crops and, where ``flip``, mirrors.
      data_seed: of the order of the batches and of the augmentation.
      batch_size: of ``stream``.
      sha256: of all examples, before they were split; empty where they come from no source.
      class_names: of the classes 0 .. num_classes - 1; empty where they have none.
      test_is_drawn: whether the test split was drawn from images without splits.
    """

    name: str
    train: Split
    dev: Split
    test: Split
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: bool
    data_seed: int
    batch_size: int
    flip: bool = True
    sha256: str = ""
    class_names: tuple[str, ...] = ()
    test_is_drawn: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(H, W, C)`` of an image."""
        return self.train.images.shape[1:]

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training split.

        Raises:
          UsageError: the training split is smaller than one batch.
        """
        if len(self.train) < self.batch_size:
            raise UsageError(
                f"`batch_size` expects at most the {len(self.train)} training examples of "
                f"{self.name}, not {self.batch_size}; give a smaller one."
            )
        return len(self.train) // self.batch_size

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """``(images - mean) / std`` as float32, of the same shape ``[N, H, W, C]``."""
        return np.subtract(images, self._mean, dtype=np.float32) * self._scale

    def stream(
        self, start_step: int = 0, beside: Mapping[str, np.ndarray] | None = None
    ) -> tf.data.Dataset:
        """Training batches without end, from global step ``start_step`` on.

        Batch t depends on ``data_seed`` and t alone. Epoch ``t // steps_per_epoch`` has its own
        permutation of the examples, and its incomplete last batch is dropped. Batch t has its own
        crops and flips. So a run that resumes at any step sees the batches that it would have seen,
        and reads none before them.

        Args:
          start_step: t of the first batch.
          beside: name → array ``[N, …]``: more values of each of the N training examples, which do
            not depend on crops and flips.

        Returns:
          batches of images float32 ``[batch_size, H, W, C]``, normalised, and labels int32
          ``[batch_size]``. With ``beside`` a batch is a dict: these two as ``batch``, and by each
          name the rows ``[batch_size, …]`` of its array.

        Raises:
          UsageError: the training split is smaller than one batch.
        """
        if start_step < 0:
            raise ValueError(f"Expected a start_step of at least 0. Received: {start_step}.")
        lengths = {name: len(array) for name, array in (beside or {}).items()}
        if any(length != len(self.train) for length in lengths.values()):
            raise ValueError(
                f"Expected a row for each of the {len(self.train)} training examples. Received: "
                f"{lengths}."
            )
        rows = self._rows(start_step)
        pixels, labels = self._tensors("train")
        others = None if beside is None else {n: _tensor(array) for n, array in beside.items()}

        def batch(step: tf.Tensor, index: tf.Tensor) -> Any:
            images = tf.gather(pixels, index)
            if self.augment:
                # Seeds below zero, because those from zero on are the epochs'.
                seed = tf.stack([tf.constant(self.data_seed, tf.int64), -1 - step])
                images = crop_and_flip(images, seed, self.flip)
            examples = self._normalise(images), tf.gather(labels, index)
            if others is None:
                return examples
            return {"batch": examples, **{n: tf.gather(each, index) for n, each in others.items()}}

        # 18,000 batches of 60 Fashion-MNIST images a second on two cores; 12,000 with prefetch(2),
        # and no more from images kept as float32.
        batches = rows.map(batch, num_parallel_calls=_CORES, deterministic=True).prefetch(8)
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return _without_autotune(batches.apply(endless))

    def batches(self, split: str, batch_size: int = 500) -> tf.data.Dataset:
        """Every example of a split once, in order, normalised, never augmented.

        Args:
          split: ``"train"``, ``"dev"`` or ``"test"``.
          batch_size: of all batches but the last, which has what remains.

        Returns:
          batches of images float32 ``[B, H, W, C]`` and labels int32 ``[B]``.
        """
        if split not in ("train", "dev", "test"):
            raise ValueError(f"Expected the split train, dev or test. Received: {split!r}.")
        pixels, labels = self._tensors(split)

        def batch(first: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = slice(first, first + batch_size)
            return self._normalise(pixels[rows]), labels[rows]

        firsts = tf.data.Dataset.range(0, len(labels), batch_size)
        return _without_autotune(firsts.map(batch, num_parallel_calls=_CORES).prefetch(2))

    def _rows(self, start_step: int) -> tf.data.Dataset:
        """``(step, indices [batch_size])`` of every batch from ``start_step`` on."""
        steps, size, count = self.steps_per_epoch, self.batch_size, len(self.train)
        first_epoch, skipped = divmod(start_step, steps)

        def rows_of(epoch: tf.Tensor) -> tf.data.Dataset:
            seed = tf.stack([tf.constant(self.data_seed, tf.int64), epoch])
            order = tf.random.experimental.stateless_shuffle(tf.range(count), seed, alg="philox")
            rows = tf.reshape(order[: steps * size], (steps, size))
            first = tf.where(epoch == first_epoch, tf.constant(skipped, tf.int64), 0)
            numbers = epoch * steps + tf.range(first, steps, dtype=tf.int64)
            return tf.data.Dataset.from_tensor_slices((numbers, rows[first:]))

        return tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max).flat_map(rows_of)

    def _normalise(self, pixels: tf.Tensor) -> tf.Tensor:
        return (tf.cast(pixels, tf.float32) - self._mean) * self._scale

    @property
    def _mean(self) -> np.ndarray:
        return np.asarray(self.mean, np.float32)

    @property
    def _scale(self) -> np.ndarray:
        return (1 / np.asarray(self.std)).astype(np.float32)

    def _tensors(self, split: str) -> tuple[tf.Tensor, tf.Tensor]:
        """Images and labels of a split: made once and shared by every dataset of batches.

        Captured by a tf.data function they are inputs of its graph, not constants in it.
        """
        if split not in self._made:
            examples = getattr(self, split)
            self._made[split] = _tensor(examples.images), _tensor(examples.labels)
        return self._made[split]

    @functools.cached_property
    def _made(self) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        return {}


def _tensor(array: np.ndarray) -> tf.Tensor:
    """``array`` eager even inside a tf.function, and where tf.data reads it."""
    with tf.init_scope(), tf.device("CPU:0"):
        return tf.constant(array)


def _without_autotune(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Without autotuning, which makes Keras wait for up to a second at the end of each epoch.

    The default rewrites of the graph are off too: they find nothing to do here, and copy all images
    into the graph first.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.deterministic = True
    # There are no files to shard among several workers.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)
