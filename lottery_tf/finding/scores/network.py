"""A network as the scores look at it: its weights, and the derivatives of its loss by them."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras, keras_of, on_tensorflow, output_names
from lottery_tf.graph.copies import copy_layer
from lottery_tf.graph.layers import check_tensorflow, named_variables
from lottery_tf.graph.step_checks import step_checks
from lottery_tf.losses.cross_entropy import as_cross_entropy, default_loss
from lottery_tf.losses.derivatives import (
    as_watched,
    batches_of,
    differentiable,
    losses_of,
    mean_loss,
    reason,
)
from lottery_tf.losses.divergence import logits_of
from lottery_tf.masks.prune_by_mask import get_masks
from lottery_tf.masks.wrapper import remake

Made = TypeVar("Made")


class Network:
    """A masked model to score; what is traced for a score serves its next rounds too.

    L is the mean of the loss over all examples of the batches; Dropout drops nothing, and BatchNorm
    takes each batch's statistics. The model's own ``losses`` (regularizers) are left out.

    Args:
      model: what ``wrap`` returned; it is copied.
      data: batches (inputs, labels); needed by scores that look at the loss.
      loss: its mean is L. Default: cross-entropy, on logits or probabilities as the model has them.
      batches: how many batches are read, if there are so many.
      seed: of ``random``.

    Attributes:
      model: the copy. Its masks may be set anew from score to score.
      weights: name → TensorFlow's variable of the prunable weights.
      random: the generator for scores that are drawn.
      data, loss, count: what was given as ``data``, ``loss`` and ``batches``.
    """

    def __init__(
        self,
        model: keras.Model,
        data: tf.data.Dataset | None = None,
        loss: keras.losses.Loss | str | None = None,
        batches: int = 1,
        seed: int = 0,
    ):
        self.model = differentiable(model) if on_tensorflow(model) else remake(model, copy_layer)
        named = named_variables(self.model)
        self.weights = {n: as_watched(self.model, named[n]) for n in get_masks(self.model)}
        self.random = np.random.default_rng(seed)
        self.data, self.loss, self.count = data, loss, batches
        self._made: dict[Callable[[Network], Any], Any] = {}

    def values(self) -> dict[str, np.ndarray]:
        """The weights; those pruned are 0."""
        return {name: weight.numpy() for name, weight in self.weights.items()}

    def gradient(self, temperature: float = 1.0) -> dict[str, np.ndarray]:
        """∂L/∂w; 0 where w is pruned.

        Args:
          temperature: what logits are divided by.

        Raises:
          UsageError: without data, and for data that do not fit the model and the loss.
        """
        return self.cached(_Derivatives).mean("gradient", temperature)

    def hessian_product(
        self, vector: Mapping[str, np.ndarray], temperature: float = 1.0
    ) -> dict[str, np.ndarray]:
        """H v, H being the Hessian of L by the prunable weights.

        Args:
          vector: v, an array a weight.
          temperature: what logits are divided by.
        """
        parts = [tf.cast(vector[name], weight.dtype) for name, weight in self.weights.items()]
        return self.cached(_Derivatives).mean("hessian_product", temperature, parts)

    def cached(self, make: Callable[["Network"], Made]) -> Made:
        """``make(self)``, made at the first call, which differentiates by TensorFlow."""
        check_tensorflow(self.model, "scores that differentiate")
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]


class _Derivatives:
    """The compiled derivatives of L on one batch, and the batches."""

    def __init__(self, network: Network):
        self.model, self.weights = network.model, network.weights
        data: tf.data.Dataset = network.data  # batches_of refuses None
        count = network.count
        stream = batches_of(data, "the scores of the weights", again=False)
        with step_checks():
            self.batches = list(itertools.islice(stream, count))
        self.loss = losses_of(network.loss, keras_of(self.model)) or default_loss(self.model)
        scalar = tf.TensorSpec([], tf.float32)
        vector = [tf.TensorSpec(weight.shape, weight.dtype) for weight in self.weights.values()]
        signature = [data.element_spec, scalar]
        self.gradient = tf.function(self._gradient, signature)
        self.hessian_product = tf.function(self._hessian_product, [*signature, vector])

    def _gradient(self, batch: tuple[Any, Any], temperature: tf.Tensor) -> list[tf.Tensor]:
        x, y = batch
        weights = list(self.weights.values())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)  # a layer may be frozen
            outputs = self.model(x, training=True)
            losses = tf.nest.map_structure(lambda one: _divided(one, temperature), self.loss)
            loss = mean_loss(losses, y, outputs, output_names(self.model))
        found = tape.gradient(loss, weights, unconnected_gradients="zero")
        return [tf.convert_to_tensor(each) for each in found]

    def _hessian_product(
        self, batch: tuple[Any, Any], temperature: tf.Tensor, vector: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        weights = list(self.weights.values())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            gradient = self._gradient(batch, temperature)
        return tape.gradient(gradient, weights, vector, unconnected_gradients="zero")

    def mean(self, which: str, *args: Any) -> dict[str, np.ndarray]:
        """The mean over all examples of a derivative of each batch."""
        sums, examples = [np.zeros(())] * len(self.weights), 0
        compute = getattr(self, which)
        try:
            for batch in self.batches:
                size = int(tf.nest.flatten(batch)[0].shape[0])
                with step_checks():
                    found = compute(batch, *args)
                parts = (size * part.numpy().astype(np.float64) for part in found)
                sums = [total + part for total, part in zip(sums, parts, strict=True)]
                examples += size
        except UsageError:
            raise
        except (KeyError, ValueError, tf.errors.InvalidArgumentError) as error:
            raise UsageError(
                f"Expected batches (inputs, labels) that fit the model '{self.model.name}' and the "
                f"loss; TensorFlow says: {reason(error)}"
            ) from error
        return {n: total / examples for n, total in zip(self.weights, sums, strict=True)}


def _divided(loss: Any, temperature: tf.Tensor) -> Any:
    """``loss`` with the logits divided by ``temperature``, if it is a cross-entropy."""
    cross_entropy = loss and as_cross_entropy(loss, keras_of(loss))
    if cross_entropy is None:
        return loss

    kind = type(cross_entropy)
    on_logits = kind.from_config({**cross_entropy.get_config(), "from_logits": True})

    def divided(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        logits = outputs
        if not cross_entropy.from_logits:
            logits = logits_of(outputs, kind.of.backend.epsilon())
        return on_logits.call(labels, logits / tf.cast(temperature, logits.dtype))

    return divided
