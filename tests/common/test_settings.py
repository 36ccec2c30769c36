import dataclasses
import json
from typing import Optional

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lottery_tf.cli.flags import as_class
from lottery_tf.cli.main import COMMANDS
from lottery_tf.common import settings
from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import (
    check_values,
    defaults,
    describe,
    nearest,
    one_of,
    restore,
    setting,
)
from lottery_tf.masks.settings import PrunableSettings
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.tweaks.settings import PARAMETERS, GhostSkipsSettings


@dataclasses.dataclass(frozen=True)
class Oven:
    """How it bakes."""

    heat: int = setting(180, "degrees Celsius")
    rise: float | None = setting(None, "degrees a second")
    light: bool = setting(True, "on while baking")
    mode: str | None = setting("fan", "how it heats", choices=("fan", "grill"))
    trays: tuple[str, ...] = setting((), "where", choices=("top", "middle", "low"))
    names: Optional[tuple[str, ...]] = setting(None, "what they are called")  # noqa: UP045


def test_the_type_of_a_field():
    types = {f.name: settings.value_type(f, Oven) for f in dataclasses.fields(Oven)}
    assert types == {
        "heat": (int, False),
        "rise": (float, True),
        "light": (bool, False),
        "mode": (str, True),
        "trays": (tuple, False),
        "names": (tuple, True),
    }


def test_the_defaults_are_those_of_the_settings():
    assert defaults(Oven) == describe(Oven())
    assert defaults(Oven)["trays"] == []


def test_choices():
    check_values(Oven())
    check_values(Oven(mode=None))
    check_values(Oven(mode="grill", trays=("top", "low", "top"), names=("anything",)))


@pytest.mark.parametrize(
    ("oven", "sentence"),
    [
        (Oven(mode="gril"), "`mode` takes fan or grill, not 'gril'; nearest: grill."),
        (Oven(mode=""), "`mode` takes fan or grill, not ''."),
        (
            Oven(trays=("top", "midle")),
            "`trays` takes top, middle or low, not 'midle'; nearest: middle.",
        ),
        (Oven(trays=("topmiddle",)), "`trays` takes top, middle or low, not 'topmiddle'; nearest"),
    ],
)
def test_what_is_no_choice_is_refused_with_the_nearest(oven, sentence):
    with pytest.raises(UsageError) as caught:
        check_values(oven)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("oven", "sentence"),
    [
        (Oven(heat="180"), "Expected `heat` to be a whole number, not '180'."),
        (Oven(heat=180.5), "Expected `heat` to be a whole number, not 180.5."),
        (Oven(heat=True), "Expected `heat` to be a whole number, not True."),
        (Oven(heat=None), "Expected `heat` to be a whole number, not None."),
        (Oven(rise="fast"), "Expected `rise` to be a number, not 'fast'."),
        (Oven(light="no"), "Expected `light` to be True or False, not 'no'."),
    ],
)
def test_a_value_of_another_type_is_refused(oven, sentence):
    with pytest.raises(UsageError) as caught:
        check_values(oven)
    assert str(caught.value) == sentence


def test_numbers_of_numpy_are_numbers():
    check_values(Oven(heat=np.int64(3), rise=np.float32(2), light=np.bool_(True)))
    check_values(Oven(rise=2))


def test_all_settings_refuse_a_text_for_a_number():
    """Each class of settings is checked when it is made, or by the flags' door."""
    owners = {as_class(owner) for command in COMMANDS.values() for owner in command.settings}
    made = [*owners, *PARAMETERS.values()]
    assert len(made) > 20
    unchecked = []
    for owner in made:
        for field in settings.settings_of(owner):
            if settings.value_type(field, owner)[0] not in (int, float):
                continue
            try:
                found = owner(**{field.name: "three"})
                if owner not in PARAMETERS.values():  # the flags' door checks the others
                    check_values(found)
            except UsageError as error:
                assert "'three'" in str(error) and field.name in str(error)
            except TypeError:
                unchecked.append(f"{owner.__name__}.{field.name}")
    assert not unchecked


@pytest.mark.parametrize(
    ("owner", "field", "name"),
    [
        *((PrunableSettings, "keep_dense", "last"), (PrunableSettings, "prune_layers", "dense")),
        *((GhostSkipsSettings, "convolutions", "same"), (TrainingSettings, "milestones", "90ep")),
    ],
)
def test_one_name_is_not_read_letter_by_letter(owner, field, name):
    for said in (name, [name], (name,)):
        assert getattr(owner(**{field: said}), field) == (name,)


def test_one_of():
    assert one_of(["a"]) == "a"
    assert one_of(["a", "b"]) == "a or b"
    assert one_of(("a", "b", "c")) == "a, b or c"


def test_nearest():
    assert nearest("snap", ["snip", "grasp"]) == "; nearest: snip"
    assert nearest("xyz", ["snip", "grasp"]) == ""
    assert nearest("snip", []) == ""


texts = st.text(max_size=5)
tuples = st.lists(texts, max_size=3).map(tuple)
ovens = st.builds(
    Oven,
    st.integers(),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none() | texts,
    tuples,
    st.none() | tuples,
)


@given(ovens)
def test_settings_survive_json(oven):
    assert restore(Oven, json.loads(json.dumps(describe(oven)))) == oven


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("heat", "180", "a whole number, got '180'"),
        ("heat", True, "a whole number, got 'True'"),
        ("heat", 180.0, "a whole number"),
        ("heat", None, "a whole number, got 'None'"),
        ("rise", [1], "a number"),
        ("rise", False, "a number"),
        ("light", 1, "true or false, got '1'"),
        ("mode", 3, "a text, got '3'"),
        ("trays", "top", "a list of texts"),
        ("trays", [1], "a list of texts"),
        ("names", {"a": "b"}, "a list of texts"),
    ],
)
def test_values_of_another_type_are_told(name, value, told):
    """As a file of a stranger may have them."""
    with pytest.raises(UsageError, match=rf"Expected `{name}` to be {told}"):
        restore(Oven, {name: value})


def test_restore_takes_defaults_for_what_is_missing_and_leaves_out_what_is_unknown():
    assert restore(Oven, {"heat": 0, "colour": "red"}) == Oven(heat=0)
    assert restore(Oven, {}) == Oven()
