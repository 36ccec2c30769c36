"""The figures of a report from its tables and the files of the runs."""

import math
import re
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from lottery_tf.common.log import counted, some
from lottery_tf.reporting.charts import (
    Chart,
    HeatMap,
    Numbers,
    Panel,
    Section,
    Series,
    joined,
    side_by_side,
)
from lottery_tf.reporting.comparing import groups, is_number, recipe_order
from lottery_tf.reporting.epochs import CURVES, mean_epochs
from lottery_tf.reporting.kinds import (
    CONTROL,
    MOST_GAIN,
    gain_text,
    gains_of,
    parts,
    recipe_in_words,
    telling,
)
from lottery_tf.reporting.runs import KIND, VANILLA, key
from lottery_tf.reporting.tables import Report, Table, shown
from lottery_tf.reporting.tickets import dense_accuracies, mean_kept_shares
from lottery_tf.reporting.verdict import Comparison, percent
from lottery_tf.tweaks.settings import as_read

_PRUNED = "pruned, % of prunable weights"
_BELOW = 5.0  # points below the worst recipe's best, where the axis of what was tried begins


class Figures:
    """The figures of a report's first table.

    Each method, and each value of the settings that vanilla shares, has a figure of its own. New
    initial weights, the control, are shown beside the ticket's own. If there is only one recipe,
    the methods are compared.

    Args:
      report: the tables.
      flops: folder of a ticket → its FLOPs; empty for no figure of them.
    """

    def __init__(self, report: Report, flops: Mapping[str, int]):
        self.table: Table = report.tables[0]
        self.flops = flops
        self._report = report
        self._missing: dict[str, list[str]] = {"metrics.jsonl": [], "masks.npz": []}
        table, of_tweaks = self.table, report.gathered.of_tweaks
        free = [name for name in table.settings if name not in table.chosen]
        own = [name for name in free if name in of_tweaks or name == CONTROL]
        shared = [name for name in free if name not in own]
        self._by = ["recipe", *own]
        facets = ["method", *shared]
        if len(groups(table.frame, self._by)) == 1:
            self._by, facets = ["method"], shared
        self._facets = telling(table.frame, facets)
        labels = {key(row, self._by): None for _, row in table.frame.iterrows()}
        ordered = sorted(labels, key=lambda label: (recipe_order(label[0]), str(label[1:])))
        first = int(ordered[0][0] != VANILLA)  # the first style is vanilla's alone
        self._styles = {label: number + first for number, label in enumerate(ordered)}
        self._runs = dict(groups(table.runs, [*KIND, *table.settings]))
        self._kind = ["recipe", "method", "sparsity", *table.settings]

    def sections(self) -> list[Section]:
        """The sections that have a figure."""
        every = [
            Section(
                "Accuracy against sparsity",
                "Mean test accuracy; bands or bars: ± standard error over the seeds.",
                self._each_facet("accuracy", self._accuracy),
            ),
            Section(
                f"Gain over {as_read(self.table.baseline)}",
                "Pairs of runs on the same ticket. Bars: 95 % interval of the mean, not corrected "
                "for the number of comparisons. Points of one sparsity stand side by side.",
                self._each_facet("gain", self._gain),
            ),
            Section(
                "Where it gains",
                f"Mean gain over {as_read(self.table.baseline)} on the same tickets, in points. "
                "In brackets and pale: not established. "
                f"The deepest colours: {MOST_GAIN:g} points and more.",
                self._map(),
                on_page=False,
            ),
            Section(
                "Tuning",
                "Mean dev accuracy of the seeds that choose. A recipe gets the value of its "
                f"highest point. Values more than {_BELOW:g} points below the best of the worst "
                "recipe are not shown.",
                [f for rows, label in self._facet_rows() for f in self._tuning(rows, label)],
            ),
            Section(
                "Training",
                "Mean over the seeds at each epoch's end, with the tweaks on. Below: what fades.",
                [f for rows, label in self._facet_rows() for f in self._training(rows, label)],
            ),
            Section(
                "Sparsity of the layers",
                "Share of each weight's entries that is pruned: the mean over the tickets.",
                self._each_facet("layers", self._layers),
            ),
            Section(
                "Cost",
                "Mean over the seeds, with a point for each sparsity. Seconds are those of each "
                "run's machine. FLOPs are for one example, if pruned weights cost nothing.",
                self._each_facet("seconds", self._seconds) + self._each_facet("flops", self._flops),
            ),
        ]
        return [section for section in every if section.figures]

    def notes(self) -> list[str]:
        """Sentences on the files that ``sections`` could not read; call it after ``sections``."""
        return [
            f"{counted(len(where), 'folder')} without {file}, or with a damaged one, and so not in "
            f"its figures: {some(where)}."
            for file, where in self._missing.items()
            if where
        ]

    def _facet_rows(self) -> list[tuple[pd.DataFrame, str]]:
        frame = self.table.frame
        return [
            (rows, ", ".join(f"{n} {shown(v)}" for n, v in zip(self._facets, values, strict=True)))
            for values, rows in groups(frame, self._facets)
        ]

    def _each_facet(self, name: str, make: Callable) -> list:
        made = (make(_name(name, label), label, rows) for rows, label in self._facet_rows())
        return [figure for figure in made if figure is not None]

    def _lines(self, rows: pd.DataFrame) -> list[tuple[str, int, pd.DataFrame]]:
        """Label, style and rows of each series, by sparsity."""
        found = sorted(groups(rows, self._by), key=lambda one: self._styles[one[0]])
        lines = []
        for values, own in found:
            label = recipe_in_words(values, self._by, list(self._styles))
            lines.append((label, self._styles[values], own.sort_values("sparsity")))
        return lines

    def _accuracy(self, name: str, label: str, rows: pd.DataFrame) -> Chart | None:
        if rows["test_accuracy"].isna().all():
            return None
        lines, alone = self._lines(rows), rows["sparsity"].nunique() == 1
        apart = side_by_side(len(lines), _ticks(rows)[0]) if alone else [1] * len(lines)
        series = [
            Series(
                *(text, style, [x * factor for x in _left(own)], *_bounds(own)),
                _pruned(own),
            )
            for factor, (text, style, own) in zip(apart, lines, strict=True)
        ]
        dense = dense_accuracies(self._members(rows))
        level = (100 * sum(dense) / len(dense), "dense") if dense else None
        panel = Panel("test accuracy, %", series, "bars" if alone else "lines", level)
        return Chart(name, label, _PRUNED, [panel], *_ticks(rows))

    def _gain(self, name: str, label: str, rows: pd.DataFrame) -> Chart | None:
        rows = rows[rows["gain"].notna()]
        if rows.empty:
            return None
        lines = self._lines(rows)
        apart = side_by_side(len(lines), _ticks(rows)[0])
        series = [
            Series(
                *(text, style, [x * factor for x in _left(own)], _percent(own["gain"])),
                *(_percent(own["gain_low"]), _percent(own["gain_high"])),
                _pruned(own),
            )
            for factor, (text, style, own) in zip(apart, lines, strict=True)
        ]
        baseline = as_read(self.table.baseline)
        panel = Panel(f"gain over {baseline}, points", series, "bars", (0, baseline))
        return Chart(name, label, _PRUNED, [panel], *_ticks(rows))

    def _map(self) -> list[HeatMap]:
        """All gains in one figure; nothing where one column or row would be all of it."""
        every = gains_of(parts(self._report))
        if min(len(every.recipes), len(every.rows)) < 2:
            return []
        rows = [[of_kind.get(name) for name in every.recipes] for _, of_kind in every.rows]
        cells = [[_number(100 * one.gain) if one else None for one in row] for row in rows]
        texts = [[_gain_text(one) for one in row] for row in rows]
        pale = [[one is not None and not one.established for one in row] for row in rows]
        x, ends = "gain in points (in brackets: not established)", (-MOST_GAIN, MOST_GAIN)
        names = [str(kind) for kind, _ in every.rows]
        return [
            HeatMap("gain_map", "", x, "points", every.recipes, names, cells, texts, ends, pale)
        ]

    def _tuning(self, rows: pd.DataFrame, label: str) -> list[Chart]:
        """A figure for each sparsity and numeric setting, with the best values of the others."""
        charts = []
        for name in self.table.chosen:
            others = [column for column in self._kind if column != name]
            tried = dict(groups(self.table.tried, others))
            for sparsity, at in rows.groupby("sparsity"):
                series = []
                for text, style, own in self._lines(at):
                    found = tried[key(own.iloc[0], others)]
                    found = found[found[name].map(is_number)].sort_values(name)
                    if len(found):
                        points = list(found[name]), _percent(found["dev_accuracy"])
                        series.append(Series(text, style, *points))
                values = sorted({x for one in series for x in one.x if x is not None})
                if len(values) < 2:
                    continue
                panel = Panel("dev accuracy, %", series, window=_window(series))
                what = name if len(self.table.chosen) > 1 else ""
                title = joined(label, f"{100 * sparsity:.2f} % pruned", what)
                ticks = values if values[0] > 0 else ()
                charts.append(Chart(_name("tuning", title), title, name, [panel], ticks))
        return charts

    def _training(self, rows: pd.DataFrame, label: str) -> list[Chart]:
        charts = []
        for sparsity, at in rows.groupby("sparsity"):
            curves: dict[str, list[Series]] = {}
            for text, style, own in self._lines(at):
                means, missing = mean_epochs(self._members(own)["run"])
                self._missing["metrics.jsonl"] += missing
                for name, mean in means.items():
                    mean = mean.dropna()  # not every epoch need have looked at the dev images
                    series = Series(text, style, list(mean.index), list(mean))
                    curves.setdefault(name, []).append(series)
            if curves:
                panels = [Panel(y, curves[n]) for n, (y, _) in CURVES.items() if n in curves]
                title = joined(label, f"{100 * sparsity:.2f} % pruned")
                charts.append(Chart(_name("training", title), title, "epoch", panels))
        return charts

    def _layers(self, name: str, label: str, rows: pd.DataFrame) -> HeatMap | None:
        columns = {}
        for sparsity, at in rows.groupby("sparsity"):
            kept, missing = mean_kept_shares(self._members(at)["ticket"].dropna().unique())
            self._missing["masks.npz"] += missing
            if kept:
                columns[f"{100 * sparsity:.2f} %"] = kept
        weights = list(dict.fromkeys(weight for kept in columns.values() for weight in kept))
        if not weights:
            return None
        cells = [
            [100 * (1 - kept[weight]) if weight in kept else None for kept in columns.values()]
            for weight in weights
        ]
        if all(weight.endswith("/kernel") for weight in weights):
            weights = [weight.removesuffix("/kernel") for weight in weights]
        x = "of all prunable weights"
        return HeatMap(name, label, x, "pruned, %", list(columns), weights, cells)

    def _seconds(self, name: str, label: str, rows: pd.DataFrame) -> Chart | None:
        title = joined(label, "seconds")
        return self._cost(name, title, "seconds of retraining", rows, rows["seconds"])

    def _flops(self, name: str, label: str, rows: pd.DataFrame) -> Chart | None:
        found = {}
        for place in rows.index:
            members = self._members(rows.loc[[place]])
            counts = members["ticket"].map(self.flops)
            if counts.notna().any():
                found[place] = counts.mean() / 1e6
        if not found:
            return None
        title = joined(label, "FLOPs")
        return self._cost(name, title, "million FLOPs of one example", rows, pd.Series(found))

    def _cost(
        self, name: str, label: str, x: str, rows: pd.DataFrame, cost: pd.Series
    ) -> Chart | None:
        if rows["test_accuracy"].isna().all():
            return None
        series = []
        for text, style, own in self._lines(rows.loc[cost.index]):
            points = list(cost[own.index]), _percent(own["test_accuracy"])
            series.append(Series(text, style, *points, words=_pruned(own)))
        return Chart(name, label, x, [Panel("test accuracy, %", series, "points")])

    def _members(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The runs of some rows of the table."""
        return pd.concat([self._runs[key(row, self._kind)] for _, row in rows.iterrows()])


def _window(series: Sequence[Series]) -> tuple[float, float] | None:
    """The part of the axis without runs that broke down, so that the best can be told apart."""
    every = [[y for y in one.y if y is not None] for one in series]
    best = [max(ys) for ys in every]
    bottom, top = min(best) - _BELOW, max(best)
    worst = min(min(ys) for ys in every)
    return (bottom, top + 0.05 * (top - bottom)) if worst < bottom else None


def _gain_text(compared: Comparison | None) -> str:
    return gain_text(compared.gain, compared.established, 1) if compared else ""


def _left(rows: pd.DataFrame) -> list[float]:
    """Share of weights that is left, in percent."""
    return [100 * (1 - sparsity) for sparsity in rows["sparsity"]]


def _pruned(rows: pd.DataFrame) -> list[str]:
    return [f"{percent(sparsity)} pruned" for sparsity in rows["sparsity"]]


def _ticks(rows: pd.DataFrame) -> tuple[list[float], list[str]]:
    """Ticks at the shares that are left, whose words say what is pruned, as the tables do."""
    left = sorted({left for left in _left(rows) if left > 0}, reverse=True)
    return left, [percent(1 - each / 100).removesuffix(" %") for each in left]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _percent(shares: pd.Series) -> list[float | None]:
    return [_number(100 * share) for share in shares]


def _bounds(rows: pd.DataFrame) -> tuple[Numbers, Numbers, Numbers]:
    """The test accuracy, and a standard error below and above it."""
    mean, error = rows["test_accuracy"], rows["test_accuracy_sem"]
    return _percent(mean), _percent(mean - error), _percent(mean + error)


def _name(*parts: str) -> str:
    """A file's name from words."""
    return re.sub(r"[^a-z0-9.]+", "_", " ".join(parts).lower()).strip("_")
