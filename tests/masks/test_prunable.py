"""Which weights may be pruned, and the line on what stays dense."""

import pytest
import tensorflow as tf
from layer_cases import CASES, CASES_OF
from networks import EVERYTHING, both_kerases, chain, functions, layers, random_masks

import lottery_tf as lt
from lottery_tf import models
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import named_variables
from lottery_tf.masks.prunable import PLACES, left_dense, prunable_weights
from lottery_tf.masks.settings import PrunableSettings
from lottery_tf.masks.wrapper import log_left_dense


def prunable(model, *keep_dense, prune_layers=("conv", "dense")):
    """The paths of the layers that are pruned."""
    settings = PrunableSettings(prune_layers, keep_dense)
    return [name.rpartition("/")[0] for name in prunable_weights(model, settings)]


@pytest.mark.parametrize("name", CASES)
@both_kerases
def test_what_is_prunable_by_default_on_request_and_never(name, its_keras):
    case = CASES_OF[its_keras][name]
    plain = case.build()
    for model in (plain, lt.wrap(plain, random_masks(plain))):
        by_default, everything = prunable_weights(model), prunable_weights(model, EVERYTHING)
        assert tuple(by_default) == case.prunable
        assert sorted(everything) == sorted(case.prunable + case.on_request)
        variables = named_variables(model)
        assert all(shape == tuple(variables[n].shape) for n, shape in everything.items())
        assert set(left_dense(model, set(everything))) == set(case.never)


@pytest.mark.parametrize(
    ("prune_layers", "expected"),
    [
        (("conv",), {"conv/kernel", "separable/pointwise_kernel", "transposed/kernel"}),
        (("dense",), {"head/kernel"}),
        (("depthwise",), {"depthwise/depthwise_kernel", "separable/depthwise_kernel"}),
        ((), set()),
    ],
)
@both_kerases
def test_kinds_of_layers(prune_layers, expected, its_keras):
    settings = PrunableSettings(prune_layers, keep_dense=())
    model = CASES_OF[its_keras]["images"].build()
    assert set(prunable_weights(model, settings)) == expected


def test_the_last_layer_is_the_one_that_makes_the_outputs():
    """Not the last of those that would be pruned: with prune_layers=conv all convolutions are."""
    model = chain(
        layers.Conv2D(2, 1, name="conv_1"),
        layers.Conv2D(2, 1, name="conv_2"),
        layers.Flatten(),
        layers.Dense(2, name="hidden"),
        layers.BatchNormalization(),
        layers.Dense(2, name="head"),
        layers.Softmax(),
        shape=(3, 3, 1),
    )
    assert prunable(model, "last") == ["conv_1", "conv_2", "hidden"]
    assert prunable(model, "first") == ["conv_2", "hidden", "head"]
    assert prunable(model, "last", prune_layers=("conv",)) == ["conv_1", "conv_2"]
    assert prunable(model, "first", prune_layers=("dense",)) == ["hidden", "head"]
    assert prunable(model, "first", "last", "conv_2") == ["hidden"]
    assert prunable(model) == ["conv_1", "conv_2", "hidden", "head"]


def test_an_embedding_is_first():
    inputs = keras.Input((3,), dtype="int32")
    x = layers.Dense(4, name="a")(layers.Embedding(5, 4, name="embedding")(inputs))
    assert prunable(keras.Model(inputs, layers.Dense(2, name="b")(x)), "first") == ["a", "b"]


def test_first_and_last_of_two_towers_and_two_outputs():
    model = CASES["several"].build()
    assert prunable(model, "first") == ["trunk", "left", "right"]
    assert prunable(model, "last") == ["a", "b", "trunk"]
    assert prunable(model, "first", "last") == ["trunk"]


def test_first_and_last_of_a_nested_model():
    model = CASES["nested"].build()
    assert prunable(model, "first") == ["dense"]
    assert prunable(model, "last") == ["block/half/dense", "block/dense"]
    assert prunable(model, "block/half/dense") == ["block/dense", "dense"]


def conv(filters, size, name, layers=layers):
    return layers.Conv2D(filters, size, padding="same", use_bias=False, name=name)


def block(x, name, kernels, add, projection=True, k=keras):
    """A residual block: convolutions of the kernel sizes, each with BatchNorm and ReLU."""
    layers, y = k.layers, x
    for place, size in enumerate(kernels):
        y = layers.BatchNormalization()(conv(4, size, f"{name}_{place}", layers)(y))
        y = layers.ReLU()(y) if place < len(kernels) - 1 else y
    if projection:
        x = layers.BatchNormalization()(conv(4, 1, f"{name}_shortcut", layers)(x))
    return functions(k).relu(add(k, x, y))


ADDITIONS = {
    "Add": (lambda k, x, y: k.layers.Add()([x, y]), (1, 3, 1)),
    "layers.add": (lambda k, x, y: k.layers.add([y, x]), (3, 3)),
    "+": (lambda k, x, y: x + y, (1, 3, 1)),
    "a function": (lambda k, x, y: functions(k).add(y, x), (3, 3)),
    "tf.add_n": (lambda k, x, y: tf.add_n([x, y]), (3, 3)),
}


@pytest.mark.parametrize(
    ("name", "k"),
    [
        *((name, keras) for name in ADDITIONS),
        *((name, keras3) for name in ADDITIONS if not name.startswith("tf.")),
    ],
)
def test_shortcuts_are_the_projections_beside_a_branch(name, k):
    """Two blocks with one, one without; the last 1×1 convolution of a bottleneck is none."""
    add, kernels = ADDITIONS[name]
    inputs = k.Input((4, 4, 3))
    x = conv(4, 1, "stem", k.layers)(inputs)
    x = block(x, "one", kernels, add, k=k)
    x = block(x, "two", kernels, add, projection=False, k=k)
    x = block(x, "three", kernels, add, k=k)
    model = k.Model(inputs, k.layers.Dense(2, name="head")(k.layers.Flatten()(x)))
    every = prunable(model)
    kept = prunable(model, "shortcut")
    assert [name for name in every if name not in kept] == ["one_shortcut", "three_shortcut"]


def test_a_shortcut_behind_a_pooling_of_its_own():
    """ResNet-D's; the second one's pooling is the stem's, and feeds the branch too."""
    inputs = keras.Input((4, 4, 3))
    x = inputs
    for name, ends in (("one", "x"), ("two", "xy")):
        y = x
        pooled = layers.AveragePooling2D(2, name=f"{name}_pool")(x)
        y = conv(4, 3, f"{name}_0")(pooled if "y" in ends else y)
        y = y if "y" in ends else layers.MaxPooling2D(2)(y)
        y = conv(4, 1, f"{name}_1")(y)
        x = layers.Add()([y, conv(4, 1, f"{name}_shortcut")(pooled)])
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))
    every, kept = prunable(model), prunable(model, "shortcut")
    assert [name for name in every if name not in kept] == ["one_shortcut", "two_shortcut"]


def test_a_shortcut_beside_a_branch_with_two_ways_to_the_addition():
    """One of them has no kernel; it is no reason not to look at the other."""
    inputs = keras.Input((4, 4, 4))
    y = layers.ReLU()(inputs)
    x = layers.Add()([y, conv(4, 3, "branch")(y), conv(4, 1, "beside")(inputs)])
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))
    assert prunable(model, "shortcut") == [n for n in prunable(model) if n != "beside"]
    assert "beside" in prunable(model)


def test_a_shortcut_inside_a_nested_model():
    inner = keras.Input((4, 4, 3))
    nested = keras.Model(inner, block(inner, "b", (3, 3), lambda k, x, y: x + y), name="block")
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(nested(inputs))))
    assert prunable(model, "shortcut", "last") == ["block/b_0", "block/b_1"]
    wrapped = lt.wrap(model, random_masks(model))
    assert prunable(wrapped, "shortcut", "last") == ["block/b_0", "block/b_1"]


def test_the_zoos_resnets_have_their_shortcuts():
    """Two of the three stages change the width."""
    model = models.create("resnet20", (8, 8, 1), 10, width=2)
    shapes = prunable_weights(model, PrunableSettings(keep_dense=()))
    kept = prunable_weights(model, PrunableSettings(keep_dense=("shortcut",)))
    gone = [shape for name, shape in shapes.items() if name not in kept]
    assert gone == [(1, 1, 2, 4), (1, 1, 4, 8)]


def test_adapters_are_left_alone():
    """With LoRA what multiplies the inputs is more than the kernel."""
    model = chain(keras3.layers.Dense(4, name="d"), keras3.layers.Dense(3, name="h"))
    model.layers[1].enable_lora(2)
    assert list(prunable_weights(model, EVERYTHING)) == ["h/kernel"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"keep_dense": ("firts",)},
            "first, last, shortcut or a layer of .*, not 'firts'.*: first",
        ),
        ({"keep_dense": ("cnv",)}, "not 'cnv'; nearest: conv"),
        ({"prune_layers": ("convs",)}, "conv, dense, .*embedding, not 'convs'; nearest: conv"),
    ],
)
def test_unknown_names_get_the_nearest(settings, words):
    with pytest.raises(UsageError, match=words):
        prunable_weights(CASES["images"].build(), PrunableSettings(**settings))


def test_the_places_are_as_documented():
    assert PLACES == ("first", "last", "shortcut")
    kinds = ("conv", "dense", "recurrent", "attention")
    assert PrunableSettings() == PrunableSettings(kinds, ("last",))


def test_one_line_says_what_stays_dense(lines):
    images, long = (
        CASES["images"].build(),
        chain(*(layers.Dense(1, name=name) for name in "abcdefgh")),
    )
    log_left_dense(long, lt.Masks({"b/kernel": [[1]]}))
    lt.wrap(images)
    lt.wrap(images, random_masks(images))  # the user's own masks: nothing to tell
    assert lines == [
        f"{long.name}: left dense: {', '.join(f'{n}/kernel' for n in 'acdefg')} and 1 more",
        f"{images.name}: left dense: depthwise/depthwise_kernel, separable/depthwise_kernel, "
        "head/kernel",
    ]


def test_the_line_where_nothing_stays_dense(lines):
    model = chain(layers.Dense(3, name="a"), layers.BatchNormalization())
    masks = lt.Masks.ones(prunable_weights(model, EVERYTHING))
    log_left_dense(model, masks)
    assert lines == []
