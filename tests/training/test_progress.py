"""The lines that a training shows, and how far it says it is, to the second."""

import sys

import numpy as np
import pytest

from lottery_tf.training.course import Course
from lottery_tf.training.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A list with the time in it."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def epoch(progress, clock, seconds, steps, **logs):
    clock[0] += seconds
    progress.set_params({"steps": steps})
    progress.on_epoch_end(0, {name: np.float32(value) for name, value in logs.items()})


def test_every_line(clock, capsys):
    """Two trainings of 4 steps, 2 an epoch. The first epoch, of 30 s, compiles: it tells how long
    the rest takes until there is another, and no longer then."""
    progress = Progress(2, steps=8, steps_per_epoch=2)
    progress.begin("round 0", 4)
    epoch(progress, clock, 30, 2, accuracy=0.5, loss=1.23456, mae=3, a_fourth=4)
    epoch(progress, clock, 10, 2, loss=0.5)
    clock[0] += 2
    progress.end("sparsity 20 %")
    progress.begin("round 1", 4)
    epoch(progress, clock, 10, 2)
    epoch(progress, clock, 10, 2, loss=0)
    progress.end()
    assert capsys.readouterr().out.splitlines() == [
        "round 0  epoch 1 of 2  loss 1.235  accuracy 0.5  mae 3  about 90 s left",
        "round 0  epoch 2 of 2  loss 0.5  about 20 s left",
        "round 0  sparsity 20 %  42 s  about 24 s left",
        "round 1  epoch 1 of 2  about 11 s left",
        "round 1  epoch 2 of 2  loss 0",
        "round 1  20 s",
    ]


def test_an_epoch_that_is_cut_short_and_a_training_that_ends_early(clock, capsys):
    progress = Progress(2, steps=20, steps_per_epoch=4)
    progress.begin("a", 10)
    for steps in (4, 4, 2):
        epoch(progress, clock, 10, steps)
    progress.begin("b", 8)
    epoch(progress, clock, 10, 4)
    progress.end()  # its other 4 steps do not come
    assert [line.partition("  about")[0] for line in capsys.readouterr().out.splitlines()] == [
        "a  epoch 1 of 3",
        "a  epoch 2 of 3",
        "a  epoch 3 of 3",
        "b  epoch 1 of 2",
        "b  10 s",
    ]
    assert progress._left() == "about 4 s left"  # 30 s for 14 steps, 2 are left


def test_one_line_is_blanked_before_a_shorter_one(clock, capsys):
    progress = Progress(1, steps=2, steps_per_epoch=1)
    progress.begin("a long name", 2)
    progress.begin("short", 2)
    epoch(progress, clock, 1, 1)
    progress.end("x")
    line = "short  epoch 1 of 2  about 1 s left"
    end = "short  x  1 s"
    assert capsys.readouterr().out == (
        f"\ra long name\rshort      \r{line}\r{end.ljust(len(line))}\n"
    )


def test_what_stays_in_a_terminal_is_whole(clock, capsys, monkeypatch):
    """Only what is written over is cut to its width."""
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = Progress(1, steps=2, steps_per_epoch=1)
    progress.begin("a name that is longer than that", 2)
    progress.end("sparsity 20 %")
    moving, stays = capsys.readouterr().out.split("\r")[1:]
    assert moving == "a name that is lon…"
    assert stays == "a name that is longer than that  sparsity 20 %  0 s\n"


def test_where_nothing_is_shown_it_is_counted(clock, capsys):
    progress = Progress(0, steps=4, steps_per_epoch=1)
    progress.begin("a", 2)
    epoch(progress, clock, 1, 1)
    progress.end()
    assert capsys.readouterr().out == "" and progress._left() == "about 1 s left"


class Moves(Course):
    def __init__(self):
        super().__init__()
        self.seen = []

    def moved(self, epoch_is_done):
        left = self.seconds_left
        self.seen.append((self.epoch, self.epochs, epoch_is_done, left, dict(self.metrics)))


def test_a_course_that_goes_on_in_its_second_epoch(clock):
    """From step 3 to 16 in epochs of 5, gone on with at step 10; executions have 2 steps."""
    course = Moves()
    assert (course.epoch, course.epochs, course.metrics) == (0, 0, {})
    course.training_begins(3, 10, 16, 5)
    assert course.epoch == 0 and course.epochs == 3 and course.seconds_left is None
    for first, steps in ((10, 3), (13, 3)):
        course.set_params({"steps": steps})
        course.on_epoch_begin(0)
        for batch in range(1, steps + 1, 2):  # Keras 3 counts to the end of an execution
            clock[0] += 4
            course.on_train_batch_end(batch)
        course.on_epoch_end(0, {"loss": np.float32(first), "each": np.ones(2)})
    one, two = {"loss": 10.0}, {"loss": 13.0}
    assert course.seen == [
        (2, 3, False, None, {}),
        (2, 3, False, 12.0, {}),
        (2, 3, True, 12.0, one),
        (3, 3, False, 8 / 3, one),
        (3, 3, False, 0.0, one),
        (3, 3, True, 0.0, two),
    ]
    course.training_begins(0, 0, 10, 5)
    assert (course.epoch, course.metrics, course.seconds_left) == (0, {}, None)
