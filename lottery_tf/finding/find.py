"""Finding tickets of a user's own model, round by round."""

import collections
import dataclasses
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import some
from lottery_tf.common.settings import check_number, nearest, one_of
from lottery_tf.finding.fit_checks import (
    batches_with_end,
    check_measurable,
    check_own_losses,
    optimizer_of,
    outputs_without_labels,
)
from lottery_tf.finding.round_progress import RoundProgress
from lottery_tf.finding.rounds import find
from lottery_tf.finding.settings import IMPORTED, FindingSettings
from lottery_tf.graph.compat import keras, undecayed
from lottery_tf.graph.fit_data import Stream
from lottery_tf.graph.layers import (
    check_finished,
    check_graph,
    check_of_its_keras,
    with_states,
)
from lottery_tf.graph.optimizers import copied
from lottery_tf.losses.labels import are_labelled, checked_labels, with_class_weight
from lottery_tf.losses.objective import check_loss
from lottery_tf.masks.prune_by_mask import get_masks
from lottery_tf.masks.settings import PrunableSettings
from lottery_tf.masks.wrapper import all_kept
from lottery_tf.tickets.origin import FOUND_WITH, described
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.trainer import NO_LOSS, make_trainer
from lottery_tf.tweaks.recipe import Recipe

# What of the arguments goes into a ticket's info, besides the settings.
_ASKED = (
    *("optimizer", "loss", "loss_weights", "class_weight", "epochs", "steps_per_epoch"),
    *("prune_layers", "keep_dense", "seed"),
)


def find_tickets(
    model: keras.Model,
    train_data: Any,
    *,
    optimizer: keras.optimizers.Optimizer | str,
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
    verbose: int | str = "auto",
    **settings: Any,
) -> Iterator[Ticket]:
    """Draws tickets from a user's own model; yields the ticket of each round when it is trained.

    Args:
      model: a Sequential or functional model of tf_keras or Keras 3. It is not changed, except
        that an unbuilt Sequential is built for the data.
      train_data: data as ``fit`` takes them: a ``tf.data.Dataset`` of batches (inputs, labels),
        arrays (inputs, labels), a keras.utils.Sequence or PyDataset, …, as in
        ``graph.fit_data.batches``. Give the shuffling of a dataset a seed, and batches of equal
        size for speed. Arrays come in batches of 32. Arrays and Sequences are shuffled by ``seed``,
        each epoch anew. A generator is read on from round to round.
      optimizer: an optimizer of the model's Keras, or its name. It is copied, and each round begins
        with a new one. Only a schedule of its ``learning_rate`` starts at the step that is rewound
        to.
      loss: as ``compile`` takes it. Default: cross-entropy, on logits or probabilities as the
        model gives them. With data without labels, the model's own losses (add_loss).
      loss_weights: a factor for each output's loss, as ``compile`` takes it.
      class_weight: class → weight of its examples in training, as ``fit`` takes it.
      epochs: length of the training of each round.
      steps_per_epoch: batches of an epoch; default: all. Endless data, or data of unknown length,
        need it.
      dev_data: finite data in the same forms. If given, each ticket's ``info`` has the trained
        round's ``dev_loss``, ``dev_accuracy``, … on them.
      prune_layers, keep_dense: which weights are pruned, as in ``PrunableSettings``.
      metrics: metrics for ``dev_data`` besides the loss, as ``compile`` takes them, or the name of
        one; None for none.
      jit_compile: whether XLA compiles the step. Default: if the model has no convolution, and
        XLA can compile all of it.
      steps_per_execution: steps that a call of the compiled function runs.
      seed: seed of the masks of ``method="random"`` and ``"erk"``, and of the order of arrays.
      verbose: what is shown. 0: nothing. 1: one line that is written over, with round, epoch,
        metrics and the time left, and a line for each finished round. 2: a line for each epoch too.
        "auto": 1 in a terminal or a notebook, 2 elsewhere.
      **settings: fields of ``FindingSettings``: ``method``, ``rounds`` or ``sparsity``,
        ``rewind_to``, ``prune_fraction``, ``scope``, ``structure``, ``rewind``, …. The page
        docs/masks.md has a table of all.

    Yields:
      The ``Ticket`` of each round from 0 (dense) on, when that round has been trained. Methods
      other than imp have one round after the dense one.

    Raises:
      UsageError: for settings out of range, data of unknown length or without labels, labels that
        are not classes of the model, and objects of the other Keras. Also for ``dev_data`` that do
        not fit, before anything is trained.
      Diverged: if weights become NaN or infinite in a round that is not the last.
    """
    given = {name: value for name, value in locals().items() if name in _ASKED}
    known = [field.name for field in dataclasses.fields(FindingSettings)]
    for name in settings:
        if name == "batch_size":
            raise UsageError(
                "Expected no batch_size: arrays come in batches of 32; for others give "
                "tf.data.Dataset.from_tensor_slices((x, y)).shuffle(n, seed=0).batch(size)."
            )
        if name not in known:
            arguments = [*inspect.signature(find_tickets).parameters][:-1]
            raise UsageError(
                f"Expected settings of finding such as `method`, `rounds` or `sparsity`; there is "
                f"no '{name}'{nearest(name, [*known, *arguments])}."
            )
    check_number(epochs, "epochs", whole=True)
    check_number(seed, "seed", whole=True)
    finding = FindingSettings(**settings)
    if finding.method == IMPORTED:
        raise UsageError(
            "Expected a method that finds a mask; for a pruned model call lt.Ticket.from_pruned."
        )
    train = Stream(train_data, model, "train_data", steps_per_epoch, seed)
    if dev_data is not None:
        dev_data = batches_with_end(dev_data, model)
    check_graph(model)
    check_finished(model)
    if keeping := with_states(model):
        raise UsageError(
            f"Expected a model that computes each example by itself; {some(keeping)} of "
            f"'{model.name}' keeps its states from batch to batch (stateful=True). Build it with "
            "stateful=False."
        )
    if any(not mask.all() for mask in get_masks(model).values()):
        raise UsageError(
            f"Expected a dense model to draw tickets from; '{model.name}' has pruned weights, and "
            "round 0 would train them: pass lt.strip(model), or the model before it was pruned."
        )
    labels = are_labelled(train)
    check_loss(model, loss, labels, "train_data")
    if not labels and metrics not in (None, (), [], ("accuracy",)):  # ("accuracy",): the default
        raise UsageError(
            "Expected train_data with labels for the metrics; they are inputs alone: give labels, "
            "or metrics=None."
        )
    metrics = metrics if labels and metrics is not None else []
    if unlabelled := outputs_without_labels(model, train.element_spec):
        if metrics not in ([], ("accuracy",)):
            raise UsageError(
                f"Expected labels of every output for the metrics; train_data have none of "
                f"{one_of(unlabelled, 'and')}: give them, or metrics=None."
            )
        metrics = []
    metrics = metrics if isinstance(metrics, list | tuple | Mapping) else [metrics]
    optimizer = optimizer_of(model, optimizer)
    check_of_its_keras(model, loss=loss, metrics=metrics)
    masks = all_kept(model, PrunableSettings(prune_layers, keep_dense))
    info = {
        **{"method": finding.method, "model": model.name, "seed": seed},
        FOUND_WITH: {**described(given), **described(settings), "method": finding.method},
    }
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
    last_step = epochs * train.steps_per_epoch
    shown = RoundProgress(verbose, finding, train.steps_per_epoch, last_step)
    shown.begin_round(0)
    for each in find(initial, trainer, finding, last_step, [shown]):
        found = trainer.evaluate(dev_data) if measured else {}
        extra = {f"dev_{name}": value for name, value in found.items()}
        shown.end_round(each.ticket.sparsity, extra)
        yield dataclasses.replace(each.ticket, info={**each.ticket.info, **extra})
        shown.begin_round(each.number + 1)


def _copied(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """A new one with the same settings, for the model's copy."""
    if undecayed(optimizer)[0]:
        raise UsageError(
            "Expected an optimizer that excludes weights from weight decay by names, as the model "
            "is copied: call exclude_from_weight_decay(var_names=[…]), not with var_list."
        )
    return copied(optimizer)


def find_ticket(
    model: keras.Model,
    train_data: Any,
    *,
    optimizer: keras.optimizers.Optimizer | str,
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
    verbose: int | str = "auto",
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
        verbose=verbose,
        **settings,
    )
    return collections.deque(tickets, maxlen=1).pop()
