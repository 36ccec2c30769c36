"""find and retrain on two devices and in two processes give what they give on one device."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY
from networks import keys_of_its_own

import lottery_tf as lt
from lottery_tf.cli.main import main
from lottery_tf.common.files import read_json, read_json_lines, write_json
from lottery_tf.graph.compat import keras
from lottery_tf.models import BUILDERS
from lottery_tf.runs.folder import load_saved_model

FIND = (
    *("find", *TINY, "--steps_per_execution=50"),
    *("--rounds=1", "--rewind_to=5it", "--nojit_compile"),
)
RETRAIN = (
    "retrain",
    "--recipe=tost,distillation",
    "--rescaled_init_iterations=3",
    "--soft_activation_share=0.4",
)
# Sums in another order: about 1e-7 of a gradient, forty steps of Adam at 0.002.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def ticket_of(run):
    return run / "tickets" / "round_01"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A ticket found, and retrained, on one device."""
    out = tmp_path_factory.mktemp("runs")
    assert main([*FIND, f"--out={out / 'find'}"]) == 0
    ticket = ticket_of(out / "find")
    assert main([*RETRAIN, f"--ticket={ticket}", f"--out={out / 'retrain'}"]) == 0
    return out


def assert_same_find(run, one):
    for number in range(2):
        ours, theirs = (
            lt.Ticket.load(each / "tickets" / f"round_{number:02}") for each in (run, one)
        )
        assert ours.masks == theirs.masks
        for name, value in ours.weights.items():
            np.testing.assert_allclose(value, theirs.weights[name], **CLOSE, err_msg=name)
            if name in ours.masks:
                assert not value[~ours.masks[name]].any()
    rows = zip(*(read_json_lines(each / "metrics.jsonl") for each in (run, one)), strict=True)
    for ours, theirs in rows:
        for name in ours.keys() - {"seconds", "dense_model_sha256"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    assert_same_model(run / "dense_model", one / "dense_model")


def assert_same_retrain(run, one, masks):
    ours, theirs = (read_json(each / "result.json") for each in (run, one))
    for tweak in ("signal_scaling", "rescaled_init"):
        for name, found in ours.pop(tweak).items():
            assert found == pytest.approx(theirs[tweak][name], rel=1e-4), name
    for name in ours.keys() - {"seconds", "tweaks", "recipe", "ticket", "sha256"}:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    model = assert_same_model(run / "model", one / "model")
    for name, mask in masks.items():
        kernel = model.get_layer(name.partition("/")[0]).kernel.numpy()
        assert not kernel[~mask].any() and kernel[mask].all()
    assert not (run / "checkpoint").exists()


def assert_same_model(ours, theirs):
    ours, theirs = load_saved_model(ours), load_saved_model(theirs)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)
    return ours


def small(shape, classes, width):
    """In the place of the zoo's, which takes half a minute to trace for two devices."""
    layers = keras.layers

    def block(x, strides, name):
        x = layers.Conv2D(width, 3, strides, "same", use_bias=False, name=f"{name}_conv")(x)
        return layers.BatchNormalization(name=f"{name}_bn")(x)

    images = keras.Input(shape)
    x = layers.ReLU()(block(images, 2, "stem"))
    x = layers.ReLU()(layers.Add()([x, block(x, 1, "residual")]))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(block(x, 4, "last")))
    return keras.Model(images, layers.Dense(classes, name="head")(x))


def on_two_devices(*command):
    """The exit code of a command on the two logical CPUs that networks.py makes."""
    keys_of_its_own()
    return main([*command, "--strategy=mirrored"])


@pytest.mark.e2e
def test_two_devices_do_as_one_does(one, tmp_path, broken_off, capsys):
    """What was begun on one goes on on two; what was found on two is read as any other."""
    found, parts = tmp_path / "find", tmp_path / "retrain"
    retrain = [*RETRAIN, f"--ticket={ticket_of(one / 'find')}", f"--out={parts}"]
    with broken_off(2):
        assert main(retrain) == 130
    assert (parts / "checkpoint").exists()
    uneven = [*FIND, "--batch_size=63", f"--out={tmp_path / 'uneven'}"]
    xla = [*FIND, "--jit_compile", f"--out={tmp_path / 'xla'}"]
    evaluate = ["evaluate", f"--run={one / 'retrain'}", "--split=train"]
    assert on_two_devices(*FIND, f"--out={found}") == 0
    assert on_two_devices(*retrain) == 0
    capsys.readouterr()
    for words, message in (
        (uneven, "--batch_size that the 2 devices can share equally, not 63: give a multiple of 2"),
        (xla, "Expected no --jit_compile with 2 devices"),
    ):
        assert on_two_devices(*words) == 2
        assert message in capsys.readouterr().err
    assert on_two_devices(*evaluate) == 0
    accuracy = read_json(one / "retrain" / "result.json")["train_accuracy"]
    assert f"accuracy {100 * accuracy:.2f} %" in capsys.readouterr().out
    assert_same_find(found, one / "find")
    masks = lt.Ticket.load(ticket_of(one / "find")).masks
    assert_same_retrain(parts, one / "retrain", masks)
    assert read_json(found / "config.json")["devices"] == 2
    assert read_json(parts / "config.json")["devices"] == 1


@pytest.mark.e2e
@pytest.mark.parametrize("method", ["synflow", "grasp"])
def test_scores_and_batchnorm_on_two_devices(method, tmp_path, monkeypatch):
    """A network with BatchNorm, whose statistics are those of the whole batch on any number."""
    network = ("--model=resnet8_half", "--width=4", "--optimizer=sgd", "--learning_rate=0.05")
    words = (*FIND[:-3], *network, "--train_for=12it", "--rewind_to=2it", "--sparsity=0.5")
    words = (*words, f"--method={method}", *(["--score_rounds=5"] * (method == "synflow")))
    monkeypatch.setitem(BUILDERS, "resnet8_half", small)
    trained = method == "synflow"  # what is trained then hangs on no method
    if not trained:
        words = (*words, "--notrain_tickets")
    assert main([*words, f"--out={tmp_path / 'one'}"]) == 0
    assert on_two_devices(*words, f"--out={tmp_path / 'two'}") == 0
    one, two = (lt.Ticket.load(ticket_of(tmp_path / each)) for each in ("one", "two"))
    assert one.masks == two.masks and "last_conv/kernel" in one.masks
    for folder in ("one", "two") if trained else ():
        dense = load_saved_model(tmp_path / folder / "dense_model")
        assert not any(getattr(layer, "synchronized", False) for layer in dense.layers)
    # Keras' fused kernel, for one device only, divides a variance by N - 1, and others by N; the
    # last block has N = 64 values a channel in a batch.
    for name, value in two.weights.items():
        close = {"rtol": 1 / 63} if name.endswith("moving_variance") else CLOSE
        np.testing.assert_allclose(value, one.weights[name], **close, err_msg=name)
    if not trained:
        return
    dense = (load_saved_model(tmp_path / each / "dense_model") for each in ("one", "two"))
    for ours, theirs in zip(*(model.trainable_variables for model in dense), strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)


@pytest.mark.e2e
def test_two_workers_do_as_one_device_does(one, tmp_path):
    """The chief alone writes and speaks, once."""
    launcher = Path(__file__).parents[2] / "launch" / "workers.py"
    ticket = f"--ticket={ticket_of(one / 'find')}"
    for command in (FIND, (*RETRAIN, ticket)):
        out = f"--out={tmp_path / command[0]}"
        words = ["--workers=2", "--", sys.executable, "-m", "lottery_tf", *command, out]
        done = subprocess.run(
            [sys.executable, str(launcher), *words],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "worker 1" not in done.stderr
    assert_same_find(tmp_path / "find", one / "find")
    masks = lt.Ticket.load(ticket_of(one / "find")).masks
    assert_same_retrain(tmp_path / "retrain", one / "retrain", masks)
    assert read_json(tmp_path / "retrain" / "config.json")["devices"] == 2
    assert {each.name for each in tmp_path.rglob(".*")} == {".lock"}


def test_all_gpus_of_a_machine_that_has_none(tmp_path, capsys, monkeypatch):
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    logical = tf.config.list_logical_devices
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: logical(kind)[:1])
    assert main([*FIND, "--strategy=mirrored", f"--out={tmp_path / 'find'}"]) == 2
    assert "Expected GPUs with --strategy=mirrored" in capsys.readouterr().err
    assert not (tmp_path / "find").exists()


@pytest.mark.parametrize("config", [None, "{bad"])
def test_several_workers_need_a_cluster(config, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config:
        monkeypatch.setenv("TF_CONFIG", config)
    assert main([*FIND, "--strategy=multi_worker", f"--out={tmp_path}"]) == 2
    assert "Expected TF_CONFIG" in capsys.readouterr().err


def test_a_run_from_before_there_were_precisions_goes_on(found, tmp_path, capsys):
    words = ("find", *TINY, "--rounds=2", "--rewind_to=5it")
    run = tmp_path / "find"
    shutil.copytree(found, run)
    config = read_json(run / "config.json")
    assert config.pop("precision") == "float32" and config.pop("devices") == 1
    write_json(run / "config.json", config)
    assert main([*words, f"--out={run}"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main([*words, "--precision=mixed_float16", f"--out={run}"]) == 2
    assert "precision is 'float32' there and 'mixed_float16' here" in capsys.readouterr().err


@pytest.mark.e2e
def test_a_ticket_of_one_precision_is_retrained_in_another(tmp_path, proved_here):
    """Tickets and finished models are plain float32, and export as any other."""
    found = tmp_path / "find"
    assert main([*FIND, "--precision=mixed_float16", f"--out={found}"]) == 0
    ticket = lt.Ticket.load(ticket_of(found))
    assert "mixed" not in ticket.architecture
    assert {value.dtype.name for value in ticket.weights.values()} == {"float32"}
    assert load_saved_model(found / "dense_model").dtype_policy.name == "float32"
    for given, precision in (([], "mixed_float16"), (["--precision=float32"], "float32")):
        out = tmp_path / precision
        assert main(["retrain", f"--ticket={ticket_of(found)}", *given, f"--out={out}"]) == 0
        assert read_json(out / "config.json")["precision"] == precision
        model = load_saved_model(out / "model")
        assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
        for name, mask in ticket.masks.items():
            kernel = model.get_layer(name.partition("/")[0]).kernel.numpy()
            assert not kernel[~mask].any()
    one, other = (
        load_saved_model(tmp_path / each / "model").get_weights()
        for each in ("mixed_float16", "float32")
    )
    assert any((a != b).any() for a, b in zip(one, other, strict=True))
    words = [f"--run={tmp_path / 'mixed_float16'}", "--formats=saved_model,tflite"]
    assert main(["export", *words, f"--out={tmp_path / 'export'}"]) == 0
