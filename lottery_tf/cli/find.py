"""lottery-tf find: draws the tickets of a network, a folder for each round."""

from dataclasses import fields
from pathlib import Path

from lottery_tf.cli.console import console
from lottery_tf.cli.flags import Parsed
from lottery_tf.cli.following import beside, command, say_next
from lottery_tf.cli.settings import OutSettings, how_to_run
from lottery_tf.cli.terminal import Countdown, TrainingStatus, at_work
from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.devices import own_folder
from lottery_tf.common.log import log
from lottery_tf.common.summary import duration, percent
from lottery_tf.finding.scores import METHODS
from lottery_tf.finding.settings import IMPORTED, DivergenceSettings, FindingSettings
from lottery_tf.masks.settings import PrunableSettings
from lottery_tf.models import ModelSettings
from lottery_tf.runs import Row
from lottery_tf.runs.find import find, finished_rounds, round_folder
from lottery_tf.runs.folder import check_run_or_new
from lottery_tf.runs.settings import AS_USUAL, Experiment, HowToRun


def run(flags: Parsed) -> None:
    """Draws the tickets, and prints a line for each round."""
    out = flags.settings(OutSettings).folder
    experiment = Experiment(*(flags.settings(owner) for owner in Experiment.owners()))
    finding = flags.settings(FindingSettings)
    if unused := sorted(_unused(finding.method) & flags.given):
        log.info("not used by %s: %s", finding.method, ", ".join(f"--{name}" for name in unused))
    with at_work(flags.settings(DeviceSettings)), own_folder(out) as folder:
        how = how_to_run(flags, on_nan=flags.settings(DivergenceSettings).on_nan)
        run_find(folder, experiment, finding, how)
    console.print(f"Tickets: {out / 'tickets'}")
    ticket, run = round_folder(out, finding.last_round), beside(out, "tost")
    say_next(
        command("inspect", ticket),
        command("retrain", f"--ticket={ticket}", "--recipe=tost", f"--out={run}"),
    )


def _unused(method: str) -> set[str]:
    """The flags that a method does not use; a flagfile may have them for another method."""
    of = {
        "imp": {"rounds", "prune_fraction"},
        "gmp": {"regrow", *(f.name for f in fields(FindingSettings) if f.name.startswith("gmp_"))},
        IMPORTED: {"model_path", "rewind_path"},
    }
    unused = set().union(*(names for other, names in of.items() if other != method))
    if method not in METHODS or method == "omp":
        unused |= {"score_batches", "score_rounds"}
    else:
        found = METHODS[method]
        unused |= {"scope"} if found.scope else set()
        unused |= set() if found.looks_at_data else {"score_batches"}
    if method == IMPORTED:
        unused |= {"sparsity", "scope", "structure", "min_kept", "rewind", "train_tickets"}
        unused |= {f.name for kind in (ModelSettings, PrunableSettings) for f in fields(kind)}
    return unused


def run_find(
    out: Path,
    experiment: Experiment,
    finding: FindingSettings,
    how: HowToRun = AS_USUAL,
) -> list[Row]:
    """Runs the stage, prints a line for each round, and returns the rows."""
    check_run_or_new(out)
    finished = len(finished_rounds(out))
    last = finding.last_round
    countdown = Countdown(finding.tickets, finished)
    with console.status("reading data, building the model") as status:
        watch = TrainingStatus(status, f"round {finished} of {last}")

        def show(row: Row) -> None:
            dev = f"dev {percent(row['dev_accuracy'])}  " if "dev_accuracy" in row else ""
            console.print(
                f"round {row['round']:2} of {last}  sparsity {percent(row['sparsity']):>7}  {dev}"
                f"{duration(row['seconds']):>6}  {countdown.one_more()}"
            )
            watch.label = f"round {row['round'] + 1} of {last}"

        rows = find(out, experiment, finding, show, [watch], how)
    if finished >= finding.tickets:
        console.print(f"{out} is finished; nothing to do.")
    return rows
