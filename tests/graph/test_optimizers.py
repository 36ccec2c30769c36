"""A training that begins anew begins anew, whatever its optimizer remembers."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from networks import (
    KERASES,
    assert_same,
    assert_zeros,
    both_kerases,
    chain,
    examples,
    layers,
    random_masks,
    values,
)

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.finding.rounds import find
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.graph import optimizers, schedules
from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import assign, named_variables
from lottery_tf.training import optimizers as optimizers_of_ours
from lottery_tf.training.checkpoints import _of_older_release
from lottery_tf.training.trainer import Trainer

kept = keras.optimizers


@keras.saving.register_keras_serializable("test_optimizers")
class Lookahead(kept.SGD):
    """Of a user: weights that follow behind, in a dictionary, and a count of its own."""

    def build(self, variables):
        if not getattr(self, "_built", False):
            super().build(variables)
            self.slow = {
                self._var_key(each): self.add_variable_from_reference(
                    each, "slow", initial_value=each
                )
                for each in variables
            }
            self.seen = tf.Variable(0.0)

    def update_step(self, gradient, variable):
        super().update_step(gradient, variable)
        slow = self.slow[self._var_key(variable)]
        self.seen.assign_add(1.0)
        slow.assign_add((variable - slow) / (1.0 + self.seen))
        variable.assign_add(0.5 * (slow - variable))


@keras3.saving.register_keras_serializable("test_optimizers")
class Lookahead3(keras3.optimizers.SGD):
    """The same of Keras 3."""

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.slow = self.add_optimizer_variables(variables, "slow", "zeros")
            for slow, each in zip(self.slow, variables, strict=True):
                slow.assign(each)
            self.seen = self.add_variable((), "zeros", dtype="float32", name="seen")

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate)
        slow = self.slow[self._get_variable_index(variable)]
        self.seen.assign_add(1.0)
        slow.assign_add((variable - slow) / (1.0 + self.seen))
        variable.assign_add(0.5 * (slow - variable))


def _loss_scaled(k):
    scaled = k.mixed_precision if k is keras else k.optimizers
    return scaled.LossScaleOptimizer(k.optimizers.Adam(0.01, clipnorm=1.0))


OPTIMIZERS = {
    "SGD": lambda k: k.optimizers.SGD(0.1),
    "momentum": lambda k: k.optimizers.SGD(0.1, 0.9, nesterov=True),
    "Adam": lambda k: k.optimizers.Adam(0.01),
    "amsgrad": lambda k: k.optimizers.Adam(0.01, amsgrad=True),
    "AdamW": lambda k: k.optimizers.AdamW(0.01),
    "Adamax": lambda k: k.optimizers.Adamax(0.01),
    "Nadam": lambda k: k.optimizers.Nadam(0.01),
    "Adadelta": lambda k: k.optimizers.Adadelta(1.0),
    "Adagrad": lambda k: k.optimizers.Adagrad(0.1),
    "Adafactor": lambda k: k.optimizers.Adafactor(0.1),
    "Ftrl": lambda k: k.optimizers.Ftrl(0.1, l1_regularization_strength=1e-4),
    "Lion": lambda k: k.optimizers.Lion(0.01),
    "RMSprop": lambda k: k.optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "averaged": lambda k: k.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
    "averaged at times": lambda k: k.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=3),
    "loss scaled": _loss_scaled,
    "of a user": lambda k: (Lookahead if k is keras else Lookahead3)(0.1, 0.9),
}
OF_KERAS3 = {
    "Lamb": lambda k: k.optimizers.Lamb(0.01),
    "Muon": lambda k: k.optimizers.Muon(0.01),
    "accumulated": lambda k: k.optimizers.SGD(0.1, gradient_accumulation_steps=2),
}
MAKE = {**OPTIMIZERS, **OF_KERAS3}
# Those that do more than sum up gradients; what each remembers is looked at below.
UNLIKE = ("Nadam", "Ftrl", "averaged", "averaged at times", "loss scaled", "of a user", *OF_KERAS3)


def _each(always):
    """Every optimizer of each Keras, those that are not to run always as e2e."""
    cases = [(name, k) for name in OPTIMIZERS for k in KERASES.values()]
    cases += [(name, keras3) for name in OF_KERAS3]
    return pytest.mark.parametrize(
        ("name", "its_keras"),
        [
            pytest.param(
                *(name, k),
                id=f"{name}-{k.__name__}",
                marks=() if name in always else pytest.mark.e2e,
            )
            for name, k in cases
        ],
    )


every_optimizer, unlike_ones = _each(MAKE), _each(UNLIKE)


def network(its_keras=keras):
    layers = its_keras.layers
    return chain(layers.Dense(5, activation="relu", name="first"), layers.Dense(3, name="head"))


def cross_entropy(its_keras=keras):
    return its_keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def batches():
    """Two steps an epoch."""
    return tf.data.Dataset.from_tensor_slices(examples()).batch(6)


def masks_of(model, seed=0):
    """Masks for what ``model`` masks, each of which prunes about half."""
    random = np.random.default_rng(seed)
    return lt.Masks({n: random.random(m.shape) < 0.5 for n, m in lt.get_masks(model).items()})


def scheduled(optimizer, first=0):
    """With a rate that falls step by step; as seen from step ``first`` on."""

    class Falling(keras_of(optimizer).optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.05 / (1 + tf.cast(step + first, tf.float32))

    getattr(optimizer, "inner_optimizer", optimizer).learning_rate = Falling()
    return optimizer


def assert_rounds_are_plain_fits(optimizer, plain):
    """Round 1 of ``find_tickets``, two epochs rewound to the end of the first, is a fit."""
    its_keras = keras_of(optimizer)
    ticket = lt.find_ticket(
        *(network(its_keras), batches()),
        loss=cross_entropy(its_keras),
        **{"optimizer": optimizer, "epochs": 2, "rounds": 1, "prune_fraction": 0.3},
        **{"rewind_to": "1ep", "rewind": "learning_rate", "dev_data": batches()},
        jit_compile=False,
    )
    model = ticket.build()
    model.compile(plain(), cross_entropy(its_keras))
    model.fit(batches(), verbose=0)
    loss = model.evaluate(batches(), verbose=0)
    assert ticket.info["dev_loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.long
@unlike_ones
def test_every_round_is_a_plain_fit_from_its_ticket(untraced, name, its_keras):
    make = functools.partial(MAKE[name], its_keras)
    assert_rounds_are_plain_fits(make(), make)


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("name", ["Adam", "averaged"])
def test_only_the_learning_rate_goes_on_from_step_k(untraced, name, its_keras):
    make = functools.partial(MAKE[name], its_keras)
    assert_rounds_are_plain_fits(scheduled(make()), lambda: scheduled(make(), first=2))


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("name", ["Nadam"])
def test_every_round_is_a_plain_fit_when_it_is_compiled(name, its_keras):
    make = functools.partial(MAKE[name], its_keras)
    assert_rounds_are_plain_fits(make(), make)


def trainer_of(optimizer, model=None):
    def stream(start):
        return batches().repeat().skip(start)

    its_keras = keras_of(optimizer)
    model = model or lt.wrap(network(its_keras))
    return Trainer(model, stream, 2, optimizer, cross_entropy(its_keras), False)


@pytest.mark.parametrize(
    "step", [*(pytest.param(each, marks=pytest.mark.e2e) for each in (0, 10)), 1500]
)
@pytest.mark.parametrize(
    "kind", [kept.Adam, kept.AdamW, optimizers_of_ours.Adam, keras3.optimizers.Adam]
)
def test_the_first_step_of_adam_after_rewinding_is_the_learning_rate(untraced, kind, step):
    """From empty moments: m̂/√v̂ = g/|g|, so that each weight moves by the rate."""
    trainer = trainer_of(scheduled(kind(0.01, weight_decay=0.0)))
    trainer.fit(2)
    trainer.reset(step)
    before = values(trainer.model)
    trainer.fit(step + 1)
    moved = max(np.abs(value - before[n]).max() for n, value in values(trainer.model).items())
    assert moved == pytest.approx(0.05 / (1 + step), rel=1e-3)
    assert trainer.step == step + 1
    assert trainer.learning_rate == pytest.approx(0.05 / (1 + step))


@every_optimizer
def test_what_it_remembers_is_that_of_a_new_one(untraced, name, its_keras):
    trainer = trainer_of(MAKE[name](its_keras))
    trainer.fit(3)
    new = MAKE[name](its_keras)
    new.build(trainer.model.trainable_variables)
    expected = {n: v.numpy() for n, v in optimizers.state(new, trainer.model).items()}
    expected["first_step"] = 7
    assert any((expected[n] != v).any() for n, v in trainer.optimizer_state().items())
    trainer.reset(7)
    assert_same(trainer.optimizer_state(), expected)
    assert trainer.step == 7


@pytest.mark.long
@unlike_ones
def test_masks_in_the_middle_of_training_leave_zeros_and_finite_weights(untraced, name, its_keras):
    """What is remembered of a pruned weight is as in a new optimizer, which need not be 0."""
    model, make = lt.wrap(network(its_keras)), functools.partial(MAKE[name], its_keras)
    model.compile(make(), cross_entropy(its_keras))
    model.fit(batches(), verbose=0)
    masks = masks_of(model)
    lt.set_masks(model, masks)
    new = make()
    new.build(model.trainable_variables)
    for weight, mask in ((named_variables(model)[n], mask) for n, mask in masks.items()):
        expected = optimizers.slots(new, weight)
        for slot, variable in optimizers.slots(model.optimizer, weight).items():
            np.testing.assert_array_equal(variable.numpy()[~mask], expected[slot].numpy()[~mask])
    model.fit(batches(), epochs=2, verbose=0)
    found = values(model)
    assert all(np.isfinite(value).all() for value in found.values())
    assert all((found[n] == 0).sum() >= (~mask).sum() for n, mask in masks.items())
    assert not any(found[n][~mask].any() for n, mask in masks.items())


def test_ftrl_and_adagrad_by_hand():
    """Both begin with sums of 0.1. Ftrl of rate 1, one weight of two pruned, gradients (1, 0):
    n = 1.1, z = 1 − (√1.1 − √0.1)·w, w ← −z/√1.1."""
    for kind in (kept.Ftrl, kept.Adagrad):
        model = chain(layers.Dense(1, use_bias=False, name="d"), shape=(2,))
        model = lt.wrap(model, random_masks(model, 1.0))
        named_variables(model)["d/kernel"].assign([[3.0], [4.0]])
        model.compile(kind(1.0), lambda y, z: z)
        model.train_on_batch(np.ones((1, 2)), np.zeros((1, 1)))
        lt.set_masks(model, lt.Masks({"d/kernel": np.array([[True], [False]])}))
        (weight,) = model.trainable_variables
        (total,) = (v for n, v in optimizers.slots(model.optimizer, weight).items() if "accum" in n)
        assert total.numpy().ravel() == pytest.approx([1.1, 0.1])
        before = weight.numpy().copy()
        model.train_on_batch(np.ones((1, 2)), np.zeros((1, 1)))
        assert weight.numpy()[1] == 0 and weight.numpy()[0] < before[0]


def test_a_weight_that_comes_back_is_averaged_from_where_it_comes_back(untraced):
    model = lt.wrap(network(), random_masks(network()))
    model.compile(kept.SGD(0.1, use_ema=True), cross_entropy())
    model.fit(batches(), verbose=0)
    kernel = named_variables(model)["head/kernel"]
    revived = ~lt.get_masks(model)["head/kernel"]
    kernel.assign(np.where(revived, 0.5, kernel))
    lt.set_masks(model, lt.Masks.ones({n: m.shape for n, m in lt.get_masks(model).items()}))
    average = optimizers.slots(model.optimizer, kernel)["_model_variables_moving_average"]
    assert (average.numpy()[revived] == 0.5).all()


def test_steps_that_add_up_gradients_first_count_all_the_same(untraced):
    """Keras 3 calls two of them one iteration; the batches and the schedule go by the steps."""
    optimizer = scheduled(keras3.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    trainer = trainer_of(optimizer)
    trainer.reset(4)
    trainer.fit(9)
    assert trainer.step == 9 and trainer.learning_rate == pytest.approx(0.05 / 9)
    trainer.fit(10)
    assert trainer.step == 10


@pytest.mark.long
@both_kerases
def test_averages_are_put_in_at_the_end_of_a_training_and_not_in_between(untraced, its_keras):
    make = functools.partial(MAKE["averaged"], its_keras)
    whole, parts = (trainer_of(make()) for _ in range(2))
    assign(parts.model, values(whole.model))
    parts.reset()
    whole.model.fit(batches(), epochs=3, verbose=0)
    parts.fit(1, last=False)
    parts.fit(5, last=False)
    unfinished = values(parts.model)
    parts.fit(6)
    assert_same(values(parts.model), values(whole.model))
    assign(parts.model, unfinished)
    parts.fit(6)  # no step is left: the averages all the same
    assert_same(values(parts.model), values(whole.model))


@both_kerases
def test_the_weights_to_rewind_to_are_no_averages(untraced, its_keras):
    trainer = trainer_of(MAKE["averaged"](its_keras))
    initial = lt.Ticket.of(trainer.model, lt.get_masks(trainer.model))
    plain = trainer_of(its_keras.optimizers.Adam(0.01))
    assign(plain.model, initial.weights)
    plain.fit(2)
    settings = FindingSettings(rounds=0, rewind_to="2it")
    (only,) = find(initial, trainer, settings, last_step=3)
    assert_same(only.ticket.weights, values(plain.model))


@both_kerases
def test_a_callbacks_learning_rate_ends_with_the_training(untraced, its_keras):
    trainer = trainer_of(its_keras.optimizers.SGD(0.1))
    trainer.fit(1, [its_keras.callbacks.LearningRateScheduler(lambda epoch: 0.01)])
    assert trainer.learning_rate == pytest.approx(0.01)
    trainer.reset(0)
    assert trainer.learning_rate == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["Adam", "loss scaled"])
def test_a_checkpoint_of_an_older_release_goes_on(untraced, name):
    """It has no names, and its count of steps did not begin at the rewind step."""
    one, other = (trainer_of(scheduled(MAKE[name](keras))) for _ in range(2))
    for trainer in (one, other):
        trainer.reset(7)
    one.fit(9)
    variables = [v.numpy() for v in one.model.optimizer.variables]
    assert variables[0] == 2
    variables[0] += 7
    if name == "loss scaled":
        variables += [one.model.optimizer.loss_scale.numpy(), 2]
    saved = {f"arr_{number}": value for number, value in enumerate(variables)}
    other.set_optimizer_state(_of_older_release(saved, other))
    assert other.step == 9 and other.learning_rate == pytest.approx(0.05 / 9)
    assert_same(other.optimizer_state(), one.optimizer_state())
    del saved["arr_2"]
    with pytest.raises(ValueError, match="zip"):
        _of_older_release(saved, other)


@pytest.mark.parametrize("kind", [schedules.From, schedules.From3])
def test_from_is_the_schedule_from_a_later_step_on(kind):
    schedules = keras_of(kind(None)).optimizers.schedules
    schedule = kind(schedules.PiecewiseConstantDecay([5], [1.0, 0.5]), 4)
    assert [float(schedule(step)) for step in range(3)] == [1, 1, 0.5]
    again = kind.from_config(schedule.get_config())
    assert [float(again(step)) for step in range(3)] == [1, 1, 0.5]
    schedule.first.assign(0)
    assert [float(schedule(step)) for step in (4, 5, 6)] == [1, 1, 0.5]


# Copies


class Undescribed(kept.schedules.LearningRateSchedule):
    """As in TensorFlow's tutorial of the Transformer: without get_config."""

    def __call__(self, step):
        return 0.5


def test_what_no_config_says_is_copied():
    optimizer = kept.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    copy = optimizers.copied(optimizer)
    kernel, bias = tf.Variable(1.0, name="kernel"), tf.Variable(1.0, name="bias")
    copy.apply_gradients([(tf.constant(0.0), kernel), (tf.constant(0.0), bias)])
    assert (kernel.numpy(), bias.numpy()) == (pytest.approx(1 - 0.1 * 0.5), 1)
    optimizer.exclude_from_weight_decay(var_list=[kernel])
    with pytest.raises(UsageError, match="from weight decay by names"):
        lt.find_ticket(network(), batches(), optimizer=optimizer, epochs=1, rounds=0)


def test_a_schedule_is_copied_as_it_is():
    for schedule in (
        Undescribed(),
        kept.schedules.CosineDecay(0.1, 9),
        schedules.From(Undescribed()),
    ):
        for optimizer in (kept.Adam(schedule), kept.SGD(schedule)):
            assert schedules.schedule_of(optimizers.copied(optimizer)) is schedule
            assert schedules.schedule_of(optimizer) is schedule
    scaled = keras.mixed_precision.LossScaleOptimizer(kept.Adam(Undescribed()), initial_scale=8)
    copy = optimizers.copied(scaled)
    assert copy.initial_scale == 8 and copy.inner_optimizer is not scaled.inner_optimizer


class NoConfig(kept.SGD):
    def __init__(self, strength):
        super().__init__(0.1, momentum=0.9)


class LosesSchedule(kept.SGD):
    def get_config(self):
        return {**super().get_config(), "learning_rate": 0.1}


class Stateful(Undescribed):
    def __init__(self):
        self.calls = tf.Variable(0)


class Late(kept.SGD):
    """Makes a variable while it trains."""

    def update_step(self, gradient, variable):
        if not hasattr(self, "calls"):
            self.calls = tf.Variable(0)
        super().update_step(gradient, variable)


class Heap(kept.SGD):
    """Keeps what it remembers of the weights in one heap."""

    def build(self, variables):
        if not hasattr(self, "heap"):
            self.heap = [self.add_variable_from_reference(each, "h") for each in variables] + [1]
        super().build(variables)


@keras.saving.register_keras_serializable("test_optimizers")
class Stacked(kept.SGD):
    """Two moments of a weight in one variable."""

    def build(self, variables):
        if not hasattr(self, "moments"):
            self.moments = [self.add_variable([2, *each.shape]) for each in variables]
        super().build(variables)


@keras.saving.register_keras_serializable("test_optimizers")
class Around(kept.Optimizer):
    """Has another optimizer do the work, by a schedule of its own."""

    def __init__(self):
        super().__init__(name="around")
        self._learning_rate = self._build_learning_rate(1.0)
        self.base = kept.SGD(Undescribed())

    def build(self, variables):
        super().build(variables)
        self.base.build(variables)
        self._built = True

    def update_step(self, gradient, variable):
        self.base.update_step(gradient, variable)

    def get_config(self):
        return {}


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (Stacked(0.1), "an entry of its shape .* not known which weight .* of Stacked belongs to"),
        (Around(), "optimizer's own learning_rate, .* Around has a Undescribed in base/_learning_"),
        (NoConfig(2), "made anew from its config; NoConfig cannot .*get_config"),
        (LosesSchedule(Undescribed()), "LosesSchedule has a schedule, but its copy"),
        (kept.SGD(Stateful()), "a function of the step; Stateful has variables"),
        (Late(0.1), "whose build makes all of its variables; Late also has calls"),
        (Heap(0.1), "which weight .*h/first/kernel of Heap belongs to"),
    ],
)
def test_optimizers_that_cannot_begin_anew_are_refused(untraced, optimizer, words):
    with pytest.raises(UsageError, match=words):
        ticket = lt.find_ticket(
            *(network(), batches()),
            **{"optimizer": optimizer, "epochs": 2, "rounds": 1, "rewind_to": "1it"},
        )
        model = ticket.build()
        model.compile(optimizer, cross_entropy())
        model.fit(batches(), verbose=0)
        lt.set_masks(model, masks_of(model))


def test_masks_change_nothing_where_the_optimizer_is_refused(untraced):
    model = lt.wrap(network())
    model.compile(NoConfig(2), cross_entropy())
    model.fit(batches(), verbose=0)
    before, masks = values(model), lt.get_masks(model)
    with pytest.raises(UsageError, match="made anew"):
        lt.set_masks(model, masks_of(model))
    assert_same(values(model), before)
    assert lt.get_masks(model) == masks
    with pytest.raises(UsageError, match="a tf_keras optimizer, .* got a builtins.object"):
        lt.set_masks(model, masks_of(model), object())
    model.optimizer = None
    lt.set_masks(model, masks_of(model))
    assert_zeros(model, masks_of(model))
