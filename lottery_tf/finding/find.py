"""Drawing tickets: by iterative magnitude pruning with rewinding, or by any other method.

IMP: train to step T, prune the smallest of the surviving weights, rewind the rest to step k,
repeat: Frankle & Carbin 2019 (arXiv 1803.03635) with k = 0; Frankle et al. 2020 (arXiv 1912.05671)
with k > 0; learning-rate rewinding is Renda et al. 2020 (arXiv 2003.02389). The other methods have
one round after the dense one, whose mask comes from the dense network that was trained (omp), from
a training of its own (gmp), or from the weights at step k (those of ``scores``).
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from lottery_tf.common.devices import check_same, from_chief
from lottery_tf.common.errors import UsageError, mistakes_at
from lottery_tf.common.log import log, some
from lottery_tf.common.settings import nearest
from lottery_tf.finding.fit_checks import batches_with_end, check_measurable, check_own_losses
from lottery_tf.finding.gmp import prune_gradually, updates_of
from lottery_tf.finding.one_shot import draw_masks, highest_without_collapse, warn_of_collapse
from lottery_tf.finding.settings import FROM_TRAINED, IMPORTED, FindingSettings
from lottery_tf.graph.compat import keras, keras_of, undecayed
from lottery_tf.graph.fit_data import Stream
from lottery_tf.graph.layers import (
    assign,
    check_finished,
    check_graph,
    check_of_its_keras,
    values,
    with_states,
)
from lottery_tf.graph.optimizers import copied
from lottery_tf.losses.labels import are_labelled, checked_labels, with_class_weight
from lottery_tf.losses.objective import check_loss
from lottery_tf.masks.allocate import prune_fraction, prune_to
from lottery_tf.masks.kernel_axes import structured
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prune_by_mask import get_masks
from lottery_tf.masks.settings import PrunableSettings
from lottery_tf.masks.structure import UNSTRUCTURED, Structure
from lottery_tf.masks.wrapper import all_kept, assign_masks
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.trainer import NO_LOSS, Trainer, check_finite, make_trainer
from lottery_tf.tweaks.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Round:
    """A finished round: the ticket that was trained, and what came of it.

    Attributes:
      ticket: the ticket of this round.
      trainer: holds the trained model, until the next round begins.
    """

    ticket: Ticket
    trainer: Trainer

    @property
    def number(self) -> int:
        """Rounds of pruning before this one; 0 is the dense network."""
        return self.ticket.info["round"]


def find(
    ticket: Ticket,
    trainer: Trainer,
    settings: FindingSettings,
    last_step: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    on_ticket: Callable[[Ticket], None] = lambda ticket: None,
) -> Iterator[Round]:
    """Trains a ticket, prunes, rewinds, and so on to the last round.

    Args:
      ticket: the initial weights under masks that keep all that is prunable; its ``info``, such as
        ``method``, is handed on. Or, to go on, the ticket of a round, one that ``on_ticket`` had.
      trainer: its model is of the ticket's architecture; what it holds is overwritten. At the
        beginning it holds the initial weights, at step 0.
      settings: what to prune and to rewind.
      last_step: T, where the training of each round ends.
      callbacks: for the training of every round.
      on_ticket: called with the ticket of each round as soon as there is one: that of round 0,
        the network after k steps, before it is trained on, and every next one before the round is
        yielded; after the last round that to go on from with more ``rounds``, if there can be one.

    Yields:
      the rounds.

    Raises:
      UsageError: if the rewind step or gmp's steps do not lie within the training, or the
        structure does not fit the ticket's weights.
    """
    rewind_step = settings.rewind_step(trainer.steps_per_epoch, last_step)
    structure = structured(trainer.model, ticket.masks, settings.structure)
    if settings.method == "imp" and settings.rounds not in (None, settings.last_round):
        log.info(
            "%s ends by itself, after %d rounds of this size; rounds=%d is not used.",
            *(structure.text, settings.last_round, settings.rounds),
        )
    return _rounds(
        *(ticket, trainer, settings, structure, rewind_step, last_step, callbacks, on_ticket)
    )


def _rounds(
    ticket: Ticket,
    trainer: Trainer,
    settings: FindingSettings,
    structure: Structure,
    rewind_step: int,
    last_step: int,
    callbacks: Sequence[keras.callbacks.Callback],
    on_ticket: Callable[[Ticket], None],
) -> Iterator[Round]:
    if "round" not in ticket.info:
        trainer.reset(0)
        trainer.fit(rewind_step, last=False)
        ticket = ticket.with_weights(values(trainer.model), rewind_step=rewind_step, round=0)
        on_ticket(ticket)
    while True:
        number = ticket.info["round"]
        last, masks = number >= settings.last_round, None
        _start(trainer, ticket)
        if not last and settings.method not in FROM_TRAINED:
            masks = _draw(ticket, trainer, settings, structure, last_step, callbacks)
            trained = values(trainer.model)
            _start(trainer, ticket)
        if settings.train_tickets:
            trainer.fit(last_step, callbacks)
        following = None
        if masks is None and (not last or settings.extendable):
            trained = values(trainer.model)
            try:
                check_finite([trained[name] for name in ticket.masks], f"of round {number}")
                with mistakes_at(f"{settings.method}, after round {number}"):
                    masks = next_masks(settings, ticket.masks, trained, number + 1, structure)
            except (RuntimeError, UsageError) as error:
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
            # Of M:N the last masks alone are that.
            whole = structure.sparsity is None or number + 1 == settings.last_round
            told = structure.info if whole else {}
            following = source.with_masks(masks, round=number + 1, **told)
            arrays = (*masks.values(), *following.weights.values())
            check_same(f"masks and weights of round {number + 1}", arrays)
            on_ticket(following)
        yield Round(ticket, trainer)
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

    ``structure`` is that of the settings, of these weights.
    """
    scores = {name: np.abs(trained[name]) for name in masks}
    among = (settings.scope, structure, settings.min_kept)
    if settings.target is not None and number == settings.last_round:
        # A round's whole number of units can lie a little beyond the target.
        target = max(settings.target, structure.units(masks).sparsity)
        return prune_to(scores, masks, target, *among)
    return prune_fraction(scores, masks, settings.prune_fraction, *among)


def _start(trainer: Trainer, ticket: Ticket) -> None:
    """The trainer's model as the ticket has it, at the rewind step."""
    assign(trainer.model, ticket.weights)
    assign_masks(trainer.model, ticket.masks)
    trainer.reset(ticket.info["rewind_step"])


def _draw(
    ticket: Ticket,
    trainer: Trainer,
    settings: FindingSettings,
    structure: Structure,
    last_step: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> Masks:
    """The masks of a method that does not rank the ticket's trained weights; the trainer's model is
    left with the weights that they were found on."""
    rewind_step = ticket.info["rewind_step"]
    if settings.method == "gmp":
        updates = updates_of(settings, trainer.steps_per_epoch, rewind_step, last_step)
        masks = prune_gradually(
            *(trainer, ticket.masks, updates, settings.scope, settings.regrow, callbacks),
            structure=structure,
            min_kept=settings.min_kept,
        )
        if settings.rewind == "learning_rate":
            trainer.fit(last_step, callbacks)
        return masks
    masks = draw_masks(
        trainer.model,
        ticket.masks,
        settings.method,
        cast(float, settings.target),  # its settings have one
        trainer.stream(rewind_step),
        trainer.model.loss or None,  # of tf_keras it is {}
        settings.scope,
        settings.score_rounds,
        settings.score_batches,
        ticket.info.get("seed", 0),
        structure=structure,
        min_kept=settings.min_kept,
        loss_weights=trainer.loss_weights,
    )
    # Sums on several machines need not agree in the last bit, nor then what ranks them.
    return Masks({name: from_chief(mask) for name, mask in masks.items()})


def find_tickets(
    model: keras.Model,
    train_data: Any,
    *,
    optimizer: keras.optimizers.Optimizer,
    loss: Any = None,
    loss_weights: Any = None,
    class_weight: Mapping[int, float] | None = None,
    epochs: int,
    steps_per_epoch: int | None = None,
    dev_data: Any = None,
    prune_layers: tuple[str, ...] = PrunableSettings.prune_layers,
    keep_dense: tuple[str, ...] = PrunableSettings.keep_dense,
    metrics: Any = ("accuracy",),
    jit_compile: bool | None = None,
    steps_per_execution: int = 1,
    seed: int = 0,
    **settings: Any,
) -> Iterator[Ticket]:
    """Draws tickets from a model of the user's own; yields that of each round when it is trained.

    Args:
      model: a Sequential or functional model of tf_keras or Keras 3; it is left as it is, but for
        an unbuilt Sequential, which is built for the data.
      train_data: as ``fit`` takes them: a ``tf.data.Dataset`` of batches (inputs, labels), arrays
        (inputs, labels), a keras.utils.Sequence or PyDataset, …, as ``graph.fit_data.batches`` has
        them. Seed the shuffling of a dataset, and make its batches equally large for speed; arrays
        and Sequences are shuffled by ``seed``, each epoch anew. A generator is read on from round
        to round.
      optimizer: one of the model's Keras; it is copied. Each round begins with a new one; only a
        schedule of its ``learning_rate`` goes on from the step that is rewound to.
      loss: as ``compile`` takes it; default: cross-entropy, on logits or probabilities as the
        model gives them. With data without labels a model is trained by its own losses (add_loss).
      loss_weights: a factor of each output's loss, as ``compile`` takes it.
      class_weight: class → weight of its examples in training, as ``fit`` takes it.
      epochs: length of the training of each round.
      steps_per_epoch: batches of an epoch; default: as many as there are. Data without end, or of
        unknown length, need it.
      dev_data: the same, with an end; if given, each ticket's ``info`` has the trained round's
        ``dev_loss``, ``dev_accuracy``, … on it.
      prune_layers, keep_dense: which weights are pruned, as in ``PrunableSettings``.
      metrics: what is measured on ``dev_data`` besides the loss, as ``compile`` takes it, or the
        name of one; None for nothing.
      jit_compile: whether XLA compiles the step; default: if the model has no convolution, and
        nothing that XLA cannot compile.
      steps_per_execution: steps a call of the compiled function runs.
      seed: of the masks of ``method="random"`` and ``"erk"``, and of the order of arrays.
      **settings: fields of ``FindingSettings``: ``method``, ``rounds`` or ``sparsity``,
        ``rewind_to``, ``prune_fraction``, ``scope``, ``structure``, ``rewind``, ….

    Yields:
      The ``Ticket`` of each round from 0 (dense) on, when that round has been trained; the methods
      other than imp have one round more.

    Raises:
      UsageError: for settings out of range, data of unknown length, data without labels, labels
        that are no classes of the model, and what is of the other Keras; for ``dev_data`` that do
        not fit, before anything is trained.
    """
    known = [field.name for field in dataclasses.fields(FindingSettings)]
    for name in settings:
        if name not in known:
            raise UsageError(
                f"Expected settings of finding such as `method`, `rounds` or `sparsity`; there is "
                f"no '{name}'{nearest(name, known)}."
            )
    finding = FindingSettings(**settings)
    if finding.method == IMPORTED:
        raise UsageError("Expected a method that finds a mask; lt.Ticket.from_pruned takes one.")
    train = Stream(train_data, model, "train_data", steps_per_epoch, seed)
    if dev_data is not None:
        dev_data = batches_with_end(dev_data, model)
    check_graph(model)
    check_finished(model)
    if keeping := with_states(model):
        raise UsageError(
            f"Expected a model that computes each example by itself; {some(keeping)} of "
            f"'{model.name}' keeps its states from batch to batch (stateful=True), which would go "
            "on into the next round: build it with stateful=False."
        )
    if any(not mask.all() for mask in get_masks(model).values()):
        raise UsageError(
            f"Expected a dense model to draw tickets from; '{model.name}' has pruned weights, "
            "which round 0 would train: pass lt.strip(model), or the model before it was pruned."
        )
    labels = are_labelled(train)
    check_loss(model, loss, labels, "train_data")
    if not labels and metrics not in (None, (), [], ("accuracy",)):  # the last is the default
        raise UsageError(
            "Expected train_data with labels for the metrics; they are inputs alone: give labels, "
            "or metrics=None."
        )
    metrics = metrics if labels and metrics is not None else []
    metrics = metrics if isinstance(metrics, list | tuple | Mapping) else [metrics]
    check_of_its_keras(model, optimizer=optimizer, loss=loss, metrics=metrics)
    if not isinstance(optimizer, keras_of(model).optimizers.Optimizer):
        raise UsageError(
            f"Expected an optimizer of {keras_of(model).__name__} such as keras.optimizers.Adam(), "
            f"got {optimizer!r}; those of keras.optimizers.legacy and names are not taken."
        )
    masks = all_kept(model, PrunableSettings(tuple(prune_layers), tuple(keep_dense)))
    info = {"method": finding.method, "model": model.name, "seed": seed}
    initial = Ticket.of(model, masks, info)
    trainer = make_trainer(
        initial,
        Recipe("vanilla"),
        lambda start: labelled(start),
        train.steps_per_epoch,
        _copied(optimizer),
        loss if labels else NO_LOSS,
        jit_compile=jit_compile,
        steps_per_execution=steps_per_execution,
        metrics=metrics,
        loss_weights=loss_weights,
    )
    if not labels:
        check_own_losses(trainer.model, train.element_spec, initial)
    check = functools.partial(checked_labels, model=trainer.model, loss=trainer.model.loss)
    weighted = functools.partial(with_class_weight, weights=class_weight, model=trainer.model)
    labelled = train.mapped(lambda data: weighted(check(data)))
    measured = dev_data is not None and finding.train_tickets
    if measured:
        dev_data = check(dev_data)
        check_measurable(trainer, dev_data)
    for each in find(initial, trainer, finding, epochs * train.steps_per_epoch):
        found = trainer.evaluate(dev_data) if measured else {}
        extra = {f"dev_{name}": value for name, value in found.items()}
        yield dataclasses.replace(each.ticket, info={**each.ticket.info, **extra})


def _copied(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """A new one with the same settings, for the model's copy."""
    if undecayed(optimizer)[0]:
        raise UsageError(
            "Expected an optimizer that excludes weights from weight decay by their names, which "
            "the model's copy has too: exclude_from_weight_decay(var_names=[…]), not var_list."
        )
    return copied(optimizer)


def find_ticket(
    model: keras.Model,
    train_data: Any,
    *,
    optimizer: keras.optimizers.Optimizer,
    loss: Any = None,
    loss_weights: Any = None,
    class_weight: Mapping[int, float] | None = None,
    epochs: int,
    steps_per_epoch: int | None = None,
    dev_data: Any = None,
    prune_layers: tuple[str, ...] = PrunableSettings.prune_layers,
    keep_dense: tuple[str, ...] = PrunableSettings.keep_dense,
    metrics: Any = ("accuracy",),
    jit_compile: bool | None = None,
    steps_per_execution: int = 1,
    seed: int = 0,
    **settings: Any,
) -> Ticket:
    """The last ticket of ``find_tickets``, with the same arguments and errors."""
    tickets = find_tickets(
        model,
        train_data,
        optimizer=optimizer,
        loss=loss,
        loss_weights=loss_weights,
        class_weight=class_weight,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        dev_data=dev_data,
        prune_layers=prune_layers,
        keep_dense=keep_dense,
        metrics=metrics,
        jit_compile=jit_compile,
        steps_per_execution=steps_per_execution,
        seed=seed,
        **settings,
    )
    return collections.deque(tickets, maxlen=1).pop()
