"""Masks without training: score the weights, keep the largest, in one round or several."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError, mistakes_at
from lottery_tf.common.log import log, some
from lottery_tf.common.settings import nearest, one_of
from lottery_tf.common.summary import percent
from lottery_tf.finding.scores import METHODS, TRAINING, Method, Score
from lottery_tf.finding.scores.network import Network
from lottery_tf.finding.settings import BATCHES
from lottery_tf.graph.compat import keras
from lottery_tf.graph.fit_data import batches as fit_batches
from lottery_tf.graph.layers import check_finished, check_graph, check_of_its_keras
from lottery_tf.losses.labels import checked_labels, with_class_weight
from lottery_tf.losses.objective import objective_on
from lottery_tf.masks.allocate import (
    check_reachable,
    check_sparsity,
    check_structure,
    prune_to,
    target_of,
)
from lottery_tf.masks.kernel_axes import structured
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prune_by_mask import get_masks
from lottery_tf.masks.settings import PrunableSettings
from lottery_tf.masks.structure import UNSTRUCTURED, Structure, parse
from lottery_tf.masks.wrapper import all_kept, log_left_dense, set_masks, wrap
from lottery_tf.tickets.origin import FOUND_WITH, described
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.trouble import are_finite

_NOT_ASKED = ("model", "data", "method")  # of the arguments: all others go into a ticket's info


def prune(
    model: keras.Model,
    method: str | Score,
    sparsity: float | None = None,
    data: Any = None,
    *,
    loss: Any = None,
    loss_weights: Any = None,
    class_weight: Mapping[int, float] | None = None,
    scope: str = "global",
    structure: str = UNSTRUCTURED.text,
    min_kept: int = 0,
    rounds: int | None = None,
    batches: int = BATCHES,
    seed: int = 0,
    prune_layers: tuple[str, ...] = PrunableSettings.prune_layers,
    keep_dense: tuple[str, ...] = PrunableSettings.keep_dense,
) -> Ticket:
    """A ticket with ``model``'s present weights, pruned by their scores.

    Args:
      model: a Sequential or functional model of tf_keras or Keras 3. It is not changed, except
        that an unbuilt Sequential is built for ``data``. If it has masks, they are pruned further.
      method: a name of ``lottery_tf.finding.scores.METHODS``: omp, snip, iterative_snip, grasp,
        synflow, random, erk, or one given to ``lt.register_method``. Or a user's own score, a
        function from a ``Network`` to an array for each prunable weight.
      sparsity: share of the prunable weights that is pruned afterwards, in [0, 1); exact. With a
        structure of blocks or channels it is the share of these; with M:N it may be left out.
      data: (inputs, labels) for snip, iterative_snip and grasp, in a form that ``fit`` takes, as in
        ``graph.fit_data.batches``. They may have weights of the examples. For a model with losses
        of its own (``add_loss``) they may be inputs alone.
      loss, loss_weights, class_weight: for these methods, as ``compile`` and ``fit`` take them. L
        is the mean over the batches. Default: cross-entropy.
      scope: rank all weights together ("global"), in each layer ("layerwise"), or in each layer
        with ERK's budgets ("erk").
      structure: which weights are pruned together, or how many of a group stay: "unstructured",
        "2:4", "block:4x1", "block:4x1:max", "channel" (``lottery_tf.masks.structure``).
      min_kept: the least number of weights in each layer, whatever the sparsity.
      rounds: rounds of scoring and pruning; the density falls by the same factor in each. Default:
        100 for synflow and iterative_snip, else 1.
      batches: the most batches of ``data`` to read.
      seed: seed of the random methods, and of the choice of examples from arrays.
      prune_layers, keep_dense: which weights may be pruned, as in ``PrunableSettings``.

    Raises:
      UsageError: for settings out of range, a method that trains, and data that are missing or do
        not fit. Also for kernels that do not fit the structure, and scores that are all 0.
      RuntimeError: if scores are not finite.
    """
    given = {name: value for name, value in locals().items() if name not in _NOT_ASKED}
    if (target := target_of(parse(structure), sparsity)) is None:
        raise UsageError("Expected `sparsity`, the share of the prunable weights to prune.")
    if data is not None:
        data = fit_batches(data, model, "data", seed)
    check_graph(model)
    check_finished(model)
    check_of_its_keras(model, loss=loss)
    if class_weight is not None and data is not None:
        asked = objective_on(model, data, loss, "class_weight")  # to check the labels
        data = with_class_weight(checked_labels(data, model, asked.loss), class_weight, model)
    masks = get_masks(model)
    if masks:
        log_left_dense(model, masks)
    else:
        masks = all_kept(model, PrunableSettings(prune_layers, keep_dense))
    together = structured(model, masks, structure)
    masks = draw_masks(
        *(model, masks, method, target, data, loss, scope, rounds),
        batches=batches,
        seed=seed,
        structure=together,
        min_kept=min_kept,
        loss_weights=loss_weights,
    )
    found_with = {**described(given), "method": _name_of(method), "sparsity": target}
    info = {"method": _name_of(method), "model": model.name, FOUND_WITH: found_with}
    return Ticket.of(model, masks, info | together.info)


def draw_masks(
    model: keras.Model,
    masks: Masks,
    method: str | Score,
    sparsity: float,
    data: tf.data.Dataset | None = None,
    loss: Any = None,
    scope: str = "global",
    rounds: int | None = None,
    batches: int = BATCHES,
    seed: int = 0,
    loss_weights: Any = None,
    structure: Structure = UNSTRUCTURED,
    min_kept: int = 0,
) -> Masks:
    """The masks nested in ``masks`` that ``method`` finds; the other arguments are ``prune``'s.

    From density d to ρ, round i of n leaves d·(ρ/d)^(i/n). A warning names layers without any
    weight left, and the highest sparsity that would avoid it. That sparsity is found from the
    scores of the round that empties a layer.
    """
    if method in TRAINING:
        raise UsageError(
            f"Expected a method that needs no training, {one_of(METHODS)}, not {method}: "
            f"lt.find_tickets(model, train_data, method='{method}', …) trains."
        )
    if not callable(method) and method not in METHODS:
        raise UsageError(
            f"A method is one of {one_of(METHODS)}, not '{method}'{nearest(method, METHODS)}."
        )
    check_sparsity(sparsity)
    found = Method(method) if callable(method) else METHODS[method]
    method = _name_of(method)
    scope, rounds = found.scope or scope, found.rounds if rounds is None else rounds
    check_structure(structure, scope, min_kept)
    check_reachable(sparsity, masks, scope, structure)
    for name, number in (("rounds", rounds), ("batches", batches)):
        if number < 1:
            raise UsageError(f"Expected `{name}` of 1 or more, not {number}.")
    network = Network(wrap(model, masks), data, loss, batches, seed, loss_weights)
    # Layerwise, and with M:N, the masks may be sparser already than the sparsity asked for.
    density, safe = max(1 - structure.units(masks).sparsity, 1 - sparsity), None
    for i in range(1, rounds + 1):
        target = (
            1 - density * ((1 - sparsity) / density) ** (i / rounds) if i < rounds else sparsity
        )
        scores, values = found.score(network), network.values()
        _check_scores(scores, masks, method)
        odd = [n for n in scores if not are_finite((np.asarray(scores[n]), values[n]))]
        if odd:
            raise RuntimeError(
                f"The scores of {method} are not finite for {some(odd)}: the weights or data are "
                "not finite, or products of the weights exceed the range of floating-point numbers."
            )
        before = masks
        with mistakes_at(method if rounds == 1 else f"{method}, round {i} of {rounds}"):
            masks = prune_to(scores, masks, target, scope, structure, min_kept)
        if safe is None:
            safe = highest_without_collapse(scores, before, masks, scope, structure)
        set_masks(network.model, masks)
    units, ranked = structure.units(masks), structure.pooled(scores, masks)
    zeros = sum(int(np.count_nonzero(ranked[name][unit] == 0)) for name, unit in units.items())
    if zeros and masks.kept < masks.total:
        log.warning(
            "%s: %s of the %s %s that stay have a score of 0; they were chosen only by their "
            "order.",
            *(method, f"{zeros:,}", f"{units.kept:,}", structure.noun),
        )
    warn_of_collapse(masks, safe, structure)
    tell_min_kept(min_kept, masks, sparsity, scope, structure)
    return masks


def _name_of(method: str | Score) -> str:
    return method if isinstance(method, str) else getattr(method, "__name__", repr(method))


def _check_scores(scores: Any, masks: Masks, method: str) -> None:
    """Raises UsageError unless there is exactly one array for each weight, of its shape."""
    wanted = {name: mask.shape for name, mask in masks.items()}
    given = {name: np.shape(array) for name, array in dict(scores).items()}
    if odd := [name for name in wanted | given if wanted.get(name) != given.get(name)]:
        raise UsageError(
            f"Expected scores of {method} for each prunable weight, of its shape; {some(odd)} does "
            "not fit: return an array for each name of network.values()."
        )


def tell_min_kept(
    min_kept: int, masks: Masks, sparsity: float, scope: str, structure: Structure
) -> None:
    """Logs a line if ``min_kept`` has kept more than the sparsity asked for would leave."""
    if not min_kept or structure.sparsity is not None:
        return
    units = structure.units(masks)
    sizes = [m.size for m in units.values()] if scope == "layerwise" else [units.total]
    asked = sum(size - round(sparsity * size) for size in sizes)
    if units.kept > asked:
        log.info(
            "min_kept=%s keeps %s %s, %s more than the sparsity asked for, %s: it is %s.",
            *(min_kept, f"{units.kept:,}", structure.noun, f"{units.kept - asked:,}"),
            *(percent(sparsity), percent(units.sparsity)),
        )


def warn_of_collapse(
    masks: Masks, safe: float | None = None, structure: Structure = UNSTRUCTURED
) -> None:
    """Logs a line that names the layers without any weight left, if there are some.

    Args:
      masks: the masks found.
      safe: the highest known sparsity (of the structure's units) at which each layer keeps a
        weight.
      structure: the structure of the masks.
    """
    if masks.collapsed:
        of = f" of the {structure.noun}" if structure.noun != UNSTRUCTURED.noun else ""
        log.warning(
            "Nothing is left of %s at a sparsity of %.2f %%: no signal passes there.%s",
            some(masks.collapsed),
            100 * masks.sparsity,
            ""
            if safe is None
            else f" Up to {math.floor(1e4 * safe) / 100} %{of} each layer keeps a weight.",
        )


def highest_without_collapse(
    scores: Mapping[str, np.ndarray],
    before: Masks,
    after: Masks,
    scope: str,
    structure: Structure = UNSTRUCTURED,
) -> float | None:
    """The highest sparsity at which the scores leave each layer a weight, to 0.005 %.

    Args:
      scores: the scores by which ``after`` was pruned.
      before: the masks before that.
      after: the new masks, nested in ``before``.
      scope, structure: as in ``prune_to``.

    Returns:
      A sparsity, of the structure's units, between that of ``before`` and that of ``after``. None
      unless this step is the first that empties a layer.
    """
    if before.collapsed or not after.collapsed:
        return None
    low, high = structure.units(before).sparsity, structure.units(after).sparsity
    while high - low > 5e-5:
        middle = (low + high) / 2
        if prune_to(scores, before, middle, scope, structure).collapsed:
            high = middle
        else:
            low = middle
    return low
