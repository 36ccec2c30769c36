"""The rounds of finding tickets: iterative magnitude pruning with rewinding, or any other method.

IMP: train to step T, prune the smallest of the surviving weights, rewind the rest to step k, and
repeat. It is Frankle & Carbin 2019 (arXiv 1803.03635) with k = 0, and Frankle et al. 2020 (arXiv
1912.05671) with k > 0. Learning-rate rewinding is Renda et al. 2020 (arXiv 2003.02389). The others
have one round after the dense one. Its mask comes from the trained dense network (omp), from a
training of its own (gmp), or from the weights at step k (those of ``scores``).

The trainings of a round are its parts: to step k ("start"), gmp's pruning ("masks"), the rest after
it ("after_masks"), and that of the ticket ("train"). A checkpoint names its round and part.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from lottery_tf.common.devices import check_same, from_chief
from lottery_tf.common.errors import UsageError, mistakes_at
from lottery_tf.common.log import log
from lottery_tf.finding.gmp import Grown, prune_gradually, updates_of
from lottery_tf.finding.one_shot import (
    draw_masks,
    highest_without_collapse,
    tell_min_kept,
    warn_of_collapse,
)
from lottery_tf.finding.settings import FROM_TRAINED, FindingSettings
from lottery_tf.graph.compat import Callback, keras
from lottery_tf.graph.layers import assign, values
from lottery_tf.masks.allocate import prune_fraction, prune_to
from lottery_tf.masks.kernel_axes import structured
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.structure import UNSTRUCTURED, Structure
from lottery_tf.masks.wrapper import assign_masks, set_masks
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.checkpoints import Checkpoints, State
from lottery_tf.training.trainer import Trainer
from lottery_tf.training.trouble import Diverged, are_finite, check_finite, check_masks_stay


@dataclasses.dataclass(frozen=True)
class Round:
    """A finished round: its ticket and the trained model.

    Attributes:
      ticket: the ticket of this round.
      trainer: holds the trained model, until the next round begins.
      diverged: the epoch in which the training diverged, for a round that was skipped or the last
        one; else None.
    """

    ticket: Ticket
    trainer: Trainer
    diverged: int | None = None

    @property
    def number(self) -> int:
        """The round's number; 0 is the dense network."""
        return self.ticket.info["round"]


def find(
    ticket: Ticket,
    trainer: Trainer,
    settings: FindingSettings,
    last_step: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    on_ticket: Callable[[Ticket], None] = lambda ticket: None,
    checkpoints: Checkpoints | None = None,
    on_nan: str = "stop",
) -> Iterator[Round]:
    """Trains a ticket, prunes, rewinds, and so on to the last round.

    Args:
      ticket: the initial weights, with masks that prune nothing; later tickets get its ``info``,
        such as ``method``. Or, to go on, a round's ticket that ``on_ticket`` was called with.
      trainer: a trainer with a model of the ticket's architecture, which is overwritten. For a new
        run it holds the initial weights, at step 0.
      settings: how to prune and to rewind.
      last_step: T, the step at which the training of each round ends.
      callbacks: for the training of every round.
      on_ticket: called with each round's ticket as soon as it exists. For round 0 that is the
        network after k steps, before it is trained on. Each next ticket comes before its
        predecessor's round is yielded. After the last round it is the ticket from which more
        ``rounds`` could go on, if there can be one.
      checkpoints: from which an interrupted round goes on; each round starts the clock anew.
        Default: none are kept.
      on_nan: if a round diverges, "stop" ends the run; "skip_round" ends the round with the last
        epoch's weights that were finite. The last round is kept either way, with a warning.

    Yields:
      the rounds.

    Raises:
      UsageError: if the rewind step or gmp's steps are not within the training, or if the
        structure does not fit the ticket's weights.
      Diverged: if a round diverges and is not skipped.
    """
    rewind_step = settings.rewind_step(trainer.steps_per_epoch, last_step)
    structure = structured(trainer.model, ticket.masks, settings.structure)
    if settings.method == "imp" and settings.rounds not in (None, settings.last_round):
        log.info(
            "%s has its own end, after %d rounds of this size; rounds=%d is not used.",
            *(structure.text, settings.last_round, settings.rounds),
        )
    training = _Training(trainer, checkpoints or Checkpoints(), callbacks)
    return _rounds(
        *(ticket, training, settings, structure, rewind_step, last_step, on_ticket, on_nan)
    )


def _rounds(
    ticket: Ticket,
    training: "_Training",
    settings: FindingSettings,
    structure: Structure,
    rewind_step: int,
    last_step: int,
    on_ticket: Callable[[Ticket], None],
    on_nan: str,
) -> Iterator[Round]:
    training.resume()  # only when the first round is asked for, as another process may be at work
    trainer = training.trainer
    if "round" not in ticket.info:
        training.begin(0)
        trainer.reset(0)
        training.run("start", rewind_step, callbacks=[], last=False)
        ticket = ticket.with_weights(values(trainer.model), rewind_step=rewind_step, round=0)
        on_ticket(ticket)
    while True:
        number = ticket.info["round"]
        training.begin(number)
        last, masks = number >= settings.last_round, None
        diverged = None
        with training.checkpoints.held_back():
            _rewind(trainer, ticket)
            if not last and settings.method not in FROM_TRAINED:
                masks, trained = _draw(ticket, training, settings, structure, last_step)
                _rewind(trainer, ticket)
            if settings.train_tickets:
                drawn: dict[str, Mapping[str, np.ndarray]] = {}
                if masks is not None:
                    drawn["masks"] = masks
                    if settings.rewind == "learning_rate":
                        drawn["trained"] = trained
                diverged = _train(training, last_step, drawn, last, on_nan)
                check_masks_stay(trainer.model, ticket.masks, f"of round {number}")
        following = None
        if masks is None and (not last or settings.extendable):
            trained = values(trainer.model)
            try:
                check_finite([trained[name] for name in ticket.masks], f"of round {number}")
                with mistakes_at(f"{settings.method}, after round {number}"):
                    masks = next_masks(settings, ticket.masks, trained, number + 1, structure)
            except (Diverged, UsageError) as error:
                if not last:
                    raise
                log.warning("%s No more rounds can follow it.", error)
            else:
                if not last:
                    scores = {name: np.abs(trained[name]) for name in masks}
                    safe = highest_without_collapse(
                        scores, ticket.masks, masks, settings.scope, structure
                    )
                    warn_of_collapse(masks, safe, structure)
        if masks is not None:
            source = ticket if settings.rewind == "weights" else ticket.with_weights(trained)
            # Only the last masks of M:N have the structure.
            whole = structure.sparsity is None or number + 1 == settings.last_round
            told = structure.info if whole else {}
            following = source.with_masks(masks, round=number + 1, **told)
            arrays = (*masks.values(), *following.weights.values())
            check_same(f"masks and weights of round {number + 1}", arrays)
            on_ticket(following)
        yield Round(ticket, trainer, diverged)
        if last or following is None:
            return
        ticket = following


def next_masks(
    settings: FindingSettings,
    masks: Masks,
    trained: Mapping[str, np.ndarray],
    number: int,
    structure: Structure = UNSTRUCTURED,
) -> Masks:
    """The masks of round ``number``: the survivors of ``masks`` by trained magnitude.

    ``structure`` is the one of the settings, put on these weights.
    """
    scores = {name: np.abs(trained[name]) for name in masks}
    among = (settings.scope, structure, settings.min_kept)
    if settings.target is not None and number == settings.last_round:
        # As units are whole, a round's sparsity can be slightly above the target.
        target = max(settings.target, structure.units(masks).sparsity)
        pruned = prune_to(scores, masks, target, *among)
        tell_min_kept(settings.min_kept, pruned, target, settings.scope, structure)
        return pruned
    return prune_fraction(scores, masks, settings.prune_fraction, *among)


def _rewind(trainer: Trainer, ticket: Ticket) -> None:
    """Sets the trainer to the ticket's masks and weights, at the rewind step."""
    assign(trainer.model, ticket.weights)
    assign_masks(trainer.model, ticket.masks)
    trainer.reset(ticket.info["rewind_step"])


class _Training:
    """The trainings of a run of finding; one may have been interrupted.

    Attributes:
      trainer: the trainer.
      checkpoints: its checkpoints.
      callbacks: for each training.
      round: the number of the present round.
    """

    def __init__(
        self,
        trainer: Trainer,
        checkpoints: Checkpoints,
        callbacks: Sequence[keras.callbacks.Callback],
    ):
        self.trainer, self.checkpoints, self.callbacks = trainer, checkpoints, callbacks
        self._saved: dict[str, Any] = {}
        self.round = 0

    def resume(self) -> None:
        """Finds out whether and where a run was interrupted."""
        self._saved = self.checkpoints.facts() or {}

    def begin(self, number: int) -> None:
        """Begins a round, or goes on with it."""
        self.round = number
        before = self._saved["seconds"] if self._saved.get("round") == number else 0.0
        self.checkpoints.begin(before)

    def saved(self, part: str) -> dict[str, Any] | None:
        """The checkpoint's facts, if the run was interrupted in this part of this round."""
        here = (self._saved.get("round"), self._saved.get("part")) == (self.round, part)
        return self._saved if here else None

    def arrays(self, part: str, name: str) -> dict[str, np.ndarray] | None:
        """The checkpoint's arrays of a name, if it has them and is of this part of this round."""
        there = self.saved(part) and self.checkpoints.has(name)
        return self.checkpoints.arrays(name) if there else None

    def run(
        self,
        part: str,
        stop: int,
        arrays: Callable[[], Mapping[str, Mapping[str, np.ndarray]]] = dict,
        facts: Mapping[str, Any] | None = None,
        begun: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        **options: Any,
    ) -> None:
        """Trains a part of this round, or the rest of it.

        Args:
          part: the part's name.
          stop: the step at which it ends; it begins at the trainer's present step.
          arrays, facts: what else goes into a checkpoint.
          begun: the step at which it began, if the trainer is already behind that step.
          callbacks: default: those of each training.
          **options: arguments of ``Trainer.fit``.
        """
        begun = self.trainer.position if begun is None else begun
        if self.saved(part):
            self.checkpoints.restore(self.trainer)
            self._saved = {}
        said = {"round": self.round, "part": part, **(facts or {})}
        self.checkpoints.fit(
            *(self.trainer, stop, lambda: State(said, arrays())),
            *(self.callbacks if callbacks is None else callbacks, begun),
            **{"which": f"of round {self.round}", **options},
        )


def _train(
    training: _Training,
    last_step: int,
    drawn: Mapping[str, Mapping[str, np.ndarray]],
    last: bool,
    on_nan: str,
) -> int | None:
    """Trains the ticket of the present round.

    Args:
      training: with its trainer at the rewind step.
      last_step: the step at which it ends.
      drawn: arrays of the next masks, if they are drawn already, for the checkpoint.
      last: whether no round follows.
      on_nan: as in ``find``.

    Returns:
      The epoch in which it diverged, if it did.
    """
    trainer = training.trainer
    # The weights of a checkpoint are finite too.
    there = [training.arrays("train", name) for name in ("finite", "weights")]
    finite = _LastFinite(trainer, there[0] or there[1])
    skips = on_nan == "skip_round"

    def arrays() -> dict[str, Mapping[str, np.ndarray]]:
        return {**drawn, **({"finite": finite.weights} if finite.weights else {})}

    if drawn and not training.saved("train"):
        # Store the next masks too, as they may have cost a training.
        here = {"round": training.round, "part": "train"}
        training.checkpoints.save(trainer, State(here, arrays()))
    try:
        callbacks = [*training.callbacks, *([finite] if skips else [])]
        training.run("train", last_step, arrays, callbacks=callbacks)
    except Diverged as error:
        if skips and finite.weights:
            assign(trainer.model, finite.weights)
            log.warning("%s Round %d ends with its last finite weights.", error, training.round)
        elif last:
            log.warning("%s", error)
        else:
            raise
        return error.epoch
    return None


class _LastFinite(Callback):
    """A callback that keeps the weights of the last epoch with finite loss and weights."""

    def __init__(self, trainer: Trainer, weights: dict[str, np.ndarray] | None):
        super().__init__()
        self.trainer, self.weights = trainer, weights

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if math.isfinite(float((logs or {}).get("loss", 0.0))):
            weights = values(self.trainer.model)
            self.weights = weights if are_finite(weights.values()) else self.weights


def _draw(
    ticket: Ticket,
    training: _Training,
    settings: FindingSettings,
    structure: Structure,
    last_step: int,
) -> tuple[Masks, dict[str, np.ndarray]]:
    """The masks of a method that does not rank trained weights, and the weights used to find
    them."""
    trainer, rewind_step = training.trainer, ticket.info["rewind_step"]
    if (drawn := training.arrays("train", "masks")) is not None:
        return Masks(drawn), training.arrays("train", "trained") or {}
    if settings.method == "gmp":
        updates = updates_of(settings, trainer.steps_per_epoch, rewind_step, last_step)
        if (drawn := training.arrays("after_masks", "masks")) is not None:
            masks = Masks(drawn)
            set_masks(trainer.model, masks)
        else:
            masks = prune_gradually(
                *(trainer, ticket.masks, updates, settings.scope, settings.regrow),
                structure=structure,
                min_kept=settings.min_kept,
                fit=functools.partial(training.run, "masks", last=False),
                resumed=_grown(training),
            )
        if settings.rewind == "learning_rate":
            arrays = {"masks": masks}
            training.run("after_masks", last_step, lambda: arrays, begun=updates[-1][0])
        return masks, values(trainer.model)
    masks = draw_masks(
        trainer.model,
        ticket.masks,
        settings.method,
        cast(float, settings.target),  # not None for these methods
        trainer.stream(rewind_step),
        trainer.model.loss or None,  # tf_keras has {} for none
        settings.scope,
        settings.score_rounds,
        settings.score_batches,
        ticket.info.get("seed", 0),
        structure=structure,
        min_kept=settings.min_kept,
        loss_weights=trainer.loss_weights,
    )
    # On several machines sums may differ in the last bit, and so the ranking.
    masks = Masks({name: from_chief(mask) for name, mask in masks.items()})
    return masks, values(trainer.model)


def _grown(training: _Training) -> Grown | None:
    """The state of gmp's masks when the run was interrupted; None if it was not."""
    if (facts := training.saved("masks")) is None:
        return None
    masks, held = (training.checkpoints.arrays(name) for name in ("masks", "held"))
    return Grown(facts["updates"], facts["begun"], Masks(masks), held, facts["told"])
