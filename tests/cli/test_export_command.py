"""lottery-tf export for colleagues: raw pixels, and a card."""

import json

import networks  # noqa: F401  # which sets up devices before anything computes
import pytest

from lottery_tf.cli.main import main


def test_an_export_of_raw_pixels(retrained, proved_here, tmp_path, capfd):
    """It is measured as any other, and the card tells of the run, not of its folder."""
    out = tmp_path / "export"
    words = ["export", f"--run={retrained}", f"--out={out}", "--formats=saved_model,tflite"]
    words += ["--tolerance=1e-4"]
    assert main([*words, "--with_preprocessing"]) == 0
    facts = json.loads((out / "export.json").read_text())["saved_model"]
    result = json.loads((retrained / "result.json").read_text())
    assert facts["test_accuracy"] == pytest.approx(result["test_accuracy"])
    assert facts["input_ranges"] == {next(iter(facts["inputs"])): [0, 16]}
    assert len(facts["preprocessing"]["in_model"]["mean"]) == 1
    text = (out / "README.md").read_text()
    for said in ("| Data | digits, ", " test images |", r"label\_smoothing, 2 epochs, seed 0 |"):
        assert said in text
    assert f"{100 * result['sparsity']:.2f} % of the prunable weights".replace(".", r"\.") in text
    assert str(retrained) not in text
    for file in ("saved_model", "model.tflite"):
        capfd.readouterr()
        assert main(["evaluate", f"--model={out / file}"]) == 0
        assert f"accuracy {100 * result['test_accuracy']:.2f} %" in capfd.readouterr().out
    # The same command is done; without the flag it is another export.
    assert main([*words, "--with_preprocessing"]) == 0
    capfd.readouterr()
    assert main(words) == 2
    assert "made with --with_preprocessing" in " ".join(capfd.readouterr().err.split())
