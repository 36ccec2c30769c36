"""What each command is told: the dataclasses whose fields are its flags.

Apart from what the commands do, so that a command line is read, and what is wrong with it said,
before TensorFlow is imported.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from lottery_tf.cli.flags import Owner, Parsed, as_class
from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import check_choices, one_of, setting, settings_of
from lottery_tf.data.settings import DataSettings
from lottery_tf.exporting.settings import FORMATS, MAX_DIFFERENCE
from lottery_tf.finding.settings import DivergenceSettings, FindingSettings
from lottery_tf.graph.settings import CodeSettings
from lottery_tf.inspecting.settings import SUFFIXES
from lottery_tf.masks.settings import PrunableSettings
from lottery_tf.runs.settings import BoardSettings, Experiment, HowToRun
from lottery_tf.training.settings import CheckpointSettings
from lottery_tf.tweaks.settings import (
    PARAMETERS,
    RECIPES,
    defaults_of,
    parameters_of,
    tweak_settings,
    tweaks_of,
)

ENGINES = ("local", "ray")


@dataclasses.dataclass(frozen=True)
class OutSettings:
    """Where the run is written."""

    out: str | None = setting(
        None, "folder of the run; an interrupted run of it goes on", path=True
    )

    @property
    def folder(self) -> Path:
        """The run's folder; a UsageError where none was given."""
        if not self.out:
            raise UsageError("Expected --out=DIR, the folder to write to; none was given.")
        return Path(self.out)


@dataclasses.dataclass(frozen=True)
class RetrainSettings:
    """What to retrain, and how."""

    ticket: str | None = setting(
        None, "folder of the ticket, RUN/tickets/round_NN of a find run", path=True
    )
    recipe: str = setting(
        "vanilla",
        lambda: f"{one_of([*RECIPES, *PARAMETERS])}; several tweaks separated by commas",
    )


@dataclasses.dataclass(frozen=True)
class ControlSettings:
    """The control."""

    reinit: bool = setting(False, "train the ticket's mask from new initial weights of --seed")


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """What to export."""

    run: str | None = setting(
        None, "folder of the retrain run whose finished model is exported", path=True
    )
    formats: tuple[str, ...] = setting(
        ("saved_model",), f"formats to write, among {one_of(FORMATS)}"
    )
    tolerance: float = setting(
        MAX_DIFFERENCE, "largest difference to the model's outputs on the test images"
    )
    data_dir: str | None = setting(
        None, "where the run's dataset lies now; default: where it lay for the run", path=True
    )
    with_preprocessing: bool = setting(
        False,
        "put the dataset's mean and std into the exported model, which then takes raw pixels",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise UsageError(f"Expected `tolerance` of 0 or more, not {self.tolerance}.")


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """What to measure."""

    run: str | None = setting(
        None, "folder of a retrain run; its own dataset is the default", path=True
    )
    model: str | None = setting(
        None, "a SavedModel's folder, a .keras, .h5, .tflite or .onnx file", path=True
    )
    split: str = setting("test", "examples to measure on", choices=("train", "dev", "test"))


@dataclasses.dataclass(frozen=True)
class InspectSettings:
    """What to show."""

    compare: str | None = setting(
        None, "folder of a ticket of the same network: the overlap of the two masks", path=True
    )
    plot: str | None = setting(
        None, f"file for the same as a picture, {one_of(SUFFIXES)}", path=True
    )
    json: str | None = setting(None, "file for the same numbers as JSON", path=True)

    def __post_init__(self) -> None:
        if self.plot and Path(self.plot).suffix.lower() not in SUFFIXES:
            raise UsageError(f"--plot takes a file {one_of(SUFFIXES)}, not '{self.plot}'.")


@dataclasses.dataclass(frozen=True)
class SignalSettings:
    """What reaches its layers; the flags below go with --signal."""

    signal: bool = setting(
        False,
        "show the mean square of activations and the norm of gradients, layer by layer, of the "
        "ticket, of the dense network of its run, and with --recipe; --json has them too, and "
        "--plot shows them instead. The data are those of the ticket's own run by default",
    )
    recipe: str | None = setting(
        None,
        lambda: (
            f"a recipe to look at beside it: {one_of([*RECIPES, *PARAMETERS])}; several "
            "tweaks separated by commas"
        ),
    )
    batches: int = setting(1, "how many training batches to look at")

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise UsageError(f"Expected --batches of 1 or more, not {self.batches}.")


@dataclasses.dataclass(frozen=True)
class ReportSettings:
    """What to write, and how to compare."""

    out: str | None = setting(
        None,
        "FILE.html, or a folder for report.html: the page; tables and figures go to a folder "
        "beside it, named as the page without .html. Without it the table is only shown",
        path=True,
    )
    tune: tuple[str, ...] = setting(
        ("learning_rate",),
        "settings of which each recipe, vanilla too, has the values of the best mean dev accuracy, "
        "in a table of its own; --tune= for none",
    )
    tune_seeds: tuple[str, ...] = setting(
        (),
        "the seeds whose dev accuracies choose them; default: those that ran with every value, as "
        "sweep's --tune_seeds do; where none did, all",
    )
    baseline: str = setting("vanilla", "the recipe over which the others' gains are")
    flops: bool = setting(True, "count the tickets' FLOPs, for which TensorFlow has to start")

    @property
    def page(self) -> Path | None:
        """The page's file."""
        if not self.out:
            return None
        out = Path(self.out)
        return out if out.suffix.lower() == ".html" else out / "report.html"


@dataclasses.dataclass(frozen=True)
class SweepSettings:
    """Where the trials run."""

    engine: str = setting("local", "processes of this machine, or a Ray cluster", choices=ENGINES)
    processes: int | None = setting(
        None,
        "local: how many trials at a time, each with its share of the cores; default: one a "
        "core, or as many as the GPUs serve",
    )
    gpus_per_trial: float | None = setting(
        None, "0.5 lets two trials share a GPU, 0 uses none; default: 1 where there are any"
    )
    cpus_per_trial: float = setting(1, "ray: cores of a node that a trial takes")
    ray_address: str | None = setting(
        None, "ray: of the cluster, auto for that of this machine; default: one is started here"
    )
    retries: int = setting(1, "how often a trial that failed is tried again")
    measure: bool = setting(
        True,
        "with --tune: choose when all have run, and measure the best values on the test images "
        "(extra [report]); --nomeasure leaves that to a later command, as where parts of a grid "
        "run by themselves",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        for name, least in (("processes", 1), ("gpus_per_trial", 0), ("retries", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise UsageError(f"Expected --{name} of {least} or more, not {value}.")
        if self.cpus_per_trial <= 0:
            raise UsageError(f"Expected --cpus_per_trial above 0, not {self.cpus_per_trial}.")


@dataclasses.dataclass(frozen=True)
class GridSettings:
    """The grid: everything in the one is combined with everything in the others."""

    grid: str | None = setting(
        None,
        "a YAML file with these flags and those of find and retrain that say what is run, not "
        "where; what the command line says wins",
        path=True,
    )
    cells: tuple[str, ...] = setting((), "those of the file's cells to run; default: all")
    recipes: tuple[str, ...] = setting(
        ("vanilla",), "what the tickets are retrained by; + joins tweaks, as in tost+distillation"
    )
    seeds: tuple[str, ...] = setting(
        (), "each is both --seed and --data_seed; default: those two as they are"
    )
    methods: tuple[str, ...] = setting((), "of finding the masks; default: --method")
    sparsities: tuple[str, ...] = setting(
        (),
        "of the tickets; of imp those of the nearest rounds, which other methods beside it are "
        "pruned to as well; default: the ticket that --rounds or --sparsity ends on",
    )
    vary: tuple[str, ...] = setting(
        (), "any flags and their values, as in width:8,16,augment:True,False"
    )
    tune: tuple[str, ...] = setting(
        (),
        "flags of the retraining alone and their values, as in learning_rate:0.1,0.2,0.4; each "
        "recipe, vanilla too, has the best on dev images, and only that is tested",
    )
    tune_seeds: tuple[str, ...] = setting(
        (),
        "those of --seeds that run with all values of --tune; the others run with the chosen ones "
        "alone; default: all",
    )


@dataclasses.dataclass(frozen=True)
class QuickstartSettings:
    """The whole way on scikit-learn's digits."""

    out: str = setting(
        "runs/quickstart", "folder to write to; an interrupted run of it goes on", path=True
    )
    seeds: tuple[str, ...] = setting(
        ("0", "1", "2"), "seeds; each has its own initial weights, dev split and tickets"
    )

    def __post_init__(self) -> None:
        good = all(seed.isdecimal() and int(seed) < 2**32 for seed in self.seeds)
        if not (self.seeds and good and len(set(self.seeds)) == len(self.seeds)):
            raise UsageError(
                "Expected --seeds to be different whole numbers from 0 to 2**32 - 1, like 0,1,2, "
                f"not '{','.join(self.seeds)}'."
            )


# Of retrain: what is pruned is the ticket's and no flag.
OF_RETRAINING = tuple(owner for owner in Experiment.owners() if owner is not PrunableSettings)
# Every flag of an experiment, whether of its finding or of its retraining.
OF_TRIALS: tuple[Owner, ...] = (
    ControlSettings,
    tweak_settings,
    *Experiment.owners(),
    FindingSettings,
)

FIND = (
    *(*Experiment.owners(), FindingSettings, DivergenceSettings, DeviceSettings),
    *(CodeSettings, CheckpointSettings, BoardSettings, OutSettings),
)
RETRAIN: tuple[Owner, ...] = (
    *(RetrainSettings, ControlSettings, tweak_settings),
    *(*OF_RETRAINING, CodeSettings, DeviceSettings, CheckpointSettings, BoardSettings, OutSettings),
)
SWEEP: tuple[Owner, ...] = (
    *(GridSettings, SweepSettings, *OF_TRIALS, DivergenceSettings, CodeSettings, DeviceSettings),
    *(CheckpointSettings, BoardSettings, OutSettings),
)
EXPORT = (ExportSettings, CodeSettings, OutSettings)
EVALUATE = (EvaluateSettings, DataSettings, CodeSettings, DeviceSettings)
INSPECT: tuple[Owner, ...] = (InspectSettings, SignalSettings, DataSettings, tweak_settings)
REPORT = (ReportSettings,)
QUICKSTART = (QuickstartSettings,)
# Of every command, each once.
ALL = tuple(
    dict.fromkeys((*FIND, *RETRAIN, *SWEEP, *EXPORT, *EVALUATE, *INSPECT, *REPORT, *QUICKSTART))
)


def how_to_run(flags: Parsed, **more: Any) -> HowToRun:
    """What the flags say of how runs are carried out; ``more`` where a command has flags of it."""
    return HowToRun(
        flags.settings(BoardSettings).tensorboard,
        flags.settings(CodeSettings).allow_code,
        flags.settings(CheckpointSettings),
        **more,
    )


def check_out(flags: Parsed) -> None:
    """Raises UsageError where no place to write to is given."""
    _ = flags.settings(OutSettings).folder


def check_export(flags: Parsed) -> None:
    """Raises UsageError without a place to write to, or a run."""
    check_out(flags)
    if not flags.settings(ExportSettings).run:
        raise UsageError("Expected --run=DIR, the retrain run to export; none was given.")


def check_inspect(flags: Parsed) -> None:
    """Raises UsageError unless one ticket is given; for flags that go with --signal without it,
    and a recipe that cannot be."""
    if len(flags.positional) != 1:
        raise UsageError(
            "Expected one ticket, RUN/tickets/round_NN of a find run (a second one goes to "
            f"--compare); got {len(flags.positional)}."
        )
    settings = flags.settings(SignalSettings)
    if settings.signal:
        _check_recipe(settings.recipe or "vanilla", flags)
        return
    owners: tuple[Owner, ...] = (SignalSettings, DataSettings, tweak_settings)
    for name in (field.name for owner in map(as_class, owners) for field in settings_of(owner)):
        if name in flags.given and name != "signal":
            raise UsageError(f"--{name} goes with --signal: add that, or leave --{name} out.")


def check_report(flags: Parsed) -> None:
    """Raises UsageError where no runs are given."""
    if not flags.positional:
        raise UsageError("Expected folders with retrain runs below them; none was given.")


def check_evaluate(flags: Parsed) -> None:
    """Raises UsageError unless one model is given."""
    settings = flags.settings(EvaluateSettings)
    if (settings.run is None) == (settings.model is None):
        raise UsageError(
            "Expected either --run=DIR (a retrain run) or --model=PATH (a file or folder); got "
            f"{'neither' if settings.run is None else 'both'}."
        )


def check_retrain(flags: Parsed) -> None:
    """Raises UsageError without a place to write to, or a ticket; for a recipe or parameters of it
    that cannot be, and for parameters of a tweak that is not in it."""
    check_out(flags)
    settings = flags.settings(RetrainSettings)
    if not settings.ticket:
        raise UsageError("Expected --ticket=DIR, the ticket to retrain; none was given.")
    _check_recipe(settings.recipe, flags)


def parameters_for(recipe: str, flags: Parsed) -> dict[str, Any]:
    """The parameters of all tweaks, keyed as their flags are: the user's, else the recipe's own."""
    return dataclasses.asdict(flags.settings(tweak_settings, **defaults_of(recipe)))


def _check_recipe(recipe: str, flags: Parsed) -> None:
    names, given = tweaks_of(recipe), parameters_for(recipe, flags)
    for name in names:
        PARAMETERS[name](**parameters_of(name, given))
    for name in (name for name in PARAMETERS if name not in names):
        for field in settings_of(PARAMETERS[name]):
            if f"{name}_{field.name}" in flags.given:
                raise UsageError(
                    f"--{name}_{field.name} is a parameter of {name}, which is not in "
                    f"--recipe={recipe}: add it there, or leave the flag out."
                )
