"""FLOPs by hand for each kind of layer, and against TensorFlow's own count."""

import numpy as np
import pytest
import tensorflow as tf
from kinds_of_layers import KINDS, built, in_each
from layer_cases import CASES, CASES3, CASES_OF, OWN
from networks import both_kerases, chain, layers, random_masks
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from twins import BUILD, twins

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import input_names
from lottery_tf.masks.flops import count_flops

# Layer, shape of its input → positions · weights of each kernel.
BY_HAND = {
    "dense": (lambda layers: layers.Dense(3), (4,), {"kernel": 1 * 12}),
    "dense on a sequence": (lambda layers: layers.Dense(3), (5, 4), {"kernel": 5 * 12}),
    "einsum": (
        lambda layers: layers.EinsumDense("abc,cd->abd", (5, 3)),
        (5, 4),
        {"kernel": 5 * 12},
    ),
    "einsum of several heads": (
        lambda layers: layers.EinsumDense("abc,cde->abde", (5, 3, 2)),
        (5, 4),
        {"kernel": 5 * 24},
    ),
    "einsum that joins heads": (
        lambda layers: layers.EinsumDense("abcd,cde->abe", (5, 6)),
        (5, 3, 2),
        {"kernel": 5 * 36},
    ),
    "einsum with weights of each place": (
        lambda layers: layers.EinsumDense("abc,bcd->abd", (5, 3)),
        (5, 4),
        {"kernel": 1 * 60},
    ),
    "einsum with an ellipsis": (
        lambda layers: layers.EinsumDense("...c,cd->...d", (3,)),
        (5, 6, 4),
        {"kernel": 30 * 12},
    ),
    "conv": (lambda layers: layers.Conv2D(2, 3), (6, 5, 4), {"kernel": 12 * 72}),
    "conv with strides": (
        lambda layers: layers.Conv2D(2, 3, 2, "same"),
        (6, 5, 4),
        {"kernel": 9 * 72},
    ),
    "conv with dilation": (
        lambda layers: layers.Conv2D(2, 3, dilation_rate=2),
        (6, 5, 4),
        {"kernel": 2 * 72},
    ),
    "conv in groups": (
        lambda layers: layers.Conv2D(2, 3, groups=2),
        (6, 5, 4),
        {"kernel": 12 * 36},
    ),
    "conv of channels first": (
        lambda layers: layers.Conv2D(2, 3, data_format="channels_first"),
        (4, 6, 5),
        {"kernel": 12 * 72},
    ),
    "conv 1D": (lambda layers: layers.Conv1D(2, 3, padding="causal"), (6, 4), {"kernel": 6 * 24}),
    "conv 3D": (lambda layers: layers.Conv3D(2, 2), (3, 4, 5, 1), {"kernel": 24 * 16}),
    "transposed": (lambda layers: layers.Conv2DTranspose(2, 3, 2), (6, 5, 4), {"kernel": 30 * 72}),
    "transposed 1D": (lambda layers: layers.Conv1DTranspose(2, 3, 2), (6, 4), {"kernel": 6 * 24}),
    "transposed 3D": (
        lambda layers: layers.Conv3DTranspose(2, 2),
        (3, 4, 5, 1),
        {"kernel": 60 * 16},
    ),
    "depthwise": (
        lambda layers: layers.DepthwiseConv2D(3, depth_multiplier=2),
        (6, 5, 4),
        {"depthwise_kernel": 12 * 72},
    ),
    "depthwise 1D": (
        lambda layers: layers.DepthwiseConv1D(3),
        (6, 4),
        {"depthwise_kernel": 4 * 12},
    ),
    "separable": (
        lambda layers: layers.SeparableConv2D(2, 3, depth_multiplier=2),
        (6, 5, 4),
        {"depthwise_kernel": 12 * 72, "pointwise_kernel": 12 * 16},
    ),
    "separable 1D": (
        lambda layers: layers.SeparableConv1D(2, 3, strides=2),
        (7, 4),
        {"depthwise_kernel": 3 * 12, "pointwise_kernel": 3 * 8},
    ),
}


@both_kerases
@pytest.mark.parametrize("kind", BY_HAND)
def test_layers_by_hand(kind, its_keras):
    build, shape, expected = BY_HAND[kind]
    layer = build(its_keras.layers)
    model = chain(layer, shape=shape)
    names = {f"{layer.name}/{name}": 2 * count for name, count in expected.items()}
    assert count_flops(model) == names


@pytest.mark.parametrize("name", BUILD)
def test_both_kerases_count_the_same(name):
    theirs, ours = twins(name)
    masks = random_masks(theirs)
    for model, counted in ((ours, masks), (lt.wrap(ours, masks), masks), (ours, None)):
        expected = count_flops(theirs, masks if counted else None)
        assert count_flops(model, counted) == expected


def test_pruned_weights_cost_nothing():
    """Four weights of a kernel at the four positions of a 2x2 image, three of them pruned."""
    model = chain(layers.Conv2D(2, 1, name="conv"), layers.Dense(1, name="d"), shape=(2, 2, 2))
    masks = lt.Masks({"conv/kernel": np.reshape([1, 0, 0, 0], (1, 1, 2, 2))})
    assert count_flops(model) == {"conv/kernel": 2 * 4 * 4, "d/kernel": 2 * 4 * 2}
    for each in (model, lt.wrap(model, masks)):
        assert count_flops(each, masks) == {"conv/kernel": 2 * 4 * 1, "d/kernel": 2 * 4 * 2}
    assert count_flops(lt.wrap(model, masks)) == count_flops(model)


@pytest.mark.parametrize("cases", [CASES, CASES3], ids=["tf_keras", "keras"])
def test_a_shared_layer_counts_at_each_call(cases):
    """``both`` is called three times (in the tower twice), ``twice`` as well."""
    assert count_flops(cases["shared"].build()) == {
        "both/kernel": 3 * 2 * 16,
        "tower/twice/kernel": 3 * 2 * 12,
        "head/kernel": 2 * 18,
    }


def test_a_layer_shared_by_images_of_two_sizes():
    conv = layers.Conv2D(1, 1, use_bias=False, name="conv")
    small, large = keras.Input((2, 2, 1)), keras.Input((3, 3, 1))
    assert count_flops(keras.Model([small, large], [conv(small), conv(large)])) == {
        "conv/kernel": 2 * 4 + 2 * 9
    }


@pytest.mark.parametrize("cases", [CASES, CASES3], ids=["tf_keras", "keras"])
def test_nested_models(cases):
    assert count_flops(cases["nested"].build()) == {
        "block/half/dense/kernel": 2 * 20,
        "block/dense/kernel": 2 * 20,
        "dense/kernel": 2 * 10,
    }


@both_kerases
def test_other_layers_are_not_counted(its_keras):
    tokens, (Gate, _) = CASES_OF[its_keras]["tokens"], OWN[its_keras]
    names = list(count_flops(tokens.build()))
    assert names[:2] == ["embedding/embeddings", "dense/kernel"]
    assert names[-3:] == ["lstm/kernel", "lstm/recurrent_kernel", "head/kernel"]
    assert count_flops(chain(Gate())) == {}


@pytest.mark.parametrize(("name", "its_keras"), in_each())
def test_each_kind_by_hand(name, its_keras):
    kind = KINDS[name]
    found = count_flops(built(name, its_keras))
    assert found == {
        **{n: 2 * count for n, count in kind.flops_in(its_keras).items()},
        **{"head/kernel": found["head/kernel"]},
    }


@both_kerases
@pytest.mark.parametrize(
    ("kind", "args", "at_7", "at_224"),
    [("Conv1D", (2, 3), 5 * 24, 222 * 24), ("Dense", (2,), 7 * 8, 224 * 8)],
)
def test_inputs_of_any_size(kind, args, at_7, at_224, its_keras, lines):
    """At the size that is given; of another a line says which was taken."""
    layer = getattr(its_keras.layers, kind)(*args, name="last")
    model = chain(layer, shape=(None, 4))
    assert count_flops(model, input_shape=(7, 4)) == {"last/kernel": 2 * at_7}
    by_name = dict.fromkeys(input_names(model), (7, 4))
    assert count_flops(model, input_shape=by_name) == {"last/kernel": 2 * at_7}
    assert not lines
    assert count_flops(model) == {"last/kernel": 2 * at_224}
    assert len(lines) == 1 and "(224, 4)" in lines[0]
    half = np.arange(layer.kernel.numpy().size).reshape(layer.kernel.shape) % 2 == 0
    assert count_flops(model, lt.Masks({"last/kernel": half}), (7, 4)) == {"last/kernel": at_7}
    for wrong in ((7, 5), (7,), {"other": (7, 4)}):
        with pytest.raises(UsageError, match="Expected shapes of the inputs"):
            count_flops(model, input_shape=wrong)


def test_a_model_within_the_model_of_any_size(of):
    """Called at two sizes, it is counted at each; a ticket's facts are of the open size."""
    layers, inputs = of.layers, of.Input((None, None, 3))
    part = of.Model(inputs, layers.Conv2D(2, 3, name="conv")(inputs), name="part")
    image = of.Input((None, None, 3))
    half = layers.AveragePooling2D(2)(image)
    pooled = [layers.GlobalAveragePooling2D()(part(each)) for each in (image, half)]
    model = of.Model(image, layers.Dense(4, name="head")(layers.Concatenate()(pooled)))
    found = count_flops(lt.wrap(model), input_shape=(12, 10, 3))
    assert found == {"part/conv/kernel": 2 * 54 * (10 * 8 + 4 * 3), "head/kernel": 2 * 16}
    with pytest.raises(UsageError, match="a size that .* can compute"):
        count_flops(model, input_shape=(3, 3, 3))
    facts = lt.inspect(lt.prune(model, "omp", 0.5))
    assert facts.unknown is None
    assert facts.weights[0].flops_sparse == facts.weights[0].flops_dense / 2
    assert facts.flops_dense == 2 * 54 * (222**2 + 110**2) + 32


def test_a_size_that_does_not_matter_may_be_open():
    model = chain(
        layers.Embedding(5, 4, name="embedding"),
        layers.GlobalAveragePooling1D(),
        layers.Dense(2, name="d"),
        shape=(None,),
    )
    assert count_flops(model) == {"embedding/embeddings": 0, "d/kernel": 2 * 8}


def mobilenet():
    return keras.applications.MobileNet((32, 32, 3), alpha=0.25, weights=None)


def counted_by_tensorflow(model):
    """The profiler's FLOPs of the operations with a kernel."""
    call = tf.function(model).get_concrete_function(tf.TensorSpec((1, *model.input_shape[1:])))
    graph = convert_variables_to_constants_v2(call).graph
    kinds = {op.name: op.type for op in graph.get_operations()}
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    found = tf.compat.v1.profiler.profile(
        graph, cmd="scope", options={**options, "output": "none", "min_float_ops": 0}
    )
    total, todo = 0, [found]
    while todo:
        node = todo.pop()
        todo += node.children
        if kinds.get(node.name) in ("MatMul", "Conv2D", "DepthwiseConv2dNative"):
            total += node.float_ops
    return total


@pytest.mark.parametrize(
    "build",
    [
        lambda: lt.models.create("lenet_300_100", (28, 28, 1), 10),
        lambda: lt.models.create("resnet8_half", (32, 32, 3), 10),
        mobilenet,
    ],
    ids=["lenet", "resnet8_half", "mobilenet"],
)
def test_tensorflow_counts_the_same(build):
    model = build()
    assert sum(count_flops(model).values()) == counted_by_tensorflow(model) > 0
