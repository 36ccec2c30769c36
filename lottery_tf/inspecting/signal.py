"""How far the signal and its gradient reach in a network, layer by layer."""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted, some
from lottery_tf.common.summary import UNKNOWN, Summarised, Summary
from lottery_tf.graph.compat import (
    attributes_of,
    backend_of,
    compiled,
    in_place_of,
    keras,
    on_tensorflow,
    random_state_kept,
    scope_of,
    with_gradients,
)
from lottery_tf.graph.fit_data import batches as fit_batches
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import (
    calls,
    check_graph,
    check_of_its_keras,
    computes_as_keras,
    unwrapped,
    variable_names,
)
from lottery_tf.graph.ops import as_tensors, is_floating, is_tensor, ops_for, widened
from lottery_tf.graph.parts import at
from lottery_tf.graph.step_checks import step_checks
from lottery_tf.losses.derivatives import (
    as_watched,
    differentiable,
    missing_derivatives_told,
    mistakes_with,
    reason,
    value_of,
)
from lottery_tf.losses.divergence import at_least_float32
from lottery_tf.losses.objective import batches_for, objective_on
from lottery_tf.masks.prunable import prunable_attributes
from lottery_tf.masks.prune_by_mask import get_masks
from lottery_tf.masks.wrapper import masked_by_us

# Below these shares of the dense network's a layer counts as blocked. Found on chains of 3×3
# convolutions (width 16, He, no BatchNorm), ERK masks, on digits with 20 epochs of SGD, one seed:
# of 6 at 80 % no layer is below (gradients 5e-3, activations 1e-3), and they reach 58 %. In those
# that stay below 17 % some are: 8 at 80 % (2e-3, 7e-5), 6 at 90 % (5e-4, 1e-5), 12 at 95 % (1e-9,
# 1e-17). Scaled chains of 8 at 90 % and 12 at 95 %, which train, and ResNets with BatchNorm at 95
# % have 1e-2 of both and more.
LEAST_GRADIENT, LEAST_ACTIVATIONS = 1e-3, 1e-4
# Where no dense network is known: of the mean square of the network's inputs. The chains that
# fail come down to 6e-6 and less, but 8 at 80 % to 1e-5; 6 at 80 % to 2e-4, scaled ones and
# ResNets to 2e-3. The gradient has to be small beside the loss too (1e-4 and less in those that
# fail): a layer that starts at 0, as some heads do, gives nothing yet, but it learns.
LEAST_OF_INPUTS, LEAST_OF_LOSS = 1e-5, 1e-3


@dataclasses.dataclass(frozen=True)
class LayerSignal:
    """What reaches one layer with a kernel.

    Attributes:
      layer: its path.
      activations: the mean square of what it gives, before an activation that is fused into it. Of
        a layer of the user's own it is that of whatever its call returns. None where that is no
        tensor of floating-point numbers.
      gradient: ‖∂L/∂w‖₂ over the surviving weights of its kernels.
      kept: the number of these weights.
    """

    layer: str
    activations: float | None
    gradient: float
    kept: int


@dataclasses.dataclass(frozen=True, repr=False)
class Signal(Summarised):
    """What reaches the layers of a network.

    Attributes:
      layers: a row a layer with a kernel, in the order of computation.
      loss: L, the mean of the loss over the examples.
      inputs: the mean square of the network's inputs; None where none of them are floating-point
        numbers.
    """

    layers: list[LayerSignal]
    loss: float
    inputs: float | None

    def __repr__(self) -> str:
        return f"Signal({counted(len(self.layers), 'layer')}, loss {self.loss:.4g})"

    def summary(self) -> Summary:
        """What ``print`` and notebooks show: a row a layer, and which layers nothing reaches."""
        stuck = set(blocked(self))
        rows = [
            [
                *(row.layer, UNKNOWN if row.activations is None else f"{row.activations:.3g}"),
                *(f"{row.gradient:.3g}", f"{row.kept:,}", "blocked" if row.layer in stuck else ""),
            ]
            for row in self.layers
        ]
        inputs = UNKNOWN if self.inputs is None else f"{self.inputs:.4g}"
        told = sentence_of(self)
        notes = [f"Loss {self.loss:.4g}; mean square of the inputs {inputs}.", *([told or ""])]
        head = ["layer", "mean square of activations", "norm of gradient", "kept", ""]
        return Summary("What reaches each layer", head, rows, [each for each in notes if each])


def signal(
    model: keras.Model,
    data: Any,
    *,
    loss: Any = None,
    batches: int = 1,
    loss_weights: Any = None,
) -> Signal:
    """The second moment of each layer's activations, and the norm of each kernel's gradient.

    BatchNorm takes each batch's statistics, Dropout drops nothing, and no random number behind
    the call is another. The model is left as it is: a copy is looked at.

    Args:
      model: a built Sequential or functional model of tf_keras or Keras 3: plain, wrapped, or with
        a recipe's tweaks on. It need not be compiled.
      data: (inputs, labels) in a form that ``fit`` takes: batches, arrays, …, as
        ``graph.fit_data.batches`` has them; inputs alone for a model with losses of its own.
      loss, loss_weights: as ``compile`` takes them; L is ``losses.objective.Objective``. Default:
        cross-entropy, on logits or probabilities as the model has them.
      batches: how many batches are read, if there are so many.

    Raises:
      UsageError: for a model of another kind, data of another form or that do not fit the model and
        the loss.
    """
    if data is not None:
        data = fit_batches(data, model, "data", seed=0)
    check_graph(model)
    check_of_its_keras(model, loss=loss)
    if batches < 1:
        raise UsageError(f"Expected `batches` to be at least 1, not {batches}.")
    with random_state_kept():
        with scope_of(model), step_checks():
            observed = _Observed(model, data, loss, loss_weights)
            stream = batches_for(observed.objective, data, again=False)
            read = list(itertools.islice(stream, batches))
        with scope_of(model):
            # Tracing takes several times as long as one batch does; the bits are the same. But of
            # a mistake a traced step tells more: shapes, and not the values.
            for traced in [False, True] if len(read) == 1 else [True]:
                try:
                    told = missing_derivatives_told(model, "It cannot be trained as it is.")
                    with step_checks(), told:
                        return observed.measure(read, data.element_spec, traced)
                except UsageError:
                    raise
                except mistakes_with(model) as error:
                    mistake = error
    raise UsageError(
        f"Expected batches (inputs, labels) that fit the model '{model.name}' and the loss; "
        f"{backend_of(model)} says: {reason(mistake)}"
    ) from mistake


@dataclasses.dataclass(frozen=True)
class SignalRow:
    """One layer of several networks side by side.

    Attributes:
      layer: its path.
      activations, gradient: as in ``LayerSignal``, by the networks' names; None in one that has no
        such layer.
    """

    layer: str
    activations: dict[str, float | None]
    gradient: dict[str, float | None]


def side_by_side(**signals: Signal) -> list[SignalRow]:
    """A row a layer of several networks, in the order of the first one's computation.

    Args:
      **signals: name → what ``signal`` returned, as in
        ``side_by_side(ticket=…, dense=…, recipe=…)``.
    """
    by_layer = {name: {row.layer: row for row in each.layers} for name, each in signals.items()}
    paths = dict.fromkeys(path for rows in by_layer.values() for path in rows)

    def of_each(path: str, what: str) -> dict[str, float | None]:
        return {name: getattr(rows.get(path), what, None) for name, rows in by_layer.items()}

    return [SignalRow(p, of_each(p, "activations"), of_each(p, "gradient")) for p in paths]


def blocked(ticket: Signal, dense: Signal | None = None) -> list[str]:
    """The layers that next to no signal or gradient reaches, in the order of computation.

    Layers of which the mask leaves nothing are not among them: they have nothing to train.

    Args:
      ticket: the ticket's, as it is or with a recipe on.
      dense: that of the dense network on the same batches. Without it layers count whose
        activations are next to nothing beside the network's inputs, and whose gradient is that
        beside the loss.
    """
    others = {} if dense is None else {row.layer: row for row in dense.layers}

    def reached(row: LayerSignal) -> bool:
        other = others.get(row.layer)
        if other is None:
            return (
                row.activations is None
                or ticket.inputs is None
                or not row.activations < LEAST_OF_INPUTS * ticket.inputs
                or not row.gradient < LEAST_OF_LOSS * ticket.loss
            )
        # What is 0 in the dense network too says nothing, and NaN is another trouble.
        if row.gradient < LEAST_GRADIENT * other.gradient:
            return False
        if row.activations is None or other.activations is None:
            return True
        return not row.activations < LEAST_ACTIVATIONS * other.activations

    return [row.layer for row in ticket.layers if row.kept and not reached(row)]


def sentence_of(
    ticket: Signal, dense: Signal | None = None, tried: Collection[str] = ()
) -> str | None:
    """What to tell of the layers that are ``blocked``; None where there are none.

    Args:
      ticket, dense: as ``blocked`` takes them.
      tried: the names of the tweaks that are on already, which are not recommended again.
    """
    found = blocked(ticket, dense)
    if not found:
        return None
    rest = [row.layer for row in ticket.layers if row.kept]
    # Where nothing comes out nothing trains; a branch with a way around it is another matter.
    whole = found[-1] == rest[-1] or 2 * len(found) >= len(rest)
    which = "this ticket will not train as it is"
    verdict = which if whole else "these layers will not train as they are"
    # Of no use where nothing is left to be scaled. Ghost skips cure a chain of 8 layers at 90 %,
    # and one of 12 at 95 % on one seed of five: what goes around a layer fades with them.
    helps = "signal_scaling" not in tried and all(row.kept for row in ticket.layers)
    advice = "; signal_scaling would help" if helps else ""
    return f"No gradient reaches {some(found)}: {verdict}{advice}."


class _Observed:
    """A copy of a model that tells of each layer with a kernel what it gives."""

    def __init__(self, model: keras.Model, data: Any, loss: Any, loss_weights: Any):
        self.model = differentiable(masked_by_us(model))
        self.objective = objective_on(self.model, data, loss, "the signal", loss_weights)
        names = variable_names(self.model)
        masks = get_masks(self.model)
        self.kernels: dict[str, list[tf.Variable]] = {}
        self.kept: dict[str, int] = {}
        # Of the latest step: sum of squares and number of values, of each call.
        self.seen: dict[str, list[tuple[tf.Tensor, tf.Tensor]]] = {}
        for call in calls(self.model)[0]:
            layer = unwrapped(call.layer)
            attributes = prunable_attributes(layer)
            if attributes and call.path not in self.kernels:
                held = [at(layer, attribute) for attribute in attributes]
                kept = (masks.get(names[id(each)], np.ones(each.shape, bool)) for each in held)
                self.kernels[call.path] = [as_watched(self.model, each) for each in held]
                self.kept[call.path] = sum(int(mask.sum()) for mask in kept)
                self._look_on(call.path, layer)

    def _look_on(self, path: str, layer: keras.layers.Layer) -> None:
        """Has each call of ``layer`` note what it gives, before its activation if it has one."""
        theirs = layer.call
        # A recurrent layer's is its cell's, which gives its state through it too.
        fused = computes_as_keras(layer) and attributes_of(layer).get("activation") is not None

        def note(given: Any) -> None:
            outputs = tf.nest.flatten(given)[0]  # of several; what follows is a state
            if is_tensor(outputs) and is_floating(outputs):
                self.seen.setdefault(path, []).append(_squares(outputs))

        def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not fused:
                outputs = theirs(inputs, *args, **kwargs)
                note(outputs)
                return outputs
            activation = layer.activation

            def noted(outputs: tf.Tensor) -> tf.Tensor:
                note(outputs)
                return activation(outputs)

            with in_place_of(layer, {"activation": noted}):
                return theirs(inputs, *args, **kwargs)

        layer.call = call

    def measure(self, read: Sequence[Any], spec: Any, traced: bool) -> Signal:
        """The signal of these batches, of that form, by a compiled step or an eager one."""
        weights = [each for held in self.kernels.values() for each in held]

        def step(batch: Any) -> Any:
            self.seen.clear()
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)  # a layer may be frozen
                loss = self.objective(batch)
            x = keras3.utils.unpack_x_y_sample_weight(batch)[0]
            gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
            inputs = [_squares(each) for each in tf.nest.flatten(x) if each.dtype.is_floating]
            squares = {path: _added(each) for path, each in self.seen.items()}
            return loss, [tf.convert_to_tensor(g) for g in gradients], _added(inputs), squares

        if not on_tensorflow(self.model):
            compute = self._step_elsewhere(weights, traced)
        else:
            compute = tf.function(step, input_signature=[spec]) if traced else step
        examples, loss, gradients = 0, 0.0, [np.zeros(())] * len(weights)
        inputs, squares = np.zeros(2), {path: np.zeros(2) for path in self.kernels}
        for batch in read:
            size = int(tf.nest.flatten(batch)[0].shape[0])
            value, found, of_inputs, seen = tf.nest.map_structure(_wide, compute(batch))
            examples, loss, inputs = examples + size, loss + size * value, inputs + of_inputs
            gradients = [total + size * g for total, g in zip(gradients, found, strict=True)]
            for path, each in seen.items():
                squares[path] += each
        each_gradient = iter(gradients)
        layers = []
        for path, held in self.kernels.items():
            square = sum(float(np.sum(next(each_gradient) ** 2)) for _ in held)
            gradient = float(np.sqrt(square)) / examples
            layers.append(LayerSignal(path, _mean(squares[path]), gradient, self.kept[path]))
        return Signal(layers, float(loss / examples), _mean(inputs))

    def _step_elsewhere(self, weights: Sequence[Any], traced: bool) -> Callable[[Any], Any]:
        """The step of a model of another backend than TensorFlow."""

        def beside() -> dict[str, Any]:
            return {path: _added(each) for path, each in self.seen.items()}

        compute = with_gradients(value_of(self.model, weights, self.objective, beside))

        def on(values: Any, batch: Any) -> Any:
            self.seen.clear()
            (loss, squares), gradients = compute(values, batch)
            x = keras3.utils.unpack_x_y_sample_weight(batch)[0]
            inputs = [_squares(each) for each in tf.nest.flatten(x) if is_floating(each)]
            return loss, gradients, _added(inputs), squares

        run = compiled(on) if traced else on
        return lambda batch: run([*map(keras3.ops.convert_to_tensor, weights)], as_tensors(batch))


def _squares(values: Any) -> tuple[Any, Any]:
    """The sum of the squares of some values, and their number."""
    ops = ops_for(values)
    values = ops.cast(values, at_least_float32(values.dtype))
    return ops.sum(ops.square(values)), ops.size(values)


def _added(pairs: Sequence[tuple[Any, Any]]) -> Any:
    """The sum of such pairs. float64 [2], on JAX float32."""
    if not pairs:
        return np.zeros(2)
    ops = ops_for(pairs[0][0])
    square = functools.reduce(operator.add, (widened(square) for square, _ in pairs))
    number = functools.reduce(operator.add, (ops.cast(size, square.dtype) for _, size in pairs))
    return ops.stack([square, number])


def _mean(total: np.ndarray) -> float | None:
    return float(total[0] / total[1]) if total[1] else None


def _wide(tensor: Any) -> np.ndarray:
    return keras3.ops.convert_to_numpy(tensor).astype(np.float64)
