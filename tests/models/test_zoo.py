"""Parameter counts against sums written out from the papers' tables, and what is refused."""

import collections
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import assign, named_variables, values
from lottery_tf.models import BUILDERS, ModelSettings, create
from lottery_tf.models.pytorch import convolution
from lottery_tf.models.resnet import bottleneck_resnet

SMALL = {
    **{"lenet_300_100": 6, "conv4": 2, "resnet8_half": 2, "chain8": 2, "chain12": 2},
    **{f"resnet{depth}": 2 for depth in (20, 32, 44, 56, 104, 110)},
    **{f"plain{depth}": 2 for depth in (14, 20, 32, 44, 56)},
    **{"resnet18": 2, "resnet34": 2, "vgg16": 2, "mobilenet": 2},
}


# One of each family, where a test builds twice.
FAMILIES = ["lenet_300_100", "conv4", "chain8", "resnet8_half", "vgg16", "mobilenet"]
# Of these families those that take seconds to build.
DEEP = [f"{kind}{depth}" for kind in ("resnet", "plain") for depth in (32, 44, 56)]
DEEP += ["resnet104", "resnet110", "resnet34"]


def _deep_ones_apart(names, deep=DEEP):
    """``names``, of which those of ``deep`` are tested with the whole runs."""
    return [pytest.param(name, marks=pytest.mark.e2e if name in deep else ()) for name in names]


every_model = pytest.mark.parametrize("name", _deep_ones_apart(BUILDERS))


SHAPE = collections.defaultdict(lambda: (9, 8, 3), vgg16=(17, 16, 3), mobilenet=(17, 16, 3))


@functools.cache
def small(name: str) -> keras.Model:
    return create(name, input_shape=SHAPE[name], num_classes=5, width=SMALL[name])


@functools.cache
def full(name: str) -> keras.Model:
    """At its own width, for CIFAR-10."""
    return create(name, (32, 32, 3), 10)


def trainable(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@every_model
def test_a_model_is_functional_uncompiled_and_ends_in_logits(name):
    model = small(name)
    assert model.name == name
    assert model.input_shape == (None, *SHAPE[name])
    assert model.output_shape == (None, 5)
    assert isinstance(model, keras.Model) and model._is_graph_network
    assert model.optimizer is None
    logits = model(
        np.random.default_rng(0).normal(size=(2, *SHAPE[name])).astype(np.float32)
    ).numpy()
    assert logits.shape == (2, 5)
    assert not np.allclose(logits.sum(axis=1), 1)  # as a softmax would
    assert model.layers[-1].get_config()["activation"] == "linear"


@every_model
def test_layer_names_are_unique(name):
    names = [layer.name for layer in small(name).layers]
    assert len(set(names)) == len(names)
    assert (names[0], names[-1]) == ("image", "head")


@pytest.mark.parametrize("name", _deep_ones_apart(BUILDERS, [*DEEP, "mobilenet", "vgg16"]))
def test_either_keras_computes_the_same_and_names_it_so(name):
    one, other = small(name), create(name, SHAPE[name], 5, SMALL[name], keras="keras")
    assert isinstance(other, keras3.Model) and other.name == name
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(1, 0.3, v.shape) for n, v in named_variables(one).items()}
    before = values(one)
    images = rng.normal(size=(2, *SHAPE[name])).astype(np.float32)
    try:
        for model in (one, other):
            assign(model, weights)
        np.testing.assert_allclose(other(images), one(images), rtol=2e-4)
    finally:
        assign(one, before)


@pytest.mark.parametrize("name", ["lenet_300_100", "mobilenet", "resnet20"])
def test_either_keras_draws_from_the_same_distributions(name):
    one, other = small(name), create(name, SHAPE[name], 5, SMALL[name], keras="keras")
    kinds = ("kernel", "depthwise", "bias")
    for old, new in zip(one.layers, other.layers, strict=True):
        mine, theirs = old.get_config(), new.get_config()
        drawn = [key for key in mine if key.endswith("_initializer") and key.startswith(kinds)]
        for key in drawn:
            assert mine[key]["class_name"] == theirs[key]["class_name"], new.name
            settings = mine[key]["config"]
            assert {k: theirs[key]["config"][k] for k in settings} == settings, new.name


@pytest.mark.parametrize("name", FAMILIES)
def test_layer_names_are_the_same_each_time(name):
    again = create(name, (32, 32, 1), 3, SMALL[name])
    assert [layer.name for layer in again.layers] == [layer.name for layer in small(name).layers]


@every_model
def test_the_only_activations_are_relu_layers(name):
    model = small(name)
    activations = [getattr(layer, "activation", None) for layer in model.layers]
    assert set(activations) <= {None, keras.activations.linear}
    assert (
        sum(isinstance(layer, keras.layers.ReLU) for layer in model.layers)
        == {
            "lenet_300_100": 2,
            "conv4": 6,
            **{"chain8": 8, "chain12": 12},
            "resnet8_half": 7,
            **{f"resnet{depth}": depth - 1 for depth in (18, 34, 20, 32, 44, 56, 110)},
            "resnet104": 1 + 3 * 3 * 17,
            **{f"plain{depth}": depth - 1 for depth in (14, 20, 32, 44, 56)},
            "vgg16": 13,
            "mobilenet": 27,
        }[name]
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_comes_back_from_its_config(name):
    model = small(name)
    again = keras.models.model_from_json(model.to_json())
    assert [v.name for v in again.weights] == [v.name for v in model.weights]


@pytest.mark.parametrize("name", _deep_ones_apart(FAMILIES, ["mobilenet"]))
def test_the_seed_decides_the_weights(name):
    def weights(seed):
        keras.utils.set_random_seed(seed)
        return create(name, (32, 32, 1), 3, SMALL[name]).get_weights()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_lenet_300_100_counts_266610():
    model = create("lenet_300_100", (28, 28, 1), 10)
    assert model.count_params() == (784 * 300 + 300) + (300 * 100 + 100) + (100 * 10 + 10)
    assert model.count_params() == 266_610


def test_lenet_keeps_its_proportions_at_another_width():
    model = create("lenet_300_100", (2, 2, 1), 3, width=30)
    assert [layer.units for layer in model.layers if hasattr(layer, "units")] == [30, 10, 3]
    assert model.count_params() == (4 * 30 + 30) + (30 * 10 + 10) + (10 * 3 + 3)


def test_a_chain_is_a_chain():
    """Each layer feeds the next alone; two of the convolutions halve the image."""
    model = create("chain12", (8, 8, 1), 10)
    assert model.count_params() == (9 * 16 + 16) + 11 * (9 * 16 * 16 + 16) + (16 * 10 + 10)
    assert all(len(layer.inbound_nodes) == 1 for layer in model.layers)
    sizes = [each.output.shape[1] for each in model.layers if each.name.startswith("conv")]
    assert sizes == [8] * 4 + [4] * 4 + [2] * 4


def test_conv4_counts_the_2_4_million_of_the_paper():
    convolutions = (
        (9 * 3 * 64 + 64) + (9 * 64 * 64 + 64) + (9 * 64 * 128 + 128) + (9 * 128 * 128 + 128)
    )
    # 32×32 halved twice leaves 8×8 places of 128 channels.
    dense = (8 * 8 * 128 * 256 + 256) + (256 * 256 + 256) + (256 * 10 + 10)
    model = create("conv4", (32, 32, 3), 10)
    assert model.count_params() == convolutions + dense == 2_425_930


def resnet_count(n: int, w: int, channels: int, classes: int) -> int:
    """Trainable parameters of a ResNet of depth 6n + 2, option B.

    A 3×3 convolution from a to b channels has 9ab weights and no bias, and the BatchNorm behind
    it 2b: γ and β.
    """
    stem = 9 * channels * w + 2 * w
    stage1 = n * 2 * (9 * w * w + 2 * w)
    total = stem + stage1
    for before, after in ((w, 2 * w), (2 * w, 4 * w)):
        shortcut = before * after + 2 * after
        first_convolution = 9 * before * after + 2 * after
        others = (2 * n - 1) * (9 * after * after + 2 * after)
        total += shortcut + first_convolution + others
    return total + 4 * w * classes + classes


def test_resnet20_counts_272474():
    # The paper's 0.27M: 269,722 with its parameter-free shortcuts (option A), and option B's two
    # 1×1 convolutions with BatchNorm, 16·32 + 2·32 and 32·64 + 2·64.
    assert resnet_count(3, 16, 3, 10) == 269_722 + 576 + 2_176 == 272_474
    model = full("resnet20")
    assert trainable(model) == 272_474
    # The moving mean and variance of each BatchNorm: as many as its γ and β. 7 of width 16, and
    # 7 each of width 32 and 64, the shortcuts' among them.
    assert model.count_params() - trainable(model) == 2 * 7 * (16 + 32 + 64)


def test_resnet8_half_is_a_resnet8_on_half_the_image():
    model = create("resnet8_half", (28, 28, 1), 10)
    assert trainable(model) == resnet_count(1, 16, 1, 10) == 77_754
    assert model.get_layer("stem_relu").output_shape == (None, 14, 14, 16)
    with pytest.raises(UsageError, match="resnet8_half halves an image 3 times .* 8×8 pixels"):
        create("resnet8_half", (28, 7, 1), 10)


def test_a_plain_network_is_a_resnet_without_its_shortcuts():
    plain, residual = full("plain20"), full("resnet20")
    assert trainable(plain) == 269_722  # the paper's, as option A's shortcuts have no parameters
    names = [layer.name for layer in residual.layers]
    gone = [name for name in names if "shortcut" in name or name.endswith("_add")]
    assert len(gone) == 9 + 2 * 3
    assert [layer.name for layer in plain.layers] == [name for name in names if name not in gone]
    assert plain.output_shape == residual.output_shape
    for layer in plain.layers:
        assert layer.output_shape == residual.get_layer(layer.name).output_shape


# Of the PyTorch models, counted there, with 10, 100 and 200 classes and images of three channels:
# ToST's (github.com/VITA-Group/ToST: LRsI/models/oresnet.py, soft_activation/models/resnet.py and
# pruning_techniques/models/VGG.py), OpenLTH's (github.com/facebookresearch/open_lth) for ResNet-56
# and -110, bottlenecks with ToST, and github.com/kuangliu/pytorch-cifar's MobileNet. Those
# of ResNet-104 are counted by hand, below.
COUNTS = {
    "resnet20": (272_474, 278_324, 284_824),
    "resnet32": (466_906, 472_756, 479_256),
    "resnet44": (661_338, 667_188, 673_688),
    "resnet56": (855_770, 861_620, 868_120),
    "resnet104": (1_611_418, 1_634_548, 1_660_248),
    "resnet110": (1_730_714, 1_736_564, 1_743_064),
    "resnet18": (11_173_962, 11_220_132, 11_271_432),
    "resnet34": (21_282_122, 21_328_292, 21_379_592),
    "vgg16": (14_728_266, 14_774_436, 14_825_736),
    "mobilenet": (3_217_226, 3_309_476, 3_411_976),
}


@pytest.mark.parametrize("name", _deep_ones_apart(COUNTS))
def test_models_count_as_the_reference(name):
    model, counts = full(name), COUNTS[name]
    assert trainable(model) == counts[0]
    # Only the head knows the classes: a row and a bias each.
    head = model.get_layer("head").kernel.shape[0] + 1
    assert counts == (counts[0], counts[0] + 90 * head, counts[0] + 190 * head)


def bottlenecks_count(n: int, w: int, channels: int, classes: int) -> int:
    """Trainable parameters of n bottlenecks in each of three stages, by LRsI/models/oresnet.py.

    Within a block of p channels 1×1 from what comes in to p, 3×3 from p to p, and 1×1 from p to 4p;
    behind each 2 parameters a channel of BatchNorm, as behind the first block's 1×1 shortcut.
    """
    total, before = 9 * channels * w + 2 * w, w
    for p in (w, 2 * w, 4 * w):
        bn = 2 * p + 2 * p + 2 * 4 * p
        total += before * p + 9 * p * p + 4 * p * p + bn + (before * 4 * p + 2 * 4 * p)
        total += (n - 1) * (4 * p * p + 9 * p * p + 4 * p * p + bn)
        before = 4 * p
    return total + before * classes + classes


def test_resnet104_counts_1611418():
    """Stem 464; stages 77,632, 308,864 and 1,221,888; head 2,570."""
    assert COUNTS["resnet104"][0] == 464 + 77_632 + 308_864 + 1_221_888 + 2_570
    for classes, count in zip((10, 100, 200), COUNTS["resnet104"], strict=True):
        assert bottlenecks_count(17, 16, 3, classes) == count


@functools.cache
def bottleneck_net() -> keras.Model:
    """As ResNet-104, of two blocks a stage."""
    return bottleneck_resnet(14, (12, 12, 3), 5, width=4)


def test_bottlenecks_compute_what_the_reference_s_code_says():
    """Written out with TensorFlow's functions: there is no PyTorch to compute its logits with."""
    model = bottleneck_net()
    assert trainable(model) == bottlenecks_count(2, 4, 3, 5)
    with_known_weights(model)
    image = np.random.default_rng(1).normal(size=(2, 12, 12, 3)).astype(np.float32)

    def conv_bn(x, conv, bn, stride=1):
        kernel = model.get_layer(conv).kernel
        edge = kernel.shape[0] // 2  # PyTorch's padding
        x = tf.pad(x, [[0, 0], [edge, edge], [edge, edge], [0, 0]])
        x = tf.nn.conv2d(x, kernel, stride, "VALID")
        gamma, beta, mean, variance = model.get_layer(bn).get_weights()
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    x = tf.nn.relu(conv_bn(image, "stem_conv", "stem_bn"))
    for stage in (1, 2, 3):
        for block in (1, 2):
            name, stride = f"stage{stage}_block{block}", 2 if (stage > 1 and block == 1) else 1
            y = tf.nn.relu(conv_bn(x, f"{name}_conv1", f"{name}_bn1"))
            y = tf.nn.relu(conv_bn(y, f"{name}_conv2", f"{name}_bn2", stride))
            y = conv_bn(y, f"{name}_conv3", f"{name}_bn3")
            if block == 1:
                x = conv_bn(x, f"{name}_shortcut_conv", f"{name}_shortcut_bn", stride)
            x = tf.nn.relu(x + y)
    kernel, bias = model.get_layer("head").get_weights()
    logits = tf.reduce_mean(x, (1, 2)) @ kernel + bias
    np.testing.assert_allclose(model(image), logits, rtol=1e-4, atol=1e-5)


def test_bottlenecks_are_drawn_as_the_reference_draws_them():
    """N(0, 2/(k²·channels out)) by oresnet.py; the head is PyTorch's own uniform."""
    keras.utils.set_random_seed(0)
    model = bottleneck_resnet(14, (8, 8, 3), 100)
    for name, fan in (("conv1", 64), ("conv2", 9 * 64), ("conv3", 256), ("shortcut_conv", 256)):
        kernel = model.get_layer(f"stage3_block1_{name}").kernel.numpy()
        assert kernel.std() == pytest.approx(np.sqrt(2 / fan), rel=0.03)
    assert np.abs(model.get_layer("head").kernel).max() <= 1 / 16


# Logits of the PyTorch models named above, computed there with the weights and image of
# ``with_known_weights``.
REFERENCE = json.loads(Path(__file__).with_name("pytorch_logits.json").read_text())


def with_known_weights(model: keras.Model) -> np.ndarray:
    """Draws all weights layer by layer, and then an image ``[1, 32, 32, 3]``."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        values = []
        for variable in layer.weights:
            kind, shape = variable.name.rpartition("/")[2], variable.shape
            if "kernel" in kind:
                values.append(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])))
            elif kind.startswith(("gamma", "moving_variance")):
                values.append(rng.uniform(0.5, 1.5, shape))
            else:
                values.append(rng.normal(size=shape) / 5)
        layer.set_weights(values)
    return rng.normal(size=(1, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("name", _deep_ones_apart(REFERENCE))
def test_models_compute_what_the_reference_computes(name):
    model = full(name)
    image = with_known_weights(model)
    (logits,) = model(image, training=False).numpy()
    np.testing.assert_allclose(logits, REFERENCE[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "mobilenet"])
def test_models_take_the_images_of_tiny_imagenet(name):
    model = create(name, (64, 64, 3), 200, width=2)
    assert model.output_shape == (None, 200)


@pytest.mark.parametrize("depth", [20, pytest.param(56, marks=pytest.mark.e2e)])
def test_depth_is_the_number_of_layers_with_weights_on_the_longest_path(depth):
    for kind in ("resnet", "plain"):
        weights = [variable.name for variable in small(f"{kind}{depth}").trainable_variables]
        assert sum("kernel" in each and "shortcut" not in each for each in weights) == depth


def test_resnet_halves_the_image_at_its_second_and_third_stage():
    model = create("resnet20", (32, 28, 3), 10, width=4)
    shapes = {layer.name: layer.output_shape for layer in model.layers}
    assert shapes["stage1_block3_relu2"] == (None, 32, 28, 4)
    assert shapes["stage2_block1_relu2"] == (None, 16, 14, 8)
    assert shapes["stage3_block3_relu2"] == (None, 8, 7, 16)
    assert [name for name in shapes if "shortcut" in name] == [
        f"stage{stage}_block1_shortcut_{part}"
        for stage in (2, 3)
        for part in ("pool", "conv", "bn")
    ]
    assert shapes["stage2_block1_shortcut_pool"] == (None, 16, 14, 4)


def test_batchnorm_has_the_reference_constants_and_convolutions_no_bias():
    layers = small("resnet20").layers
    kinds = collections.Counter(type(layer).__name__ for layer in layers)
    assert kinds["BatchNormalization"] == kinds["Conv2D"] == 21
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
        if isinstance(layer, keras.layers.Conv2D):
            assert not layer.use_bias


def test_a_block_computes_relu_of_its_shortcut_where_its_last_gamma_is_0():
    model = create("resnet20", (8, 8, 1), 3, width=2)
    model.get_layer("stage1_block1_bn2").gamma.assign([0.0, 0.0])
    probe = keras.Model(
        model.input,
        [model.get_layer("stem_relu").output, model.get_layer("stage1_block1_relu2").output],
    )
    before, after = probe(np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32))
    np.testing.assert_array_equal(before, after)


def test_a_halving_convolution_sees_as_many_pixels_on_each_side():
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, convolution(image, 1, 3, 2, "conv", kernel_initializer="ones"))
    (sums,) = model(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)).numpy()[..., 0]
    # Around the pixels 0, 2, 8 and 10, what lies outside of the image being 0.
    first = 0 + 1 + 4 + 5
    second = 1 + 2 + 3 + 5 + 6 + 7
    third = 4 + 5 + 8 + 9 + 12 + 13
    fourth = 5 + 6 + 7 + 9 + 10 + 11 + 13 + 14 + 15
    np.testing.assert_array_equal(sums, [[first, second], [third, fourth]])


def test_kernels_are_glorot_or_he_normal():
    keras.utils.set_random_seed(0)
    dense = create("lenet_300_100", (28, 28, 1), 10).get_layer("dense1").kernel.numpy()
    assert dense.std() == pytest.approx(np.sqrt(2 / (784 + 300)), rel=0.02)
    conv = create("resnet20", (8, 8, 1), 3, width=16).get_layer("stage3_block3_conv2")
    assert conv.kernel.numpy().std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_kernels_are_drawn_as_the_reference_draws_them(name):
    keras.utils.set_random_seed(0)
    model = create(name, (32, 32, 3), 10, width=16)
    layer = {"resnet18": "stage3_block1_conv1", "vgg16": "stage3_conv1"}[name]
    kernel = model.get_layer(layer).kernel.numpy()
    assert kernel.shape == (3, 3, 32, 64)
    std = np.sqrt(2 / (9 * 64))
    assert kernel.std() == pytest.approx(std, rel=0.02)
    # 4.55 % of a normal distribution, none of Keras' own, which is cut off there.
    assert np.mean(np.abs(kernel) > 2 * std) == pytest.approx(0.0455, abs=0.006)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet"])
def test_what_the_reference_leaves_to_pytorch_is_uniform(name):
    keras.utils.set_random_seed(0)
    head = create(name, (32, 32, 3), 100, width=16).get_layer("head")
    inputs = head.kernel.shape[0]
    kernel, bias = (weight * np.sqrt(inputs) for weight in head.get_weights())
    for weight in (kernel, bias):
        assert np.abs(weight).max() == pytest.approx(1, abs=0.05) and np.abs(weight).max() <= 1
    assert kernel.std() == pytest.approx(np.sqrt(1 / 3), rel=0.02)
    assert not np.allclose(kernel[0], bias)


def test_an_unknown_name_is_met_with_the_nearest():
    with pytest.raises(UsageError, match=r"not 'resnet_20'; nearest: resnet20"):
        create("resnet_20", (32, 32, 3), 10)


@pytest.mark.parametrize("name", ["conv4", "resnet20"])
def test_images_too_small_are_refused(name):
    with pytest.raises(UsageError, match=f"{name} .* at least 4×4 pixels, not 8×3"):
        create(name, (8, 3, 1), 10)
    assert create(name, (4, 4, 1), 10, width=2).output_shape == (None, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(input_shape=(28, 28)), r"\(height, width, channels\).*not \(28, 28\)"),
        (dict(input_shape=(None, None, 3)), r"not \(None, None, 3\)"),
        (dict(input_shape=(0, 28, 1)), r"above 0, not \(0, 28, 1\)"),
        (dict(num_classes=1), "`num_classes` expects a whole number of at least 2, not 1"),
        (dict(width=0), "`width` expects a whole number of at least 1, not 0"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        create("lenet_300_100", **{"input_shape": (8, 8, 1), "num_classes": 10, **arguments})


def test_settings_know_the_table():
    assert ModelSettings() == ModelSettings(model="lenet_300_100", width=None)
    with pytest.raises(UsageError, match="`model` takes .*nearest: resnet20"):
        ModelSettings(model="resnet200")
    with pytest.raises(UsageError, match="`width` expects a whole number of at least 1, not 0"):
        ModelSettings(width=0)
