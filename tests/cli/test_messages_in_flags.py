"""What the library says of its settings is said in flags by the commands."""

import pytest

from lottery_tf.cli import settings
from lottery_tf.cli.main import COMMANDS
from lottery_tf.cli.messages import in_flags


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Expected `rounds` to be 0 or more.", "Expected --rounds to be 0 or more."),
        ("`rounds` or `sparsity`", "--rounds or --sparsity"),
        ("with `method=from_model`.", "with --method=from_model."),
        ("`data_dir=/a b/c=d`", "--data_dir=/a b/c=d"),
        ("`data_dir=`", "--data_dir="),
        ("`train_tickets=False`", "--notrain_tickets"),
        ("`train_tickets=True`", "--train_tickets"),
        ("`train_tickets`", "--train_tickets"),
        ("`jit_compile=False`", "--nojit_compile"),  # may be None too
        ("`jit_compile=None`", "--jit_compile=None"),
        ("`data_dir=False`", "--data_dir=False"),  # a folder
        ("`distillation_teacher`", "--distillation_teacher"),
        ("`num_classes` and `steps=3`", "`num_classes` and `steps=3`"),  # no flags
        ("run `lottery-tf find` or `find --rounds`", "run `lottery-tf find` or `find --rounds`"),
        ("rounds ` and `rounds", "rounds ` and `rounds"),
        ("--rounds", "--rounds"),
        ("", ""),
    ],
)
def test_settings_become_flags(text, shown):
    assert in_flags(text) == shown


def test_the_flags_are_those_of_all_commands():
    assert set(settings.ALL) == {each for of in COMMANDS.values() for each in of.settings}
