"""Networks of one Keras made in the other."""

import numpy as np
import pytest
from networks import KERASES, chain, examples, mlp, random_masks
from twins import BUILD, twins

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.graph.conversion import converted
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import named_variables

# What of the twins has functions, or layers whose shapes are in their config.
BEYOND = {
    ("images", keras): "the layer 'tf.__operators__.add'",
    ("images", keras3): "the function Add",
    ("attention", keras): "the parameter query_shape",
    ("attention", keras3): "the layer 'attention' as it is",
    ("tokens", keras3): "the function NotEqual",
    ("nested", keras): "the layer 'tf.math.multiply'",
    ("nested", keras3): "the function Multiply",
}
of_either = pytest.mark.parametrize("its_keras", KERASES.values(), ids=KERASES)


@of_either
@pytest.mark.parametrize("name", BUILD)
def test_twins(name, its_keras):
    """The result is the twin: layers, names and weights; what has none is one sentence."""
    theirs, ours = twins(name)
    model, twin = (theirs, ours) if its_keras is keras else (ours, theirs)
    if (name, its_keras) in BEYOND:
        with pytest.raises(UsageError, match=BEYOND[name, its_keras]) as error:
            converted(model, keras_of(twin))
        assert str(error.value).count(". ") <= 1  # what the other lacks, and what to do
        return
    result = converted(model, keras_of(twin))
    assert type(result) is type(twin)
    wanted, found = named_variables(twin), named_variables(result)
    assert found.keys() == wanted.keys()
    for variable, value in found.items():
        np.testing.assert_array_equal(value.numpy(), wanted[variable].numpy())
    kinds = [
        [(type(each).__name__, each.name) for each in model.layers if len(each.variables)]
        for model in (twin, result)
    ]
    assert kinds[0] == kinds[1]


@of_either
@pytest.mark.parametrize(
    "layer",
    [
        lambda k: k.layers.LeakyReLU(0.3),
        lambda k: k.layers.Dense(3, "swish", kernel_initializer="he_normal"),
        lambda k: k.layers.Dense(3, "gelu", kernel_regularizer=k.regularizers.L2(0.1)),
        lambda k: k.layers.BatchNormalization(momentum=0.7, epsilon=0.1, scale=False),
        lambda k: k.layers.LayerNormalization(epsilon=0.1),
        lambda k: k.layers.Dropout(0.3),
    ],
)
def test_parameters_come_along(layer, its_keras):
    (other,) = (each for each in KERASES.values() if each is not its_keras)
    result = converted(chain(layer(its_keras)), other)
    wanted, found = layer(other).get_config(), result.layers[-1].get_config()
    for name in wanted.keys() - {"name", "dtype", "axis"}:  # the last one is counted either way
        if not isinstance(wanted[name], dict):
            same = isinstance(wanted[name], float)  # of float32, some
            assert found[name] == (pytest.approx(wanted[name]) if same else wanted[name]), name


@pytest.mark.long
@of_either
def test_a_ticket_is_trained_by_the_other_keras(its_keras, tmp_path):
    model = mlp(its_keras.layers)
    lt.Ticket.of(model, random_masks(model)).save(tmp_path / "ticket")
    ticket = lt.Ticket.load(tmp_path / "ticket")
    ((name, other),) = ((n, each) for n, each in KERASES.items() if each is not its_keras)
    built = ticket.in_keras(name).build()
    assert ticket.in_keras(its_keras.__name__) is ticket
    assert isinstance(built, other.Model) and lt.get_masks(built) == ticket.masks
    x, y = examples()
    np.testing.assert_allclose(built(x), ticket.build()(x), rtol=1e-5, atol=1e-6)
    built.compile("sgd", other.losses.SparseCategoricalCrossentropy(from_logits=True))
    built.fit(x, y, verbose=0)
    for weight, mask in ticket.masks.items():
        assert not named_variables(built)[weight].numpy()[~mask].any()
    with pytest.raises(UsageError, match="name of a Keras, tf_keras or keras, not 'torch'"):
        ticket.in_keras("torch")
