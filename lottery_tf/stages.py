"""The stages of an experiment as resumable runs in folders: find, retrain, export.

A stage that is finished is never computed again, one that was interrupted goes on, and a folder
that belongs to another configuration is refused. What the files hold is in docs/files.md.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lottery_tf.batch_norm import SharedStatistics
from lottery_tf.boards import Board
from lottery_tf.data import load
from lottery_tf.errors import UsageError
from lottery_tf.experiment import Experiment, check_data, check_fit, experiment_of
from lottery_tf.exporting import MAX_DIFFERENCE, REPORT, export, write_exports
from lottery_tf.files import (
    read_json,
    read_json_lines,
    sha256,
    write_arrays,
    write_json,
    write_json_lines,
)
from lottery_tf.finding import first_ticket, rounds
from lottery_tf.finding_settings import IMPORTED, FindingSettings
from lottery_tf.keras import existing_model, keras
from lottery_tf.masks import read_arrays
from lottery_tf.precision import Precision
from lottery_tf.pruning import warn_of_collapse
from lottery_tf.recipe import Recipe
from lottery_tf.retraining import compiled_for_evaluation, measured, measured_on_test, retrain
from lottery_tf.runs import Run, load_pruned, load_saved_model, read_config
from lottery_tf.settings import defaults, describe
from lottery_tf.ticket import Ticket
from lottery_tf.training import Trainer
from lottery_tf.tweaks import TWEAKS
from lottery_tf.tweaks.distillation import Distillation
from lottery_tf.tweaks.soft_labels import default_loss
from lottery_tf.wrapper import all_kept, strip

Row = dict[str, Any]
_BEST = "best.npz"


def find(
    out: Path,
    experiment: Experiment,
    finding: FindingSettings,
    on_round: Callable[[Row], None] = lambda row: None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    tensorboard: bool = False,
) -> list[Row]:
    """Draws the tickets of ``experiment`` into ``out/tickets/round_NN``.

    The network that round 0 has trained is kept in ``out/dense_model``, a teacher for the tickets.
    A run of imp that is finished goes on when more rounds are asked for, from ``out/next_ticket``.
    Of the zeros of a model's file (method from_model) there is one ticket, ``round_01``, and a row
    of that model as it is.

    Args:
      out: the run's folder.
      experiment: network, data and training.
      finding: how the tickets are drawn.
      on_round: called with the row of each round as it is finished.
      callbacks: Keras callbacks for the training of every round.
      tensorboard: write TensorBoard's events too, by round; not for from_model.

    Returns:
      The rows of ``metrics.jsonl``, one a round.
    """
    if finding.method == IMPORTED:
        return _find_in_file(out, experiment, finding, on_round)
    run = find_run(out, experiment, finding)
    run.check()
    metrics = out / "metrics.jsonl"
    rows = read_json_lines(metrics)
    if len(rows) >= finding.tickets:
        return rows[: finding.tickets]

    data = experiment.load_data()
    last_step = experiment.training.steps(data.steps_per_epoch)
    rewind_step = finding.rewind_step(data.steps_per_epoch, last_step)
    model = experiment.create_model(data)
    masks = all_kept(model, experiment.prunable)
    recipe = Recipe([Precision(experiment.training.precision), SharedStatistics()])
    trainer = Trainer(
        recipe.prepare(Ticket.of(model, masks).build()),
        data.stream,
        data.steps_per_epoch,
        experiment.training.make_optimizer(data.steps_per_epoch),
        recipe.loss(),
        experiment.training.jit_compile,
        experiment.training.steps_per_execution,
    )
    start = time.perf_counter()
    unfinished, following = round_folder(out, len(rows)), out / "next_ticket"
    goes_on = not unfinished.exists() and _round_of(following) == len(rows)
    if rows and not unfinished.exists() and not goes_on:
        raise UsageError(
            f"Expected the ticket of the next round at {unfinished}; it is gone, or the last "
            "round's training had diverged, so that there can be none: put it back, or choose "
            "another --out to start again."
        )
    run.begin()
    if goes_on:
        following.rename(unfinished)
    if unfinished.exists():
        ticket = Ticket.load(unfinished)
        if ticket.architecture != Ticket.of(model, masks).architecture:
            raise UsageError(
                f"Expected {unfinished} to be of the {model.name} that this release makes; another "
                "release made another: choose another --out to start again."
            )
        if goes_on:
            warn_of_collapse(ticket.masks)
    else:
        info = {
            "method": finding.method,
            "model": experiment.model.model,
            "dataset": experiment.data.dataset,
            "seed": experiment.training.seed,
            # A ticket of imp does not hang on how many follow.
            "settings": {k: v for k, v in run.settings.items() if k != "rounds"},
        }
        ticket = first_ticket(model, trainer, masks, rewind_step, info)
        ticket.save(unfinished)
    board = Board(out, "round") if tensorboard else None
    for each in rounds(ticket, trainer, finding, last_step, callbacks):
        if each.next_ticket is not None:
            last = each.number == finding.last_round
            each.next_ticket.save(following if last else round_folder(out, each.number + 1))
        if each.number == 0 and finding.train_tickets:
            export(recipe.finish(trainer.model), dense_folder(out))
        found = measured(trainer.model, data, "dev", "test") if finding.train_tickets else {}
        row = _row(each.ticket, found, start)
        start = time.perf_counter()
        rows.append(row)
        write_json_lines(metrics, rows)
        if board:
            board.rows(rows)
            board.sparsity(each.ticket.masks, each.number)
        on_round(row)
    return rows


def find_run(out: Path, experiment: Experiment, finding: FindingSettings) -> Run:
    """The run of ``find`` that a folder is asked to be."""
    if finding.method == IMPORTED:
        experiment = experiment.with_model_of_file()
    settings = {**experiment.describe(), **describe(finding)}
    if finding.method == IMPORTED:
        for name in ("model", "rewind"):
            if (path := settings[f"{name}_path"]) is not None:
                settings[f"{name}_sha256"] = sha256(existing_model(path))
    return Run(out, "find", settings, defaults(*Experiment.owners(), FindingSettings))


def round_folder(run: Path, number: int) -> Path:
    """Where a run of ``find`` has the ticket of a round."""
    return Path(run) / "tickets" / f"round_{number:02}"


def dense_folder(run: Path) -> Path:
    """Where a run of ``find`` has the network that round 0 has trained."""
    return Path(run) / "dense_model"


def _round_of(ticket: Path) -> int | None:
    """The round of the ticket in a folder; None if there is none."""
    file = ticket / "ticket.json"
    return read_json(file).get("round") if file.is_file() else None


def _row(ticket: Ticket, found: Row, start: float) -> Row:
    """A line of ``metrics.jsonl``; ``start`` is when the round began, by ``perf_counter``."""
    return {
        "round": ticket.info["round"],
        "sparsity": ticket.sparsity,
        "sparsity_total": ticket.sparsity_total,
        **found,
        "seconds": round(time.perf_counter() - start, 3),
    }


def _find_in_file(
    out: Path, experiment: Experiment, finding: FindingSettings, on_round: Callable[[Row], None]
) -> list[Row]:
    """The ticket of a pruned model's file: its zeros, and the weights that are to be rewound to."""
    run = find_run(out, experiment, finding)
    run.check()
    metrics = out / "metrics.jsonl"
    if metrics.exists():
        return read_json_lines(metrics)
    start = time.perf_counter()
    data = experiment.load_data()
    last_step = experiment.training.steps(data.steps_per_epoch)
    rewind_step = finding.rewind_step(data.steps_per_epoch, last_step)
    model = load_pruned(finding.model_path)
    check_data(model, data, f"one in {finding.model_path}")
    ticket = Ticket.from_pruned(
        model, None if finding.rewind_path is None else load_pruned(finding.rewind_path)
    )
    info = {
        **ticket.info,
        "dataset": experiment.data.dataset,
        "seed": experiment.training.seed,
        "settings": run.settings,
        "rewind_step": rewind_step,
        "round": 1,
    }
    ticket = dataclasses.replace(ticket, info=info)
    warn_of_collapse(ticket.masks)
    plain = strip(model)
    plain.compile(loss=default_loss(plain), metrics=["accuracy"])
    row = _row(ticket, measured(plain, data, "dev", "test"), start)
    run.begin()
    ticket.save(round_folder(out, 1))
    write_json_lines(metrics, [row])
    on_round(row)
    return [row]


def retrain_ticket(
    out: Path,
    ticket_path: Path,
    recipe: Recipe,
    experiment: Experiment | None = None,
    reinit: bool = False,
    on_epoch: Callable[[list[Row]], None] = lambda rows: None,
    tensorboard: bool = False,
    test: bool = True,
) -> Row:
    """Retrains a ticket with a recipe; writes ``result.json`` and the finished ``model/``.

    A finished run that was not measured on the test images is so now, if ``test`` says so.

    Args:
      out: the run's folder.
      ticket_path: the ticket's folder.
      recipe: the tweaks. A ``Distillation`` without a teacher has the dense model of round 0 of
        the ticket's own run.
      experiment: default: that of the ticket's own run.
      reinit: train the ticket's mask from new initial weights of the training's seed instead.
      on_epoch: called after each epoch with the rows so far.
      tensorboard: write TensorBoard's events too, by step.
      test: measure on the test images. Otherwise ``result.json`` says nothing of them, and
        ``best.npz`` keeps the weights that were best on dev.

    Returns:
      What ``result.json`` holds.

    Raises:
      UsageError: if the ticket says nothing of its experiment and none is given, or belongs to
        another model or data than the experiment's; if there is no teacher to distil from.
    """
    ticket = Ticket.load(ticket_path)
    experiment = experiment or experiment_of(ticket, ticket_path)
    recipe = _with_teacher(recipe, ticket_path)
    check_fit(ticket, experiment)
    run = retrain_run(out, ticket_path, recipe, experiment, reinit)
    run.check()
    if (out / "result.json").exists():
        result = read_json(out / "result.json")
        if not test:
            return result
        result = result if is_tested(result) else _test_finished(out, result, experiment)
        (out / _BEST).unlink(missing_ok=True)
        return result
    data = experiment.load_data()
    last_step = experiment.training.steps(data.steps_per_epoch)
    if ticket.info.get("rewind_step", 0) >= last_step:
        raise UsageError(
            f"Expected --train_for to end behind step {ticket.info['rewind_step']}, to which the "
            f"ticket was rewound, not at step {last_step}."
        )
    if "settings" not in ticket.info:
        check_data(ticket.build(), data, f"ticket in {ticket_path}")
    if reinit:
        ticket = ticket.reinitialised(experiment.training.seed)
    keras.utils.set_random_seed(experiment.training.seed)
    board: Board | None = None

    def begin():
        nonlocal board
        run.begin()
        if tensorboard:
            board = Board(out, "step")
            board.hyperparameters(_hyperparameters(ticket, recipe, run.settings))

    def on_epoch_end(rows):
        write_json_lines(out / "metrics.jsonl", rows)
        if board:
            board.rows(rows)
            board.sparsity(ticket.masks, rows[-1]["step"])
        on_epoch(rows)

    # The folder is taken when the recipe has proved to fit the model and the data.
    retrained = retrain(
        *(ticket, recipe, data, experiment.training, out / "checkpoint", on_epoch_end, begin, test)
    )
    export(retrained.model, out / "model")
    if not test:
        write_arrays(out / _BEST, retrained.best)
    result = {**retrained.result, "ticket": str(ticket_path), "reinit": reinit}
    write_json(out / "result.json", result)
    if board:
        names = ("sparsity", "sparsity_total", "test_accuracy", "best_dev_test_accuracy")
        board.scalars({f"result/{n}": result[n] for n in names if n in result}, last_step)
    shutil.rmtree(out / "checkpoint", ignore_errors=True)
    return result


def is_tested(result: Row) -> bool:
    """Whether a run's ``result.json`` says what the test images say."""
    return "test_accuracy" in result


def _test_finished(out: Path, result: Row, experiment: Experiment) -> Row:
    """A finished run's result with what the test images say."""
    model = compiled_for_evaluation(load_saved_model(out / "model"))
    best = read_arrays(out / _BEST)
    result = {**result, **measured_on_test(model, best, experiment.load_data())}
    write_json(out / "result.json", result)
    return result


def retrain_run(
    out: Path, ticket_path: Path, recipe: Recipe, experiment: Experiment, reinit: bool = False
) -> Run:
    """The run of ``retrain`` that a folder is asked to be; arguments as of ``retrain_ticket``."""
    settings = {
        **experiment.describe(),
        "ticket": str(ticket_path),
        "ticket_sha256": sha256(Path(ticket_path) / "ticket.json"),
        **_tweaks(_with_teacher(recipe, ticket_path)),
        "reinit": reinit,
    }
    of_tweaks = {name: defaults(tweak) for name, tweak in TWEAKS.items()}
    return Run(out, "retrain", settings, defaults(*Experiment.owners()), of_tweaks)


def _hyperparameters(ticket: Ticket, recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What tells the retrainings of a sweep apart."""
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


def _with_teacher(recipe: Recipe, ticket_path: Path) -> Recipe:
    """``recipe``; its ``Distillation``, if it has no teacher, with the ticket's dense model."""

    def taught(tweak):
        if not isinstance(tweak, Distillation) or tweak.teacher is not None:
            return tweak
        # Where the ticket is, if the path is a link: RUN/tickets/round_NN.
        dense = dense_folder(Path(ticket_path).resolve().parents[1])
        if not dense.is_dir():
            raise UsageError(
                f"Expected the dense model of the ticket's own run, to distil from, at {dense}; "
                "there is none: the ticket was copied, its run trained no dense network "
                "(from_model, --notrain_tickets), or an older release found it. Name a teacher "
                "with --distillation_teacher."
            )
        return dataclasses.replace(tweak, teacher=str(dense))

    return Recipe([taught(tweak) for tweak in recipe.tweaks])


def _tweaks(recipe: Recipe) -> dict[str, Any]:
    """What a run's settings say of its recipe; where a teacher lies, apart from what it is."""
    described, teacher = recipe.describe(), {}
    for tweak, parameters in zip(recipe.tweaks, described.values(), strict=True):
        if isinstance(tweak, Distillation):
            teacher = {"teacher": parameters.pop("teacher"), "teacher_sha256": tweak.sha256}
    return {"tweaks": described, **teacher}


def export_run(
    run: Path,
    out: Path,
    formats: Sequence[str] = ("saved_model",),
    tolerance: float = MAX_DIFFERENCE,
) -> Row:
    """Exports the finished model of a retrain run and proves it on the run's test images.

    Args:
      run: the folder of a finished retrain run.
      out: the folder to write to.
      formats: names in ``lottery_tf.exporting.FORMATS``.
      tolerance: the largest difference to the model's outputs that is allowed.

    Returns:
      What ``export.json`` holds.

    Raises:
      UsageError: if ``run`` is no finished retrain run.
      RuntimeError: if an export does not compute what the model computes; nothing is left then.
    """
    settings = read_config(run)
    if not (run / "result.json").is_file():
        raise UsageError(
            f"Expected a finished retrain run (with result.json) at {run}; it has none: run "
            "`lottery-tf retrain` to its end first."
        )
    source = {"run": str(run), "result_sha256": sha256(run / "result.json")}
    if (out / REPORT).is_file():
        facts = read_json(out / REPORT)
        theirs = {each.get("source", {}).get("result_sha256") for each in facts.values()}
        if facts.keys() != set(formats) or theirs != {source["result_sha256"]}:
            raise UsageError(
                f"Expected --out to be new or this export's; {out} holds another run's, or other "
                f"formats ({', '.join(facts)}): choose another --out."
            )
        return facts
    model = load_saved_model(run / "model")
    data = load(Experiment.restore(settings).data)
    preprocessing = {
        "dataset": data.name,
        "input": "(pixels - mean) / std, pixels as the dataset has them, float32",
        "mean": list(data.mean),
        "std": list(data.std),
    }
    return write_exports(
        model,
        out,
        formats,
        images=data.normalise(data.test.images),
        labels=data.test.labels,
        preprocessing=preprocessing,
        source=source,
        tolerance=tolerance,
    )
