"""Recipes: lists of tweaks by name, and the loss that fits the model."""

import dataclasses
from pathlib import Path

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from layer_cases import CASES
from networks import assert_same, chain, examples, layers, mlp, opaque_of, random_masks, values

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import named_layers
from lottery_tf.losses.cross_entropy import CrossEntropy, cross_entropy
from lottery_tf.tweaks.settings import RECIPE_DEFAULTS, RECIPES, described, tweak_settings
from lottery_tf.tweaks.table import TWEAKS
from lottery_tf.tweaks.tweak import Tweak


def test_names():
    assert lt.Recipe("vanilla").tweaks == lt.Recipe([]).tweaks == ()
    assert lt.Recipe("vanilla").name == "vanilla"
    one = lt.Recipe("label_smoothing")
    assert one.tweaks == (lt.LabelSmoothing(0.1),) and one.name == "label_smoothing"
    assert lt.Recipe(" vanilla , label_smoothing").tweaks == one.tweaks
    assert lt.Recipe("distillation,tost").name == "tost,distillation"
    assert lt.Recipe([lt.LabelSmoothing(0.3)]).describe() == {"label_smoothing": {"epsilon": 0.3}}


def test_every_name_of_the_tables_is_a_recipe():
    for name, parts in RECIPES.items():
        recipe = lt.Recipe(name)
        assert [type(tweak) for tweak in recipe.tweaks] == [TWEAKS[p] for p in parts]
        assert recipe.name == lt.Recipe.restore(recipe.describe()).name == name
    for name, kind in TWEAKS.items():
        assert lt.Recipe(name).tweaks == (kind(),)


def test_settings_go_to_the_tweaks_that_are_named():
    settings = {"label_smoothing_epsilon": 0.25, "ghost_skips_alpha": 3.0}
    assert lt.Recipe("label_smoothing", settings).tweaks == (lt.LabelSmoothing(0.25),)
    assert lt.Recipe("vanilla", settings).tweaks == ()
    fields = {field.name: field.default for field in dataclasses.fields(tweak_settings())}
    assert fields["label_smoothing_epsilon"] == 0.1


PAPER = (Path(__file__).parents[2] / "docs" / "paper.md").read_text()
# | parameter | ours | the recipe's | whose it is |, of both tables.
OF_PAPER = [
    [cell.strip().strip("`") for cell in line.split("|")[1:-1]]
    for line in PAPER.split("<!-- /reference -->")[0].split("<!-- reference -->")[1].splitlines()
    if line.startswith("| `")
]


def _written(value):
    return "none" if value is None else ",".join(value) if isinstance(value, list) else str(value)


@pytest.mark.parametrize(
    ("ours", "name", "others"),
    [
        ("tost", "tost_reference", {"order", "dense", "criterion"}),
        ("distillation", "kd_reference", {"teacher"}),
    ],
)
def test_the_reference_s_parameters_are_those_of_the_page(ours, name, others):
    """All that a recipe fixes and no other, but for what is no number of the paper's."""
    described = lt.Recipe(name).describe()
    told = {line[0]: line[1:3] for line in OF_PAPER if line[0] != "signal_scaling"}
    for tweak, parameters in described.items():
        own = {f"{tweak}_{each}": value for each, value in parameters.items()}
        usual = lt.Recipe(ours).describe()[tweak]
        rows = {each: told[each] for each in told if each.startswith(tweak)}
        assert {f"{tweak}_{each}" for each in parameters.keys() - others} == rows.keys()
        for parameter, (first, second) in rows.items():
            assert second == _written(own[parameter]), parameter
            assert first == _written(usual[parameter.removeprefix(f"{tweak}_")]), parameter
    assert RECIPE_DEFAULTS[name].keys() == {
        each for each in told if any(each.startswith(tweak) for tweak in described)
    }
    (line,) = (line for line in OF_PAPER if line[0] == "signal_scaling")
    assert line[1:3] == ["yes", "no"] and "signal_scaling" not in described


def test_what_is_given_comes_before_what_a_recipe_has_by_itself():
    recipe = lt.Recipe("tost_reference,kd_reference", {"distillation_weight": 0.5})
    assert recipe.name == "tost_reference,kd_reference"
    assert recipe.describe()["distillation"] == {
        **{"teacher": None, "temperature": 5.0, "weight": 0.5},
    }
    assert recipe.tweaks[0].beta_start == 2.0 and recipe.tweaks[3].epsilon == 0.1
    assert described("kd_reference", {}) == lt.Recipe("kd_reference").describe()
    assert described("kd_reference", {"distillation_weight": 0.5}) == {
        "distillation": recipe.describe()["distillation"]
    }
    # By tweaks it is the reference's only with the reference's parameters.
    assert lt.Recipe.restore(recipe.describe()).name == "tost_reference,distillation"
    assert lt.Recipe([lt.Distillation(temperature=5, weight=0.9)]).name == "kd_reference"
    same = {"distillation_temperature": 5.0, "distillation_weight": 0.9}
    assert lt.Recipe("distillation", same).name == "distillation"  # as it was called for
    assert lt.Recipe("signal_scaling,tost_reference").name == "tost_reference,signal_scaling"
    changed = recipe.with_tweaks([*recipe.tweaks[:3], lt.LabelSmoothing(0.3), recipe.tweaks[4]])
    assert changed.name == recipe.name and changed.tweaks[3].epsilon == 0.3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lt.Recipe("label_smothing"), "not 'label_smothing'; nearest: label_smoothing"),
        (lambda: lt.Recipe("vanila"), "made of vanilla.*; nearest: vanilla"),
        (lambda: lt.Recipe(""), "made of .*, not ''"),
        (lambda: lt.Recipe("label_smoothing,xyz"), "not 'xyz'"),
        (lambda: lt.Recipe.restore({"label_smothing": {}}), "nearest: label_smoothing"),
        (lambda: lt.Recipe("label_smoothing,label_smoothing"), "label_smoothing came twice"),
        (lambda: lt.Recipe([lt.LabelSmoothing(0.1), lt.LabelSmoothing(0.2)]), "each tweak once"),
        (lambda: lt.Recipe("label_smoothing", {"label_smoothing_epsilon": 1.0}), "epsilon in"),
    ],
)
def test_mistakes(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_describe_and_restore():
    for recipe in (lt.Recipe("vanilla"), lt.Recipe([lt.LabelSmoothing(0.25)])):
        assert lt.Recipe.restore(recipe.describe()).tweaks == recipe.tweaks


def test_the_loss_needs_a_model_or_a_loss(of):
    recipe = lt.Recipe("label_smoothing")
    with pytest.raises(UsageError, match="recipe.prepare.model. before recipe.loss"):
        recipe.loss()
    given = recipe.loss(of.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert given.get_config()["label_smoothing"] == 0.1 and isinstance(given, of.losses.Loss)
    loss = of.losses.MeanSquaredError()
    assert lt.Recipe("vanilla").loss(loss) is loss


@pytest.mark.long
def test_a_loss_for_each_output(of, caplog):
    """In the form in which it came, an output without a loss too."""
    keras, layers, CrossEntropy = of, of.layers, cross_entropy(of)
    recipe, plain = lt.Recipe("label_smoothing"), "sparse_categorical_crossentropy"
    recipe.prepare(mlp(layers))  # by which names are known
    listed = recipe.loss([CrossEntropy(), None, plain])
    assert type(listed) is list and listed[1] is None
    assert [(each.from_logits, each.label_smoothing) for each in listed[::2]] == [
        *((True, 0.1), (False, 0.1)),
    ]
    named = recipe.loss({"b": CrossEntropy(), "a": plain})
    assert [named[name].from_logits for name in "ab"] == [False, True]
    assert all(isinstance(each, CrossEntropy) for each in [*listed[::2], *named.values()])
    assert lt.Recipe("vanilla").loss({"a": "mse", "b": None}) == {"a": "mse", "b": None}

    some = recipe.loss([CrossEntropy(), "mse"])
    assert some[0].label_smoothing == 0.1 and some[1] == "mse"
    assert "label_smoothing has no effect on 1 of 2 losses" in caplog.text
    words = (
        "to smooth the labels of, not mse.*The others take any loss: soft_activation,ghost_skips"
    )
    with pytest.raises(UsageError, match=words) as raised:
        lt.Recipe("label_smoothing,soft_activation,ghost_skips").loss(["mse", None, "mae"])
    assert str(raised.value).startswith(str(raised.value.__cause__))  # the first output's

    inputs = keras.Input((4,))
    heads = [layers.Dense(3, name="a")(inputs), layers.Dense(3, "softmax", name="b")(inputs)]
    model = recipe.prepare(keras.Model(inputs, heads))
    model.compile("sgd", recipe.loss({"a": CrossEntropy(), "b": plain}))
    x, y = examples(8)
    a, b = model(x)
    for measure, epsilon in ((model.evaluate, 0.0), (model.train_on_batch, 0.1)):
        expected = CrossEntropy(True, epsilon)(y, a) + CrossEntropy(False, epsilon)(y, b)
        np.testing.assert_allclose(measure(x, {"a": y, "b": y})[0], expected, rtol=1e-5)


def test_the_loss_is_of_the_model_s_keras(of):
    other = keras3 if of is keras else keras
    words = f"Expected the loss of {of.__name__}, like the model .* got .* of {other.__name__}: a"
    for recipe in (lt.Recipe("vanilla"), lt.Recipe("label_smoothing")):
        model = recipe.prepare(mlp(of.layers))
        with pytest.raises(UsageError, match=words):
            recipe.loss(other.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.compile("sgd", lt.Recipe("label_smoothing").loss(other.losses.CategoricalCrossentropy()))
    with pytest.raises(UsageError, match=words):
        model.fit(*examples(), callbacks=recipe.callbacks(), verbose=0)


def test_not_a_model():
    with pytest.raises(UsageError, match="Expected a Keras model"):
        lt.Recipe("vanilla").prepare(3)


@pytest.mark.parametrize("name", ["vanilla", *TWEAKS])
def test_a_layer_that_cannot_be_copied_is_refused_before_the_training(name, of):
    layers = of.layers
    opaque = opaque_of(of)(object())
    model = chain(layers.Conv2D(3, 2), opaque, layers.Flatten(), shape=(4, 4, 1))
    data = tf.data.Dataset.from_tensors(examples(2, (4, 4, 1)))
    recipe = lt.Recipe(name, {"distillation_teacher": model})
    for each in (recipe, *recipe.tweaks):
        with pytest.raises(UsageError, match="Expected layers .* the layer 'opaque'"):
            each.prepare(model, data)


def test_the_loss_knows_logits_from_probabilities(of):
    """What is known is in test_outputs."""
    for activation, from_logits in (("linear", True), ("softmax", False)):
        recipe = lt.Recipe("vanilla")
        recipe.prepare(chain(of.layers.Dense(3, activation)))
        loss = recipe.loss()
        assert type(loss) is cross_entropy(of)
        assert (loss.from_logits, loss.label_smoothing) == (from_logits, 0)


@pytest.mark.parametrize("name", ["vanilla", "label_smoothing", "distillation"])
def test_outputs_of_neither_kind_need_a_loss(name, of):
    keras, layers = of, of.layers
    model = chain(layers.Dense(3, "relu", name="head"))
    recipe = lt.Recipe(name, {"distillation_teacher": chain(layers.Dense(3))})
    recipe.prepare(model)
    with pytest.raises(UsageError, match="head in the model .* is neither .*: pass the loss"):
        recipe.loss()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert recipe.loss(loss).get_config()["from_logits"]


@pytest.mark.parametrize("name", ["label_smoothing", "distillation", "soft_activation"])
def test_with_tweaks_it_knows_them_too(name, of):
    """Of the model that was prepared last."""
    layers = of.layers
    recipe = lt.Recipe(name, {"distillation_teacher": chain(layers.Dense(3))})
    for activation, from_logits in (("softmax", False), ("linear", True)):
        recipe.prepare(chain(layers.Dense(3, activation)))
        assert recipe.loss().from_logits is from_logits


def test_outputs_of_both_kinds_need_a_loss():
    inputs = keras.Input((4,))
    recipe = lt.Recipe("vanilla")
    recipe.prepare(
        keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(3, "softmax")(inputs)])
    )
    with pytest.raises(UsageError, match="all logits or all probabilities; .*: pass the loss"):
        recipe.loss()
    assert recipe.loss("mse") == "mse"


def test_a_single_unit_needs_a_loss():
    """The cross-entropy over one class is 0 whatever the model says."""
    recipe = lt.Recipe("vanilla")
    recipe.prepare(CASES["several"].build())
    with pytest.raises(UsageError, match="single unit: pass the loss"):
        recipe.loss()
    assert recipe.loss("mse") == "mse"


def test_vanilla_changes_nothing(of):
    model = lt.wrap(mlp(of.layers), random_masks(mlp(of.layers)))
    recipe = lt.Recipe("vanilla")
    assert recipe.prepare(model) is model
    assert recipe.callbacks() == [] and recipe.progress(model) == 1
    finished = recipe.finish(model)
    assert_same(values(finished), values(model))
    assert list(map(type, finished.layers)) == list(map(type, mlp(of.layers).layers))


@dataclasses.dataclass(frozen=True)
class Logged(Tweak):
    """Writes down when it is called."""

    log: list
    name: str = ""

    def change(self, model, data=None):
        self.log.append(("change", self.name, data))
        return model

    def attach(self, model):
        self.log.append(("attach", self.name))

    def loss(self, loss=None):
        self.log.append(("loss", self.name, loss.name))
        return CrossEntropy(name=self.name)

    def callbacks(self, steps=None):
        return [(self.name, steps)]

    def progress(self, model):
        return 1.0 if model.optimizer else 0.3

    def restore(self, model):
        self.log.append(("restore", self.name))
        return model


class Other(Logged):
    pass


def test_tweaks_go_on_in_order_and_come_off_in_reverse():
    log, model, data = [], mlp(), tf.data.Dataset.from_tensors(examples(4))
    recipe = lt.Recipe([Logged(log, "a"), Other(log, "b"), lt.LabelSmoothing()])
    recipe.prepare(model, data)
    assert recipe.loss().label_smoothing == 0.1
    assert recipe.callbacks(7)[:2] == [("a", 7), ("b", 7)]
    with pytest.raises(UsageError, match="past the fade of Logged, which has gone 30 % of its way"):
        recipe.finish(model)
    model.compile("sgd", recipe.loss())
    assert recipe.progress(model) == 1
    recipe.finish(model)
    assert log == [
        *(("change", "a", data), ("change", "b", data)),
        *(("attach", "a"), ("attach", "b")),
        *(("loss", "a", "cross_entropy"), ("loss", "b", "a")) * 2,
        *(("restore", "b"), ("restore", "a")),
    ]
    assert recipe.name == "Logged,Other,label_smoothing"


@pytest.mark.long
def test_the_example_of_the_documentation(of):
    """DESIGN.md's "in their own program", on a model that is not from the zoo."""
    plain = mlp(of.layers)
    x, y = examples(24)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    ticket = lt.Ticket.of(plain, random_masks(plain))
    recipe = lt.Recipe([lt.LabelSmoothing(0.1)])
    model = recipe.prepare(ticket.build(), data)
    model.compile("adam", loss=recipe.loss(), metrics=["accuracy"])
    model.fit(data, epochs=2, validation_data=data, callbacks=recipe.callbacks(), verbose=0)
    final = recipe.finish(model)
    assert list(named_layers(final)) == list(named_layers(model))
    np.testing.assert_array_equal(final(x), model(x))
    assert lt.Ticket.from_pruned(final).masks.nested_in(ticket.masks)


def test_a_parameter_that_no_tweak_has():
    with pytest.raises(UsageError, match="no 'ghost_skip_share'; nearest: ghost_skips_share"):
        lt.Recipe("tost", {"ghost_skip_share": 0.1})


def test_a_tweak_alone_is_a_recipe():
    assert lt.Recipe(lt.LabelSmoothing(0.2)).describe() == {"label_smoothing": {"epsilon": 0.2}}


@pytest.mark.parametrize("tweaks", [["tost"], [lt.GhostSkips], ("vanilla", "distillation"), 3])
def test_what_is_no_tweak_is_refused(tweaks):
    with pytest.raises(UsageError, match="Expected tweaks such as lt.LabelSmoothing"):
        lt.Recipe(tweaks)
