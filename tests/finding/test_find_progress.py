"""What a program sees while tickets are found, and what a ticket says it was found with."""

import json
import re
import sys

import numpy as np
import pytest
from networks import chain, examples

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.tickets.origin import described
from lottery_tf.training import progress
from lottery_tf.training.progress import Progress

pytestmark = pytest.mark.usefixtures("untraced")


def network(of):
    return chain(of.layers.Dense(6, "relu", name="first"), of.layers.Dense(3, name="head"))


def find(of, **settings):
    given = {"epochs": 2, "sparsity": 0.36, "metrics": None, **settings}
    return lt.find_ticket(network(of), examples(64), optimizer=of.optimizers.SGD(0.1), **given)


@pytest.mark.long
def test_a_line_an_epoch_and_a_round(of, capsys, recwarn):
    """64 examples are two batches an epoch; 0.36 is two rounds of 20 %."""
    find(of, verbose=2, dev_data=examples(8))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    for number, name in enumerate(("0 of 2 (dense)", "1 of 2", "2 of 2")):
        first, second, end = lines[3 * number : 3 * number + 3]
        assert first.startswith(f"round {name}  epoch 1 of 2  loss ") and "left" in first
        assert second.startswith(f"round {name}  epoch 2 of 2  loss ")
        assert re.search(r"sparsity [\d.]+ %  dev_loss [\d.]+  \d+ s", end)
    assert "about" in lines[5] and "left" not in lines[8]
    assert not [each for each in recwarn if "ran out of data" in str(each.message)]


@pytest.mark.long
def test_one_line_is_written_over(of, capsys):
    find(of, verbose=1)
    text = capsys.readouterr().out
    assert text.count("\n") == 3 and text.count("\repoch") == 0
    assert text.count("\rround 1 of 2") == 4  # it begins, two epochs, and its end


def test_a_metric_that_is_no_number_is_not_shown(of, capsys):
    found = of.metrics.F1Score(average=None, name="each")
    one_hot = np.eye(3, dtype="float32")[np.arange(8) % 3]
    data = examples(8)[0], one_hot
    loss = of.losses.CategoricalCrossentropy(from_logits=True)
    own = {"optimizer": of.optimizers.SGD(0.1), "epochs": 1, "rounds": 0, "loss": loss}
    lt.find_ticket(network(of), data, metrics=[found], verbose=2, **own)
    assert "loss" in capsys.readouterr().out


@pytest.mark.long
def test_nothing_is_shown_where_nothing_is_asked_for(of, capsys, monkeypatch):
    find(of, verbose=0)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(progress, "is_chief", lambda: False)
    find(of, verbose=2)
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="verbose to be 0, 1, 2 or 'auto', not 3"):
        find(of, verbose=3)


def test_auto_is_a_moving_line_for_whoever_watches(monkeypatch):
    assert Progress("auto", 1, 1).verbose == 2
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    assert Progress("auto", 1, 1).verbose == 1


def test_a_line_that_is_written_over_is_as_wide_as_the_terminal(monkeypatch, capsys):
    """Less one, or the next line would begin below it."""
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Progress(1, 4, 2).begin("round 1 of 20, which is a long one", 2)
    line = capsys.readouterr().out
    assert line[0] == "\r" and len(line[1:]) == 19 and line[1:].startswith("round 1 of 20")


@pytest.mark.long
@pytest.mark.parametrize("method", ["gmp", "snip", "omp"])
def test_rounds_of_other_methods(method, of, capsys):
    extra = {"gmp_frequency": "1it"} if method == "gmp" else {}
    find(of, verbose=2, method=method, **extra)
    lines = capsys.readouterr().out.splitlines()
    ends = [line for line in lines if "sparsity" in line]
    assert [line[:12] for line in ends] == ["round 0 of 1", "round 1 of 1"]
    assert "left" not in ends[-1]


@pytest.mark.long
def test_a_ticket_says_what_it_was_found_with(of, tmp_path):
    ticket = find(of, verbose=0, class_weight={0: 2.0, 1: 1, 2: 1}, prune_fraction=0.2)
    found = ticket.info["found_with"]
    assert found["optimizer"]["class_name"] == "SGD"
    assert found["optimizer"]["learning_rate"] == pytest.approx(0.1)
    assert found | {"optimizer": 0} == {
        **{"optimizer": 0, "class_weight": {"0": 2.0, "1": 1, "2": 1}, "epochs": 2, "seed": 0},
        **{"prune_layers": found["prune_layers"], "keep_dense": found["keep_dense"]},
        **{"sparsity": 0.36, "prune_fraction": 0.2, "method": "imp"},
    }
    # Those of a run are another matter: `retrain` takes them over.
    assert "settings" not in ticket.info
    ticket.save(tmp_path / "ticket")
    assert lt.Ticket.load(tmp_path / "ticket").info == ticket.info
    assert "Found with optimizer='SGD', " in str(ticket) and "sparsity=0.36" in str(ticket)


def test_a_pruned_ticket_says_so_too(of):
    ticket = lt.prune(network(of), "random", 0.5, seed=3)
    found = ticket.info["found_with"]
    assert (found["method"], found["sparsity"], found["seed"]) == ("random", 0.5, 3)
    assert json.loads(json.dumps(found)) == found


def test_what_json_does_not_know_has_a_name():
    def mine(y, z):
        return y - z

    class Odd:
        def get_config(self):
            raise NotImplementedError

    found = described(
        {"loss": mine, "none": None, "odd": Odd(), "losses": {"a": mine, 1: (2, 0.5)}}
    )
    assert found["loss"] == "mine" and found["losses"] == {"a": "mine", "1": [2, 0.5]}
    assert "none" not in found and "Odd" in found["odd"] and len(found["odd"]) <= 80
