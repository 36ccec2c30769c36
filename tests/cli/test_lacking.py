"""What a command lacks is told at once, in one sentence."""

import re

import pytest

from lottery_tf.cli.main import main

ROUNDS = r"--rounds=N or --sparsity=SHARE \(where pruning ends\)"
OUT = r"--out=DIR \(the folder to write to\)"


@pytest.mark.parametrize(
    ("words", "lacking"),
    [
        ("find", f"{ROUNDS} and {OUT}; they were"),
        ("find --out=x", f"{ROUNDS}; it was"),
        ("find --rounds=3", f"{OUT}; it was"),
        ("find --dataset=idx", rf"{ROUNDS}, --data_dir=DIR \(a folder of IDX.*\) and {OUT}; they"),
        ("find --dataset=image_folder --rounds=1 --out=x", r"--data_dir=DIR \(.*\); it was"),
        ("find --method=snip", rf"--sparsity=SHARE \(where pruning ends\) and {OUT}; they"),
        ("find --method=snip --structure=2:4", f"{OUT}; it"),
        ("find --structure=2:4", f"{OUT}; it"),
        ("find --method=from_model", rf"--model_path=FILE \(the pruned model\) and {OUT}; they"),
        ("retrain", rf"--ticket=DIR \(the ticket to retrain\) and {OUT}; they"),
        ("retrain --ticket=x", f"{OUT}; it"),
        ("sweep", rf"--rounds=N, --sparsity=SHARE or --sparsities=.* and {OUT}; they"),
        ("sweep --sparsities=0.5", f"{OUT}; it"),
        ("sweep --methods=snip,imp --rounds=3", rf"--sparsity=SHARE or --sparsities=.* and {OUT}"),
        ("sweep --rounds=1 --out=x --dataset=idx", "--data_dir=DIR .*; it"),
        ("export", rf"--run=DIR \(the retrain run to export\) and {OUT}; they"),
        ("evaluate --dataset=idx", r"--run=DIR .* or --model=PATH .* and --data_dir=DIR .*; they"),
        ("evaluate --dataset=idx --model=x", r"--data_dir=DIR .*; it"),
        ("report", "a folder with retrain runs below it; it"),
    ],
)
def test_all_that_a_command_lacks_is_told_at_once(words, lacking, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    out, err = capfd.readouterr()
    command = words.split()[0]
    assert re.fullmatch(f"lottery-tf {command}: Expected {lacking}.* not given.\n", err), err
    assert not out and not list(tmp_path.iterdir())


def test_what_a_grid_file_or_an_axis_says_is_not_lacking(tmp_path, capfd):
    grid = tmp_path / "grid.yaml"
    grid.write_text("cells: {a: {sparsities: [0.5]}, b: {rounds: 3}, c: {dataset: idx}}")
    assert main(["sweep", f"--grid={grid}", "--cells=a,b"]) == 2
    assert "Expected --out=DIR" in capfd.readouterr().err
    assert main(["sweep", f"--grid={grid}"]) == 2
    told = capfd.readouterr().err
    assert "--rounds=N" in told and "--data_dir=DIR" in told and told.count("--out=DIR") == 1
    words = ["--dataset=idx", "--vary=data_dir:/a,/b", "--rounds=1"]
    assert main(["sweep", *words]) == 2
    assert "Expected --out=DIR" in capfd.readouterr().err
