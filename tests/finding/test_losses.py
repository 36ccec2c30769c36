"""Losses as people have them, in find_ticket, prune, signal and recipes: as fit has them."""

import numpy as np
import pytest
import tensorflow as tf
from networks import chain, examples, values

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.layers import assign

X, Y = examples(24, (4,), 3)
SIZES = np.linspace(-1, 1, 24, dtype=np.float32)
OF_EXAMPLES = np.linspace(0, 2, 24, dtype=np.float32)


def two_headed(of):
    inputs = of.Input((4,))
    x = of.layers.Dense(5, "relu", name="trunk")(inputs)
    heads = {"kind": of.layers.Dense(3, name="a")(x), "size": of.layers.Dense(1, name="b")(x)}
    return with_weights(of, of.Model(inputs, heads))


def with_weights(of, model):
    of.utils.set_random_seed(0)
    model.set_weights([np.random.normal(size=each.shape) for each in model.get_weights()])
    return model


class Adding:
    """A layer with a loss of its own, as CTC's in Keras' examples."""

    def __new__(cls, of):
        class Adds(of.layers.Layer):
            def call(self, inputs):
                self.add_loss(of.losses.mean_squared_error(inputs[1], inputs[0]))
                return inputs[0]

        return Adds()


def its_own(of):
    inputs = [of.Input((4,), name="x"), of.Input((2,), name="y")]
    outputs = of.layers.Dense(2, name="head")(of.layers.Dense(5, "relu", name="first")(inputs[0]))
    return with_weights(of, of.Model(inputs, Adding(of)([outputs, inputs[1]])))


def of_its_own():
    labels = np.stack([SIZES, -SIZES], axis=-1)
    return tf.data.Dataset.from_tensor_slices(({"x": X, "y": labels},)).batch(8)


# model, data, what compile and what fit takes
WAYS = {
    "one sigmoid": lambda of: (
        with_weights(of, chain(of.layers.Dense(5, "relu"), of.layers.Dense(1, "sigmoid"))),
        (X, Y > 0),
        {"loss": "binary_crossentropy"},
        {},
    ),
    "labels": lambda of: (
        with_weights(of, chain(of.layers.Dense(5, "relu"), of.layers.Dense(2))),
        (X, Y[:, None] > np.arange(2)),
        {"loss": of.losses.BinaryCrossentropy(from_logits=True)},
        {},
    ),
    "outputs by name": lambda of: (
        two_headed(of),
        (X, {"kind": Y, "size": SIZES}, {"kind": OF_EXAMPLES, "size": OF_EXAMPLES[::-1]}),
        {
            "loss": {
                "kind": of.losses.SparseCategoricalCrossentropy(from_logits=True),
                "size": "mse",
            },
            "loss_weights": {"kind": 0.25, "size": 3.0},
        },
        {},
    ),
    "weights of examples": lambda of: (
        with_weights(of, chain(of.layers.Dense(5, "relu"), of.layers.Dense(3))),
        (X, Y, OF_EXAMPLES),
        {"loss": of.losses.SparseCategoricalCrossentropy(from_logits=True)},
        {},
    ),
    "weights of classes": lambda of: (
        with_weights(of, chain(of.layers.Dense(5, "relu"), of.layers.Dense(3, "softmax"))),
        (X, Y),
        {"loss": "sparse_categorical_crossentropy"},
        {"class_weight": {0: 1.0, 1: 4.0, 2: 0.5}},
    ),
    "regression": lambda of: (
        with_weights(of, chain(of.layers.Dense(5, "relu"), of.layers.Dense(1))),
        (X, SIZES),
        {"loss": "mean_squared_error"},
        {},
    ),
    "its own": lambda of: (its_own(of), of_its_own(), {}, {}),
}
every_way = pytest.mark.parametrize("way", WAYS)


def batched(data):
    if isinstance(data, tf.data.Dataset):
        return data
    return tf.data.Dataset.from_tensor_slices(data).batch(8)


def fitted(of, model, data, compiled, fit, steps=3):
    """The weights after steps of Keras' own fit."""
    model.compile(of.optimizers.SGD(0.1), **compiled)
    model.fit(batched(data), epochs=1, steps_per_epoch=steps, verbose=0, **fit)
    return values(model)


@pytest.mark.long
@every_way
def test_a_round_is_trained_as_by_fit(way, of):
    """The weights that learning-rate rewinding keeps are those of ``fit``, masked."""
    model, data, compiled, fit = WAYS[way](of)
    *_, ticket = lt.find_tickets(
        model,
        batched(data),
        optimizer=of.optimizers.SGD(0.1),
        epochs=1,
        rounds=1,
        rewind="learning_rate",
        jit_compile=False,
        metrics=None,
        **compiled,
        **fit,
    )
    assert ticket.sparsity == pytest.approx(0.2, abs=0.02)
    expected = fitted(of, model, data, compiled, fit)
    for name, mask in ticket.masks.items():
        np.testing.assert_allclose(ticket.weights[name], expected[name] * mask, atol=1e-6)


def gradient_of_fit(of, model, data, compiled, fit):
    """∂L/∂w of one batch, by a step of Keras' own SGD with learning rate 1."""
    before = values(model)
    model.compile(of.optimizers.SGD(1.0), **compiled)
    model.fit(batched(data).take(1), epochs=1, verbose=0, **fit)
    after = values(model)
    assign(model, before)
    return {name: before[name] - after[name] for name in before}


@pytest.mark.long
@every_way
def test_snip_looks_at_the_loss_that_trains(way, of):
    model, data, compiled, fit = WAYS[way](of)
    ticket = lt.prune(model, "snip", 0.5, batched(data), batches=1, **compiled, **fit)
    gradients = gradient_of_fit(of, model, data, compiled, fit)
    scores = {
        name: np.abs(ticket_weights * gradients[name])
        for name, ticket_weights in values(model).items()
        if name in ticket.masks
    }
    kept = np.concatenate([scores[name][mask] for name, mask in ticket.masks.items()])
    cut = np.concatenate([scores[name][~mask] for name, mask in ticket.masks.items()])
    assert cut.max() <= kept.min() + 1e-7 and kept.max() > 0
    signal = lt.signal(model, batched(data), **{**compiled})
    assert signal.loss > 0 and all(row.gradient > 0 for row in signal.layers)
    assert (
        lt.prune(model, "grasp", 0.5, batched(data), batches=1, **compiled, **fit).sparsity == 0.5
    )


@pytest.mark.long
@every_way
def test_a_recipe_fits_every_loss(way, of):
    """All tweaks but those of labels where there are none; the finished model is plain."""
    model, data, compiled, fit = WAYS[way](of)
    ticket = lt.prune(model, "omp", 0.5)
    classes = way not in ("regression", "its own")
    names = "signal_scaling,rescaled_init,soft_activation,ghost_skips"
    recipe = lt.Recipe(
        f"{names},label_smoothing" if classes else names, {"rescaled_init_iterations": 1}
    )
    loss, loss_weights = compiled.get("loss"), compiled.get("loss_weights")
    prepared = recipe.prepare(ticket.build(), batched(data), loss, loss_weights)
    given = None if way == "its own" else recipe.loss()
    prepared.compile(of.optimizers.SGD(0.1), given, loss_weights=loss_weights)
    prepared.fit(batched(data), epochs=2, verbose=0, callbacks=recipe.callbacks(), **fit)
    finished = recipe.finish(prepared)
    assert {type(each) for each in finished.layers} == {type(each) for each in model.layers}
    for name, mask in ticket.masks.items():
        assert not np.any(values(finished)[name][~mask])


@pytest.mark.long
def test_the_search_for_scales_takes_the_loss_that_trains(of):
    """RescaledInit minimises the very loss: one that is 0 has no gradient to scale by."""
    model, data, compiled, _ = WAYS["outputs by name"](of)
    few = {"rescaled_init_iterations": 2}
    found = []
    for factor in (1.0, 2.0):
        weights = {"kind": factor, "size": factor}
        recipe = lt.Recipe("rescaled_init", few)
        prepared = recipe.prepare(model, batched(data), compiled["loss"], weights)
        found.append(recipe.learned(prepared)["rescaled_init"])
    assert found[1]["norm"][0] == pytest.approx(2 * found[0]["norm"][0], rel=1e-5)
    with pytest.raises(UsageError, match=r"give it to recipe.prepare\(model, data, loss=…\)"):
        lt.Recipe("rescaled_init", few).prepare(model, batched(data))


def test_soft_labels_on_labels_that_are_not_there(of, caplog):
    """A model with losses of its own is trained without a word of labels."""
    recipe, model = lt.Recipe("label_smoothing"), its_own(of)
    prepared = recipe.prepare(model)
    prepared.compile(of.optimizers.SGD(0.1))
    prepared.fit(of_its_own(), verbose=0, callbacks=recipe.callbacks())
    assert "label_smoothing" in caplog.text and "has no effect" in caplog.text


@pytest.mark.long
@pytest.mark.parametrize("by_key", [True, False])
@pytest.mark.parametrize("loss", [None, "each", "some"])
def test_weights_of_losses_are_of_the_outputs_that_they_name(by_key, loss, of):
    """In Keras 3 too, which orders losses and weights otherwise."""
    inputs = of.Input((4,))
    x = of.layers.Dense(5, "relu", name="trunk")(inputs)
    heads = [of.layers.Dense(3, name=name)(x) for name in ("b", "a")]
    outputs = dict(zip(("b", "a"), heads, strict=True)) if by_key else heads
    model = with_weights(of, of.Model(inputs, outputs))
    sparse = of.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = {None: None, "each": {"b": sparse, "a": sparse}, "some": {"b": sparse}}[loss]
    labels = {"b": Y, "a": Y}
    data = batched((X, labels)).map(lambda x, y: (x, y if by_key else (y["b"], y["a"])))
    _, ticket = lt.find_tickets(
        *(model, data),
        **{"optimizer": of.optimizers.SGD(0.1), "epochs": 1, "rounds": 1, "loss": losses},
        **{"loss_weights": {"b": 0.0, "a": 1.0}, "rewind": "learning_rate", "metrics": None},
        **{"jit_compile": False, "keep_dense": ()},
    )
    before, moved = values(model), {}
    for name in ("b", "a"):
        moved[name] = bool(np.any(ticket.weights[f"{name}/bias"] != before[f"{name}/bias"]))
    assert moved == {"b": False, "a": loss != "some"}
