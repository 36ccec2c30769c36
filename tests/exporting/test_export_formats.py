"""Each writer alone: what it writes computes the same, with exact zeros, and says nothing."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from networks import both_kerases

from lottery_tf.common.errors import UsageError
from lottery_tf.exporting import export, onnx, reload, saved_model, tflite
from lottery_tf.exporting.settings import CannotHold
from lottery_tf.graph.compat import keras
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import input_names
from lottery_tf.graph.model_files import load_model

layers = keras.layers


def dense_net(its_keras=keras):
    layers = its_keras.layers
    return its_keras.Sequential(
        [its_keras.Input((100,)), layers.Dense(80, "relu"), layers.Dense(10)]
    )


def conv_net(its_keras=keras):
    layers, two = its_keras.layers, its_keras.initializers.Constant(2.0)
    return its_keras.Sequential(
        [
            its_keras.Input((8, 8, 8)),
            layers.Conv2D(64, 3, use_bias=False),
            layers.BatchNormalization(moving_variance_initializer=two),
            layers.ReLU(),
            layers.DepthwiseConv2D(3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )


def prune(model, sparsity):
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        if len(weight.shape) > 1:
            weight.assign(weight * (rng.random(weight.shape) >= sparsity))


def random_images(model, count=300):
    return np.random.default_rng(1).normal(size=(count, *model.input_shape[1:])).astype(np.float32)


def outputs(path, model, images):
    """More images than one batch of the script, run in this process."""
    (output,) = reload.run(str(path), {input_names(model)[0]: images}).values()
    return output


@pytest.mark.long
@pytest.mark.parametrize(
    ("make", "sparsity", "its_keras"),
    [
        (conv_net, 0.95, keras),
        (conv_net, 0.95, keras3),
        *(
            pytest.param(*case, keras, marks=pytest.mark.e2e)
            for case in [(conv_net, 0.0), (dense_net, 0.5), (dense_net, 0.95)]
        ),
    ],
)
def test_sparse_tflite_computes_the_same_and_is_smaller(make, sparsity, its_keras, tmp_path):
    model = make(its_keras)
    prune(model, sparsity)
    tflite.write(model, tmp_path / "model.tflite")
    images = random_images(model)
    np.testing.assert_allclose(
        outputs(tmp_path / "model.tflite", model, images), model(images), rtol=0, atol=1e-5
    )
    share = (tmp_path / "model.tflite").stat().st_size / (4 * model.count_params())
    # On top of the weights that are left: the places of the zeros, and some kB of graph.
    assert 1 - sparsity < share < 1 - sparsity + 0.35


@pytest.mark.long
@both_kerases
def test_saved_model_reads_without_keras_and_with_it(its_keras, tmp_path):
    model = conv_net(its_keras)
    prune(model, 0.9)
    model.compile("adam", loss=lambda labels, logits: tf.reduce_mean(logits), metrics=["accuracy"])
    saved_model.write(model, tmp_path / "export")
    images = random_images(model)

    np.testing.assert_array_equal(
        outputs(tmp_path / "export", model, images), model.predict(images, batch_size=256)
    )
    plain = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(plain(images), model.predict(images), atol=1e-6)
    names = [f"{getattr(v, 'path', v.name).removesuffix(':0')}:0" for v in model.variables]
    assert [v.name for v in plain.variables] == names
    for before, after in zip(model.get_weights(), plain.variables, strict=True):
        np.testing.assert_array_equal(before, after)
    if its_keras is not keras:
        layer = its_keras.layers.TFSMLayer(tmp_path / "export", "serving_default")
        (output,) = layer(images).values()
        np.testing.assert_allclose(output, model.predict(images), atol=1e-6)
        return
    loaded = keras.models.load_model(tmp_path / "export", compile=False)
    np.testing.assert_allclose(loaded.predict(images), model.predict(images), atol=1e-6)
    assert [v.name for v in loaded.variables] == [v.name for v in model.variables]
    for before, after in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(before == 0, after == 0)
        np.testing.assert_array_equal(before, after)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
@both_kerases
def test_signature_has_named_tensors_and_a_free_batch(its_keras, tmp_path):
    image = its_keras.Input(batch_shape=(7, 4), name="my-image")
    angle = its_keras.Input((2,), name="file")
    layers = its_keras.layers
    both = layers.Concatenate()([image, angle])
    model = its_keras.Model(
        {"image": image, "angle": angle},
        [layers.Dense(3, name="kind")(both), layers.Dense(1, name="age")(both)],
    )
    saved_model.write(model, tmp_path / "export")
    serve = tf.saved_model.load(tmp_path / "export").signatures["serving_default"]
    _, inputs = serve.structured_input_signature
    assert {k: v.shape.as_list() for k, v in inputs.items()} == {
        "my_image": [None, 4],
        "file": [None, 2],
    }
    assert {k: v.shape.as_list() for k, v in serve.structured_outputs.items()} == {
        "kind": [None, 3],
        "age": [None, 1],
    }
    images, angles = np.ones((5, 4), np.float32), np.full((5, 2), 3, np.float32)
    kind, age = model({"image": images, "angle": angles})
    called = tf.saved_model.load(tmp_path / "export")({"image": images, "angle": angles})
    np.testing.assert_allclose(called[0], kind, atol=1e-6)
    got = reload.run(str(tmp_path / "export"), {"my_image": images, "file": angles})
    np.testing.assert_allclose(got["kind"], kind, atol=1e-6)
    np.testing.assert_allclose(got["age"], age, atol=1e-6)


def test_an_operation_that_litert_lacks_is_named(tmp_path):
    model = keras.Sequential([keras.Input((6, 3)), layers.LSTM(4)], name="reader")
    with pytest.raises(CannotHold, match="LiteRT says: .*TensorList"):
        tflite.write(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


@both_kerases
def test_onnx_computes_the_same_by_the_same_names(its_keras, tmp_path):
    inputs, angle = its_keras.Input((8, 8, 8), name="my-image"), its_keras.Input((2,), name="angle")
    features = conv_net(its_keras)(inputs)
    both = its_keras.layers.Concatenate()([features, angle])
    outputs = [
        its_keras.layers.Dense(1, name="age")(both),
        its_keras.layers.ReLU(name="kind")(both),
    ]
    model = its_keras.Model([inputs, angle], outputs)
    prune(model, 0.9)
    onnx.write(model, tmp_path / "model.onnx")
    assert onnx.is_onnx(tmp_path / "model.onnx")
    (tmp_path / "model.tflite").write_bytes(b"    TFL3 and much more")
    assert not onnx.is_onnx(tmp_path / "model.tflite")
    rng = np.random.default_rng(1)
    images, angles = (rng.normal(size=(300, *each.shape[1:])) for each in (inputs, angle))
    images, angles = images.astype(np.float32), angles.astype(np.float32)
    found = reload.run(str(tmp_path / "model.onnx"), {"my_image": images, "angle": angles})
    assert list(found) == ["age", "kind"]
    for got, wanted in zip(found.values(), model([images, angles]), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_without_its_packages_onnx_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UsageError, match=r"tf2onnx for the format onnx: .* extra \[onnx\]"):
        onnx.write(dense_net(), tmp_path / "model.onnx")


def test_what_onnx_lacks_is_one_sentence(tmp_path):
    texts = keras3.Input((2,), dtype="string")
    numbers = keras3.layers.StringLookup(vocabulary=["a", "b"])(texts)
    model = keras3.Model(texts, keras3.layers.Embedding(4, 3)(numbers), name="reader")
    with pytest.raises(CannotHold, match="ONNX's converter says: "):
        onnx.write(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_outputs_of_one_layer_have_names_of_their_own(tmp_path):
    """TensorFlow would keep one of two with the same name."""
    head, inputs = keras3.layers.Dense(2, name="head"), [keras3.Input((3,), name=n) for n in "ab"]
    model = keras3.Model(inputs, [head(each) for each in inputs])
    saved_model.write(model, tmp_path / "export")
    given = [np.full((4, 3), value, np.float32) for value in (1, 2)]
    found = reload.run(str(tmp_path / "export"), dict(zip("ab", given, strict=True)))
    for name, wanted in zip(("head", "head_1"), model(given), strict=True):
        np.testing.assert_allclose(found[name], wanted, atol=1e-6)


@keras3.saving.register_keras_serializable("test_export_formats")
class Undescribed(keras3.layers.Layer):
    """Of a function, which no config holds."""

    def __init__(self, function):
        super().__init__(name="undescribed")
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


@pytest.mark.parametrize(
    ("layer", "loads"),
    [
        (lambda: Undescribed(lambda x: 2 * x), "neither"),
        (lambda: keras3.layers.Lambda(lambda x: 2 * x), "with leave"),
    ],
)
def test_what_holds_code_is_exported_and_loaded_with_leave_alone(layer, loads, tmp_path):
    model = keras3.Sequential([keras3.Input((3,)), layer(), keras3.layers.Dense(2)])
    saved_model.write(model, tmp_path / "export")
    x = np.ones((4, 3), np.float32)
    (output,) = reload.run(str(tmp_path / "export"), {input_names(model)[0]: x}).values()
    np.testing.assert_allclose(output, model(x), atol=1e-6)
    with pytest.raises(UsageError):
        load_model(tmp_path / "export")
    if loads == "with leave":
        np.testing.assert_array_equal(load_model(tmp_path / "export", allow_code=True)(x), model(x))


@pytest.mark.parametrize("damage", ["a layer less", "no text", "another shape"])
def test_a_damaged_description_is_one_sentence(damage, tmp_path):
    saved_model.write(dense_net(keras3), tmp_path / "export")
    file = tmp_path / "export" / "assets.extra" / "model.json"
    if damage == "no text":
        file.write_bytes(b"\xff\xfe\xff")
    elif damage == "another shape":
        file.write_text(file.read_text().replace('"units": 10', '"units": 11'))
    else:
        described = json.loads(file.read_text())
        described["config"]["layers"].pop()
        del described["layer_paths"]
        file.write_text(json.dumps(described))
    for leave in (False, True):
        with pytest.raises(UsageError, match="Expected "):
            load_model(tmp_path / "export", allow_code=leave)


@pytest.mark.long
@both_kerases
def test_writing_is_quiet(its_keras, tmp_path, capfd):
    model = dense_net(its_keras)
    capfd.readouterr()
    saved_model.write(model, tmp_path / "export")
    tflite.write(model, tmp_path / "model.tflite")
    onnx.write(model, tmp_path / "model.onnx")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_keras_loads_layers_of_ones_own_again(proved_here, tmp_path):
    """With their classes and without; and what is there is known as ours, and replaced."""

    class Block(keras.layers.Layer):
        def __init__(self, units=4, **kwargs):
            super().__init__(**kwargs)
            self.mlp = keras.Sequential([keras.layers.Dense(units, "relu"), keras.layers.Dense(4)])

        def call(self, x):
            return x + self.mlp(x)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(Block()(inputs)))
    x = np.ones((2, 4), np.float32)
    for _ in range(2):
        export(model, tmp_path / "export")
        for classes in ({"Block": Block}, None):
            loaded = keras.models.load_model(tmp_path / "export", custom_objects=classes)
            np.testing.assert_array_equal(loaded(x), model(x))
        raw = tf.saved_model.load(str(tmp_path / "export"))
        np.testing.assert_array_equal(raw(x), model(x))
        assert len(raw.variables) == len(model.variables)
