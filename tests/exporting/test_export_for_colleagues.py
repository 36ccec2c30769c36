"""What a colleague gets beside the weights: raw pixels in, probabilities out, names and a card."""

import json
import re
import shutil
from pathlib import Path

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from networks import both_kerases, chain, layers
from twins import batch, twins

from lottery_tf.common.errors import UsageError
from lottery_tf.data.dataset import Dataset
from lottery_tf.data.pictures import read_all
from lottery_tf.data.source import Split
from lottery_tf.exporting import FORMATS, card, export, proof, write_exports
from lottery_tf.exporting.preprocessing import warn_of_images
from lottery_tf.exporting.probabilities import expected, probabilities_of
from lottery_tf.graph.compat import keras
from lottery_tf.graph.model_files import load_model
from lottery_tf.losses.cross_entropy import CrossEntropy, CrossEntropy3

NAMES = ["<b>zero</b>", "one|two", "`x` www.example.org"]


def image_net(its_keras, channels=2):
    layers = its_keras.layers
    return chain(
        layers.Conv2D(3, 3, activation="relu", name="conv"),
        layers.Flatten(name="flat"),
        layers.Dense(3, name="logits"),
        shape=(5, 5, channels),
    )


def pixels(channels=2, count=9):
    return np.random.default_rng(0).integers(0, 256, (count, 5, 5, channels)).astype(np.float32)


MOMENTS = {"mean": [100.0, 30.0], "std": [50.0, 60.0]}


@pytest.mark.long
@both_kerases
def test_raw_pixels_in_every_format(its_keras, proved_here, tmp_path):
    """(x − mean) / std by hand, and the model stays as it is."""
    model, x = image_net(its_keras), pixels()
    before = [layer.name for layer in model.layers]
    facts = export(
        *(model, tmp_path / "out", x, tuple(FORMATS)),
        labels=np.zeros(9, int),
        class_names=NAMES,
        preprocessing={**MOMENTS, "dataset": "two channels"},
        with_preprocessing=True,
    )
    by_hand = model((x - [100, 30]) / [50, 60]).numpy().argmax(-1)
    for each in facts.values():
        assert each["max_abs_difference"] <= 1e-5
        assert each["test_accuracy"] == np.mean(by_hand == 0)
        assert each["class_names"] == NAMES
        assert each["input_ranges"].popitem()[1] == [x.min(), x.max()]
        # Whoever normalises by these numbers, as `evaluate` does, leaves the pixels as they are.
        assert (each["preprocessing"]["mean"], each["preprocessing"]["std"]) == ([0, 0], [1, 1])
        assert each["preprocessing"]["in_model"] == MOMENTS
        assert each["preprocessing"]["dataset"] == "two channels"
    assert [layer.name for layer in model.layers] == before
    names = [layer.name for layer in load_model(tmp_path / "out" / "model.keras").layers]
    assert names[1:] == ["subtract_mean", "divide_by_std", *before[1:]]


@both_kerases
def test_the_normalisation_is_that_of_training_to_the_bit(its_keras, tmp_path):
    images = its_keras.Input((5, 5, 2))
    model = its_keras.Model(images, its_keras.layers.Activation("linear")(images))
    mean, std = (33.31842145, 128.25), (78.56748998, 0.1)
    facts = export(
        *(model, tmp_path / "model.keras"),
        preprocessing={"mean": np.array(mean), "std": std},
        with_preprocessing=True,
    )
    assert facts["preprocessing"]["in_model"] == {"mean": list(mean), "std": list(std)}
    split = Split(pixels().astype(np.uint8), np.zeros(9, np.int32))
    data = Dataset("d", split, split, split, 2, mean, std, False, 0, 1)
    got = load_model(tmp_path / "model.keras")(pixels())
    np.testing.assert_array_equal(got, data.normalise(split.images))


@both_kerases
def test_a_wrong_normalisation_is_found(its_keras, proved_here, monkeypatch, tmp_path):
    rescaling = its_keras.layers.Rescaling
    monkeypatch.setattr(
        its_keras.layers, "Rescaling", lambda scale, offset, name: rescaling(1.0, 0.0, name=name)
    )
    with pytest.raises(RuntimeError, match="does not compute what the model computes"):
        export(
            *(image_net(its_keras), tmp_path / "out", pixels()),
            preprocessing=MOMENTS,
            with_preprocessing=True,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, r"mean and std to put into the export, .* got none"),
        ({"divide_by": 255}, "got divide_by"),
        ({"mean": [1, 2, 3], "std": 1}, r"mean .* one number, or one for each of 2 channels"),
        ({"mean": 0, "std": [1, 0]}, "std .* finite and above 0"),
        ({"mean": np.nan, "std": 1}, "mean .* finite; got nan"),
        ({"mean": "grey", "std": 1}, "got grey"),
    ],
)
def test_a_preprocessing_that_does_not_fit_is_one_sentence(given, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        export(*(image_net(keras), tmp_path / "out"), preprocessing=given, with_preprocessing=True)
    assert not list(tmp_path.iterdir())


@both_kerases
@pytest.mark.parametrize("name", ["shared", "tokens"])
def test_inputs_that_are_no_single_image_are_refused(name, its_keras, tmp_path):
    model = twins(name)[its_keras is keras3]
    with pytest.raises(UsageError, match="one input of floating-point numbers to normalise"):
        export(
            *(model, tmp_path / "out"),
            preprocessing={"mean": 0, "std": 255},
            with_preprocessing=True,
        )


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("name", ["mlp", "images", "nested", "sequential"])
def test_networks_of_every_kind_take_a_normalisation(name, its_keras, proved_here, tmp_path):
    model, (x, _) = twins(name)[its_keras is keras3], batch(name)
    facts = export(
        *(model, tmp_path / "out", x),
        preprocessing={"mean": 0.5, "std": 2},
        with_preprocessing=True,
    )
    assert facts["max_abs_difference"] <= 1e-5
    # Of a softmax the probabilities are the output.
    ways = {"mlp": "none"}.get(name, "softmax")
    assert [*facts["probabilities"].values()] == [ways]
    assert facts["predict_max_abs_difference"] <= 1e-5


@both_kerases
def test_predict_gives_probabilities_beside_logits(its_keras, proved_here, tmp_path):
    model, x = image_net(its_keras), pixels()
    export(model, tmp_path / "out", x)
    loaded = tf.saved_model.load(tmp_path / "out")
    default = loaded.signatures["serving_default"].structured_outputs
    assert list(default) == ["logits"]
    (name,) = loaded.signatures["predict"].structured_input_signature[1]
    found = loaded.signatures["predict"](**{name: tf.constant(x)})
    assert found.keys() == {"logits", "probabilities"}
    np.testing.assert_allclose(found["logits"], model(x), atol=1e-5)
    np.testing.assert_allclose(found["probabilities"], tf.nn.softmax(model(x)), atol=1e-6)


def test_probabilities_by_hand():
    logits = {"y": np.array([[0.0, np.log(3.0)], [1000.0, -1000.0]])}
    found = expected({"y": "softmax"}, logits)
    np.testing.assert_allclose(found["probabilities"], [[0.25, 0.75], [1, 0]])
    found = expected({"y": "sigmoid"}, logits)
    np.testing.assert_allclose(found["probabilities"], [[0.5, 0.75], [1, 0]])
    assert expected({"probabilities": "none"}, {"probabilities": logits["y"]}).keys() == {
        "probabilities"
    }
    assert expected({"probabilities": "softmax"}, {"probabilities": logits["y"]}).keys() == {
        *("probabilities", "probabilities_")
    }
    assert expected({"b": "softmax"}, {"a": logits["y"], "b": logits["y"]}).keys() == {
        *("a", "b", "probabilities_b")
    }


@both_kerases
def test_which_probabilities_an_output_has(its_keras):
    layers = its_keras.layers
    inputs = its_keras.Input((4,))
    heads = {
        "logits": layers.Dense(3, name="logits"),
        "soft": layers.Dense(3, "softmax", name="soft"),
        "labels": layers.Dense(3, "sigmoid", name="labels"),
        "age": layers.Dense(1, name="age"),
        "odd": layers.Dense(3, "tanh", name="odd"),
    }
    model = its_keras.Model(inputs, [head(inputs) for head in heads.values()])
    # Of one unit, and of tanh, it is not known: no guess.
    assert probabilities_of(model) == {"logits": "softmax", "soft": "none", "labels": "none"}
    assert probabilities_of(model, None) == {}
    # A softmax of what is a softmax already is never written.
    for way in ("softmax", "sigmoid"):
        with pytest.raises(UsageError, match="the probabilities of a softmax already: give"):
            probabilities_of(model, way)
        with pytest.raises(UsageError, match=f"logits to take the {way} of; .* gives sigmoids"):
            probabilities_of(its_keras.Model(inputs, heads["labels"](inputs)), way)
    logits = its_keras.Model(inputs, [heads[name](inputs) for name in ("logits", "age", "odd")])
    assert probabilities_of(logits, "sigmoid") == dict.fromkeys(("logits", "age", "odd"), "sigmoid")
    with pytest.raises(UsageError, match="auto, softmax, sigmoid or none, or None, not 'argmax'"):
        probabilities_of(model, "argmax")


@pytest.mark.parametrize(
    ("loss", "way"),
    [
        ("binary_crossentropy", "sigmoid"),
        (lambda of: of.losses.BinaryCrossentropy(from_logits=True), "sigmoid"),
        (lambda of: of.losses.SparseCategoricalCrossentropy(from_logits=True), "softmax"),
        (lambda of: (CrossEntropy if of is keras else CrossEntropy3)(), "softmax"),
        ("mse", None),
        ("categorical_hinge", None),
    ],
)
@both_kerases
def test_the_loss_tells_what_logits_are(its_keras, loss, way):
    """Of several labels at once a softmax would be wrong, of a regression any."""
    model = chain(its_keras.layers.Dense(3, name="logits"))
    model.compile("sgd", loss(its_keras) if callable(loss) else loss)
    assert probabilities_of(model) == ({} if way is None else {"logits": way})


def test_one_unit_tells_two_classes_apart(tmp_path):
    model = chain(layers.Dense(1, "sigmoid", name="dog"))
    facts = export(model, tmp_path / "out", formats="keras", class_names=["cat", "dog"])
    assert facts["keras"]["class_names"] == ["cat", "dog"]


def test_numbers_of_preprocessing_are_of_numpy_or_many(tmp_path):
    model = chain(layers.Dense(2, name="d"))
    many = {"mean": [np.float32(0.5)] * 20, "std": (np.float64(2.0),)}
    facts = export(model, tmp_path / "out", formats="keras", preprocessing=many)
    assert facts["keras"]["preprocessing"] == {"mean": [0.5] * 20, "std": [2.0]}
    assert "20 values, in export.json" in (tmp_path / "out" / "README.md").read_text()


def test_wrong_probabilities_are_found(tmp_path, monkeypatch, proved_here):
    run = proof.reloaded_outputs

    def wrong(*args):
        found = run(*args)
        found[0]["predict:probabilities"] = found[0]["predict:probabilities"] + np.float32(1e-3)
        return found

    monkeypatch.setattr(proof, "reloaded_outputs", wrong)
    with pytest.raises(RuntimeError, match="The signature predict does not compute"):
        export(image_net(keras), tmp_path / "out", pixels())
    missing = {"y": np.zeros((2, 3)), "probabilities": np.zeros((2, 3))}
    with pytest.raises(RuntimeError, match="has other outputs"):
        proof.check_predict(missing, {"y": np.zeros((2, 3))})
    assert not list(tmp_path.iterdir())


def blocks(text):
    return re.findall(r"~~~python\n(.*?)~~~", text, re.DOTALL)


@pytest.mark.long
@both_kerases
def test_the_card_says_how_to_load_each_format(its_keras, proved_here, monkeypatch, tmp_path):
    """Its five lines run, and names are shown as they are."""
    model, x = image_net(its_keras), pixels() / 255
    write_exports(
        *(model, tmp_path / "out", tuple(FORMATS)),
        images=x,
        labels=np.zeros(9, int),
        class_names=NAMES,
        preprocessing={"divide_by": 255},
        about={"Data": "a|b <script>"},
        source={"run": "/home/somebody/run"},
    )
    text = (tmp_path / "out" / "README.md").read_text()
    assert "somebody" not in text and "<script>" not in text.replace(r"\<script\>", "")
    for words in (
        r"| Data | a\|b \<script\> |",
        r"0: \<b\>zero\<\/b\>, 1: one\|two, 2: \`x\` www\.example\.org |",
        "float32, shape (N, 5, 5, 2), ",
        "| Output | logits, shape (N, 3) |",
        r"| Preprocessing | divide\_by: 255 |",
        "of 9 examples",
        "softmax of logits",
    ):
        assert words in text
    monkeypatch.chdir(tmp_path / "out")
    code = blocks(text)
    assert len(code) == len(FORMATS)
    for lines in code:
        assert len(lines.strip().splitlines()) == 5
        given = {}
        exec(lines, given)
        outputs = given["outputs"]
        outputs = outputs["logits"] if isinstance(outputs, dict) else outputs
        np.testing.assert_allclose(outputs, model(np.zeros((1, 5, 5, 2))), atol=1e-5)


@pytest.mark.parametrize(
    ("scale", "resize", "channels"), [(1, "center_crop", 3), (255, "resize", 1)]
)
def test_the_card_says_how_a_picture_becomes_a_class(
    scale, resize, channels, proved_here, monkeypatch, tmp_path, capsys
):
    """The pixels are to the bit those that ``image_folder`` gives the training."""
    layers = keras.layers
    shape = (4, 6, channels)
    model = chain(layers.Flatten(), layers.Dense(3, name="d"), shape=shape)
    file = tmp_path / "picture.png"
    picture = np.random.default_rng(0).integers(0, 256, (30, 21, 3)).astype(np.uint8)
    tf.io.write_file(str(file), tf.io.encode_png(picture))
    (pixels,) = read_all([file], shape[:2], resize, channels)
    x = pixels[None] / np.float32(scale)
    moments = {"mean": [127 / scale] * channels, "std": [64 / scale] * channels}
    own = {"class_names": ["cat", "dog", "cow"], "images": x}
    write_exports(
        *(model, tmp_path / "out", ["saved_model"]),
        **own,
        preprocessing=moments,
        with_preprocessing=True,
        source={"data": {"image_resize": resize}},
    )
    monkeypatch.chdir(tmp_path / "out")
    shutil.move(file, tmp_path / "out")
    exec(blocks(Path("README.md").read_text())[-1])
    best = tf.nn.softmax(model((x - moments["mean"]) / moments["std"]))[0].numpy()
    name, probability = capsys.readouterr().out.split()[-2:]
    assert name == own["class_names"][best.argmax()]
    assert float(probability) == pytest.approx(best.max(), rel=1e-6)
    # Without the normalisation there is more to do, which is not known here.
    write_exports(model, tmp_path / "other", ["saved_model"], **own)
    assert "picture" not in (tmp_path / "other" / "README.md").read_text()


def test_a_card_that_was_edited_is_never_replaced(proved_here, tmp_path):
    model, file = image_net(keras), tmp_path / "out" / "README.md"
    export(model, tmp_path / "out", formats="keras")
    export(model, tmp_path / "out", formats="keras")
    assert card.is_card(file)
    file.write_text(file.read_text() + "Ask me.\n")
    with pytest.raises(UsageError, match=r"something else, .*README.md, which is never"):
        export(model, tmp_path / "out", formats="keras")
    assert file.read_text().endswith("Ask me.\n")


def test_names_and_lines_for_the_card_go_into_a_folder(tmp_path):
    model = image_net(keras)
    for told in ({"class_names": NAMES}, {"about": {"Data": "digits"}}):
        with pytest.raises(UsageError, match=f"formats=… with {next(iter(told))}.*='tflite'"):
            export(model, tmp_path / "m.tflite", **told)
    for formats in (None, "keras"):
        with pytest.raises(UsageError, match="Expected images with labels"):
            export(model, tmp_path / "m.tflite", formats=formats, labels=[0])
    with pytest.raises(UsageError, match="Expected 3 class_names, .* got 2"):
        export(model, tmp_path / "out", formats="keras", class_names=NAMES[:2])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["m.keras", "saved_model"])
def test_labels_measure_a_single_export(name, proved_here, tmp_path):
    model, x = image_net(keras), pixels()
    labels = model(x).numpy().argmax(-1)
    labels[0] = (labels[0] + 1) % 3
    assert export(model, tmp_path / name, x, labels=labels)["test_accuracy"] == 8 / 9
    with pytest.raises(UsageError, match="9 integer classes"):
        export(model, tmp_path / name, x, labels=labels[1:])


def test_the_card_has_lines_of_the_users_own(proved_here, tmp_path):
    export(image_net(keras), tmp_path / "out", formats="keras", about={"Data": "digits"})
    assert "| Data | digits |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("raw", "moments"),
    [
        (pixels(), MOMENTS),
        (pixels() / 255, {"mean": 0.5, "std": [0.25, 0.3]}),
        (pixels() / 255 * 16, {"mean": 0, "std": 16}),
    ],
)
def test_images_of_the_other_kind_are_told(raw, moments, lines):
    """Raw pixels where normalised images are expected, and the other way round."""
    model, normalised = image_net(keras), (raw - moments["mean"]) / moments["std"]
    for inside, right, wrong, words in (
        (True, raw, normalised, "look normalised already"),
        (False, normalised, raw, "look like raw pixels"),
    ):
        warn_of_images(model, moments, inside, {"x": right.astype(np.float32)})
        assert not lines
        warn_of_images(model, moments, inside, {"x": wrong.astype(np.float32)})
        assert words in lines.pop() and not lines


@pytest.mark.parametrize(
    ("given", "images"),
    [
        (MOMENTS, np.zeros((2, 5, 5, 2), np.float32)),  # of one number nothing is to be read
        ({"mean": 0, "std": 1}, pixels()),  # both kinds are the same
        ({"mean": "as in the paper", "std": "1"}, pixels()),
        ({"divide_by": 255}, pixels()),
        (None, pixels()),
    ],
)
def test_of_images_that_may_be_either_nothing_is_said(given, images, lines):
    for inside in (True, False):
        warn_of_images(image_net(keras), given, inside, {"x": images})
    assert not lines


def test_export_warns_of_normalised_images(proved_here, lines, tmp_path):
    for path, formats in ((tmp_path / "m.keras", None), (tmp_path / "out", "keras")):
        export(
            *(image_net(keras), path, pixels() / 255, formats),
            preprocessing=MOMENTS,
            with_preprocessing=True,
        )
        assert "look normalised already" in lines.pop(0)
        export(image_net(keras), path, pixels(), formats, preprocessing=MOMENTS)
        assert "look like raw pixels" in lines.pop(0)


def test_many_classes_are_in_the_report(proved_here, tmp_path):
    model = chain(keras.layers.Dense(60))
    names = [f"class {n}" for n in range(60)]
    export(model, tmp_path / "out", formats="keras", class_names=names)
    assert (
        "49: class 49 and 10 more, in export.json" in (tmp_path / "out" / "README.md").read_text()
    )
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["keras"]["class_names"] == names
