"""What the library says of its settings is said in flags by the commands."""

import pytest

import lottery_tf as lt
from lottery_tf.cli import settings
from lottery_tf.cli.main import COMMANDS, main
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


def test_a_program_reads_of_the_setting_and_a_user_of_the_flag(tmp_path, capfd):
    with pytest.raises(lt.UsageError) as raised:
        next(lt.find_tickets(None, None, optimizer=None, epochs=1, rounds=-1))
    assert str(raised.value) == "Expected `rounds` to be 0 or more, not -1."
    assert main(["find", "--rounds=-1", f"--out={tmp_path / 'out'}"]) == 2
    told = capfd.readouterr().err
    assert told == "lottery-tf find: Expected --rounds to be 0 or more, not -1.\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["find", "--method=snp"], "--method takes imp, "),
        (
            ["find", "--train_for=30", "--rounds=1", "--out=x"],
            "Expected steps (500it) or epochs (2ep) for --train_for, not",
        ),
        (
            ["retrain", "--soft_activation_curve=line", "--ticket=x", "--out=x"],
            "--soft_activation_curve takes linear, ",
        ),
        (["evaluate", "--dataset=mnits"], "--dataset takes digits, "),
    ],
)
def test_what_is_wrong_with_a_flag(words, told, capfd):
    assert main(words) == 2
    assert capfd.readouterr().err.startswith(f"lottery-tf {words[0]}: {told}")
