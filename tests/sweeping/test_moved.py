"""A sweep's runs keep the names with which it began, wherever data and teachers lie now."""

import json
import shutil

import pytest

from lottery_tf.cli.flags import parse
from lottery_tf.cli.grid import trials_of
from lottery_tf.cli.settings import SWEEP
from lottery_tf.common.files import sha256
from lottery_tf.sweeping import moved
from lottery_tf.sweeping.moved import named_as_begun

SUMS = {"/old": "one", "/older": "one", "/new": "one", "/others": "two", "/others too": "two"}


@pytest.fixture(autouse=True)
def sums(monkeypatch):
    """What lies in folders, without any data."""
    monkeypatch.setattr(moved, "content_sha256", lambda dataset, folder, **options: SUMS[folder])


def trials(*words, dataset="idx", recipes="vanilla,label_smoothing"):
    words = (f"--dataset={dataset}", f"--recipes={recipes}", "--rounds=1", *words)
    return trials_of(parse([*words, "--out=unused"], SWEEP))


def begin(out, found, data_sha256="one"):
    """What a sweep leaves of each trial, as far as names are concerned."""
    for trial in found:
        folder = out / trial.folder
        folder.mkdir(parents=True)
        config = trial.experiment.describe() | {"data_sha256": data_sha256}
        if trial.kind == "retrain" and (teacher := trial.parameters.get("distillation_teacher")):
            config |= {"teacher": teacher, "teacher_sha256": sha256(teacher)}
        (folder / "config.json").write_text(json.dumps(config))


def names(found):
    return [trial.folder for trial in found]


def test_the_same_data_elsewhere_are_the_same_trials(tmp_path):
    old, new = trials("--data_dir=/old"), trials("--data_dir=/new")
    assert not set(names(old)) & set(names(new))
    begin(tmp_path, old)
    asked = named_as_begun(new, tmp_path)
    assert names(asked) == names(old)
    assert {trial.experiment.data.data_dir for trial in asked} == {"/new"}
    retrain = asked[-1]
    assert retrain.needs == (asked[0].folder,) and retrain.found.folder == asked[0].folder
    assert retrain.kin == old[-1].kin and retrain.choice == old[-1].choice


def test_what_has_begun_after_a_move_has_those_names_too(tmp_path):
    """The runs of seed 1 have noted the path that they had; their names are of the first."""
    begin(tmp_path, trials("--data_dir=/older", "--seeds=0"))
    (later,) = (t for t in trials("--data_dir=/old", "--seeds=1") if t.kind == "find")
    (named,) = named_as_begun([later], tmp_path)
    begin_as = tmp_path / named.folder
    begin_as.mkdir(parents=True)
    config = later.experiment.describe() | {"data_sha256": "one"}
    (begin_as / "config.json").write_text(json.dumps(config))
    first = trials("--data_dir=/older", "--seeds=0,1")
    for path in SUMS:
        asked = named_as_begun(trials(f"--data_dir={path}", "--seeds=0,1"), tmp_path)
        same = names(asked) == names(first)
        assert same == (SUMS[path] == "one"), path


def test_other_data_are_other_trials(tmp_path):
    begin(tmp_path, trials("--data_dir=/old"))
    others = trials("--data_dir=/others")
    assert names(named_as_begun(others, tmp_path)) == names(others)


def test_data_that_are_asked_for_together_stay_apart(tmp_path):
    words = ("--vary=data_dir:/old,/others", "--data_dir=/old")
    old = trials(*words)
    begin(tmp_path, [t for t in old if t.experiment.data.data_dir == "/old"])
    begin(tmp_path, [t for t in old if t.experiment.data.data_dir == "/others"], "two")
    new = named_as_begun(trials("--vary=data_dir:/new,/others too", words[1]), tmp_path)
    assert names(new) == names(old)
    both = trials("--vary=data_dir:/new,/old", words[1])  # the same twice, as is asked
    assert names(named_as_begun(both, tmp_path)) == names(both)


@pytest.mark.parametrize("before", ["--data_dir=/tfds", "--nodeterministic"])
def test_a_dataset_with_a_name_is_known_by_it(before, tmp_path):
    """Of older releases too, which noted no sum; and where no folder was named."""
    old = trials(before, dataset="cifar10")
    begin(tmp_path, old, None)
    assert names(named_as_begun(trials("--data_dir=/x", dataset="cifar10"), tmp_path)) == names(old)
    other = trials("--data_dir=/x", dataset="mnist")
    assert names(named_as_begun(other, tmp_path)) == names(other)


def test_a_teacher_elsewhere(tmp_path):
    for name, content in (("old.keras", "a"), ("others.keras", "b")):
        (tmp_path / name).write_text(content)
    out = tmp_path / "sweep"

    def taught(path):
        words = ("--data_dir=/old", f"--distillation_teacher={tmp_path / path}")
        return trials(*words, recipes="vanilla,distillation")

    begin(out, taught("old.keras"))
    shutil.copy(tmp_path / "old.keras", tmp_path / "new.keras")
    assert names(named_as_begun(taught("new.keras"), out)) == names(taught("old.keras"))
    for path in ("others.keras", "gone.keras"):  # one that is gone its own trial tells
        kept = named_as_begun(taught(path), out)
        assert names(kept) == names(taught(path))
        assert names(kept)[:2] == names(taught("old.keras"))[:2]


def test_a_teacher_and_the_data_elsewhere_together(tmp_path):
    (tmp_path / "old.keras").write_text("a")
    (tmp_path / "new.keras").write_text("a")
    old, new = (
        trials(
            f"--data_dir=/{name}",
            f"--distillation_teacher={tmp_path / name}.keras",
            recipes="vanilla,distillation",
        )
        for name in ("old", "new")
    )
    begin(tmp_path / "sweep", old)
    assert names(named_as_begun(new, tmp_path / "sweep")) == names(old)


def test_a_damaged_run_hides_no_other(tmp_path):
    old = trials("--data_dir=/old")
    begin(tmp_path, old)
    (tmp_path / old[-1].folder / "config.json").write_text("{")
    assert names(named_as_begun(trials("--data_dir=/new"), tmp_path)) == names(old)
