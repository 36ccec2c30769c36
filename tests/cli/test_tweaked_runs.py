"""`lottery-tf retrain --recipe=tost`: what its files say, and that a fade survives a break."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
from networks import chain, layers, random_masks, values

import lottery_tf as lt
from lottery_tf.cli.main import main
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json, read_json_lines, sha256
from lottery_tf.runs.experiment import experiment_of
from lottery_tf.runs.folder import load_saved_model
from lottery_tf.runs.retrain import complete_recipe, retrain_run
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.tweaks import rescaled_init
from lottery_tf.tweaks.recipe import Recipe

FLAGS = (
    "--recipe=tost",
    "--rescaled_init_iterations=2",
    "--soft_activation_share=0.75",
    "--ghost_skips_share=0.45",
    "--ghost_skips_alpha=0.5",
)


@pytest.fixture(scope="module")
def ticket(tmp_path_factory):
    """Of a small network that has all that a break could lose, BatchNorm's statistics too."""
    folder = tmp_path_factory.mktemp("runs")
    blocks = [
        (
            layers.Conv2D(4, 3, padding="same", use_bias=False, name=f"{name}_conv"),
            layers.BatchNormalization(name=f"{name}_bn"),
            layers.ReLU(name=f"{name}_relu"),
        )
        for name in ("stem", "stage1")
    ]
    head = layers.GlobalAveragePooling2D(), layers.Dense(10, name="head")
    model = chain(*blocks[0], *blocks[1], *head, shape=(8, 8, 1))
    lt.strip(lt.wrap(model, random_masks(model))).save(folder / "pruned.keras")
    words = ["--method=from_model", f"--model_path={folder / 'pruned.keras'}", "--rewind_to=3it"]
    words += ["--train_for=4ep", "--batch_size=256", f"--out={folder / 'find'}"]
    assert main(["find", *words]) == 0
    return folder / "find" / "tickets" / "round_01"


@pytest.mark.e2e
def test_a_residual_network_from_find_to_its_finished_model(tmp_path):
    """Its ticket's zeros, and no others, are in the plain layers of the model that tost ends in."""
    words = ["--model=resnet8_half", "--width=4", "--train_for=4ep", "--batch_size=256"]
    find, out = tmp_path / "find", tmp_path / "tost"
    words += ["--dataset=digits", "--rounds=1", "--rewind_to=3it"]
    assert main(["find", *words, f"--out={find}"]) == 0
    at = find / "tickets" / "round_01"
    assert retrain(at, out) == 0
    ticket, model = Ticket.load(at), load_saved_model(out / "model")
    assert ticket.sparsity > 0.15
    assert {layer.name for layer in model.layers} == {layer.name for layer in ticket.build().layers}
    kernels = values(model)
    for name, mask in ticket.masks.items():
        np.testing.assert_array_equal(kernels[name] != 0, mask)
        assert (kernels[name] != ticket.weights[name])[mask].any()
    assert read_json(out / "result.json")["sparsity"] == ticket.sparsity


def retrain(ticket, out, *more):
    return main(["retrain", f"--ticket={ticket}", *FLAGS, *more, f"--out={out}"])


@pytest.fixture(scope="module")
def spent(ticket):
    out = ticket.parents[2] / "tost"
    assert retrain(ticket, out) == 0
    return out


def test_what_the_files_say(spent):
    result = read_json(spent / "result.json")
    assert result["recipe"] == "tost"
    assert list(result["tweaks"]) == [
        *("signal_scaling", "soft_activation", "ghost_skips", "rescaled_init", "label_smoothing"),
    ]
    assert result["tweaks"]["soft_activation"]["share"] == 0.75
    assert result["tweaks"]["rescaled_init"]["iterations"] == 2
    found = result["rescaled_init"]
    trainable = load_saved_model(spent / "model").trainable_variables
    assert list(found) == ["scales", "loss", "norm", "iterations", "converged"]
    assert len(found["scales"]) == len(trainable)
    # Two steps of Adam with a rate of 0.01.
    farthest = max(abs(scale - 1) for scale in found["scales"].values())
    assert farthest == pytest.approx(0.02, abs=0.003)
    assert (found["iterations"], found["converged"]) == (2, False)
    assert [len(found[name]) for name in ("loss", "norm")] == [2, 2]
    # Five steps an epoch of which three are behind: 17 steps, in epochs of 5, 5, 5 and 2.
    rows = read_json_lines(spent / "metrics.jsonl")
    assert [row["step"] for row in rows] == [8, 13, 18, 20]
    beta = [1 + 9 * min(1, step / 13) for step in (5, 10, 15, 17)]  # round(0.75·17) = 13
    np.testing.assert_allclose([row["soft_activation_beta"] for row in rows], beta, rtol=1e-5)
    alpha = [0.5 * max(0, 1 - step / 8) for step in (5, 10, 15, 17)]  # round(0.45·17) = 8
    np.testing.assert_allclose([row["ghost_skips_alpha"] for row in rows], alpha, rtol=1e-5)


def test_the_search_looks_at_a_step_of_the_optimizer_that_trains(ticket, tmp_path):
    experiment = experiment_of(Ticket.load(ticket), ticket)
    training = dataclasses.replace(experiment.training, optimizer="adamw")
    for own, expected in (
        (experiment, ("sgd", 0.1, "l2", 1)),
        (dataclasses.replace(experiment, training=training), ("adam", 0.001, "l1", 1000)),
    ):
        recipe = complete_recipe(Recipe("rescaled_init"), ticket, own)
        run = retrain_run(tmp_path, ticket, recipe, own)
        tweak = run.settings["tweaks"]["rescaled_init"]
        names = ("optimizer", "step_size", "norm", "max_norm")
        assert tuple(tweak[name] for name in names) == expected


def test_the_dense_ticket_of_a_search_is_known_by_its_sum(ticket, tmp_path):
    """Wherever it lies: that of the ticket's own run where none is named."""
    for name in ("round_00", "round_01"):
        ticket = shutil.copytree(ticket, tmp_path / "find" / "tickets" / name)
    experiment = experiment_of(Ticket.load(ticket), ticket)
    recipe = Recipe("rescaled_init", {"rescaled_init_order": "search_first"})
    recipe = complete_recipe(recipe, ticket, experiment)
    settings = retrain_run(tmp_path / "out", ticket, recipe, experiment).settings
    dense = ticket.parent / "round_00"
    assert settings["dense_ticket"] == str(dense.resolve())
    assert settings["dense_ticket_sha256"] == sha256(dense / "ticket.json")
    assert "dense" not in settings["tweaks"]["rescaled_init"]
    lost = Recipe(
        "rescaled_init", {"rescaled_init_order": "search_first", "rescaled_init_dense": "no"}
    )
    with pytest.raises(UsageError, match="there is none: name one"):
        retrain_run(tmp_path, ticket, lost, experiment)


def test_the_best_epoch_on_dev_is_one_after_the_fades(spent):
    rows = read_json_lines(spent / "metrics.jsonl")
    best = max(row["dev_accuracy"] for row in rows[2:])
    assert read_json(spent / "result.json")["best_dev_accuracy"] == pytest.approx(best)


@pytest.mark.e2e
def test_looking_less_often_at_dev_images_trains_the_same(ticket, spent, tmp_path):
    assert retrain(ticket, tmp_path, "--validation_freq=2") == 0
    rows, all_rows = (read_json_lines(run / "metrics.jsonl") for run in (tmp_path, spent))
    assert [row["epoch"] for row in rows if "dev_accuracy" in row] == [2, 4]
    assert [row["loss"] for row in rows] == [row["loss"] for row in all_rows]
    result, every = (read_json(run / "result.json") for run in (tmp_path, spent))
    # The fades end in epoch 3: of the epochs that looked only the last may be the best.
    last = result["dev_accuracy"], result["test_accuracy"]
    assert last == (every["dev_accuracy"], every["test_accuracy"])
    assert (result["best_dev_accuracy"], result["best_dev_test_accuracy"]) == pytest.approx(last)


@pytest.mark.e2e
def test_a_break_in_the_middle_of_the_fade_changes_nothing(
    ticket, spent, tmp_path, broken_off, monkeypatch
):
    """The scales that were found are not searched again."""
    out = tmp_path / "parts"
    with broken_off(2):
        assert retrain(ticket, out) == 130
    assert (out / "checkpoint").exists()
    monkeypatch.setattr(rescaled_init, "find_scales", None)
    assert retrain(ticket, out) == 0
    result, whole = (read_json(run / "result.json") for run in (out, spent))
    assert result["tweaks"] == whole["tweaks"]
    for name, found in whole["rescaled_init"].items():
        assert result["rescaled_init"][name] == pytest.approx(found, rel=1e-4), name
    one, other = (load_saved_model(run / "model").get_weights() for run in (out, spent))
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    rows = zip(*(read_json_lines(run / "metrics.jsonl") for run in (out, spent)), strict=True)
    for ours, theirs in rows:
        for name in ("step", "loss", "dev_loss", "soft_activation_beta", "ghost_skips_alpha"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe=tosst"], "nearest: tost"),
        (["--recipe=tost,label_smoothing"], "label_smoothing came twice"),
        (
            ["--recipe=ghost_skips", "--ghost_skips_convolutions=stem"],
            "not 'stem'; nearest: stem_conv",
        ),
        (["--recipe=soft_activation", "--soft_activation_share=2"], r"in \[0, 1\]"),
        (["--ghost_skips_share=0.1"], "ghost_skips, which is not in --recipe=vanilla: add it"),
        (
            ["--recipe=soft_activation", "--soft_activation_beta_end=inf"],
            "above 0, not 1.0 and inf",
        ),
    ],
)
def test_mistakes_are_one_sentence(ticket, tmp_path, capfd, words, message):
    out = tmp_path / "out"
    assert main(["retrain", f"--ticket={ticket}", *words, f"--out={out}"]) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert re.search(message, " ".join(error.split())), error
    assert not out.exists()
