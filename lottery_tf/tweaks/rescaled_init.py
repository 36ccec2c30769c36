"""Layer-wise re-scaled initialisation: a learned factor for each weight tensor of a ticket."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import tensorflow as tf

from lottery_tf.common.devices import from_chief
from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted, log
from lottery_tf.graph.compat import backend_of, keras, scope_of
from lottery_tf.graph.copies import copy_layer
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import assign, check_graph, named_variables
from lottery_tf.graph.optimizers import kind_of
from lottery_tf.graph.signal_paths import unnormalised
from lottery_tf.graph.step_checks import step_checks
from lottery_tf.losses.derivatives import (
    as_watched,
    differentiable,
    is_offset,
    missing_derivatives_told,
    mistakes_with,
    reason,
)
from lottery_tf.losses.objective import Objective, batches_for, losses_of, objective_on
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prune_by_mask import get_masks
from lottery_tf.masks.wrapper import masked_by_us, remake, set_masks
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.tweaks.scaling import scaled
from lottery_tf.tweaks.settings import MAX_NORMS, STEP_SIZES, RescaledInitSettings
from lottery_tf.tweaks.tweak import Tweak
from lottery_tf.tweaks.virtual_step import after_step

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8  # of the Adam that learns the scales
_JUDGED_EVERY = 10  # iterations


@dataclasses.dataclass(frozen=True)
class RescaledInit(RescaledInitSettings, Tweak):
    """Layer-wise re-scaled initialisation by GradInit (Zhu et al. 2021, arXiv 2102.08098).

    Each trainable tensor θ_l is multiplied by a learned scalar c_l. With θ_c the scaled weights,
    B a batch, B̃ half of it with half of the next one, and A[g] = g/‖g‖₂ for SGD, sign(g) for Adam:

        minimise over c  L(B̃; θ_c − η·A[∇L(B; θ_c)])  subject to  ‖∇L(B; θ_c)‖₂ ≤ γ.

    An iteration that finds the norm above γ minimises the norm instead; for Adam it is ‖·‖₁. The
    derivative also goes through A[∇L], which the released code leaves out. As in that code, the
    loss is divided by η and each scale's derivative is clipped. The Adam that learns c has a first
    moment for each of the two objectives, and one second moment for both.

    Every ten iterations c is judged on the first two batches: within γ by the loss after the step,
    else by the norm. The best c so far is kept; c = 1 is a candidate too. The search ends when for
    ``patience`` iterations none was better by 1 % and no scale has gone a quarter of the way that
    it could.

    With ``keep_signal`` no c is tried that passes less signal than c = 1. Without it, a network
    that passes nothing would meet the bound on the gradient.

    L is the loss given to ``prepare``, or ``criterion``, as in ``losses.objective.Objective``;
    smoothed labels, distillation and regularizers are left out. BatchNorm uses the batch's
    statistics and does not change its moving ones. Dropout layers drop nothing; other noise
    (GaussianNoise, noise in recurrent layers) stays. Pruned weights are in neither norm nor step. A
    tensor of zeros, such as a new bias, keeps c = 1. Every operation between the weights and the
    loss must have a second derivative.

    ``optimizer`` has to be the one that trains, as A is the direction of its first step. The model
    is not compiled yet when the search runs, so that only ``lottery-tf retrain`` knows it.

    Raises:
      UsageError: for a field out of its range. In ``change`` also as ``find_scales``, and for an
        ``order`` of search_first without a dense ticket of this network.
    """

    permanent: ClassVar[bool] = True

    # The loss and its weights, set by ``prepare``.
    trained_by: tuple[Any, Any] = dataclasses.field(default=(None, None), compare=False, repr=False)

    def for_loss(self, loss: Any, loss_weights: Any = None) -> "RescaledInit":
        return dataclasses.replace(self, trained_by=(loss, loss_weights))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.criterion is not None:
            try:
                losses_of(self.criterion)
            except UsageError:
                losses_of(self.criterion, keras3)  # it has names that tf_keras lacks

    def for_training_by(self, optimizer: str) -> "RescaledInit":
        """The tweak with defaults for optimizer, step size and bound: those of sgd or else adam."""
        optimizer = self.optimizer or ("sgd" if optimizer == "sgd" else "adam")
        norm = self.norm or ("l2" if optimizer == "sgd" else "l1")
        return dataclasses.replace(
            self,
            optimizer=optimizer,
            step_size=self.step_size or STEP_SIZES[optimizer],
            norm=norm,
            max_norm=self.max_norm or MAX_NORMS[norm],
        )

    def attach(self, model: keras.Model) -> None:
        trains = getattr(model, "optimizer", None)
        if trains is not None and self.optimizer is None and kind_of(trains) != "SGD":
            log.warning(
                f"rescaled_init assumed a step of SGD, but {kind_of(trains)} trains: give "
                'RescaledInit(optimizer="adam"), or "sgd" if that was meant.'
            )

    def change(self, model: keras.Model, data: tf.data.Dataset | None = None) -> keras.Model:
        return self.apply(model, data)[0]

    def apply(
        self, model: keras.Model, data: tf.data.Dataset | None = None
    ) -> tuple[keras.Model, dict[str, Any]]:
        """The scaled copy, and the content of ``Scales`` without ``losses`` and ``norms``."""
        found = find_scales(self._searched(model), data, self, *self.trained_by)
        chosen = from_chief(np.array(list(found.scales.values())))
        scales = dict(zip(found.scales, chosen.tolist(), strict=True))
        learned = {"scales": scales, "loss": list(found.loss), "norm": list(found.norm)}
        return scaled(model, scales), {
            **learned,
            "iterations": len(found.norms),
            "converged": found.converged,
        }

    def _searched(self, model: keras.Model) -> keras.Model:
        """The model for which scales are searched."""
        if self.order == "mask_first":
            return model
        if self.dense is None:
            raise UsageError(
                "Expected the folder of the dense ticket to search with `rescaled_init_order="
                "search_first`: give `rescaled_init_dense`."
            )
        dense = Ticket.load(self.dense)
        copy = remake(masked_by_us(model), copy_layer)
        shapes = {name: variable.shape for name, variable in named_variables(copy).items()}
        odd = [name for name in dense.masks if not dense.masks[name].all()]
        if odd or {name: value.shape for name, value in dense.weights.items()} != shapes:
            raise UsageError(
                f"Expected the dense ticket of '{model.name}' at {self.dense}, to search its "
                "scales; it is pruned or of another network."
            )
        set_masks(copy, Masks.ones({name: mask.shape for name, mask in get_masks(copy).items()}))
        assign(copy, dense.weights)
        return copy


class _Diverged(RuntimeError):
    """A search with NaN or infinite values."""


@dataclasses.dataclass(frozen=True)
class Scales:
    """The result of a search.

    Attributes:
      scales: name of a trainable variable → c_l.
      losses: L(B̃; θ_c − η·A) at each iteration; NaN if it minimised the norm.
      norms: ‖∇L(B; θ_c)‖ at each iteration, of the kind that is bounded.
      loss: that loss on the first two batches, for c = 1 and for the scales found.
      norm: that norm on the first batch, for c = 1 and for the scales found.
      best: the iteration that had the scales; 0 if none were better than c = 1.
      converged: whether the search ended by itself, before its last iteration.
    """

    scales: dict[str, float]
    losses: tuple[float, ...]
    norms: tuple[float, ...]
    loss: tuple[float, float]
    norm: tuple[float, float]
    best: int
    converged: bool


def find_scales(
    model: keras.Model,
    data: tf.data.Dataset,
    settings: RescaledInit | None = None,
    loss: Any = None,
    loss_weights: Any = None,
) -> Scales:
    """Searches scales for the weights of a copy of ``model``, and logs a line with the result.

    The same model and the same batches give the same scales; they are equal bit for bit after
    ``lottery_tf.training.trainer.make_deterministic()``.

    Args:
      model: a built Sequential or functional model, masked or dense; it is left as it is.
      data: batches (inputs, labels), optionally with weights of the examples, or inputs alone for
        a model with losses of its own. At most ``iterations`` + 2 are read; finite data are
        repeated. Inputs and labels may be a tensor, a tuple or a dictionary.
      settings: default: ``RescaledInit()``.
      loss, loss_weights: as ``compile`` takes them. Default: the criterion of ``settings``, else
        the cross-entropy on logits or probabilities as the model gives them.

    Raises:
      UsageError: for data of another form or that do not fit the model, and for a model without
        trainable weights.
      RuntimeError: if a gradient becomes NaN or infinite.
    """
    check_graph(model)
    settings = (settings or RescaledInit()).for_training_by("sgd")
    model = differentiable(masked_by_us(model))
    trained_by = _trained_by(model, data, loss or settings.criterion, loss_weights)
    stream = batches_for(trained_by, data)
    trainable = {id(variable) for variable in model.trainable_variables}
    named = {n: each for n, each in named_variables(model).items() if id(each) in trainable}
    if not named:
        raise UsageError(f"Expected trainable weights to rescale; '{model.name}' has none.")
    try:
        told = missing_derivatives_told(model, "Leave rescaled_init out.")
        with told, scope_of(model), step_checks():
            weights = [as_watched(model, variable) for variable in named.values()]
            sgd, l1 = settings.optimizer == "sgd", settings.norm == "l1"
            step_size = cast(float, settings.step_size)  # set by for_training_by
            objective = after_step(trained_by, weights, data.element_spec, sgd, step_size, l1)
            space = _space_of(model, list(named), settings)
            log.info(
                "rescaled_init: searching, at most %s", counted(settings.iterations, "iteration")
            )
            c, *found = _search(objective, stream, space, settings)
    except UsageError:
        raise
    except mistakes_with(model) as error:
        if isinstance(error, _Diverged):
            raise
        raise UsageError(
            f"Expected batches (inputs, labels) that fit the model '{model.name}' and the loss; "
            f"for {data.element_spec} {backend_of(model)} says: {reason(error)}. For another loss "
            "than the cross-entropy, give recipe.prepare(model, data, loss=…)."
        ) from error
    result = Scales(dict(zip(named, c.tolist(), strict=True)), *found)
    _tell(result, settings)
    return result


def _tell(found: Scales, settings: RescaledInit) -> None:
    """Logs a line with the result of a search, and one if the bound was hard to meet."""
    c, bound = list(found.scales.values()), cast(float, settings.max_norm)
    log.info(
        "rescaled_init: %s after %s (best at %s): scales %.3g to %.3g, median %.3g; loss after the "
        "first step %.4g → %.4g, gradient norm %.4g → %.4g",
        "converged" if found.converged else "stopped at its limit",
        *(counted(len(found.norms), "iteration"), found.best),
        *(min(c), max(c), statistics.median(c), *found.loss, *found.norm),
    )
    if found.norm[1] > bound:
        log.warning(
            "rescaled_init: the gradient's norm is still %.4g, above its bound of %g.",
            *(found.norm[1], bound),
        )
    elif found.loss[1] > found.loss[0]:
        log.info(
            "rescaled_init: the norm met its bound of %g at the price of a higher loss after the "
            "first step.",
            bound,
        )


def _trained_by(model: keras.Model, data: Any, loss: Any, loss_weights: Any) -> Objective:
    who = "rescaled_init, as in recipe.prepare(model, data)"
    try:
        return objective_on(model, data, loss, who, loss_weights)
    except UsageError as error:
        if loss is not None or not isinstance(data, tf.data.Dataset):
            raise
        raise UsageError(
            f"{error} For the search for scales give it to recipe.prepare(model, data, loss=…), or "
            "its name to RescaledInit(criterion=…)."
        ) from error


@dataclasses.dataclass(frozen=True)
class _Space:
    """The allowed scales: at least ``lowest`` [n], and with a geometric mean of at least 1 at the
    places ``signal``."""

    lowest: np.ndarray
    signal: np.ndarray

    def nearest(self, c: np.ndarray) -> np.ndarray:
        """The allowed scales that are nearest to ``c``."""
        c = np.maximum(c, self.lowest)
        if len(self.signal):
            mean = float(np.mean(np.log(np.maximum(c[self.signal], 1e-30))))
            if mean < 0:
                c[self.signal] *= math.exp(-mean)
        return c


def _space_of(model: keras.Model, names: Sequence[str], settings: RescaledInit) -> _Space:
    """The allowed scales of the weights with these names."""
    lowest = [
        0.0 if is_offset(n) else settings.min_gamma if _is_gamma(n) else settings.min_scale
        for n in names
    ]
    free = unnormalised(model, hidden=True) if settings.keep_signal else set()
    signal = [i for i, name in enumerate(names) if name in free and "kernel" in name]
    return _Space(np.array(lowest), np.array(signal, int))


def _is_gamma(name: str) -> bool:
    return name.rpartition("/")[2].partition("_")[0] == "gamma"


@dataclasses.dataclass(frozen=True)
class _Reached:
    """Scales with their loss and norm on the first batches."""

    iteration: int
    c: np.ndarray
    loss: float
    norm: float

    def measure(self, bound: float) -> tuple[bool, float]:
        """A measure to minimise: within the bound the loss after a step, else the norm."""
        above = self.norm > bound
        return above, self.norm if above else self.loss


def _search(
    objective: Callable[..., Any],
    stream: Iterator[Any],
    space: _Space,
    settings: RescaledInit,
) -> tuple[Any, ...]:
    """GradInit's Adam on c, projected; c [n] and the other fields of ``Scales`` in their order."""
    bound, step_size = cast(float, settings.max_norm), cast(float, settings.step_size)
    c = np.ones(len(space.lowest))
    losses: list[float] = []
    norms: list[float] = []
    first = batch, following = next(stream), next(stream)

    def reached(iteration: int) -> _Reached:
        loss, norm, _ = objective(c, *first, math.inf)
        return _Reached(iteration, c, float(loss), float(norm))

    start = best = settled = reached(0)
    means, square, counts = np.zeros((2, len(c))), np.zeros(len(c)), [0, 0]
    converged, turns = False, math.ceil(settings.patience / _JUDGED_EVERY)
    trail = [c]  # the judged scales of the last turns, and one before
    while len(norms) < settings.iterations and not converged:
        results = objective(c, batch, following, bound)
        loss, norm, derivative = map(np.asarray, results)
        if not np.isfinite([norm, *derivative]).all():
            raise _Diverged(
                f"The search for scales diverged at iteration {len(norms) + 1}: the gradient's "
                f"norm is {norm:g}, the loss {loss:g}. If weights and data are finite, a lower "
                "learning_rate or step_size may help."
            )
        losses.append(float(loss))
        norms.append(float(norm))
        which = int(norm > bound)  # the objective: the loss (divided by η), or the norm
        derivative = np.clip(
            derivative if which else derivative / step_size, *_clip_bounds(settings)
        )
        counts[which] += 1
        means[which] += (1 - _BETA_1) * (derivative - means[which])
        square += (1 - _BETA_2) * (derivative**2 - square)
        size = np.sqrt(square / (1 - _BETA_2 ** sum(counts))) + _EPSILON
        step = means[which] / (1 - _BETA_1 ** counts[which]) / size
        c = space.nearest(c - settings.learning_rate * step)
        batch, following = following, next(stream)
        if len(norms) % _JUDGED_EVERY and len(norms) < settings.iterations:
            continue
        now = reached(len(norms))
        if not np.isfinite([*c, now.loss, now.norm]).all():
            raise _Diverged(
                "The search for scales diverged: scales, loss or gradient are not finite. A lower "
                "learning_rate or step_size may help."
            )
        if now.measure(bound) < best.measure(bound):
            best = now
            above, value = settled.measure(bound)
            if now.measure(bound) < (above, value - 0.01 * abs(value)):
                settled = now
        # A network without a signal shows no progress until one passes: drift keeps the search on.
        drift = np.abs(c - trail[0]).max() if len(trail) > turns else math.inf
        trail = [*trail, c][-turns - 1 :]
        still = bool(drift < settings.learning_rate * settings.patience / 4)
        converged = still and len(norms) - settled.iteration >= settings.patience
    ends = [(start.loss, best.loss), (start.norm, best.norm)]
    return best.c, tuple(losses), tuple(norms), *ends, best.iteration, converged


def _clip_bounds(settings: RescaledInit) -> tuple[float, float]:
    return -settings.clip, settings.clip
