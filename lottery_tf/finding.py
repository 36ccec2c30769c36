"""Drawing tickets by iterative magnitude pruning with rewinding.

Train to step T, prune the smallest of the surviving weights, rewind the rest to step k, repeat:
Frankle & Carbin 2019 (arXiv 1803.03635) with k = 0; Frankle et al. 2020 (arXiv 1912.05671) with
k > 0; learning-rate rewinding is Renda et al. 2020 (arXiv 2003.02389).
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.allocate import SCOPES, check_sparsity, prune_fraction, prune_to
from lottery_tf.errors import UsageError
from lottery_tf.graph import assign, check_graph, values
from lottery_tf.keras import keras
from lottery_tf.masks import Masks
from lottery_tf.prunable import PrunableSettings, prunable_weights
from lottery_tf.recipe import Recipe
from lottery_tf.settings import check_choices, setting
from lottery_tf.steps import check_steps, parse_steps
from lottery_tf.ticket import Ticket
from lottery_tf.training import Trainer
from lottery_tf.wrapper import log_left_dense, set_masks


@dataclasses.dataclass(frozen=True)
class FindingSettings:
    """Iterative magnitude pruning."""

    rewind_to: str = setting("0it", "step k to rewind to, in steps (500it) or epochs (1ep)")
    rewind: str = setting(
        "weights",
        "what is rewound after a round: weights and schedule, or the schedule alone",
        choices=("weights", "learning_rate"),
    )
    prune_fraction: float = setting(0.2, "share of the surviving weights pruned after a round")
    rounds: int | None = setting(None, "rounds of pruning")
    sparsity: float | None = setting(
        None, "prune until this share of the prunable weights is gone; the last round ends on it"
    )
    scope: str = setting("global", "rank all weights together or in each layer", choices=SCOPES)

    def __post_init__(self):
        check_choices(self)
        check_steps(self.rewind_to, "--rewind_to")
        if not 0 < self.prune_fraction < 1:
            raise UsageError(
                f"Expected --prune_fraction in (0, 1), the share of the surviving weights that a "
                f"round prunes, not {self.prune_fraction}."
            )
        if self.rounds is not None and self.rounds < 0:
            raise UsageError(f"Expected --rounds to be 0 or more, not {self.rounds}.")
        if self.sparsity is not None:
            check_sparsity(self.sparsity)
        if (self.rounds is None) == (self.sparsity is None):
            raise UsageError(
                "Expected either --rounds or --sparsity: the number of rounds of pruning, or the "
                f"sparsity to end at; got {'neither' if self.rounds is None else 'both'}."
            )

    @property
    def last_round(self) -> int:
        """The number of the last round; round 0 is dense."""
        if self.rounds is not None:
            return self.rounds
        kept, rounds = 1.0, 0
        while 1 - kept < self.sparsity - 1e-9:  # 1 - 0.8 is a little less than 0.2
            kept, rounds = kept * (1 - self.prune_fraction), rounds + 1
        return rounds

    def rewind_step(self, steps_per_epoch: int, last_step: int) -> int:
        """k; a UsageError unless it lies before ``last_step``, where training ends."""
        step = parse_steps(self.rewind_to, steps_per_epoch)
        if step >= last_step:
            raise UsageError(
                f"Expected --rewind_to before the end of training at step {last_step}, got "
                f"{self.rewind_to} (step {step})."
            )
        return step

    def next_masks(self, masks: Masks, trained: Mapping[str, np.ndarray], number: int) -> Masks:
        """The masks of round ``number``: the survivors of ``masks`` by trained magnitude."""
        scores = {name: np.abs(trained[name]) for name in masks}
        if self.sparsity is not None and number == self.last_round:
            # A round's whole number of weights can lie a little beyond the target.
            return prune_to(scores, masks, max(self.sparsity, masks.sparsity), self.scope)
        return prune_fraction(scores, masks, self.prune_fraction, self.scope)


def all_kept(model: keras.Model, prunable: PrunableSettings) -> Masks:
    """The masks of round 0; one line is logged of what stays dense.

    Raises:
      UsageError: if the model has no prunable weight.
    """
    masks = Masks.ones(prunable_weights(model, prunable))
    if not masks:
        raise UsageError(
            f"Expected weights to prune in '{model.name}'; it has none in layers of the kinds "
            f"{', '.join(prunable.prune_layers)} once {', '.join(prunable.keep_dense) or 'none'} "
            "are kept dense: choose others with --prune_layers and --keep_dense."
        )
    log_left_dense(model, masks)
    return masks


@dataclasses.dataclass(frozen=True)
class Round:
    """A finished round: the ticket that was trained, what came of it, and the next ticket.

    Attributes:
      ticket: the ticket of this round.
      trainer: holds the trained model, until the next round begins.
      next_ticket: the ticket of the next round; None after the last.
    """

    ticket: Ticket
    trainer: Trainer
    next_ticket: Ticket | None

    @property
    def number(self) -> int:
        """Rounds of pruning before this one; 0 is the dense network."""
        return self.ticket.info["round"]


def first_ticket(
    model: keras.Model, trainer: Trainer, masks: Masks, rewind_step: int, info: Mapping[str, Any]
) -> Ticket:
    """The dense ticket of round 0: ``model``'s weights after ``rewind_step`` steps.

    Args:
      model: the plain model, of which the trainer's is a wrapped copy.
      trainer: trains the copy from step 0.
      masks: which weights are prunable, all kept.
      rewind_step: k.
      info: what the tickets say about their origin.
    """
    trainer.reset(0)
    trainer.fit(rewind_step)
    info = {"method": "imp", **info, "rewind_step": rewind_step, "round": 0}
    return Ticket.of(model, masks, info).with_weights(values(trainer.model))


def rounds(
    ticket: Ticket,
    trainer: Trainer,
    settings: FindingSettings,
    last_step: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Iterator[Round]:
    """Trains ``ticket``, prunes, rewinds, and so on to the last round.

    Args:
      ticket: the ticket to go on with: that of round 0, or of the first round not finished.
      trainer: its model is of the ticket's architecture; what it holds is overwritten.
      settings: what to prune and to rewind.
      last_step: T, where the training of each round ends.
      callbacks: for the training of every round.
    """
    while True:
        number, rewind_step = ticket.info["round"], ticket.info["rewind_step"]
        assign(trainer.model, ticket.weights)
        trainer.reset(rewind_step)
        set_masks(trainer.model, ticket.masks)
        trainer.fit(last_step, callbacks)
        following = None
        if number < settings.last_round:
            trained = values(trainer.model)
            if not all(np.isfinite(trained[name]).all() for name in ticket.masks):
                raise RuntimeError(
                    f"The training of round {number} diverged: weights are NaN or infinite. A "
                    "lower learning rate or a warm-up may help."
                )
            masks = settings.next_masks(ticket.masks, trained, number + 1)
            source = ticket if settings.rewind == "weights" else ticket.with_weights(trained)
            following = source.with_masks(masks, round=number + 1)
        yield Round(ticket, trainer, following)
        if following is None:
            return
        ticket = following


def find_tickets(
    model: keras.Model,
    train_data: tf.data.Dataset,
    *,
    optimizer: keras.optimizers.Optimizer,
    loss: Any = None,
    epochs: int,
    dev_data: tf.data.Dataset | None = None,
    prune_layers: tuple[str, ...] = PrunableSettings.prune_layers,
    keep_dense: tuple[str, ...] = PrunableSettings.keep_dense,
    metrics: Sequence[Any] = ("accuracy",),
    jit_compile: bool | None = None,
    steps_per_execution: int = 1,
    **settings: Any,
) -> Iterator[Ticket]:
    """Draws tickets from a model of the user's own; yields that of each round when it is trained.

    Args:
      model: a built Sequential or functional tf_keras model; it is left as it is.
      train_data: batches (inputs, labels) of known number, an epoch; seed its shuffling and make
        its batches equally large for speed.
      optimizer: a Keras optimizer; it is copied.
      loss: as ``compile`` takes it; default: cross-entropy, on logits or probabilities as the
        model gives them.
      epochs: length of the training of each round.
      dev_data: if given, each ticket's ``info`` has the trained round's ``dev_loss``,
        ``dev_accuracy``, … on it.
      prune_layers, keep_dense: which weights are pruned, as in ``PrunableSettings``.
      metrics: what is measured on ``dev_data`` besides the loss.
      jit_compile: whether XLA compiles the step; default: if the model has no convolution.
      steps_per_execution: steps a call of the compiled function runs.
      **settings: fields of ``FindingSettings``: ``rounds`` or ``sparsity``, ``rewind_to``,
        ``prune_fraction``, ``scope``, ``rewind``.

    Yields:
      The ``Ticket`` of each round from 0 (dense) on, when that round has been trained.

    Raises:
      UsageError: for settings out of range, or data of unknown length.
    """
    finding = FindingSettings(**settings)
    check_graph(model)
    steps_per_epoch = int(train_data.cardinality())
    if steps_per_epoch < 1:
        raise UsageError(
            "Expected train_data of a known number of batches; its cardinality is not known: say "
            "it with train_data.apply(tf.data.experimental.assert_cardinality(n))."
        )
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise UsageError(
            f"Expected a tf_keras optimizer such as keras.optimizers.Adam(), got {optimizer!r}; "
            "those of keras.optimizers.legacy and names are not taken."
        )
    masks = all_kept(model, PrunableSettings(tuple(prune_layers), tuple(keep_dense)))
    ticket = Ticket.of(model, masks)
    recipe = Recipe("vanilla")
    trainer = Trainer(
        recipe.prepare(ticket.build()),
        lambda start: train_data.repeat().skip(start),
        steps_per_epoch,
        type(optimizer).from_config(optimizer.get_config()),
        recipe.loss(loss),
        jit_compile,
        steps_per_execution,
        metrics,
    )
    last_step = epochs * steps_per_epoch
    rewind_step = finding.rewind_step(steps_per_epoch, last_step)
    start = first_ticket(model, trainer, masks, rewind_step, {"model": model.name})
    for each in rounds(start, trainer, finding, last_step):
        found = trainer.evaluate(dev_data) if dev_data is not None else {}
        extra = {f"dev_{name}": value for name, value in found.items()}
        yield dataclasses.replace(each.ticket, info={**each.ticket.info, **extra})


def find_ticket(*args: Any, **kwargs: Any) -> Ticket:
    """The last ticket of ``find_tickets``, with the same arguments."""
    return collections.deque(find_tickets(*args, **kwargs), maxlen=1).pop()
