"""The command line on networks of Keras 3, from the ticket to the export."""

import json

import keras
import numpy as np
import pytest
from conftest import TINY

import lottery_tf as lt
from lottery_tf.cli.main import main
from lottery_tf.runs.folder import load_saved_model
from lottery_tf.training.checkpoints import Checkpoints

pytestmark = pytest.mark.e2e
ROUNDS = ("--rounds=2", "--rewind_to=5it")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("keras3") / "find"
    assert main(["find", *TINY, *ROUNDS, "--keras=keras", f"--out={out}"]) == 0
    return out


def test_a_ticket_is_retrained_exported_and_measured(found, tmp_path, capsys):
    ticket = found / "tickets" / "round_02"
    assert lt.Ticket.load(ticket).its_keras is keras
    out = tmp_path / "tost"
    words = [f"--ticket={ticket}", "--recipe=tost,distillation", f"--out={out}"]
    assert main(["retrain", *words]) == 0
    result = json.loads((out / "result.json").read_text())
    model = load_saved_model(out / "model")
    assert isinstance(model, keras.Model)
    masks = lt.Ticket.load(ticket).masks
    for name, mask in masks.items():
        kernel = model.get_layer(name.rpartition("/")[0]).kernel.numpy()
        assert not kernel[~mask].any() and kernel[mask].any()
    assert main(["retrain", *words]) == 0  # which is finished

    formats = "saved_model,tflite,onnx"
    export = tmp_path / "export"
    assert main(["export", f"--run={out}", f"--formats={formats}", f"--out={export}"]) == 0
    facts = json.loads((export / "export.json").read_text())
    assert facts.keys() == set(formats.split(","))
    for each in facts.values():
        assert each["test_accuracy"] == pytest.approx(result["test_accuracy"], abs=1e-6)
    capsys.readouterr()
    for where in (f"--run={out}", f"--model={export / 'saved_model'}"):
        assert main(["evaluate", where, "--dataset=digits"]) == 0
        assert f"accuracy {100 * result['test_accuracy']:.2f} %" in capsys.readouterr().out


def test_a_run_killed_goes_on_to_the_same_end(found, tmp_path, monkeypatch, each_epoch):
    ticket, save = found / "tickets" / "round_01", Checkpoints.save
    words = ["retrain", f"--ticket={ticket}", "--recipe=tost"]

    def killed(*args):
        save(*args)
        raise KeyboardInterrupt

    assert main([*words, f"--out={tmp_path / 'whole'}"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        assert main([*words, f"--out={tmp_path / 'killed'}"]) != 0
    assert main([*words, f"--out={tmp_path / 'killed'}"]) == 0
    one, other = (load_saved_model(tmp_path / each / "model") for each in ("whole", "killed"))
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_zeros_of_a_file_of_keras_3_are_a_ticket(found, tmp_path):
    model = lt.Ticket.load(found / "tickets" / "round_02").build()
    lt.strip(model).save(tmp_path / "pruned.keras")
    out = tmp_path / "find"
    words = ["--method=from_model", f"--model_path={tmp_path / 'pruned.keras'}", f"--out={out}"]
    assert main(["find", *TINY, *words]) == 0
    ticket = lt.Ticket.load(out / "tickets" / "round_01")
    assert ticket.its_keras is keras and ticket.masks == lt.get_masks(model)


def test_a_ticket_of_one_keras_is_retrained_by_the_other(found, tmp_path):
    """From the same weights over the same batches: to the same loss."""
    ticket, losses = found / "tickets" / "round_01", []
    for name in ("tf_keras", "keras"):
        out = tmp_path / name
        assert main(["retrain", f"--ticket={ticket}", f"--keras={name}", f"--out={out}"]) == 0
        assert type(load_saved_model(out / "model")).__module__.startswith(f"{name}.")
        rows = [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows])
    np.testing.assert_allclose(*losses, rtol=1e-4)
