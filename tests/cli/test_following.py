"""The command that comes next: to be pasted as it is."""

import shlex
from pathlib import Path

import pytest
from conftest import TINY
from networks import prove_here

from lottery_tf.cli.following import beside, command, flags_of_data, say_next
from lottery_tf.cli.main import main
from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import describe
from lottery_tf.data import DataSettings


def nexts(lines: list[str]) -> list[list[str]]:
    """The words of the commands behind lottery-tf."""
    found = [line.removeprefix("Next: ") for line in lines if line.startswith("Next: ")]
    words = [shlex.split(each) for each in found]
    assert all(each[0] == "lottery-tf" for each in words)
    return [each[1:] for each in words]


def test_what_a_shell_would_read_otherwise_is_quoted():
    words = ["retrain", "--ticket=a b/$x'y", Path("~/é"), "--out=plain"]
    assert shlex.split(command(*words)) == ["lottery-tf", *map(str, words)]
    assert command("report", "runs/sweep") == "lottery-tf report runs/sweep"


def test_what_cannot_be_pasted_is_not_said(lines):
    say_next(command("inspect", "\udcff"), command("inspect", "a\x1b[31m"), command("inspect", "é"))
    assert lines == ["Next: lottery-tf inspect 'é'"]


def test_the_folder_that_is_proposed():
    assert beside(Path("runs/find"), "tost") == Path("runs/find_tost")
    assert beside(Path(), "tost") == Path("tost")


def test_the_flags_that_name_the_data():
    data = DataSettings("image_folder", "a b", image_size="8", test_seed=3, batch_size=7)
    assert flags_of_data(describe(data)) == [
        *("--dataset=image_folder", "--data_dir=a b", "--image_size=8x8", "--test_seed=3"),
    ]
    assert flags_of_data({"dataset": "digits", "other": 1}) == ["--dataset=digits"]
    with pytest.raises(UsageError):
        flags_of_data({"dataset": 3})


def test_each_command_ends_with_one_that_goes_on(found, retrained, tmp_path, lines, monkeypatch):
    """Of runs that are finished, so that nothing is trained: find → inspect, retrain → export →
    evaluate."""
    prove_here(monkeypatch)
    assert main(["find", *TINY, "--rounds=2", "--rewind_to=5it", f"--out={found}"]) == 0
    inspect, retrain = nexts(lines)
    assert main(inspect) == 0
    assert retrain[:2] == ["retrain", f"--ticket={found / 'tickets' / 'round_02'}"]
    smoothed = ["--recipe=label_smoothing", "--label_smoothing_epsilon=0.2"]
    lines.clear()
    assert main([*retrain[:2], *smoothed, f"--out={retrained}"]) == 0
    (export,) = nexts(lines)
    assert export == ["export", f"--run={retrained}", f"--out={beside(retrained, 'export')}"]
    lines.clear()
    assert main([*export[:2], f"--out={tmp_path / 'an export'}"]) == 0
    (evaluate,) = nexts(lines)
    assert evaluate == [
        *("evaluate", f"--model={tmp_path / 'an export' / 'saved_model'}", "--dataset=digits"),
    ]
    assert main(evaluate) == 0
