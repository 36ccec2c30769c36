"""Finding tickets as a run in a folder."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json, read_json_lines, sha256, write_json_lines
from lottery_tf.common.ownership import Kind, check_all_ours, check_ours, lines_have_keys
from lottery_tf.common.settings import defaults, describe
from lottery_tf.exporting import SAVED_MODEL, export
from lottery_tf.finding.one_shot import warn_of_collapse
from lottery_tf.finding.rounds import find as find_rounds
from lottery_tf.finding.settings import IMPORTED, FindingSettings
from lottery_tf.graph.compat import keras, noise_by_variables
from lottery_tf.graph.model_files import existing_model
from lottery_tf.losses.from_keras import default_loss
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.wrapper import all_kept, strip
from lottery_tf.runs import Row
from lottery_tf.runs.experiment import check_data, create_model, load_data
from lottery_tf.runs.folder import GONE_ON, Run, check_run_or_new, load_pruned
from lottery_tf.runs.settings import AS_USUAL, DATA_SUM, Experiment, HowToRun
from lottery_tf.runs.tensorboard import BOARD, FOLDER, Board
from lottery_tf.tickets.ticket import TICKET, Ticket
from lottery_tf.training.checkpoints import CHECKPOINT, Checkpoints
from lottery_tf.training.optimizers import make_optimizer
from lottery_tf.training.retraining import measured
from lottery_tf.training.trainer import in_training, make_trainer
from lottery_tf.tweaks.recipe import Recipe

_CHECKPOINT = "checkpoint"
DENSE_SUM = "dense_model_sha256"  # in the row of round 0
_ROUNDS = Kind("the rounds of a find run", {".": lines_have_keys("round", "sparsity")})


def find(
    out: Path,
    experiment: Experiment,
    finding: FindingSettings,
    on_round: Callable[[Row], None] = lambda row: None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    how: HowToRun = AS_USUAL,
) -> list[Row]:
    """Draws the tickets of ``experiment`` into ``out/tickets/round_NN``.

    The dense network that round 0 has trained is kept in ``out/dense_model``, as a teacher for the
    tickets; the row of round 0 has its sum. If more rounds are asked for, a finished run of imp
    goes on from ``out/next_ticket``. For the zeros in a model's file (method from_model) there is
    one ticket, ``round_01``, and a row that measures that model.

    Args:
      out: the run's folder.
      experiment: network, data and training.
      finding: how the tickets are drawn.
      on_round: called with the row of each finished round.
      callbacks: Keras callbacks for the training of every round.
      how: how the run is carried out. from_model writes no TensorBoard events.

    Returns:
      The rows of ``metrics.jsonl``, one for each round.

    Raises:
      UsageError: if ``out`` holds another run, or anything else where this one would write.
      Diverged: if a round diverges and is not skipped.
    """
    if finding.method == IMPORTED:
        return _find_in_file(out, experiment, finding, on_round, how.allow_code)
    run = find_run(out, experiment, finding)
    run.check()
    metrics = out / "metrics.jsonl"
    rows = finished_rounds(out)
    if len(rows) >= finding.tickets:
        return rows[: finding.tickets]
    numbers = range(finding.last_round + 1)
    tickets = [*(str(round_folder("", number)) for number in numbers), "next_ticket"]
    run.put_right(["metrics.jsonl", *tickets, _CHECKPOINT, dense_folder("").name])
    check_find_places(out, finding, how.tensorboard)

    noise_by_variables()
    data = load_data(experiment)
    run.check_same_data(data.sha256)  # before its ticket, which other data do not fit either
    model = create_model(experiment, data)
    info = {
        "method": finding.method,
        "model": experiment.model.model,
        "dataset": experiment.data.dataset,
        "seed": experiment.training.seed,
        # A ticket of imp does not depend on how many follow.
        "settings": {k: v for k, v in run.settings.items() if k != "rounds"}
        | {DATA_SUM: data.sha256},
    }
    initial = Ticket.of(model, all_kept(model, experiment.prunable), info)
    recipe = in_training(Recipe("vanilla"), experiment.training.precision)
    trainer = make_trainer(
        initial,
        recipe,
        data.stream,
        data.steps_per_epoch,
        make_optimizer(experiment.training, data.steps_per_epoch, initial.its_keras),
        jit_compile=experiment.training.jit_compile,
        steps_per_execution=experiment.training.steps_per_execution,
    )
    unfinished, following = round_folder(out, len(rows)), out / "next_ticket"
    goes_on = not unfinished.exists() and _round_of(following) == len(rows)
    if rows and not unfinished.exists() and not goes_on:
        raise UsageError(
            f"Expected the ticket of the next round at {unfinished}; it is gone, or there is none "
            "because the last round diverged: put it back, or choose another `out` to start "
            "again."
        )
    ticket = initial
    if goes_on or unfinished.exists():
        ticket = Ticket.load(following if goes_on else unfinished)
        if ticket.architecture != initial.architecture:
            raise UsageError(
                f"Expected {unfinished} to be of the {model.name} that this release makes; another "
                "release made it differently: choose another `out` to start again."
            )
        warn_of_collapse(ticket.masks)

    def save(ticket: Ticket) -> None:
        number = ticket.info["round"]
        ticket.save(following if number > finding.last_round else round_folder(out, number))

    last_step = experiment.training.steps(data.steps_per_epoch)
    checkpoints = Checkpoints(out / _CHECKPOINT, how.checkpoints)
    found = find_rounds(
        *(ticket, trainer, finding, last_step, callbacks, save, checkpoints, how.on_nan)
    )
    with run.at_work(data.sha256, data.class_names):
        if finished_rounds(out) != rows:
            raise UsageError(GONE_ON.format(out))
        if goes_on:
            following.rename(os.path.realpath(unfinished))  # it may be a link without a target
        board = _board(out, rows) if how.tensorboard else None
        for each in found:
            measurements: Row = {}
            if each.number == 0 and finding.train_tickets:
                export(recipe.finish(trainer.model), dense_folder(out), probabilities=None)
                measurements[DENSE_SUM] = sha256(dense_folder(out))
            if finding.train_tickets:
                measurements |= measured(trainer.model, data, "dev", "test")
            if each.diverged is not None:
                measurements["diverged_in_epoch"] = each.diverged
            row = _row(each.ticket, measurements, checkpoints.seconds)
            rows.append(row)
            write_json_lines(metrics, rows, summed=True)
            if board:
                board.rows(rows)
                board.sparsity(each.ticket.masks, each.number)
            on_round(row)
        checkpoints.remove()
    return rows


def _board(out: Path, rows: Sequence[Row]) -> Board:
    """A TensorBoard writer with the finished rounds."""
    board = Board(out, "round")
    for number in board.rows(rows):
        masks = round_folder(out, number) / "masks.npz"
        if masks.is_file():  # a ticket that no later round needs may have been deleted
            board.sparsity(Masks.load(masks), number)
    return board


def find_run(out: Path, experiment: Experiment, finding: FindingSettings) -> Run:
    """The run of ``find`` that belongs in a folder."""
    if finding.method == IMPORTED:
        experiment = experiment.with_model_of_file()
    settings = {**experiment.describe(), **describe(finding)}
    if finding.method == IMPORTED:
        for name in ("model", "rewind"):
            if (path := settings[f"{name}_path"]) is not None:
                settings[f"{name}_sha256"] = sha256(existing_model(path))
    return Run(out, "find", settings, defaults(*Experiment.owners(), FindingSettings))


def finished_rounds(out: Path) -> list[Row]:
    """The rows of a run's ``metrics.jsonl``; empty if there is no such file.

    Raises:
      UsageError: if they are not rounds.
    """
    check_ours(out / "metrics.jsonl", _ROUNDS)
    return read_json_lines(out / "metrics.jsonl")


def check_find_places(out: Path, finding: FindingSettings, tensorboard: bool = False) -> None:
    """Raises UsageError if anything else is in ``out`` where the next rounds would write."""
    check_run_or_new(out)
    first = len(finished_rounds(out))
    if first >= finding.tickets:
        return
    numbers = [1] if finding.method == IMPORTED else range(first, finding.last_round + 1)
    kinds = {str(round_folder("", number)): TICKET for number in numbers}
    kinds["next_ticket"] = TICKET
    kinds[_CHECKPOINT] = CHECKPOINT
    if finding.train_tickets and first == 0 and finding.method != IMPORTED:
        kinds[dense_folder("").name] = SAVED_MODEL
    check_all_ours(out, kinds | ({FOLDER: BOARD} if tensorboard else {}))


def round_folder(run: str | os.PathLike[str], number: int) -> Path:
    """The folder of a round's ticket in a run of ``find``."""
    return Path(run) / "tickets" / f"round_{number:02}"


def dense_folder(run: str | os.PathLike[str]) -> Path:
    """The folder of the dense network, trained in round 0, in a run of ``find``."""
    return Path(run) / "dense_model"


def _round_of(ticket: Path) -> int | None:
    """The round of the ticket in a folder; None if there is no ticket."""
    file = ticket / "ticket.json"
    return read_json(file).get("round") if file.is_file() else None


def _row(ticket: Ticket, found: Row, seconds: float) -> Row:
    """A line of ``metrics.jsonl``; the round took ``seconds``."""
    return {
        "round": ticket.info["round"],
        "sparsity": ticket.sparsity,
        "sparsity_total": ticket.sparsity_total,
        **found,
        "seconds": round(seconds, 3),
    }


def _find_in_file(
    out: Path,
    experiment: Experiment,
    finding: FindingSettings,
    on_round: Callable[[Row], None],
    allow_code: bool,
) -> list[Row]:
    """Makes the ticket of a pruned model's file: its zeros, and the weights to rewind to."""
    run = find_run(out, experiment, finding)
    run.check()
    metrics = out / "metrics.jsonl"
    if metrics.exists():
        return finished_rounds(out)
    check_find_places(out, finding)
    start = time.perf_counter()
    data = load_data(experiment)
    last_step = experiment.training.steps(data.steps_per_epoch)
    rewind_step = finding.rewind_step(data.steps_per_epoch, last_step)
    model = load_pruned(cast(str, finding.model_path), allow_code)  # not None for from_model
    check_data(model, data, f"one in {finding.model_path}")
    rewind_to = None
    if finding.rewind_path is not None:
        rewind_to = load_pruned(finding.rewind_path, allow_code)
    ticket = Ticket.from_pruned(model, rewind_to)
    info = {
        **ticket.info,
        "dataset": experiment.data.dataset,
        "seed": experiment.training.seed,
        "settings": {**run.settings, DATA_SUM: data.sha256},
        "rewind_step": rewind_step,
        "round": 1,
    }
    ticket = dataclasses.replace(ticket, info=info)
    warn_of_collapse(ticket.masks)
    plain = strip(model)
    plain.compile(loss=default_loss(plain), metrics=["accuracy"])
    found = measured(plain, data, "dev", "test")
    row = _row(ticket, found, time.perf_counter() - start)
    with run.at_work(data.sha256, data.class_names):
        ticket.save(round_folder(out, 1))
        write_json_lines(metrics, [row], summed=True)
    on_round(row)
    return [row]
