"""lottery-tf sweep on digits: in this process, and (e2e) in processes of its own."""

import contextlib
import io
import json
import os
import re
import shutil
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import lottery_tf as lt
from lottery_tf.cli import sweep
from lottery_tf.cli.flags import parse
from lottery_tf.cli.grid import trials_of
from lottery_tf.cli.main import main
from lottery_tf.cli.settings import SWEEP
from lottery_tf.common.files import read_json, write_json, write_record
from lottery_tf.common.log import log
from lottery_tf.runs.retrain import complete_recipe, retrain_run
from lottery_tf.sweeping import attempt as attempts
from lottery_tf.sweeping.attempt import attempt
from lottery_tf.sweeping.local import LocalEngine
from lottery_tf.sweeping.scheduling import Progress
from lottery_tf.tickets.ticket import Ticket

WORDS = (
    *("--train_for=1ep", "--batch_size=64", "--width=30", "--learning_rate=0.1", "--rounds=2"),
    *("--recipes=vanilla,label_smoothing", "--sparsities=0.36", "--processes=1"),
    *("--nojit_compile", "--steps_per_execution=1"),
)
FILES = ("config", "result")


class Here:
    """An engine that calls at once, in this process: each of its own would import TensorFlow."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *args):
        future, handler = Future(), log.handlers[0]
        # To where the trial's log is; else it would go where pytest looks.
        with open(1, "w", closefd=False) as out, open(2, "w", closefd=False) as err:
            before = handler.setStream(err)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                future.set_result(function(*args))
            handler.setStream(before)
        return future


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Sweeps run in this process but where processes are what a test is about."""
    monkeypatch.setattr(sweep, "LocalEngine", Here)


@pytest.fixture
def processes(here, monkeypatch):
    monkeypatch.setattr(sweep, "LocalEngine", LocalEngine)


@pytest.fixture
def files_alone(monkeypatch):
    """Retrainings that write what a sweep reads, and do not train: 0.1 is the better rate."""

    def write(out, ticket, recipe, experiment, reinit, test, **how):
        recipe = complete_recipe(recipe, ticket, experiment)
        run = retrain_run(out, ticket, recipe, experiment, reinit)
        run.check()
        run.begin()
        seed, rate = experiment.training.seed, experiment.training.learning_rate
        dev = 0.8 + seed / 100 if rate == 0.1 else 0.2
        result = {"recipe": recipe.name, "tweaks": recipe.describe(), "seed": seed}
        result |= {"dev_accuracy": dev, "ticket": str(ticket), "reinit": reinit}
        of, times = Ticket.load(ticket), {"seconds": 1.0, "epochs": 1}
        result |= {"sparsity": of.sparsity, "sparsity_total": of.sparsity_total, **times}
        (out / "best.npz").unlink(missing_ok=True)
        if test:
            result["test_accuracy"] = dev - 0.1
        else:
            np.savez(out / "best.npz", **{"a/kernel": np.ones(1)})
        if how["how"].tensorboard:
            (out / "tensorboard").mkdir(exist_ok=True)
        write_json(out / "result.json", result)
        return result

    monkeypatch.setattr("lottery_tf.runs.retrain.retrain_ticket", write)


@pytest.fixture(params=["alone", pytest.param("trained", marks=pytest.mark.e2e)])
def files(request):
    """Likewise, or those that train."""
    if request.param == "alone":
        request.getfixturevalue("files_alone")
    return request.param


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a finished sweep: one run of find, two of retrain."""
    out = tmp_path_factory.mktemp("runs") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "LocalEngine", Here)
        assert main(["sweep", *WORDS, f"--out={out}"]) == 0
    return out


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.e2e
def test_the_runs_are_those_of_find_and_retrain(swept, tmp_path):
    (find,) = (swept / "find").iterdir()
    label_smoothing, vanilla = sorted((swept / "retrain").iterdir())
    assert label_smoothing.name.startswith("label_smoothing_")
    assert vanilla.name.startswith("vanilla_")
    assert main(["find", *WORDS[:5], *WORDS[-2:], f"--out={tmp_path / 'find'}"]) == 0
    ticket = tmp_path / "find" / "tickets" / "round_02"
    assert main(["retrain", f"--ticket={ticket}", f"--out={tmp_path / 'run'}"]) == 0
    for there, here in ((find, tmp_path / "find"), (vanilla, tmp_path / "run")):
        theirs, mine = (read_json(d / "config.json") for d in (there, here))
        for config in (theirs, mine):
            config.pop("ticket", None), config.pop("ticket_sha256", None)
        assert theirs == mine
    one, other = (json.loads((d / "result.json").read_text()) for d in (vanilla, tmp_path / "run"))
    assert one["sparsity"] == other["sparsity"]


@pytest.mark.e2e
def test_in_a_process_of_its_own_it_computes_the_same(swept, processes, tmp_path):
    assert main(["sweep", *WORDS, f"--out={tmp_path}"]) == 0
    assert {path.relative_to(swept) for path in contents(swept)} == {
        path.relative_to(tmp_path) for path in contents(tmp_path)
    }
    for path in tmp_path.glob("retrain/*/result.json"):
        mine, here = (
            json.loads((out / path.relative_to(tmp_path)).read_text()) for out in (tmp_path, swept)
        )
        for name in ("seconds", "ticket", "sha256"):
            mine.pop(name), here.pop(name)
        assert [mine.pop(name) for name in ("tweaks", "recipe")] == [
            here.pop(name) for name in ("tweaks", "recipe")
        ]
        assert mine == pytest.approx(here, rel=1e-5)


def test_the_same_command_again_runs_nothing(swept, capfd):
    before = contents(swept)
    assert main(["sweep", *WORDS, f"--out={swept}"]) == 0
    assert contents(swept) == before
    said = capfd.readouterr().out
    assert "--sparsities, 0.36 becomes some 36.00 % (round 2)." in said
    assert (
        "1 find run (1 there already) and 2 retrain runs (2 there already): 0 runs to do." in said
    )
    assert f"Next: lottery-tf report {swept} --out={swept / 'report.html'}" in said
    assert "Finished." in said and re.search("retrain +│ +2 │ +0 │ +0 │", said)


def test_more_of_the_grid_runs_only_what_is_missing(files, swept, tmp_path, capfd):
    out = shutil.copytree(swept, tmp_path / "sweep")
    before = contents(out)
    words = [word.replace("label_smoothing", "label_smoothing,soft_activation") for word in WORDS]
    assert main(["sweep", *words, f"--out={out}"]) == 0
    after = contents(out)
    assert {path: after[path] for path in before} == before
    said = capfd.readouterr().out
    assert said.count("retrain/") == said.count("retrain/soft_activation_") == 1
    assert "(1 there already) and 3 retrain runs (2 there already): 1 run to do." in said
    assert "[4 of 4]" in said
    assert len(list((out / "find").iterdir())) == 1


def trial_of(kind, *words):
    """The first trial of a kind, and what it runs on."""
    flags = parse((*WORDS, *words), SWEEP)
    found = [trial for trial in trials_of(flags) if trial.kind == kind]
    return found[0], flags.settings(sweep.DeviceSettings)


def test_what_a_trial_says_is_in_its_log(tmp_path, monkeypatch, capfd):
    trial, devices = trial_of("find")
    monkeypatch.setattr(type(trial), "run", lambda *_: os.system("echo from a child"))
    with capfd.disabled():
        assert attempt(trial, tmp_path, devices).error is None
    assert "from a child" in attempts.log_of(tmp_path, trial.folder).read_text()
    assert "from a child" not in capfd.readouterr().out


def test_a_full_disk_hides_no_error(tmp_path, monkeypatch, capfd):
    def fail(*_):
        raise RuntimeError("No space left")

    trial, devices = trial_of("find")
    monkeypatch.setattr(type(trial), "run", fail)
    monkeypatch.setattr(attempts, "log_of", lambda *_: Path("/dev/full"))
    with capfd.disabled():
        before = os.fstat(1), os.fstat(2)
        assert attempt(trial, tmp_path, devices).error == "RuntimeError: No space left"
        assert all(map(os.path.samestat, before, (os.fstat(1), os.fstat(2))))


def test_which_trials_choose_which_wait_and_what_the_table_says(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text(
        "seeds: [0, 3]\nrecipes: [vanilla]\ntune_seeds: [0]\nlearning_rate: 0.1\n"
        "cells:\n  plain: {}\n  tuned: {tune: {learning_rate: [0.1, 0.2]}}\n"
    )
    trials = trials_of(parse(["--rounds=1", f"--grid={file}"], SWEEP))
    of = [
        (trial.experiment.training.seed, trial.experiment.training.learning_rate)
        for trial in trials
        if sweep._chooses(trial, [0])
    ]
    assert of == [(0, 0.1), (0, 0.2)]
    (waiting,) = (trial for trial in trials if sweep._waits(trial, [0]))
    training = waiting.experiment.training
    assert (training.seed, training.learning_rate) == (3, 0.2)
    (best,) = (
        t for t in trials if sweep._chooses(t, [0]) and t.experiment.training.learning_rate == 0.1
    )
    chosen = sweep._chosen(trials, {best.folder}, [0])
    assert len(chosen) == len(trials) - 1 and waiting not in chosen

    table, said = sweep._Table(), io.StringIO()
    table.progress = Progress(trials, {trials[0].folder})
    table.then = "then seeds 3 with what dev images choose"
    Console(file=said, width=80).print(table)
    assert re.search("find +│ +1 │ +0 │ +1 │", said.getvalue())
    assert re.search("retrain +│ +0 │ +0 │ +4 │", said.getvalue())
    assert table.then in said.getvalue()


def test_a_part_of_the_grid_without_a_seed_that_chooses_is_a_mistake(tmp_path, capfd):
    file = tmp_path / "grid.yaml"
    text = (
        "rounds: 1\nrecipes: [vanilla]\ntune: {learning_rate: [0.1, 0.2]}\ntune_seeds: [0]\n"
        "cells:\n  a: {seeds: [0, 1]}\n  b: {width: 8, seeds: [5]}\n"
    )
    file.write_text(text)
    assert main(["sweep", f"--grid={file}", f"--out={tmp_path / 'out'}"]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "one of --tune_seeds, 0, among the --seeds of each part" in said
    assert "vanilla (imp, round 1 seed 5 learning_rate 0.1)" in said
    assert not (tmp_path / "out").exists()
    # The other part's may choose for it where it is of the same kind.
    file.write_text(text.replace("width: 8, ", ""))
    flags = parse([f"--grid={file}"], SWEEP)
    assert not sweep._undecidable(trials_of(flags), [0])


def test_the_line_of_a_ticket_with_an_empty_layer(tmp_path):
    """Its warning is in the trial's log; the line is what one sees."""
    trial, _ = trial_of("find")
    folder = tmp_path / trial.folder / "tickets" / "round_02"
    folder.mkdir(parents=True)
    for mask, said in (([0, 1], "1 s"), ([0, 0], "1 s  nothing is left of a/kernel")):
        lt.Masks({"a/kernel": mask, "b/kernel": [1]}).save(folder / "masks.npz")
        line = sweep._line(trial, attempts.Outcome(1.0, 0.5), tmp_path)
        assert line == f"{trial.folder}  2 rounds  seed 0  dev 50.00 %  {said}"


def test_mistakes_are_hopeless_and_other_errors_are_not(tmp_path, monkeypatch, capfd):
    trial, devices = trial_of("retrain")
    outcome = attempt(trial, tmp_path, devices)  # its ticket is not there
    assert outcome.hopeless and "ticket" in outcome.error

    def fail(*_):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(type(trial), "run", fail)
    with capfd.disabled():
        outcome = attempt(trial, tmp_path, devices)
    assert not outcome.hopeless and outcome.error == "RuntimeError: first line"
    assert "second line" in attempts.log_of(tmp_path, trial.folder).read_text()


def test_failed_trials_are_told_and_the_exit_code_is_1(tmp_path, capfd):
    out = tmp_path / "sweep"
    words = [*WORDS, "--recipes=vanilla", "--train_for=2it", "--rewind_to=3it"]
    assert main(["sweep", *words, f"--out={out}"]) == 1
    said = capfd.readouterr()
    assert "2 runs of 2 failed" in said.err and "Traceback" not in said.err
    assert "logs/find_imp_" in said.err.replace("\n", "")
    for told in (said.out, said.err):
        assert ": Expected --rewind_to before the end of training" in told.replace("\n", " ")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--processes=0", "--processes of 1 or more"),
        ("--retries=-1", "--retries of 0 or more"),
        ("--cpus_per_trial=0", "--cpus_per_trial above 0"),
        ("--engine=slurm", "--engine takes local or ray"),
        ("--strategy=multi_worker", "--strategy=none or mirrored"),
    ],
)
def test_mistakes(tmp_path, capfd, word, expected):
    assert main(["sweep", *WORDS, word, f"--out={tmp_path / 'out'}"]) == 2
    assert expected in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.e2e
def test_an_interrupted_sweep_ends_its_processes(processes, tmp_path, monkeypatch, capfd):
    """While a trial is at work and another is done."""
    pids = []
    took = sweep.Progress.took

    def interrupt(self, kind, seconds):
        took(self, kind, seconds)
        if self.left("find"):
            raise KeyboardInterrupt  # not a signal, which a shell's background processes ignore

    monkeypatch.setattr(sweep.Progress, "took", interrupt)
    close = sweep.LocalEngine.close

    def closed(self):
        pids.extend(worker._process.pid for worker in self._all if worker._process)
        close(self)

    monkeypatch.setattr(sweep.LocalEngine, "close", closed)
    out = tmp_path / "sweep"
    words = [*WORDS, "--recipes=vanilla", "--seeds=0,1", "--rounds=1", "--sparsities=0.2"]
    words += ["--processes=2"]
    assert main(["sweep", *words, f"--out={out}"]) == 130
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    monkeypatch.undo()
    monkeypatch.setattr(sweep, "LocalEngine", Here)
    assert main(["sweep", *words, f"--out={out}"]) == 0
    assert len(list((out / "retrain").iterdir())) == 2


def test_more_rounds_go_on_with_the_same_run(files, swept, tmp_path, capfd):
    """IMP to a higher sparsity: tickets and retrainings that are there stay."""
    out = tmp_path / "sweep"
    shutil.copytree(swept, out)
    (find,) = (out / "find").iterdir()
    before = contents(out)
    rows = (find / "metrics.jsonl").read_text()
    words = [*WORDS, "--recipes=vanilla", "--sparsities=0.36,0.48"]
    assert main(["sweep", *words, f"--out={out}"]) == 0
    said = capfd.readouterr().out
    assert said.count("find/") == 1 and said.count("retrain/") == 1
    after = contents(out)
    changed = {path.relative_to(out).parts[0] for path in before if before[path] != after[path]}
    assert changed == {"find", "logs"}
    tickets = [path for path in before if "tickets" in path.parts]
    assert tickets and all(before[path] == after[path] for path in tickets)
    assert (find / "metrics.jsonl").read_text().startswith(rows)
    assert json.loads((find / "config.json").read_text())["rounds"] == 3
    assert len(list((find / "tickets").iterdir())) == 4


@pytest.mark.e2e
def test_only_what_dev_images_chose_is_measured_on_the_test_images(files, swept, tmp_path, capfd):
    out = tmp_path / "sweep"
    shutil.copytree(swept / "find", out / "find")
    words = [*WORDS, "--seeds=0,1", "--tune=learning_rate:0.0001,0.1", f"--out={out}"]
    words += ["--tune_seeds=0"]
    assert main(["sweep", *words, "--nomeasure"]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "Finished but for what --tune has to choose" in said and "then seeds" not in said

    assert main(["sweep", *words, "--tune_seeds=2"]) == 2
    assert "--tune_seeds among --seeds, 0, 1, got 2" in " ".join(capfd.readouterr().err.split())

    def results():
        found = {}
        for run in (out / "retrain").iterdir():
            config, result = (json.loads((run / f"{f}.json").read_text()) for f in FILES)
            found[result["recipe"], config["learning_rate"], result["seed"]] = result
            assert (run / "best.npz").exists() == ("test_accuracy" not in result)
        return found

    before = results()
    assert len(before) == 4 and not any("test_accuracy" in each for each in before.values())
    # Where a run fails nothing is chosen; elsewhere it is.
    config = next(out.glob("retrain/label_smoothing_*/config.json"))
    text = config.read_text()
    config.write_text(text.replace('"epsilon": 0.1', '"epsilon": 0.3'))
    assert main(["sweep", *words]) == 1
    said = " ".join(capfd.readouterr().err.split())
    assert "1 run of 7 failed" in said and "nothing is chosen for their recipes" in said
    tested = {run for run, each in results().items() if "test_accuracy" in each}
    assert tested == {("vanilla", 0.1, 0), ("vanilla", 0.1, 1)}
    config.write_text(text)
    assert main(["sweep", *words]) == 0
    after = results()
    assert after.keys() - before.keys() == {
        (recipe, 0.1, 1) for recipe in ("vanilla", "label_smoothing")
    }
    assert {rate for (_, rate, _), each in after.items() if "test_accuracy" in each} == {0.1}
    if files == "trained":  # as if they had never been tuned
        (vanilla,) = (path for path in (swept / "retrain").iterdir() if "vanilla" in path.name)
        direct = json.loads((vanilla / "result.json").read_text())
        for name in ("seconds", "ticket", "tweaks"):
            direct.pop(name)
        direct.pop("sha256", None)  # of its own metrics and model
        assert {name: after["vanilla", 0.1, 0][name] for name in direct} == pytest.approx(direct)
    again = contents(out)
    assert main(["sweep", *words]) == 0
    assert contents(out) == again
    capfd.readouterr()
    assert main(["report", str(out), "--tune_seeds=0"]) == 0
    said = capfd.readouterr().out
    assert "0.1*" in said and "0.0001" not in said and "mean dev accuracy of 1 seed." in said
    assert main(["report", str(out)]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "0.1*" in said and "0.0001" not in said and "chosen by 1 of 2 seeds" in said


def test_what_another_part_of_the_grid_has_as_it_is_can_be_chosen(files, swept, tmp_path):
    """It has been measured by then, and is better; so the other one is not."""
    out, file = tmp_path / "sweep", tmp_path / "grid.yaml"
    shutil.copytree(swept, out)
    file.write_text("cells:\n  plain: {}\n  tuned: {tune: {learning_rate: [0.0001, 0.1]}}\n")
    assert main(["sweep", *WORDS, f"--grid={file}", "--tensorboard", f"--out={out}"]) == 0
    tested = {}
    for run in (out / "retrain").iterdir():
        config, result = (json.loads((run / f"{f}.json").read_text()) for f in FILES)
        tested.setdefault(config["learning_rate"], []).append("test_accuracy" in result)
        assert (run / "tensorboard").exists() == (config["learning_rate"] == 0.0001)
    assert tested == {0.1: [True, True], 0.0001: [False, False]}


def test_a_run_of_other_settings_in_its_folder_is_not_taken(swept, tmp_path, capfd):
    """As after a release with another default."""
    out = tmp_path / "sweep"
    shutil.copytree(swept, out)
    config = next(out.glob("retrain/label_smoothing_*/config.json"))
    settings = read_json(config)
    assert settings["tweaks"]["label_smoothing"] == {"epsilon": 0.1}
    write_record(config, settings | {"tweaks": {"label_smoothing": {"epsilon": 0.3}}})
    before = contents(out)
    assert main(["sweep", *WORDS, f"--out={out}"]) == 1
    said = " ".join(capfd.readouterr().err.split())
    assert "another: label_smoothing_epsilon is 0.3 there and 0.1 here" in said
    assert f"Or remove {config.parent.relative_to(out)} to run it anew." in said
    assert contents(out) == before


def test_a_file_with_zeros(files, swept, tmp_path, capfd):
    """from_model, whose network has no name of ours, retrained and distilled."""
    (vanilla,) = (path for path in (swept / "retrain").iterdir() if "vanilla" in path.name)
    (dense,) = swept.glob("find/*/dense_model")
    out = tmp_path / "sweep"
    words = [
        *WORDS[:2],
        "--nojit_compile",
        "--methods=from_model",
        f"--model_path={vanilla / 'model'}",
    ]
    words += ["--recipes=vanilla,distillation", "--processes=1"]
    assert main(["sweep", *words, f"--out={out}"]) == 2
    assert "--distillation_teacher with distillation" in capfd.readouterr().err
    words += [f"--distillation_teacher={dense}"]
    assert main(["sweep", *words, f"--out={out}"]) == 0
    results = [json.loads(path.read_text()) for path in out.glob("retrain/*/result.json")]
    assert sorted(each["recipe"] for each in results) == ["distillation", "vanilla"]
    assert len({each["sparsity"] for each in results}) == 1 and results[0]["sparsity"] > 0.3
