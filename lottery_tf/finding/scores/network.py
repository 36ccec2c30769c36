"""The network that scores work on: its weights, and the derivatives of its loss by them."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import (
    backend_of,
    compiled,
    keras,
    keras_of,
    on_tensorflow,
    with_gradients,
)
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import named_variables
from lottery_tf.graph.ops import as_tensors, ops_for
from lottery_tf.graph.step_checks import step_checks
from lottery_tf.losses.derivatives import (
    as_watched,
    differentiable,
    missing_derivatives_told,
    mistakes_with,
    reason,
    value_of,
)
from lottery_tf.losses.from_keras import as_cross_entropy
from lottery_tf.losses.objective import batches_for, objective_on
from lottery_tf.masks.prune_by_mask import get_masks

Made = TypeVar("Made")

_WITHOUT = "Use a method without derivatives, such as imp, omp or erk, or another operation."


class Network:
    """A masked model to score. A function that is traced for a score is reused in later rounds.

    L is the mean of ``losses.objective.Objective`` over all examples of the batches. Dropout drops
    nothing, and BatchNorm uses each batch's statistics.

    Args:
      model: a model that ``wrap`` has returned; it is copied.
      data: batches (inputs, labels), optionally with weights of the examples, or inputs alone for
        a model with losses of its own. Only scores that use the loss need data.
      loss, loss_weights: as ``compile`` takes them. Default: cross-entropy, on logits or
        probabilities as the model gives them.
      batches: the most batches to read.
      seed: the seed of ``random``.

    Attributes:
      model: the copy. Its masks may be set anew from score to score.
      weights: name → variable of each prunable weight, a ``tf.Variable`` on TensorFlow.
      random: the generator for random scores.
      data, loss, loss_weights, count: the arguments; ``count`` is ``batches``.
    """

    def __init__(
        self,
        model: keras.Model,
        data: tf.data.Dataset | None = None,
        loss: Any = None,
        batches: int = 1,
        seed: int = 0,
        loss_weights: Any = None,
    ):
        self.model = differentiable(model)
        named = named_variables(self.model)
        self.weights = {n: as_watched(self.model, named[n]) for n in get_masks(self.model)}
        self.random = np.random.default_rng(seed)
        self.data, self.count = data, batches
        self.loss, self.loss_weights = loss, loss_weights
        self._made: dict[Callable[[Network], Any], Any] = {}

    def values(self) -> dict[str, np.ndarray]:
        """Name → value of the weights; pruned ones are 0."""
        return {name: weight.numpy() for name, weight in self.weights.items()}

    def gradient(self, temperature: float = 1.0) -> dict[str, np.ndarray]:
        """∂L/∂w; 0 where w is pruned.

        Args:
          temperature: the divisor of the logits.

        Raises:
          UsageError: without data, and for data that do not fit the model and the loss.
        """
        return self._derivatives().mean("gradient", temperature)

    def hessian_product(
        self, vector: Mapping[str, np.ndarray], temperature: float = 1.0
    ) -> dict[str, np.ndarray]:
        """H v, with H the Hessian of L by the prunable weights.

        Args:
          vector: v, an array for each weight.
          temperature: the divisor of the logits.
        """
        parts = [vector[name] for name in self.weights]
        return self._derivatives().mean("hessian_product", temperature, parts)

    def _derivatives(self) -> "_Derivatives":
        kind = _ByTensorFlow if on_tensorflow(self.model) else _ByKeras
        return self.cached(kind)

    def cached(self, make: Callable[["Network"], Made]) -> Made:
        """``make(self)``, which is called only the first time."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]


class _Derivatives:
    """The compiled derivatives of L on one batch, and the batches.

    A subclass has ``gradient(batch, temperature)`` and ``hessian_product(batch, temperature,
    vector)``. Both return a list with a tensor for each weight.
    """

    gradient: Callable[..., Sequence[Any]]
    hessian_product: Callable[..., Sequence[Any]]

    def __init__(self, network: Network):
        self.model, self.weights = network.model, network.weights
        asks = network.loss, "the scores of the weights", network.loss_weights
        self.objective = objective_on(self.model, network.data, *asks)
        data: tf.data.Dataset = network.data  # objective_on refuses None
        self.element_spec = data.element_spec
        stream = batches_for(self.objective, data, again=False)
        with step_checks():
            self.batches = list(itertools.islice(stream, network.count))

    def divided(self, temperature: Any) -> Any:
        """L with the logits divided by a temperature."""
        return self.objective.with_losses(lambda loss: _divided(loss, temperature))

    def mean(self, which: str, *args: Any) -> dict[str, np.ndarray]:
        """The mean over all examples of a derivative of each batch."""
        sums, examples = [np.zeros(())] * len(self.weights), 0
        compute, ops = getattr(self, which), keras3.ops
        try:
            for batch in self.batches:
                size = int(tf.nest.flatten(batch)[0].shape[0])
                with step_checks(), missing_derivatives_told(self.model, _WITHOUT):
                    found = compute(batch, *args)
                parts = (size * ops.convert_to_numpy(part).astype(np.float64) for part in found)
                sums = [total + part for total, part in zip(sums, parts, strict=True)]
                examples += size
        except UsageError:
            raise
        except mistakes_with(self.model) as error:
            raise UsageError(
                f"Expected batches (inputs, labels) that fit the model '{self.model.name}' and the "
                f"loss; {backend_of(self.model)} says: {reason(error)}"
            ) from error
        return {n: total / examples for n, total in zip(self.weights, sums, strict=True)}


class _ByTensorFlow(_Derivatives):
    """The derivatives of a model that runs on TensorFlow."""

    def __init__(self, network: Network):
        super().__init__(network)
        scalar = tf.TensorSpec([], tf.float32)
        vector = [tf.TensorSpec(weight.shape, weight.dtype) for weight in self.weights.values()]
        signature = [self.element_spec, scalar]
        self.gradient = tf.function(self._gradient, signature)
        compute = tf.function(self._hessian_product, [*signature, vector])

        def hessian_product(batch: Any, temperature: float, vector: Sequence[Any]) -> Any:
            pairs = zip(vector, self.weights.values(), strict=True)
            return compute(batch, temperature, [tf.cast(v, weight.dtype) for v, weight in pairs])

        self.hessian_product = hessian_product

    def _gradient(self, batch: Any, temperature: tf.Tensor) -> list[tf.Tensor]:
        weights = list(self.weights.values())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)  # a layer may be frozen
            loss = self.divided(temperature)(batch)
        found = tape.gradient(loss, weights, unconnected_gradients="zero")
        return [tf.convert_to_tensor(each) for each in found]

    def _hessian_product(
        self, batch: Any, temperature: tf.Tensor, vector: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        weights = list(self.weights.values())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            gradient = self._gradient(batch, temperature)
        return tape.gradient(gradient, weights, vector, unconnected_gradients="zero")


class _ByKeras(_Derivatives):
    """The derivatives of a model of Keras 3 on another backend."""

    def __init__(self, network: Network):
        super().__init__(network)
        weights = list(self.weights.values())
        known = {id(weight) for weight in weights}
        # They include masks, which change from score to score; JAX would reuse the first ones.
        others = [each for each in self.model.variables if id(each) not in known]
        ops = keras3.ops
        dtypes = [weight.dtype for weight in weights]

        def gradient(values: Any, rest: Any, batch: Any, temperature: Any) -> Any:
            loss = value_of(self.model, [*weights, *others], self.divided(temperature))
            return with_gradients(lambda some, batch: loss([*some, *rest], batch))(values, batch)[1]

        def along(values: Any, rest: Any, batch: Any, temperature: Any, vector: Any) -> Any:
            found = gradient(values, rest, batch, temperature)
            pairs = zip(found, vector, strict=True)
            return sum(ops.sum(g * v) for g, v in pairs), None

        first = compiled(gradient)
        second = compiled(lambda *args: with_gradients(along)(*args)[1])

        def taken(compute: Callable[..., Any]) -> Callable[..., Any]:
            def on(batch: Any, temperature: float, *vectors: Any) -> Any:
                values, rest = ([*map(ops.convert_to_tensor, each)] for each in (weights, others))
                parts = (map(ops.convert_to_tensor, each, dtypes) for each in vectors)
                return compute(values, rest, as_tensors(batch), temperature, *map(list, parts))

            return on

        self.gradient, self.hessian_product = taken(first), taken(second)


def _divided(loss: Any, temperature: tf.Tensor) -> Any:
    """``loss`` with the logits divided by ``temperature``, if it is a cross-entropy."""
    cross_entropy = loss and as_cross_entropy(loss, keras_of(loss))
    if cross_entropy is None:
        return loss

    on_logits = type(cross_entropy).from_config({**cross_entropy.get_config(), "from_logits": True})

    def divided(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        logits = outputs if cross_entropy.from_logits else cross_entropy.logits(outputs)
        return on_logits.call(labels, logits / ops_for(logits).cast(temperature, logits.dtype))

    return divided
