"""lt.compare: one ticket, retrained by each recipe with each seed."""

import dataclasses
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from networks import chain, eagerly, examples
from scipy import stats

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.common.lazy import loads
from lottery_tf.masks.prune_by_mask import get_masks
from lottery_tf.tweaks.tweak import Tweak

PAGE = Path(__file__).parents[2] / "docs" / "compare.md"
pytestmark = pytest.mark.usefixtures("untraced")


def network(of):
    dense = of.layers.Dense
    return chain(dense(6, name="first"), of.layers.ReLU(), dense(3, name="head"))


@pytest.fixture
def ticket(of):
    return lt.prune(network(of), "random", 0.5)


# What a fit of one's own returns: vanilla 0.5, 0.6, 0.7; the other is 0.1, 0.2, 0.3 above.
def told(model, recipe, seed):
    return 0.5 + 0.1 * seed + (0.1 * (seed + 1) if recipe.tweaks else 0)


@pytest.mark.long
def test_the_statistics_by_hand(ticket):
    found = lt.compare(ticket, ["vanilla", "label_smoothing"], range(3), told, verbose=0)
    vanilla, other = (row for _, row in found.frame.iterrows())
    assert (vanilla["recipe"], other["recipe"]) == ("vanilla", "label_smoothing")
    assert vanilla["test_accuracy"] == pytest.approx(0.6)
    assert vanilla["test_accuracy_sem"] == pytest.approx(0.1 / np.sqrt(3))
    assert other["gain"] == pytest.approx(0.2)
    assert other["gain_sem"] == pytest.approx(0.1 / np.sqrt(3))
    width = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert other["gain_high"] - other["gain"] == pytest.approx(width)
    assert (
        other["p"] == other["p_holm"] == pytest.approx(stats.ttest_1samp([0.1, 0.2, 0.3], 0).pvalue)
    )
    assert list(found.runs["seed"]) == [0, 0, 1, 1, 2, 2]
    text = str(found)
    assert text.startswith("Recipes on a ticket of 50.00 % sparsity (random)\n")
    assert "60.00 ± 5.77" in text and "+20.00 ± 5.77" in text and "p (Holm)" in text
    # Of what is not known there is no column.
    assert "train" not in text.splitlines()[1] and "method" not in text.splitlines()[1]
    assert "<table>" in found._repr_html_() and found.markdown().startswith("| sparsity |")
    assert repr(found).startswith("Comparison(2 recipes, 6 runs, ")


def test_one_seed_has_no_interval_and_vanilla_is_added(ticket):
    found = lt.compare(ticket, "label_smoothing", [4], lambda *given: {"accuracy": 0.5}, verbose=0)
    text = str(found)
    assert "vanilla was added" in text
    assert "2 rows with one run: no error, interval or p." in text
    assert "interval" not in text.splitlines()[1]
    assert found.frame["gain"].tolist()[1] == 0


@pytest.mark.long
def test_it_trains_by_itself(of, ticket, capsys):
    """Seeds are of the order of the data: one is the same again, two are different."""
    given = {
        **{"train_data": examples(64), "test_data": examples(16), "dev_data": examples(8)},
        **{"optimizer": of.optimizers.SGD(0.1), "epochs": 2, "verbose": 2},
    }
    before = {name: value.copy() for name, value in ticket.weights.items()}
    recipes = {"plain": "vanilla", "soft": lt.Recipe([lt.SoftActivation()]), "0.3": smoothed(0.3)}
    found = lt.compare(ticket, recipes, (0, 1), baseline="plain", **given)
    assert found.frame["recipe"].tolist()[0] == "plain" and len(found.runs) == 6
    assert found.runs["dev_accuracy"].between(0, 1).all()
    assert (found.runs["nonzero_parameters"] == 51 - 12).all()
    assert "gain over plain" in str(found)
    again = lt.compare(ticket, recipes, [1], baseline="plain", **given | {"verbose": 0})
    second = found.runs[found.runs["seed"] == 1]
    assert again.runs["test_accuracy"].tolist() == second["test_accuracy"].tolist()
    for name, value in ticket.weights.items():
        np.testing.assert_array_equal(value, before[name])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 * 3  # two epochs and the end of a run
    assert lines[0].startswith("run 1 of 6: plain, seed 0  epoch 1 of 2  loss ")
    assert "test accuracy" in lines[-1] and "left" not in lines[-1]


def smoothed(epsilon):
    return lt.Recipe([lt.LabelSmoothing(epsilon)])


@pytest.mark.long
def test_a_fit_of_ones_own_is_finished_and_measured(of, ticket):
    x, y = examples(64)
    seen = []

    def fit(model, recipe, seed):
        seen.append((recipe.name, seed, np.random.random()))
        assert get_masks(model).keys() == ticket.masks.keys()
        model.compile(of.optimizers.SGD(0.1), loss=recipe.loss(), metrics=["accuracy"])
        history = model.fit(x, y, epochs=2, verbose=0, callbacks=recipe.callbacks())
        return history if seed else recipe.finish(model)

    recipes = ["vanilla", "soft_activation,ghost_skips"]
    found = lt.compare(ticket, recipes, (0, 1), fit, test_data=(x, y), verbose=0)
    assert found.runs["test_accuracy"].between(0, 1).all()
    assert [each[:2] for each in seen] == [(r, s) for s in (0, 1) for r in recipes]
    # With the same seed all recipes have the same random numbers.
    assert seen[0][2] == seen[1][2] != seen[2][2]


@pytest.mark.long
def test_data_may_be_a_function_of_the_seed(of, ticket):
    asked = []

    def data(seed):
        asked.append(seed)
        return tf.data.Dataset.from_tensor_slices(examples(32)).shuffle(32, seed=seed).batch(8)

    given = {"test_data": examples(8), "optimizer": of.optimizers.SGD(0.1), "epochs": 1}
    found = lt.compare(ticket, "vanilla", (3, 4), train_data=data, verbose=0, **given)
    assert asked == [3, 3, 4] and "own order" not in str(found)
    found = lt.compare(ticket, "vanilla", (3, 4), train_data=data(0), verbose=0, **given)
    assert "A tf.data.Dataset has its own order" in str(found)


@pytest.mark.long
def test_an_optimizer_has_a_name_and_a_generator_is_read_once(of, ticket):
    data = examples(8)
    own = {"train_data": data, "test_data": data, "epochs": 1, "verbose": 0}
    found = lt.compare(ticket, ["vanilla"], [0], optimizer="adam", **own)
    assert len(found.runs) == 1
    with pytest.raises(UsageError, match="an optimizer of .* or its name, got 'adamm'"):
        lt.compare(ticket, ["vanilla"], [0], optimizer="adamm", **own)
    own["train_data"] = (batch for batch in [data])
    with pytest.raises(UsageError, match="a generator is read once"):
        lt.compare(ticket, ["vanilla"], [0], optimizer="adam", steps_per_epoch=1, **own)


@pytest.mark.long
def test_tweaks_know_the_optimizer_that_trains(of, ticket):
    """As rescaled_init, whose scales are those of its first step."""
    seen = []

    class Asks(Tweak):
        def for_training_by(self, optimizer):
            seen.append(optimizer)
            return self

    for optimizer in ("adam", of.optimizers.SGD(0.1)):
        own = {"train_data": examples(8), "test_data": examples(8), "epochs": 1, "verbose": 0}
        lt.compare(ticket, [lt.Recipe([Asks()])], [0], optimizer=optimizer, **own)
    assert seen == ["adam", "sgd"]


@dataclasses.dataclass(frozen=True)
class Sees(Tweak):
    """Notes the first labels of the data that it is given."""

    seen: list = dataclasses.field(default_factory=list)

    def change(self, model, data=None):
        self.seen.append(next(data.as_numpy_iterator())[1].tolist())
        return model


@pytest.mark.long
@pytest.mark.parametrize("fit", [told, None], ids=["a fit", "its own"])
def test_tweaks_see_arrays_in_the_order_of_the_seed(of, ticket, fit):
    one, other = Sees(), Sees()
    own = {"train_data": (examples(64)[0], np.arange(64) % 3), "test_data": examples(8)}
    own |= {} if fit else {"optimizer": of.optimizers.SGD(0.1), "epochs": 1}
    recipes = {"vanilla": lt.Recipe([one]), "other": lt.Recipe([other])}
    lt.compare(ticket, recipes, (0, 1), fit, verbose=0, **own)
    assert one.seen == other.seen and one.seen[0] != one.seen[1]


def test_a_pruned_model_is_a_ticket(of):
    model = lt.strip(lt.prune(network(of), "random", 0.5).build())
    found = lt.compare(model, "vanilla", [0], told, verbose=0)
    assert "50.00 % sparsity (from_model)" in repr(found)
    with pytest.raises(UsageError, match="Expected zeros in the kernels"):
        lt.compare(network(of), "vanilla", [0], told)
    with pytest.raises(UsageError, match="a ticket or a pruned Keras model, got 'runs/tost'"):
        lt.compare("runs/tost", "vanilla", [0], told)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipes": ["tost", lt.Recipe("tost")]}, "tost came twice: give a mapping"),
        ({"recipes": "tots"}, "nearest: tost"),
        ({"seeds": []}, "each a whole number once"),
        ({"seeds": [1, 1]}, "each a whole number once"),
        ({"seeds": [0.5]}, "each a whole number once"),
        ({"seeds": 3}, r"such as range\(5\) or \[3\]; got 3"),
        (
            {"epochs": 1.5, "fit": None, "train_data": 0, "test_data": 0, "optimizer": "sgd"},
            "`epochs` to be a whole number, not 1.5",
        ),
        ({"baseline": "imp"}, "the baseline among the recipes vanilla; 'imp' is not"),
        ({"fit": None}, "Expected train_data, test_data, optimizer, epochs: without a fit"),
        ({"epochs": 3}, "either fit, which trains, or epochs"),
        ({"fit": lambda *given: 91.3}, r"test accuracy from 0 to 1, .* got 91.3"),
        ({"fit": lambda *given: {"loss": 0.1}}, "a mapping with test_accuracy"),
        ({"fit": lambda *given: "good"}, "got 'good'"),
        ({"fit": lambda *given: None}, "Expected test_data to measure .* returned None"),
        ({"verbose": "loud"}, "verbose to be 0, 1, 2 or 'auto', not 'loud'"),
    ],
)
def test_mistakes_are_one_sentence(change, words):
    from lottery_tf.graph.compat import keras

    given = {"recipes": "vanilla", "seeds": [0], "fit": told, "verbose": 0} | change
    with pytest.raises(UsageError, match=words):
        lt.compare(lt.prune(network(keras), "random", 0.5), **given)


def test_masks_that_a_fit_has_changed_are_found(of, ticket):
    def fit(model, recipe, seed):
        lt.set_masks(model, lt.Masks({n: np.ones(m.shape) for n, m in ticket.masks.items()}))

    with pytest.raises(RuntimeError, match="by vanilla with seed 0"):
        lt.compare(ticket, "vanilla", [0], fit, test_data=examples(8), verbose=0)


@pytest.mark.e2e
def test_the_page_runs(monkeypatch, tmp_path, capsys):
    """In graphs, as it stands but for the number of epochs."""
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    code = code.replace("epochs=5", "epochs=1").replace("range(3)", "range(2)")
    with eagerly(False):
        exec(compile(code, str(PAGE), "exec"), {})
    assert "gain over vanilla" in capsys.readouterr().out
    assert (tmp_path / "recipes.csv").is_file()


def test_without_the_extra_it_is_one_sentence(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("lottery_tf.reporting")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "statsmodels.stats.multitest", None)
    get = loads("lottery_tf", {"compare": "reporting.recipes"}, {"compare": "report"})
    with pytest.raises(UsageError, match=r"is not installed: install .* its extra \[report\]"):
        get("compare")
