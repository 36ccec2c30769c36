"""Gradual magnitude pruning (Zhu & Gupta 2017, arXiv 1710.01878): the mask grows in training."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import mistakes_at
from lottery_tf.finding.one_shot import highest_without_collapse, tell_min_kept, warn_of_collapse
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import named_variables
from lottery_tf.masks.allocate import prune_to
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.structure import UNSTRUCTURED, Structure
from lottery_tf.masks.wrapper import set_masks
from lottery_tf.training.trainer import Trainer
from lottery_tf.training.trouble import check_finite


def schedule(
    initial: float, final: float, begin: int, end: int, frequency: int
) -> list[tuple[int, float]]:
    """The updates (step, sparsity): s_f + (s_i − s_f)·(1 − (t − t_0)/(t_1 − t_0))³.

    It is tfmot's PolynomialDecay with two differences. The last update is always at the end and
    reaches the final sparsity, even if the frequency does not divide the distance. And no update
    exceeds the final sparsity.

    >>> schedule(0.0, 0.875, begin=0, end=20, frequency=10)
    [(0, 0.0), (10, 0.765625), (20, 0.875)]

    Args:
      initial, final: sparsities at the first and the last update, in [0, 1).
      begin, end: their steps, t_0 < t_1.
      frequency: steps between two updates.
    """

    def decay(step: int) -> float:
        """tfmot's sparsity at a step, bit for bit, without a need for tfmot."""
        left = 1 - tf.cast(step - begin, tf.float32) / (end - begin)
        return float((initial - final) * left**3 + final)

    # By rounding in float32 the last ones may exceed the final sparsity; no weight would come back.
    return [*((s, min(decay(s), final)) for s in range(begin, end, frequency)), (end, final)]


def updates_of(
    settings: FindingSettings, steps_per_epoch: int, rewind_step: int, last_step: int
) -> list[tuple[int, float]]:
    """gmp's updates (step, sparsity), from the rewind step on.

    Raises:
      UsageError: as ``settings.rewind_step``.
    """
    steps = settings.gmp_steps(steps_per_epoch, rewind_step, last_step)
    sparsity = cast(float, settings.target)  # not None for gmp
    updates = schedule(settings.gmp_initial_sparsity, sparsity, *steps)
    return [update for update in updates if update[0] >= rewind_step]


@dataclasses.dataclass(frozen=True)
class Grown:
    """The state of gradual pruning when a training was interrupted.

    Attributes:
      updates: how many updates were done.
      begun: the step of the last one, or of the beginning.
      masks: the masks of that update.
      held: weight → its value, or for a pruned weight the value with which it was pruned.
      told: the layers without any weight left that were named already.
    """

    updates: int
    begun: int
    masks: Masks
    held: Mapping[str, np.ndarray]
    told: Collection[str] = ()


def prune_gradually(
    trainer: Trainer,
    masks: Masks,
    updates: Sequence[tuple[int, float]],
    scope: str = "global",
    regrow: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    structure: Structure = UNSTRUCTURED,
    min_kept: int = 0,
    fit: Callable[..., None] | None = None,
    resumed: Grown | None = None,
) -> Masks:
    """Trains from the present step of ``trainer``, and prunes by magnitude at each update.

    If an update leaves a layer without any weight, a line names it once.

    Args:
      trainer: a trainer with a wrapped model, at the first update's step or before. Afterwards it
        is at the last update's step.
      masks: the model's present masks.
      updates: (step, sparsity), in rising order.
      scope: as in ``prune_to``.
      regrow: whether a pruned weight may return, as in the paper. It is ranked by the magnitude
        with which it was pruned, and returns with that value when it is among the largest. In
        between it is exactly 0. Without ``regrow`` each mask is nested in the one before.
      callbacks: for the training.
      structure, min_kept: as in ``prune_to``.
      fit: replaces ``trainer.fit`` to train to a step. It gets ``arrays`` and ``facts`` for a
        checkpoint, and ``begun``, the step at which this part of the training began.
      resumed: the state of an interrupted training that ``fit`` continues.

    Returns:
      The masks of the last update, which the model then has.

    Raises:
      Diverged: if the training does.
    """

    def plain(step: int, arrays: Any, facts: Any, begun: int, which: str) -> None:
        trainer.fit(step, callbacks, last=False, which=which)

    start, begun, first = masks, trainer.position, 0
    told: set[str] = set()
    held = {name: np.zeros(mask.shape, np.float32) for name, mask in masks.items()}
    if resumed:
        first, begun, masks, told = resumed.updates, resumed.begun, resumed.masks, set(resumed.told)
        held = dict(resumed.held)
        set_masks(trainer.model, masks)
    for number, (step, sparsity) in enumerate(updates[first:], first):
        arrays = {"masks": masks, "held": held}
        facts = {"updates": number, "begun": begun, "told": sorted(told)}
        which = f"to step {step} of gradual pruning"
        (fit or plain)(step, lambda arrays=arrays: arrays, facts, begun, which=which)
        begun = step
        variables = named_variables(trainer.model)
        for name, mask in masks.items():
            held[name] = np.where(mask, variables[name].numpy(), held[name])
        check_finite(held.values(), which)
        scores = {name: np.abs(value) for name, value in held.items()}
        before, rankable = masks, start if regrow else masks
        with mistakes_at(f"gmp, step {step}"):
            masks = prune_to(scores, rankable, sparsity, scope, structure, min_kept)
        if not told.issuperset(masks.collapsed):
            told.update(masks.collapsed)
            safe = highest_without_collapse(scores, rankable, masks, scope, structure)
            warn_of_collapse(masks, safe, structure)
        for name, mask in masks.items():
            returned = mask & ~before[name]
            if returned.any():
                value = np.where(returned, held[name], variables[name].numpy())
                variables[name].assign(value)
        set_masks(trainer.model, masks)
    tell_min_kept(min_kept, masks, updates[-1][1], scope, structure)
    return masks
