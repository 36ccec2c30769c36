"""Trials: the runs of find and retrain that a sweep asks for.

The folder of a trial is named by a hash of the settings that are not defaults. So the same trial of
two sweeps is one run, and a setting that a later release adds does not change the name. The number
of rounds of imp does not count: a run goes on when more rounds are asked for.

Making its trials checks a command line. TensorFlow is imported only when a trial is run.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lottery_tf.common.log import counted
from lottery_tf.common.settings import defaults, describe
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.settings import as_compared
from lottery_tf.runs.records import RESULT, read_result
from lottery_tf.runs.settings import AS_USUAL, Experiment, HowToRun
from lottery_tf.tweaks.settings import PARAMETERS, described

if TYPE_CHECKING:
    from lottery_tf.tweaks.recipe import Recipe

_DIGITS = 10
# (a setting, the path that it has) → the path by which runs are named.
Places = Mapping[tuple[str, str | None], str | None]


@dataclasses.dataclass(frozen=True)
class FindTrial:
    """A run of ``find``.

    Attributes:
      experiment, finding: as ``runs.find.find`` takes them.
      note: how it differs from others of its kind, for the terminal.
      places: the paths that name it, where they differ from its own: those that the sweep began
        with.
    """

    experiment: Experiment
    finding: FindingSettings
    note: str = dataclasses.field(default="", compare=False)
    places: Places = dataclasses.field(default_factory=dict, compare=False)
    kind: ClassVar[str] = "find"
    needs: ClassVar[tuple[str, ...]] = ()

    @functools.cached_property
    def folder(self) -> str:
        """Its folder below the sweep's: ``find/imp_0123456789``."""
        settings = self.experiment.describe() | describe(self.finding) | {"rounds": None}
        settings = _as_begun(settings, self.places)
        changed = _changed(settings, defaults(*Experiment.owners(), FindingSettings))
        return f"find/{self.finding.method}_{_hash(changed)}"

    @property
    def label(self) -> str:
        """Words for the terminal: rounds or sparsity, seed and note."""
        sparsity = self.finding.target
        at = counted(self.finding.last_round, "round") if sparsity is None else _percent(sparsity)
        return _label(at, self)

    def finished(self, out: Path) -> bool:
        """Whether the run is there and complete.

        Raises:
          UsageError: if the folder holds another run, or something else where this one would write.
        """
        from lottery_tf.runs.find import check_find_places, find_run, finished_rounds

        folder = out / self.folder
        if len(finished_rounds(folder)) < self.finding.tickets:
            check_find_places(folder, self.finding)
            return False
        if _are_there(self.finding.model_path, self.finding.rewind_path):
            find_run(folder, self.experiment, self.finding).check()
        return True

    def run(self, out: Path, how: HowToRun = AS_USUAL) -> float | None:
        """Runs it or goes on with it. Returns the last ticket's dev accuracy; None without one."""
        from lottery_tf.runs.find import find

        rows = find(out / self.folder, self.experiment, self.finding, how=how)
        return rows[-1].get("dev_accuracy")

    def collapsed(self, out: Path) -> list[str]:
        """The layers that have no weight left in the last ticket; none if there is no ticket."""
        from lottery_tf.runs.find import round_folder

        masks = round_folder(out / self.folder, self.finding.last_round) / "masks.npz"
        return Masks.load(masks).collapsed if masks.is_file() else []


@dataclasses.dataclass(frozen=True)
class RetrainTrial:
    """A run of ``retrain``.

    Attributes:
      found: the trial that finds its ticket.
      round: of the ticket.
      recipe: names of tweaks separated by commas.
      parameters: of tweaks, by their flags' names.
      experiment: of the retraining.
      reinit: as ``runs.retrain.retrain_ticket`` takes it.
      teacher: the trial whose dense model is the teacher of distillation. None for the ticket's own
        run, if ``parameters`` name a teacher, and if nothing is distilled.
      test: whether it is measured on the test images. This does not change its folder.
      tuned: whether the dev images choose among its values. This does not change its folder either.
        Both are True if one part of a grid tunes it and another part has it as it is.
      note: how it differs from others of its kind, for the terminal.
      places: the paths that name it, where they differ from its own: those that the sweep began
        with.
    """

    found: FindTrial
    round: int
    recipe: str
    parameters: Mapping[str, Any]
    experiment: Experiment
    reinit: bool = False
    teacher: FindTrial | None = None
    test: bool = True
    tuned: bool = False
    note: str = dataclasses.field(default="", compare=False)
    places: Places = dataclasses.field(default_factory=dict, compare=False)
    kind: ClassVar[str] = "retrain"

    @functools.cached_property
    def needs(self) -> tuple[str, ...]:
        """The folders of the trials that have to be run before."""
        return tuple({t.folder: None for t in (self.found, self.teacher) if t is not None})

    @functools.cached_property
    def folder(self) -> str:
        """Its folder below the sweep's: ``retrain/tost+distillation_0123456789``."""
        settings = _as_begun(self.experiment.describe(), self.places)
        changed = _changed(settings, defaults(*Experiment.owners()))
        named = _as_begun(self.parameters, self.places)
        for tweak, parameters in described(self.recipe, named).items():
            changed[tweak] = _changed(parameters, defaults(PARAMETERS[tweak]))
        changed["ticket"] = f"{self.found.folder} {self.round}"
        changed |= {"reinit": True} if self.reinit else {}
        changed |= {"teacher": self.teacher.folder} if self.teacher else {}
        return f"retrain/{self.recipe.replace(',', '+')}_{_hash(changed)}"

    @functools.cached_property
    def kin(self) -> str:
        """The folder that it would have with seed 0: the same for all seeds."""
        teacher = self.teacher and _of_seed_0(self.teacher)
        return _of_seed_0(self, found=_of_seed_0(self.found), teacher=teacher).folder

    @property
    def choice(self) -> str:
        """Its recipe and kind of ticket: the same for all trials that it is tuned with, and for
        those that differ in varied parameters."""
        return f"{self.recipe} {_of_seed_0(self.found).folder} {self.round}"

    @property
    def label(self) -> str:
        """Words for the terminal: rounds or sparsity, seed and note."""
        found = self.found.finding
        of = f"{found.method}, round {self.round}"
        if found.method != "imp" and found.target is not None:
            of = f"{found.method}, {_percent(found.target)}"
        return _label(of, self)

    def finished(self, out: Path) -> bool:
        """Whether the run is there and complete.

        Raises:
          UsageError: if the folder holds another run, or something else where this one would
            write. A run with another teacher at the same path is another run. So is one of a
            release with other defaults.
        """
        from lottery_tf.runs.find import dense_folder
        from lottery_tf.runs.retrain import (
            check_retrain_places,
            complete_recipe,
            is_tested,
            retrain_run,
        )

        check_retrain_places(out / self.folder)
        run = out / self.folder
        if not (run / RESULT).is_file() or (self.test and not is_tested(read_result(run))):
            return False
        ticket, recipe, experiment, reinit = self._work(out)
        dense = dense_folder(out / self.found.folder)
        of_tweaks = recipe.describe().values()
        taught = [each["teacher"] or dense for each in of_tweaks if "teacher" in each]
        if _are_there(ticket, *taught):
            recipe = complete_recipe(recipe, ticket, experiment)
            retrain_run(out / self.folder, ticket, recipe, experiment, reinit).check()
        return True

    def run(self, out: Path, how: HowToRun = AS_USUAL) -> float | None:
        """Runs it or goes on with it. Returns the finished model's dev accuracy; None without dev
        images."""
        from lottery_tf.runs.retrain import retrain_ticket

        work = (out / self.folder, *self._work(out))
        result = retrain_ticket(*work, test=self.test, how=how)
        return result.get("dev_accuracy")

    def _work(self, out: Path) -> "tuple[Path, Recipe, Experiment, bool]":
        """The ticket and what to do with it, as ``runs.retrain.retrain_ticket`` takes them."""
        from lottery_tf.runs.find import dense_folder, round_folder
        from lottery_tf.tweaks.recipe import Recipe

        parameters = dict(self.parameters)
        if self.teacher is not None:
            parameters["distillation_teacher"] = str(dense_folder(out / self.teacher.folder))
        recipe = Recipe(self.recipe, parameters)
        ticket = round_folder(out / self.found.folder, self.round)
        return ticket, recipe, self.experiment, self.reinit


Trial = FindTrial | RetrainTrial


def _of_seed_0(trial: Trial, **changed: Any) -> Trial:
    training = dataclasses.replace(trial.experiment.training, seed=0)
    data = dataclasses.replace(trial.experiment.data, data_seed=0)
    experiment = dataclasses.replace(trial.experiment, training=training, data=data)
    return dataclasses.replace(trial, experiment=experiment, **changed)


def _are_there(*paths: str | Path | None) -> bool:
    """Whether the files that a run was made from still exist; a user may have deleted them."""
    return all(path is None or Path(path).exists() for path in paths)


def _label(of: str, trial: Trial) -> str:
    return "  ".join(filter(None, (of, f"seed {trial.experiment.training.seed}", trial.note)))


def _as_begun(settings: Mapping[str, Any], places: Places) -> dict[str, Any]:
    if not places:
        return dict(settings)
    # Lists are no paths, and cannot be keys.
    return {
        n: places.get((n, v), v) if v is None or isinstance(v, str) else v
        for n, v in settings.items()
    }


def _changed(settings: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    settings, usual = as_compared(settings), as_compared(usual)
    return {name: value for name, value in settings.items() if value != usual[name]}


def _hash(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
