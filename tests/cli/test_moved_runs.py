"""Runs go on wherever they, their tickets and their data lie: what they are is told by content."""

import json
import shutil

import numpy as np
import pytest
from conftest import TINY
from idx_files import write_idx
from test_sweep_command import Here

from lottery_tf.cli import sweep
from lottery_tf.cli.main import main
from lottery_tf.common.files import read_json, write_record
from lottery_tf.data import digits
from lottery_tf.runs import find as find_stage

pytestmark = pytest.mark.e2e
ROUNDS = "--rounds=1"


def write_digits(folder, first=0):
    """320 of the digits and 100 test images, as a folder of IDX files."""
    folder.mkdir(parents=True)
    source = digits.read()
    train, t10k = (
        (taken.images[..., 0], taken.labels)
        for split, count in ((source.train, 320), (source.test, 100))
        for taken in [split.take(np.arange(first, first + count))]
    )
    write_idx(folder, train=train, t10k=t10k)
    return folder


def find(out, data):
    return main(["find", *TINY, ROUNDS, "--dataset=idx", f"--data_dir={data}", f"--out={out}"])


def retrain(out, found, data):
    """Distilled, so that there is a teacher to be found, beside the ticket."""
    ticket = found / "tickets" / "round_01"
    words = [f"--ticket={ticket}", f"--data_dir={data}", "--recipe=distillation", f"--out={out}"]
    return main(["retrain", *words])


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory):
    """Where data, a run of find and one of retrain lie that nobody has moved."""
    top = tmp_path_factory.mktemp("left alone")
    write_digits(top / "data")
    assert find(top / "find", top / "data") == 0
    assert retrain(top / "retrain", top / "find", top / "data") == 0
    return top


def moved(left_alone, tmp_path):
    """The same elsewhere, under other names."""
    names = {"data": "images", "find": "tickets of mine", "retrain": "distilled"}
    return [shutil.copytree(left_alone / old, tmp_path / new) for old, new in names.items()]


def of(run):
    """What a run has come to, without seconds and places, and what a file of TensorFlow's adds."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result = run / "result.json"
    if result.exists():
        metrics.append(json.loads(result.read_text()))
    for row in metrics:
        for name in ("seconds", "ticket", "tweaks", "dense_model_sha256", "sha256"):
            row.pop(name, None)
    arrays = {file: np.load(file) for file in sorted(run.glob("tickets/*/*.npz"))}
    return metrics, [{n: each[n].tobytes() for n in each.files} for each in arrays.values()]


def test_a_find_goes_on(left_alone, tmp_path, monkeypatch):
    write_digits(tmp_path / "data")
    write = find_stage.write_json_lines

    def write_and_stop(path, rows, **how):
        write(path, rows, **how)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(find_stage, "write_json_lines", write_and_stop)
        assert find(tmp_path / "run", tmp_path / "data") == 130
    run, data = (
        (tmp_path / "run").rename(tmp_path / "a"),
        (tmp_path / "data").rename(tmp_path / "b"),
    )
    assert find(run, data) == 0
    assert of(run) == of(left_alone / "find")
    assert len(of(run)[0]) == 2 and of(run)[1]


def test_a_retraining_goes_on_at_its_checkpoint(left_alone, tmp_path, broken_off):
    data, found, _ = moved(left_alone, tmp_path)
    with broken_off(2):  # the first epoch is in the checkpoint
        assert retrain(tmp_path / "begun", left_alone / "find", left_alone / "data") == 130
    assert (tmp_path / "begun" / "checkpoint").exists()
    run = (tmp_path / "begun").rename(tmp_path / "gone on")
    assert retrain(run, found, data) == 0
    assert of(run) == of(left_alone / "retrain")


@pytest.mark.parametrize("stage", ["find", "retrain"])
def test_a_finished_run_is_known(stage, left_alone, tmp_path, capfd):
    data, found, retrained = moved(left_alone, tmp_path)
    told = find(found, data) if stage == "find" else retrain(retrained, found, data)
    assert told == 0 and "is finished" in capfd.readouterr().out


@pytest.mark.parametrize("stage", ["find", "retrain"])
def test_other_data_are_another_run(stage, left_alone, tmp_path, capfd):
    """Whatever their folder is called."""
    _, found, retrained = moved(left_alone, tmp_path)
    run = found if stage == "find" else retrained
    others = write_digits(tmp_path / "others" / "data", first=1)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert (find(run, others) if stage == "find" else retrain(run, found, others)) == 2
    said = capfd.readouterr().err
    assert "the data in data_dir, " in said and f"are not those in '{others}' here" in said
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_data_that_have_changed_in_their_place_are_refused(left_alone, tmp_path, capfd):
    data, found, _ = moved(left_alone, tmp_path)
    config = read_json(found / "config.json")
    write_record(found / "config.json", config | {"data_dir": str(data)})
    rows = (found / "metrics.jsonl").read_text().splitlines(keepends=True)
    (found / "metrics.jsonl").write_text(rows[0])  # the last round is to come
    shutil.rmtree(data)
    write_digits(data, first=1)
    assert find(found, data) == 2
    assert "Expected the data that" in capfd.readouterr().err
    assert (found / "metrics.jsonl").read_text() == rows[0]


def test_a_run_of_an_older_release_has_its_path_alone(left_alone, tmp_path, capfd):
    data, found, _ = moved(left_alone, tmp_path)
    config = read_json(found / "config.json")
    assert len(config.pop("data_sha256")) == 64
    write_record(found / "config.json", config)
    assert find(found, data) == 2
    assert "data_dir is '" in capfd.readouterr().err
    assert find(found, left_alone / "data") == 0
    assert "is finished" in capfd.readouterr().out


def test_a_report_of_runs_whose_tickets_moved_apart(left_alone, tmp_path, capfd):
    """The report knows the ticket by its sum, wherever below the folders it is."""
    _, found, retrained = moved(left_alone, tmp_path / "one")
    shutil.copytree(found, tmp_path / "two" / "deep" / "found")
    shutil.rmtree(found)
    config = read_json(retrained / "config.json")
    config["ticket"] = str(tmp_path / "gone" / "tickets" / "round_01")
    write_record(retrained / "config.json", config)
    assert main(["report", str(tmp_path), f"--out={tmp_path / 'report.html'}"]) == 0
    said = capfd.readouterr()
    assert "imp" in said.out and "gone or changed" not in said.out + said.err


def test_a_sweep_goes_on_and_reports(tmp_path, monkeypatch, capfd):
    """Two tickets without training and two short retrainings, in two parts."""
    monkeypatch.setattr(sweep, "LocalEngine", Here)
    words = [*TINY, "--train_for=1ep", "--methods=erk", "--sparsities=0.5", "--dataset=idx"]
    write_digits(tmp_path / "data")
    begun = [f"--data_dir={tmp_path / 'data'}", f"--out={tmp_path / 'sweep'}"]
    assert main(["sweep", *words, *begun, "--seeds=0"]) == 0
    data = (tmp_path / "data").rename(tmp_path / "images")
    out = (tmp_path / "sweep").rename(tmp_path / "mine")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json*")}
    assert main(["sweep", *words, f"--data_dir={data}", f"--out={out}", "--seeds=0,1"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert len([*out.glob("retrain/*/result.json")]) == len([*out.glob("find/*")]) == 2
    capfd.readouterr()
    assert main(["report", str(out), f"--out={tmp_path / 'report.html'}"]) == 0
    said = capfd.readouterr()
    assert "dataset" not in said.out and "gone or changed" not in said.out + said.err
