"""The tables of a report on runs whose numbers are done by hand."""

import json
import math
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from report_runs import FADES, SETTINGS, write_run, write_study, write_ticket
from scipy import stats

from lottery_tf.common.errors import UsageError
from lottery_tf.reporting import (
    cells,
    gather,
    head,
    markdown,
    pooled_cells,
    pooled_head,
    report,
    tuned,
    write,
)
from lottery_tf.reporting.comparing import compare, order
from lottery_tf.reporting.differences import FOLDER_IS_DATASET, for_readers, settings_of


@pytest.fixture
def undrawn(monkeypatch):
    """No figures beside the page, which take most of the time."""
    monkeypatch.setattr("lottery_tf.reporting.reports.draw", lambda figure, title: {})


def rows(table, *columns):
    return [tuple(row[name] for name in columns) for _, row in table.frame.iterrows()]


def test_means_gains_and_the_paired_test(tmp_path):
    found = report([write_study(tmp_path)])
    (table,) = found.tables
    assert rows(table, "recipe", "method", "sparsity", "seeds") == [
        ("vanilla", "imp", 0.75, 3),
        ("tost", "imp", 0.75, 3),
    ]
    vanilla, tost = (row for _, row in table.frame.iterrows())
    # Of 80, 82, 84: the deviations are -2, 0, 2, the variance is 4, the error 2 / √3.
    assert vanilla.test_accuracy == pytest.approx(0.82)
    assert vanilla.test_accuracy_sem == pytest.approx(0.02 / math.sqrt(3))
    assert math.isnan(vanilla.gain) and math.isnan(vanilla.p_holm)
    # The differences are 2, 1, 3; t = 2 / (1 / √3), and 4.3027 is t's 97.5 % point of 2 degrees.
    assert (tost.gain, tost.gain_sem) == pytest.approx((0.02, 0.01 / math.sqrt(3)))
    assert (tost.gain_low, tost.gain_high) == pytest.approx((-0.00484, 0.04484), abs=1e-5)
    assert tost.p == pytest.approx(2 * stats.t.sf(2 * math.sqrt(3), 2))
    assert tost.p == pytest.approx(0.0742, abs=1e-4) and tost.p_holm == tost.p
    assert cells(table)[1] == [
        *("75.00 %", "imp", "tost", "3", "100.00 ± 0.00", "84.00 ± 1.53"),
        *("+2.00 ± 0.58", "-0.48 to +4.48", "0.074", "0.074"),
    ]
    assert "| 75.00 % | imp | vanilla | 3 | 100.00 ± 0.00 | 82.00 ± 1.15 |  |  |  |  |" in markdown(
        table
    )
    assert not found.gathered.notes
    assert "√(a(1−a)/n) for an accuracy a on n images" in table.about[2]


def test_a_folder_may_be_named_as_those_inside_a_run_are(tmp_path):
    runs = write_study(tmp_path / "tickets" / "model")
    assert len(report([tmp_path]).gathered.runs) == len(report([runs]).gathered.runs) == 6


def write_gains(runs, *gains):
    """Three seeds of vanilla, and of a recipe for each gain d, with d-1, d and d+1 points more.

    t = d√3, and with 2 degrees of freedom p = 1 - t / √(t² + 2) = 1 - √(d² / (d² + 2/3)).
    """
    for seed in range(3):
        ticket = write_ticket(runs / f"ticket_{seed}", seed)
        write_run(runs / f"vanilla_{seed}", ticket, test=0.5, seed=seed)
        for gain in gains:
            test = 0.5 + (gain + seed - 1) / 100
            write_run(runs / f"{gain}_{seed}", ticket, f"by_{gain}", test, seed=seed)
    return runs


def test_small_p_have_three_decimals(undrawn, tmp_path):
    found = report([write_gains(tmp_path / "runs", 1, 4, 6, 20)])
    shown = {row[2]: row[-2:] for row in cells(found.tables[0])[1:]}
    assert shown == {
        "by_1": ["0.23", "0.23"],
        "by_4": ["0.020", "0.040"],
        "by_6": ["0.009", "0.027"],
        "by_20": ["<0.001", "0.003"],
    }
    assert "| <0.001 | 0.003 |" in markdown(found.tables[0])
    write(found, tmp_path / "page.html", flops=False)
    assert "&lt;0.001" in (tmp_path / "page.html").read_text()
    told = pd.read_csv(tmp_path / "page" / "table.csv").set_index("recipe")
    assert told.p["by_20"] == pytest.approx(1 - math.sqrt(400 / (400 + 2 / 3)))


def test_holm_counts_the_tests_of_a_table(tmp_path):
    """The least of three p times 3, the next times 2, the last as it is: Bonferroni's are all
    times 3."""
    (table,) = report([write_gains(tmp_path, 1, 2, 4)]).tables
    p, corrected = zip(*rows(table, "p", "p_holm"), strict=True)
    assert p[1:] == pytest.approx((0.2254, 0.0742, 0.0202), abs=1e-4)
    assert corrected[1:] == pytest.approx((p[1], 2 * p[2], 3 * p[3]))
    assert "for the 3 tests of this table" in table.about[1]


def test_another_recipe_as_the_baseline(tmp_path):
    """Of by_1 the differences to by_4 are all -3 points, of vanilla -3, -4 and -5."""
    found = report([write_gains(tmp_path / "runs", 1, 4)], baseline="by_4")
    (table,) = found.tables
    assert rows(table, "recipe", "pairs")[:2] == [("vanilla", 3), ("by_1", 3)]
    assert table.frame.gain[:2].tolist() == pytest.approx([-0.04, -0.03])
    assert math.isnan(table.frame.gain[2]) and cells(table)[2][-4:] == [""] * 4
    vanilla = table.frame.loc[0]
    assert (vanilla.gain_sem, vanilla.p) == pytest.approx((0.01 / math.sqrt(3), 0.0202), abs=1e-4)
    assert "gain over by_4" in head(table) and "the difference to by_4 on the" in " ".join(
        table.about
    )
    assert any("all differences to by_4 are equal" in line for line in table.about)
    write(found, tmp_path / "page.html", flops=False)
    drawn = (tmp_path / "page" / "gain_method_imp.svg").read_text()
    assert "<!-- gain over by_4, points -->" in drawn and "<!-- vanilla -->" in drawn


def test_a_baseline_of_several_parameters_is_none(tmp_path):
    """Unless they are tuned: which of the two on a ticket would be the partner?"""
    ticket = write_ticket(tmp_path / "ticket", 0)
    for share, dev in ((0.2, 0.7), (0.5, 0.8)):
        more = {"tweaks": {"soft_activation": {"share": share}}, "dev_accuracy": dev}
        write_run(tmp_path / f"{share}", ticket, "soft_activation", 0.2 + share, **more)
    write_run(tmp_path / "tost", ticket, "tost", 0.9)
    best, every = report([tmp_path], ("soft_activation_share",), baseline="soft_activation").tables
    assert every.frame.gain.isna().all()
    assert any(
        "1 ticket with several runs of soft_activation, which differ" in line
        for line in every.about
    )
    assert best.frame.gain.dropna().tolist() == pytest.approx([0.9 - 0.7])


def test_the_rate_is_chosen_on_dev(undrawn, tmp_path):
    for seed in range(2):
        ticket = write_ticket(tmp_path / f"ticket_{seed}", seed)
        for recipe, rate, dev, test in [
            *(("vanilla", 0.1, 0.8, 0.9), ("vanilla", 0.2, 0.9, 0.7), ("vanilla", 0.4, 0.7, 0.8)),
            *(("tost", 0.1, 0.8, 0.6), ("tost", 0.2, 0.7, 0.5), ("tost", 0.4, 0.9, 0.8)),
        ]:
            more = {"learning_rate": rate, "dev_accuracy": dev, "seed": seed}
            test += 0.02 * seed * (recipe == "tost")
            write_run(tmp_path / f"{seed}_{recipe}_{rate}", ticket, recipe, test, **more)
    chosen, every = report([tmp_path]).tables
    columns = ("recipe", "learning_rate", "test_accuracy", "gain", "at_edge")
    assert rows(chosen, *columns[:3]) == [
        ("vanilla", 0.2, pytest.approx(0.7)),
        ("tost", 0.4, pytest.approx(0.81)),
    ]
    # Each at its own rate: 80 and 82 against 70.
    assert chosen.frame.gain[1] == pytest.approx(0.11)
    assert list(chosen.frame.at_edge) == ["", "learning_rate"] and cells(chosen)[1][3] == "0.4*"
    # At the same rate: 60 and 62 against 90.
    assert len(every.frame) == 6
    assert every.frame.query("recipe == 'tost' and learning_rate == 0.1").gain.item() == (
        pytest.approx(-0.29)
    )
    assert len(report([tmp_path], tune=()).tables) == 1
    write(report([tmp_path]), tmp_path / "page.html", flops=False)
    tried = pd.read_csv(tmp_path / "page" / "tried.csv")
    names = ["recipe", "method", "sparsity", "learning_rate", "seeds", "dev_accuracy"]
    assert tried.query("recipe == 'vanilla'")[
        [*names, "dev_accuracy_sem", "chosen"]
    ].to_numpy().tolist() == [
        ["vanilla", "imp", 0.75, 0.1, 2, 0.8, 0, False],
        ["vanilla", "imp", 0.75, 0.2, 2, 0.9, 0, True],
        ["vanilla", "imp", 0.75, 0.4, 2, 0.7, 0, False],
    ]


def test_the_mark_stands_on_what_is_at_its_edge_alone(tmp_path):
    """Of two numbers one; and True is no number, though Python says so."""
    ticket = write_ticket(tmp_path / "ticket", 0)
    for rate, width in ((0.1, 4), (0.2, 4), (0.4, 4), (0.2, 8)):
        for nesterov in (False, True):
            dev = 0.5 + 0.1 * (rate == 0.2) + 0.1 * (width == 8) + 0.1 * nesterov
            more = {"learning_rate": rate, "width": width, "nesterov": nesterov}
            name = f"{rate}_{width}_{nesterov}"
            write_run(tmp_path / name, ticket, dev_accuracy=dev, **more)
    chosen, _ = report([tmp_path], tune=("learning_rate", "nesterov", "width")).tables
    assert head(chosen)[3:6] == ["width", "learning_rate", "nesterov"]
    assert cells(chosen)[0][3:6] == ["8*", "0.2", "True"]
    assert list(chosen.frame.at_edge) == ["width"]


def test_rates_that_not_every_seed_has_are_not_chosen(tmp_path):
    """Where no seed has all."""
    for seed in range(2):
        ticket = write_ticket(tmp_path / f"ticket_{seed}", seed)
        for rate in (0.1, (0.2, 0.4)[seed]):
            more = {"learning_rate": rate, "seed": seed}
            write_run(tmp_path / f"{seed}_{rate}", ticket, test=rate, **more)
            write_run(tmp_path / f"{seed}_{rate}_tost", ticket, "tost", rate, **more)
    chosen, _ = report([tmp_path]).tables
    assert list(chosen.frame.learning_rate) == [0.1, 0.1]
    assert any("learning_rate 0.2, 0.4 cannot be chosen" in line for line in chosen.about)


def test_a_recipe_for_which_other_rates_were_tried_than_for_vanilla_is_named(tmp_path):
    ticket = write_ticket(tmp_path / "ticket", 0)
    tried = {"vanilla": (0.1,), "tost": (0.2, 0.1), "label_smoothing": (0.1,)}
    for recipe, rates in tried.items():
        for rate in rates:
            write_run(tmp_path / f"{recipe}_{rate}", ticket, recipe, learning_rate=rate)
    chosen, _ = report([tmp_path]).tables
    assert [line for line in chosen.about if "tuning" in line] == [
        "tost, imp, 75.00 %: learning_rate 0.1, 0.2 were tried, and for vanilla 0.1. So part of "
        "the gain may come from tuning."
    ]


def test_some_seeds_choose_for_all(tmp_path):
    """Seed 0 ran with both rates, and only the better ran with seed 1 and was tested at all."""
    for seed, rate, dev, test in ((0, 0.1, 0.7, None), (0, 0.2, 0.9, 0.6), (1, 0.2, 0.9, 0.8)):
        ticket = tmp_path / f"ticket_{seed}"
        if not ticket.exists():
            write_ticket(ticket, seed)
        more = {"learning_rate": rate, "seed": seed, "dev_accuracy": dev}
        for recipe, gain in (("vanilla", 0), ("tost", 0.1)):
            accuracy = None if test is None else test + gain * (1 + seed)
            write_run(tmp_path / f"{seed}_{rate}_{recipe}", ticket, recipe, accuracy or 0, **more)
            if test is None:
                result = tmp_path / f"{seed}_{rate}_{recipe}" / "result.json"
                content = json.loads(result.read_text())
                del content["test_accuracy"]
                result.write_text(json.dumps(content))
    chosen, every = report([tmp_path], tune_seeds=[0]).tables
    assert rows(chosen, "recipe", "learning_rate", "seeds", "test_accuracy", "gain")[1] == (
        *("tost", 0.2, 2),
        *(pytest.approx(0.85), pytest.approx(0.15)),
    )
    assert list(chosen.frame.at_edge) == ["learning_rate"] * 2
    assert "by the mean dev accuracy of 1 seed." in " ".join(chosen.about)
    assert head(every)[5:8] == ["train", "dev", "test"]
    assert [row[7] for row in cells(every)][::2] == ["–", "–"]
    assert any("2 runs not measured on the test images" in line for line in every.about)


def test_seeds_that_have_all_values_choose(tmp_path):
    """Seed 0, as after two sweeps with --tune_seeds=0, the second with more rates: the others ran
    with what it chose in each of them, and were best with the first."""
    for seed in range(3):
        ticket = write_ticket(tmp_path / f"ticket_{seed}", seed)
        for recipe, best in (("vanilla", 0.2), ("tost", 0.4)):
            for rate in (0.1, best) if seed else (0.1, 0.2, 0.4):
                dev = 0.8 if rate == best else 0.9 if seed else 0.7
                more = {"learning_rate": rate, "seed": seed, "dev_accuracy": dev}
                write_run(tmp_path / f"{seed}_{recipe}_{rate}", ticket, recipe, **more)
    chosen, _ = report([tmp_path]).tables
    assert [row[3:5] for row in cells(chosen)] == [["0.2", "3"], ["0.4*", "3"]]
    assert chosen.about[-1] == (
        "2 rows: learning_rate chosen by 1 of 3 seeds, those that ran with all values."
    )
    asked, _ = report([tmp_path], tune_seeds=[0]).tables
    assert cells(asked) == cells(chosen) and "1 of 3 seeds" not in " ".join(asked.about)
    assert set(chosen.tried.seeds) == {1} and chosen.tried.dev_accuracy_sem.isna().all()


def test_where_no_value_has_every_seed_nothing_is_chosen(tmp_path):
    for seed, rate in ((0, 0.1), (1, 0.2)):
        ticket = write_ticket(tmp_path / f"ticket_{seed}", seed)
        write_run(tmp_path / f"{seed}", ticket, learning_rate=rate, seed=seed)
    gathered = gather([tmp_path])
    best = tuned(gathered, ["learning_rate"])
    assert best.runs.empty and "at_edge" in best.runs and "cannot be chosen" in best.notes[0]
    best = tuned(gathered, ["learning_rate"], seeds=[5])
    assert best.runs.empty and "none of the seeds that choose has a run" in best.notes[0]
    best = tuned(gathered, ["width"])
    assert best.runs is None and best.tried.empty and not best.notes
    (table,) = report([tmp_path]).tables
    assert any("cannot be chosen" in line for line in table.about)


def test_rates_that_were_tried_on_different_tickets_are_not_chosen_from(tmp_path):
    """As sweep --vary=learning_rate does: every run is there, but no ticket has two."""
    for seed in range(2):
        for rate in (0.1, 0.2):
            settings = SETTINGS | {"learning_rate": rate}
            ticket = write_ticket(tmp_path / f"ticket_{seed}_{rate}", seed, **settings)
            write_run(tmp_path / f"{seed}_{rate}", ticket, learning_rate=rate, seed=seed)
    (table,) = report([tmp_path]).tables
    assert any(
        "nothing chosen, as learning_rate 0.1, 0.2 were not tried on the same" in line
        for line in table.about
    )


def found_with(ticket, settings):
    """The ticket, its file saying that it was found with these settings."""
    record = json.loads((ticket / "ticket.json").read_text())
    (ticket / "ticket.json").write_text(json.dumps(record | {"settings": settings}))
    return ticket


def test_tickets_of_unknown_seeds_are_each_a_draw(tmp_path):
    """Found in a program; or found with other seeds than they are retrained with."""
    for number, settings in enumerate(({}, {}, {"seed": 1}, {"seed": 2}, {"seed": 2, "rounds": 3})):
        ticket = found_with(write_ticket(tmp_path / f"{number}", 0, 0.75 + number / 1e4), settings)
        write_run(tmp_path / "runs" / f"{number}", ticket)
    gathered = gather([tmp_path / "runs"])
    names = [name[-1] for name in gathered.runs.run]
    assert names[:3] == ["0", "1", "2"] and len(names) == 4
    assert "draw" not in gathered.runs


def test_settings_that_differ_are_columns(tmp_path):
    ticket = write_ticket(tmp_path / "ticket", 0, scope="global")
    other = write_ticket(tmp_path / "other", 0, scope="erk", rounds=5)
    write_run(tmp_path / "a", ticket)
    write_run(tmp_path / "b", ticket, width=32, test=0.7)
    write_run(tmp_path / "c", ticket, "soft_activation", 0.9, tweaks=FADES)
    write_run(tmp_path / "d", ticket, "soft_activation", tweaks={"soft_activation": {"share": 1}})
    write_run(tmp_path / "e", other, data_dir="/data/elsewhere")
    found = report([tmp_path])
    assert found.gathered.settings == ["width", "ticket_scope", "soft_activation_share"]
    assert found.gathered.of_tweaks == ["soft_activation_share"]
    (table,) = found.tables
    assert [row[3:6] for row in cells(table)] == [
        *(["–", "erk", "–"], ["–", "global", "–"], ["32", "global", "–"]),
        *(["–", "global", "0.5"], ["–", "global", "1"]),
    ]
    # Vanilla of the same width; the tweak's own parameters need no partner.
    assert table.frame.gain[3] == pytest.approx(0.1)


def test_what_a_recipe_s_name_says_is_no_column(tmp_path):
    """Until one run of it has something else."""
    ticket = write_ticket(tmp_path / "ticket", 0)
    write_run(tmp_path / "vanilla", ticket)
    for name, temperature, weight in (("distillation", 4.0, 0.7), ("kd_reference", 5.0, 0.9)):
        taught = {"distillation": {"temperature": temperature, "weight": weight}}
        write_run(tmp_path / name, ticket, name, tweaks=taught)
    assert report([tmp_path]).gathered.settings == []
    taught = {"distillation": {"temperature": 5.0, "weight": 0.5}}
    write_run(tmp_path / "other", ticket, "kd_reference", tweaks=taught)
    assert report([tmp_path]).gathered.settings == ["distillation_weight"]


def test_a_folder_that_is_the_dataset_is_a_setting():
    from lottery_tf.data.readers import FOLDERS

    assert {*FOLDER_IS_DATASET, "tiny_imagenet"} == {*FOLDERS}
    for dataset in FOLDER_IS_DATASET:
        mine = {"dataset": dataset, "data_dir": "/home/me/sets"}
        found = settings_of(mine, found_with=mine | {"data_dir": "/home/you/sets"}, taught_with={})
        assert {*found} == {("run", "dataset"), ("ticket", "dataset")}
        assert {*found.values()} == {f"{dataset} sets"}
    config = {"dataset": "tiny_imagenet", "data_dir": "/home/me/tiny-imagenet-200"}
    assert settings_of(config, {}, {}) == {("run", "dataset"): "tiny_imagenet"}


def test_a_folder_that_is_the_dataset_goes_by_its_content(tmp_path):
    """One that was renamed is the same setting; another one of the same name is not."""
    ticket = write_ticket(tmp_path / "ticket", 0)
    for number, (folder, data) in enumerate((("a/sets", "1"), ("b/other", "1"), ("c/sets", "2"))):
        more = {"dataset": "idx", "data_dir": folder, "data_sha256": data * 64, "seed": number}
        write_run(tmp_path / str(number), ticket, **more)
    found = gather([tmp_path])
    assert found.settings == ["dataset"]
    assert list(found.runs.dataset) == ["idx sets", "idx sets", "idx sets (22222222)"]


def test_how_an_image_folder_is_read_is_told_where_it_decides_its_images(tmp_path):
    """An older release had no options; grey or RGB may be asked for or found."""
    ticket = write_ticket(tmp_path / "ticket", 0)
    new = {"image_size": None, "image_channels": None, "test_share": 0.2}
    more = {"dataset": "image_folder", "data_dir": "pets", "data_sha256": "1" * 64}
    for number, options in enumerate(({"image_channels": 3}, new, new | {"image_channels": 3})):
        write_run(tmp_path / str(number), ticket, seed=number, **more, **options)
    assert gather([tmp_path]).settings == []
    more["data_sha256"] = "2" * 64
    write_run(tmp_path / "3", ticket, seed=3, **more, **new | {"image_channels": 1})
    found = gather([tmp_path])
    assert sorted(found.settings) == ["dataset", "image_channels"]
    assert list(found.runs.image_channels) == [3, 3, 3, 1]


def write_taught(tmp_path, seed, ticket, name, test=0.8, **settings):
    """A distilled run, and the run of find that its teacher comes from."""
    taught_by = tmp_path / f"seed_{seed}" / f"find_{name}"
    taught_by.mkdir(parents=True, exist_ok=True)
    config = {"command": "find", **SETTINGS, **settings, "seed": seed, "rounds": 2}
    (taught_by / "config.json").write_text(json.dumps(config))
    more = {"teacher": str(taught_by / "dense_model"), "seed": seed}
    more |= {"tweaks": {"distillation": {"weight": 0.7}}}
    return write_run(taught_by.parent / name, ticket, "distillation", test, **more)


def test_teachers_of_one_name_are_told_apart_by_what_trained_them(tmp_path):
    for seed in range(2):
        ticket = write_ticket(tmp_path / f"ticket_{seed}", seed, **SETTINGS)
        write_run(tmp_path / f"vanilla_{seed}", ticket, test=0.7, seed=seed)
        write_taught(tmp_path, seed, ticket, "own")
        write_taught(tmp_path, seed, ticket, "wide", 0.9, width=32)
    found = report([tmp_path])
    assert not found.gathered.notes and found.gathered.shared == []
    (table,) = found.tables
    assert table.settings == ["distillation_teacher_width"]
    assert [row[2:5] for row in cells(table)][1:] == [
        ["distillation", "–", "2"],
        ["distillation", "32", "2"],
    ]
    assert list(table.frame.gain[1:]) == pytest.approx([0.1, 0.2])
    # Wherever the folder lies now.
    (tmp_path / "moved").mkdir()
    for part in list(tmp_path.iterdir()):
        if part.name != "moved":
            part.rename(tmp_path / "moved" / part.name)
    assert cells(report([tmp_path / "moved"]).tables[0]) == cells(table)


def test_of_a_teacher_nothing_is_told_that_its_ticket_or_run_tells(tmp_path):
    """In the tickets' runs the rate and the width are others too."""
    for seed, (width, found_with) in enumerate(((8, 0.2), (16, 0.4))):
        settings = SETTINGS | {"width": width, "learning_rate": found_with}
        ticket = write_ticket(tmp_path / f"ticket_{seed}", seed, **settings)
        run = write_taught(tmp_path, seed, ticket, "own", **settings)
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(config | {"width": width}))
    assert gather([tmp_path]).settings == ["width", "ticket_learning_rate"]


def test_sparsities_that_hardly_differ_are_one(tmp_path):
    for seed, sparsity in enumerate((0.8999, 0.9001, 0.91)):
        ticket = write_ticket(tmp_path / f"ticket_{seed}", seed, sparsity)
        write_run(tmp_path / f"run_{seed}", ticket, seed=seed)
    (table,) = report([tmp_path]).tables
    assert rows(table, "sparsity", "seeds") == [(pytest.approx(0.9), 2), (0.91, 1)]


def test_settings_that_older_releases_lack_are_their_defaults(tmp_path):
    ticket = write_ticket(tmp_path / "ticket", 0)
    write_run(tmp_path / "old", ticket)
    write_run(tmp_path / "new", ticket, "tost", precision="float32")
    write_run(tmp_path / "other", ticket, "tost", 0.7, precision="mixed_float16")
    found = report([tmp_path])
    assert found.gathered.settings == ["precision"]
    assert found.tables[0].frame.pairs.tolist()[1:] == [1, 0]


def test_kinds_of_layers_are_shown_as_the_runs_have_them(tmp_path):
    """Where runs of an older release are among them, in the form that is the same for all."""
    old, new = ["conv", "dense"], ["conv", "dense", "recurrent", "attention"]
    write_study(tmp_path)

    def found(*kinds):
        for place, config in enumerate(sorted(tmp_path.rglob("config.json"))):
            its = json.loads(config.read_text())
            its["prune_layers"] = kinds[place % len(kinds)]
            config.write_text(json.dumps(its))
        return gather([tmp_path])

    for kinds in (new, old):
        assert found(kinds).common["prune_layers"] == ",".join(kinds)
    mixed = found(old, new)
    assert mixed.common["prune_layers"] == "conv,dense" and not mixed.settings
    assert set(found(["conv"], new).runs["prune_layers"]) == {"conv", ",".join(new)}
    assert set(found(["conv"], old, new).runs["prune_layers"]) == {"conv", "conv,dense"}


def test_of_values_that_differ_none_is_shown_as_another():
    setting = ("run", "prune_layers")
    compared = [{setting: ["conv"]}, {setting: ["conv", "recurrent"]}]
    recorded = [{setting: ["conv", "recurrent"]}, {}]
    assert for_readers(compared, recorded) == compared


def test_parameters_that_older_releases_lacked_stand_for_what_these_did(tmp_path):
    """Not for the default of today; one that stood for what another says, for that."""
    ticket = write_ticket(tmp_path / "ticket", 0)
    write_run(tmp_path / "vanilla", ticket)
    old = {"soft_activation": {"share": 0.5}, "rescaled_init": {"iterations": 60}}
    same = {"keep_signal": False, "patience": 60}
    new = {"soft_activation": {"share": 0.5, "keep_signal": True}}
    new |= {"rescaled_init": old["rescaled_init"] | same}
    for number, tweaks in enumerate((old, new)):
        write_run(tmp_path / f"{number}", ticket, "a,b", tweaks=tweaks)
    found = gather([tmp_path])
    assert found.settings == ["soft_activation_keep_signal"]
    assert set(found.runs.soft_activation_keep_signal) == {None, False, True}


def test_what_is_missing_is_said_and_nothing_invented(tmp_path):
    write_study(tmp_path)
    ticket = write_ticket(tmp_path / "lonely", 3)
    write_run(tmp_path / "alone", ticket, "tost", seed=3)
    write_run(tmp_path / "seed_0_again", tmp_path / "seed_0/find/tickets/round_00", test=0.5)
    for name, file in (("unfinished", "result.json"), ("unknown", "config.json")):
        write_run(tmp_path / name, ticket)
        (tmp_path / name / file).unlink()
    for name, text in (("damaged", "{"), ("empty", '{"recipe": "tost", "seed": 0}')):
        write_run(tmp_path / name, ticket)
        (tmp_path / name / "result.json").write_text(text)
    found = report([tmp_path, tmp_path / "seed_0"])
    (table,) = found.tables
    said = "\n".join(found.gathered.notes + table.about)
    for sentence in (
        "1 run left out, not finished (no result.json): ",
        "1 run left out, without config.json: ",
        "1 run left out, result.json damaged: ",
        "1 run left out, without sparsity, sparsity_total, seconds, test_accuracy in result.json: ",
        "1 run left out, of the same recipe, method, sparsity, seeds and settings as another one: ",
        "1 run without a vanilla partner (same ticket, seeds and settings), which no gain counts: ",
    ):
        assert sentence in said, sentence
    assert rows(table, "seeds")[1] == (4,) and table.frame.pairs[1] == 3
    assert table.frame.gain[1] == pytest.approx(0.02)
    assert cells(table)[1][6].endswith("(3 pairs)")


def report_of_two_draws(tmp_path, runs):
    """Of a ticket that was found twice; name → which of the two, recipe and test accuracy."""
    draws = {
        n: found_with(write_ticket(tmp_path / f"{n}", 0), {"seed": 0, "rounds": n}) for n in (1, 2)
    }
    for name, (draw, recipe, test) in runs.items():
        write_run(tmp_path / "runs" / name, draws[draw], recipe, test)
    return report([tmp_path / "runs"])


def test_a_ticket_that_was_found_twice_counts_once(tmp_path):
    """The second of them has a run more: it is kept, for both recipes."""
    runs = {
        **{"a": (1, "vanilla", 0.1), "b": (2, "vanilla", 0.8)},
        **{"c": (2, "tost", 0.9), "d": (1, "tost", 0.2)},
        "e": (2, "label_smoothing", 0.7),
    }
    found = report_of_two_draws(tmp_path, runs)
    assert list(found.gathered.runs.run.str[-1]) == ["b", "c", "e"]
    assert "2 runs left out, of the same recipe" in " ".join(found.gathered.notes)
    assert found.tables[0].frame.gain.dropna().round(3).to_list() == [-0.1, 0.1]


def test_a_dense_network_counts_once(tmp_path):
    """Of seed 0, whose ticket is trained thrice; and of seed 1, which ERK's run has trained too."""
    for name, seed, accuracy in (("imp_0", 0, 0.9), ("imp_1", 1, 0.8), ("erk_1", 1, 0.8)):
        found = tmp_path / name
        ticket = write_ticket(found / "tickets" / "round_01", seed, method=name[:3])
        config = {"command": "find", "seed": seed, "data_seed": seed}
        (found / "config.json").write_text(json.dumps(config))
        row = {"round": 0, "test_accuracy": accuracy}
        (found / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        for training in range(3 - 2 * seed):
            write_run(tmp_path / f"{name}_{training}", ticket, seed=seed + 10 * training)
    (table,) = report([tmp_path]).tables
    assert "The dense network's accuracy, when the ticket was found: 85.00 ± 5.00." in table.about


def test_seeds_of_training_on_one_ticket_are_told(tmp_path):
    write_study(tmp_path / "each_its_own")
    ticket = write_ticket(tmp_path / "one", 0, 0.9)
    for seed, tost in enumerate((0.82, 0.83, 0.87)):
        write_run(tmp_path / f"vanilla_{seed}", ticket, test=0.8 + 0.02 * seed, seed=seed)
        write_run(tmp_path / f"tost_{seed}", ticket, "tost", tost, seed=seed)
    (table,) = report([tmp_path]).tables
    (told,) = (line for line in table.about if "more runs than tickets" in line)
    assert told.startswith("2 rows with more runs than tickets. ")
    # The arithmetic is that of a ticket a seed.
    assert table.frame.p[3] == pytest.approx(table.frame.p[1])
    (table,) = report([tmp_path / "each_its_own"]).tables
    assert "Runs on the same ticket" not in " ".join(table.about)
    single = [tmp_path / f"{name}_{n}" for name in ("vanilla", "tost") for n in range(3)]
    (table,) = report(single).tables
    assert "All runs are on one ticket. Runs on the same ticket differ " in " ".join(table.about)


def test_of_a_ticket_that_was_found_twice_that_with_vanilla_is_kept(tmp_path):
    """Though the other has more runs; what only that one has stays, without a partner."""
    runs = {
        **{"a": (1, "vanilla", 0.8), "b": (1, "tost", 0.9)},
        **{"c": (2, "tost", 0.3), "d": (2, "distillation", 0.7)},
        "e": (2, "label_smoothing", 0.6),
    }
    found = report_of_two_draws(tmp_path, runs)
    assert list(found.gathered.runs.run.str[-1]) == ["a", "b", "d", "e"]
    (table,) = found.tables
    assert dict(rows(table, "recipe", "pairs"))["tost"] == 1
    assert table.frame.gain.dropna().to_list() == [pytest.approx(0.1)]
    assert "2 runs without a vanilla partner" in " ".join(table.about)


def test_models_of_files_are_each_a_draw(tmp_path):
    for number in range(2):
        settings = {"method": "from_model", "model_path": f"{number}"}
        ticket = write_ticket(tmp_path / f"{number}", 0, **settings)
        write_run(tmp_path / "runs" / f"{number}", ticket)
    assert len(report([tmp_path / "runs"]).gathered.runs) == 2


def test_one_seed_and_equal_differences_have_no_test(tmp_path):
    for seed in range(2):
        ticket = write_ticket(tmp_path / f"ticket_{seed}", seed)
        write_run(tmp_path / f"vanilla_{seed}", ticket, seed=seed)
        write_run(tmp_path / f"tost_{seed}", ticket, "tost", 0.9, seed=seed)
    once = write_ticket(tmp_path / "once", 0, 0.9)
    write_run(tmp_path / "vanilla_once", once)
    write_run(tmp_path / "tost_once", once, "tost", 0.7)
    (table,) = report([tmp_path]).tables
    equal, single = cells(table)[1], cells(table)[3]
    assert equal[5:] == ["90.00 ± 0.00", "+10.00 ± 0.00", "–", "–", "–"]
    assert single[5:] == ["70.00", "-10.00", "–", "–", "–"]
    said = " ".join(table.about)
    assert "1 row without interval and p, as all differences to vanilla are equal." in said
    assert "2 rows with one run: no error, interval or p." in said


def test_differences_that_rounding_alone_makes_have_no_test(tmp_path):
    """30 points each, as floating-point numbers 5e-17 apart; an image of 10,000 is no rounding."""
    for seed in range(3):
        ticket = write_ticket(tmp_path / f"ticket_{seed}", seed)
        for recipe, test in (("vanilla", 0.1), ("by_30", 0.4), ("by_more", 0.4 + seed / 10_000)):
            write_run(tmp_path / f"{recipe}_{seed}", ticket, recipe, test + seed / 10, seed=seed)
    (table,) = report([tmp_path]).tables
    assert cells(table)[1][5:] == ["50.00 ± 5.77", "+30.00 ± 0.00", "–", "–", "–"]
    assert cells(table)[2][6:] == ["+30.01 ± 0.01", "+29.99 to +30.03", "<0.001", "<0.001"]
    (told,) = (line for line in table.about if "all differences to vanilla are equal" in line)
    assert told.startswith("1 row ")


def test_a_mean_is_of_all_runs_or_none(tmp_path):
    """As where older releases have measured less."""
    for seed, dev in enumerate((0.5, 0.6, None)):
        ticket = write_ticket(tmp_path / f"ticket_{seed}", seed)
        run = write_run(tmp_path / f"run_{seed}", ticket, seed=seed, dev_accuracy=dev)
        if seed:
            result = json.loads((run / "result.json").read_text()) | {"nonzero_parameters": 9}
            (run / "result.json").write_text(json.dumps(result))
    ((_, row),) = report([tmp_path]).tables[0].frame.iterrows()
    assert row.seeds == 3 and row.test_accuracy == pytest.approx(0.8)
    assert row[["dev_accuracy", "dev_accuracy_sem", "nonzero_parameters"]].isna().all()


def test_settings_are_in_order():
    values = [["a"], [3], [0], [-1], [None], [2.5]]
    assert sorted(values, key=order) == [[None], [-1], [0], [2.5], [3], ["a"]]


def frame(*rows):
    """Runs with an index of their own, from (recipe, ticket, seed, test accuracy)."""
    others = ("dev_accuracy", "train_accuracy", "best_dev_test_accuracy")
    same = dict.fromkeys((*others, "sparsity_total", "nonzero_parameters", "seconds"), 0.5)
    same |= {"method": "imp", "level": 0.9, "data_seed": 0}
    names = ("recipe", "ticket_sha256", "seed", "test_accuracy")
    runs = [{**same, **dict(zip(names, row, strict=True)), "run": f"r{n}"} for n, row in
            enumerate(rows)]  # fmt: skip
    return pd.DataFrame(runs, index=[7 + 2 * n for n in range(len(rows))])


def test_of_vanilla_alone_no_gain_is_known():
    table, notes = compare(frame(("vanilla", "a", 3, 0.5), ("vanilla", "b", 4, 0.7)), [], [])
    assert table["test_accuracy"].tolist() == [0.6] and table["seeds"].tolist() == [2]
    gains = ["pairs", "gain", "gain_sem", "gain_low", "gain_high", "p", "p_holm"]
    assert table[gains].isna().all(axis=None) and notes == []


def test_what_could_not_be_compared_is_told():
    table, notes = compare(
        frame(
            *(("vanilla", "a", 0, 0.5), ("vanilla", "b", 1, 0.6), ("vanilla", "c", 2, 0.6)),
            *(("vanilla", "c", 2, 0.7), ("vanilla", "e", 4, None)),
            *(("equal", "a", 0, 0.6), ("equal", "b", 1, 0.7), ("equal", "c", 2, 0.6)),
            *(("lonely", "d", 3, 0.9), ("twice", "a", 0, 0.4), ("twice", "a", 5, 0.4)),
        ),
        *([], []),
    )
    gain = dict(zip(table["recipe"], table["gain"], strict=True))
    assert gain["equal"] == pytest.approx(0.1) and gain["twice"] == pytest.approx(-0.1)
    assert math.isnan(gain["lonely"]) and table["p"].isna().all()
    assert notes == [
        "1 run not measured on the test images: sweep --tune measures only what the dev images "
        "have chosen.",
        "1 ticket with several runs of vanilla, which differ in parameters of its tweaks: no gain "
        "over them.",
        "3 runs without a vanilla partner (same ticket, seeds and settings), which no gain counts: "
        "r7, r8, r10.",
        "1 row with one run: no error, interval or p.",
        "2 rows with more runs than tickets. Runs on the same ticket differ only in their "
        "training. So errors, intervals and p say little about other tickets.",
        "1 row without interval and p, as all differences to vanilla are equal.",
    ]


def test_rows_are_in_order(tmp_path):
    """Of sparsity, method, recipe (a single tweak before several), and numbers by their size."""
    expected = [
        *((0.75, "imp", "vanilla", 4), (0.75, "imp", "tost", 4)),
        *((0.75, "imp", "ghost_skips,label_smoothing", 4), (0.75, "snip", "vanilla", 4)),
        *((0.9, "erk", "vanilla", 8), (0.9, "erk", "vanilla", 16)),
    ]
    for number, (sparsity, method, recipe, width) in enumerate(expected[::-1]):
        ticket = write_ticket(tmp_path / f"ticket_{number}", 0, sparsity, method)
        write_run(tmp_path / f"run_{number}", ticket, recipe, width=width)
    (table,) = report([tmp_path]).tables
    assert rows(table, "sparsity", "method", "recipe", "width") == expected


def test_a_partner_that_was_not_tested_is_none(tmp_path):
    ticket = write_ticket(tmp_path / "ticket", 0)
    write_run(tmp_path / "vanilla", ticket, test_accuracy=None)
    write_run(tmp_path / "tost", ticket, "tost")
    (table,) = report([tmp_path]).tables
    assert table.frame.pairs[1] == 0
    assert any("1 run without a vanilla partner" in line for line in table.about)


def test_of_unknown_tickets_it_is_not_said_that_they_are_one(tmp_path):
    for seed in range(2):
        ticket = write_ticket(tmp_path / f"ticket_{seed}", seed)
        write_run(tmp_path / f"run_{seed}", ticket, seed=seed, ticket_sha256=None)
    (table,) = report([tmp_path]).tables
    assert list(table.frame.seeds) == [2]
    assert "Runs on the same ticket" not in " ".join(table.about)


@pytest.mark.parametrize("name", ["seed", "data_seed", "learning_rate"])
def test_a_partner_differs_in_the_recipe_alone(tmp_path, name):
    ticket = write_ticket(tmp_path / "ticket", 0)
    for value in (1, 2):
        write_run(tmp_path / f"vanilla_{value}", ticket, test=value / 10, **{name: value})
    for value in (2, 3):
        write_run(tmp_path / f"tost_{value}", ticket, "tost", 0.9, **{name: value})
    (table,) = report([tmp_path], tune=()).tables
    tost = table.frame[table.frame.recipe == "tost"]
    assert (tost.pairs.sum(), tost.gain.mean()) == (1, pytest.approx(0.7))
    assert any("1 run without a vanilla partner" in line for line in table.about)


def test_runs_that_moved_and_tickets_that_are_gone(tmp_path):
    runs = write_study(tmp_path / "before")
    runs.rename(tmp_path / "after")
    found = report([tmp_path / "after"])
    assert set(found.gathered.runs.method) == {"imp"} and not found.gathered.notes
    # A ticket that is not the run's own is not taken for it.
    changed = tmp_path / "after" / "seed_0" / "find" / "tickets" / "round_00" / "ticket.json"
    changed.write_text(json.dumps({"method": "snip"}))
    shutil.rmtree(tmp_path / "after" / "seed_1" / "find")
    found = report([tmp_path / "after"])
    assert sorted(found.gathered.runs.method) == ["imp"] * 2 + ["unknown"] * 4
    assert "4 runs whose ticket is gone or changed" in found.gathered.notes[0]


def test_without_dev_accuracy_nothing_is_chosen(tmp_path):
    ticket = write_ticket(tmp_path / "ticket", 0)
    for rate in (0.1, 0.2):
        write_run(tmp_path / str(rate), ticket, learning_rate=rate, dev_accuracy=None)
    (table,) = report([tmp_path]).tables
    assert (
        "vanilla, imp, 75.00 %: nothing chosen, as not every run has a dev accuracy." in table.about
    )


@pytest.mark.parametrize(
    ("folder", "more", "told"),
    [
        ("no", {}, "Expected a folder with runs below it, got .*no: there is none"),
        ("empty", {}, "there is none below .*empty"),
        ("study", {"tune": ("learning_rat",)}, "got 'learning_rat'; nearest: learning_rate"),
        ("study", {"baseline": "toast"}, "as the baseline, got 'toast'; nearest: tost"),
    ],
)
def test_mistakes(tmp_path, folder, more, told):
    (tmp_path / "empty").mkdir()
    write_study(tmp_path / "study")
    with pytest.raises(UsageError, match=told):
        report([tmp_path / folder], **more)


@pytest.mark.e2e
def test_tables_need_no_tensorflow(tmp_path):
    assert "learning_rate" in SETTINGS
    program = (
        "import sys; from lottery_tf.reporting import report; "
        f"report([{str(write_study(tmp_path))!r}]); sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def write_kinds(runs, gains, **more):
    """A recipe's gains in points over vanilla's 50 %: kind (a method) → seed → gain."""
    for method, by_seed in gains.items():
        for seed, points in by_seed.items():
            ticket = runs / f"ticket_{method}_{seed}"
            if not ticket.exists():
                write_ticket(ticket, seed, method=method)
                write_run(runs / f"vanilla_{method}_{seed}", ticket, test=0.5, seed=seed)
            name = runs / "_".join(map(str, (method, seed, *more.values())))
            write_run(
                name, ticket, **{"recipe": "tost", **more}, seed=seed, test=0.5 + points / 100
            )


def test_the_kinds_of_tickets_pooled_by_hand(tmp_path):
    """Of each seed the mean over the kinds: 2, 4 and 6; seed 3 has one kind only."""
    write_kinds(tmp_path, {"imp": {0: 1, 1: 4, 2: 9, 3: 50}, "erk": {0: 3, 1: 4, 2: 3}})
    write_kinds(tmp_path, {"imp": {0: 7, 1: 7, 2: 7}}, recipe="soft_activation")
    found = report([tmp_path])
    (tost,) = (row for _, row in found.pooled.frame.iterrows())
    assert (tost.recipe, tost.kinds, tost.seeds) == ("tost", 2, 3)
    # Deviations -2, 0, 2: the error is 2 / √3.
    assert (tost.gain, tost.gain_sem) == pytest.approx((0.04, 0.02 / math.sqrt(3)))
    # t is 4 / (2 / √3), and 4.3027 is its 97.5 % point with 2 degrees of freedom.
    assert tost.gain_high - tost.gain == pytest.approx(4.3027 * 0.02 / math.sqrt(3), rel=1e-4)
    assert tost.p == pytest.approx(2 * stats.t.sf(2 * math.sqrt(3), 2))
    assert pooled_head(found.pooled)[:4] == [
        "recipe",
        "kinds of tickets",
        "seeds",
        "gain over vanilla",
    ]
    (line,) = pooled_cells(found.pooled)
    assert line == ["tost", "2", "3", "+4.00 ± 1.15", "-0.97 to +8.97", "0.074"]
    assert "This is post hoc" in found.pooled.about[0] and len(found.pooled.about) == 1


def test_recipes_of_fewer_kinds_are_said_to_be_so(tmp_path):
    write_kinds(tmp_path, {each: {0: 1, 1: 2} for each in ("imp", "erk", "snip")})
    write_kinds(tmp_path, {each: {0: 1, 1: 2} for each in ("imp", "erk")}, recipe="soft_activation")
    found = report([tmp_path]).pooled
    assert rows(found, "recipe", "kinds") == [("soft_activation", 2), ("tost", 3)]
    assert "different numbers of kinds" in found.about[1]


def test_one_kind_of_tickets_is_not_pooled(tmp_path):
    assert report([write_study(tmp_path / "one")]).pooled is None
    assert report([write_study(tmp_path / "two", (0.75, 0.8))]).pooled is not None


def test_each_recipe_is_pooled_at_its_chosen_rate(tmp_path):
    for rate, points in ((0.1, 1), (0.2, 5)):
        runs = {each: {0: points, 1: points + 1} for each in ("imp", "erk")}
        write_kinds(tmp_path, runs, learning_rate=rate)
        for ticket in sorted(tmp_path.glob("ticket_*")):
            _, method, seed = ticket.name.split("_")
            more = {"test": 0.5, "seed": int(seed), "learning_rate": rate}
            write_run(tmp_path / f"{method}_{seed}_vanilla_{rate}", ticket, **more)
    found = report([tmp_path])
    assert found.tables[0].chosen == ["learning_rate"]
    assert rows(found.pooled, "recipe", "kinds", "gain") == [("tost", 2, pytest.approx(0.055))]


def test_rates_of_which_none_is_chosen_are_not_pooled(tmp_path):
    """Each with tickets of its own, which cannot choose."""
    for rate in (0.1, 0.2):
        for method in ("imp", "erk"):
            place = tmp_path / f"{method}_{rate}" / "ticket"
            ticket = write_ticket(place, 0, method=method, learning_rate=rate)
            for recipe in ("vanilla", "tost"):
                folder = ticket.parent / recipe
                write_run(folder, ticket, recipe, learning_rate=rate)
    found = report([tmp_path])
    assert not found.tables[0].chosen and found.pooled is None


def test_the_pooled_table_is_on_the_page_and_beside_it(tmp_path, undrawn):
    page = tmp_path / "report.html"
    found = report([write_study(tmp_path / "runs", (0.75, 0.8))])
    write(found, page, flops=False)
    text = page.read_text()
    assert text.index("All settings") < text.index("All kinds of tickets together (post hoc)")
    assert "kinds of tickets</button>" in text
    assert (tmp_path / "report" / "pooled.csv").read_text().startswith("recipe,kinds,seeds,gain")
    lines = (tmp_path / "report" / "pooled.md").read_text().splitlines()
    assert lines[0].startswith("| recipe | kinds of tickets | seeds |")
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[2].startswith("| tost | 2 | 3 | +2.00 ± 0.58 |")
    write(found, page, flops=False)  # over its own


def write_rates(runs, dev):
    """Vanilla on a ticket a seed: rate → dev accuracy of each seed in percent."""
    for seed in range(len(next(iter(dev.values())))):
        ticket = write_ticket(runs / f"ticket_{seed}", seed)
        for rate, accuracies in dev.items():
            accuracy = accuracies[seed] / 100
            more = {"dev_accuracy": accuracy, "seed": seed, "learning_rate": rate}
            write_run(runs / f"{rate}_{seed}", ticket, **more)


@pytest.mark.parametrize(
    ("dev", "chosen", "ties"),
    [
        # The differences are 1, 2, 3: 2 is above their error, 1 / √3.
        ({0.1: (81, 82, 83), 0.2: (80, 80, 80)}, 0.1, []),
        # 3, 0, -1: 2/3 is below 1.2.
        ({0.1: (83, 80, 79), 0.2: (80, 80, 80)}, 0.1, [0.2]),
        ({0.1: (80, 80), 0.2: (80, 80), 0.4: (70, 70)}, 0.1, [0.2]),
        ({0.1: (80,), 0.2: (80.1,)}, 0.2, []),
        ({0.1: (80,), 0.2: (80,)}, 0.1, [0.2]),
    ],
    ids=["none", "near", "equal", "one seed", "one seed, equal"],
)
def test_ties_are_listed(tmp_path, dev, chosen, ties):
    write_rates(tmp_path, dev)
    (table, _) = report([tmp_path]).tables
    assert rows(table, "learning_rate", "tied") == [(chosen, bool(ties))]
    tried = table.tried
    assert list(tried["learning_rate"][tried["tied"]]) == ties
    (line,) = cells(table)
    assert ("~" in line[3]) == bool(ties) and "With ~ others are as good" in table.about[0]
