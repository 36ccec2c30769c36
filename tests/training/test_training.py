from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import tensorflow as tf
from networks import KERASES, both_kerases
from small_trainers import Steps, small_trainer
from tensorflow.python.eager import context

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras, steps_per_execution
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.training.optimizers import (
    SGD,
    SGD3,
    Adam,
    Adam3,
    WarmUp,
    WarmUp3,
    learning_rate_schedule,
    make_optimizer,
)
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.training.trainer import Trainer, _tell, make_deterministic
from lottery_tf.training.trouble import Diverged

VARIABLES = (tf.Variable, keras3.Variable)


def rates(settings, steps_per_epoch, steps):
    schedule = learning_rate_schedule(settings, steps_per_epoch)
    return [float(schedule(step)) for step in steps]


def test_constant_rate():
    """Whatever the milestones of another schedule are."""
    settings = TrainingSettings(train_for="3ep", learning_rate=0.5, milestones=("1ep",))
    assert rates(settings, 10, range(30)) == [0.5] * 30


def test_the_rate_drops_at_the_milestone_itself():
    """The reference: ×0.1 at epochs 90 and 135, felt by the first step of those epochs."""
    settings = TrainingSettings(
        train_for="182ep", learning_rate=1.0, schedule="step", milestones=("90ep", "135ep")
    )
    steps = [0, 899, 900, 1349, 1350, 1819]
    assert rates(settings, 10, steps) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_ends_at_zero():
    settings = TrainingSettings(train_for="100it", learning_rate=2.0, schedule="cosine")
    assert rates(settings, 10, [0, 50, 100]) == pytest.approx([2, 1, 0], abs=1e-6)


def test_warm_up_is_linear_and_multiplies_the_schedule():
    settings = TrainingSettings(
        train_for="100it",
        learning_rate=1.0,
        warmup="4it",
        schedule="step",
        milestones=("2it",),
        decay=0.5,
    )
    assert rates(settings, 10, range(6)) == pytest.approx([0.25, 0.5, 0.375, 0.5, 0.5, 0.5])


@both_kerases
@pytest.mark.parametrize("warmup", ["0it", "3it"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_schedule_is_of_the_optimizers_keras(schedule, warmup, its_keras):
    settings = TrainingSettings(schedule=schedule, warmup=warmup)
    made = learning_rate_schedule(settings, 5, its_keras)
    assert isinstance(made, its_keras.optimizers.schedules.LearningRateSchedule)


@pytest.mark.parametrize("kind", [WarmUp, WarmUp3])
def test_warm_up_round_trip(kind):
    schedule = kind(kind.of.optimizers.schedules.CosineDecay(0.1, 100), 5)
    again = kind.from_config(schedule.get_config())
    assert [float(again(s)) for s in range(9)] == [float(schedule(s)) for s in range(9)]


@pytest.mark.parametrize("kind", [SGD, SGD3])
@pytest.mark.parametrize("w", [2.0, -3.0])
def test_coupled_l2_is_seen_by_momentum(w, kind):
    """Two steps by hand: g = 1 + λw, v ← 0.9v + g, w ← w − 0.1v (PyTorch's weight_decay)."""
    velocity, variable = 0.0, VARIABLES[kind is SGD3](w)
    optimizer = kind(0.1, 0.9, l2=0.5)
    for _ in range(2):
        velocity = 0.9 * velocity + (1 + 0.5 * w)
        w -= 0.1 * velocity
        optimizer.apply_gradients([(tf.constant(1.0), variable)])
    assert float(variable.numpy()) == pytest.approx(w)


@pytest.mark.parametrize("kind", [SGD, SGD3, Adam, Adam3])
def test_without_a_penalty_it_is_the_optimizer_of_keras(kind):
    found = {}
    for each in (kind, kind.__mro__[2]):
        variable = VARIABLES[kind in (SGD3, Adam3)](2.0)
        optimizer = each(0.1)
        for gradient in (-1.0, 3.0):
            optimizer.apply_gradients([(tf.constant(gradient), variable)])
        found[each] = float(variable.numpy())
    assert len(set(found.values())) == 1


@pytest.mark.parametrize("kind", [Adam, Adam3])
def test_coupled_l2_of_adam_goes_through_the_moments(kind):
    """The first step of Adam is −rate·sign(g), g the decayed gradient: −1 + 1·2 > 0."""
    variable = VARIABLES[kind is Adam3](2.0)
    kind(0.1, l2=1.0).apply_gradients([(tf.constant(-1.0), variable)])
    assert float(variable.numpy()) == pytest.approx(1.9, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "gradients", "after"),
    [
        # v ← 0.9v + g: of two steps 1 and 1.9.
        ({}, [1, 1], 2 - 0.1 - 0.19),
        ({"momentum": 0.5}, [1, 1], 2 - 0.1 - 0.15),
        # g + 0.5v in the place of v.
        ({"momentum": 0.5, "nesterov": True}, [1, 1], 2 - 0.15 - 0.175),
        # 1 + 0.5·2, then 1 + 0.5·1.8.
        ({"momentum": 0.0, "weight_decay": 0.5}, [1, 1], 2 - 0.2 - 0.19),
        # The sign of the gradient, of -1 + 1·2 with the decay.
        ({"optimizer": "adam"}, [-1], 2 + 0.1),
        ({"optimizer": "adam", "weight_decay": 1.0}, [-1], 2 - 0.1),
        # Beside the sign 0.1·0.5·2.
        ({"optimizer": "adamw"}, [1], 2 - 0.1),
        ({"optimizer": "adamw", "weight_decay": 0.5}, [1], 2 - 0.1 - 0.1),
    ],
    ids=str,
)
@both_kerases
def test_settings_go_to_the_optimizer(settings, gradients, after, its_keras):
    weight = VARIABLES[its_keras is keras3](2.0, name="kernel")
    optimizer = make_optimizer(TrainingSettings(**settings), 1, its_keras)
    assert isinstance(optimizer, its_keras.optimizers.Optimizer)
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(float(gradient)), weight)])
    assert float(weight.numpy()) == pytest.approx(after, abs=1e-5)


@both_kerases
@pytest.mark.parametrize(
    "name", TrainingSettings.__dataclass_fields__["optimizer"].metadata["choices"]
)
def test_every_optimizer_is_what_its_name_says(name, its_keras):
    made = make_optimizer(TrainingSettings(optimizer=name), 1, its_keras)
    assert name in [kind.__name__.lower() for kind in type(made).__mro__]


@pytest.mark.parametrize("kind", [SGD, Adam, SGD3, Adam3])
def test_optimizer_round_trip(kind):
    assert kind.from_config(kind(0.1, l2=0.25).get_config()).l2 == 0.25
    optimizers = (keras3 if kind in (SGD3, Adam3) else keras).optimizers
    again = optimizers.deserialize(optimizers.serialize(kind(0.1, l2=0.25)))
    assert type(again) is kind and again.l2 == 0.25


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"train_for": "30"}, "`train_for`, not '30'"),
        ({"warmup": "x"}, "`warmup`"),
        ({"milestones": ("9",)}, "`milestones`"),
        ({"schedule": "step"}, "`milestones` .* `schedule=step`"),
        ({"schedule": "cosin"}, "cosine"),
        ({"optimizer": "adm"}, "adam"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"momentum": 1.0}, r"\[0, 1\)"),
        ({"momentum": -0.1}, r"\[0, 1\)"),
        ({"decay": 0.0}, r"\(0, 1\]"),
        ({"decay": 1.1}, r"\(0, 1\]"),
        ({"weight_decay": -1.0}, "0 or more"),
        ({"seed": -1}, "`seed`"),
        ({"seed": 2**32}, "`seed`"),
        ({"steps_per_execution": 0}, "1 or more"),
        ({"validation_freq": 0}, "1 or more"),
    ],
)
def test_settings_out_of_range(flags, message):
    with pytest.raises(UsageError, match=message):
        TrainingSettings(**flags)


@pytest.mark.parametrize("milestones", [("2ep", "1ep"), ("1ep", "10it")])
def test_milestones_that_do_not_rise_are_refused(milestones):
    settings = TrainingSettings(schedule="step", milestones=milestones)
    with pytest.raises(UsageError, match=f"in rising order, not {','.join(milestones)}"):
        learning_rate_schedule(settings, 10)


def test_no_steps_at_all_are_refused():
    with pytest.raises(UsageError, match="at least one step"):
        TrainingSettings(train_for="0ep").steps(10)


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize(
    ("steps_per_execution", "jit_compile"),
    [(1, False), (3, None), (5, False), pytest.param(1, None, marks=pytest.mark.e2e)],
)
def test_training_starts_and_stops_at_any_step(steps_per_execution, jit_compile, its_keras):
    trainer, seen = small_trainer(
        steps_per_execution=steps_per_execution, jit_compile=jit_compile, its_keras=its_keras
    )
    steps = Steps(trainer)
    trainer.reset(7)
    trainer.fit(19, [steps.callback()])
    assert trainer.step == 19
    assert steps.epochs == [12, 17, 19]
    assert seen[0] == 7 and set(range(7, 19)) <= set(seen)


@both_kerases
def test_a_train_step_may_take_two_steps_of_the_optimizer(its_keras):
    """They are counted as two, which is no sign that the data ended early."""

    class Twice(its_keras.Sequential):
        def train_step(self, data):
            super().train_step(data)
            return super().train_step(data)

    trainer, _ = small_trainer(its_keras=its_keras, kind=Twice, steps_per_execution=1)
    trainer.fit(7)
    assert (trainer.position, trainer.step) == (7, 14)


@both_kerases
def test_epochs_are_counted_from_where_the_training_began(its_keras):
    """Of one that is gone on with, too."""
    trainer, _ = small_trainer(its_keras=its_keras)
    trainer.reset(5)
    trainer.fit(15, last=False)
    trainer.model.set_weights([np.full((1, 1), np.nan)])
    with pytest.raises(Diverged, match="diverged in epoch 3: ") as raised:
        trainer.fit(25, begun=5)
    assert raised.value.epoch == 3


@both_kerases
def test_another_schedule_than_of_the_rate_begins_at_step_0_alone(its_keras):
    trainer, _ = small_trainer(its_keras=its_keras)
    trainer.model.optimizer.other = its_keras.optimizers.schedules.CosineDecay(0.1, 9)
    with pytest.raises(UsageError, match="SGD has a CosineDecay in other. Rewind to step 0"):
        trainer.reset(3)
    trainer.reset(0)


@both_kerases
def test_an_execution_has_as_many_steps_as_the_keras_can_cut_an_epoch_into(its_keras):
    """Of five steps: Keras 3 needs a divisor, tf_keras cuts the last one short."""
    for asked, found in ((1, 1), (5, 5), (9, 5), (3, 1 if its_keras is keras3 else 3)):
        trainer, _ = small_trainer(its_keras=its_keras, steps_per_execution=asked)
        model = trainer.model
        set_to = model.steps_per_execution if its_keras is keras3 else steps_per_execution(model)
        assert int(set_to) == found


def test_losses_that_do_not_fit_the_outputs_are_one_sentence():
    inputs, layers = keras3.Input((1,)), keras3.layers
    model = keras3.Model(inputs, [layers.Dense(1)(inputs), layers.Dense(1)(inputs)])
    with pytest.raises(UsageError, match="Expected losses and loss_weights for the outputs: "):
        Trainer(model, None, 5, keras3.optimizers.SGD(), ["mse"] * 3, metrics=())


def test_why_xla_was_left_out_is_told_in_160_characters(caplog):
    caplog.set_level("INFO")
    trainer, _ = small_trainer()
    for reason, shown in (
        ("a" * 160, "a" * 160),
        ("a" * 161, "…"),
        ("ab " * 99, "ab " * 52 + "ab …"),
    ):
        _tell(trainer.model, reason)
        assert caplog.messages[-1].endswith(f"compile all of it: {shown}")


# (last step, validation_freq, steps that are looked at)
LOOKS = [
    (25, None, [5, 10, 15, 20, 25]),
    (25, 2, [5, 15, 25]),
    (27, 2, [10, 20, 27]),
    (27, 9, [27]),
    (25, 5, [25]),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("stop", "freq", "looks", "resumed_at"),
    [
        pytest.param(*case, step, marks=() if step == 0 or case[1] == 2 else pytest.mark.e2e)
        for case in LOOKS
        for step in (0, 5, 15)
    ],
)
@both_kerases
@pytest.mark.usefixtures("untraced")
def test_epochs_that_look_at_dev_images_are_counted_from_the_last(
    stop, freq, looks, resumed_at, its_keras
):
    dev = tf.data.Dataset.from_tensors((np.ones((1, 1)), np.ones((1, 1))))
    trainer, _ = small_trainer(its_keras=its_keras)
    steps = Steps(trainer)
    trainer.reset(resumed_at)
    trainer.fit(stop, [steps.callback()], dev, **({"validation_freq": freq} if freq else {}))
    assert trainer.step == stop
    assert steps.looks == [step for step in looks if step > resumed_at]


@pytest.mark.long
@both_kerases
@pytest.mark.parametrize("steps_per_execution", [1, 5])
def test_training_in_two_parts_is_training_in_one(steps_per_execution, its_keras):
    """With several steps an execution too, the last of which has fewer."""
    whole, _ = small_trainer(its_keras=its_keras)
    parts, _ = small_trainer(its_keras=its_keras, steps_per_execution=steps_per_execution)
    parts.model.set_weights(whole.model.get_weights())
    whole.fit(12)
    parts.fit(7)
    parts.fit(8)
    parts.fit(12)
    np.testing.assert_array_equal(whole.model.get_weights(), parts.model.get_weights())


OF_OTHERS = {
    "optimizer": lambda k: {"optimizer": k.optimizers.SGD(0.1)},
    "loss": lambda k: {"loss": {"head": k.losses.MeanSquaredError()}},
    "loss's function": lambda k: {"loss": k.losses.mean_squared_error},
    "metrics": lambda k: {"metrics": ["mae", k.metrics.MeanAbsoluteError()]},
}


@both_kerases
@pytest.mark.parametrize("what", OF_OTHERS)
def test_what_is_of_the_other_keras_is_one_sentence(what, its_keras):
    (other,) = (each for each in KERASES.values() if each is not its_keras)
    own = {"optimizer": its_keras.optimizers.SGD(0.1), "loss": "mse", "metrics": ()}
    model = its_keras.Sequential([its_keras.Input((1,)), its_keras.layers.Dense(1, name="head")])
    message = f"Expected the {what.split(chr(39))[0]} of {its_keras.__name__}, like the model .*; "
    with pytest.raises(UsageError, match=message):
        Trainer(model, lambda start: None, 1, **{**own, **OF_OTHERS[what](other)})


def test_the_learning_rate_is_that_of_the_last_step():
    """Steps 0 to 4 have 0.5."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([4], [0.5, 0.25])
    trainer, _ = small_trainer(optimizer=SGD(schedule))
    for step, rate in ((0, 0.5), (5, 0.5), (6, 0.25)):
        trainer.reset(step)
        assert trainer.learning_rate == rate


@both_kerases
def test_xla_is_for_models_without_convolutions(its_keras):
    layers, inputs = its_keras.layers, its_keras.Input
    dense = its_keras.Sequential([inputs((4,)), layers.Dense(2), layers.Dense(2)])
    conv = its_keras.Sequential(
        [inputs((4, 4, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2)]
    )
    pairs = [(dense, True), (conv, False)]
    for model, expected in [*pairs, *((lt.wrap(each), is_dense) for each, is_dense in pairs)]:
        Trainer(model, lambda start: None, 1, its_keras.optimizers.SGD(0.1), "mse")
        assert bool(model.jit_compile) is expected


@pytest.mark.e2e
def test_gradients_are_added_in_one_order():
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        before, after = process.submit(ops_of_a_large_sum).result()
    assert "TemporaryVariable" in before  # which what comes is added to
    assert "AddN" in after and "TemporaryVariable" not in after


def ops_of_a_large_sum() -> list[set[str]]:
    """What TensorFlow runs, before and after make_deterministic."""

    def ops():
        total = tf.function(lambda x: tf.add_n([tf.sin(x), tf.cos(x), tf.exp(x)]))
        with context.collect_graphs(optimized=True) as graphs:
            total(tf.ones([2**25]))
        return {node.op for graph in graphs for node in graph.node}

    before = ops()
    make_deterministic()
    return [before, ops()]
