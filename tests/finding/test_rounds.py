"""A round that was interrupted goes on where it was."""

import math

import numpy as np
import pytest
import tensorflow as tf
from networks import assert_same, both_kerases, chain, examples, values
from small_trainers import Steps, small_trainer

import lottery_tf as lt
from lottery_tf.finding import rounds as module
from lottery_tf.finding.rounds import _LastFinite, _train, _Training, find
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.graph.compat import Callback, keras, keras_of
from lottery_tf.masks.settings import PrunableSettings
from lottery_tf.masks.wrapper import all_kept
from lottery_tf.training.checkpoints import Checkpoints, State
from lottery_tf.training.settings import CheckpointSettings
from lottery_tf.training.trainer import Trainer


def interrupted(its_keras, path):
    """A round 1 that has been saved at step 7, in its second epoch of five steps."""
    trainer, _ = small_trainer(its_keras=its_keras)
    trainer.fit(7, last=False)
    saved, held = Checkpoints(path / "checkpoint"), {"one/kernel": np.ones(3)}
    saved.begin(100.0)
    saved.save(trainer, State({"round": 1, "part": "train", "k": 2}, {"finite": held}))


@both_kerases
@pytest.mark.parametrize("begun", [None, 0])
def test_it_goes_on_in_the_middle_of_an_epoch(begun, its_keras, tmp_path):
    interrupted(its_keras, tmp_path)
    trainer, seen = small_trainer(its_keras=its_keras)
    steps, after = Steps(trainer), Steps(trainer)
    training = _Training(trainer, Checkpoints(tmp_path / "checkpoint"), [steps.callback()])
    training.resume()
    training.begin(1)
    assert training.checkpoints.seconds >= 100
    assert training.saved("train")["k"] == 2 and training.saved("dense") is None
    assert training.arrays("train", "finite").keys() == {"one/kernel"}
    assert training.arrays("train", "masks") is training.arrays("dense", "finite") is None
    training.run("train", 13, begun=begun)
    assert steps.epochs == [10, 13] and seen[0] == 7
    assert training.saved("train") is None  # what comes now begins anew

    training.run("train", 17, begun=10, callbacks=[after.callback()])
    assert after.epochs == [15, 17] and steps.epochs == [10, 13]


@both_kerases
def test_another_round_or_part_begins_anew(its_keras, tmp_path):
    interrupted(its_keras, tmp_path)
    for number, part in ((1, "dense"), (2, "train")):
        trainer, seen = small_trainer(its_keras=its_keras)
        training = _Training(trainer, Checkpoints(tmp_path / "checkpoint"), [])
        training.resume()
        training.begin(number)
        assert (training.checkpoints.seconds >= 100) == (number == 1)
        training.run(part, 3)
        assert seen[0] == 0 and trainer.step == 3


class Breaks(Callback):
    """Makes the weights NaN."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.set_weights([np.full((1, 1), np.nan)])


@pytest.mark.parametrize("finite", [{}, {"finite": {"one/kernel": np.full((1, 1), 0.25)}}])
@both_kerases
def test_a_round_that_diverges_has_the_last_finite_weights_of_before(finite, its_keras, tmp_path):
    """Those that the checkpoint has beside its weights, or else its weights."""
    trainer, _ = small_trainer(its_keras=its_keras)
    trainer.model.set_weights([np.full((1, 1), 0.5)])
    saved = State({"round": 1, "part": "train"}, finite)
    Checkpoints(tmp_path / "checkpoint").save(trainer, saved)
    trainer, _ = small_trainer(its_keras=its_keras)
    training = _Training(trainer, Checkpoints(tmp_path / "checkpoint"), [Breaks()])
    training.resume()
    training.begin(1)
    assert _train(training, 5, {}, last=False, on_nan="skip_round") == 1
    assert values(trainer.model)["one/kernel"] == (0.25 if finite else 0.5)


@both_kerases
def test_which_weights_are_the_last_finite_ones(its_keras):
    trainer, _ = small_trainer(its_keras=its_keras)
    kept = _LastFinite(trainer, None)
    for weight, logs, there in (
        (1.0, {"loss": 0.5}, 1),
        (2.0, None, 2),  # without a loss the weights decide
        (3.0, {"loss": math.nan}, 2),
        (4.0, {"loss": math.inf}, 2),
        (math.nan, {"loss": 0.5}, 2),
        (5.0, {"loss": 0.5}, 5),
    ):
        trainer.model.set_weights([np.full((1, 1), weight)])
        kept.on_epoch_end(0, logs)
        assert kept.weights["one/kernel"] == there


def test_what_is_saved_says_where_it_was(tmp_path):
    trainer, _ = small_trainer(steps_per_execution=1)
    every_step = CheckpointSettings("1it")
    training = _Training(trainer, Checkpoints(tmp_path / "checkpoint", every_step), [])
    training.resume()  # there is nothing
    training.begin(4)
    arrays = {"masks": {"one/kernel": np.ones(3)}}
    training.run("dense", 5, lambda: arrays, {"k": 2})
    found = Checkpoints(tmp_path / "checkpoint")
    facts = found.facts()
    assert facts.pop("seconds") > 0
    assert facts == {"round": 4, "part": "dense", "k": 2, "position": 5}
    assert found.has("masks")


class PowerCut(BaseException):
    pass


class Cuts(Callback):
    """Cuts the power when so many steps are done, before the last is saved."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise PowerCut


def network(its_keras):
    layers = its_keras.layers
    return chain(layers.Dense(4, "relu", name="first"), layers.Dense(3, name="second"))


def dense_ticket(model, settings):
    return lt.Ticket.of(model, all_kept(model, PrunableSettings()), {"method": settings.method})


def trainer_of(ticket):
    model = ticket.build()
    its_keras = keras_of(model)
    batches = tf.data.Dataset.from_tensor_slices(examples(20)).batch(4).repeat()
    return Trainer(
        *(model, batches.skip, 5, its_keras.optimizers.SGD(0.1, 0.9)),
        its_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=(),
    )


def rounds_of(model, settings, checkpoints, cut_after):
    """The trained weights of each round, and the tickets; cut again and again, where there is a
    checkpoint. The rest of the training is as in a new process: all objects are new."""
    initial = dense_ticket(model, settings)
    tickets, trained, cuts = [], {}, 0
    while True:
        trainer = trainer_of(initial)
        kept = Checkpoints(checkpoints, CheckpointSettings("2it"))
        found = find(
            *(tickets[-1] if tickets else initial, trainer, settings, 9, [Cuts(cut_after)]),
            on_ticket=tickets.append,
            checkpoints=kept,
        )
        try:
            for each in found:
                trained[each.number] = values(trainer.model)
                kept.remove()
            return trained, tickets, cuts
        except PowerCut:
            cuts += 1


GMP = {"method": "gmp", "sparsity": 0.8, "gmp_frequency": "3it", "gmp_end": "7it"}
CUT = {
    "imp": {"rounds": 1},
    "imp that keeps its weights": {"rounds": 1, "rewind": "learning_rate"},
    "gmp": {**GMP, "regrow": True},
    "gmp that keeps its weights": {**GMP, "rewind": "learning_rate"},
    "one of scores": {"method": "erk", "sparsity": 0.8},
}


@pytest.mark.long
@pytest.mark.parametrize("cut", CUT)
@both_kerases
@pytest.mark.usefixtures("untraced")
def test_what_is_cut_short_in_any_part_goes_on_to_the_same_bits(cut, its_keras, tmp_path):
    settings, model = FindingSettings(rewind_to="1it", **CUT[cut]), network(its_keras)
    whole, tickets, _ = rounds_of(model, settings, None, 0)
    parts, others, cuts = rounds_of(model, settings, tmp_path / "checkpoint", 5)
    assert cuts >= 3 and whole.keys() == parts.keys()
    for number, weights in whole.items():
        assert_same(parts[number], weights)
    assert len(others) == len(tickets)
    for one, other in zip(tickets, others, strict=True):
        assert one.masks == other.masks
        assert_same(one.weights, other.weights)


@both_kerases
@pytest.mark.usefixtures("untraced")
def test_a_ticket_of_the_last_round_or_behind_it_is_the_last(its_keras, monkeypatch):
    """As where a run with fewer rounds begins with the tickets of one with more. What each worker
    must have is named by its round."""
    named = []
    monkeypatch.setattr(module, "check_same", lambda what, each: named.append(what))
    settings = FindingSettings(rounds=1)
    initial = dense_ticket(network(its_keras), settings)
    tickets = []
    rounds = find(initial, trainer_of(initial), settings, 3, on_ticket=tickets.append)
    assert [each.number for each in rounds] == [0, 1]
    assert [ticket.info["round"] for ticket in tickets] == [0, 1, 2]
    assert named == ["masks and weights of round 1", "masks and weights of round 2"]
    for ticket in tickets[1:]:
        rounds = find(ticket, trainer_of(initial), settings, 3)
        assert [each.number for each in rounds] == [ticket.info["round"]]


@pytest.mark.usefixtures("untraced")
def test_a_ticket_without_a_seed_has_the_seed_0():
    settings = FindingSettings(method="random", sparsity=0.5, train_tickets=False)
    initial = dense_ticket(network(keras), settings)
    seeded = [initial, *(dense_ticket(network(keras), settings) for _ in range(2))]
    found = []
    for ticket, seed in zip(seeded, (None, 0, 1), strict=True):
        if seed is not None:
            ticket.info["seed"] = seed
        *_, last = find(ticket, trainer_of(ticket), settings, 3)
        found.append(last.ticket.masks)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("cut", "parts"),
    [
        ("imp", ["start", "train"]),
        ("gmp", ["start", "masks", "train"]),
        ("gmp that keeps its weights", ["start", "masks", "after_masks", "train"]),
    ],
)
@pytest.mark.usefixtures("untraced")
def test_a_checkpoint_names_its_round_and_part(cut, parts, tmp_path, monkeypatch):
    named, save = [], Checkpoints.save

    def noted(self, trainer, state, *args):
        named.append((state.facts["round"], state.facts["part"]))
        return save(self, trainer, state, *args)

    monkeypatch.setattr(Checkpoints, "save", noted)
    settings = FindingSettings(rewind_to="1it", **CUT[cut])
    initial = dense_ticket(network(keras), settings)
    kept = Checkpoints(tmp_path / "checkpoint", CheckpointSettings("1it"))
    list(find(initial, trainer_of(initial), settings, 9, checkpoints=kept))
    assert list(dict.fromkeys(named)) == [*((0, part) for part in parts), (1, "train")]
