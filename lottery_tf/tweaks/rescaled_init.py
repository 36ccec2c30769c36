"""Layer-wise re-scaled initialisation: a learned factor for each weight tensor of a ticket."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, cast

import numpy as np
import tensorflow as tf

from lottery_tf.common.devices import from_chief
from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log
from lottery_tf.graph.compat import keras
from lottery_tf.graph.copies import copy_layer
from lottery_tf.graph.layers import check_graph, named_variables
from lottery_tf.graph.step_checks import step_checks
from lottery_tf.losses.cross_entropy import default_loss
from lottery_tf.losses.derivatives import batches_of, differentiable, is_offset, losses_of, reason
from lottery_tf.masks.wrapper import masked_by_us, remake
from lottery_tf.tweaks.settings import STEP_SIZES, RescaledInitSettings
from lottery_tf.tweaks.tweak import Tweak
from lottery_tf.tweaks.virtual_step import objective_of

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8  # of the Adam that learns the scales


@dataclasses.dataclass(frozen=True)
class RescaledInit(RescaledInitSettings, Tweak):
    """Layer-wise re-scaled initialisation by GradInit (Zhu et al. 2021, arXiv 2102.08098).

    Each trainable tensor θ_l is multiplied by a learned scalar c_l. With θ_c the scaled weights,
    B a batch, B̃ half of it with half of the next one, and A[g] = g/‖g‖₂ for SGD, sign(g) for Adam:

        minimise over c  L(B̃; θ_c − η·A[∇L(B; θ_c)])  subject to  ‖∇L(B; θ_c)‖₂ ≤ γ.

    An iteration that finds the norm above γ minimises the norm instead. The derivative goes
    through A[∇L] too, which the released code leaves out. As there, each of the two objectives
    has moments of its own in the Adam that learns c, and Dropout layers drop nothing; other noise
    (GaussianNoise, in recurrent layers) is taken as it comes.

    L is the plain loss: smoothed labels, distillation and the model's own ``losses``
    (regularizers) are left out. BatchNorm takes the batch's statistics and keeps its moving ones.
    Pruned weights are in neither norm nor step. A tensor of zeros, such as a new bias, keeps
    c = 1. Every operation on the weights' way to the loss must have a second derivative.

    ``optimizer`` is to be the one that trains: A is the direction of its first step. The model is
    not compiled yet when the search runs, so that only ``lottery-tf retrain`` knows it by itself.

    Raises:
      UsageError: for a field out of its range; by ``change``, as ``find_scales`` does.
    """

    permanent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        losses_of(self.criterion)

    def for_training_by(self, optimizer: str) -> "RescaledInit":
        """With an optimizer and a step size where none is given, sgd's or else adam's."""
        optimizer = self.optimizer or ("sgd" if optimizer == "sgd" else "adam")
        step_size = self.step_size or STEP_SIZES[optimizer]
        return dataclasses.replace(self, optimizer=optimizer, step_size=step_size)

    def attach(self, model: keras.Model) -> None:
        trains = getattr(model, "optimizer", None)
        kind = type(getattr(trains, "inner_optimizer", trains)).__name__
        if trains is not None and self.optimizer is None and kind != "SGD":
            log.warning(
                f"rescaled_init looked at a step of SGD, and {kind} trains: say "
                'RescaledInit(optimizer="adam"), or "sgd" if that was meant.'
            )

    def change(self, model: keras.Model, data: tf.data.Dataset | None = None) -> keras.Model:
        return self.apply(model, data)[0]

    def apply(
        self, model: keras.Model, data: tf.data.Dataset | None = None
    ) -> tuple[keras.Model, dict[str, Any]]:
        """The scaled copy; the scales by the names of the variables, ``loss`` and ``norm`` of
        ``Scales``."""
        found = find_scales(model, data, self)
        chosen = from_chief(np.array(list(found.scales.values())))
        scales = dict(zip(found.scales, chosen.tolist(), strict=True))
        copy = remake(model, copy_layer)
        with copy.distribute_strategy.scope():
            for name, variable in named_variables(copy).items():
                if name in scales:
                    variable.assign(variable * tf.constant(scales[name], variable.dtype))
        return copy, {"scales": scales, "loss": list(found.loss), "norm": list(found.norm)}


@dataclasses.dataclass(frozen=True)
class Scales:
    """What a search has found.

    Attributes:
      scales: name of a trainable variable → c_l.
      losses: L(B̃; θ_c − η·A) at each iteration; NaN where it minimised the norm.
      norms: ‖∇L(B; θ_c)‖₂ at each iteration.
      loss: that loss on the first two batches, for c = 1 and for the scales found.
      norm: that norm on the first batch, likewise.
    """

    scales: dict[str, float]
    losses: tuple[float, ...]
    norms: tuple[float, ...]
    loss: tuple[float, float]
    norm: tuple[float, float]


def find_scales(
    model: keras.Model,
    data: tf.data.Dataset,
    settings: RescaledInit | None = None,
    loss: Any = None,
) -> Scales:
    """Searches scales for ``model``'s weights in a copy of it, and logs a line of what it found.

    The same model and the same batches give the same scales; to the last bit after
    ``lottery_tf.training.trainer.make_deterministic()``.

    Args:
      model: a built Sequential or functional model, masked or dense; it is left as it is.
      data: batches (inputs, labels), of which ``iterations`` + 2 are read, those of finite data
        again and again. Either may be a tensor, a tuple or a dictionary; the losses of several
        outputs are added up.
      settings: default: ``RescaledInit()``.
      loss: its mean over a batch is L; one loss, or a list or dictionary of one for each output.
        Default: that of ``settings``, else the cross-entropy on logits or probabilities as the
        model has them.

    Raises:
      UsageError: for data of another form or that do not fit the model, and for a model without
        trainable weights.
      RuntimeError: if a gradient becomes NaN or infinite.
    """
    check_graph(model)
    settings = (settings or RescaledInit()).for_training_by("sgd")
    stream = batches_of(data, "rescaled_init, as in recipe.prepare(model, data)")
    model = differentiable(masked_by_us(model))
    loss = losses_of(loss or settings.criterion) or _default_loss(model)
    trainable = {variable.ref() for variable in model.trainable_variables}
    named = {n: each for n, each in named_variables(model).items() if each.ref() in trainable}
    if not named:
        raise UsageError(f"Expected trainable weights to rescale; '{model.name}' has none.")
    try:
        # A replica's own variables can be differentiated by and assigned from outside of it.
        with model.distribute_strategy.scope(), step_checks():
            local = model.distribute_strategy.experimental_local_results
            weights = [local(variable)[0] for variable in named.values()]
            sgd = settings.optimizer == "sgd"
            step_size = cast(float, settings.step_size)  # which for_training_by has set
            objective = objective_of(model, weights, loss, data.element_spec, sgd, step_size)
            lowest = [0.0 if is_offset(name) else settings.min_scale for name in named]
            c, *found = _search(objective, stream, np.array(lowest), settings)
    except UsageError:
        raise
    except (KeyError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise UsageError(
            f"Expected batches (inputs, labels) that fit the model '{model.name}' and the loss; "
            f"of {data.element_spec} TensorFlow says: {reason(error)}. Another loss than the "
            "cross-entropy is named by RescaledInit(criterion=…)."
        ) from error
    except Exception as error:  # AutoGraph makes of a LookupError one of a type of its own
        if "gradient registry" not in str(error):
            raise
        raise UsageError(
            f"Expected operations with a second derivative in '{model.name}', which the search for "
            f"scales needs; TensorFlow says: {reason(error)}. Leave rescaled_init out."
        ) from error
    result = Scales(dict(zip(named, c.tolist(), strict=True)), *found)
    log.info(
        f"rescaled_init: {settings.iterations} iterations: scales {min(c):.3g} to {max(c):.3g}, "
        f"median {statistics.median(c):.3g}; loss after the first step {result.loss[0]:.4g} → "
        f"{result.loss[1]:.4g}, gradient norm {result.norm[0]:.4g} → {result.norm[1]:.4g}"
    )
    return result


def _default_loss(model: keras.Model) -> keras.losses.Loss:
    try:
        return default_loss(model)
    except UsageError as error:
        raise UsageError(
            f"{error} That of the search for scales is named by RescaledInit(criterion=…)."
        ) from error


def _search(
    objective: Callable[..., Any],
    stream: Iterator[tuple[Any, Any]],
    lowest: np.ndarray,
    settings: RescaledInit,
) -> tuple[Any, ...]:
    """Projected Adam on c; returns c [n] and the other fields of ``Scales`` in their order."""
    c, losses, norms = np.ones(len(lowest)), [], []
    moments, counts = np.zeros((2, 2, len(c))), [0, 0]  # [objective, first or second, n]
    first = batch, following = next(stream), next(stream)
    before = objective(c, *first, math.inf)
    for iteration in range(1, settings.iterations + 1):
        results = objective(c, batch, following, settings.max_norm)
        loss, norm, gradient = (each.numpy() for each in results)
        if not np.isfinite([norm, *gradient]).all():
            raise RuntimeError(
                f"The search for scales diverged at iteration {iteration}: the gradient's norm is "
                f"{norm:g}, the loss {loss:g}. If weights and data are finite, a lower "
                "learning_rate or step_size may help."
            )
        losses.append(float(loss))
        norms.append(float(norm))
        gradient = gradient * min(
            1.0, settings.clip / max(float(np.linalg.norm(gradient)), _EPSILON)
        )
        which = int(norm > settings.max_norm)
        counts[which] += 1
        mean, square = moments[which]  # views
        mean += (1 - _BETA_1) * (gradient - mean)
        square += (1 - _BETA_2) * (gradient**2 - square)
        size = np.sqrt(square / (1 - _BETA_2 ** counts[which])) + _EPSILON
        step = mean / (1 - _BETA_1 ** counts[which]) / size
        c = np.maximum(c - settings.learning_rate * step, lowest)
        batch, following = following, next(stream)
    after = objective(c, *first, math.inf)
    if not np.isfinite([*c, *(float(end) for end in after[:2])]).all():
        raise RuntimeError(
            "The search for scales diverged in its last iteration: scales, loss or gradient are "
            "not finite. A lower learning_rate or step_size may help."
        )
    ends = (tuple(float(end[place]) for end in (before, after)) for place in (0, 1))
    return c, tuple(losses), tuple(norms), *ends
