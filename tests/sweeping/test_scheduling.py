"""Which trial comes when: with trials of words, and futures that are done at once."""

import dataclasses
from concurrent.futures import Future

import pytest

from lottery_tf.common.errors import UsageError
from lottery_tf.sweeping.attempt import Outcome
from lottery_tf.sweeping.scheduling import Progress, run_trials


@dataclasses.dataclass(frozen=True)
class Step:
    folder: str
    needs: tuple = ()
    kind: str = "step"
    there: bool = False

    def finished(self, out):
        return self.there


def in_turn(outcomes=None, order=None):
    """submit, each attempt over at once: those of ``outcomes`` by folder, else a success."""
    left = {folder: list(several) for folder, several in (outcomes or {}).items()}

    def submit(trial):
        (order if order is not None else []).append(trial.folder)
        future = Future()
        found = left.get(trial.folder) or [Outcome(1.0)]
        one = found.pop(0)
        future.set_exception(one) if isinstance(one, Exception) else future.set_result(one)
        return future

    return submit


def test_each_comes_after_those_it_needs_and_what_is_there_does_not_come():
    order = []
    trials = [
        Step("c", ("a", "b")),
        Step("b", ("a",)),
        Step("a"),
        Step("d", ("old",)),
        Step("old", there=True),
    ]
    done = run_trials(trials, None, in_turn(order=order))
    assert sorted(order) == ["a", "b", "c", "d"]
    assert order.index("a") < order.index("b") < order.index("c")
    assert done.finished == {"a", "b", "c", "d", "old"} and not done.failed


@pytest.mark.parametrize("lost", [Outcome(1.0, error="full"), ChildProcessError("died by SIGKILL")])
def test_a_failed_trial_is_tried_again_so_often(lost):
    order = []
    done = run_trials([Step("a")], None, in_turn({"a": [lost, lost]}, order), retries=2)
    assert order == ["a"] * 3 and done.finished == {"a"}
    order = []
    done = run_trials([Step("a")], None, in_turn({"a": [lost, lost]}, order), retries=1)
    assert order == ["a"] * 2 and not done.finished
    assert "full" in done.failed["a"] or "SIGKILL" in done.failed["a"]


def test_a_mistake_is_not_tried_again_and_what_needs_the_trial_does_not_come():
    order = []
    trials = [Step("a"), Step("b", ("a",)), Step("c", ("b",)), Step("other")]
    mistake = Outcome(1.0, error="Expected a.", hopeless=True)
    done = run_trials(trials, None, in_turn({"a": [mistake]}, order), retries=5)
    assert sorted(order) == ["a", "other"] and done.finished == {"other"}
    assert done.failed == {
        "a": "Expected a.",
        "b": "a, which it needs, failed",
        "c": "b, which it needs, failed",
    }


def test_a_folder_of_another_run_fails_alone():
    class Odd(Step):
        def finished(self, out):
            raise UsageError("It belongs to another.")

    order = []
    done = run_trials([Odd("a"), Step("b", ("a",)), Step("c")], None, in_turn(order=order))
    assert order == ["c"] and done.finished == {"c"}
    assert done.failed["a"] == "It belongs to another. Or remove a to run it anew."
    assert "a, which it needs, failed" in done.failed["b"]


def test_what_failed_before_is_not_tried_and_is_told():
    order = []
    trials = [Step("a"), Step("b", ("a",)), Step("c")]
    done = run_trials(trials, None, in_turn(order=order), failed={"a": "Expected a."})
    assert order == ["c"] and done.finished == {"c"}
    assert done.failed == {"a": "Expected a.", "b": "a, which it needs, failed"}


def test_what_was_there_before_what_it_needs_is_looked_at_again():
    """As when the folder of a ticket was thrown away, and is there again with another ticket."""

    class Later(Step):
        def finished(self, out):
            if "ticket" in order:
                raise UsageError("It has another ticket.")
            return True

    order = []
    trials = [Step("ticket"), Later("old", ("ticket",)), Step("new", ("ticket",))]
    done = run_trials(trials, None, in_turn(order=order))
    assert order == ["ticket", "new"] and done.finished == {"ticket", "new"}
    assert done.failed == {"old": "It has another ticket. Or remove old to run it anew."}


def test_what_is_left_is_estimated_from_what_is_done(monkeypatch):
    """Ten of 8 s side by side in 40 s: two at a time."""
    clock = [0.0]
    monkeypatch.setattr("lottery_tf.sweeping.scheduling.time.perf_counter", lambda: clock[0])
    trials = [Step(str(number)) for number in range(16)] + [Step("f", kind="find")]
    progress = Progress(trials, {"f"}, _start=0.0)
    assert progress.left("step") == 16 and progress.left("find") == 0
    assert progress.seconds_left() is None
    for number in range(10):
        progress.finished.add(str(number))
        progress.took("step", 8.0)
    clock[0] = 40.0
    assert progress.seconds_left() == pytest.approx(6 * 8 / 2)
    progress.failed["15"] = "why"
    assert progress.left("step") == 5
