"""Words that people try: each stands for names that there are, and is none itself."""

import dataclasses
import inspect

import pytest

from lottery_tf.cli.flags import as_class
from lottery_tf.cli.main import COMMANDS, main
from lottery_tf.common.aliases import ALIASES, meant_by
from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import nearest
from lottery_tf.finding.find import find_tickets
from lottery_tf.tweaks.settings import PARAMETERS, RECIPES, check_parameters


def names() -> set[str]:
    """All flags, their values, commands, tweaks and recipes."""
    fields = [
        field
        for command in COMMANDS.values()
        for owner in command.settings
        for field in dataclasses.fields(as_class(owner))
    ]
    values = {value for field in fields for value in field.metadata["choices"]}
    arguments = inspect.signature(find_tickets).parameters
    others = {*COMMANDS, *PARAMETERS, *RECIPES, *arguments, "flagfile"}
    return {f.name for f in fields} | values | others


def test_every_alias_stands_for_names_that_there_are():
    known = names()
    for word, meant in ALIASES.items():
        assert meant and known.issuperset(meant), word
        assert word == word.lower() and "-" not in word


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("find --epochs=3", "no flag '--epochs': use --train_for, as in --train_for=3ep."),
        ("find --lr=0.1", "there is no flag '--lr'; nearest: --learning_rate."),
        ("find --data=x", "there is no flag '--data'; nearest: --dataset or --data_dir."),
        (
            "find --prune=0.9",
            "there is no flag '--prune'; nearest: --prune_fraction or --sparsity.",
        ),
        ("find --target-sparsity=0.9", "'--target-sparsity'; nearest: --sparsity."),
        ("find --img_size=32", "'--img_size'; nearest: --image_size."),
        ("find --config=x", "'--config'; nearest: --flagfile."),
        ("sweep --recipe=tost", "'--recipe'; nearest: --recipes"),
        ("sweep --config=x", "'--config'; nearest: --flagfile or --grid."),
        ("retrain --epsilon=0.1", "'--epsilon'; nearest: --label_smoothing_epsilon."),
        ("retrain --temperature=4", "'--temperature'; nearest: --distillation_temperature."),
        ("retrain --tweaks=tost", "'--tweaks'; nearest: --recipe."),
        ("export --output=x", "'--output'; nearest: --out."),
        ("export --format=x", "'--format'; nearest: --formats."),
        ("retrain --ticket=x --out=x --recipe=kd", "not 'kd'; nearest: distillation."),
        ("find --rounds=1 --out=x --method=magnitude", "'magnitude'; nearest: imp, omp or gmp."),
        ("find --steps=3", "use --train_for, as in --train_for=500it."),
        ("find --rounds=1 --out=x --train_for=3", "'3': give 3ep for epochs or 3it for steps."),
        ("find --rounds=1 --out=x --model=lenet", "not 'lenet'; nearest: lenet_300_100."),
        ("find --sparsity=95 --out=x", "Expected --sparsity in [0, 1), the share of weights to"),
        ("find --sparsity=95 --out=x", "such as 0.95, not 95.0."),
        ("train", "there is no command 'train'; nearest: find or retrain."),
    ],
)
def test_a_likely_word_finds_the_name(words, told, capfd):
    assert main(words.split()) == 2
    assert told in capfd.readouterr().err


def test_only_names_that_there_are_count():
    assert meant_by("prune", ["sparsity", "seed"]) == ["sparsity"]
    assert meant_by("epochs", ["seed"]) == []
    assert nearest("sede", ["seed", "rounds"]) == "; nearest: seed"
    assert meant_by("by", ["signal_scaling_by"]) == []  # two letters are too few


@pytest.mark.parametrize(
    ("parameter", "names"),
    [
        ("epsilon", "label_smoothing_epsilon"),
        ("weight", "distillation_weight"),
        ("share", "soft_activation_share or ghost_skips_share"),
        ("label_smoothing", "label_smoothing_epsilon"),
    ],
)
def test_a_parameter_of_a_recipe_by_its_own_name(parameter, names):
    with pytest.raises(UsageError, match=f"no '{parameter}'; nearest: {names}"):
        check_parameters({parameter: 0.1})
