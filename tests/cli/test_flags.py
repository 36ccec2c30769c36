import dataclasses
import math
import re

import pytest
from absl import flags as absl_flags
from hypothesis import example, given
from hypothesis import strategies as st

from lottery_tf.cli.flags import as_class, command_line, help_text, parse
from lottery_tf.cli.main import COMMANDS
from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import setting


@dataclasses.dataclass(frozen=True)
class Oven:
    """How it bakes.

    Everything else about ovens.
    """

    heat: int = setting(180, "degrees Celsius")
    mode: str = setting("fan", "how it heats", choices=("fan", "grill"))
    light: bool = setting(True, "on while baking")
    rise: float = setting(0.5, "degrees a second")
    trays: tuple[str, ...] = setting(("top", "middle"), "where things stand")


@dataclasses.dataclass(frozen=True)
class Timer:
    """When it stops."""

    minutes: int | None = setting(None, "minutes until it stops")
    factor: float | None = setting(None, "times as long as the recipe says")
    bell: bool | None = setting(None, "rings at the end")
    label: str | None = setting(None, "what it says")
    rings: tuple[str, ...] | None = setting(None, "which bells", choices=("high", "low", "gong"))
    quiet: bool = setting(False, "never rings")


OWNERS = (Oven, Timer)
DEFAULTS = {f.name: f.default for owner in OWNERS for f in dataclasses.fields(owner)}


def values(*argv):
    return parse(argv, OWNERS).values


def mistake(*argv, positional=""):
    with pytest.raises(UsageError) as caught:
        parse(argv, OWNERS, positional)
    return str(caught.value)


def test_nothing_written_gives_the_defaults():
    parsed = parse([], OWNERS)
    assert parsed.values == DEFAULTS
    assert parsed.given == frozenset()
    assert parsed.positional == []
    assert parsed.settings(Oven) == Oven()
    assert parsed.settings(Timer) == Timer()


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--heat=200"], "heat", 200),
        (["--heat", "200"], "heat", 200),
        (["--heat=-20"], "heat", -20),
        (["--heat", "-20"], "heat", -20),
        (["--heat=0"], "heat", 0),
        (["--minutes=0"], "minutes", 0),
        (["--rise=-1e-3"], "rise", -0.001),
        (["--rise", "-0.5"], "rise", -0.5),
        (["--rise=2"], "rise", 2.0),
        (["--factor=.25"], "factor", 0.25),
        (["--mode=grill"], "mode", "grill"),
        (["--mode", "grill"], "mode", "grill"),
        (["--label="], "label", ""),
        (["--label=a=b, c: d"], "label", "a=b, c: d"),
        (["--label=--heat"], "label", "--heat"),
        (["--label", "-x"], "label", "-x"),
        (["--label=None"], "label", "None"),
        (["--trays=low"], "trays", ("low",)),
        (["--trays=low,high"], "trays", ("low", "high")),
        (["--trays", "low,high"], "trays", ("low", "high")),
        (["--trays="], "trays", ()),
        (["--rings=gong,low"], "rings", ("gong", "low")),
        (["--heat=1", "--heat=2"], "heat", 2),
        (["--trays=a", "--trays=b"], "trays", ("b",)),
    ],
)
def test_a_value_replaces_the_default(argv, name, value):
    parsed = parse(argv, OWNERS)
    assert parsed.values == DEFAULTS | {name: value}
    assert type(parsed.values[name]) is type(value)
    assert parsed.given == {name}


@pytest.mark.parametrize("name", ["light", "bell", "quiet"])
@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("--{}", True),
        ("--{}=True", True),
        ("--{}=true", True),
        ("--{}=1", True),
        ("--no{}", False),
        ("--{}=False", False),
        ("--{}=false", False),
        ("--{}=0", False),
    ],
)
def test_false_is_false(name, form, value):
    assert values(form.format(name))[name] is value


def test_a_value_equal_to_the_default_counts_as_given():
    assert parse(["--heat=180"], OWNERS).given == {"heat"}


def test_given_values_stay_and_defaults_are_replaced():
    parsed = parse(["--heat=150", "--nolight"], OWNERS)
    inherited = {"heat": 300, "light": True, "mode": "grill", "trays": ["a", "b"], "colour": "red"}
    assert parsed.settings(Oven, **inherited) == Oven(150, "grill", False, 0.5, ("a", "b"))
    assert parsed.settings(Oven) == Oven(heat=150, light=False)


def test_any_name_may_be_inherited():
    assert parse([], OWNERS).settings(Timer, self=1, owner=2, minutes=3) == Timer(minutes=3)


def test_an_inherited_value_is_checked_too():
    with pytest.raises(UsageError, match="`mode` takes fan or grill, not 'steam'"):
        parse([], OWNERS).settings(Oven, mode="steam")


def test_settings_of_another_command_are_an_error_of_the_programmer():
    with pytest.raises(KeyError):
        parse([], [Oven]).settings(Timer)


def test_each_parse_starts_afresh():
    assert values("--heat=1", "--trays=x")["heat"] == 1
    assert values() == DEFAULTS


def test_absls_own_flags_are_left_alone():
    before = set(absl_flags.FLAGS)
    parse(["--heat=1"], OWNERS)
    assert set(absl_flags.FLAGS) == before


# Flagfiles


def flagfile(folder, text, name="oven.cfg"):
    path = folder / name
    path.write_text(text)
    return f"--flagfile={path}"


FLAGFILE = """\
# Cakes, table 1.

--heat=200
--nolight
// of C++ descent
--trays=top,bottom
"""


def test_a_flagfile_gives_flags(tmp_path):
    parsed = parse([flagfile(tmp_path, FLAGFILE)], OWNERS)
    assert parsed.settings(Oven) == Oven(heat=200, light=False, trays=("top", "bottom"))
    assert parsed.given == {"heat", "light", "trays"}


def test_what_is_given_later_wins(tmp_path):
    file = flagfile(tmp_path, FLAGFILE)
    assert values(file, "--heat=150")["heat"] == 150
    assert values("--heat=150", file)["heat"] == 200


def test_the_words_of_a_flagfile_may_be_apart(tmp_path):
    path = flagfile(tmp_path, FLAGFILE).removeprefix("--flagfile=")
    assert values("--flagfile", path, "--rise=1") == values(f"--flagfile={path}", "--rise=1")


def test_a_relative_path_starts_from_the_working_directory(tmp_path, monkeypatch):
    flagfile(tmp_path, FLAGFILE)
    monkeypatch.chdir(tmp_path)
    assert values("--flagfile=oven.cfg")["heat"] == 200


def test_a_flagfile_may_name_another(tmp_path):
    other = flagfile(tmp_path, "--heat=90\n--label=a b\n", "other.cfg")
    parsed = values(flagfile(tmp_path, f"{other}\n--heat=100\n"))
    assert (parsed["heat"], parsed["label"]) == (100, "a b")


def test_a_missing_flagfile(tmp_path):
    message = mistake(f"--flagfile={tmp_path / 'none.cfg'}")
    assert message.startswith("cannot read the flagfile")
    assert "No such file" in message and "none.cfg" in message


def test_a_folder_or_an_image_is_no_flagfile(tmp_path):
    assert "Is a directory" in mistake(f"--flagfile={tmp_path}")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\xff\xfe")
    assert "cannot read the flagfile" in mistake(f"--flagfile={tmp_path / 'x.png'}")


@pytest.mark.parametrize("argv", [["--flagfile"], ["--heat=3", "--flagfile"], ["--flagfile="]])
def test_a_flagfile_without_a_name(argv):
    assert mistake(*argv) == "--flagfile lacks its value: --flagfile=FILE."


def test_a_mistake_in_a_flagfile_is_told_like_any_other(tmp_path):
    assert (
        mistake(flagfile(tmp_path, "--haet=3\n")) == "there is no flag '--haet'; nearest: --heat."
    )
    assert mistake(flagfile(tmp_path, "--heat=hot\n")) == "--heat=hot: expected an integer."
    assert "'--heat 3'; nearest: --heat" in mistake(flagfile(tmp_path, "--heat 3\n"))


# Mistakes


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--haet=3"], "there is no flag '--haet'; nearest: --heat."),
        (["--haet", "3"], "there is no flag '--haet'; nearest: --heat."),
        (["--no-light"], "there is no flag '--no-light'; nearest: --light."),
        (["--zzzzzz=1"], "there is no flag '--zzzzzz'; --help lists them."),
        (["--noheat"], "there is no flag '--noheat'; nearest: --heat."),
        (["--heat=three"], "--heat=three: expected an integer."),
        (["--heat", "three"], "--heat=three: expected an integer."),
        (["--heat=1.5"], "--heat=1.5: expected an integer."),
        (["--heat="], "--heat=: expected an integer."),
        (["--minutes=None"], "--minutes=None: expected an integer."),
        (["--rise=1: 2"], "--rise=1: 2: expected a number."),
        (["--factor=half"], "--factor=half: expected a number."),
        (["--light=maybe"], "--light=maybe: expected True or False."),
        (["--nolight=True"], "--nolight=True does not take an argument."),
        (['--trays="a'], '--trays="a: expected texts separated by commas.'),
        (["--mode=gril"], "`mode` takes fan or grill, not 'gril'; nearest: grill."),
        (["--mode=FAN"], "`mode` takes fan or grill, not 'FAN'; nearest: fan."),
        (["--rings=low,hihg"], "`rings` takes high, low or gong, not 'hihg'; nearest: high."),
        (["--heat"], "--heat lacks its value: --heat=INTEGER."),
        (["--heat", "--light"], "--heat lacks its value: --heat=INTEGER."),
        (["--label", "--heat=3"], "--label lacks its value: --label=TEXT."),
        (["--trays"], "--trays lacks its value: --trays=TEXT,TEXT,...."),
        (["cake"], "'cake' is no flag: flags are written --name=value."),
        (["--heat=3", "cake"], "'cake' is no flag: flags are written --name=value."),
        (["--light", "False"], "'False' is no flag: flags are written --name=value."),
        (["--", "cake"], "'cake' is no flag: flags are written --name=value."),
    ],
)
def test_a_mistake_is_told_in_one_sentence(argv, sentence):
    assert mistake(*argv) == sentence


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
beginnings = st.sampled_from(["", "-", "--", "--no", "--flagfile=", *(f"--{n}" for n in DEFAULTS)])
likely = st.builds("{}{}{}".format, beginnings, st.sampled_from(["", "=", "=-", "=1"]), words)


@given(st.lists(likely, max_size=4))
@example(["--heat=\n"])
@example(["--help"])
@example(["-"])
def test_whatever_is_written_is_read_or_is_the_users_mistake(argv):
    try:
        parse(argv, OWNERS)
    except UsageError as error:
        assert str(error).endswith(".")


# Arguments that are no flags


def test_positional_arguments_stand_anywhere():
    parsed = parse(["a", "--heat=3", "b", "--light", "c", "--", "--heat=4"], OWNERS, "RUN")
    assert parsed.positional == ["a", "b", "c", "--heat=4"]
    assert parsed.values["heat"] == 3


def test_positional_arguments_may_be_left_out():
    assert parse([], OWNERS, "RUN").positional == []


# Definitions


def test_two_settings_may_not_share_a_name():
    @dataclasses.dataclass(frozen=True)
    class Grill:
        """Hotter."""

        heat: int = setting(300, "degrees Celsius")

    for use in (lambda o: parse([], o), lambda o: help_text("bake", "bakes", o)):
        with pytest.raises(ValueError, match="Oven and Grill have a field heat") as caught:
            use([Oven, Grill])
        assert not isinstance(caught.value, UsageError)


@pytest.mark.parametrize("name", ["help", "flagfile", "undefok"])
def test_some_names_are_taken(name):
    owner = dataclasses.make_dataclass("Owner", [(name, str, setting("", "a"))], frozen=True)
    with pytest.raises(ValueError, match="every command"):
        parse([], [owner])


# Settings → command line → settings

# absl strips the parts of a list and takes no line break in it.
parts = words.map(str.strip).filter(lambda s: len(s.splitlines()) < 2 and "\r" not in s)
floats = st.floats(allow_nan=False)
ovens = st.builds(
    Oven, st.integers(), st.sampled_from(["fan", "grill"]), st.booleans(), floats, st.tuples(parts)
)
timers = st.builds(
    Timer,
    st.none() | st.integers(),
    st.none() | floats,
    st.none() | st.booleans(),
    st.none() | words,
    st.none() | st.lists(st.sampled_from(["high", "low", "gong"]), max_size=3).map(tuple),
    st.booleans(),
)


@given(ovens, timers)
@example(Oven(trays=()), Timer(rings=()))
@example(Oven(trays=("",)), Timer(label=""))
@example(Oven(trays=('a,b"c', "", "--heat=3", "#")), Timer(label="--flagfile=x"))
@example(Oven(rise=math.inf), Timer(factor=5e-324, bell=False))
def test_settings_survive_the_command_line(oven, timer):
    parsed = parse(command_line(oven) + command_line(timer), OWNERS)
    assert parsed.settings(Oven) == oven
    assert parsed.settings(Timer) == timer
    everything = dataclasses.asdict(oven) | dataclasses.asdict(timer)
    assert parsed.given == {name for name, value in everything.items() if value is not None}


def test_the_command_line_of_settings():
    assert command_line(Oven(light=False)) == [
        "--heat=180",
        "--mode=fan",
        "--light=False",
        "--rise=0.5",
        "--trays=top,middle",
    ]
    assert command_line(Timer()) == ["--quiet=False"]


# Help

HELP = """\
bake: bakes cakes

usage: lottery-tf bake [--name=value ...] CAKE

How it bakes.
  --heat=INTEGER
      degrees Celsius (default: 180)
  --mode=TEXT
      how it heats: fan or grill (default: fan)
  --light=True|False
      on while baking (default: True)
  --rise=NUMBER
      degrees a second (default: 0.5)
  --trays=TEXT,TEXT,...
      where things stand (default: top,middle)

When it stops.
  --minutes=INTEGER
      minutes until it stops
  --factor=NUMBER
      times as long as the recipe says
  --bell=True|False
      rings at the end
  --label=TEXT
      what it says
  --rings=TEXT,TEXT,...
      which bells: high, low or gong
  --quiet=True|False
      never rings (default: False)

Every command.
  --flagfile=FILE
      read flags from FILE, one on each line, # before a comment; later flags win
  --help
      show this help
"""


def test_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert help_text("bake", "bakes cakes", OWNERS, "CAKE") == HELP


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_help_is_as_wide_as_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = help_text("bake", "bakes cakes " * 12, OWNERS).splitlines()
    assert columns - 12 < max(map(len, lines)) <= columns


def test_the_help_names_every_flag_and_no_other(monkeypatch):
    text = help_text("bake", "bakes cakes", OWNERS)
    names = [line.split("=")[0].strip(" -") for line in text.splitlines() if "  --" in line]
    assert names == [*DEFAULTS, "flagfile", "help"]


# Paths


def test_every_path_has_its_tilde_expanded(monkeypatch):
    """No shell does it behind a =. Of flags that name a file or folder data_dir alone stays as it
    is written, in the run's identity, and is expanded where it is read."""
    monkeypatch.setenv("HOME", "/home/me")
    seen = set()
    for command in COMMANDS.values():
        for owner in map(as_class, command.settings):
            for field in dataclasses.fields(owner):
                text = field.metadata["help"]
                text = text() if callable(text) else text
                named = re.match(r"(the |a )?(\w+: )?(a )?(\w+ )?(folder|file|SavedModel)\b", text)
                if field.metadata["path"]:
                    words = [f"--{field.name}=~/x.png"]
                    assert parse(words, [owner]).values[field.name] == "/home/me/x.png"
                    seen.add(field.name)
                elif named:
                    assert field.name == "data_dir", field.name
    assert seen == {
        *("out", "ticket", "run", "model", "compare", "plot", "json", "grid", "data_dir"),
        *("model_path", "rewind_path", "distillation_teacher", "rescaled_init_dense"),
    }
    assert parse(["~/a", "b~"], [Oven], "RUNS").positional == ["/home/me/a", "b~"]
