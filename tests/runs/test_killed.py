"""Runs that are killed go on to the same bits, wherever they were."""

import importlib
import itertools
import os
import signal

import numpy as np
import pytest

import lottery_tf as lt
from lottery_tf.cli.main import TO_BE_REQUEUED, main
from lottery_tf.common.files import read_json, read_json_lines
from lottery_tf.finding import gmp
from lottery_tf.runs.folder import load_saved_model
from lottery_tf.training.checkpoints import Checkpoints, _Saving

DATA = ("--dataset=digits", "--batch_size=300", "--data_seed=3")
TRAINING = ("--train_for=10it", "--optimizer=adam", "--learning_rate=0.01", "--width=8")
# XLA compiles for longer than these train; of two steps an execution an epoch has two, of four.
TINY = (*DATA, *TRAINING, "--nojit_compile", "--steps_per_execution=2", "--rewind_to=2it")
METHODS = {
    "imp": ("--rounds=2",),
    "imp by learning rate": ("--rounds=1", "--rewind=learning_rate"),
    "gmp": ("--method=gmp", "--sparsity=0.8", "--gmp_frequency=3it", "--regrow"),
    "gmp by learning rate": ("--method=gmp", "--sparsity=0.8", "--rewind=learning_rate"),
    "snip": ("--method=snip", "--sparsity=0.8"),
    "imp in float16": ("--rounds=1", "--precision=mixed_float16"),
}
METHODS["gmp by learning rate"] += ("--gmp_frequency=3it", "--gmp_end=7it")
BOTH = ["tf_keras", "keras"]


class Killed(BaseException):
    """In the place of a power cut."""


@pytest.fixture
def killed(monkeypatch):
    """(words, moments) → runs the command again and again, each time killed when as many executions
    have run as the next moment says, until there is none or it ends; returns how often."""

    def run(words, moments):
        def kill(method, left):
            def counted(self, *args, **kwargs):
                if not next(left):
                    raise Killed
                return method(self, *args, **kwargs)

            return counted

        for times, moment in enumerate([*moments, 10**6]):
            left = iter(range(moment - 1, -1, -1))
            with monkeypatch.context() as patch:
                for name in ("on_train_batch_end", "on_epoch_end"):
                    patch.setattr(_Saving, name, kill(getattr(_Saving, name), left))
                try:
                    assert main(words) == 0
                    return times
                except Killed:
                    continue
        return None

    return run


def numbers(rows):
    """What has to be the same. The sum of a SavedModel is not in one process, nor is time, nor
    sums with these."""
    others = ("seconds", "dense_model_sha256", "sha256")
    return [{name: value for name, value in row.items() if name not in others} for row in rows]


def same_models(one, other):
    pairs = (load_saved_model(each).get_weights() for each in (one, other))
    for mine, theirs in zip(*pairs, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def same_runs(one, other):
    for ticket in sorted((one / "tickets").iterdir()):
        mine, theirs = lt.Ticket.load(ticket), lt.Ticket.load(other / "tickets" / ticket.name)
        assert mine.masks == theirs.masks
        for name, value in mine.weights.items():
            np.testing.assert_array_equal(value, theirs.weights[name])
    rows = [numbers(read_json_lines(run / "metrics.jsonl")) for run in (one, other)]
    assert rows[0] == rows[1]
    same_models(one / "dense_model", other / "dense_model")
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in other.iterdir())


@pytest.mark.e2e
@pytest.mark.parametrize("its_keras", BOTH)
@pytest.mark.parametrize("method", METHODS)
def test_find_killed_again_and_again(method, its_keras, tmp_path, killed):
    """After each checkpoint, and between two."""
    words = ["find", *TINY, *METHODS[method], f"--keras={its_keras}"]
    words += ["--checkpoint_every=2it"]
    assert main([*words, f"--out={tmp_path / 'whole'}"]) == 0
    out = tmp_path / "killed"
    assert killed([*words, f"--out={out}"], [2, 4, 3, 7, 5]) >= 3
    same_runs(tmp_path / "whole", out)
    assert not (out / "checkpoint").exists()


@pytest.fixture(scope="module")
def ticket(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "find"
    assert main(["find", *TINY, "--rounds=1", f"--out={out}"]) == 0
    return out / "tickets" / "round_01"


@pytest.mark.e2e
@pytest.mark.parametrize("recipe", ["label_smoothing", "tost,distillation", "soft_activation"])
def test_retrain_killed_again_and_again(recipe, ticket, tmp_path, killed):
    """Within an epoch too, whose loss and accuracy go on to be counted."""
    words = ["retrain", f"--ticket={ticket}", f"--recipe={recipe}", "--checkpoint_every=2it"]
    assert main([*words, f"--out={tmp_path / 'whole'}"]) == 0
    assert killed([*words, f"--out={tmp_path / 'killed'}"], [2, 3, 2]) >= 2
    one, other = tmp_path / "whole", tmp_path / "killed"
    rows = [numbers(read_json_lines(run / "metrics.jsonl")) for run in (one, other)]
    assert rows[0] == rows[1] and len(rows[0]) == 2
    results = [read_json(run / "result.json") for run in (one, other)]
    assert numbers(results[:1]) == numbers(results[1:])
    same_models(one / "model", other / "model")


@pytest.mark.e2e
@pytest.mark.parametrize("its_keras", BOTH)
def test_noise_goes_on_where_it_was(its_keras, tmp_path, killed):
    """Of a network from a file, whose Dropout and GaussianNoise draw other numbers each step."""
    of = importlib.import_module(its_keras)
    of.utils.set_random_seed(0)
    layers = of.layers
    model = of.Sequential([
        *(of.Input((8, 8, 1)), layers.Flatten(), layers.GaussianNoise(0.5)),
        *(layers.Dense(8, "relu"), layers.Dropout(0.5), layers.Dense(10)),
    ])  # fmt: skip
    lt.strip(lt.prune(model, "omp", 0.5).build()).save(tmp_path / "model.keras")
    found = tmp_path / "find"
    path = f"--model_path={tmp_path / 'model.keras'}"
    assert main(["find", *TINY[:-1], "--method=from_model", path, f"--out={found}"]) == 0
    ticket = f"--ticket={found / 'tickets' / 'round_01'}"
    words = ["retrain", ticket, "--checkpoint_every=2it"]
    assert main([*words, f"--out={tmp_path / 'whole'}"]) == 0
    assert killed([*words, f"--out={tmp_path / 'killed'}"], [3]) == 1
    same_models(tmp_path / "whole" / "model", tmp_path / "killed" / "model")


def signalled(monkeypatch, number, at):
    """A signal comes to this process before an execution's end is looked at."""
    look, counter = _Saving._save_if_due, itertools.count(1)

    def then_look(self, *args, **kwargs):
        if next(counter) == at:
            os.kill(os.getpid(), number)
        look(self, *args, **kwargs)

    monkeypatch.setattr(_Saving, "_save_if_due", then_look)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_it(number, ticket, tmp_path, monkeypatch, capfd, lines):
    """With the code that launchers requeue on; Ctrl-C with that of the shell."""
    words = ["retrain", f"--ticket={ticket}", f"--out={tmp_path / 'run'}"]
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        signalled(patch, number, at=3)
        code = main(words)
    assert code == (TO_BE_REQUEUED if number == signal.SIGTERM else 130)
    told = capfd.readouterr().err.strip().splitlines()
    assert told[-1].endswith("; the same command goes on where it was.")
    assert "Asked to stop: saved at step 8." in lines
    saved = read_json(tmp_path / "run" / "checkpoint" / "state.json")
    assert saved["position"] == 8 and len(saved["rows"]) == 1
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert main(words) == 0


def test_a_signal_outside_a_training_ends_it_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lottery_tf.runs.find.load_data", lambda _: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert main(["find", *TINY, "--rounds=1", f"--out={tmp_path / 'run'}"]) == TO_BE_REQUEUED
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("every", ["4it", "1ep"])
def test_checkpoints_come_as_often_as_asked(every, tmp_path, monkeypatch):
    positions, save = [], Checkpoints.save

    def noted(self, trainer, state, position=None, metrics=()):
        positions.append((state.facts["round"], position, bool(metrics)))
        return save(self, trainer, state, position, metrics)

    monkeypatch.setattr(Checkpoints, "save", noted)
    words = ["find", *TINY, "--rounds=1", f"--checkpoint_every={every}"]
    assert main([*words, f"--out={tmp_path}"]) == 0
    # A round goes from step 2 to step 10; an epoch has four steps.
    assert positions == [(n, step, False) for n in range(2) for step in (6, 10)]


@pytest.mark.e2e
def test_gmp_is_saved_though_its_parts_are_shorter_than_that(tmp_path, monkeypatch):
    """And a signal while masks are computed is heeded where there is a checkpoint."""
    saved, save = [], Checkpoints.save

    def noted(self, trainer, state, position=None, metrics=()):
        saved.append((state.facts["part"], position))
        return save(self, trainer, state, position, metrics)

    monkeypatch.setattr(Checkpoints, "save", noted)
    words = ["find", *TINY, "--steps_per_execution=1", "--method=gmp", "--sparsity=0.8"]
    words += ["--gmp_frequency=2it", "--gmp_end=8it", "--checkpoint_every=3it"]
    assert main([*words, f"--out={tmp_path / 'run'}"]) == 0
    assert [position for part, position in saved if part == "masks"] == [5, 8]
    with monkeypatch.context() as patch:
        prune, calls = gmp.prune_to, itertools.count(1)

        def told(*args):
            if next(calls) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return prune(*args)

        patch.setattr(gmp, "prune_to", told)
        assert main([*words, f"--out={tmp_path / 'told'}"]) == TO_BE_REQUEUED
    assert read_json(tmp_path / "told" / "checkpoint" / "state.json")["part"] == "masks"
    assert main([*words, f"--out={tmp_path / 'told'}"]) == 0
    same_runs(tmp_path / "run", tmp_path / "told")
