"""No writer deletes or replaces what it did not write, and each says so before its work begins.

Beside others' files in a run's folder, and in the folder beside a report's page, the writers work
without touching them: those are no places of theirs.
"""

import functools
import io
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from networks import mlp, prove_here, random_masks
from report_runs import write_study

import lottery_tf as lt
from lottery_tf import reporting
from lottery_tf.cli import inspect, quickstart
from lottery_tf.cli.flags import parse
from lottery_tf.cli.main import main
from lottery_tf.cli.settings import INSPECT, QUICKSTART
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import sha256, whole_folder, write_json, write_json_lines, write_text
from lottery_tf.common.ownership import Kind, stranger
from lottery_tf.data import DataSettings
from lottery_tf.exporting import write_exports
from lottery_tf.exporting.saved_model import SAVED_MODEL
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.graph.compat import keras
from lottery_tf.models import ModelSettings
from lottery_tf.reporting import reports as writing
from lottery_tf.runs import export as export_stage
from lottery_tf.runs.find import find, find_run
from lottery_tf.runs.folder import Run
from lottery_tf.runs.retrain import retrain_run, retrain_ticket
from lottery_tf.runs.settings import Experiment, HowToRun
from lottery_tf.runs.tensorboard import Board
from lottery_tf.sweeping.trials import FindTrial
from lottery_tf.training.checkpoints import CHECKPOINT
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.tweaks.recipe import Recipe

EXPERIMENT = Experiment(DataSettings(), ModelSettings(), TrainingSettings(train_for="1ep"))
FINDING = FindingSettings(rounds=1)


class Reached(Exception):
    """The work would begin."""


def any_content(file):
    return True


def reached(*_, **__):
    raise Reached


def net():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the writers have made before, by kind; and a ticket and a finished run to work from."""
    folder = tmp_path_factory.mktemp("made")
    model = mlp()
    info = {"settings": EXPERIMENT.describe(), "rewind_step": 0, "method": "imp", "round": 1}
    lt.Ticket.of(model, random_masks(model), info).save(folder / "ticket")
    lt.export(net(), folder / "model")
    (folder / "run").mkdir()
    write_json(folder / "run" / "result.json", {"test_accuracy": 1})
    write_json(folder / "run" / "config.json", {"command": "retrain"})
    source = {"result_sha256": sha256(folder / "run" / "result.json")}
    with pytest.MonkeyPatch.context() as patch:
        prove_here(patch)
        facts = write_exports(net(), folder / "export", images=np.ones((2, 4)), source=source)
    facts["saved_model"]["bytes"] += 1  # as where it is to be made again
    write_json(folder / "export" / "export.json", facts)
    lt.Masks({"a/kernel": np.ones(3)}).save(folder / "masks")
    with whole_folder(folder / "checkpoint", CHECKPOINT) as inside:
        for name in ("weights.npz", "best.npz"):
            np.savez(inside / name, **{"a/kernel": np.zeros(3)})
        np.savez(inside / "optimizer.npz", **{"first_step": 0, "_variables/0": 1})
        write_json(inside / "state.json", {"rows": [], "best": 0, "seconds": 1})
    Board(folder, "step").rows([{"step": 1, "loss": 0.5}])
    np.savez(folder / "best.npz", **{"a/kernel": np.zeros(3)})
    write_json_lines(folder / "rounds", [{"round": 0, "sparsity": 0.0}])
    write_json_lines(folder / "epochs", [{"epoch": 1, "step": 7}])
    write_json(folder / "result", {"recipe": "vanilla", "sparsity": 0.5, "test_accuracy": 1})
    ticket = str(folder / "ticket")
    for name in ("facts.png", "facts.svg"):
        assert main(["inspect", ticket, f"--plot={folder / name}"]) == 0
    assert main(["inspect", ticket, f"--json={folder / 'facts.json'}"]) == 0
    runs = write_study(folder / "study")
    reporting.write(reporting.report([runs]), folder / "report.html", flops=False)
    rows = quickstart.summary(
        [{"round": 1, "recipe": "vanilla", "seed": 0, "sparsity": 0.5, "test_accuracy": 0.5}]
    )
    write_json(folder / "summary.json", rows)
    write_text(folder / "summary.md", quickstart.markdown(rows))
    return folder


def finding(out, made, monkeypatch, tensorboard=False):
    monkeypatch.setattr("lottery_tf.runs.find.load_data", reached)
    find_run(out, EXPERIMENT, FINDING).begin()
    find(out, EXPERIMENT, FINDING, how=HowToRun(tensorboard=tensorboard))


def retraining(out, made, monkeypatch, **options):
    monkeypatch.setattr("lottery_tf.runs.retrain.load_data", reached)
    work = (made / "ticket", Recipe("vanilla"), EXPERIMENT)
    retrain_run(out, *work).begin()
    retrain_ticket(out, *work, **options)


def sweeping(out, *_):
    trial = FindTrial(EXPERIMENT, FINDING)
    find_run(out / trial.folder, EXPERIMENT, FINDING).begin()
    assert not trial.finished(out)


def quickly(out, made, monkeypatch):
    monkeypatch.setattr(quickstart, "run_find", reached)
    Run(out, "quickstart", {"seeds": ["0"]}).begin()
    for name in ("find", "round_11_tost"):
        write_json(out / "seed_0" / name / "config.json", {})
    quickstart.run(parse([f"--out={out}", "--seeds=0"], QUICKSTART))


def reported(page, made, monkeypatch):
    monkeypatch.setattr(writing, "draw", reached)
    reporting.write(study(made / "study"), page, flops=False)


@functools.cache
def study(folder):
    return reporting.report([folder])


def inspected(flag):
    def write(path, made, monkeypatch):
        monkeypatch.setattr(lt.Ticket, "load", reached)
        inspect.run(parse([str(made / "ticket"), f"--{flag}={path}"], INSPECT, "TICKET"))

    return write


def exporting(out, made, monkeypatch):
    monkeypatch.setattr(export_stage, "load_saved_model", reached)
    export_stage.export_run(made / "run", out)


def ends(write):
    """A writer whose work is short is done where others reach theirs."""

    def writes(*given):
        write(*given)
        raise Reached

    return writes


def at(out):
    """Of a place below a run, the run's folder: the writer is given that."""
    return lambda write: lambda path, *rest: write(path.parents[out], *rest)


def ticket(path, *_):
    lt.Ticket.of(mlp(), random_masks(mlp())).save(path)


# Where it writes, what of its own is there, and the writer.
FOLDERS = {
    "Ticket.save": ("place", "ticket", ends(ticket)),
    "export": ("place", "model", ends(lambda path, *_: lt.export(net(), path))),
    "lottery-tf export": ("place", "export", exporting),
    "find's tickets": ("run/tickets/round_01", "ticket", at(1)(finding)),
    "find's next ticket": ("run/next_ticket", "ticket", at(0)(finding)),
    "find's dense model": ("run/dense_model", "model", at(0)(finding)),
    "find's events": (
        "run/tensorboard",
        "tensorboard",
        at(0)(lambda *given: finding(*given, tensorboard=True)),
    ),
    "a sweep's finds": (
        f"{FindTrial(EXPERIMENT, FINDING).folder}/dense_model",
        "model",
        at(2)(ends(sweeping)),
    ),
    "retrain's model": ("run/model", "model", at(0)(retraining)),
    "retrain's checkpoint": ("run/checkpoint", "checkpoint", at(0)(retraining)),
    "retrain's events": (
        "run/tensorboard",
        "tensorboard",
        at(0)(lambda *given: retraining(*given, how=HowToRun(tensorboard=True))),
    ),
    "quickstart's export": ("run/export", "export", at(0)(quickly)),
    "quickstart's dense model": ("run/seed_0/find/dense_model", "model", at(2)(quickly)),
    "quickstart's retrainings": ("run/seed_0/round_11_tost/model", "model", at(2)(quickly)),
}
FILES = {
    "Masks.save": ("masks.npz", "masks.npz", ends(lambda path, *_: lt.Masks({}).save(path))),
    "find's rounds": ("run/metrics.jsonl", "rounds", at(0)(finding)),
    "retrain's epochs": ("run/metrics.jsonl", "epochs", at(0)(retraining)),
    "retrain's result": ("run/result.json", "result", at(0)(ends(retraining))),
    "retrain's best": ("run/best.npz", "best.npz", at(0)(retraining)),
    "quickstart's numbers": ("run/summary.json", "summary.json", at(0)(quickly)),
    "quickstart's table": ("run/summary.md", "summary.md", at(0)(quickly)),
    "inspect --json": ("facts.json", "facts.json", inspected("json")),
    "inspect --plot": ("facts.png", "facts.png", inspected("plot")),
    "inspect --plot=.svg": ("facts.svg", "facts.svg", inspected("plot")),
    "report": ("a.html", "report.html", reported),
    **{
        f"report's {name}": (
            f"a/{name}",
            f"report/{name}",
            lambda path, *given: reported(path.parent.with_suffix(".html"), *given),
        )
        for name in ("runs.csv", "table.csv", "table.md", "gain_method_imp.png")
    },
}


def tree(folder):
    """Everything below a folder: a link's target, a file's content, None for a folder."""

    def content(path):
        if path.is_symlink():
            return os.readlink(path)
        return path.read_bytes() if path.is_file() else None

    return {path: content(path) for path in folder.rglob("*")}


def thesis(folder):
    (folder / "thesis").mkdir(parents=True)
    (folder / "thesis" / "chapter.tex").write_text("years of work")


def lay(made, name, place):
    place.parent.mkdir(parents=True, exist_ok=True)
    copy = shutil.copytree if (made / name).is_dir() else shutil.copy
    copy(made / name, place)


def _marker(folder, text):
    marked = ("ticket.json", "saved_model.pb", "export.json", "state.json")
    for name in marked:
        if (folder / name).exists():
            (folder / name).write_text(text)
            return
    next(folder.glob("events*")).write_text(text)


def link_to(folder, others):
    shutil.rmtree(folder)
    thesis(others)
    (others / "ticket.json").write_text("{}")
    folder.symlink_to(others)


# Each is given the place, where the writer's own older work is, and a free place.
FOREIGN = {
    "a file": lambda place, _: (place / "notes.txt").write_text("mine"),
    "a folder": lambda place, _: thesis(place),
    "an empty folder": lambda place, _: (place / "mine").mkdir(),
    "a file of the marker's name": lambda place, _: _marker(place, '{"id": 1}'),
    "a list of the marker's name": lambda place, _: _marker(place, "[1]"),
    "a link to a folder": lambda place, others: link_to(place, others),
    "a link by a file manager's name": lambda place, others: (
        others.write_text("mine"),
        (place / ".DS_Store").symlink_to(others),
    ),
    "a link within": lambda place, others: (
        thesis(others),
        (place / "mine").symlink_to(others),
    ),
    "a file in its place": lambda place, _: (shutil.rmtree(place), place.write_text("mine")),
}


def refused(write, folder, *given):
    before = tree(folder)
    with pytest.raises(UsageError) as error:
        write(*given)
    after = tree(folder)
    assert {path: after.get(path, "gone") for path in before} == before
    told = str(error.value)
    assert told.count("Expected") == 1 and "\n" not in told and "choose another" in told.lower()


def begun(place, write, tmp_path, made, monkeypatch):
    """A run's config.json is there, as it is when a run is gone on with."""
    if not place.startswith(("run/", "find/")):
        return
    with pytest.raises((Reached, UsageError)), monkeypatch.context() as patch:
        write(tmp_path / place, made, patch)


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("writer", FOLDERS)
def test_what_others_left_in_a_folder_is_not_deleted(writer, foreign, made, tmp_path, monkeypatch):
    place, own, write = FOLDERS[writer]
    begun(place, write, tmp_path, made, monkeypatch)
    shutil.rmtree(tmp_path / place, ignore_errors=True)
    lay(made, own, tmp_path / place)
    FOREIGN[foreign](tmp_path / place, tmp_path / "others")
    refused(write, tmp_path, tmp_path / place, made, monkeypatch)


@pytest.mark.parametrize("inside", ["variables", "assets"])
@pytest.mark.parametrize(
    "writer", [name for name, (_, own, _) in FOLDERS.items() if own in ("model", "export")]
)
def test_nor_in_the_folders_of_a_saved_model(writer, inside, made, tmp_path, monkeypatch):
    place, own, write = FOLDERS[writer]
    begun(place, write, tmp_path, made, monkeypatch)
    shutil.rmtree(tmp_path / place, ignore_errors=True)
    lay(made, own, tmp_path / place)
    below = tmp_path / place / ("saved_model" if own == "export" else "") / inside
    thesis(below)
    refused(write, tmp_path, tmp_path / place, made, monkeypatch)


@pytest.mark.parametrize(
    "name",
    [
        "assets/mine.txt",
        "variables/variables.data-00000-of-00009",
        "variables/variables.data-00001-of-00001",
        "variables/variables.index",
        "keras_metadata.pb",
        "fingerprint.pb",
    ],
)
def test_nor_a_file_that_its_name_alone_would_make_one_of_it(name, made, tmp_path):
    lay(made, "model", tmp_path / "place")
    (tmp_path / "place" / name).write_text("years of work")
    refused(lt.export, tmp_path, net(), tmp_path / "place")


def test_the_assets_of_a_saved_model_are_its_own(tmp_path):
    place, words = tmp_path / "place", tmp_path / "words.txt"
    words.write_text("a\nb\n")
    text = keras.Input((1,), dtype=tf.string)
    lookup = keras.layers.StringLookup(vocabulary=str(words), output_mode="multi_hot")
    model = keras.Model(text, keras.layers.Dense(2)(lookup(text)))
    lt.export(model, place)
    assert os.listdir(place / "assets") == ["words.txt"]
    lt.export(net(), place)
    assert os.listdir(place / "assets") == []


@pytest.mark.parametrize("count", [1, 3])
def test_variables_may_be_in_several_files(count, tmp_path):
    """As the saves of several devices have them. One file more is another's."""
    place = tmp_path / "place"
    (place / "variables").mkdir(parents=True)
    index = b"\0\0\2\x08" + bytes([count])  # an empty key, a value of 2 bytes, its field 1
    (place / "variables" / "variables.index").write_bytes(index)
    for number in range(count):
        (place / "variables" / f"variables.data-{number:05}-of-{count:05}").touch()
    kind = Kind("variables", SAVED_MODEL.files)
    assert stranger(place, kind) is None
    other = place / "variables" / f"variables.data-{count:05}-of-{count:05}"
    other.touch()
    assert stranger(place, kind) == other


@pytest.mark.parametrize("writer", FOLDERS)
def test_what_is_the_writers_own_is_no_hindrance(writer, made, tmp_path, monkeypatch):
    place, own, write = FOLDERS[writer]
    begun(place, write, tmp_path, made, monkeypatch)
    shutil.rmtree(tmp_path / place, ignore_errors=True)
    lay(made, own, tmp_path / place)
    with pytest.raises(Reached):
        write(tmp_path / place, made, monkeypatch)


def viewed(folder):
    """As file managers leave it and the folders in it."""
    for each in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (each / name).write_text("how the folder is shown")


@pytest.mark.parametrize("writer", FOLDERS)
def test_nor_is_what_file_managers_leave_in_it(writer, made, tmp_path, monkeypatch):
    place, own, write = FOLDERS[writer]
    if place.startswith("run/"):
        (tmp_path / "run").mkdir()
        viewed(tmp_path)
    begun(place, write, tmp_path, made, monkeypatch)
    shutil.rmtree(tmp_path / place, ignore_errors=True)
    lay(made, own, tmp_path / place)
    viewed(tmp_path)
    with pytest.raises(Reached):
        write(tmp_path / place, made, monkeypatch)


def _file(path, content):
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def _archive(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def _linked(path, others):
    others.write_text("mine")
    path.unlink()
    path.symlink_to(others)


FOREIGN_FILES = {
    "a text": lambda place, _: _file(place, b"years of work"),
    "JSON": lambda place, _: _file(place, b'{"id": 1}\n'),
    "a picture": lambda place, _: _file(place, b"\x89PNG\r\n\x1a\ntEXtSoftware\0Matplotlib"),
    "arrays": lambda place, _: _file(place, _archive(data=np.zeros(3))),
    "boolean arrays": lambda place, _: _file(place, _archive(data=np.ones(3, bool))),
    "no arrays": lambda place, _: _file(place, _archive()),
    "a link": _linked,
    "a folder": lambda place, _: (place.unlink(), thesis(place)),
}


@pytest.mark.parametrize("foreign", FOREIGN_FILES)
@pytest.mark.parametrize("writer", FILES)
def test_what_others_left_in_a_files_place_is_not_replaced(
    writer, foreign, made, tmp_path, monkeypatch
):
    place, own, write = FILES[writer]
    if writer == "report's gain_method_imp.png" and foreign == "a picture":
        (tmp_path / "a").mkdir()  # beside a table of others
        (tmp_path / "a" / "runs.csv").write_text("a,b\n")
    begun(place, write, tmp_path, made, monkeypatch)
    lay(made, own, tmp_path / place)
    FOREIGN_FILES[foreign](tmp_path / place, tmp_path / "others")
    refused(write, tmp_path, tmp_path / place, made, monkeypatch)


@pytest.mark.parametrize("writer", FILES)
def test_an_older_file_of_the_writers_is_no_hindrance(writer, made, tmp_path, monkeypatch):
    place, own, write = FILES[writer]
    begun(place, write, tmp_path, made, monkeypatch)
    lay(made, own, tmp_path / place)
    with pytest.raises(Reached):
        write(tmp_path / place, made, monkeypatch)


def test_a_report_works_beside_the_files_of_others(made, tmp_path):
    """They have other names. Its own are replaced, those of the release before marks too."""
    shutil.copytree(made / "report", tmp_path / "a")
    for name in ("notes.txt", "accuracy_mine.png"):
        (tmp_path / "a" / name).write_text("mine")
    marked = tmp_path / "a" / "gain_method_imp.png"
    older = marked.read_bytes().replace(b"Software\0lottery_tf", b"Software\0Matplotlib version3")
    marked.write_bytes(older)
    reporting.write(reporting.report([made / "study"]), tmp_path / "a.html", flops=False)
    assert (tmp_path / "a" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "a" / "accuracy_mine.png").read_text() == "mine"
    assert b"Software\0lottery_tf" in marked.read_bytes()[:2048]


def test_a_saved_model_of_another_program_is_not_replaced(tmp_path):
    net().save(tmp_path / "keras")
    tf.saved_model.save(tf.Module(), str(tmp_path / "tf"))
    for path in (tmp_path / "keras", tmp_path / "tf"):
        refused(lt.export, tmp_path, net(), path)


def test_what_appears_during_the_work_is_not_replaced(tmp_path):
    kind = Kind("a model", {"weights": any_content})
    place = tmp_path / "place"
    told = pytest.raises(UsageError, match=r"a model; it holds something else, .*notes\.txt")
    with told, whole_folder(place, kind) as folder:
        (folder / "weights").write_text("new")
        place.mkdir()
        (place / "notes.txt").write_text("mine")
    assert (place / "notes.txt").read_text() == "mine" and os.listdir(tmp_path) == ["place"]


def test_a_damaged_ticket_is_no_ticket_of_ours(made, tmp_path):
    shutil.copytree(made / "ticket", tmp_path / "ticket")
    (tmp_path / "ticket" / "weights.npz").write_bytes(b"of another ticket")
    refused(lt.Ticket.load(made / "ticket").save, tmp_path, tmp_path / "ticket")
    (tmp_path / "ticket" / "weights.npz").unlink()  # a copy that was broken off
    lt.Ticket.load(made / "ticket").save(tmp_path / "ticket")


def test_a_finished_run_deletes_nothing(made, tmp_path):
    """best.npz goes when the run is measured; what others left in its place stays."""
    out = tmp_path / "run"
    work = (made / "ticket", Recipe("vanilla"), EXPERIMENT)
    retrain_run(out, *work).begin()
    shutil.copy(made / "result", out / "result.json")
    (out / "best.npz").write_text("mine")
    before = sha256(out)
    assert retrain_ticket(out, *work) == json.loads((made / "result").read_text())
    assert sha256(out) == before
    shutil.copy(made / "best.npz", out / "best.npz")
    retrain_ticket(out, *work)
    assert not (out / "best.npz").exists()


@pytest.mark.parametrize(
    ("names", "foreign"),
    [
        ((), None),
        (("a.txt",), None),
        (("a.txt", "sub/b1.txt"), None),
        (("a.txt", "b1.txt"), "b1.txt"),
        (("a.txt", "sub/a.txt"), "sub/a.txt"),
        (("a.txt", "sub/sub/b1.txt"), "sub/sub"),
        (("sub/b1.txt",), "sub"),
        ((".DS_Store",), None),
        (("a.txt", "Desktop.ini", "sub/Thumbs.db"), None),
        (("a.txt", "DS_Store"), "DS_Store"),
        (("a.txt", "notes/.DS_Store"), "notes"),
        (("a.txt", ".DS_Store/notes.txt"), ".DS_Store"),
    ],
)
def test_places_are_those_of_the_kind(names, foreign, tmp_path):
    kind = Kind("a kind", {"a.txt": any_content, "sub/b*.txt": any_content}, marker="a.txt")
    for name in names:
        write_text(tmp_path / name, name)
    found = stranger(tmp_path, kind)
    assert found == (foreign and tmp_path / foreign)
