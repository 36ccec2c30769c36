"""A score of the user's own, given as a function or by a name of its own."""

import numpy as np
import pytest
import tensorflow as tf
from networks import examples, mlp

import lottery_tf as lt
from lottery_tf.cli.flags import help_text, parse
from lottery_tf.common.errors import UsageError
from lottery_tf.finding.scores import METHODS
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.graph.compat import keras


def first_columns(network):
    """Keeps what reads the first inputs."""
    return {
        name: -np.indices(value.shape)[0].astype(np.float32)
        for name, value in network.values().items()
    }


@pytest.fixture
def named():
    """Its name; it is another's afterwards."""
    lt.register_method("first_columns", first_columns)
    yield "first_columns"
    del METHODS["first_columns"]


def test_a_function_is_a_method():
    ticket = lt.prune(mlp(), first_columns, 0.5, scope="layerwise", prune_layers=("dense",))
    mask = ticket.masks["first/kernel"]
    assert mask[:2].all() and not mask[2:].any()
    assert ticket.info["method"] == "first_columns"


def test_by_its_name(named):
    by_name, by_function = (lt.prune(mlp(), each, 0.5) for each in (named, first_columns))
    assert by_name.masks == by_function.masks
    x, y = examples()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    ticket = lt.find_ticket(
        mlp(),
        data,
        optimizer=keras.optimizers.SGD(0.1),
        epochs=1,
        method=named,
        sparsity=0.5,
        train_tickets=False,
        jit_compile=False,
    )
    assert ticket.masks == by_name.masks and ticket.info["method"] == named


def test_the_command_line_knows_it(named):
    flags = parse(["--method=first_columns", "--sparsity=0.5"], [FindingSettings])
    assert flags.settings(FindingSettings).method == named
    assert named in help_text("find", "", [FindingSettings])
    lt.register_method(named, first_columns)  # twice is once


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (lambda network: {}, "first/kernel, second/kernel does not fit"),
        (lambda network: {**first_columns(network), "more": np.ones(1)}, "more does not fit"),
        (lambda network: dict.fromkeys(network.values(), np.ones(3)), "of its shape"),
    ],
)
def test_scores_that_do_not_fit(scores, told):
    with pytest.raises(UsageError, match=told):
        lt.prune(mlp(), scores, 0.5)


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("snip", {}, "'snip' is taken"),
        ("imp", {}, "'imp' is taken"),
        ("two words", {}, "letters, digits and _"),
        ("mine", {"rounds": 0}, "rounds of 1 or more"),
        ("mine", {"scope": "all"}, "a scope among global"),
    ],
)
def test_names_and_facts_that_cannot_be(name, more, told):
    with pytest.raises(UsageError, match=told):
        lt.register_method(name, first_columns, **more)
    assert "mine" not in METHODS
