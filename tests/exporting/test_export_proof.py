"""What the comparison lets pass, on numbers that can be checked by hand."""

import gzip

import numpy as np
import pytest
from networks import chain

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.exporting import proof, sizes, write_exports
from lottery_tf.graph.compat import keras

LOGITS = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])


def test_facts_of_a_faithful_export():
    facts = proof.compare("x", {"y": LOGITS}, {"y": LOGITS + 2**-17}, np.array([0, 1, 1]))
    assert facts == {
        "max_abs_difference": 2**-17,
        "test_accuracy": 2 / 3,
        "near_ties": 0,
        "tolerance": 1e-5,
        "max_abs_output": 3.0,
        "images": 3,
    }


def test_the_largest_output_is_that_of_any_output_and_sign():
    outputs = {"first": LOGITS, "second": -3 * LOGITS}
    assert proof.compare("x", outputs, outputs)["max_abs_output"] == 9


@pytest.mark.parametrize("change", [2e-5, np.nan, np.inf])
def test_one_wrong_number_is_refused(change):
    got = LOGITS.copy()
    got[1, 0] += change
    outputs = {"first": LOGITS, "second": LOGITS}
    with pytest.raises(RuntimeError, match="x does not compute what the model computes: max"):
        proof.compare("x", outputs, {"first": LOGITS, "second": got})


def test_nan_is_refused_in_both():
    with pytest.raises(RuntimeError, match="max |Δ| is nan"):
        proof.compare("x", {"y": LOGITS * np.nan}, {"y": LOGITS * np.nan})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_whose_outputs_are_not_finite_is_not_exported(value, of, tmp_path):
    model = chain(of.layers.Dense(2, name="logits"), shape=(2,))
    model.set_weights([np.array([[value, 0], [0, 1]]), np.zeros(2)])
    images = np.array([[0, 1], [1, 1], [2, 1]], np.float32)
    sentence = (
        f"Expected finite outputs of the model '{model.name}' to export; 'logits' is NaN or "
        "infinite for 3 of 3 images. Has its training diverged? Nothing was written."
    )
    with pytest.raises(UsageError) as caught:
        lt.export(model, tmp_path / "export", images)
    assert str(caught.value) == sentence
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("got", [{"z": LOGITS}, {"y": LOGITS[:, :1]}])
def test_other_outputs_are_refused(got):
    with pytest.raises(RuntimeError, match="other outputs than the model"):
        proof.compare("x", {"y": LOGITS}, got)


def test_a_near_tie_is_no_reason_to_refuse(lines):
    """5e-6 apart, but on the other side of a tie: of two images one."""
    expected = np.array([[1.0, 1.0 + 5e-6], [2.0, 1.0]])
    got = np.array([[1.0 + 5e-6, 1.0], [2.0, 1.0]])
    facts = proof.compare("x", {"y": expected}, {"y": got}, np.array([1, 0]))
    assert (facts["test_accuracy"], facts["near_ties"]) == (0.5, 1)
    assert facts["max_abs_difference"] == pytest.approx(5e-6)
    assert lines == [
        "x: 1 of 2 images have another class than the model gives them; its two largest outputs "
        "are there within 1e-05 of each other."
    ]
    # With the same classes, but further away than is allowed, it is refused as ever.
    with pytest.raises(RuntimeError, match="max |Δ| is 3e-06"):
        proof.compare("x", {"y": expected}, {"y": got}, np.array([1, 0]), tolerance=3e-6)


@pytest.mark.long
@pytest.mark.parametrize("gap", [9e-6, -9e-6, 3e-5])
def test_a_model_of_two_near_tied_logits_is_exported(of, gap, proved_here, monkeypatch, tmp_path):
    """A network whose first logit is above its second by the gap, which the artefact lowers by
    1.2e-5: only a gap between the two is another class."""
    model = of.Sequential([of.Input((2,)), of.layers.Dense(2)])
    model.set_weights([np.eye(2), np.array([gap, 0])])
    outputs = proof.reloaded_outputs

    def lower(*args):
        found = outputs(*args)
        return [{n: each - np.float32([1.2e-5, 0]) for n, each in one.items()} for one in found]

    monkeypatch.setattr(proof, "reloaded_outputs", lower)
    images, labels = np.zeros((4, 2), np.float32), np.zeros(4, int)
    with pytest.raises(RuntimeError, match="does not compute what the model computes"):
        write_exports(model, tmp_path, images=images, labels=labels)
    assert not any(tmp_path.iterdir())
    found = write_exports(model, tmp_path, images=images, labels=labels, tolerance=2e-5)
    facts = found["saved_model"]
    changed = 0 < gap < 1.2e-5
    assert facts["near_ties"] == (4 if changed else 0)
    assert facts["test_accuracy"] == float(gap > 1.2e-5)


def test_a_larger_difference_is_allowed_on_request_only():
    large = 30 * LOGITS
    with pytest.raises(RuntimeError, match="`tolerance`"):
        proof.compare("tflite", {"y": large}, {"y": large + 2e-4})
    facts = proof.compare("tflite", {"y": large}, {"y": large + 2e-4}, tolerance=3e-4)
    assert facts["tolerance"] == 3e-4


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((3, 5)), r"shape \(N, 4\) for the input 'x', N ≥ 1, got \(3, 5\)"),
        (np.zeros((0, 4)), r"N ≥ 1, got \(0, 4\)"),
        (None, r"got \(\)"),
        ({"z": np.zeros((3, 4))}, "model's inputs x, got them for z"),
    ],
)
def test_images_that_do_not_fit(images, words):
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)])
    with pytest.raises(UsageError, match=words):
        proof.named_inputs(model, images)


def test_as_many_examples_for_each_input():
    a, b = (keras.Input((4,), name=name) for name in "ab")
    model = keras.Model([a, b], keras.layers.Add()([a, b]))
    images = {"a": np.zeros((3, 4)), "b": np.zeros((2, 4))}
    with pytest.raises(UsageError, match="as many examples for each input, got 3 for a, 2 for b"):
        proof.named_inputs(model, images)


def test_the_models_outputs_are_those_of_inference(monkeypatch):
    """Of inputs by name, in batches of two and one."""
    monkeypatch.setattr(proof, "BATCH", 2)
    a, b = (keras.Input((1,), name=name) for name in "ab")
    y = keras.layers.Dropout(0.5, name="y")(keras.layers.Subtract()([a, b]))
    model = keras.Model([a, b], y)
    inputs = proof.named_inputs(model, {"b": [[10], [20], [30]], "a": [[1], [2], [3]]})
    outputs = proof.model_outputs(model, dict(reversed(inputs.items())))
    assert list(outputs) == ["y"] and outputs["y"].tolist() == [[-9], [-18], [-27]]


def test_sizes(tmp_path):
    for name, content in {"b": b"x" * 1000, "a/c": b"y" * 2000}.items():
        path = tmp_path / "export" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "file").write_bytes(b"x" * 1000)
    (tmp_path / "export" / ".DS_Store").write_text("how the folder is shown")
    assert sizes.size(tmp_path / "export") == 3000
    assert sizes.size(tmp_path / "file") == 1000
    assert sizes.gzip_size(tmp_path / "file") == len(gzip.compress(b"x" * 1000, mtime=0))
    assert 100 < sizes.gzip_size(tmp_path / "export") < 300
