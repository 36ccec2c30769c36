"""A ticket goes on the same model made again, whose layers have other numbers in their names."""

import enum

import numpy as np
import pytest
from networks import assert_same, random_masks, values

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.matching import same_layers


def mlp(of, sizes=(5, 3), **names):
    layers = of.layers
    return of.Sequential([of.Input((4,)), *(layers.Dense(n, **names) for n in sizes)])


def branches(of, crossed=False):
    """Two branches; ``crossed`` they meet the other way round."""
    dense, inputs = of.layers.Dense, of.Input((4,))
    left, right = dense(4), dense(4)
    one, other = left(inputs), right(left(inputs))
    joined = of.layers.Concatenate()([other, one] if crossed else [one, other])
    inner = of.Sequential([of.Input((8,)), dense(4)])
    return of.Model(inputs, dense(3)(inner(joined)))


@pytest.mark.parametrize("make", [mlp, branches])
def test_a_model_made_again_has_the_tickets_weights(make, of, lines, tmp_path):
    model = make(of)
    ticket = lt.Ticket.of(model, random_masks(model))
    ticket.save(tmp_path / "ticket")
    again = make(of)
    assert values(again).keys() != values(model).keys()
    for each in (ticket, lt.Ticket.load(tmp_path / "ticket")):
        lines.clear()
        built = each.build(again)
        assert_same(list(values(built).values()), list(each.weights.values()))
        masks = lt.get_masks(built)
        assert [m.tolist() for m in masks.values()] == [m.tolist() for m in each.masks.values()]
        assert list(masks) == [name for name in values(again) if name.endswith("kernel")]
        assert len([line for line in lines if "matched by their order" in line]) == 1
    lines.clear()
    ticket.build(model)
    assert not lines


def test_another_model_is_refused(of):
    model = mlp(of)
    ticket = lt.Ticket.of(model, random_masks(model))
    for other in (mlp(of, (5, 4)), mlp(of, (5, 3, 3))):
        with pytest.raises(UsageError, match="not in both"):
            ticket.build(other)
    named = of.Sequential(
        [of.Input((4,)), of.layers.Dense(5, name="a"), of.layers.Dense(3, name="b")]
    )
    with pytest.raises(UsageError, match="not in both"):
        ticket.build(named)
    swapped = [
        of.Sequential(
            [
                of.Input((4,)),
                *(of.layers.Dense(4, name=name) for name in names),
                of.layers.Dense(3),
            ]
        )
        for names in (("enc_1", "enc_2"), ("enc_2", "enc_1"))
    ]
    with pytest.raises(UsageError, match="not in both"):
        lt.Ticket.of(swapped[0], random_masks(swapped[0])).build(swapped[1])
    other, crossed = branches(of), branches(of, crossed=True)
    assert same_layers(other, branches(of)) and not same_layers(other, crossed)


def test_rewinding_to_a_model_made_again(of):
    """The weights of its twin, whatever Keras has numbered."""
    trained, start = mlp(of), mlp(of)
    kernel = trained.layers[0].kernel
    kernel.assign(np.where(np.arange(20).reshape(4, 5) % 2, kernel.numpy(), 0))
    ticket = lt.Ticket.from_pruned(trained, rewind_to=start)
    name = next(iter(ticket.masks))
    expected = start.layers[0].kernel.numpy() * ticket.masks[name]
    np.testing.assert_array_equal(ticket.weights[name], expected)


class Kind(enum.Enum):
    ONE = 1


def scaled(of, value):
    class Scaled(of.layers.Layer):
        def __init__(self, value=None, **kwargs):
            super().__init__(**kwargs)
            self.value = value

        def call(self, x):
            return 2.0 * x

        def get_config(self):
            return {**super().get_config(), "value": self.value}

    inputs = of.Input((4,))
    x = Scaled(value)(of.layers.Dense(5, name="first")(inputs))
    return of.Model(inputs, of.layers.Dense(3, name="head")(x))


@pytest.mark.parametrize("value", [Kind.ONE, {1, 2}, np.sum], ids=["enum", "set", "function"])
def test_configs_that_are_no_json_are_needed_to_save_alone(value, of, tmp_path):
    model = scaled(of, value)
    ticket = lt.prune(model, "omp", 0.5)
    x = np.ones((2, 4), np.float32)
    built = ticket.reinitialised(3).build()
    assert built(x).shape == (2, 3) and ticket.its_keras is of
    np.testing.assert_array_equal(lt.strip(ticket.build())(x), ticket.build(model)(x))
    if ticket.architecture is None:
        with pytest.raises(UsageError, match="get_config that JSON can hold"):
            ticket.save(tmp_path / "ticket")
        assert not list(tmp_path.iterdir())
    else:  # Keras 3 writes functions by their names
        ticket.save(tmp_path / "ticket")
