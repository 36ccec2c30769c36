"""IMP against an independent implementation, and what rewinding means."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from networks import KERASES, assert_same, both_kerases, values

import lottery_tf as lt
from lottery_tf.common.errors import UsageError, WorkFailed
from lottery_tf.finding import rounds as finding
from lottery_tf.finding.rounds import next_masks
from lottery_tf.finding.scores import METHODS
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import named_variables
from lottery_tf.masks.prunable import prunable_weights
from lottery_tf.training.trainer import Trainer
from lottery_tf.training.trouble import Diverged

STEPS_PER_EPOCH, EPOCHS = 4, 3


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    x = random.standard_normal((32, 6)).astype(np.float32)
    y = random.integers(0, 3, 32)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)


def network(its_keras=keras):
    its_keras.utils.set_random_seed(1)
    layers = its_keras.layers
    return its_keras.Sequential(
        [
            its_keras.Input((6,)),
            layers.Dense(8, name="first"),
            layers.BatchNormalization(momentum=0.5, name="norm"),
            layers.ReLU(),
            layers.Dense(5, activation="relu", name="second"),
            layers.Dense(3, name="head"),
        ]
    )


def cross_entropy(its_keras=keras):
    return its_keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def falling(its_keras):
    schedules = its_keras.optimizers.schedules
    rate = schedules.PiecewiseConstantDecay([8], [0.5, 0.05])
    return its_keras.optimizers.SGD(rate, momentum=0.9)


def imp_by_hand(model, data, rewind_step, fraction, rounds, keep_trained=False):
    """IMP as the paper tells it, in plain TensorFlow: masks on gradients, weights and scores.

    Returns the masks and the starting weights of each round.
    """
    loss_of = cross_entropy(keras_of(model))
    kernels = {name: named_variables(model)[name] for name in ("first/kernel", "second/kernel")}

    def train(masks, start, stop):
        optimizer = falling(keras_of(model))
        optimizer.build(model.trainable_variables)
        optimizer.iterations.assign(start)
        for _step, (x, y) in zip(range(start, stop), data.repeat().skip(start), strict=False):
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            pairs = []
            for gradient, variable in zip(gradients, model.trainable_variables, strict=True):
                for name, kernel in kernels.items():
                    if variable is kernel:
                        gradient = gradient * masks[name]
                pairs.append((gradient, variable))
            optimizer.apply_gradients(pairs)

    masks = {name: np.ones(kernel.shape, np.float32) for name, kernel in kernels.items()}
    train(masks, 0, rewind_step)
    rewound = {name: v.numpy() for name, v in named_variables(model).items()}
    history = []
    for _ in range(rounds + 1):
        for name, variable in named_variables(model).items():
            variable.assign(rewound[name] * masks.get(name, 1))
        history.append((dict(masks), {n: v.numpy() for n, v in named_variables(model).items()}))
        train(masks, rewind_step, STEPS_PER_EPOCH * EPOCHS)
        flat = [
            (abs(value), name, index)
            for name in kernels
            for index, value in enumerate(kernels[name].numpy().ravel())
            if masks[name].ravel()[index]
        ]
        masks = {name: mask.copy() for name, mask in masks.items()}
        for _, name, index in sorted(flat)[: round(fraction * len(flat))]:
            masks[name].ravel()[index] = 0
        if keep_trained:
            rewound = {name: v.numpy() for name, v in named_variables(model).items()}
    return history


def draw(model, data, jit_compile=False, **settings):
    """Without XLA, which takes longer to compile than these trainings take."""
    of = keras_of(model)
    own = {"optimizer": falling(of), "loss": cross_entropy(of), "jit_compile": jit_compile}
    settings = {**own, **settings}
    return list(lt.find_tickets(model, data, epochs=EPOCHS, **settings))


# Each two of place, way to rewind and compiler meet; two cases always, the rest as e2e. None is
# True for a network without convolutions.
BY_HAND = [
    (("1ep", 4), "learning_rate", True),
    (("3it", 3), "weights", False),
    (("0it", 0), "weights", None),
    (("0it", 0), "learning_rate", False),
    (("1ep", 4), "weights", False),
    (("3it", 3), "learning_rate", True),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("rewind_to", "step", "rewind", "jit_compile", "its_keras"),
    [
        pytest.param(
            *(*place, rewind, jit, its_keras),
            marks=pytest.mark.e2e if number > 1 else (),
            id=f"{place[0]}-{rewind}-{jit}-{name}",
        )
        for name, its_keras in KERASES.items()
        for number, (place, rewind, jit) in enumerate(BY_HAND[: 6 if name == "tf_keras" else 4])
    ],
)
def test_three_rounds_by_hand(data, rewind_to, step, rewind, jit_compile, its_keras):
    tickets = draw(
        network(its_keras),
        data,
        rounds=3,
        prune_fraction=0.3,
        rewind_to=rewind_to,
        rewind=rewind,
        jit_compile=jit_compile,
    )
    expected = imp_by_hand(network(its_keras), data, step, 0.3, 3, rewind == "learning_rate")
    assert len(tickets) == 4
    for ticket, (masks, weights) in zip(tickets, expected, strict=True):
        assert ticket.masks == lt.Masks(masks)
        assert ticket.weights.keys() == weights.keys()
        for name, value in weights.items():
            np.testing.assert_allclose(ticket.weights[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.usefixtures("untraced")
@both_kerases
def test_every_variable_is_rewound_and_zeros_are_exact(data, its_keras):
    tickets = draw(network(its_keras), data, rounds=3, rewind_to="2it")
    first = tickets[0]
    assert not np.array_equal(first.weights["norm/moving_mean"], np.zeros(8))
    for ticket in tickets:
        for name, value in ticket.weights.items():
            mask = ticket.masks.get(name, np.ones(value.shape, bool))
            np.testing.assert_array_equal(value, np.where(mask, first.weights[name], 0))


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "starts"),
    [
        ({"rounds": 2}, [[4], [4], [4]]),
        # Its mask comes of a training of its own to steps 8 and 9, then round 0 is trained.
        ({"method": "gmp", "sparsity": 0.5, "gmp_begin": "8it"}, [[4, 8, 4], [4]]),
    ],
)
@both_kerases
def test_every_training_begins_with_the_ticket(data, settings, starts, its_keras):
    """To the bit, BatchNorm's moving statistics too, and at step k."""
    begun, streams = [], []

    class Begun(its_keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            begun.append((values(self.model), trainer.step))

    model = network(its_keras)
    initial = lt.Ticket.of(model, lt.Masks.ones(prunable_weights(model)))
    loss, optimizer = cross_entropy(its_keras), its_keras.optimizers.SGD(0.5)

    def stream(start):
        streams.append(start)
        return data.repeat().skip(start)

    trainer = Trainer(initial.build(), stream, STEPS_PER_EPOCH, optimizer, loss, False)
    trainer.reset(3)  # as it stands after another training
    told = []
    finding_settings = FindingSettings(rewind_to="4it", **settings)
    found = finding.find(initial, trainer, finding_settings, 12, [Begun()], told.append)
    for each, steps in zip(found, starts, strict=True):
        assert told[each.number] is each.ticket
        assert [step for _, step in begun] == steps
        for weights in (weights for weights, step in begun if step == 4):
            assert_same(weights, dict(each.ticket.weights))
        begun.clear()
    # Only of imp there may be more rounds.
    assert len(told) == len(starts) + ("method" not in settings)
    assert streams == [0, *(step for steps in starts for step in steps)]


class Meddling(keras3.callbacks.Callback):
    """Does something to the model at the end of an epoch of a round.

    Attributes:
      weights: (round, epoch) → the weights at its end, before that.
    """

    def __init__(self, of_round, of_epoch, change):
        super().__init__()
        self.when, self.change, self.round, self.weights = (of_round, of_epoch), change, -1, {}

    def on_train_begin(self, logs=None):
        self.round, self.epoch = self.round + 1, 0

    def on_epoch_end(self, epoch, logs=None):
        self.epoch += 1
        self.weights[self.round, self.epoch] = values(self.model)
        if (self.round, self.epoch) == self.when:
            self.change(self.model)


def meddled(data, meddling, **options):
    """The rounds of a run with two rounds of pruning."""
    model = network(keras3)
    initial = lt.Ticket.of(model, lt.Masks.ones(prunable_weights(model)))
    optimizer, loss = keras3.optimizers.SGD(0.1), cross_entropy(keras3)

    def stream(start):
        return data.repeat().skip(start)

    trainer = Trainer(initial.build(), stream, STEPS_PER_EPOCH, optimizer, loss, False)
    return finding.find(initial, trainer, FindingSettings(rounds=2), 12, [meddling], **options)


def make_nan(model):
    variable = named_variables(model)["first/kernel"]
    variable.assign(np.full(variable.shape, np.nan, np.float32))


@pytest.mark.usefixtures("all_eager")
def test_a_round_that_diverges_ends_at_its_epoch(data):
    """The weights are NaN behind its second epoch, though its loss is a number."""
    rounds = meddled(data, Meddling(1, 2, make_nan))
    assert next(rounds).number == 0
    with pytest.raises(Diverged, match=r"of round 1 diverged in epoch 2: the loss is 1\.") as told:
        next(rounds)
    assert told.value.epoch == 2


@pytest.mark.usefixtures("all_eager")
def test_a_round_that_diverges_is_skipped_on_request(data, lines):
    """It ends with the weights of its last epoch that had finite ones, and is pruned by them."""
    meddling, tickets = Meddling(1, 2, make_nan), []
    for each in meddled(data, meddling, on_nan="skip_round"):
        tickets.append(each.ticket)
        assert each.diverged == (2 if each.number == 1 else None)
        if each.number == 1:
            trained = values(each.trainer.model)
            assert_same(trained, meddling.weights[1, 1])
            assert "Round 1 ends with its last finite weights." in lines[-1]
    expected = next_masks(FindingSettings(rounds=2), tickets[1].masks, trained, 2)
    assert tickets[2].masks == expected


@pytest.mark.usefixtures("all_eager")
def test_a_round_that_diverges_in_its_first_epoch_cannot_be_skipped(data):
    broken = data.map(lambda x, y: (x / 0, y))
    with pytest.raises(Diverged, match="of round 0 diverged in epoch 1"):
        list(meddled(broken, Meddling(9, 9, make_nan), on_nan="skip_round"))


@pytest.mark.usefixtures("all_eager")
def test_masks_that_a_callback_changes_are_told(data):
    def change(model):
        masks = {name: mask.copy() for name, mask in lt.get_masks(model).items()}
        masks["first/kernel"][0] = False
        lt.set_masks(model, lt.Masks(masks))

    rounds = meddled(data, Meddling(1, 3, change))
    assert next(rounds).number == 0
    with pytest.raises(WorkFailed, match="that the training of round 1 began with; first/kernel"):
        next(rounds)


def test_round_numbers_counts_and_nesting(data):
    tickets = draw(network(), data, rounds=3, dev_data=data)
    assert [ticket.info["round"] for ticket in tickets] == [0, 1, 2, 3]
    kept = 6 * 8 + 8 * 5
    for before, after in itertools.pairwise(tickets):
        kept -= round(0.2 * kept)
        assert after.masks.kept == kept
        assert after.masks.nested_in(before.masks)
    assert all("head/kernel" not in ticket.masks for ticket in tickets)
    assert all(0 <= ticket.info["dev_accuracy"] <= 1 for ticket in tickets)


@pytest.mark.long
@pytest.mark.usefixtures("all_eager")
@both_kerases
def test_the_model_is_left_as_it_was(data, its_keras):
    model = network(its_keras)
    before = [weight.copy() for weight in model.get_weights()]
    draw(model, data, rounds=1)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_last_round_ends_on_the_sparsity_asked_for(data):
    tickets = draw(network(), data, sparsity=0.5)
    assert [round(t.sparsity, 2) for t in tickets] == [0, 0.2, 0.36, 0.49, 0.5]
    assert tickets[-1].masks.kept == 44


def test_what_is_pruned_can_be_chosen(data):
    options = {"method": "random", "sparsity": 0.5, "train_tickets": False}
    (_, ticket) = draw(network(), data, keep_dense=("first",), **options)
    assert {name: mask.shape for name, mask in ticket.masks.items()} == {
        "second/kernel": (8, 5),
        "head/kernel": (5, 3),
    }
    with pytest.raises(UsageError, match="it has none in layers of the kinds conv"):
        draw(network(), data, prune_layers=("conv",), **options)


@pytest.mark.usefixtures("all_eager")
def test_a_last_training_that_diverges_is_told(data, lines):
    """And its ticket is kept: no other one is lost."""
    broken = data.map(lambda x, y: (x / 0, y))
    assert len(draw(network(), broken, rounds=0)) == 1
    assert "of round 0 diverged" in lines[-1] and "No more rounds can follow it" in lines[-1]


def all_zero(its_keras):
    """No weight and no gradient of one: it stays so in every training."""
    first, head = its_keras.layers.Dense(4, "relu", name="first"), its_keras.layers.Dense(3)
    first.kernel_initializer = head.kernel_initializer = its_keras.initializers.Zeros()
    return its_keras.Sequential([its_keras.Input((6,)), first, head])


AT = {
    "imp": "imp, after round 0",
    "omp": "omp, after round 0",
    "gmp": "gmp, step 12",
    "iterative_snip": "iterative_snip, round 1 of 3",
    "synflow": "synflow, round 1 of 3",
}


@pytest.mark.long
@pytest.mark.usefixtures("all_eager")
@pytest.mark.parametrize("method", ["imp", "gmp", *METHODS])
@both_kerases
def test_scores_that_are_all_0_are_told_with_method_and_place(data, method, its_keras):
    """And where the scores have no part in what they say, there is a ticket."""
    settings = {"sparsity": 0.5, "gmp_begin": "2ep", "gmp_end": "3ep"} if method == "gmp" else {}
    settings = settings or ({"rounds": 1} if method == "imp" else {"sparsity": 0.5})
    settings |= {"score_rounds": 3} if AT.get(method, "").endswith("3") else {}
    found = []
    draws = lt.find_tickets(
        *(all_zero(its_keras), data),
        **{"optimizer": falling(its_keras), "loss": cross_entropy(its_keras), "epochs": EPOCHS},
        **{"jit_compile": False, "method": method, **settings},
    )
    if method in ("random", "erk"):
        assert [ticket.masks.kept for ticket in draws] == [24, 12]
        return
    with pytest.raises(UsageError, match=f"^{AT.get(method, method)}: .*first/kernel are all 0"):
        found.extend(draws)
    assert not found


@pytest.mark.usefixtures("all_eager")
def test_a_last_round_that_none_can_follow_is_kept(data, lines):
    """The masks of a round that nobody has asked for cannot be drawn: that is no loss."""
    (ticket,) = draw(all_zero(keras), data, rounds=0)
    assert ticket.masks.sparsity == 0
    assert "imp, after round 0: " in lines[-1] and "No more rounds can follow it" in lines[-1]


@pytest.mark.usefixtures("all_eager")
def test_what_is_measured_can_be_chosen(data):
    (ticket,) = draw(network(), data, rounds=0, dev_data=data, metrics=())
    assert {name for name in ticket.info if name.startswith("dev_")} == {"dev_loss"}


@pytest.mark.long
@both_kerases
@pytest.mark.usefixtures("all_eager")
def test_each_of_several_outputs_is_measured(data, its_keras):
    inputs, layers = its_keras.Input((6,)), its_keras.layers
    hidden = layers.Dense(8, name="hidden")(inputs)
    outputs = [layers.Dense(3, name=name)(hidden) for name in ("one", "two")]
    twice = data.map(lambda x, y: (x, (y, y)))

    def second(y_true, y_pred):
        return y_pred[:, 1]

    metrics = ["accuracy", its_keras.metrics.SparseTopKCategoricalAccuracy(2, "top"), second]
    own = {"rounds": 0, "dev_data": twice, "metrics": metrics}
    (ticket,) = draw(its_keras.Model(inputs, outputs), twice, **own)
    expected = {f"dev_{o}_{name}" for o in ("one", "two") for name in ("accuracy", "top", "second")}
    assert {*expected, "dev_loss"} <= ticket.info.keys()


@pytest.mark.usefixtures("all_eager")
def test_layerwise(data):
    ticket = draw(network(), data, rounds=1, prune_fraction=0.25, scope="layerwise")[-1]
    assert {name: int(mask.sum()) for name, mask in ticket.masks.items()} == {
        "first/kernel": 36,
        "second/kernel": 30,
    }


@pytest.mark.long
@both_kerases
def test_all_rounds_are_traced_once(data, its_keras):
    traces = []

    @its_keras.saving.register_keras_serializable("test_finding")
    class Counting(its_keras.layers.Layer):
        def call(self, inputs, training=None):
            traces.append(bool(training))
            return inputs

    layers = [its_keras.Input((6,)), Counting(), *network(its_keras).layers]
    model = its_keras.Sequential(layers)
    del traces[:]
    schedule = its_keras.optimizers.schedules.CosineDecay(0.1, 12)
    tickets = lt.find_tickets(
        model,
        data,
        optimizer=its_keras.optimizers.SGD(schedule, momentum=0.9),
        loss=cross_entropy(its_keras),
        epochs=EPOCHS,
        rounds=4,
        rewind_to="1ep",
        jit_compile=False,
    )
    next(tickets)
    after_the_first_round = len(traces)
    assert traces.count(True) >= 1
    list(tickets)
    assert len(traces) == after_the_first_round


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither"),
        ({"rounds": 1, "sparsity": 0.5}, "both"),
        ({"rounds": -1}, "`rounds`"),
        ({"sparsity": 1.0}, r"\[0, 1\)"),
        ({"sparsity": -0.5}, r"\[0, 1\)"),
        ({"rounds": 1, "prune_fraction": 0.0}, r"\(0, 1\)"),
        ({"rounds": 1, "scope": "globl"}, "global"),
        ({"rounds": 1, "rewind": "lr"}, "learning_rate"),
        ({"rounds": 1, "rewind_to": "5"}, "`rewind_to`"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UsageError, match=message):
        FindingSettings(**settings)


def test_a_rewind_step_behind_the_end_is_refused(data):
    with pytest.raises(UsageError, match="before the end of training at step 12"):
        draw(network(), data, rounds=1, rewind_to="3ep")


def test_data_of_unknown_length_is_refused(data):
    unknown = data.filter(lambda x, y: True)
    with pytest.raises(UsageError, match="cardinality .*steps_per_epoch"):
        draw(network(), unknown, rounds=1)
    assert draw(network(), unknown, rounds=0, steps_per_epoch=4)[0].info["round"] == 0


@pytest.mark.parametrize(
    ("target", "last"),
    [(0.0, 0), (0.2, 1), (0.36, 2), (0.488, 3), (0.5904, 4), (0.6, 5), (0.95, 14)],
)
def test_the_ladder_reaches_the_target_and_no_further(target, last):
    assert FindingSettings(sparsity=target).last_round == last


@pytest.mark.parametrize("total", [1000, 1003, 1014, 1059])
@pytest.mark.parametrize("target", [0.36, 0.361, 0.488, 0.5])
def test_the_last_round_is_within_a_weight_of_the_target(total, target):
    settings = FindingSettings(sparsity=target)
    trained = {"a": np.random.default_rng(0).standard_normal(total)}
    masks = lt.Masks.ones({"a": (total,)})
    for number in range(1, settings.last_round + 1):
        masks = next_masks(settings, masks, trained, number)
    assert abs(masks.kept - (1 - target) * total) <= 1.5


@pytest.mark.parametrize(
    ("of", "optimizer"),
    [
        ("tf_keras", "adamm"),
        ("tf_keras", None),
        ("tf_keras", keras.optimizers.legacy.Adam()),
        ("tf_keras", keras3.optimizers.Adam()),
        ("keras", "adamm"),
        ("keras", keras.optimizers.Adam()),
    ],
)
def test_other_optimizers_are_refused(data, of, optimizer):
    with pytest.raises(UsageError, match=f"Expected (the|an) optimizer of {of}"):
        lt.find_ticket(network(KERASES[of]), data, optimizer=optimizer, epochs=1, rounds=1)


def test_a_model_of_one_unit_needs_a_loss(data):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    with pytest.raises(UsageError, match="pass the loss"):
        lt.find_ticket(model, data, optimizer=keras.optimizers.Adam(), epochs=1, rounds=1)


def test_a_model_that_is_pruned_already_is_refused(data):
    model = lt.prune(network(), "omp", 0.5).build()
    with pytest.raises(UsageError, match="a dense model to draw tickets from"):
        draw(model, data, rounds=1)
