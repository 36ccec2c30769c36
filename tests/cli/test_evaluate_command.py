"""lottery-tf evaluate: what it says where the number might mislead, and where there is no model."""

import json
import shutil

import networks  # which sets up devices before anything computes
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from lottery_tf.cli.main import main
from lottery_tf.cli.measured import check_takes
from lottery_tf.common.errors import UsageError
from lottery_tf.data import DataSettings, load
from lottery_tf.exporting import write_exports
from lottery_tf.exporting.files import image_shape_of_file
from lottery_tf.runs.export import export_run


def test_a_file_without_its_export_is_told_how_it_is_fed(
    retrained, proved_here, tmp_path, lines, capfd
):
    export_run(retrained, tmp_path / "export", ("tflite",), 1e-4, with_preprocessing=True)
    lines.clear()
    assert main(["evaluate", f"--model={tmp_path / 'export' / 'model.tflite'}"]) == 0
    assert not lines
    alone = shutil.copy(tmp_path / "export" / "model.tflite", tmp_path)
    assert main(["evaluate", f"--model={alone}"]) == 0
    (line,) = lines
    assert line.startswith(f"no export.json beside {alone}: images are normalised as --dataset")
    lines.clear()
    assert main(["evaluate", f"--model={retrained / 'model'}"]) == 0  # a run's own model
    assert not lines


def test_other_images_than_those_of_its_run_are_told(
    retrained, proved_here, tmp_path, lines, monkeypatch
):
    export = tmp_path / "export"
    facts = export_run(retrained, export, ("saved_model",))
    source = facts["saved_model"]["source"]
    assert source["data"]["dataset"] == "digits" and source["data"]["dev_share"] == 0.1
    config = json.loads((retrained / "config.json").read_text())
    assert source["data_sha256"] == config["data_sha256"]
    lines.clear()
    words = ["evaluate", f"--model={export / 'saved_model'}"]
    assert main(words) == 0 and main([*words, "--data_seed=1"]) == 0
    assert not lines  # the test images are the same
    assert main([*words, "--data_seed=1", "--split=dev"]) == 0
    assert "data_seed is 0 in its run and 1 here. Images that it was trained on" in lines[0]
    lines.clear()
    assert main(["evaluate", f"--run={retrained}", "--data_seed=1", "--split=dev"]) == 0
    assert "data_seed is 0 in its run and 1 here" in lines[0]

    # An export of an older release has the run alone.
    del source["data"], source["data_sha256"]
    (export / "export.json").write_text(json.dumps(facts))
    lines.clear()
    assert main([*words, "--data_seed=1", "--split=dev"]) == 0
    assert "data_seed is 0 in its run and 1 here" in lines[0]
    source["run"] = str(tmp_path / "gone")
    (export / "export.json").write_text(json.dumps(facts))
    lines.clear()
    assert main([*words, "--data_seed=1", "--split=dev"]) == 0
    assert not lines


def test_other_test_images_of_a_folder_are_told(tmp_path, lines, proved_here):
    random = np.random.default_rng(0)
    for index in range(20):
        folder = tmp_path / "data" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (4, 4), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    data = ["--dataset=image_folder", f"--data_dir={tmp_path / 'data'}"]
    own = load(DataSettings("image_folder", str(tmp_path / "data"), dev_share=0), training=False)
    keras = networks.keras
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(2))
    said = {"data": {"dataset": "image_folder", "test_seed": 0}, "data_sha256": own.sha256}
    write_exports(model, tmp_path / "export", images=own.test.images, source=said)
    words = ["evaluate", f"--model={tmp_path / 'export' / 'saved_model'}", *data]
    assert main(words) == 0
    assert not [line for line in lines if "its run" in line]
    assert main([*words, "--test_seed=1"]) == 0
    assert "test_seed is 0 in its run and 1 here. Images that it was trained on" in lines[-1]
    Image.fromarray(pixels).save(tmp_path / "data" / "a" / "new.png")
    assert main(words) == 0
    assert "images and labels of image_folder are not those of its run" in lines[-1]


def test_images_of_another_shape_are_one_sentence(tmp_path, capfd):
    keras = networks.keras
    model = keras.Sequential([keras.Input((28, 28, 3)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10))
    model.save(tmp_path / "model.keras")
    file = tmp_path / "model.tflite"
    file.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    assert image_shape_of_file(file) == (28, 28, 3)
    told = "Expected images of the model's shape 28×28×3; --dataset=digits"
    for each in (file, tmp_path / "model.keras"):
        assert main(["evaluate", f"--model={each}"]) == 2
        assert f"{told} (the default) has 8×8×1: give --dataset." in capfd.readouterr().err
        assert main(["evaluate", f"--model={each}", "--dataset=digits"]) == 2
        assert f"{told} has 8×8×1: give other data." in capfd.readouterr().err
    digits = load(DataSettings(), training=False)
    check_takes((None, 8, 1), digits, True)
    with pytest.raises(UsageError, match="shape 64; "):
        check_takes((64,), digits, True)


def test_what_is_no_model_is_named(found, tmp_path, capfd):
    ticket = found / "tickets" / "round_02"
    (tmp_path / "p.png").write_bytes(b"\x89PNG")
    find = f"{found} is a run of find: retrain one of its tickets first"
    for words, told in (
        (f"--model={tmp_path / 'gone'}", f"no file or folder at {tmp_path / 'gone'}."),
        (f"--model={tmp_path / 'p.png'}", "or a .keras, .h5, .tflite or .onnx file"),
        (f"--model={ticket}", f"{ticket} is a ticket: retrain it first"),
        (f"--model={found}", find),
        (f"--run={found}", find),
    ):
        assert main(["evaluate", words]) == 2
        assert told in capfd.readouterr().err


@pytest.mark.parametrize("dataset", ["image_folder", "idx", "tiny_imagenet", "glyphs"])
def test_a_folder_of_data_that_is_not_there(dataset, tmp_path):
    gone = tmp_path / "gone"
    with pytest.raises(UsageError, match=f"`data_dir` expects .*; there is no folder {gone}"):
        load(DataSettings(dataset, str(gone)))


def test_the_folder_of_a_run_is_neither_a_ticket_nor_a_sweep(found, capfd):
    for folder in (found, found / "tickets"):
        assert main(["inspect", str(folder)]) == 2
        told = f"has round_00 to round_02: give {found / 'tickets' / 'round_02'}, say."
        assert told in capfd.readouterr().err
    before = sorted(found.iterdir())
    assert main(["sweep", "--rounds=1", f"--out={found}"]) == 2
    assert "is the folder of a single run" in capfd.readouterr().err
    assert sorted(found.iterdir()) == before


def test_the_next_command_takes_the_first_format(retrained, proved_here, tmp_path, lines):
    words = ["--formats=tflite,saved_model", "--tolerance=1e-4", f"--out={tmp_path / 'export'}"]
    assert main(["export", f"--run={retrained}", *words]) == 0
    assert f"--model={tmp_path / 'export' / 'model.tflite'}" in lines[-1]
