"""The order of the trials of a sweep, and its progress."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from types import MappingProxyType

from lottery_tf.common.errors import UsageError
from lottery_tf.sweeping.attempt import Outcome, first_line
from lottery_tf.sweeping.trials import Trial


@dataclasses.dataclass
class Progress:
    """The progress of a sweep.

    Attributes:
      trials: all trials of the sweep.
      finished: the folders of those that are done, also by an earlier sweep.
      failed: folder → why there will be no such run.
    """

    trials: Sequence[Trial]
    finished: set[str]
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    _seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    _start: float = dataclasses.field(default_factory=time.perf_counter)

    def left(self, kind: str) -> int:
        """How many trials of a kind are running or yet to come."""
        gone = self.finished | self.failed.keys()
        return sum(trial.kind == kind and trial.folder not in gone for trial in self.trials)

    def took(self, kind: str, seconds: float) -> None:
        """Notes how long a trial of a kind took."""
        self._seconds.setdefault(kind, []).append(seconds)

    def seconds_left(self) -> float | None:
        """An estimate of the time left, from the trials so far and how many ran side by side.

        None until one trial of each kind that is left is done.
        """
        left = {kind: self.left(kind) for kind in dict.fromkeys(t.kind for t in self.trials)}
        if any(count and kind not in self._seconds for kind, count in left.items()):
            return None
        work = sum(sum(each) for each in self._seconds.values())
        side_by_side = max(1.0, work / (time.perf_counter() - self._start))
        means = {kind: sum(each) / len(each) for kind, each in self._seconds.items()}
        return sum(left[kind] * means[kind] for kind in left if left[kind]) / side_by_side


def run_trials(
    trials: Sequence[Trial],
    out: Path,
    submit: Callable[[Trial], Future[Outcome]],
    retries: int = 0,
    watch: Callable[[Progress, Trial | None, Outcome | None], None] = lambda *_: None,
    failed: Mapping[str, str] = MappingProxyType({}),
) -> Progress:
    """Runs the trials that are not finished yet, each after the trials that it needs.

    Args:
      trials: each folder once. The trials that one needs are among them.
      out: the sweep's folder.
      submit: begins an attempt at a trial. The future has its ``Outcome``, or raises if the process
        is lost.
      retries: how often a trial that failed is tried again.
      watch: called once at the start, without a trial, and after each attempt.
      failed: folder → why, of trials that failed before and are not tried again.

    Returns:
      The progress at the end.
    """
    progress = Progress(trials, set(), dict(failed))
    waiting = {}

    def look(trial: Trial) -> None:
        try:
            if trial.finished(out):
                progress.finished.add(trial.folder)
            else:
                waiting[trial.folder] = trial
        except UsageError as error:
            progress.failed[trial.folder] = f"{error} Or remove {trial.folder} to run it anew."

    for trial in trials:
        if trial.folder not in failed:
            look(trial)
    running: dict[Future[Outcome], Trial] = {}
    tried: Counter[str] = Counter()
    watch(progress, None, None)
    while True:
        for folder, trial in list(waiting.items()):
            if lost := [need for need in trial.needs if need in progress.failed]:
                progress.failed[folder] = f"{lost[0]}, which it needs, failed"
                del waiting[folder]
            elif progress.finished.issuperset(trial.needs):
                running[submit(waiting.pop(folder))] = trial
        if not running:
            return progress
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            trial, outcome = running.pop(future), _outcome(future)
            tried[trial.folder] += 1
            if outcome.error is None:
                progress.finished.add(trial.folder)
                progress.took(trial.kind, outcome.seconds)
                # If its folder had been deleted, trials that needed it may not fit the new run.
                for other in trials:
                    if trial.folder in other.needs and other.folder in progress.finished:
                        progress.finished.remove(other.folder)
                        look(other)
            elif outcome.hopeless or tried[trial.folder] > retries:
                progress.failed[trial.folder] = outcome.error
            else:
                waiting[trial.folder] = trial
            watch(progress, trial, outcome)


def _outcome(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except Exception as error:
        return Outcome(
            0.0, error=first_line(getattr(error, "cause", None) or error)
        )  # Ray's has one
