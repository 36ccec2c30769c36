"""An optimizer's memory: a copy without memory, and how an optimizer begins anew.

The initial memory is not assumed to be 0: an average of the weights begins at the weights, sums of
Ftrl and Adagrad begin above 0. It is taken from a new optimizer of the same settings, built for
the present weights.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from textwrap import shorten
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import some
from lottery_tf.graph.compat import (
    Trackable,
    build_for,
    is_keras3,
    is_layer,
    is_list_of_keras,
    is_no_memory,
    is_rate,
    is_variable,
    keras,
    keras_of,
    place_of,
    rate_replaced,
    scope_of,
    undecayed,
    weights_known_to,
)
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.schedules import From, From3, innermost, is_schedule, schedule_of

_MARK = 2**-7 + 2**-20  # placeholder for a schedule in a config; exact in float32


def check_schedules(optimizer: keras.optimizers.Optimizer) -> None:
    """Raises UsageError if it has a schedule besides that of its learning rate.

    ``From`` does not cover such a schedule; after rewinding it would begin at its first step."""
    for path, part in _parts(vars(innermost(optimizer))):
        if is_schedule(part) and not is_rate(path):
            raise UsageError(
                f"Expected a schedule as the optimizer's own learning_rate, to begin at the step "
                f"that is rewound to; {type(optimizer).__name__} has a "
                f"{type(part).__name__} in {path}. Rewind to step 0, or give it as learning_rate."
            )


def scales_loss(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether it wraps another optimizer to scale the loss for float16."""
    return isinstance(optimizer, (_loss_scale_optimizer(keras), _loss_scale_optimizer(keras3)))


def scaling_loss(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer, wrapped to scale the loss."""
    return _loss_scale_optimizer(keras_of(optimizer))(optimizer)


def _loss_scale_optimizer(of: ModuleType) -> type:
    return (of.optimizers if of is keras3 else of.mixed_precision).LossScaleOptimizer


def kind_of(optimizer: keras.optimizers.Optimizer) -> str:
    """The name of its class, or of the optimizer's whose loss it scales."""
    return type(innermost(optimizer)).__name__


def copied(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """A new optimizer with the same settings, also those that its config lacks; it is not built.

    Both share the schedule of the learning rate, which need not be registered.

    Raises:
      UsageError: if the optimizer cannot be made anew from its config, or if its schedule has
        variables, which would not begin anew.
    """
    if scales_loss(optimizer):
        own = optimizer.initial_scale, optimizer.dynamic_growth_steps
        scale = own if is_keras3(optimizer) else (optimizer.dynamic, *own)
        return type(optimizer)(copied(optimizer.inner_optimizer), *scale)
    kind, schedule = type(optimizer).__name__, schedule_of(optimizer)
    if (
        schedule is not None
        and not isinstance(schedule, From | From3)
        and dict(_held(vars(schedule)))
    ):
        raise UsageError(
            f"Expected a learning rate that is a function of the step; {type(schedule).__name__} "
            "has variables, which would not begin anew with a training: give another schedule."
        )
    try:
        copy = type(optimizer).from_config(_config(optimizer, schedule))
    except Exception as error:  # the user's own class may raise anything
        raise UsageError(
            f"Expected an optimizer that can be made anew from its config; {kind} cannot "
            f"({shorten(str(error), 120, placeholder=' …').rstrip('.')}): give it a get_config "
            "with all that its constructor takes."
        ) from error
    if schedule_of(copy) is not schedule:
        raise UsageError(
            f"Expected an optimizer that passes its learning_rate on; {kind} has a schedule, but "
            "its copy by get_config has none: keep it in get_config and from_config."
        )
    if names := undecayed(optimizer)[1]:
        copy.exclude_from_weight_decay(var_names=names)
    return copy


def _config(
    optimizer: keras.optimizers.Optimizer,
    schedule: keras.optimizers.schedules.LearningRateSchedule | None,
) -> dict[str, Any]:
    """The optimizer's config, with the schedule itself instead of its description."""
    if schedule is None:
        return optimizer.get_config()
    described = None
    try:
        config = optimizer.get_config()
        described = keras_of(optimizer).optimizers.schedules.serialize(schedule)["class_name"]
    except NotImplementedError:  # the schedule has no get_config
        # Keras 3 accepts a number only as a variable.
        with rate_replaced(optimizer, keras3.Variable(_MARK) if is_keras3(optimizer) else _MARK):
            config = optimizer.get_config()

    def is_it(value: Any) -> bool:
        if described is None:
            return value == _MARK
        return isinstance(value, dict) and value.get("class_name") == described

    return {name: schedule if is_it(value) else value for name, value in config.items()}


def state(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> dict[str, tf.Variable]:
    """Path → variable, for all variables that a built optimizer holds, without ``model``'s own.

    Keras' ``variables`` are not complete: they lack a product of Nadam's, and the loss scale of
    mixed precision.
    """
    weights = {id(variable) for variable in model.variables}
    return {path: each for path, each in _held(vars(optimizer)) if id(each) not in weights}


def begin_anew(
    optimizer: keras.optimizers.Optimizer, model: keras.Model, new: keras.optimizers.Optimizer
) -> None:
    """Sets a built optimizer to the state of ``new``, built for the model's present weights.

    Args:
      optimizer: the optimizer of the training.
      model: the model that it trains.
      new: a copy from before the training.

    Raises:
      UsageError: as ``copied``, and if it has variables that its ``build`` does not make.
    """
    with scope_of(model):
        new = copied(new)
        new.build(model.trainable_variables)
    mine, theirs = state(optimizer, model), state(new, model)
    if mine.keys() != theirs.keys():
        raise UsageError(
            f"Expected an optimizer whose build makes all of its variables; "
            f"{type(optimizer).__name__} also has {some(sorted(mine.keys() ^ theirs.keys()))}: "
            "make them in build, so that a training can begin anew."
        )
    for path, variable in mine.items():
        variable.assign(theirs[path].numpy())
    # Nadam counts its traces in Python.
    mine, theirs = (vars(innermost(each)) for each in (optimizer, new))
    mine.update({name: value for name, value in theirs.items() if type(value) in (int, float)})


def slots(optimizer: Any, weight: tf.Variable) -> dict[str, tf.Variable]:
    """Name of a slot → the optimizer's variable for ``weight``, of the weight's shape.

    Empty if the optimizer is not built yet, or does not train that weight.
    """
    optimizer = innermost(optimizer)
    if isinstance(optimizer, keras.optimizers.legacy.Optimizer):
        try:
            return {name: optimizer.get_slot(weight, name) for name in optimizer.get_slot_names()}
        except KeyError:  # nothing was trained yet
            return {}
    place = place_of(optimizer, weight)
    if place is None:
        return {}
    return {
        path: group[place]
        for path, group in _groups(optimizer)
        if is_variable(group[place]) and group[place].shape == weight.shape
    }


def renewal(
    optimizer: Any, model: keras.Model, weights: Sequence[tf.Variable]
) -> Callable[[Sequence[np.ndarray]], None]:
    """A function that resets the optimizer's memory of some entries of the weights.

    The function takes a boolean array for each weight, True where to reset. Problems with the
    optimizer are found here, before that function is called.

    Args:
      optimizer: one of Keras, also a legacy one; None for no optimizer.
      model: the model that has the weights.
      weights: the weights with entries to reset.

    Raises:
      UsageError: if the optimizer is not Keras', or cannot be made anew from its config. Also if it
        is not known which weight a variable of a weight's shape belongs to.
    """
    if optimizer is None:
        return lambda where: None
    optimizer = innermost(optimizer)
    kinds = [keras_of(model).optimizers.Optimizer]
    kinds += [] if is_keras3(model) else [keras.optimizers.legacy.Optimizer]
    if not isinstance(optimizer, tuple(kinds)):
        raise UsageError(
            f"Expected a {keras_of(model).__name__} optimizer, to reset its memory of pruned "
            f"weights; got a {type(optimizer).__module__}.{type(optimizer).__name__}."
        )
    held = [slots(optimizer, weight) for weight in weights]
    _check_known(optimizer, model, weights)
    if not any(held):
        return lambda where: None
    with scope_of(model):  # an optimizer of Keras 3 uses the scope in which it is made
        new = copied(optimizer)

    def renew(where: Sequence[np.ndarray]) -> None:
        with scope_of(model):
            build_for(new, weights)
        for weight, mine, entries in zip(weights, held, where, strict=True):
            theirs = slots(new, weight)
            for name, variable in mine.items():
                variable.assign(np.where(entries, theirs[name].numpy(), variable.numpy()))

    return renew


def _check_known(optimizer: Any, model: keras.Model, weights: Sequence[tf.Variable]) -> None:
    """Raises UsageError if it is not known which weight one of its variables belongs to."""
    if not weights_known_to(optimizer):
        return
    known = {id(variable) for _, group in _groups(optimizer) for variable in group}
    shapes = [weight.shape for weight in weights]
    own = not type(optimizer).__module__.startswith(("tf_keras.", "keras.", "lottery_tf."))
    if own:  # Keras' Adafactor also has sums over rows and columns, as the only one
        known = {
            id(v) for each in model.trainable_variables for v in slots(optimizer, each).values()
        }
    for variable in state(optimizer, model).values():
        suspect = len(variable.shape) if own else variable.shape in shapes
        if suspect and id(variable) not in known:
            raise UsageError(
                "Expected an optimizer with its memory in lists like Keras' own, with an entry of "
                "its shape for each trainable variable; it is not known which weight "
                f"{variable.name.partition(':')[0]} of {type(optimizer).__name__} belongs to."
            )


def _groups(optimizer: keras.optimizers.Optimizer) -> Iterator[tuple[str, list[Any]]]:
    """The lists of the optimizer with one entry for each trainable variable, in their order."""
    known = weights_known_to(optimizer)
    for path, group in _parts(vars(optimizer)):
        if not isinstance(group, Mapping | list | tuple) or is_list_of_keras(path):
            continue
        if len(group) != len(known):
            continue
        if not isinstance(group, Mapping):
            yield path, list(group)
        elif group.keys() == known.keys():
            yield path, [group[key] for key in known]


def _held(thing: Any) -> Iterator[tuple[str, tf.Variable]]:
    """The variables in an object's attributes, and in objects that these hold, each once."""
    return ((path, each) for path, each in _parts(thing) if is_variable(each))


def _parts(thing: Any, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Path and part of each container, variable and schedule in a container or in an object's
    attributes, at any depth."""
    seen = set() if seen is None else seen
    pairs = thing.items() if isinstance(thing, Mapping) else enumerate(thing)
    for name, part in list(pairs):
        if id(part) in seen or is_no_memory(str(name)):
            continue
        path = f"{prefix}{name}"
        if is_variable(part):
            seen.add(id(part))
            yield path, part
        elif isinstance(part, Mapping | list | tuple):
            seen.add(id(part))
            yield path, part
            yield from _parts(part, f"{path}/", seen)
        elif is_schedule(part) or _is_open(part):
            seen.add(id(part))
            if is_schedule(part):
                yield path, part
            yield from _parts(vars(part), f"{path}/", seen)


def _is_open(part: Any) -> bool:
    """Whether to look for variables in an object: it is tracked, or of the user's own class."""
    if isinstance(part, keras.optimizers.Optimizer | keras3.optimizers.Optimizer):
        return True  # the one inside a loss scaler; on JAX nothing else tells
    closed = FunctionType | type | tf.types.experimental.PolymorphicFunction
    if not hasattr(part, "__dict__") or is_layer(part) or isinstance(part, closed):
        return False
    package = type(part).__module__.partition(".")[0]
    return isinstance(part, Trackable) or package not in ("tensorflow", "tf_keras", "keras")
