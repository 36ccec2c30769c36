"""What TensorBoard is given."""

import shutil

import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import plugin_data_pb2

from lottery_tf.cli.main import main
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json, read_json_lines
from lottery_tf.masks.masks import Masks
from lottery_tf.runs import retrain as stage
from lottery_tf.runs import tensorboard as boards
from lottery_tf.runs.retrain import retrain_ticket
from lottery_tf.runs.settings import BoardSettings, HowToRun
from lottery_tf.runs.tensorboard import Board
from lottery_tf.training import checkpoints
from lottery_tf.tweaks.recipe import Recipe


def events(folder):
    """Tag → (step, value) of each scalar; and the hyperparameters."""
    scalars, hyperparameters = {}, {}
    for file in sorted((folder / boards.FOLDER).iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                data = value.metadata.plugin_data
                if data.plugin_name == "hparams":
                    found = plugin_data_pb2.HParamsPluginData.FromString(data.content)
                    for name, one in found.session_start_info.hparams.items():
                        hyperparameters[name] = getattr(one, one.WhichOneof("kind"))
                else:
                    number = float(tf.make_ndarray(value.tensor))
                    scalars.setdefault(value.tag, []).append((event.step, pytest.approx(number)))
    return scalars, hyperparameters


def test_rows_are_written_once_and_anew_after_an_interruption(tmp_path):
    rows = [{"round": 0, "dev_accuracy": 0.5}, {"round": 1, "dev_accuracy": 0.25}]
    board = Board(tmp_path, "round")
    board.rows(rows[:1])
    board.rows(rows)
    expected = {"dev_accuracy": [(0, 0.5), (1, 0.25)]}
    assert events(tmp_path)[0] == expected
    Board(tmp_path, "round").rows(rows)
    assert events(tmp_path)[0] == expected


def test_words_and_missing_values_are_no_scalars(tmp_path):
    board = Board(tmp_path, "step")
    board.rows([{"step": 7, "recipe": "tost", "loss": None, "accuracy": 1}])
    board.sparsity(Masks({"a/kernel": [[True, False], [False, False]]}), 7)
    assert events(tmp_path)[0] == {"accuracy": [(7, 1)], "sparsity/a/kernel": [(7, 0.75)]}


def test_hyperparameters(tmp_path):
    given = {
        "recipe": "tost",
        "width": 8,
        "rate": 0.1,
        "augment": True,
        "left": None,
        "keep": ["a"],
    }
    Board(tmp_path, "step").hyperparameters(given)
    assert events(tmp_path)[1] == {
        **{"recipe": "tost", "width": 8, "rate": 0.1, "augment": True},
        "keep": "['a']",
    }


def test_without_tensorboard(monkeypatch):
    monkeypatch.setattr("lottery_tf.runs.settings.find_spec", lambda name: None)
    BoardSettings()
    with pytest.raises(UsageError, match=r"extra \[tensorboard\]"):
        BoardSettings(tensorboard=True)


WORDS = (
    *("--train_for=2ep", "--batch_size=64", "--width=30", "--nojit_compile", "--tensorboard"),
    "--steps_per_execution=1",
)
RECIPE = ("--recipe=soft_activation,ghost_skips", "--learning_rate=0.05", "--tensorboard")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs of find, and of retrain on its last ticket."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["find", *WORDS, "--rounds=1", f"--out={folder / 'find'}"]) == 0
    ticket = folder / "find" / "tickets" / "round_01"
    assert main(["retrain", f"--ticket={ticket}", *RECIPE, f"--out={folder / 'retrain'}"]) == 0
    return folder


def test_find_writes_what_its_files_say(runs):
    rows = read_json_lines(runs / "find" / "metrics.jsonl")
    scalars, _ = events(runs / "find")
    assert scalars["dev_accuracy"] == [(row["round"], row["dev_accuracy"]) for row in rows]
    assert scalars["sparsity"] == [(0, 0), (1, rows[1]["sparsity"])]
    layers = {tag for tag in scalars if tag.startswith("sparsity/")}
    assert layers and all(scalars[tag][0] == (0, 0) for tag in layers)


def test_more_rounds_and_the_first_ticket_thrown_away(runs, tmp_path):
    more = shutil.copytree(runs / "find", tmp_path / "more")
    layers = {tag for tag in events(more)[0] if tag.startswith("sparsity/")}
    shutil.rmtree(more / "tickets" / "round_00")
    assert main(["find", *WORDS, "--rounds=2", f"--out={more}"]) == 0
    scalars, _ = events(more)
    for tag in ("sparsity", *layers):
        assert [step for step, _ in scalars[tag]] == [0, 1, 2][tag != "sparsity" :]


def test_retrain_writes_what_its_files_say(runs):
    retrain = runs / "retrain"
    rows = read_json_lines(retrain / "metrics.jsonl")
    result = read_json(retrain / "result.json")
    scalars, hyperparameters = events(retrain)
    for name in ("dev_accuracy", "learning_rate", "soft_activation_beta", "loss"):
        assert scalars[name] == [(row["step"], row[name]) for row in rows]
    assert scalars["result/test_accuracy"] == [(rows[-1]["step"], result["test_accuracy"])]
    layers = {tag for tag in events(runs / "find")[0] if tag.startswith("sparsity/")}
    assert {tag for tag in scalars if tag.startswith("sparsity/")} == layers
    assert hyperparameters["learning_rate"] == 0.05
    assert hyperparameters["recipe"] == "soft_activation,ghost_skips"
    assert hyperparameters["sparsity"] == round(result["sparsity"], 4)
    assert hyperparameters["ticket_rewind"] == "weights" and hyperparameters["reinit"] is False


@pytest.mark.e2e
def test_a_run_that_was_broken_off_behind_its_last_epoch(runs, tmp_path, monkeypatch):
    """Nothing is left to train."""

    def breaks_off(*_, **__):
        raise KeyboardInterrupt

    ticket = runs / "find" / "tickets" / "round_01"
    again = ["retrain", f"--ticket={ticket}", *RECIPE, f"--out={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "parse_minutes", lambda text: 0.0)
        patch.setattr(stage, "export", breaks_off)
        assert main(again) == 130
    assert main(again) == 0
    (found, _), (scalars, _) = events(tmp_path), events(runs / "retrain")
    assert {tag: [step for step, _ in found[tag]] for tag in found} == {
        tag: [step for step, _ in scalars[tag]] for tag in scalars
    }


def test_what_is_measured_on_the_test_images_later(runs, tmp_path):
    """As what sweep --tune chooses."""
    rest = (runs / "find" / "tickets" / "round_01", Recipe("vanilla"))
    retrain_ticket(tmp_path, *rest, test=False, how=HowToRun(tensorboard=True))
    before, _ = events(tmp_path)
    result = retrain_ticket(tmp_path, *rest, how=HowToRun(tensorboard=True))
    after, _ = events(tmp_path)
    added = {f"result/{name}": result[name] for name in ("test_accuracy", "best_dev_test_accuracy")}
    last = before["result/sparsity"][0][0]
    assert after == before | {name: [(last, value)] for name, value in added.items()}
