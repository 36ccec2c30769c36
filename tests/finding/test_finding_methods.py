"""Tickets by the methods other than IMP: what is scored, what is rewound, what is refused."""

import inspect
import re

import numpy as np
import pytest
import tensorflow as tf
from networks import assert_same, eagerly, examples, mlp, values

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.finding.gmp import prune_gradually, schedule, updates_of
from lottery_tf.finding.scores import METHODS
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import assign
from lottery_tf.training.trainer import Trainer

SCORES = [method for method in METHODS if method != "omp"]


def data():
    """Five batches, an epoch."""
    return tf.data.Dataset.from_tensor_slices(examples(20)).batch(4, drop_remainder=True)


def optimizer():
    return keras.optimizers.SGD(0.3, momentum=0.9)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return mlp()


def draw(model, **settings):
    """The tickets; three epochs, rewound to step 3."""
    options = {"rewind_to": "3it", "jit_compile": False, **settings}
    return list(lt.find_tickets(model, data(), optimizer=optimizer(), epochs=3, **options))


@pytest.fixture(scope="module")
def trained(model):
    """The tickets of SNIP, trained."""
    return draw(model, method="snip", sparsity=0.6, dev_data=data(), steps_per_execution=3)


def assert_same_ticket(one, other):
    assert one.masks == other.masks
    assert_same(dict(one.weights), dict(other.weights))


@pytest.mark.parametrize(
    ("method", "eager"),
    [
        *((method, True) for method in SCORES if method != "iterative_snip"),
        pytest.param("iterative_snip", True, marks=pytest.mark.e2e),
        pytest.param("grasp", False, marks=pytest.mark.e2e),
    ],
)
def test_scores_are_those_of_lt_prune_at_the_rewind_point(method, eager, model):
    """With the batches from step k on; the seed is the random methods'."""
    with eagerly(eager):
        dense, ticket = draw(
            model, method=method, sparsity=0.6, train_tickets=False, seed=3, score_rounds=2,
            score_batches=4, scope="layerwise",
        )  # fmt: skip
    assert dense.sparsity == 0 and ticket.masks.kept == 54 - round(0.6 * 54)
    assert [each.info["round"] for each in (dense, ticket)] == [0, 1]
    assert all(each.info["method"] == method for each in (dense, ticket))
    assert (dense.weights["first/kernel"] != values(model)["first/kernel"]).any()  # 3 steps on
    at_k = lt.strip(dense.build())
    with eagerly(eager):
        found = lt.prune(
            at_k, method, 0.6, data().repeat().skip(3), rounds=2, batches=4, seed=3,
            scope="layerwise",
        )  # fmt: skip
    assert_same_ticket(ticket, found)


@pytest.mark.usefixtures("all_eager")
def test_scores_are_those_of_the_loss_that_trains(model):
    hot = data().map(lambda x, y: (x, tf.one_hot(y, 3)))
    options = {"method": "snip", "sparsity": 0.6, "train_tickets": False}
    found = lt.find_ticket(model, hot, optimizer=optimizer(), loss="mse", epochs=1, **options)
    masks = [lt.prune(model, "snip", 0.6, hot.repeat(), loss=loss).masks for loss in ("mse", None)]
    assert found.masks == masks[0] != masks[1]


def test_training_the_tickets_changes_no_mask(model, trained):
    plain = draw(model, method="snip", sparsity=0.6, train_tickets=False, dev_data=data())
    assert len(trained) == len(plain) == 2
    for one, other in zip(trained, plain, strict=True):
        assert_same_ticket(one, other)
        assert "dev_accuracy" in one.info and "dev_accuracy" not in other.info


def assert_measured(ticket):
    """``ticket.info`` has what a training of it by hand from step 3 on gives."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer = trainer_of(ticket.build(), loss)
    trainer.reset(3)
    trainer.fit(15)
    for name, value in trainer.evaluate(data()).items():
        assert ticket.info[f"dev_{name}"] == pytest.approx(value, rel=1e-4)


def test_both_rounds_are_trained(trained):
    for ticket in trained:
        assert_measured(ticket)


def trainer_of(model, loss):
    return Trainer(
        model, lambda start: data().repeat().skip(start), 5, optimizer(), loss, jit_compile=False
    )


@pytest.mark.parametrize(
    "rewind", [pytest.param("weights", marks=pytest.mark.e2e), "learning_rate"]
)
@pytest.mark.usefixtures("untraced")
def test_omp_is_one_round_of_imp(model, rewind):
    omp = draw(model, method="omp", sparsity=0.6, rewind=rewind)
    imp = draw(model, rounds=1, prune_fraction=0.6, rewind=rewind)
    assert len(omp) == len(imp) == 2
    for one, other in zip(omp, imp, strict=True):
        assert_same_ticket(one, other)


@pytest.mark.parametrize(
    ("rewind", "scope", "regrow"),
    [("weights", "layerwise", False), ("learning_rate", "global", True)],
)
@pytest.mark.usefixtures("untraced")
def test_gmp(model, rewind, scope, regrow):
    """Its mask comes of a training from the rewind point on; of learning_rate so do its weights.

    Round 0 is the training of the dense ticket, whatever was trained before it.
    """
    dense, ticket = draw(
        model, method="gmp", sparsity=0.8, gmp_begin="1it", gmp_end="2ep", gmp_frequency="4it",
        gmp_initial_sparsity=0.75, rewind=rewind, steps_per_execution=3, dev_data=data(),
        scope=scope, regrow=regrow,
    )  # fmt: skip
    updates = schedule(0.75, 0.8, begin=1, end=10, frequency=4)
    assert [step for step, _ in updates] == [1, 5, 9, 10]  # the first lies before step 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer = trainer_of(dense.build(), loss)
    trainer.reset(3)
    masks = prune_gradually(trainer, dense.masks, updates[1:], scope, regrow)
    assert masks.kept == 54 - round(0.8 * 54)
    assert ticket.masks == masks and dense.sparsity == 0
    assert_measured(dense)
    if rewind == "weights":
        expected = {n: v * masks.get(n, np.True_) for n, v in dense.weights.items()}
        assert_same(dict(ticket.weights), expected)
    else:
        trainer.fit(15)
        for name, value in values(trainer.model).items():
            np.testing.assert_allclose(ticket.weights[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "omp", "sparsity": 0.98, "scope": "layerwise"},  # 24 of 24, 29 of 30
        {"method": "imp", "rounds": 2, "prune_fraction": 0.3},  # 16 of 54 go, then 11 of 38
        {"method": "gmp", "sparsity": 0.5, "gmp_end": "2ep", "gmp_frequency": "5it"},
        {"method": "erk", "sparsity": 0.99},
    ],
)
@pytest.mark.usefixtures("untraced")
def test_a_layer_that_collapses_is_told_once(settings, lines):
    """With the sparsity that would do: of 54 weights the first layer has the smallest 24."""
    model = mlp()
    small = np.linspace(0.001, 0.002, 24, dtype=np.float32).reshape(4, 6)
    assign(model, {**values(model), "first/kernel": small, "second/kernel": np.ones((6, 5))})
    found = list(
        lt.find_tickets(
            *(model, data()),
            **{"optimizer": keras.optimizers.SGD(1e-9), "epochs": 2, "jit_compile": False},
            **settings,
        )
    )
    (line,) = [line for line in lines if line.startswith("Nothing is left of ")]
    assert found[-1].masks.collapsed == ["first/kernel"]
    safe = float(re.search(r"Up to ([\d.]+) % each layer keeps a weight\.$", line)[1]) / 100
    if settings["method"] != "erk":
        highest = 23.5 / (24 if "scope" in settings else 54)
        assert highest - 2e-4 < safe <= highest


@pytest.mark.usefixtures("all_eager")
def test_a_softmax_at_the_end_is_looked_through(model):
    """GraSP divides the logits by 200, of the default loss and of one that is named."""
    soft = keras.Sequential([*lt.strip(model).layers, keras.layers.Softmax()])
    assign(soft, values(model))
    options = {"sparsity": 0.6, "method": "grasp", "train_tickets": False, "rewind_to": "0it"}
    named = {"loss": "sparse_categorical_crossentropy"}
    found = [draw(each, **options)[1].masks for each in (model, soft)]
    assert found[0] == found[1] == draw(soft, **named, **options)[1].masks


def test_a_schedule_that_cannot_be_is_told_before_anything_is_trained(model, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(UsageError, match="`gmp_begin` before `gmp_end`.*got steps 9, 8, 3, 15"):
        draw(model, method="gmp", sparsity=0.5, gmp_begin="9it", gmp_end="8it")


@pytest.mark.usefixtures("all_eager")
def test_weights_that_diverge_in_gradual_pruning(model):
    with pytest.raises(RuntimeError, match="of gradual pruning diverged"):
        list(
            lt.find_tickets(
                model,
                data().map(lambda x, y: (x / 0, y)),
                optimizer=optimizer(),
                epochs=1,
                method="gmp",
                sparsity=0.5,
                jit_compile=False,
            )
        )


# Settings

GMP = {"method": "gmp", "sparsity": 0.9}


def test_when_gmp_prunes():
    """By default from the start to three quarters; what lies before the rewind step is left out."""
    settings = FindingSettings(**GMP, gmp_frequency="20it")
    updates = updates_of(settings, 10, 0, 100)
    assert [step for step, _ in updates] == [0, 20, 40, 60, 75]
    assert updates[-1] == (75, 0.9) and updates[0][1] == 0
    assert updates_of(settings, 10, 40, 100) == updates[2:]
    assert updates_of(settings, 10, 41, 100) == updates[3:]
    settings = FindingSettings(**GMP, gmp_begin="1ep", gmp_end="3ep", gmp_frequency="1ep")
    assert [step for step, _ in updates_of(settings, 10, 0, 30)] == [10, 20, 30]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"gmp_begin": "80it"}, "80, 75, 0, 100 and 100"),
        ({"gmp_end": "101it"}, "0, 101, 0, 100 and 100"),
        ({"gmp_end": "0it"}, "0, 0, 0, 100 and 100"),
        ({"gmp_frequency": "0it"}, "0, 75, 0, 100 and 0"),
        ({"gmp_end": "40it", "rewind_to": "40it"}, "0, 40, 40, 100 and 100"),
    ],
)
def test_when_gmp_cannot_prune(settings, steps):
    settings = FindingSettings(**GMP, **settings)
    with pytest.raises(UsageError, match=f"`gmp_begin` before `gmp_end`.*got steps {steps}"):
        settings.rewind_step(10, 100)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "snp", "sparsity": 0.5}, "`method` takes .*not 'snp'; nearest: snip"),
        ({"method": "snip"}, "`sparsity` with `method=snip`"),
        ({"method": "gmp", "rounds": 2}, "`sparsity` with `method=gmp`"),
        ({"method": "synflow", "sparsity": 1.0}, r"\[0, 1\)"),
        ({"method": "snip", "sparsity": 0.5, "score_batches": 0}, "`score_batches` of 1 or more"),
        ({"method": "snip", "sparsity": 0.5, "score_rounds": 0}, "`score_rounds` of 1 or more"),
        ({"method": "grasp", "sparsity": 0.5, "rewind": "learning_rate"}, "`rewind=weights` for g"),
        (
            {"method": "omp", "sparsity": 0.5, "train_tickets": False},
            "no `train_tickets=False` with omp",
        ),
        ({"rounds": 1, "train_tickets": False}, "no `train_tickets=False` with imp"),
        ({**GMP, "gmp_initial_sparsity": 0.95}, "at most `sparsity=0.9`, not 0.95"),
        ({**GMP, "gmp_initial_sparsity": -0.1}, r"\[0, 1\).* not -0.1"),
        ({**GMP, "gmp_begin": "5"}, "`gmp_begin`, not '5'"),
        ({**GMP, "gmp_end": "1 epoch"}, "`gmp_end`, not '1 epoch'"),
        ({**GMP, "gmp_frequency": "often"}, "`gmp_frequency`, not 'often'"),
        ({"method": "from_model"}, "`model_path=FILE`"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UsageError, match=message):
        FindingSettings(**settings)


def test_the_last_round():
    assert FindingSettings(**GMP).last_round == 1
    assert FindingSettings(method="synflow", sparsity=0.99, rounds=7).last_round == 1


def test_a_models_file_is_no_matter_of_find_tickets(model):
    with pytest.raises(UsageError, match="lt.Ticket.from_pruned"):
        draw(model, method="from_model", model_path="/no")


def test_a_setting_that_is_none_is_one_sentence_with_the_nearest():
    for find in (lt.find_ticket, lt.find_tickets):
        with pytest.raises(UsageError, match="no 'sparsty'; nearest: sparsity"):
            list(find(None, None, optimizer=None, epochs=1, sparsty=0.5))


def test_find_ticket_takes_what_find_tickets_takes():
    one, several = map(inspect.signature, (lt.find_ticket, lt.find_tickets))
    assert one.parameters == several.parameters and one.return_annotation is lt.Ticket


@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_what_min_kept_adds_is_told(model, scope, lines):
    """Of 24 and 30 weights 1 stays at 98 %: 1 of both together, or 0 and 1 of each alone."""
    for least, told in ((2, ["min_kept=2 keeps 4 weights, 3 more"]), (0, [])):
        ticket = lt.prune(model, "omp", 0.98, scope=scope, min_kept=least)
        assert ticket.masks.kept == (4 if least else 1)
        assert [line[:34] for line in lines if line.startswith("min_kept")] == told
        del lines[:]


@pytest.mark.parametrize("settings", [{"method": "imp", "prune_fraction": 0.98}, {"method": "gmp"}])
@pytest.mark.usefixtures("untraced")
def test_what_min_kept_adds_to_trained_masks_is_told(model, settings, lines):
    own = {"sparsity": 0.98, "min_kept": 2, "train_tickets": settings["method"] == "imp"}
    assert draw(model, **own, **settings)[-1].masks.kept == 4
    assert [line for line in lines if line.startswith("min_kept")] == [
        "min_kept=2 keeps 4 weights, 3 more than the sparsity asked for, 98.00 %: it is 92.59 %."
    ]
