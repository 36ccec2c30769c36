"""The settings of each command: dataclasses whose fields are its flags.

They stand apart from the commands, so that a command line is read and checked before TensorFlow is
imported.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from lottery_tf.cli.flags import Owner, Parsed
from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import check_values, one_of, setting
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
    tweak_settings,
)

ENGINES = ("local", "ray")
# What a report is not, and what no folder for one is called.
_OF_OTHER_FILES = (
    *(".bmp", ".csv", ".doc", ".docx", ".eps", ".gif", ".htm", ".hmtl", ".htlm", ".ipynb"),
    *(".jpeg", ".jpg", ".json", ".jsonl", ".log", ".md", ".mhtml", ".odt", ".pdf", ".png"),
    *(".ps", ".rst", ".rtf", ".svg", ".tex", ".tsv", ".txt", ".webp", ".xhtml", ".xls"),
    *(".xlsx", ".xml", ".yaml", ".yml", ".zip"),
)


@dataclasses.dataclass(frozen=True)
class OutSettings:
    """Where to write."""

    out: str | None = setting(
        None, "folder to write to; a run there that was interrupted goes on", path=True
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
        lambda: f"{one_of([*RECIPES, *PARAMETERS])}; + or a comma joins several",
    )


@dataclasses.dataclass(frozen=True)
class ControlSettings:
    """The control experiment."""

    reinit: bool = setting(
        False, "train the ticket's mask from new initial weights, drawn with --seed"
    )


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
        MAX_DIFFERENCE,
        "largest difference that an export's outputs may have from the model's, on the test images",
    )
    data_dir: str | None = setting(
        None, "folder of the run's dataset now; default: the one that the run read", path=True
    )
    with_preprocessing: bool = setting(
        False,
        "put the dataset's mean and std into the exported model, which then takes raw pixels",
    )

    def __post_init__(self) -> None:
        check_values(self)
        if not 0 <= self.tolerance < math.inf:
            raise UsageError(f"Expected `tolerance` of 0 or more, not {self.tolerance}.")


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """What to measure."""

    run: str | None = setting(
        None, "folder of a retrain run; the dataset is the run's own by default", path=True
    )
    model: str | None = setting(
        None,
        "folder of a SavedModel, or a .keras, .h5, .tflite or .onnx file (.onnx: extra [onnx])",
        path=True,
    )
    split: str = setting("test", "examples to measure on", choices=("train", "dev", "test"))


@dataclasses.dataclass(frozen=True)
class InspectSettings:
    """What to show."""

    compare: str | None = setting(
        None,
        "folder of another ticket of the same network; shows how far the two masks overlap",
        path=True,
    )
    plot: str | None = setting(None, f"file for the picture of it, {one_of(SUFFIXES)}", path=True)
    json: str | None = setting(None, "file for the same numbers as JSON", path=True)

    def __post_init__(self) -> None:
        if self.plot and Path(self.plot).suffix.lower() not in SUFFIXES:
            raise UsageError(f"--plot takes a file {one_of(SUFFIXES)}, not '{self.plot}'.")


@dataclasses.dataclass(frozen=True)
class SignalSettings:
    """What reaches the ticket's layers; the flags below need --signal."""

    signal: bool = setting(
        False,
        "show the mean square of each layer's activations and the norm of its gradients. They are "
        "of the ticket, of its dense network, and with --recipe. --json has them too, and --plot "
        "shows them instead. The data are those of the ticket's run by default",
    )
    recipe: str | None = setting(
        None,
        lambda: (
            f"a recipe to show beside it: {one_of([*RECIPES, *PARAMETERS])}; + or a comma joins "
            "several"
        ),
    )
    batches: int = setting(1, "number of training batches to measure on")

    def __post_init__(self) -> None:
        check_values(self)
        if self.batches < 1:
            raise UsageError(f"Expected --batches of 1 or more, not {self.batches}.")


@dataclasses.dataclass(frozen=True)
class ReportSettings:
    """What to write, and how to compare."""

    out: str | None = setting(
        None,
        "FILE.html, or a folder for report.html. Tables and figures go to a folder beside the "
        "page that has its name without .html. Without --out the table is only shown",
        path=True,
    )
    tune: tuple[str, ...] = setting(
        ("learning_rate",),
        "settings to choose for each recipe, vanilla too, by the best mean dev accuracy; they get "
        "a table of their own. --tune= chooses none",
    )
    tune_seeds: tuple[str, ...] = setting(
        (),
        "seeds whose dev accuracies choose; default: those that have a run with every value, or "
        "all where there are none",
    )
    baseline: str = setting("vanilla", "the recipe that the others are compared with")
    flops: bool = setting(True, "count the tickets' FLOPs, which needs TensorFlow to start")

    def __post_init__(self) -> None:
        object.__setattr__(self, "baseline", self.baseline.replace("+", ","))
        ending = Path(self.out or "").suffix.lower()
        if ending in _OF_OTHER_FILES:
            raise UsageError(
                "Expected `out` to be a file that ends in .html, or a folder without the ending of "
                f"a file, got {self.out}: a report's page is HTML."
            )

    @property
    def page(self) -> Path | None:
        """The page's file."""
        if not self.out:
            return None
        out = Path(self.out)
        return out if out.suffix.lower() == ".html" else out / "report.html"


@dataclasses.dataclass(frozen=True)
class SweepSettings:
    """Where the runs of the sweep are computed."""

    engine: str = setting("local", "processes of this machine, or a Ray cluster", choices=ENGINES)
    processes: int | None = setting(
        None,
        "local: number of runs at a time, which share the cores; default: one for each core, or "
        "as many as the GPUs serve",
    )
    gpus_per_trial: float | None = setting(
        None,
        "GPUs for each run: 0.5 lets two runs share one, 0 uses none; default: 1 if there are any",
    )
    cpus_per_trial: float = setting(1, "ray: cores for each run")
    ray_address: str | None = setting(
        None,
        "ray: address of the cluster, auto for the one on this machine; default: starts one here",
    )
    retries: int = setting(1, "how often a run that failed is tried again")
    measure: bool = setting(
        True,
        "with --tune: when all runs are done, choose the best values and measure them on the test "
        "images (extra [report]). With --nomeasure a later command does so, for example if parts "
        "of a grid run as jobs of their own",
    )

    def __post_init__(self) -> None:
        check_values(self)
        for name, least in (("processes", 1), ("gpus_per_trial", 0), ("retries", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise UsageError(f"Expected --{name} of {least} or more, not {value}.")
        if self.cpus_per_trial <= 0:
            raise UsageError(f"Expected --cpus_per_trial above 0, not {self.cpus_per_trial}.")


@dataclasses.dataclass(frozen=True)
class GridSettings:
    """The grid: every value of each flag is combined with every value of the others."""

    grid: str | None = setting(
        None,
        "a YAML file with these flags and those of find and retrain. It says what is run, not "
        "where; flags of the command line win",
        path=True,
    )
    cells: tuple[str, ...] = setting((), "which cells of the file to run; default: all")
    recipes: tuple[str, ...] = setting(
        ("vanilla",), "recipes to retrain by; + joins tweaks, as in tost+distillation"
    )
    seeds: tuple[str, ...] = setting(
        (), "each sets both --seed and --data_seed; default: those two flags"
    )
    methods: tuple[str, ...] = setting((), "methods that find the masks; default: --method")
    sparsities: tuple[str, ...] = setting(
        (),
        "sparsities of the tickets. imp takes the round that is nearest, and other methods beside "
        "it prune to the same; default: the ticket that --rounds or --sparsity ends on",
    )
    vary: tuple[str, ...] = setting(
        (), "more flags and their values, as in width:8,16,augment:True,False"
    )
    tune: tuple[str, ...] = setting(
        (),
        "flags of the retraining and their values, as in learning_rate:0.1,0.2,0.4. Each recipe, "
        "vanilla too, gets the value that is best on dev images; only that is tested",
    )
    tune_seeds: tuple[str, ...] = setting(
        (),
        "those of --seeds that run with all values of --tune; the others run with the chosen "
        "values only; default: all",
    )


@dataclasses.dataclass(frozen=True)
class QuickstartSettings:
    """The whole way on scikit-learn's digits."""

    out: str = setting(
        "runs/quickstart",
        "folder to write to; a run there that was interrupted goes on",
        path=True,
    )
    seeds: tuple[str, ...] = setting(
        ("0", "1", "2"), "seeds; each gives its own initial weights, dev split and tickets"
    )

    def __post_init__(self) -> None:
        good = all(seed.isdecimal() and int(seed) < 2**32 for seed in self.seeds)
        if not (self.seeds and good and len(set(self.seeds)) == len(self.seeds)):
            raise UsageError(
                "Expected --seeds to be different whole numbers from 0 to 2**32 - 1, like 0,1,2, "
                f"not '{','.join(self.seeds)}'."
            )


# Of retrain: the ticket says what is pruned, and no flag does.
OF_RETRAINING = tuple(owner for owner in Experiment.owners() if owner is not PrunableSettings)
# Every flag of an experiment, of its finding and of its retraining.
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
# Those of all commands, each once.
ALL = tuple(
    dict.fromkeys((*FIND, *RETRAIN, *SWEEP, *EXPORT, *EVALUATE, *INSPECT, *REPORT, *QUICKSTART))
)


def how_to_run(flags: Parsed, **more: Any) -> HowToRun:
    """How the flags ask for runs to be carried out; ``more`` is what only this command has."""
    return HowToRun(
        flags.settings(BoardSettings).tensorboard,
        flags.settings(CodeSettings).allow_code,
        flags.settings(CheckpointSettings),
        **more,
    )


def parameters_for(recipe: str, flags: Parsed) -> dict[str, Any]:
    """The parameters of all tweaks, keyed as their flags are: the user's, else the recipe's own."""
    return dataclasses.asdict(flags.settings(tweak_settings, **defaults_of(recipe)))
