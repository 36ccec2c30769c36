"""The commands end to end on digits: what they write, how they go on, what they refuse."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY

import lottery_tf as lt
from lottery_tf.cli.main import main
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json, read_json_lines, sha256, write_record
from lottery_tf.data import digits
from lottery_tf.exporting import write_exports
from lottery_tf.finding import rounds as finding
from lottery_tf.graph.compat import keras
from lottery_tf.runs import find as stage
from lottery_tf.runs.folder import Run, load_saved_model


def tree(*folders):
    """Every file below the ``folders`` with its checksum."""
    return {
        p.relative_to(folder.parent): sha256(p)
        for folder in folders
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_find_writes_what_others_read(found):
    config = json.loads((found / "config.json").read_text())
    assert config["command"] == "find" and config["train_for"] == "2ep" and config["seed"] == 0
    assert "tensorflow" in config["versions"]
    rows = read_json_lines(found / "metrics.jsonl")
    assert [row["round"] for row in rows] == [0, 1, 2]
    for row in rows:
        needed = {"sparsity", "sparsity_total", "dev_accuracy", "test_accuracy", "seconds"}
        assert needed <= row.keys()
    for number, row in enumerate(rows):
        folder = found / "tickets" / f"round_{number:02}"
        names = {"ticket.json", "masks.npz", "weights.npz", "model.json"}
        assert {file.name for file in folder.iterdir()} == names
        record = json.loads((folder / "ticket.json").read_text())
        assert record["format_version"] == 1
        assert record["sparsity"] == row["sparsity"]
        assert (record["method"], record["rewind_step"], record["seed"]) == ("imp", 5, 0)
        assert (record["model"], record["dataset"]) == ("lenet_300_100", "digits")
        assert record["sha256"].keys() == names


def test_retrain_writes_what_others_read(retrained):
    result = json.loads((retrained / "result.json").read_text())
    needed = "recipe sparsity sparsity_total nonzero_parameters test_accuracy dev_accuracy "
    needed += "best_dev_test_accuracy epochs seed seconds"
    assert set(needed.split()) <= result.keys()
    assert result["recipe"] == "label_smoothing"
    assert result["tweaks"] == {"label_smoothing": {"epsilon": 0.2}}
    rows = read_json_lines(retrained / "metrics.jsonl")
    assert len(rows) == result["epochs"] == 2
    steps_per_epoch = 1293 // 64
    assert [row["step"] for row in rows] == [5 + steps_per_epoch, 2 * steps_per_epoch]


def test_the_finished_model_has_the_tickets_zeros_and_plain_layers(found, retrained):
    ticket = lt.Ticket.load(found / "tickets" / "round_02")
    model = load_saved_model(retrained / "model")
    assert [type(layer).__name__ for layer in model.layers] == [
        *("InputLayer", "Flatten", "Dense", "ReLU", "Dense", "ReLU", "Dense")
    ]
    result = json.loads((retrained / "result.json").read_text())
    kernels = {f"{layer.name}/kernel": layer.kernel for layer in model.layers if layer.weights}
    for name, mask in ticket.masks.items():
        assert not np.any(kernels[name].numpy()[~mask])
    nonzero = sum(int(np.count_nonzero(v)) for v in model.trainable_variables)
    assert nonzero == result["nonzero_parameters"]


def test_export_and_evaluate_agree(proved, retrained, tmp_path, capsys):
    out = tmp_path / "export"
    assert main(["export", f"--run={retrained}", f"--out={out}"]) == 0
    report = json.loads((out / "export.json").read_text())["saved_model"]
    result = json.loads((retrained / "result.json").read_text())
    assert report["max_abs_difference"] <= 1e-5
    assert report["test_accuracy"] == pytest.approx(result["test_accuracy"])
    assert 0 < report["bytes_gzip"] < report["bytes"]
    shown = f"accuracy {100 * result['test_accuracy']:.2f} %"
    for what in (f"--model={out / 'saved_model'}", f"--run={retrained}"):
        capsys.readouterr()
        assert main(["evaluate", what]) == 0
        assert shown in capsys.readouterr().out


def test_files_of_every_kind_are_evaluated(proved_here, retrained, tmp_path, capsys):
    """A LiteRT file says nothing of logits, and so has no loss."""
    out = tmp_path / "export"
    words = ["--formats=saved_model,tflite", "--tolerance=1e-4"]
    assert main(["export", f"--run={retrained}", *words, f"--out={out}"]) == 0
    load_saved_model(retrained / "model").save(tmp_path / "model.keras")
    result = json.loads((retrained / "result.json").read_text())
    shown = f"accuracy {100 * result['test_accuracy']:.2f} %"
    for file, has_loss in ((out / "model.tflite", False), (tmp_path / "model.keras", True)):
        capsys.readouterr()
        assert main(["evaluate", f"--model={file}"]) == 0
        said = capsys.readouterr().out
        assert shown in said and ("loss" in said) is has_loss
    (tmp_path / "broken.tflite").write_text("nothing")
    assert main(["evaluate", f"--model={tmp_path / 'broken.tflite'}"]) == 2
    assert "lottery-tf evaluate: Expected a LiteRT or ONNX file" in capsys.readouterr().err


def test_a_saved_model_of_another_program_is_evaluated(tmp_path, capfd):
    """By its signature; unless its graph does more than compute."""

    class Zeros(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32)])
        def __call__(self, images):
            return tf.one_hot(tf.zeros(tf.shape(images)[0], tf.int32), 10)

    class Writes(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32)])
        def __call__(self, images):
            tf.io.write_file(str(tmp_path / "written"), "x")
            return tf.zeros((tf.shape(images)[0], 10))

    for made in (Zeros(), Writes()):
        folder = tmp_path / type(made).__name__
        tf.saved_model.save(made, folder, signatures=made.__call__.get_concrete_function())
    labels = digits.read().test.labels
    assert main(["evaluate", f"--model={tmp_path / 'Zeros'}"]) == 0
    assert f"digits test  accuracy {100 * np.mean(labels == 0):.2f} %" in capfd.readouterr().out
    assert main(["evaluate", f"--model={tmp_path / 'Writes'}"]) == 2
    assert "the operation WriteFile in its graph" in capfd.readouterr().err
    assert not (tmp_path / "written").exists()


def test_what_to_give_where_a_model_is_expected(retrained, tmp_path, capfd, monkeypatch):
    assert main(["evaluate", f"--model={retrained}"]) == 2
    assert f"is a retrain run: give --run={retrained}." in capfd.readouterr().err
    facts = {"tflite": {"file": "model.tflite"}, "onnx": {"file": "model.onnx"}}
    (tmp_path / "export.json").write_text(json.dumps(facts))
    assert main(["evaluate", f"--model={tmp_path}"]) == 2
    told = capfd.readouterr().err
    assert f"model.tflite, model.onnx: give --model={tmp_path / 'model.tflite'}." in told
    monkeypatch.setattr("lottery_tf.exporting.files.find_spec", lambda name: None)
    (tmp_path / "export.json").unlink()
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert main(["evaluate", f"--model={tmp_path / 'model.onnx'}"]) == 2
    assert "it is not installed: install lottery_tf with its extra [onnx]" in capfd.readouterr().err


def test_a_finished_run_is_left_alone(found, retrained, capsys):
    before = tree(found, retrained)
    assert main(["find", *TINY, "--rounds=2", "--rewind_to=5it", f"--out={found}"]) == 0
    ticket = found / "tickets" / "round_02"
    words = [f"--ticket={ticket}", "--recipe=label_smoothing", "--label_smoothing_epsilon=0.2"]
    assert main(["retrain", *words, f"--out={retrained}"]) == 0
    assert capsys.readouterr().out.count("is finished") == 2
    assert tree(found, retrained) == before


def same_tickets(one, other):
    for number in range(3):
        a, b = (lt.Ticket.load(run / "tickets" / f"round_{number:02}") for run in (one, other))
        assert a.masks == b.masks
        for name, value in a.weights.items():
            np.testing.assert_allclose(value, b.weights[name], rtol=1e-6)


class Stopped(Exception):
    """In the place of a power cut."""


def test_an_interrupted_find_goes_on_at_the_next_round(found, tmp_path, monkeypatch):
    out = tmp_path / "find"
    words = ["find", *TINY, "--rounds=2", "--rewind_to=5it", f"--out={out}"]
    trained = []
    rounds = finding.find

    def counted(*args, stop_at, **kwargs):
        for each in rounds(*args, **kwargs):
            trained.append(each.number)
            if each.number == stop_at:
                raise Stopped
            yield each

    monkeypatch.setattr(stage, "find_rounds", lambda *a, **k: counted(*a, stop_at=1, **k))
    assert main(words) == 1
    assert len(read_json_lines(out / "metrics.jsonl")) == 1
    monkeypatch.setattr(stage, "find_rounds", lambda *a, **k: counted(*a, stop_at=None, **k))
    assert main(words) == 0
    assert trained == [0, 1, 1, 2]
    same_tickets(out, found)
    for mine, theirs in zip(
        *(read_json_lines(run / "metrics.jsonl") for run in (out, found)), strict=True
    ):
        assert mine["test_accuracy"] == theirs["test_accuracy"]


@pytest.mark.e2e  # test_sweep_command.py and test_tensorboard.py have it by default
def test_more_rounds_go_on_where_a_find_ended(found, tmp_path, capsys):
    """As if they had been asked for at once; fewer are there already."""
    out = tmp_path / "find"
    words = ["find", *TINY, "--rewind_to=5it"]
    assert main([*words, "--rounds=1", f"--out={out}"]) == 0
    capsys.readouterr()
    assert main([*words, "--rounds=2", f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert "round  1 of" not in said and "round  2 of" in said
    same_tickets(out, found)
    one, other = (json.loads((run / "config.json").read_text()) for run in (out, found))
    assert one == other
    one, other = (read_json_lines(run / "metrics.jsonl") for run in (out, found))
    assert [row["test_accuracy"] for row in one] == [row["test_accuracy"] for row in other]
    before = tree(out)
    assert main([*words, "--rounds=1", f"--out={out}"]) == 0
    assert "is finished" in capsys.readouterr().out and tree(out) == before


def test_an_interrupted_retraining_goes_on_at_its_checkpoint(
    found, retrained, tmp_path, broken_off
):
    ticket, parts = found / "tickets" / "round_02", tmp_path / "parts"
    words = ["retrain", f"--ticket={ticket}", "--recipe=label_smoothing"]
    words += ["--label_smoothing_epsilon=0.2", f"--out={parts}"]
    with broken_off(2, Stopped):
        assert main(words) == 1
    assert (parts / "checkpoint").exists() and not (parts / "result.json").exists()
    assert main(words) == 0
    for name in ("test_accuracy", "test_loss", "best_dev_test_accuracy", "epochs"):
        one, other = (
            json.loads((run / "result.json").read_text())[name] for run in (retrained, parts)
        )
        assert one == pytest.approx(other, rel=1e-6)
    one, other = (read_json_lines(run / "metrics.jsonl") for run in (retrained, parts))
    assert [row["step"] for row in one] == [row["step"] for row in other]
    assert [row["dev_loss"] for row in one] == pytest.approx([row["dev_loss"] for row in other])


def test_reinit_keeps_the_mask_and_draws_new_weights(found, tmp_path):
    ticket = found / "tickets" / "round_02"
    out = tmp_path / "reinit"
    assert main(["retrain", f"--ticket={ticket}", "--reinit", f"--out={out}"]) == 0
    result = json.loads((out / "result.json").read_text())
    loaded = lt.Ticket.load(ticket)
    assert result["reinit"] is True and result["sparsity"] == loaded.sparsity
    again = loaded.reinitialised(seed=0)
    assert again.masks == loaded.masks
    kept = loaded.masks["dense1/kernel"]
    changed = again.weights["dense1/kernel"] != loaded.weights["dense1/kernel"]
    np.testing.assert_array_equal(changed, kept)


MISTAKES = {
    "unknown flag": (["find", "--sparsty=0.9"], "sparsity"),
    "unknown value": (["find", "--rounds=1", "--model=resnet21"], "resnet20"),
    "no whole number": (["find", "--rounds=three"], "expected an integer"),
    "unknown dataset": (["find", "--rounds=1", "--dataset=digit"], "digits"),
    "sparsity of 1": (["find", "--sparsity=1"], "[0, 1)"),
    "negative sparsity": (["find", "--sparsity=-0.1"], "[0, 1)"),
    "neither rounds nor sparsity": (["find"], "--rounds=N or --sparsity=SHARE"),
    "unknown kind of layer": (["find", "--rounds=1", "--prune_layers=convs"], "conv"),
    "unknown layer": (["find", "--rounds=1", "--keep_dense=dense3"], "dense1"),
    "missing data folder": (["find", "--rounds=1", "--dataset=idx", "--data_dir=/no"], "/no"),
    "no data folder": (["find", "--rounds=1", "--dataset=idx"], "--data_dir"),
    "rewinding behind the end": (["find", "--rounds=1", "--rewind_to=99ep"], "--rewind_to"),
    "batch larger than the data": (["find", "--rounds=1", "--batch_size=9999"], "--batch_size"),
    "no ticket": (["retrain", "--ticket=/no"], "ticket.json"),
    "no ticket given": (["retrain"], "--ticket"),
    "unknown recipe": (["retrain", "--recipe=label_smothing", "--ticket=T"], "label_smoothing"),
    "a tweak twice": (["retrain", "--ticket=T", "--recipe=label_smoothing,label_smoothing"],
                      "twice"),
    "smoothing of 2": (["retrain", "--label_smoothing_epsilon=2", "--recipe=label_smoothing",
                        "--ticket=T"], "[0, 1)"),
    "ticket for another model": (["retrain", "--ticket=T", "--model=conv4"], "--model"),
    "ticket for another dataset": (["retrain", "--ticket=T", "--dataset=mnist"], "--dataset"),
    "nothing to prune": (["find", "--rounds=1", "--prune_layers=conv"], "weights to prune"),
    "milestones in disorder": (["find", "--rounds=1", "--schedule=step", "--milestones=3ep,1ep"],
                               "--milestones"),
    "training that ends before it begins": (["retrain", "--ticket=T", "--train_for=5it"], "step 5"),
    "ticket of another width": (["retrain", "--ticket=T", "--width=60"], "--width"),
    "a flag of find": (["retrain", "--ticket=T", "--keep_dense=first"], "keep_dense"),
    "no seeds": (["quickstart", "--seeds="], "--seeds"),
    "a seed that is too large": (["quickstart", "--seeds=5000000000"], "--seeds"),
    "export of no run": (["export", "--run=/no"], "config.json"),
    "export of a find run": (["export", "--run=F"], "retrain one of its tickets"),
    "unknown format": (["export", "--run=R", "--formats=coreml"], "saved_model"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence_and_leave_nothing(mistake, found, retrained, tmp_path, capfd):
    words, told = MISTAKES[mistake]
    places = {"--ticket=T": f"--ticket={found}/tickets/round_01", "--run=R": f"--run={retrained}"}
    places["--run=F"] = f"--run={found}"
    before = tree(found, retrained)
    out = tmp_path / "out"
    capfd.readouterr()
    assert main([*(places.get(word, word) for word in words), f"--out={out}"]) == 2
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f"lottery-tf {words[0]}: ") and told in message
    assert "Traceback" not in message
    assert not out.exists()
    assert tree(found, retrained) == before


@pytest.mark.parametrize("words", [
    ["find", *TINY, "--sparsity=0.3", "--rewind_to=5it"],
    ["find", *TINY, "--rounds=2", "--rewind_to=5it", "--seed=1"],
    ["retrain", "--recipe=vanilla"],
])  # fmt: skip
def test_the_folder_of_another_run_is_refused(words, found, capfd):
    before = tree(found)
    if words[0] == "retrain":
        words = [*words, f"--ticket={found}/tickets/round_01"]
    assert main([*words, f"--out={found}"]) == 2
    assert "belongs to another" in capfd.readouterr().err
    assert tree(found) == before


def test_a_parameter_that_an_older_release_lacked_counts_as_its_default(retrained):
    config = read_json(retrained / "config.json")
    assert config["tweaks"] == {"label_smoothing": {"epsilon": 0.2}}
    settings = Run(
        retrained,
        "retrain",
        {k: v for k, v in config.items() if k not in ("versions", "devices", "command")},
        of_tweaks={"label_smoothing": {"epsilon": 0.2, "another": 3}},
    )
    settings.check()
    newer = {**settings.settings["tweaks"]["label_smoothing"], "another": 3}
    run = dataclasses.replace(
        settings, settings={**settings.settings, "tweaks": {"label_smoothing": newer}}
    )
    run.check()
    newer["another"] = 4
    with pytest.raises(UsageError, match="label_smoothing_another is 3 there and 4 here"):
        run.check()


@pytest.mark.parametrize(
    ("theirs", "mine", "words"),
    [
        ({}, {"ghost_skips": {"alpha": 1}}, "recipe is vanilla there and ghost_skips here"),
        (
            {"ghost_skips": {"alpha": 0.1, "keep_signal": False}, "own": {}},
            {"own": {}, "ghost_skips": {"alpha": None, "keep_signal": True}},
            "another: ghost_skips_alpha is 0.1 there and None here; ghost_skips_keep_signal is "
            "False there and True here. Choose",
        ),
        (
            {"own": {"a": 1}, "other": {}},
            {"own": {"a": 2}},
            r"another: recipe is own\+other there and own here; own_a is 1 there and 2 here",
        ),
    ],
)
def test_what_differs_of_the_recipe_is_named(tmp_path, theirs, mine, words):
    (tmp_path / "config.json").write_text(json.dumps({"command": "retrain", "tweaks": theirs}))
    with pytest.raises(UsageError, match=words):
        Run(tmp_path, "retrain", {"tweaks": mine}).check()
    Run(tmp_path, "retrain", {"tweaks": dict(reversed(theirs.items()))}).check()


def test_a_folder_of_other_files_is_refused(tmp_path, capfd):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["find", *TINY, "--rounds=1", f"--out={tmp_path}"]) == 2
    assert "holds other files" in capfd.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("part", ["masks.npz", "weights.npz", "model.json", "ticket.json"])
def test_a_damaged_ticket_is_refused(part, found, tmp_path, capfd):
    ticket = shutil.copytree(found / "tickets" / "round_01", tmp_path / "ticket")
    content = (ticket / part).read_bytes()
    (ticket / part).write_bytes(content[: len(content) // 2])
    assert main(["retrain", f"--ticket={ticket}", f"--out={tmp_path / 'out'}"]) == 2
    assert part in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--method=erk", "--sparsity=0.5", "--notrain_tickets"],
        pytest.param(["--rounds=1"], marks=pytest.mark.e2e),
    ],
    ids=["erk", "imp"],
)
def test_without_a_dev_split_the_last_epoch_counts(words, tmp_path):
    words = [*TINY, "--train_for=1ep", "--dev_share=0", *words]
    assert main(["find", *words, f"--out={tmp_path / 'find'}"]) == 0
    ticket = tmp_path / "find" / "tickets" / "round_01"
    out = tmp_path / "retrained"
    assert main(["retrain", f"--ticket={ticket}", f"--out={out}"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert "dev_accuracy" not in result and "best_dev_accuracy" not in result
    assert result["best_dev_test_accuracy"] == result["test_accuracy"]
    assert not (out / "checkpoint").exists()


def test_an_export_is_not_replaced_by_another(retrained, tmp_path, capfd, proved_here):
    out = tmp_path / "export"
    assert main(["export", f"--run={retrained}", f"--out={out}"]) == 0
    before = tree(out)
    assert main(["export", f"--run={retrained}", f"--out={out}"]) == 0
    other = shutil.copytree(retrained, tmp_path / "other")
    (other / "result.json").write_text((other / "result.json").read_text() + " ")
    for words in ([f"--run={other}"], [f"--run={retrained}", "--formats=saved_model,tflite"]):
        assert main(["export", *words, f"--out={out}"]) == 2
    assert "choose another --out" in capfd.readouterr().err
    assert tree(out) == before


def test_an_export_is_made_again_where_it_is_not_what_is_asked_for(
    retrained, tmp_path, proved_here
):
    out, report = tmp_path / "export", tmp_path / "export" / "export.json"
    words = ["export", f"--run={retrained}", f"--out={out}"]
    assert main(words) == 0
    before = tree(out)
    (out / "saved_model" / "saved_model.pb").unlink()  # as a copy that was broken off
    assert main(words) == 0
    assert tree(out).keys() == before.keys()
    facts = json.loads(report.read_text())
    facts["saved_model"] |= {"max_abs_difference": 5e-5, "tolerance": 1e-4}
    report.write_text(json.dumps(facts))
    assert main([*words, "--tolerance=1e-4"]) == 0
    assert json.loads(report.read_text()) == facts
    assert main(words) == 0
    assert json.loads(report.read_text())["saved_model"]["tolerance"] == 1e-5


def test_an_export_is_proved_on_the_images_of_its_run(retrained, tmp_path, capfd):
    run = shutil.copytree(retrained, tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    accuracy = result["test_accuracy"]
    write_record(run / "result.json", result | {"test_accuracy": accuracy - 0.01})
    assert main(["export", f"--run={run}", f"--out={tmp_path / 'export'}"]) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert f"an accuracy of {100 * accuracy - 1:.2f} %; on the present ones of --dataset" in said
    assert f"it is {100 * accuracy:.2f} %: give the folder" in said
    assert not (tmp_path / "export").exists()


def test_an_export_of_images_that_have_moved_since_the_run(retrained, tmp_path, capfd, proved_here):
    """The digits as an idx folder: the same images, so the same split and the same model."""
    run, moved = shutil.copytree(retrained, tmp_path / "run"), tmp_path / "moved"
    moved.mkdir()
    source = digits.read()
    for name, split in zip(("train", "t10k"), (source.train, source.test), strict=True):
        for kind, array in (("images-idx3", split.images[..., 0]), ("labels-idx1", split.labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (moved / f"{name}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    config = json.loads((run / "config.json").read_text())
    config |= {"dataset": "idx", "data_dir": str(tmp_path / "gone")}
    write_record(run / "config.json", config)
    words = ["export", f"--run={run}", f"--out={tmp_path / 'export'}"]
    assert main(words) == 2
    assert "--data_dir" in capfd.readouterr().err
    assert main([*words, f"--data_dir={moved}"]) == 0
    facts = json.loads((tmp_path / "export" / "export.json").read_text())["saved_model"]
    result = json.loads((run / "result.json").read_text())
    assert facts["test_accuracy"] == pytest.approx(result["test_accuracy"])


def test_a_model_of_images_of_any_size_is_evaluated(tmp_path, capsys):
    images = keras.Input((None, None, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(images))
    lt.export(keras.Model(images, {"digit": keras.layers.Dense(10)(x)}), tmp_path / "model")
    assert main(["evaluate", f"--model={tmp_path / 'model'}", "--dataset=digits"]) == 0
    assert "digits test  accuracy" in capsys.readouterr().out


def test_an_export_that_says_nothing_of_its_input(retrained, tmp_path, capsys, proved_here):
    """By a program: the dataset's own normalisation is taken."""
    model, images = load_saved_model(retrained / "model"), digits.read().test.images
    write_exports(model, tmp_path / "export", images=images)
    capsys.readouterr()
    assert main(["evaluate", f"--model={tmp_path / 'export' / 'saved_model'}"]) == 0
    result = json.loads((retrained / "result.json").read_text())
    assert f"accuracy {100 * result['test_accuracy']:.2f} %" in capsys.readouterr().out


def test_a_ticket_that_is_gone_is_not_found_anew(found, tmp_path, capfd):
    out = shutil.copytree(found, tmp_path / "find")
    rows = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(rows[:2]))
    shutil.rmtree(out / "tickets" / "round_02")
    before = tree(out)
    assert main(["find", *TINY, "--rounds=2", "--rewind_to=5it", f"--out={out}"]) == 2
    assert "round_02" in capfd.readouterr().err
    assert tree(out) == before


def test_the_same_ticket_by_another_path_is_the_same_run(found, retrained, tmp_path, capsys):
    ticket = shutil.copytree(found / "tickets" / "round_02", tmp_path / "ticket")
    words = [f"--ticket={ticket}", "--recipe=label_smoothing", "--label_smoothing_epsilon=0.2"]
    assert main(["retrain", *words, f"--out={retrained}"]) == 0
    assert "is finished" in capsys.readouterr().out


def test_what_a_killed_process_left_is_no_other_file(tmp_path):
    out = tmp_path / "find"
    out.mkdir()
    (out / ".config.json.0a1b2c3d").touch()
    words = [*TINY, "--method=erk", "--sparsity=0.5", "--notrain_tickets"]
    assert main(["find", *words, f"--out={out}"]) == 0


def test_a_round_killed_while_its_ticket_is_replaced_goes_on(tmp_path, capsys):
    """Between the two renames there is no ticket; without the old one the run could not go on."""
    out = tmp_path / "find"
    words = [*TINY, "--rounds=1", f"--out={out}"]
    assert main(["find", *words]) == 0
    rows = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text(rows[0])
    tickets = out / "tickets"
    (tickets / "round_01").rename(tickets / ".round_01.0a1b2c3d.old")
    (tickets / ".round_01.0a1b2c3d").mkdir()
    (out / ".metrics.jsonl.0a1b2c3d").touch()
    assert main(["find", *words]) == 0
    assert sorted(os.listdir(tickets)) == ["round_00", "round_01"]
    assert not list(out.glob(".metrics*"))


@pytest.mark.parametrize("file", ["result.json", "config.json"])
def test_a_damaged_run_is_one_sentence(file, retrained, tmp_path, capfd):
    run = shutil.copytree(retrained, tmp_path / "run")
    (run / file).write_text('{"recipe": ')
    ticket = retrained.parent / "find" / "tickets" / "round_02"
    words = [f"--ticket={ticket}", "--recipe=label_smoothing", "--label_smoothing_epsilon=0.2"]
    assert main(["retrain", *words, f"--out={run}"]) == 2
    assert file in capfd.readouterr().err


def test_an_out_that_cannot_be_is_one_sentence(found, tmp_path, capfd):
    (tmp_path / "file").touch()
    assert main(["find", *TINY, "--rounds=0", f"--out={tmp_path / 'file' / 'run'}"]) == 2
    assert "--out" in capfd.readouterr().err


@pytest.mark.e2e
def test_with_xla_as_without(found, retrained, tmp_path):
    """XLA, which other tests leave out, is the default; it adds in another order."""
    find, out = tmp_path / "find", tmp_path / "retrained"
    words = [*TINY, "--jit_compile", "--steps_per_execution=50", "--rounds=1", "--rewind_to=5it"]
    assert main(["find", *words, f"--out={find}"]) == 0
    words = [f"--ticket={find}/tickets/round_01", f"--out={out}"]
    assert main(["retrain", *words]) == 0
    for run in (find, out):
        assert json.loads((run / "config.json").read_text())["jit_compile"] is True
    one, other = (lt.Ticket.load(run / "tickets" / "round_01") for run in (find, found))
    assert one.masks == other.masks
    for name, value in one.weights.items():
        np.testing.assert_allclose(value, other.weights[name], rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(
        *(read_json_lines(run / "metrics.jsonl")[:2] for run in (find, found)), strict=True
    ):
        assert mine["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-4)
    result = json.loads((out / "result.json").read_text())
    assert result["sparsity"] == one.sparsity and result["test_accuracy"] > 0.5


def test_a_training_that_diverges_failed(tmp_path, capfd):
    words = [*TINY, "--learning_rate=1e30", "--rounds=1", f"--out={tmp_path / 'find'}"]
    assert main(["find", *words]) == 1
    assert "round 0 diverged" in capfd.readouterr().err
