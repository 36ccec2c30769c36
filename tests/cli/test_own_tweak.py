"""A tweak of the user's own, by a name that recipes and the commands know."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from networks import mlp

import lottery_tf as lt
from lottery_tf.cli.main import main
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import read_json
from lottery_tf.common.settings import setting
from lottery_tf.tweaks.settings import PARAMETERS, RECIPES, tweak_settings
from lottery_tf.tweaks.table import TWEAKS
from lottery_tf.tweaks.tweak import Tweak


@dataclasses.dataclass(frozen=True)
class Begun(Tweak):
    """Begins with all biases at one value."""

    bias: float = setting(0.1, "of every bias at the first step")
    note: str = ""  # no parameter

    def attach(self, model):
        for variable in model.trainable_variables:
            if "bias" in variable.name:
                variable.assign(tf.fill(variable.shape, self.bias))


class NoDataclass:
    pass


@dataclasses.dataclass(frozen=True)
class Needy(Tweak):
    bias: float


@pytest.fixture
def named():
    """Its name; it is another's afterwards."""
    lt.register_tweak("begun", Begun)
    yield "begun"
    del TWEAKS["begun"], PARAMETERS["begun"]
    tweak_settings.cache_clear()


def test_a_recipe_knows_it(named):
    recipe = lt.Recipe("label_smoothing,begun", {"begun_bias": 0.25})
    assert recipe.name == "label_smoothing,begun"
    assert recipe.describe()[named] == {"bias": 0.25}
    assert lt.Recipe.restore(recipe.describe()).describe() == recipe.describe()
    biases = [each for each in recipe.prepare(mlp()).trainable_variables if "bias" in each.name]
    assert biases and all(np.all(bias == 0.25) for bias in biases)
    with pytest.raises(UsageError, match="no 'begun_bios'; nearest: begun_bias"):
        lt.Recipe(named, {"begun_bios": 1.0})
    lt.register_tweak(named, Begun)  # twice is once


def test_the_commands_know_it(named, found, tmp_path, capsys):
    assert main(["retrain", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--begun_bias=NUMBER" in told and "of every bias at the first step" in told
    assert "begun_note" not in told and "distillation or begun" in " ".join(told.split())
    ticket = f"--ticket={found / 'tickets' / 'round_02'}"
    words = ["retrain", ticket, "--train_for=6it", "--nojit_compile", f"--out={tmp_path / 'run'}"]
    assert main([*words, "--begun_bias=0.5"]) == 2
    assert "--begun_bias is a parameter of begun" in capsys.readouterr().err
    words += ["--recipe=begun", "--begun_bias=0.5"]
    assert main(words) == 0
    assert read_json(tmp_path / "run" / "result.json")["tweaks"] == {named: {"bias": 0.5}}
    assert main(words) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_afterwards_nobody_does(capsys):
    assert main(["retrain", "--help"]) == 0
    assert "begun" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "tweak", "told"),
    [
        ("distillation", Begun, "'distillation' is taken"),
        ("tost", Begun, "'tost' is taken"),
        ("two words", Begun, "letters, digits and _"),
        ("mine", NoDataclass, "a frozen dataclass .* got .*NoDataclass"),
        ("mine", Begun(), "a frozen dataclass"),
        ("mine", Needy, "defaults for all fields .*; bias has none"),
    ],
)
def test_names_and_classes_that_cannot_be(name, tweak, told):
    before = dict(TWEAKS), dict(PARAMETERS), dict(RECIPES)
    with pytest.raises(UsageError, match=told):
        lt.register_tweak(name, tweak)
    assert (dict(TWEAKS), dict(PARAMETERS), dict(RECIPES)) == before
