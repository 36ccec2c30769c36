"""The flags of each command and their defaults are those that others' scripts rely on.

Who means to change one changes defaults.json too: ``python tests/cli/test_defaults.py`` writes it.
"""

import json
from pathlib import Path

import pytest

from lottery_tf.cli.flags import as_class
from lottery_tf.cli.main import COMMANDS
from lottery_tf.common.settings import defaults

FILE = Path(__file__).with_name("defaults.json")


def flags_of(command):
    """Name → default of each of its flags; null where there is none."""
    return defaults(*map(as_class, COMMANDS[command].settings))


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_are_those_that_are_relied_on(command):
    assert flags_of(command) == json.loads(FILE.read_text())[command]


if __name__ == "__main__":
    every = {command: flags_of(command) for command in COMMANDS}
    FILE.write_text(json.dumps(every, indent=1, sort_keys=True) + "\n")
