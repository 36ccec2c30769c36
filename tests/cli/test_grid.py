"""Which trials a grid has; none of them runs."""

import dataclasses
from pathlib import Path

import pytest

from lottery_tf.cli import grid
from lottery_tf.cli.flags import parse
from lottery_tf.cli.settings import SWEEP as SETTINGS
from lottery_tf.common.errors import UsageError
from lottery_tf.sweeping import trials
from lottery_tf.tweaks.soft_labels import LabelSmoothing

FLAGS = Path(__file__).parents[2] / "flags"


def made(*words):
    """The trials of a command line: those that find tickets, those that retrain them."""
    found = grid.trials_of(parse(words, SETTINGS))
    finds = [trial for trial in found if trial.kind == "find"]
    assert found[: len(finds)] == finds
    assert len({trial.folder for trial in found}) == len(found)
    folders = {trial.folder for trial in finds}
    assert all(folders.issuperset(trial.needs) for trial in found[len(finds) :])
    return finds, found[len(finds) :]


def test_one_run_of_imp_serves_every_recipe_and_sparsity():
    finds, retrains = made("--recipes=vanilla,tost", "--sparsities=0.9,0.98", "--seeds=0,5")
    assert [(f.finding.method, f.finding.rounds) for f in finds] == [("imp", 18)] * 2  # 0.8**18
    seeds = [(f.experiment.training.seed, f.experiment.data.data_seed) for f in finds]
    assert seeds == [(0, 0), (5, 5)]
    assert len(retrains) == 2 * 2 * 2
    assert {(r.recipe, r.round) for r in retrains} == {
        (recipe, number) for recipe in ("vanilla", "tost") for number in (10, 18)
    }
    for trial in retrains:
        assert trial.found.experiment == trial.experiment


def test_a_recipe_has_parameters_of_its_own_and_flags_come_before_them():
    words = "--recipes=vanilla,kd_reference,distillation+label_smoothing", "--rounds=1"
    _, (_, reference, ours) = made(*words)
    names = ("distillation_temperature", "distillation_weight")
    assert [reference.parameters[name] for name in names] == [5.0, 0.9]
    assert [ours.parameters[name] for name in names] == [4.0, 0.7]
    assert reference.folder.startswith("retrain/kd_reference_")
    _, (_, reference, ours) = made(*words, "--distillation_weight=0.7")
    assert [reference.parameters[name] for name in names] == [5.0, 0.7]
    _, tuned = made("--recipes=kd_reference", "--rounds=1", "--tune=distillation_weight:0.5,0.9")
    assert [[trial.parameters[name] for name in names] for trial in tuned] == [[5, 0.5], [5, 0.9]]


def test_without_sparsities_the_last_ticket_is_meant():
    finds, retrains = made("--rounds=3")
    assert [find.finding.rounds for find in finds] == [3]
    assert [trial.round for trial in retrains] == [3]
    _, retrains = made("--sparsity=0.5")
    assert [trial.round for trial in retrains] == [4]  # 0.8**4 = 0.41
    finds, retrains = made("--method=snip", "--sparsity=0.7")
    assert [(f.finding.method, f.finding.sparsity) for f in finds] == [("snip", 0.7)]
    assert [trial.round for trial in retrains] == [1]


@pytest.mark.parametrize(
    ("sparsity", "number"), [(0, 0), (0.09, 0), (0.11, 1), (0.2, 1), (0.9, 10), (0.8, 7)]
)
def test_the_nearest_round(sparsity, number):
    """At 0.2 a round: 0.8**10 = 0.107, 0.8**11 = 0.086; 0.8**7 = 0.210, 0.8**8 = 0.168."""
    _, (trial,) = made(f"--sparsities={sparsity}")
    assert trial.round == number


def test_other_methods_beside_imp_prune_as_far():
    finds, retrains = made("--methods=imp,omp,snip", "--sparsities=0.9,0.5")
    exact = [1 - 0.8**10, 1 - 0.8**3]
    found = [(f.finding.method, f.finding.sparsity) for f in finds if f.finding.method != "imp"]
    assert found == [(method, each) for method in ("omp", "snip") for each in exact]
    assert [f.finding.train_tickets for f in finds] == [True, True, True, False, False]
    assert len(retrains) == 3 * 2
    finds, _ = made("--methods=omp,snip", "--sparsities=0.9")
    assert [find.finding.sparsity for find in finds] == [0.9, 0.9]


def test_the_teacher_of_a_mask_that_nothing_was_trained_for():
    """The dense network of the same seed: imp's, or one that is trained for it."""
    finds, retrains = made("--methods=imp,snip", "--recipes=tost+distillation", "--sparsities=0.5")
    imp, snip = finds
    teachers = {trial.found.finding.method: trial.teacher for trial in retrains}
    assert teachers == {"imp": None, "snip": imp}
    assert retrains[1].needs == (snip.folder, imp.folder)
    finds, (trial,) = made("--methods=snip", "--recipes=distillation", "--sparsities=0.5")
    assert trial.teacher.finding.rounds == 0 and trial.teacher in finds
    _, (trial,) = made(
        "--methods=snip",
        *("--recipes=distillation", "--sparsities=0.5", "--distillation_teacher=DIR"),
    )
    assert trial.teacher is None and trial.parameters["distillation_teacher"] == "DIR"
    finds, (trial,) = made("--methods=snip", "--recipes=vanilla", "--sparsities=0.5")
    assert len(finds) == 1 and trial.teacher is None


def test_the_dense_network_is_trained_where_tickets_are_not():
    finds, _ = made(
        *("--methods=snip", "--recipes=distillation", "--sparsities=0.5", "--notrain_tickets")
    )
    trained = {find.finding.method: find.finding.train_tickets for find in finds}
    assert trained == {"imp": True, "snip": False}


def test_runs_of_imp_that_differ_in_their_rounds_are_one(file):
    """The longest one: its tickets are those of the others and more."""
    text = "cells:\n  a: {sparsities: [0.5]}\n  b: {sparsities: [0.9]}\n  c: {sparsities: [0.2]}"
    (find,), retrains = made(file(text))
    assert find.finding.rounds == 10
    assert sorted(trial.round for trial in retrains) == [1, 3, 10]
    _, (alone,) = made("--sparsities=0.5")
    assert alone.folder in {trial.folder for trial in retrains}
    _, (alone,) = made("--sparsity=0.5")  # its last round ends on 0.5, and is no other's
    assert alone.folder not in {trial.folder for trial in retrains}


def test_what_is_varied_and_what_is_tuned():
    """What is varied is so from the finding on; what is tuned only in the retraining."""
    finds, retrains = made(
        *("--rounds=1", "--vary=width:8,16,augment:True,False"),
        "--tune=learning_rate:0.1,0.2,0.4",
    )
    assert [(f.experiment.model.width, f.experiment.data.augment) for f in finds] == [
        (width, augment) for width in (8, 16) for augment in (True, False)
    ]
    assert {find.experiment.training.learning_rate for find in finds} == {
        finds[0].experiment.training.learning_rate
    }
    assert len(retrains) == 4 * 3
    assert finds[1].label == "1 round  seed 0  width 8, augment False"
    assert retrains[1].label.endswith("seed 0  width 8, augment True, learning_rate 0.2")
    assert [r.experiment.training.learning_rate for r in retrains[:3]] == [0.1, 0.2, 0.4]
    for trial in retrains:
        assert trial.experiment.model == trial.found.experiment.model
        assert trial.experiment.data == trial.found.experiment.data


def test_what_is_tuned_is_not_tested_unless_it_is_asked_for(file):
    _, retrains = made("--rounds=1", "--tune=learning_rate:0.1,0.2")
    assert [(trial.test, trial.tuned) for trial in retrains] == [(False, True)] * 2
    text = (
        "rounds: 1\nlearning_rate: 0.1\ncells:\n  a: {tune: {learning_rate: [0.1, 0.2]}}\n  b: {}"
    )
    _, retrains = made(file(text))
    assert [(trial.test, trial.tuned) for trial in retrains] == [(True, True), (False, True)]
    _, (alone,) = made(file(text), "--cells=b")
    assert (alone.test, alone.tuned) == (True, False) and alone.folder == retrains[0].folder


def test_kin_differ_in_the_seed_alone():
    words = ("--methods=imp,snip", "--recipes=vanilla,distillation", "--sparsities=0.5,0.9")
    _, retrains = made(*words, "--seeds=3,4", "--tune=learning_rate:0.1,0.2")
    several = {}
    for trial in retrains:
        several.setdefault(trial.kin, []).append(trial)
    assert len(several) == 2 * 2 * 2 * 2
    for one, other in several.values():
        assert one.folder != other.folder and one.recipe == other.recipe
        seeds = (one.experiment.training.seed, other.found.experiment.data.data_seed)
        assert seeds == (3, 4)
    # Of two rates and two seeds.
    choices = [trial.choice for trial in retrains]
    assert {choices.count(each) for each in choices} == {4} and len(set(choices)) == 2 * 2 * 2


def test_the_seeds_that_choose_are_those_of_the_whole_grid(file):
    text = "tune: {learning_rate: [0.1, 0.2]}\ntune_seeds: [0]\ncells: {a: {width: 8}, b: %s}"
    for more, expected in (("{width: 9}", ("0",)), ("{tune_seeds: [1], tune: {}}", ("0",))):
        assert grid.tuning_seeds(parse([file(text % more)], SETTINGS)) == expected
    words = [file(text % "{width: 9}"), "--tune_seeds=3"]
    assert grid.tuning_seeds(parse(words, SETTINGS)) == ("3",)
    with pytest.raises(UsageError, match="in all cells with --tune, got 0 and 1"):
        grid.tuning_seeds(parse([file(text % "{tune_seeds: [1]}")], SETTINGS))


def test_a_line_says_no_parameter_of_a_tweak_that_a_recipe_lacks():
    finds, (vanilla, one, other) = made(
        *("--rounds=1", "--recipes=vanilla,ghost_skips", "--vary=ghost_skips_share:0.1,0.2")
    )
    assert "share" not in finds[0].label + vanilla.label
    assert "ghost_skips_share 0.1" in one.label and "ghost_skips_share 0.2" in other.label


def test_a_parameter_of_a_tweak_makes_no_second_run_of_the_others():
    _, retrains = made(
        *("--rounds=1", "--recipes=vanilla,label_smoothing"),
        "--tune=label_smoothing_epsilon:0.1,0.2",
    )
    assert [trial.recipe for trial in retrains] == ["vanilla"] + ["label_smoothing"] * 2


@pytest.mark.parametrize("axis", ["--vary=label_smoothing_epsilon:0.1,0.2", "--tune=%s", "--%s"])
def test_a_parameter_of_a_tweak_that_no_recipe_has(axis):
    word = axis % "label_smoothing_epsilon=0.2" if axis == "--%s" else axis
    word = word.replace("%s", "label_smoothing_epsilon:0.1,0.2")
    with pytest.raises(
        UsageError, match="--label_smoothing_epsilon is a parameter of, got vanilla,"
    ):
        made("--rounds=1", "--recipes=vanilla,ghost_skips", word)
    assert made("--rounds=1", "--recipes=vanilla,tost", word)


def test_a_file_may_have_parameters_that_not_all_of_its_cells_have(file):
    text = "label_smoothing_epsilon: 0.2\nrounds: 1\ncells: {a: {}, b: {recipes: [tost]}}"
    assert len(made(file(text), "--cells=a")[1]) == 1


def test_names_of_cells_that_yaml_reads_as_numbers(file):
    words = file("rounds: 1\ncells: {8: {width: 8}, 16: {width: 16}}")
    assert [find.experiment.model.width for find in made(words, "--cells=16")[0]] == [16]
    with pytest.raises(UsageError, match="8, 16, not '9'"):
        made(words, "--cells=9")


def test_names_hang_on_what_differs_from_the_defaults_alone(monkeypatch):
    """A default that is written out, and a setting that a later release adds, change no name."""
    words = ("--rounds=2", "--recipes=label_smoothing", "--width=8", "--reinit")
    names = [trial.folder for one in made(*words) for trial in one]
    assert names == ["find/imp_6eedbba07b", "retrain/label_smoothing_b42d531418"]
    assert names == [trial.folder for one in made(*words, "--scope=global") for trial in one]
    described, usual = trials.describe, trials.defaults
    monkeypatch.setattr(trials, "describe", lambda settings: described(settings) | {"new": 1})
    monkeypatch.setattr(trials, "defaults", lambda *owners: usual(*owners) | {"new": 1})
    assert names[0] == made(*words)[0][0].folder
    for changed in ("--width=9", "--rounds=3", "--seed=1", "--noreinit"):
        assert names[1] != made(*words, changed)[1][0].folder
    _, (trial,) = made(*words)
    other = dataclasses.replace(trial, parameters={"label_smoothing_epsilon": 0.2})
    assert LabelSmoothing().epsilon != 0.2 and other.folder != trial.folder


@pytest.fixture
def file(tmp_path):
    """Writes a YAML file; returns its flag."""

    def write(text):
        (tmp_path / "grid.yaml").write_text(text)
        return f"--grid={tmp_path / 'grid.yaml'}"

    (tmp_path / "base.cfg").write_text("--rounds=2\n--batch_size=32\n--optimizer=adam\n")
    return write


def test_a_file_says_what_the_command_line_says(file):
    words = file(
        "recipes: [vanilla, tost]\nseeds: [0, 1]\nflagfile: base.cfg\nbatch_size: 16\n"
        "vary: {width: [8, 16]}\ntune:\n  learning_rate: [0.1, 0.2]\n"
    )
    written = (
        *("--rounds=2", "--optimizer=adam", "--batch_size=16", "--recipes=vanilla,tost"),
        *("--seeds=0,1", "--vary=width:8,16", "--tune=learning_rate:0.1,0.2"),
    )
    assert made(words) == made(*written)
    assert made(words, "--seeds=3") == made(*written, "--seeds=3")
    assert grid.tuned(parse([words], SETTINGS)) == ["learning_rate"]


ALL = ["unstructured", "2:4", "block:4x1", "block:1x4:max", "channel"]


def test_structures_are_varied_colons_and_all(file):
    """On the command line and in a file, where YAML 1.1 has 2:4 be 124."""
    words = f"--vary=structure:{','.join(ALL)},width:8,16", "--method=snip", "--sparsity=0.5"
    finds, retrains = made(*words)
    found = [(f.finding.structure, f.experiment.model.width) for f in finds if f.kind == "find"]
    assert {each for each in found if each[0] != "unstructured"} == {
        (text, width) for text in ALL[1:] for width in (8, 16)
    }
    assert len(retrains) == 10
    listed = ", ".join(ALL)
    text = f"method: snip\nsparsity: 0.5\nvary: {{structure: [{listed}], width: [8, 16]}}"
    assert made(file(text)) == (finds, retrains)
    assert made(file("method: snip\nstructure: 2:4"))[0][0].finding.structure == "2:4"


def test_dense_networks_have_no_structure():
    """One teaches the tickets of all."""
    words = "--method=snip", "--sparsity=0.5", "--recipes=distillation", "--min_kept=1"
    finds, retrains = made(*words, "--vary=structure:unstructured,channel,2:4")
    assert [f.finding.method for f in finds].count("imp") == 1
    assert len(finds) == 4 and len({trial.teacher.folder for trial in retrains}) == 1
    _, (plain,) = made("--method=snip", "--sparsity=0.5", "--recipes=distillation")
    assert plain.teacher.folder == retrains[0].teacher.folder


def test_two_of_four_ends_where_it_does(file):
    """By each method, and IMP in as many rounds as it takes; a flagfile's rounds are others'."""
    words = (
        "--structure=2:4",
        "--methods=imp,snip",
        "--flagfile=" + str(Path(file("").partition("=")[2]).parent / "base.cfg"),
    )
    for more in ([], ["--sparsities=0.5"]):
        finds, retrains = made(*words, *more)
        assert [(f.finding.method, f.finding.target) for f in finds] == [
            *(("imp", 0.5), ("snip", 0.5)),
        ]
        assert sorted(trial.round for trial in retrains) == [1, 4]  # 0.8**4 = 0.41
        assert {trial.label for trial in retrains} == {
            *("imp, round 4  seed 0", "snip, 50.0 %  seed 0"),
        }
    with pytest.raises(UsageError, match="`structure=2:4`, which has the sparsity 0.5, not 0.9"):
        made(*words, "--sparsities=0.5,0.9")


def test_parts_of_a_file_share_their_runs(file):
    words = file(
        "flagfile: base.cfg\nrecipes: [vanilla]\nseeds: [0]\n"
        "cells:\n  one: {}\n  more: {recipes: [vanilla, label_smoothing]}\n"
        "  wide: {width: 50, sparsities: [0.5]}\n"
    )
    finds, retrains = made(words)
    assert [find.experiment.model.width for find in finds] == [None, 50]
    assert [(r.recipe, r.experiment.model.width) for r in retrains] == [
        *(("vanilla", None), ("label_smoothing", None), ("vanilla", 50)),
    ]
    _, some = made(words, "--cells=wide,one")
    assert {trial.folder for trial in some} == {retrains[0].folder, retrains[2].folder}


GRIDS = {
    # imp of twelve networks, whose dense ones teach; three sparsities, ten recipes; three seeds
    "paper": (36, 12 * 3 * 10 * 3),
    # imp once for three sparsities, eight methods for each; two recipes; three seeds
    "fashion_mnist_masks": (75, 162),
    # vanilla and the search; three rates; five seeds
    "fashion_mnist_rescaled_init": (5, 30),
    # four strengths and vanilla; two rates; three networks; three seeds
    "fashion_mnist_ghost_skips": (9, 90),
    # imp of three networks, five masks of ERK and three dense networks to learn from, the others
    # having imp's; nine recipes on two tickets with seven rates, three with eight, two with nine,
    # two with twelve, one with six, one with five; five seeds. And of the chains three masks of
    # ERK and one imp, at three rates, and ERK's on other data, at two, with four recipes; with one
    # of them in two ways; and three tickets with three recipes at one rate
    "standing": (
        5 * (3 + 5 + 3) + 5 * 5 + 3,
        5 * (2 * 7 + 3 * 8 + 2 * 9 + 2 * 12 + 6 + 5) * 9 + 5 * (4 * 3 * 4 + 2 * 4 + 3) + 3 * 3,
    ),
    # two masks of ERK; two recipes, and skips of two kinds that go in two ways over three shares;
    # three seeds
    "digits_chain12_fades": (6, 2 * (2 + 2 * 2 * 3) * 3),
    # a mask of ERK and a dense network to learn from; vanilla and five recipes; twenty seeds
    "standing_confirmed": (40, 120),
}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        pytest.param(*each, marks=pytest.mark.e2e if each[0] == "standing" else ())  # 4,000 runs
        for each in GRIDS.items()
    ],
)
def test_the_grids_of_the_project(name, counts):
    finds, retrains = made(f"--grid={FLAGS / name}.yaml", "--data_dir=DIR")
    assert (len(finds), len(retrains)) == counts
    assert {path.stem for path in FLAGS.glob("*.yaml")} == GRIDS.keys()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--recipes=vanila"], "vanila.*nearest: vanilla"),
        (["--methods=snap"], "snap.*nearest: snip"),
        (["--sparsities=90"], r"in \[0, 1\).*got '90'"),
        (["--sparsities=high"], r"in \[0, 1\).*got 'high'"),
        (["--vary=wdith:8,16"], "got 'wdith:8'; nearest: width"),
        (["--vary=width"], "FLAG:VALUE.*got 'width'"),
        (["--vary=width:8,width:16"], "width twice"),
        (["--vary=width:8,augmnt:True"], "got 'augmnt:True'; nearest: augment"),
        (["--vary=keep_dense:first,last"], "keep_dense is a list: give a cell"),
        (["--tune=milestones:10ep,20ep"], "milestones is a list: give a cell"),
        (["--vary=seed:0,1"], "got 'seed:0'; --seeds says that"),
        (["--vary=width:wide"], "--width=wide: expected an integer"),
        (["--tune=learning_rate:1,2", "--dev_share=0"], "--dev_share above 0 with --tune"),
        (["--tune=learning_rate:1,2", "--vary=dev_share:0.1,0"], "--dev_share above 0 with --tune"),
        (["--tune=width:8,16"], "got 'width:8'"),
        (["--cells=wide"], "--grid=FILE.yaml with --cells"),
        ([f"--grid={FLAGS / 'standing.yaml'}", "--cells=plane"], "'plane'; nearest: plain"),
        (["--grid=/nowhere.yaml"], "--grid=/nowhere.yaml to be a YAML file"),
        (["--prune_fraction=1"], "`prune_fraction` in"),
    ],
)
def test_mistakes_are_told_before_anything_runs(words, expected):
    with pytest.raises(UsageError, match=expected):
        made("--rounds=1", "--sparsities=0.5", *words)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("recipes: [", "YAML file"),
        ("- vanilla", "flags and their values"),
        ("cells: [vanilla]", "a name for each cell, and flags below"),
        ("cells: {narrow: {wdith: 8}}", "grid.yaml, narrow: .*'--wdith'.*width"),
        ("wdith: 8", "grid.yaml: .*'--wdith'.*width"),
        ("note: 2024-13-45", "YAML file"),
        pytest.param(f"seeds: [{'9' * 5000}]", "YAML file", id="a number of 5,000 digits"),
        pytest.param(f"seeds: {'[' * 3000}{']' * 3000}", "YAML file", id="3,000 lists"),
        ("seeds: [&a [1, 2], [*a, *a]]", "grid.yaml: .*lists within lists"),
    ],
)
def test_mistakes_in_a_file(file, text, expected):
    with pytest.raises(UsageError, match=expected):
        made(file(text))


def test_plus_and_comma_join_tweaks_in_a_file_s_list(file):
    """Beside one another on the command line a comma has to part recipes."""
    both = ["label_smoothing,soft_activation", "tost"]
    for one in ("label_smoothing+soft_activation", "'label_smoothing,soft_activation'"):
        _, retrains = made(file(f"{{recipes: [{one}, tost], rounds: 1}}"))
        assert [trial.recipe for trial in retrains] == both
    _, apart = made("--recipes=label_smoothing,soft_activation", "--rounds=1")
    assert [trial.recipe for trial in apart] == ["label_smoothing", "soft_activation"]


def test_what_the_asked_sparsities_become_is_said(file):
    def said(*words):
        return grid.sparsities_said(parse(words, SETTINGS))

    assert said("--sparsities=0.8,0.95", "--prune_fraction=0.5") == [
        "A round prunes 50 % of what is left (--prune_fraction=0.5). Of --sparsities, 0.8 "
        "becomes some 75.00 % (round 2), 0.95 becomes some 93.75 % (round 4)."
    ]
    two = said("--sparsities=0.5", "--vary=prune_fraction:0.2,0.5,width:8,16")
    assert [line.split("becomes ")[1] for line in two] == [
        "some 48.80 % (round 3).",
        "some 50.00 % (round 1).",
    ]
    # Other methods prune to what is asked for; so does what has a sparsity of its own.
    assert said("--sparsities=0.5", "--methods=snip") == []
    assert said("--sparsities=0.5", "--structure=2:4") == []
    assert said("--rounds=3") == []
    for trial in made("--sparsities=0.8,0.95", "--prune_fraction=0.5")[1]:
        assert trial.round in (2, 4)
