"""Gradual magnitude pruning (Zhu & Gupta 2017, arXiv 1710.01878): the mask grows in training."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import mistakes_at
from lottery_tf.finding.one_shot import highest_without_collapse, warn_of_collapse
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
    """When the mask is made anew, and how sparse: s_f + (s_i − s_f)·(1 − (t − t_0)/(t_1 − t_0))³.

    The schedule is tfmot's PolynomialDecay, with two differences: the last update is at the end,
    and to the final sparsity, where the frequency does not divide the distance too; and none is
    to more than that.

    >>> schedule(0.0, 0.875, begin=0, end=20, frequency=10)
    [(0, 0.0), (10, 0.765625), (20, 0.875)]

    Args:
      initial, final: sparsities at the first and the last update, in [0, 1).
      begin, end: their steps, t_0 < t_1.
      frequency: steps between two updates.
    """

    def decay(step: int) -> float:
        """As tfmot computes it, to the bit, which is not needed for this."""
        left = 1 - tf.cast(step - begin, tf.float32) / (end - begin)
        return float((initial - final) * left**3 + final)

    # Of float32 the last ones may lie above the final sparsity, and no weight comes back.
    return [*((s, min(decay(s), final)) for s in range(begin, end, frequency)), (end, final)]


def updates_of(
    settings: FindingSettings, steps_per_epoch: int, rewind_step: int, last_step: int
) -> list[tuple[int, float]]:
    """gmp's (step, sparsity), from the rewind step on.

    Raises:
      UsageError: as ``settings.rewind_step``.
    """
    steps = settings.gmp_steps(steps_per_epoch, rewind_step, last_step)
    sparsity = cast(float, settings.target)  # gmp's settings have one
    updates = schedule(settings.gmp_initial_sparsity, sparsity, *steps)
    return [update for update in updates if update[0] >= rewind_step]


@dataclasses.dataclass(frozen=True)
class Grown:
    """How far masks had grown when a training was interrupted.

    Attributes:
      updates: how many updates were behind.
      begun: the step of the last of them, or that of the beginning.
      masks: those of that update.
      held: weight → its value, or that which it was pruned with.
      told: the weights of which nothing is left, as they were named.
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
    """Trains on from where ``trainer`` stands, and prunes by magnitude at each update.

    A layer of which an update leaves nothing is named then, once.

    Args:
      trainer: its model is wrapped; it stands at the first update's step or before, and at the
        last one's afterwards.
      masks: those that the model has.
      updates: (step, sparsity), rising.
      scope: as in ``prune_to``.
      regrow: whether a pruned weight may return, as in the paper: it keeps the magnitude that it
        was pruned with in the ranking, and comes back with that value when it is among the largest.
        It is exactly 0 in between. Otherwise each mask is nested in the one before.
      callbacks: for the training.
      structure, min_kept: as in ``prune_to``.
      fit: trains to a step in the place of ``trainer.fit``; it is given what a checkpoint needs,
        ``arrays`` and ``facts``, and the step where this part of the training has ``begun``.
      resumed: where a training was interrupted that ``fit`` goes on with.

    Returns:
      The masks of the last update, which the model has then.

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
    return masks
