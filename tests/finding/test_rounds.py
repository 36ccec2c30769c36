"""A round that was interrupted goes on where it was."""

import numpy as np
import pytest
from networks import both_kerases
from small_trainers import Steps, small_trainer

from lottery_tf.finding.rounds import _Training
from lottery_tf.training.checkpoints import Checkpoints, State
from lottery_tf.training.settings import CheckpointSettings


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
