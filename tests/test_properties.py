"""What holds of any network, masks, optimizer and batch: drawn by Hypothesis, the same each time.

Steps are eager, and examples few: what costs is Keras building and copying networks. Of scores and
structures on arrays alone the tests of ``masks/`` draw many more.
"""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from networks import (
    EVERYTHING,
    KERASES,
    assert_same,
    assert_zeros,
    cross_entropy,
    eagerly,
    prove_here,
    tape_step,
    values,
)

import lottery_tf as lt
from lottery_tf.exporting import write_exports
from lottery_tf.finding import rounds as finding
from lottery_tf.graph.layers import assign, named_layers
from lottery_tf.masks.prunable import prunable_weights
from lottery_tf.training.trainer import make_trainer

CLASSES = 3
both_kerases = pytest.mark.parametrize("of", KERASES.values(), ids=KERASES)


def few(examples):
    """As many examples, those of any other run too; none that is smaller is looked for, which takes
    minutes."""
    phases = (Phase.explicit, Phase.generate)
    return settings(max_examples=examples, derandomize=True, phases=phases)


@pytest.fixture(autouse=True, scope="module")
def eager():
    with eagerly():
        yield


# Networks


class Layer(NamedTuple):
    kind: str
    size: int
    bias: bool
    activation: str | None


class Network(NamedTuple):
    """Images of 4 × 4, or vectors of 5, and what is put on them; the head is on top."""

    images: bool
    body: tuple[Layer, ...]
    seed: int


seeds = st.integers(0, 2**31 - 1)
layers = st.builds(
    Layer,
    st.sampled_from(["dense", "conv", "depthwise", "norm", "residual"]),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from(["relu", "tanh", None]),
)
networks = st.builds(
    Network, st.booleans(), st.lists(layers, min_size=1, max_size=4).map(tuple), seeds
)


def build(network, of):
    """The network in one of the Kerases; of vectors every layer with weights is a dense one."""
    of.utils.set_random_seed(network.seed)
    inputs = x = of.Input((4, 4, 2) if network.images else (5,))
    for number, (kind, size, bias, activation) in enumerate(network.body):
        own = {"use_bias": bias, "activation": activation, "name": f"{kind}_{number}"}
        if kind == "norm":
            x = of.layers.BatchNormalization(center=bias, momentum=0.5, name=own["name"])(x)
            x = of.layers.ReLU()(x) if activation == "relu" else x
        elif kind == "residual":
            same = x.shape[-1]
            layer = of.layers.Conv2D(same, 3, padding="same", **own) if network.images else None
            x = of.layers.Add()([x, (layer or of.layers.Dense(same, **own))(x)])
        elif network.images and kind == "conv":
            x = of.layers.Conv2D(size, 1 + size % 3, padding="same", **own)(x)
        elif network.images and kind == "depthwise":
            x = of.layers.DepthwiseConv2D(1 + size % 3, padding="same", **own)(x)
        else:
            x = of.layers.Dense(size, **own)(x)
    x = of.layers.GlobalAveragePooling2D()(x) if network.images else x
    return of.Model(inputs, of.layers.Dense(CLASSES, name="head")(x))


def batch(network, size, seed):
    random = np.random.default_rng(seed)
    shape = (size, *((4, 4, 2) if network.images else (5,)))
    return random.standard_normal(shape).astype(np.float32), random.integers(0, CLASSES, size)


def masks_of(model, share, seed):
    """Any masks: of a share of 0 nothing stays, of 1 everything."""
    random = np.random.default_rng(seed)
    shapes = prunable_weights(model, EVERYTHING)
    return lt.Masks({name: random.random(shape) < share for name, shape in shapes.items()})


shares = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.05, 0.95))

# Optimizers


@st.composite
def optimizers(draw):
    """Keras → an optimizer, with whatever it may have besides."""
    momentum = {"momentum": draw(st.sampled_from([0.0, 0.9]))}
    name, own = draw(
        st.sampled_from(
            [
                *(("SGD", momentum), ("SGD", {"momentum": 0.9, "nesterov": True})),
                *(("Adam", {}), ("Adam", {"amsgrad": True}), ("AdamW", {"weight_decay": 0.1})),
                *(("RMSprop", {**momentum, "centered": True}), ("Adagrad", {}), ("Lion", {})),
                *(("Adamax", {}), ("Nadam", {}), ("SGD", {"weight_decay": 0.1})),
            ]
        )
    )
    clip = draw(st.sampled_from([{}, {"clipnorm": 0.5}, {"global_clipnorm": 0.5}]))
    rate = draw(st.sampled_from([1e-3, 0.1, 1.0]))
    # Its sums begin above 0, and stay there.
    sums = {"initial_accumulator_value": 0.0} if name == "Adagrad" else {}
    return lambda of: getattr(of.optimizers, name)(rate, **own, **clip, **sums)


# Properties


@pytest.mark.long
@both_kerases
@few(25)
@given(
    network=networks,
    method=st.sampled_from(["omp", "random", "erk"]),
    scope=st.sampled_from(["global", "layerwise"]),
    both=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(sorted),
    seed=seeds,
)
def test_counts_are_exact_and_masks_nested(of, network, method, scope, both, seed):
    """Of weights that are pruned, and pruned further; layer by layer where that is asked for."""
    model = build(network, of)
    before = values(model)
    low, high = both
    chosen = {"scope": scope, "seed": seed % 2**31, "keep_dense": ()}
    first = lt.prune(model, method, low, **chosen)
    second = lt.prune(first.build(), method, high, **chosen)
    assert second.masks.nested_in(first.masks)
    for ticket, sparsity in ((first, low), (second, high)):
        masks = ticket.masks
        if scope == "layerwise" and method != "erk":
            for mask in masks.values():
                assert np.count_nonzero(mask) == mask.size - round(sparsity * mask.size)
        else:
            assert masks.kept == masks.total - round(sparsity * masks.total)
        for name, mask in masks.items():
            assert_same([ticket.weights[name]], [np.where(mask, before[name], 0)])
        for name in before.keys() - masks.keys():
            assert_same([ticket.weights[name]], [before[name]])
    assert_same(values(model), before)


@pytest.mark.long
@both_kerases
@few(15)
@given(
    network=networks,
    share=shares,
    seed=seeds,
    optimizer=optimizers(),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_zeros_stay_zero_from_the_first_step_to_the_export(
    of, network, share, seed, optimizer, sizes, tmp_path_factory
):
    """Through steps, checkpoints, what is restored from them and trained on, strip and export."""
    folder = tmp_path_factory.mktemp("zeros")
    plain = build(network, of)
    masks = masks_of(plain, share, seed)
    model, mine = lt.wrap(plain, masks), optimizer(of)

    def train(model, optimizer, sizes):
        for number, size in enumerate(sizes):
            x, y = batch(network, size, seed + number)
            tape_step(model, x, y, cross_entropy(of), optimizer)
            assert_zeros(model, masks, optimizer)

    assert_zeros(model, masks)
    train(model, mine, sizes)
    trained = values(model)
    model.save_weights(folder / "saved.weights.h5")
    model.save(folder / "saved.keras")
    ticket = lt.Ticket.of(model, masks)
    ticket.save(folder / "ticket")
    restored = lt.wrap(build(network, of), masks)
    restored.load_weights(folder / "saved.weights.h5")
    again = [restored, of.models.load_model(folder / "saved.keras", compile=False)]
    again.append(lt.Ticket.load(folder / "ticket").build())
    for other in again:
        assert_same(values(other), trained)
        assert lt.get_masks(other) == masks
        train(other, optimizer(of), [2])
    final = lt.strip(model)
    assert_same(values(final), trained)
    assert {type(each).__module__.split(".")[0] for each in named_layers(final).values()} == {
        of.__name__
    }
    write_exports(model, folder / "export", ["keras"], images=None)
    exported = of.models.load_model(folder / "export" / "model.keras")
    assert_same(values(exported), trained)
    assert_zeros(exported, masks)


@pytest.mark.long
@both_kerases
@few(3)
@given(network=networks, share=st.floats(0.2, 0.8), seed=seeds)
def test_an_export_computes_what_the_model_computes(of, network, share, seed, tmp_path_factory):
    """As TensorFlow's own graph, which takes a second to make; else it is refused."""
    with eagerly(False), pytest.MonkeyPatch.context() as patch:
        prove_here(patch)
        plain = build(network, of)
        images, labels = batch(network, 5, seed)
        model = lt.wrap(plain, masks_of(plain, share, seed))
        folder = tmp_path_factory.mktemp("export")
        facts = write_exports(model, folder, images=images, labels=labels)["saved_model"]
    assert facts["max_abs_difference"] <= 1e-5
    weights = values(lt.strip(model)).values()
    assert facts["nonzero_parameters"] == sum(np.count_nonzero(each) for each in weights)


@pytest.mark.long
@both_kerases
@few(10)
@given(
    network=networks,
    share=shares,
    further=shares,
    seed=seeds,
    optimizer=optimizers(),
    steps=st.integers(1, 4),
    rewind_step=st.integers(0, 5),
)
def test_a_rewind_restores_every_variable(
    of, network, share, further, seed, optimizer, steps, rewind_step
):
    """Weights, statistics, masks, all that the optimizer remembers, and its step."""
    model = build(network, of)
    masks = masks_of(model, share, seed)
    ticket = lt.Ticket.of(model, masks, {"rewind_step": rewind_step})
    fewer = masks_of(model, further, seed + 1)
    nested = {name: mask & fewer[name] for name, mask in masks.items()}
    following = ticket.with_masks(lt.Masks(nested))
    x, y = batch(network, 4, seed)
    data = tf.data.Dataset.from_tensors((x, y)).repeat()

    def trainer():
        return make_trainer(
            *(ticket, lt.Recipe("vanilla"), lambda step: data, 2, optimizer(of)),
            jit_compile=False,
        )

    used, new = trainer(), trainer()
    for each in (used, new):
        finding._rewind(each, ticket)
    used.fit(rewind_step + steps)
    assert used.step == rewind_step + steps
    for to in (ticket, following):
        for each in (used, new):
            finding._rewind(each, to)
        assert used.step == rewind_step
        assert_same(values(used.model), dict(to.weights))
        assert lt.get_masks(used.model) == to.masks
        assert_zeros(used.model, to.masks, used.model.optimizer)
        assert_same(used.optimizer_state(), new.optimizer_state())


@st.composite
def recipes(draw):
    """Names of tweaks, and some of their parameters."""
    names = ["soft_activation", "ghost_skips", "signal_scaling", "label_smoothing"]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    parameters = {
        "soft_activation_unit": draw(st.sampled_from(["pswish", "mish"])),
        "soft_activation_share": draw(st.floats(0.1, 0.7)),
        "ghost_skips_share": draw(st.floats(0.1, 0.7)),
        "ghost_skips_curve": draw(st.sampled_from(["linear", "cosine", "constant"])),
        "label_smoothing_epsilon": draw(st.floats(0, 0.5)),
    }
    own = {n: v for n, v in parameters.items() if any(n.startswith(each) for each in chosen)}
    return ",".join(chosen), own


@pytest.mark.long
@both_kerases
@few(12)
@given(
    network=networks,
    recipe=recipes(),
    share=shares,
    seed=seeds,
    optimizer=optimizers(),
)
def test_a_finished_model_is_exact(of, network, recipe, share, seed, optimizer):
    """The trained model's weights in the original architecture, which computes what it computed."""
    plain = build(network, of)
    masks = masks_of(plain, share, seed)
    x, y = batch(network, 4, seed)
    own = lt.Recipe(*recipe)
    data = tf.data.Dataset.from_tensors((x, y)).repeat(3)
    model = own.prepare(lt.wrap(plain, masks), data)
    model.compile(optimizer(of), own.loss(), run_eagerly=True)
    model.fit(data, epochs=1, callbacks=own.callbacks(), verbose=0)
    final = own.finish(model)
    assert_zeros(final, masks)
    trained, finished = values(model), values(final)
    assert finished.keys() == values(plain).keys()
    assert_same({name: trained[name] for name in finished}, finished)
    fresh = build(network, of)
    assert [type(each) for each in named_layers(final).values()] == [
        type(each) for each in named_layers(fresh).values()
    ]
    assign(fresh, finished)
    assert_same([np.asarray(fresh(x))], [np.asarray(final(x))])
    assert_same([np.asarray(final(x))], [np.asarray(model(x, training=False))])
