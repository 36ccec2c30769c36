"""What release 0.1 has written is read, gone on with and reported by this one.

``release_0_1`` was made by it: LeNet-300-100 of width 6 on digits, two epochs. In it
``retrain_broken_off`` is ``retrain``, broken off in its last epoch, and ``in_training.keras`` was
saved in the fade of ``tost`` with distillation.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from networks import values

import lottery_tf as lt
from lottery_tf.cli.main import main
from lottery_tf.common.files import read_json, read_json_lines
from lottery_tf.graph.compat import keras
from lottery_tf.runs.folder import load_saved_model

OLD = Path(__file__).parent / "release_0_1"
FIND = (
    *("find", "--train_for=2ep", "--batch_size=64", "--optimizer=adam", "--learning_rate=0.002"),
    *("--width=6", "--rounds=1", "--rewind_to=5it", "--nojit_compile"),
)
DEFAULTS = ("retrain", "--recipe=tost", "--rescaled_init_iterations=3")
DEFAULTS = (*DEFAULTS, "--soft_activation_share=0.4")
# What it did, as its config.json says, and what it had no words for.
RETRAIN = (
    *("retrain", "--recipe=soft_activation,ghost_skips,rescaled_init,label_smoothing"),
    *("--soft_activation_share=0.4", "--ghost_skips_alpha=0.1", "--ghost_skips_convolutions=all"),
    *("--rescaled_init_iterations=3", "--rescaled_init_max_norm=1"),
    "--rescaled_init_learning_rate=0.03",
    *("--nosoft_activation_keep_signal", "--noghost_skips_keep_signal"),
    *("--norescaled_init_keep_signal", "--rescaled_init_norm=l2", "--rescaled_init_patience=3"),
    "--rescaled_init_min_gamma=0.01",
)


@pytest.fixture
def old(tmp_path):
    """A copy to write into."""
    return shutil.copytree(OLD, tmp_path / "runs")


def test_finished_runs_are_finished(old, capsys):
    assert main([*FIND, f"--out={old}/find"]) == 0
    ticket = f"--ticket={old}/find/tickets/round_01"
    assert main([*RETRAIN, ticket, f"--out={old}/retrain"]) == 0
    assert capsys.readouterr().out.count("is finished; nothing to do") == 2


@pytest.mark.parametrize("run", ["retrain", "retrain_broken_off"])
def test_tost_is_another_recipe_now(old, capsys, run):
    """The first four differences are named; nothing is written."""
    words = [*DEFAULTS, f"--ticket={old}/find/tickets/round_01", f"--out={old}/{run}"]
    before = {file: file.read_bytes() for file in (old / run).rglob("*") if file.is_file()}
    assert main(words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "belongs to another: recipe is soft_activation+ghost_skips+rescaled_init+label_smoothing "
        "there and signal_scaling+soft_activation+ghost_skips+rescaled_init+label_smoothing here; "
        "ghost_skips_alpha is 0.1 there and None here; ghost_skips_convolutions is ['all'] there "
        "and ['hidden'] here; ghost_skips_keep_signal is False there and True here …"
    ) in said
    assert before == {file: file.read_bytes() for file in (old / run).rglob("*") if file.is_file()}


@pytest.mark.parametrize("left_out", [word for word in RETRAIN if "keep_signal" in word])
def test_none_of_its_tweaks_kept_the_signal(old, capsys, left_out):
    words = [word for word in RETRAIN if word != left_out]
    words += [f"--ticket={old}/find/tickets/round_01", f"--out={old}/retrain"]
    assert main(words) == 2
    name = left_out.removeprefix("--no")
    assert f"another: {name} is False there and True here. Choose" in " ".join(
        capsys.readouterr().err.split()
    )


def test_its_description_of_a_recipe_is_restored_as_it_was():
    description = read_json(OLD / "retrain" / "config.json")["tweaks"]
    recipe = lt.Recipe.restore(description)
    soft, ghosts, search, _ = recipe.tweaks
    assert not (soft.keep_signal or ghosts.keep_signal or search.keep_signal)
    assert (search.norm, search.patience, search.min_gamma) == ("l2", 3, 0.01)
    for name, parameters in recipe.describe().items():
        assert parameters.items() >= description[name].items()
    assert lt.Recipe.restore(recipe.describe()).tweaks == recipe.tweaks


def test_a_find_goes_on(old):
    """The ticket of its round 1 is trained now, to the accuracy that the old release had."""
    rows = read_json_lines(old / "find" / "metrics.jsonl")
    first = (old / "find" / "metrics.jsonl").read_text().splitlines(keepends=True)[0]
    (old / "find" / "metrics.jsonl").write_text(first)
    assert main([*FIND, f"--out={old}/find"]) == 0
    again = read_json_lines(old / "find" / "metrics.jsonl")
    assert again[0] == rows[0] and len(again) == 2
    assert again[1]["test_loss"] == pytest.approx(rows[1]["test_loss"], rel=1e-4)


def test_a_retraining_goes_on_from_its_checkpoint(old):
    ticket, run = f"--ticket={old}/find/tickets/round_01", old / "retrain_broken_off"
    assert main([*RETRAIN, ticket, f"--out={run}"]) == 0
    result, whole = (read_json(each / "result.json") for each in (run, old / "retrain"))
    assert result["rescaled_init"] == whole["rescaled_init"]
    for name in ("test_loss", "test_accuracy", "train_accuracy", "best_dev_test_accuracy"):
        assert result[name] == pytest.approx(whole[name], rel=1e-4), name


def test_its_tickets_and_models_are_read():
    for number, share in ((0, 0), (1, 0.2)):
        ticket = lt.Ticket.load(OLD / "find" / "tickets" / f"round_{number:02}")
        assert ticket.sparsity == pytest.approx(share, abs=0.005)
        assert lt.get_masks(ticket.build()) == ticket.masks
    model = load_saved_model(OLD / "retrain" / "model")
    mask = ticket.masks["dense1/kernel"]
    assert not model.get_layer("dense1").kernel.numpy()[~mask].any()


def test_they_are_reported(old, capsys):
    assert main(["report", str(old / "retrain"), str(old / "vanilla")]) == 0
    said = capsys.readouterr().out
    assert "tost" in said and "vanilla" in said


def test_a_model_in_training_trains_on():
    """To its end, and is finished."""
    teacher = str(OLD / "find" / "dense_model")
    recipe = lt.Recipe(
        "tost,distillation", {"rescaled_init_iterations": 2, "distillation_teacher": teacher}
    )
    model = keras.models.load_model(OLD / "in_training.keras")
    fading = lt.SoftActivation().layers(model) + lt.GhostSkips().layers(model)
    assert fading and not any(layer.keep_signal for layer in fading)
    x = np.random.default_rng(0).random((16, 8, 8, 1), np.float32)
    y = np.arange(16) % 10
    model.fit(x, y, batch_size=8, epochs=4, callbacks=recipe.callbacks(), verbose=0)
    final = recipe.finish(model)
    np.testing.assert_allclose(final(x), model(x, training=False), atol=1e-5)
    for name, mask in lt.Ticket.load(OLD / "find" / "tickets" / "round_01").masks.items():
        assert not values(final)[name][~mask].any(), name
