"""Retraining a ticket with a recipe, as a run in a folder."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import (
    read_json_lines,
    sha256,
    write_arrays,
    write_json_lines,
    write_record,
)
from lottery_tf.common.log import log
from lottery_tf.common.ownership import (
    Kind,
    check_all_ours,
    check_ours,
    has_arrays,
    has_keys,
    lines_have_keys,
    remove_ours,
)
from lottery_tf.common.settings import defaults
from lottery_tf.data import Dataset
from lottery_tf.data.readers import FOLDER_IS_DATASET
from lottery_tf.exporting import SAVED_MODEL, export
from lottery_tf.finding.one_shot import warn_of_collapse
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.graph.compat import keras, noise_by_variables
from lottery_tf.masks.masks import read_arrays
from lottery_tf.runs import Row
from lottery_tf.runs.experiment import check_data, check_fit, experiment_of, load_data
from lottery_tf.runs.find import DENSE_SUM, dense_folder, finished_rounds, round_folder
from lottery_tf.runs.folder import GONE_ON, Run, check_run_or_new, load_saved_model
from lottery_tf.runs.records import finished_model, read_result
from lottery_tf.runs.settings import AS_USUAL, DATA_SUM, Experiment, HowToRun
from lottery_tf.runs.tensorboard import BOARD, FOLDER, Board
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.checkpoints import CHECKPOINT, Checkpoints
from lottery_tf.training.retraining import compiled_for_evaluation, measured_on_test, retrain
from lottery_tf.tweaks.distillation import Distillation
from lottery_tf.tweaks.recipe import Recipe
from lottery_tf.tweaks.rescaled_init import RescaledInit
from lottery_tf.tweaks.table import TWEAKS
from lottery_tf.tweaks.tweak import Tweak

_BEST, _CHECKPOINT = "best.npz", "checkpoint"
# The files that a run writes beside its config.json.
_WRITES = {
    "metrics.jsonl": Kind("the epochs of a retrain run", {".": lines_have_keys("epoch", "step")}),
    "result.json": Kind("the result of a retrain run", {".": has_keys("recipe", "sparsity")}),
    _BEST: Kind("the weights of a retrain run", {".": has_arrays("*/*")}),
    "model": SAVED_MODEL,
    _CHECKPOINT: CHECKPOINT,
}


def retrain_ticket(
    out: Path,
    ticket_path: Path,
    recipe: Recipe,
    experiment: Experiment | None = None,
    reinit: bool = False,
    on_epoch: Callable[[list[Row]], None] = lambda rows: None,
    test: bool = True,
    how: HowToRun = AS_USUAL,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Row:
    """Retrains a ticket with a recipe; writes ``result.json`` and the finished ``model/``.

    With ``test`` a finished run without measurements on the test images is measured now.

    Args:
      out: the run's folder.
      ticket_path: the ticket's folder.
      recipe: the tweaks. A ``Distillation`` without a teacher takes the dense model of round 0 of
        the ticket's own run.
      experiment: default: that of the ticket's own run.
      reinit: whether to train the ticket's mask from new initial weights, drawn by the training's
        seed.
      on_epoch: called after each epoch with the rows so far.
      test: whether to measure on the test images. If not, ``result.json`` does not have these
        measurements, and ``best.npz`` keeps the best weights on dev.
      how: how the run is carried out.
      callbacks: Keras callbacks for the training.

    Returns:
      The content of ``result.json``.

    Raises:
      UsageError: if the ticket does not name its experiment and none is given, or if it belongs to
        another model or other data. If the teacher is missing, or holds code that is not allowed.
        If anything else is in ``out`` where the run would write.
      Diverged: if the training diverges.
    """
    ticket = Ticket.load(ticket_path)
    experiment = experiment or experiment_of(ticket, ticket_path)
    by_itself = any(isinstance(t, Distillation) and t.teacher is None for t in recipe.tweaks)
    recipe = complete_recipe(recipe, ticket_path, experiment, how.allow_code)
    check_fit(ticket, experiment)
    run = retrain_run(out, ticket_path, recipe, experiment, reinit)
    run.check()
    if (out / "result.json").exists():
        check_ours(out / "result.json", _WRITES["result.json"])
        result = read_result(out)
        if not test:
            return result
        if not is_tested(result):
            result = _test_finished(out, result, experiment, how)
        remove_ours(out / _BEST, _WRITES[_BEST])
        return result
    run.put_right(_WRITES)
    check_retrain_places(out, how.tensorboard)
    if by_itself:
        _check_dense_model(ticket_path)
    noise_by_variables()
    data = load_data(experiment)
    last_step = experiment.training.steps(data.steps_per_epoch)
    _check_same_images(ticket, ticket_path, data)
    if ticket.info.get("rewind_step", 0) >= last_step:
        raise UsageError(
            f"Expected `train_for` to end after step {ticket.info['rewind_step']}, the rewind step "
            f"of the ticket, not at step {last_step}."
        )
    # Of the catalogue's datasets and the zoo's models the names have told.
    if "settings" not in ticket.info or data.name in FOLDER_IS_DATASET:
        check_data(ticket.build(), data, f"ticket in {ticket_path}")
    if experiment.model.model is not None:
        ticket = ticket.in_keras(experiment.model.keras)
    warn_of_collapse(ticket.masks)
    if reinit:
        ticket = ticket.reinitialised(experiment.training.seed)
    ticket.its_keras.utils.set_random_seed(experiment.training.seed)
    board: Board | None = None

    def begin() -> None:
        nonlocal board
        work.enter_context(run.at_work(data.sha256, data.class_names))
        if (out / "result.json").exists():
            raise UsageError(GONE_ON.format(out))
        if how.tensorboard:
            board = Board(out, "step")
            board.hyperparameters(_hyperparameters(ticket, recipe, run.settings))

    def show(board: Board, rows: list[Row]) -> None:
        for step in board.rows(rows):
            board.sparsity(ticket.masks, step)

    def on_epoch_end(rows: list[Row]) -> None:
        write_json_lines(out / "metrics.jsonl", rows)
        if board:
            show(board, rows)
        on_epoch(rows)

    checkpoints = Checkpoints(out / _CHECKPOINT, how.checkpoints)
    with contextlib.ExitStack() as work:
        # The folder is taken only when the recipe is known to fit the model and the data.
        retrained = retrain(
            *(ticket, recipe, data, experiment.training, checkpoints),
            on_epoch=on_epoch_end,
            on_prepared=begin,
            test=test,
            callbacks=callbacks,
        )
        export(retrained.model, out / "model", probabilities=None)
        if not test:
            write_arrays(out / _BEST, retrained.best)
        result = {**retrained.result, "ticket": str(ticket_path), "reinit": reinit}
        _write_result(out, result)
        if board:
            show(board, read_json_lines(out / "metrics.jsonl"))  # if no epoch was left to train
            board.result(result, last_step)
        checkpoints.remove()
    return result


def _check_same_images(ticket: Ticket, ticket_path: Path, data: Dataset) -> None:
    """Warns of other images than those with which the ticket was found; UsageError where it may
    have been trained on test images."""
    found_with = (ticket.info.get("settings") or {}).get(DATA_SUM, data.sha256)
    if found_with == data.sha256:
        return
    if data.test_is_drawn:
        raise UsageError(
            f"Expected the images with which the ticket {ticket_path} was found, read as then; "
            "it may have been trained on test images that are drawn from others. Give its own, "
            "or find a ticket with these."
        )
    log.warning(
        "%s: the images and labels of %s are not those with which the ticket was found.",
        *(ticket_path, data.name),
    )


def check_retrain_places(out: Path, tensorboard: bool = False) -> None:
    """Raises UsageError if anything else is in ``out`` where a run of ``retrain`` would write."""
    check_run_or_new(out)
    if not (out / "result.json").exists():
        check_all_ours(out, _WRITES | ({FOLDER: BOARD} if tensorboard else {}))


def _write_result(out: Path, result: Row) -> None:
    """Writes ``result.json`` last, with the sums of the run's other files."""
    there = (name for name in ("metrics.jsonl", "model") if (out / name).exists())
    write_record(out / "result.json", result, {name: sha256(out / name) for name in there})


def is_tested(result: Row) -> bool:
    """Whether a run's ``result.json`` has measurements on the test images."""
    return result.get("test_accuracy") is not None


def _test_finished(out: Path, result: Row, experiment: Experiment, how: HowToRun) -> Row:
    """A finished run's result, with measurements on the test images added."""
    model = compiled_for_evaluation(load_saved_model(finished_model(out), how.allow_code))
    best = read_arrays(out / _BEST)
    measured = measured_on_test(model, best, load_data(experiment))
    result = {**result, **measured}
    _write_result(out, result)
    if how.tensorboard:
        last = read_json_lines(out / "metrics.jsonl")[-1]
        Board(out, "step", anew=False).result(measured, last["step"])
    return result


def retrain_run(
    out: Path, ticket_path: Path, recipe: Recipe, experiment: Experiment, reinit: bool = False
) -> Run:
    """The run of ``retrain`` that belongs in a folder.

    Arguments are as in ``retrain_ticket``; the recipe is what ``complete_recipe`` returns."""
    settings = {
        **experiment.describe(),
        "ticket": str(ticket_path),
        "ticket_sha256": sha256(Path(ticket_path) / "ticket.json"),
        **_tweaks(recipe),
        "reinit": reinit,
    }
    of_tweaks = {name: defaults(tweak) for name, tweak in TWEAKS.items()}
    usual = {**defaults(*Experiment.owners()), "reinit": False}
    return Run(out, "retrain", settings, usual, of_tweaks)


def _hyperparameters(ticket: Ticket, recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ between the retrainings of a sweep."""
    parameters = {
        f"{tweak}_{name}": value
        for tweak, described in recipe.describe().items()
        for name, value in described.items()
    }
    found_with = ticket.info.get("settings", {})
    finding = {f"ticket_{k}": found_with[k] for k in defaults(FindingSettings) if k in found_with}
    finding |= {"method": ticket.info.get("method"), "sparsity": round(ticket.sparsity, 4)}
    own = {k: settings[k] for k in (*defaults(*Experiment.owners()), "reinit") if k != "data_dir"}
    return {"recipe": recipe.name, **finding, **own, **parameters}


def complete_recipe(
    recipe: Recipe, ticket_path: Path, experiment: Experiment, allow_code: bool = False
) -> Recipe:
    """``recipe``, completed from the training and from the ticket's own run.

    ``RescaledInit`` gets the optimizer and ``Distillation`` the teacher, unless they have their
    own; ``allow_code`` is passed on.

    Raises:
      UsageError: if there is no teacher.
    """

    def completed(tweak: Tweak) -> Tweak:
        if isinstance(tweak, RescaledInit):
            if tweak.order == "search_first" and tweak.dense is None:
                dense = round_folder(Path(ticket_path).resolve().parents[1], 0)
                tweak = dataclasses.replace(tweak, dense=str(dense))
            return tweak
        if isinstance(tweak, Distillation) and (tweak.teacher is None or allow_code):
            teacher = tweak.teacher or _dense_model_of(ticket_path)
            allowed = allow_code or tweak.allow_code
            return dataclasses.replace(tweak, teacher=teacher, allow_code=allowed)
        return tweak

    recipe = recipe.for_training_by(experiment.training.optimizer)
    return recipe.with_tweaks([completed(tweak) for tweak in recipe.tweaks])


def _dense_model_of(ticket_path: Path) -> str:
    # If the path is a link, its target counts: RUN/tickets/round_NN.
    dense = dense_folder(Path(ticket_path).resolve().parents[1])
    if not dense.is_dir():
        raise UsageError(
            f"Expected the dense model of the ticket's own run, for distillation, at {dense}; "
            "there is none. The ticket was copied, its run trained no dense network (from_model, "
            "`train_tickets=False`), or an older release found it. Name a teacher with "
            "`distillation_teacher`."
        )
    return str(dense)


def _check_dense_model(ticket_path: Path) -> None:
    """Raises UsageError unless the dense model beside a ticket is the one that its run has made.

    It is checked because the user has not named it."""
    dense = Path(_dense_model_of(ticket_path))
    rows = finished_rounds(dense.parent)
    stated = rows[0].get(DENSE_SUM) if rows else None
    if stated is None:
        raise UsageError(
            f"Expected metrics.jsonl beside {dense} to have its sum ({DENSE_SUM}), as this release "
            f"writes it; it has none. If it is the right teacher, name it: "
            f"`distillation_teacher={dense}`."
        )
    if stated != sha256(dense):
        raise UsageError(
            f"Expected {dense} to have the sum that metrics.jsonl beside it gives; it is damaged "
            "or changed: copy it again, or name a teacher with `distillation_teacher`."
        )


def _tweaks(recipe: Recipe) -> dict[str, Any]:
    """The recipe's part of a run's settings.

    The path of a teacher or dense ticket is separate from its identity."""
    described: dict[str, Any] = recipe.describe()
    apart: dict[str, Any] = {}
    for tweak, parameters in zip(recipe.tweaks, described.values(), strict=True):
        if isinstance(tweak, Distillation):
            apart |= {"teacher": parameters.pop("teacher"), "teacher_sha256": tweak.sha256}
        if isinstance(tweak, RescaledInit) and (dense := parameters.pop("dense")) is not None:
            apart |= {"dense_ticket": dense, "dense_ticket_sha256": _sum_of_ticket(dense)}
    return {"tweaks": described, **apart}


def _sum_of_ticket(path: str) -> str:
    """The sum of a ticket's record, which has the sums of its other files."""
    record = Path(path) / "ticket.json"
    if not record.is_file():
        raise UsageError(
            f"Expected the dense ticket for the search of scales at {path}; there is none: name "
            "one with `rescaled_init_dense`."
        )
    return sha256(record)
