"""What is shown of a training: one line in a terminal, lines on stderr elsewhere."""

import io

import pytest
from rich.console import Console

from lottery_tf.cli import terminal
from lottery_tf.cli.main import main
from lottery_tf.cli.terminal import TrainingStatus
from lottery_tf.training import course


class Status:
    def __init__(self):
        self.shown = []

    def update(self, line):
        self.shown.append(line)


@pytest.fixture
def clock(monkeypatch):
    """The time, a second later at each look."""
    seconds = iter(range(10_000))
    for module in (terminal, course):
        monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(seconds)))


def shown_by(monkeypatch, terminal_is, label="round 1 of 8", width=80):
    console = Console(file=io.StringIO(), force_terminal=terminal_is, width=width)
    monkeypatch.setattr(terminal, "console", console)
    return TrainingStatus(Status(), label)


def train(status, epochs, steps, begun=0, position=0):
    """As Keras' fit calls it, two steps at a time, from ``position`` on."""
    status.training_begins(begun, position, begun + epochs * steps, steps)
    while position < begun + epochs * steps:
        left = steps - (position - begun) % steps
        status.set_params({"epochs": 1, "steps": left})
        status.on_epoch_begin(0)
        for batch in range(1, left + 1, 2):
            status.on_train_batch_end(batch, {})
        status.on_epoch_end(0, {"accuracy": 0.9, "val_accuracy": 0.85})
        position += left
    status.on_train_end()


def test_in_a_terminal_one_line_says_where_it_is_and_what_is_left(monkeypatch, clock):
    status = shown_by(monkeypatch, True)
    train(status, epochs=3, steps=4)
    first, *_, last, after = status.status.shown
    assert first == "round 1 of 8: epoch 1 of 3"
    assert last == "round 1 of 8: epoch 3 of 3, 0 s left, accuracy 90.00 %, dev 85.00 %"
    assert after == "round 1 of 8: measuring"
    assert any("epoch 2 of 3, " in line and "s left, acc" in line for line in status.status.shown)


def test_the_epochs_of_a_training_that_goes_on_are_counted_from_its_begin(monkeypatch, clock):
    """From within the second epoch, of a training that began at step 5."""
    status = shown_by(monkeypatch, True)
    train(status, epochs=3, steps=4, begun=5, position=11)
    assert status.status.shown[0] == "round 1 of 8: epoch 2 of 3"
    assert status.status.shown[-2].startswith("round 1 of 8: epoch 3 of 3, 0 s left")


def test_the_line_fits_the_terminal(monkeypatch, clock):
    label = "signal_scaling,soft_activation,ghost_skips"
    status = shown_by(monkeypatch, True, label)
    train(status, epochs=100, steps=4)
    assert max(map(len, status.status.shown[:-1])) <= 78
    assert any(line.startswith("signal_scaling,") for line in status.status.shown)


def test_elsewhere_it_is_a_line_a_minute_on_stderr(monkeypatch, clock, lines):
    status = shown_by(monkeypatch, False)
    train(status, epochs=40, steps=4)
    assert len(lines) == 2  # in 120 seconds: two executions an epoch, and its end
    assert all(line.startswith("round 1 of 8: epoch ") for line in lines)
    lines.clear()
    train(shown_by(monkeypatch, False), epochs=2, steps=4)
    assert lines == []  # of what is short


def test_retrain_shows_its_training(found, tmp_path, monkeypatch, lines, capfd):
    monkeypatch.setattr(terminal, "_A_LINE", 0.0)
    words = ["retrain", f"--ticket={found / 'tickets' / 'round_02'}", f"--out={tmp_path / 'run'}"]
    lines.clear()
    capfd.readouterr()
    assert main(words) == 0
    shown = [line for line in lines if "epoch" in line]
    assert shown[0].startswith("vanilla: epoch 1 of 2")
    assert shown[-1].startswith("vanilla: epoch 2 of 2, 0 s left, accuracy ")
    assert ", dev " in shown[-1]
    out = capfd.readouterr().out
    assert out.startswith("vanilla  sparsity 35.99 %  test ") and out.count("\n") == 1
