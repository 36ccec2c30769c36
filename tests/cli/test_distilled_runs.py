"""Distillation in runs: the dense model that find keeps, and retraining with it as the teacher."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import TINY

import lottery_tf as lt
from lottery_tf.cli.main import main
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json, read_json_lines, sha256
from lottery_tf.runs import experiment
from lottery_tf.runs.experiment import load_data
from lottery_tf.runs.folder import load_saved_model
from lottery_tf.runs.records import read_result
from lottery_tf.runs.retrain import retrain_ticket
from lottery_tf.training import retraining
from lottery_tf.tweaks.distillation import Distillation

TAUGHT = lt.Recipe([Distillation()])


def experiment_of(ticket):
    return experiment.experiment_of(lt.Ticket.load(ticket), ticket)


def retrain(out, ticket, recipe=TAUGHT, **options):
    return retrain_ticket(out, ticket, recipe, experiment_of(ticket), **options)


@pytest.fixture(scope="module")
def ticket(found):
    return found / "tickets" / "round_02"


@pytest.fixture(scope="module")
def taught(ticket, tmp_path_factory):
    """The folder of a finished run with distillation, and its result."""
    out = tmp_path_factory.mktemp("runs") / "taught"
    return out, retrain(out, ticket)


def weights(run):
    return load_saved_model(run / "model").get_weights()


def test_find_keeps_the_dense_network_that_round_0_has_trained(found, ticket):
    row = read_json_lines(found / "metrics.jsonl")[0]
    dense = load_saved_model(found / "dense_model")
    assert all(np.count_nonzero(kernel) > 0.99 * kernel.size for kernel in dense.get_weights()[::2])
    data = load_data(experiment_of(ticket))
    dense = retraining.compiled_for_evaluation(dense)
    for split in ("dev", "test"):
        measured = dense.evaluate(data.batches(split), verbose=0)
        np.testing.assert_allclose(measured, [row[f"{split}_loss"], row[f"{split}_accuracy"]])


def test_it_is_there_without_a_round_of_pruning_and_not_written_again(tmp_path):
    words = ["find", *TINY, "--train_for=1ep", "--rounds=0", f"--out={tmp_path}"]
    assert main(words) == 0
    before = sha256(tmp_path / "dense_model" / "saved_model.pb")
    assert main(words) == 0
    assert sha256(tmp_path / "dense_model" / "saved_model.pb") == before


def test_a_ticket_is_taught_by_the_dense_model_of_its_run(found, ticket, taught):
    out, result = taught
    name = TAUGHT.name
    config, dense = read_json(out / "config.json"), str((found / "dense_model").resolve())
    assert config["tweaks"] == {name: {"temperature": 4.0, "weight": 0.7}}
    assert config["teacher"] == dense
    assert config["teacher_sha256"] == Distillation(dense).sha256
    assert result["recipe"] == name
    assert result["tweaks"][name]["teacher"] == dense
    assert read_result(out) == result


def test_a_finished_run_is_left_alone_wherever_ticket_and_teacher_lie(found, taught, tmp_path):
    out, result = taught
    moved = shutil.copytree(found, tmp_path / "moved")
    for each in (found, moved):
        ticket = each / "tickets" / "round_02"
        assert retrain(out, ticket) == result
        named = lt.Recipe([Distillation(each / "dense_model")])
        assert retrain(out, ticket, named) == result


def test_another_teacher_is_another_run(found, ticket, taught, tmp_path):
    out, _ = taught
    dense = load_saved_model(found / "dense_model")
    dense.layers[-1].bias.assign_add(np.ones(10))
    for teacher in (dense, tmp_path / "teacher.keras"):
        dense.save(tmp_path / "teacher.keras")
        with pytest.raises(UsageError, match="belongs to another: teacher_sha256 is"):
            retrain(out, ticket, lt.Recipe([Distillation(teacher)]))
    with pytest.raises(UsageError, match="distillation_weight is 0.7 there and 0.6 here"):
        retrain(out, ticket, lt.Recipe([Distillation(weight=0.6)]))


def test_without_the_dense_model_a_teacher_is_asked_for(found, ticket, taught, tmp_path):
    copied = shutil.copytree(ticket, tmp_path / "copied")
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="dense_model; there is none.* `distillation_teacher`"):
        retrain(out, copied)
    assert not out.exists()
    named = lt.Recipe([Distillation(found / "dense_model")])
    assert retrain(taught[0], copied, named) == taught[1]


def test_a_link_to_the_ticket_finds_the_run(ticket, taught, tmp_path):
    (tmp_path / "link").symlink_to(ticket)
    assert retrain(taught[0], tmp_path / "link") == taught[1]


@pytest.mark.e2e
def test_an_interrupted_run_goes_on_to_the_same_bits(ticket, taught, tmp_path, broken_off):
    out = tmp_path / "parts"
    with broken_off(2), pytest.raises(KeyboardInterrupt):
        retrain(out, ticket)
    assert (out / "checkpoint" / "state.json").exists()
    retrain(out, ticket)
    for one, other in zip(weights(out), weights(taught[0]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.e2e
def test_new_initial_weights_are_taught_too(ticket, tmp_path):
    result = retrain(tmp_path, ticket, reinit=True)
    assert result["reinit"] and result["test_accuracy"] > 0.2
    assert "teacher_sha256" in read_json(tmp_path / "config.json")


def test_logits_are_computed_once_where_images_do_not_change(found, ticket, taught, monkeypatch):
    """The same training as with the teacher in each step, which augmented images need."""
    experiment = experiment_of(ticket)
    data = load_data(experiment)
    recipe = lt.Recipe([Distillation(found / "dense_model")])
    model = recipe.prepare(lt.Ticket.load(ticket).build())
    augmented = dataclasses.replace(data, augment=True)
    plain = data.stream().element_spec
    assert retraining._stream(recipe, model, augmented)(3).element_spec == plain
    assert retraining._stream(lt.Recipe("vanilla"), model, data)(3).element_spec == plain
    cached = retraining._stream(recipe, model, data)(3)
    batch = next(iter(cached))
    images, labels = next(iter(data.stream(3)))
    np.testing.assert_array_equal(batch["batch"][1], labels)
    dense = load_saved_model(found / "dense_model")
    np.testing.assert_allclose(batch["teacher_logits"], dense(images), atol=1e-5)

    monkeypatch.setattr(retraining, "_stream", lambda recipe, model, data: data.stream)
    loaded = lt.Ticket.load(ticket)
    found_so = retraining.retrain(loaded, recipe, data, experiment.training).model
    for one, other in zip(found_so.get_weights(), weights(taught[0]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_the_result_says_can_be_restored(taught):
    """A description that went through JSON is the tweak again."""
    (parameters,) = json.loads(json.dumps(taught[1]["tweaks"])).values()
    assert Distillation(**parameters) == Distillation(parameters["teacher"])
