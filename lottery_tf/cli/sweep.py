"""lottery-tf sweep: a grid of recipes, masks, sparsities, seeds and any flags."""

import dataclasses
import datetime
from concurrent.futures import Future
from pathlib import Path
from typing import TypeGuard

from rich.console import Group
from rich.live import Live
from rich.table import Table

from lottery_tf.cli.console import console
from lottery_tf.cli.flags import Parsed
from lottery_tf.cli.following import command
from lottery_tf.cli.grid import sparsities_said, trials_of, tuned, tuning_seeds
from lottery_tf.cli.messages import in_flags
from lottery_tf.cli.report import library, whole_numbers
from lottery_tf.cli.settings import (
    OutSettings,
    SweepSettings,
    how_to_run,
)
from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.errors import UsageError, WorkFailed
from lottery_tf.common.log import counted, log, some
from lottery_tf.common.summary import duration, percent
from lottery_tf.finding.settings import DivergenceSettings
from lottery_tf.sweeping.attempt import Outcome, attempt, log_of
from lottery_tf.sweeping.cluster import RayEngine
from lottery_tf.sweeping.local import LocalEngine
from lottery_tf.sweeping.moved import named_as_begun
from lottery_tf.sweeping.scheduling import Progress, run_trials
from lottery_tf.sweeping.trials import FindTrial, RetrainTrial, Trial
from lottery_tf.tweaks.recipe import Recipe
from lottery_tf.tweaks.settings import as_read


def run(flags: Parsed) -> None:
    """Runs what is missing of the grid, and says what it comes to."""
    out = flags.settings(OutSettings).folder.resolve()  # a worker may have another folder
    settings, devices = flags.settings(SweepSettings), flags.settings(DeviceSettings)
    how = how_to_run(flags, on_nan=flags.settings(DivergenceSettings).on_nan)
    trials, names, choosing = trials_of(flags), tuned(flags), tuning_seeds(flags)
    for trial in trials:
        if isinstance(trial, RetrainTrial):
            Recipe(trial.recipe, trial.parameters)  # refuses what only Keras can check
    seeds = whole_numbers(choosing)
    reporting = library() if names and settings.measure else None
    there = {trial.experiment.training.seed for trial in trials}
    if reporting and not there.issuperset(seeds):
        raise UsageError(
            f"Expected --tune_seeds among --seeds, {some([*map(str, sorted(there))])}, got "
            f"{some([*choosing])}: give those that are to choose, or --nomeasure."
        )
    if reporting and (undecidable := _undecidable(trials, seeds)):
        first = undecidable[0]
        raise UsageError(
            f"Expected one of --tune_seeds, {some([*choosing])}, among the --seeds of each part of "
            f"the grid with --tune; the part with {as_read(first.recipe)} ({first.label}) has "
            "none of them."
        )
    if (out / "config.json").is_file():
        raise UsageError(
            f"Expected --out to be new or a sweep's folder; {out} is the folder of a single run "
            "(it has config.json): choose another --out."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"Expected --out to be a folder that can be written; {error}.") from None
    trials = named_as_begun(trials, out)
    for line in sparsities_said(flags):
        console.print(line)
    table = _Table()
    with _engine(settings) as engine, Live(table, console=console, refresh_per_second=1) as live:

        def watch(progress: Progress, trial: Trial | None, outcome: Outcome | None) -> None:
            if table.progress is None:
                live.console.print(_what_is_there(progress, len(later_trials)), markup=False)
            table.progress = progress
            if trial is not None and outcome is not None:
                said = f"{_line(trial, outcome, out)}  {table.how_far()}"
                live.console.print(said, markup=False)

        def submit(trial: Trial) -> Future[Outcome]:
            return engine.submit(attempt, trial, out, devices, how)

        later_trials = [trial for trial in trials if _waits(trial, seeds)]
        at_once = [trial for trial in trials if not _waits(trial, seeds)]
        later = {trial.experiment.training.seed for trial in later_trials}
        if reporting and later:
            waiting = some([*map(str, sorted(later))])
            table.then = f"then seeds {waiting} with what dev images choose"
        done = run_trials(at_once, out, submit, settings.retries, watch)
        # Runs of this grid alone, whatever else lies in the folder. Where one is missing nothing is
        # chosen, since it might have been the best.
        candidates = [trial for trial in at_once if _chooses(trial, seeds)]
        undecided = {trial.choice for trial in candidates if trial.folder in done.failed}
        tried = [out / trial.folder for trial in candidates if trial.choice not in undecided]
        table.then = ""
        if reporting and tried:
            gathered = reporting.gather(tried)
            best = reporting.tuned(gathered, names, seeds)
            for note in gathered.notes + best.notes:
                log.warning("%s", note)
            runs = tried if best.runs is None else map(Path, best.runs["run"])
            folders = {run.relative_to(out).as_posix() for run in runs}
            chosen = _chosen(trials, folders, seeds)
            done = run_trials(chosen, out, submit, settings.retries, watch, failed=done.failed)
    if done.failed:
        folder = next(iter(done.failed))
        said = [
            f"{counted(len(done.failed), 'run')} of {len(done.trials)} failed "
            f"({some([*done.failed])}); {folder}: {done.failed[folder].rstrip('.')}."
        ]
        if log_of(out, folder).is_file():
            said.append(f"Its log: {log_of(out, folder)}.")
        said.append("The same command tries again what is missing.")
        if reporting and undecided:
            said.append("Until then nothing is chosen for their recipes on these tickets.")
        raise WorkFailed(" ".join(said))
    report = ["report", out, f"--out={out / 'report.html'}"]
    report += [f"--tune={','.join(names)}"] if names else []
    report += [f"--tune_seeds={','.join(choosing)}"] if choosing else []
    left = ""
    if names and not settings.measure:
        left = (
            " but for what --tune has to choose: for that, give the whole grid without --nomeasure"
        )
    console.print(f"Finished{left}. Next: {command(*report)}", markup=False)


def _engine(settings: SweepSettings) -> LocalEngine | RayEngine:
    """What the trials run on."""
    if settings.engine == "local":
        return LocalEngine(settings.processes, settings.gpus_per_trial)
    return RayEngine(settings.ray_address, settings.cpus_per_trial, settings.gpus_per_trial)


def _is_tuned(trial: Trial) -> TypeGuard[RetrainTrial]:
    return isinstance(trial, RetrainTrial) and trial.tuned


def _chooses(trial: Trial, seeds: list[int]) -> TypeGuard[RetrainTrial]:
    """Whether its dev accuracy decides which values are best."""
    return _is_tuned(trial) and (not seeds or trial.experiment.training.seed in seeds)


def _waits(trial: Trial, seeds: list[int]) -> TypeGuard[RetrainTrial]:
    """Whether it waits until others have decided that."""
    return _is_tuned(trial) and not trial.test and not _chooses(trial, seeds)


def _undecidable(trials: list[Trial], seeds: list[int]) -> list[RetrainTrial]:
    """Trials that would wait for ever, since no seed that decides has a run with their values."""
    tried = {trial.kin for trial in trials if _chooses(trial, seeds)}
    return [trial for trial in trials if _waits(trial, seeds) and trial.kin not in tried]


def _chosen(trials: list[Trial], best: set[str], seeds: list[int]) -> list[Trial]:
    """The trials that are left to do. The ``best``, given by their folders, are tested. Of the
    trials that waited, those are run and tested that differ from a best one in the seed alone."""
    kin = {trial.kin for trial in trials if _is_tuned(trial) and trial.folder in best}
    found: list[Trial] = []
    for trial in trials:
        if _is_tuned(trial) and trial.kin in kin:
            found.append(dataclasses.replace(trial, test=True))
        elif not _waits(trial, seeds):
            found.append(trial)
    return found


class _Table:
    """What is done, what is left, when the sweep ends, and what comes after that."""

    progress: Progress | None = None
    then: str = ""

    def how_far(self) -> str:
        """``3 of 14``, and about how long the others take, where that is known."""
        assert self.progress is not None
        done = len(self.progress.finished | self.progress.failed.keys())
        seconds = self.progress.seconds_left()
        left = f", about {duration(seconds)} left" if seconds else ""
        return f"[{done} of {len(self.progress.trials)}{left}]"

    def __rich__(self) -> Group | str:
        if self.progress is None:
            return ""
        table = Table()
        for name in ("", "done", "failed", "left"):
            table.add_column(name, justify="right" if name else "left")
        progress = self.progress
        for kind in dict.fromkeys(trial.kind for trial in progress.trials):
            own = {trial.folder for trial in progress.trials if trial.kind == kind}
            counts = (len(own & progress.finished), len(own & progress.failed.keys()))
            table.add_row(kind, *map(str, counts), str(progress.left(kind)))
        seconds = progress.seconds_left()
        when = ""
        if seconds:  # else it is unknown, or none
            end = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
            when = f"about {duration(seconds)} left, until {end:%a %H:%M}"
        return Group(table, "; ".join(filter(None, (when, self.then))))


def _what_is_there(progress: Progress, later: int) -> str:
    """How many runs the grid has, and how many of them are there already."""
    gone = progress.finished | progress.failed.keys()
    kinds = dict.fromkeys(trial.kind for trial in progress.trials)
    number = {kind: sum(trial.kind == kind for trial in progress.trials) for kind in kinds}
    there = {kind: number[kind] - progress.left(kind) for kind in kinds}
    said = [
        f"{counted(number[kind], f'{kind} run')} ({there[kind]} there already)" for kind in kinds
    ]
    then = f", and {counted(later, 'run')} when --tune has chosen" if later else ""
    left = len(progress.trials) - len(gone)
    return f"The grid has {' and '.join(said)}: {counted(left, 'run')} to do{then}."


def _line(trial: Trial, outcome: Outcome, out: Path) -> str:
    if outcome.error is not None:
        return f"{trial.folder}  {trial.label}  failed: {in_flags(outcome.error)}"
    dev = "" if outcome.dev_accuracy is None else f"  dev {percent(outcome.dev_accuracy)}"
    collapsed = trial.collapsed(out) if isinstance(trial, FindTrial) else []
    empty = f"  nothing is left of {some(collapsed)}" if collapsed else ""
    return f"{trial.folder}  {trial.label}{dev}  {duration(outcome.seconds)}{empty}"
