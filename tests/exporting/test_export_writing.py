"""Whole exports, proved in this process, or (e2e) in fresh ones of a few seconds each."""

import json

import numpy as np
import pytest
import tensorflow as tf
from networks import both_kerases, chain

from lottery_tf.common.errors import UsageError
from lottery_tf.exporting import FORMATS, export, write_exports
from lottery_tf.exporting.settings import CannotHold
from lottery_tf.graph.compat import keras
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import named_variables
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.prune_by_mask import get_masks
from lottery_tf.masks.wrapper import set_masks, wrap

layers = keras.layers


def small_net(its_keras=keras):
    inputs, output = its_keras.Input((4,), name="x"), its_keras.layers.Dense(3, name="y")
    return its_keras.Sequential([inputs, output])


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images[..., None] / 16).astype(np.float32), data.target


@pytest.fixture(scope="module")
def ticket(digits):
    """A small convolutional net, 90 % of each kernel pruned, trained a little in its wrappers."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv1")(image)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name="bn1")(x))
    x = layers.Conv2D(32, 3, strides=2, use_bias=False, name="conv2")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name="bn2")(x))
    logits = layers.Dense(10, name="logits")(layers.GlobalAveragePooling2D()(x))
    model = wrap(keras.Model(image, logits))
    rng = np.random.default_rng(0)
    set_masks(
        model, Masks({name: rng.random(m.shape) < 0.1 for name, m in get_masks(model).items()})
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(digits[0][:1400], digits[1][:1400], epochs=3, verbose=0)
    return model


def test_a_trained_ticket_in_every_format(proved, ticket, digits, tmp_path):
    images, labels = digits[0][1400:], digits[1][1400:]
    out = tmp_path / "export"
    facts = write_exports(
        ticket,
        out,
        tuple(FORMATS),
        images=images,
        labels=labels,
        preprocessing={"divide_by": 16},
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]
    assert {p.name for p in out.iterdir()} == {each.file for each in FORMATS.values()} | {
        "export.json",
        "README.md",
    }
    assert json.loads((out / "export.json").read_text()) == facts

    accuracy = np.mean(ticket.predict(images, verbose=0).argmax(axis=1) == labels)
    for each in facts.values():
        assert each["max_abs_difference"] <= 1e-5
        assert each["test_accuracy"] == accuracy
        assert 0 < each["bytes_gzip"] < each["bytes"]
        assert each["images"] == 397
        assert each["inputs"] == {"image": [None, 8, 8, 1]}
        assert each["outputs"] == {"logits": [None, 10]}
        assert each["preprocessing"] == {"divide_by": 16}
        # The masks are no parameters.
        assert each["parameters"] == sum(v.shape.num_elements() for v in ticket.variables) - sum(
            mask.size for mask in get_masks(ticket).values()
        )
    assert facts["tflite"]["bytes"] == (out / "model.tflite").stat().st_size

    loaded = keras.models.load_model(out / "saved_model", compile=False)
    variables = {v.name: v.numpy() for v in tf.saved_model.load(out / "saved_model").variables}
    assert {v.name for v in loaded.variables} == variables.keys()
    for name, mask in get_masks(ticket).items():
        kernel = variables[f"{name}:0"]
        assert np.all(kernel[~mask] == 0)
        np.testing.assert_array_equal(kernel, named_variables(ticket)[name] * mask)


@pytest.mark.long
@pytest.mark.parametrize(
    ("its_keras", "here"),
    # A fresh process reads what was written, whichever Keras had the model.
    [(keras, True), (keras3, True), pytest.param(keras, False, marks=pytest.mark.e2e)],
)
def test_several_inputs_and_outputs(its_keras, here, request, tmp_path):
    if here:
        request.getfixturevalue("proved_here")
    layers, new_input = its_keras.layers, its_keras.Input
    image, angle = new_input((4, 4, 1), name="image"), new_input((2,), name="angle")
    both = layers.Concatenate()([layers.Flatten()(image), angle])
    hidden = layers.Dense(8, "tanh")(both)
    model = its_keras.Model(
        [image, angle], [layers.Dense(3, name="kind")(hidden), layers.Dense(1, name="age")(hidden)]
    )
    rng = np.random.default_rng(0)
    # Links are followed, and an older export is replaced.
    (tmp_path / "latest").symlink_to(tmp_path / "first")
    export(small_net(its_keras), tmp_path / "first")
    images = {"angle": rng.normal(size=(300, 2)), "image": rng.normal(size=(300, 4, 4, 1))}
    facts = export(model, tmp_path / "latest", images)
    of_keras = write_exports(model, tmp_path / "of_keras", ["keras"], images=images)["keras"]
    assert of_keras["max_abs_difference"] <= 1e-6
    assert of_keras["outputs"] == facts["outputs"]
    assert facts["max_abs_difference"] <= 1e-5
    assert facts["test_accuracy"] is None
    assert facts["outputs"] == {"kind": [None, 3], "age": [None, 1]}
    assert (tmp_path / "latest").is_symlink()
    signature = tf.saved_model.load(tmp_path / "first").signatures["serving_default"]
    assert signature.structured_outputs.keys() == {"kind", "age"}
    if its_keras is keras:
        loaded = keras.models.load_model(tmp_path / "first", compile=False)
        assert loaded.output_names == ["kind", "age"]


@both_kerases
def test_a_model_that_reads_texts(its_keras, proved_here, tmp_path):
    """Its table of words is in the export, and texts and bytes go to the proof."""
    layers = its_keras.layers
    texts = its_keras.Input((2,), dtype="string")
    numbers = layers.StringLookup(vocabulary=["a", "ö"])(texts)
    model = its_keras.Model(texts, layers.Flatten()(layers.Embedding(4, 3)(numbers)))
    images = np.array([["a", "ö"], [b"a", "c"]], object)
    facts = export(model, tmp_path / "export", images)
    assert facts["max_abs_difference"] == 0 and facts["max_abs_output"] > 0


def test_a_wrong_export_is_found_and_leaves_nothing(proved_here, tmp_path, monkeypatch):
    """Also if the writer has changed the model itself on its way."""
    right = FORMATS["saved_model"]

    def write_wrong(model, path, **told):
        kernel = model.layers[-1].kernel
        kernel.assign_add(tf.fill(kernel.shape, 1e-4))
        right.write(model, path)

    model = small_net()
    monkeypatch.setitem(FORMATS, "saved_model", right._replace(write=write_wrong))
    with pytest.raises(RuntimeError, match="saved_model does not compute what the model computes"):
        write_exports(model, tmp_path / "export", images=np.ones((5, 4)))
    assert not list(tmp_path.iterdir())


def refuse(model, path):
    raise CannotHold("LiteRT says: there is no FancyOp")


def write_rubbish(model, path):
    path.write_bytes(b"rubbish")


@pytest.mark.parametrize(
    ("write", "said", "its_keras"),
    [
        (refuse, "no FancyOp", keras),
        (refuse, "no FancyOp", keras3),
        # Of one Keras: LiteRT reads the rubbish, in processes that take seconds to start.
        pytest.param(write_rubbish, "could not run model.tflite", keras, marks=pytest.mark.e2e),
    ],
)
def test_a_format_that_cannot_hold_the_model_is_named_and_the_others_stay(
    write, said, its_keras, request, tmp_path, monkeypatch
):
    """Whether it cannot be written, or written and not run; alone it leaves nothing."""
    if write is refuse:
        request.getfixturevalue("proved_here")
    layers, images = its_keras.layers, np.ones((5, 4), np.float32)
    model = its_keras.Sequential([its_keras.Input((4,)), layers.Dense(3)], name="small")
    monkeypatch.setitem(FORMATS, "tflite", FORMATS["tflite"]._replace(write=write))
    with pytest.raises(UsageError, match=f"'small'; tflite cannot: .*{said}.* saved_model is in"):
        write_exports(model, tmp_path / "e", ("saved_model", "tflite"), images=images)
    assert sorted(each.name for each in (tmp_path / "e").iterdir()) == [
        "README.md",
        "export.json",
        "saved_model",
    ]
    assert json.loads((tmp_path / "e" / "export.json").read_text()).keys() == {"saved_model"}
    with pytest.raises(UsageError, match=f"tflite cannot: .*{said}.*Nothing was written"):
        write_exports(model, tmp_path / "alone", ("tflite",), images=images)
    assert not (tmp_path / "alone").exists()


@pytest.mark.long
@both_kerases
def test_litert_computes_in_float32_what_computes_in_16_bits(its_keras, proved_here, tmp_path):
    layers, half = its_keras.layers, {"dtype": "mixed_float16"}
    model = its_keras.Sequential(
        [
            its_keras.Input((4, 4, 1)),
            layers.Conv2D(2, 3, **half),
            layers.Flatten(**half),
            layers.Dense(3),
        ]
    )
    images = np.random.default_rng(0).random((5, 4, 4, 1), np.float32)
    facts = write_exports(model, tmp_path / "e", ("tflite",), images=images, tolerance=1e-2)
    assert 0 < facts["tflite"]["max_abs_difference"] < 1e-2


@both_kerases
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_states_from_batch_to_batch_are_refused(kind, its_keras, tmp_path):
    layers = its_keras.layers
    recurrent = (
        layers.LSTM(2, stateful=True)
        if kind == "LSTM"
        else layers.RNN(layers.GRUCell(2), stateful=True)
    )
    model = its_keras.Sequential(
        [its_keras.Input(batch_shape=(4, 3, 5)), recurrent, layers.Dense(2)]
    )
    with pytest.raises(UsageError, match="keeps its states from batch to batch"):
        export(model, tmp_path / "e")
    assert not list(tmp_path.iterdir())


@pytest.mark.e2e
def test_an_export_that_does_not_load_leaves_the_older_one(tmp_path, monkeypatch):
    facts = {"tflite": {"max_abs_difference": 0, "bytes": 13, "file": "model.tflite"}}
    older = {"export.json": json.dumps(facts), "model.tflite": "    TFL3older"}
    for name, text in older.items():
        (tmp_path / "export").mkdir(exist_ok=True)
        (tmp_path / "export" / name).write_text(text)

    monkeypatch.setitem(FORMATS, "tflite", FORMATS["tflite"]._replace(write=write_rubbish))
    with pytest.raises(UsageError, match=r"could not run model.tflite \(exit code 1\)"):
        write_exports(small_net(), tmp_path / "export", ("tflite",), images=np.ones((5, 4)))
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert {p.name: p.read_text() for p in (tmp_path / "export").iterdir()} == older


def test_a_compiled_model_stays_as_it_is(tmp_path):
    model = small_net()
    model.compile("adam", loss=lambda labels, outputs: tf.reduce_mean(outputs))
    model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    optimizer = model.optimizer
    facts = export(model, f"{tmp_path}/new/export/")
    assert model.optimizer is optimizer and int(optimizer.iterations) == 1
    assert facts["max_abs_difference"] is None
    assert keras.models.load_model(tmp_path / "new" / "export").optimizer is None


@pytest.mark.parametrize("name", ["notes.txt", "notes/todo.txt", "notes/saved_model.pb"])
def test_what_is_not_ours_is_never_replaced(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    (tmp_path / "notes" / "mine.txt").parent.mkdir(exist_ok=True)
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    target = path if name == "notes.txt" else path.parent
    with pytest.raises(UsageError, match="a SavedModel of lottery_tf; it holds something else"):
        export(small_net(), target)
    with pytest.raises(UsageError, match="new or an export; it holds something else"):
        write_exports(small_net(), target, images=np.ones((1, 4)))
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"formats": ("tflit",)},
            "one of saved_model, tflite, onnx or keras, not 'tflit'; nearest: tflite",
        ),
        ({"formats": ()}, "at least one format"),
        ({"images": np.ones((2, 5))}, r"shape \(N, 4\)"),
        ({"labels": [0, 1, 2]}, "2 integer classes"),
        ({"labels": [0.0, 1.0]}, "2 integer classes"),
        ({"model": keras.Sequential([layers.Dense(3)])}, "built model"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(change, words, tmp_path):
    given = {"model": small_net(), "formats": ("saved_model",), "images": np.ones((2, 4))} | change
    with pytest.raises(UsageError, match=words):
        write_exports(out=tmp_path / "export", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.tflit", "a.TFLITE", "a.kera"])
def test_an_ending_that_is_nearly_one_of_a_file_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.tflite, \.onnx or \.keras .* is nearly \."):
        export(small_net(), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.h5", "a.PB", "b/a.json"])
def test_an_ending_of_another_kind_of_file_is_no_folder(name, tmp_path):
    with pytest.raises(UsageError, match="is that of another kind of file"):
        export(small_net(), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("suffix", ["keras", "tflite"])
def test_a_path_that_ends_in_a_format_is_one_file(suffix, its_keras, proved_here, tmp_path):
    model = chain(its_keras.layers.Dense(3))
    path, x = tmp_path / "new" / f"mine.{suffix}", np.ones((4, 4), np.float32)
    facts = export(model, path, x)
    assert facts["file"] == path.name and facts["bytes"] == path.stat().st_size
    assert facts["max_abs_difference"] <= 1e-6
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    model.set_weights([2 * each for each in model.get_weights()])
    assert export(model, path)["max_abs_difference"] is None  # the older one is replaced
    path.write_text("mine")
    with pytest.raises(UsageError, match=f"an older {suffix} file; .* is something else"):
        export(model, path)
    assert path.read_text() == "mine"


@pytest.mark.long
@both_kerases
def test_formats_by_name_are_a_folder_with_a_report(its_keras, proved_here, tmp_path):
    model = chain(its_keras.layers.Dense(3))
    facts = export(model, tmp_path / "out", formats=("keras", "tflite"))
    assert facts.keys() == {"keras", "tflite"}
    names = {each.name for each in (tmp_path / "out").iterdir()}
    assert names == {"model.keras", "model.tflite", "export.json", "README.md"}
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == facts
    assert facts["keras"]["max_abs_difference"] is None
    export(model, tmp_path / "out", np.ones((4, 4), np.float32), ("keras",))  # replaced
    with pytest.raises(UsageError, match="A format is one of .*, not 'kears'; nearest: keras"):
        export(model, tmp_path / "other", formats=("kears",))
