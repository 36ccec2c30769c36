"""The loss after one virtual step of training, and its derivative by a scale of each tensor."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.graph.compat import compiled, on_tensorflow, with_gradients
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.ops import as_tensors
from lottery_tf.losses.derivatives import value_of
from lottery_tf.losses.objective import Objective


def after_step(
    objective: Objective,
    weights: Sequence[tf.Variable],
    spec: Any,
    sgd: bool,
    step_size: float,
    l1: bool,
) -> Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """A function (c [n], B, next batch, γ) → (loss after the virtual step, norm, derivative by c).

    All are float64, the derivative [n]. The norm is ‖g‖₂, or with ``l1`` ‖g‖₁. Above γ the
    derivative is the norm's and the loss NaN.

    The variables hold θ_c, so that any layer will do: c enters only as θ_l = c_l·θ0_l, and the
    derivative by c_l is ⟨derivative by θ_l, θ0_l⟩. Let g and H be gradient and Hessian of
    L(B; θ_c), u = g/‖g‖, and v the gradient of L(B̃) after the step. Both objectives need a product
    of H with a vector:

        ∇‖g‖ = H u,    ∇L(B̃; θ_c − η·u) = v − η·H (v − u⟨u, v⟩)/‖g‖;

    a sign has no derivative: ∇‖g‖₁ = H sign(g), and ∇L(B̃; θ_c − η·sign g) = v.
    """
    if not on_tensorflow(objective.model):
        return _elsewhere(objective, weights, sgd, step_size, l1)
    starts = [tf.convert_to_tensor(weight) for weight in weights]
    eta = tf.constant(step_size, tf.float64)
    scalar, vector = tf.TensorSpec([], tf.float64), tf.TensorSpec([len(starts)], tf.float64)

    def assign(values: Sequence[tf.Tensor]) -> None:
        for weight, value in zip(weights, values, strict=True):
            weight.assign(value)

    def plus(
        one: Sequence[tf.Tensor], factor: tf.Tensor, other: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        pairs = zip(one, other, strict=True)
        return [a + tf.cast(factor, a.dtype) * b for a, b in pairs]

    def loss_and_gradient(batch: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            value = objective(batch)
        found = tape.gradient(value, weights, unconnected_gradients="zero")
        return tf.cast(value, tf.float64), [tf.convert_to_tensor(each) for each in found]

    @tf.function(input_signature=[vector, spec, spec, scalar])
    def compute(
        c: tf.Tensor, batch: Any, following: Any, bound: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        theta = [s * tf.cast(each, s.dtype) for s, each in zip(starts, tf.unstack(c), strict=True)]
        assign(theta)
        with tf.GradientTape() as tape:
            _, g = loss_and_gradient(batch)
        length = tf.sqrt(tf.reduce_sum(_inner(g, g)))
        u = [tf.math.divide_no_nan(each, tf.cast(length, each.dtype)) for each in g]
        signs, zeros = [tf.sign(each) for each in g], [tf.zeros_like(each) for each in g]
        norm = tf.reduce_sum(_inner(g, signs)) if l1 else length

        def norm_itself() -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
            return tf.constant(math.nan, tf.float64), zeros, signs if l1 else u

        def virtual_step() -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
            assign(plus(theta, -eta, u if sgd else signs))
            value, v = loss_and_gradient(_overlapping(batch, following))
            assign(theta)
            across = plus(v, -tf.reduce_sum(_inner(u, v)), u)
            return value, v, plus(zeros, tf.math.divide_no_nan(-eta, length), across)

        def through_gradient() -> tf.Tensor:
            return _inner(tape.gradient(g, weights, by, unconnected_gradients="zero"), starts)

        value, direct, by = tf.cond(norm > bound, norm_itself, virtual_step)
        if sgd:
            curved = through_gradient()
        else:
            curved = tf.cond(norm > bound, through_gradient, lambda: tf.zeros_like(c))
        return value, norm, _inner(direct, starts) + curved

    return compute


def _elsewhere(
    objective: Objective, weights: Sequence[Any], sgd: bool, step_size: float, l1: bool
) -> Callable[..., tuple[Any, Any, Any]]:
    """``after_step`` on other backends, which differentiate the objective itself by c."""
    ops = keras3.ops
    starts = [ops.convert_to_tensor(weight) for weight in weights]
    losses = with_gradients(value_of(objective.model, weights, objective))

    def scaled(c: Any) -> list[Any]:
        return [start * ops.cast(c[i], start.dtype) for i, start in enumerate(starts)]

    def length_of(g: Sequence[Any]) -> Any:
        square = sum(ops.sum(ops.square(each)) for each in g)
        # The derivative of a root at 0 is not finite.
        return ops.where(square > 0, ops.sqrt(ops.where(square > 0, square, 1.0)), 0.0)

    def norm_of(g: Sequence[Any]) -> Any:
        return sum(ops.sum(ops.abs(each)) for each in g) if l1 else length_of(g)

    def norm_at(values: Sequence[Any], batch: Any) -> tuple[Any, None]:
        return norm_of(losses(scaled(values[0]), batch)[1]), None

    def stepped(values: Sequence[Any], batch: Any, mixed: Any) -> tuple[Any, Any]:
        theta = scaled(values[0])
        g = losses(theta, batch)[1]
        if sgd:
            length = length_of(g)
            steps = [ops.divide_no_nan(each, length) for each in g]
        else:
            steps = [ops.stop_gradient(ops.sign(each)) for each in g]
        moved = [each - step_size * step for each, step in zip(theta, steps, strict=True)]
        return losses(moved, mixed)[0][0], norm_of(g)

    by_step, by_norm = compiled(with_gradients(stepped)), compiled(with_gradients(norm_at))

    def compute(c: Any, batch: Any, following: Any, bound: float) -> tuple[Any, Any, Any]:
        scales = [ops.convert_to_tensor(np.asarray(c, np.float32))]
        first = as_tensors(batch)
        (value, norm), (derivative,) = by_step(
            scales, first, as_tensors(_overlapping(batch, following))
        )
        if float(norm) > bound:
            (norm, _), (derivative,) = by_norm(scales, first)
            value = ops.full_like(norm, math.nan)
        return tuple(map(ops.convert_to_numpy, (value, norm, derivative)))

    return compute


def _inner(one: Sequence[tf.Tensor], other: Sequence[tf.Tensor]) -> tf.Tensor:
    """⟨one_l, other_l⟩ for each pair of tensors. float64 [n]."""
    wide = ([tf.cast(a, tf.float64) for a in pair] for pair in zip(one, other, strict=True))
    return tf.stack([tf.reduce_sum(a * b) for a, b in wide])


def _overlapping(batch: Any, following: Any) -> Any:
    """B̃: the first half of ``batch`` and the second half of ``following``."""

    def join(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        return tf.concat([one[: tf.shape(one)[0] // 2], other[tf.shape(other)[0] // 2 :]], 0)

    return tf.nest.map_structure(join, batch, following)
