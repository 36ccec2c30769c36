"""What the studies of this folder share: tickets of a flagfile, a grid of retrainings, statistics.

Retrainings run in ``processes`` processes. If there are several, each has one thread, because small
networks leave a second core idle. Finished retrainings are not run again.
"""

import argparse
import dataclasses
import multiprocessing
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FLAGS = Path(__file__).parents[1] / "flags"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A retraining of the grid.

    Attributes:
      seed: of the initial weights, the training subset and the data order.
      round: of the ticket.
      name: what the recipe is called in the table; a folder's name.
      recipe: names of tweaks as ``--recipe`` takes them.
      settings: parameters of the tweaks by their flags' names.
    """

    seed: int
    round: int
    name: str
    recipe: str
    settings: tuple[tuple[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Study:
    """Where a study's runs are, and how its tickets are found.

    Attributes:
      flagfile: the name of a file in flags/.
      data_dir: folder of the data; None where the dataset has one of its own.
      runs: folder of the runs.
      rounds: of pruning.
      processes: how many run at a time.
    """

    flagfile: str
    data_dir: str | None
    runs: Path
    rounds: int
    processes: int = 2

    def run(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Finds the tickets and retrains; a row a cell, ``result.json`` and the cell's fields."""
        self._map(self._find, list({cell.seed: None for cell in cells}))
        return self._map(self._retrain, cells)

    def _map(self, work, items):
        if self.processes > 1:
            os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        spawn = multiprocessing.get_context("spawn")
        # Keras keeps some 60 MB of each training.
        with spawn.Pool(self.processes, maxtasksperchild=10) as pool:
            return pool.map(work, items, chunksize=1)

    def _experiment(self, seed: int):
        from lottery_tf.cli.flags import parse
        from lottery_tf.finding.settings import FindingSettings
        from lottery_tf.runs.settings import Experiment

        words = [f"--flagfile={FLAGS / self.flagfile}"]
        words += [f"--seed={seed}", f"--data_seed={seed}", f"--rounds={self.rounds}"]
        words += [] if self.data_dir is None else [f"--data_dir={self.data_dir}"]
        flags = parse(words, (*Experiment.owners(), FindingSettings))
        experiment = Experiment(*(flags.settings(owner) for owner in Experiment.owners()))
        return experiment, flags.settings(FindingSettings)

    def _folder(self, seed: int) -> Path:
        return self.runs / f"seed_{seed}"

    def _find(self, seed: int) -> None:
        from lottery_tf.runs.find import find

        find(self._folder(seed) / "find", *self._experiment(seed))
        print(f"seed {seed}: tickets found", flush=True)

    def _retrain(self, cell: Cell) -> dict[str, Any]:
        from lottery_tf.runs.find import round_folder
        from lottery_tf.runs.retrain import retrain_ticket
        from lottery_tf.tweaks.recipe import Recipe

        folder = self._folder(cell.seed)
        experiment, _ = self._experiment(cell.seed)
        name = f"round_{cell.round:02}_{cell.name}"
        result = retrain_ticket(
            folder / name.replace(" ", "_"),
            round_folder(folder / "find", cell.round),
            Recipe(cell.recipe, dict(cell.settings)),
            experiment,
        )
        print(f"seed {cell.seed} {name}: dev {result['dev_accuracy']:.4f}", flush=True)
        return {**dataclasses.asdict(cell), **result, "recipe": cell.recipe}


def arguments(doc: str) -> argparse.ArgumentParser:
    """The command line that the studies share; ``doc`` is its help."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("--data_dir", help="folder of the data, as lottery-tf has it")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    return parser


def percent(values: Sequence[float], sign: str = "") -> str:
    """``80.84 ± 0.21`` of shares; ``sign="+"`` for differences."""
    percents = [100 * value for value in values]
    error = statistics.stdev(percents) / len(percents) ** 0.5
    return f"{statistics.mean(percents):{sign}.2f} ± {error:.2f}"
