"""Training, the same for finding and retraining: compile once, fit from any step, evaluate."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log
from lottery_tf.graph import optimizers
from lottery_tf.graph.compat import (
    Callback,
    add_gradients_in_order,
    backend_of,
    ends_of,
    is_keras3,
    keras,
    on_tensorflow,
    parts_of,
    scope_of,
    steps_counted,
    without_averages,
)
from lottery_tf.graph.compat import steps_per_execution as steps_of
from lottery_tf.graph.layers import check_of_its_keras, keys_of_outputs, named_layers
from lottery_tf.graph.schedules import first_step, schedule_of
from lottery_tf.graph.step_checks import step_checks
from lottery_tf.losses.derivatives import reason
from lottery_tf.losses.objective import of_outputs
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.batch_norm import SharedStatistics
from lottery_tf.training.course import Course
from lottery_tf.training.precision import Precision
from lottery_tf.training.trouble import Guard
from lottery_tf.training.xla_loop import steps_in_one_loop
from lottery_tf.training.xla_support import without_kernel
from lottery_tf.tweaks.recipe import Recipe

NO_LOSS = object()


def make_deterministic() -> None:
    """Makes this process compute the same bits as others with as many threads of such a processor.

    Call it before anything is computed.
    """
    tf.config.experimental.enable_op_determinism()
    add_gradients_in_order()


class Trainer:
    """A model that is compiled once and can be trained several times.

    Masks, weights and optimizer state are variables. To start over, assign the model's variables
    and call ``reset``.

    Args:
      model: the model to train, masked or not.
      stream: start step → an infinite ``tf.data.Dataset`` of the batches from that step on.
      steps_per_epoch: steps of an epoch.
      optimizer: a new Keras optimizer; its schedule counts from step 0.
      loss: the training loss.
      jit_compile: whether XLA compiles the step. None: if the model has no convolution, there is
        one device, and XLA can compile it; if it cannot, a line is logged.
      steps_per_execution: the most steps that a call of the compiled function runs.
      metrics: metrics besides the loss.
      loss_weights: a factor for each output's loss, as ``compile`` takes it.

    Raises:
      UsageError: if XLA is to compile for several devices, or if optimizer, loss or metrics are
        not of the model's Keras.
    """

    def __init__(
        self,
        model: keras.Model,
        stream: Callable[[int], tf.data.Dataset],
        steps_per_epoch: int,
        optimizer: keras.optimizers.Optimizer,
        loss: keras.losses.Loss,
        jit_compile: bool | str | None = None,
        steps_per_execution: int = 1,
        metrics: Any = ("accuracy",),
        loss_weights: Any = None,
    ):
        self.loss_weights, self.position = loss_weights, 0
        self.model, self.stream, self.steps_per_epoch = model, stream, steps_per_epoch
        check_of_its_keras(model, optimizer=optimizer, loss=loss, metrics=metrics)
        by_tensorflow = on_tensorflow(model)
        replicas = model.distribute_strategy.num_replicas_in_sync if by_tensorflow else 1
        if jit_compile and replicas > 1:
            raise UsageError(
                f"Expected no `jit_compile=True` with {replicas} devices, as XLA's steps run on "
                "one: leave it out, or train on one."
            )
        self._may_drop_xla = False  # whether to go on without XLA if it fails
        if jit_compile is None and not by_tensorflow:
            jit_compile = "auto"
        elif jit_compile is None:
            jit_compile = replicas == 1 and _has_no_convolution(model)
            if jit_compile and (what := without_kernel(model)):
                _tell(model, f"{what}, for which it has no kernel")
                jit_compile = False
            self._may_drop_xla = jit_compile
        half = any(layer.compute_dtype == "float16" for layer in named_layers(model).values())
        with scope_of(model):
            if half and not optimizers.scales_loss(optimizer):
                optimizer = optimizers.scaling_loss(optimizer)
            self._first = first_step(optimizer)
            self._new_optimizer = optimizers.copied(optimizer)
            _compile(
                model,
                optimizer=optimizer,
                **_by_output(model, loss, loss_weights),
                metrics=_for_each_output(model, metrics),
                jit_compile=jit_compile,
                steps_per_execution=_steps_that_fit(model, steps_per_execution, steps_per_epoch),
            )
            in_loop = model.jit_compile and not (is_keras3(model) or tf.distribute.has_strategy())
            if in_loop and steps_of(model).numpy() > 1:
                steps_in_one_loop(model)
            model.optimizer.build(model.trainable_variables)

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """A copy of the optimizer's memory, with the step at which it began."""
        return {path: np.array(each.numpy()) for path, each in self._state().items()}

    def set_optimizer_state(self, values: Mapping[str, np.ndarray]) -> None:
        """Sets the optimizer to ``values``, which ``optimizer_state`` has returned."""
        variables = self._state()
        for path in variables.keys() | values.keys():
            variables[path].assign(values[path])

    def _state(self) -> dict[str, tf.Variable]:
        return {
            "first_step": self._first,
            **optimizers.state(self.model.optimizer, self.model),
        }

    def reset(self, step: int = 0) -> None:
        """Resets the optimizer for the model's present weights, with the learning rate of ``step``.

        Raises:
          UsageError: if the optimizer cannot begin anew, or not at that step.
        """
        if step:
            optimizers.check_schedules(self.model.optimizer)
        self._first.assign(step)
        if not on_tensorflow(self.model):
            self.model.train_function = None  # on JAX the old k is compiled into it
        optimizers.begin_anew(self.model.optimizer, self.model, self._new_optimizer)
        self.position = step

    @property
    def step(self) -> int:
        """The present step: that of the last ``reset`` plus the steps since then.

        With a scaled loss it may be smaller than ``position``, the number of the next batch:
        batches on which the loss overflows are not counted as steps.
        """
        return int(self._first.numpy()) + steps_counted(self.model.optimizer)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        schedule = schedule_of(self.model.optimizer)
        if schedule is None:
            return float(np.asarray(self.model.optimizer.learning_rate))
        return float(schedule.schedule(max(self.step - 1, 0)))

    def fit(
        self,
        stop: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        validation_data: tf.data.Dataset | None = None,
        validation_freq: int = 1,
        last: bool = True,
        begun: int | None = None,
        which: str = "",
    ) -> None:
        """Trains from the present step to step ``stop``.

        Epochs are counted from ``begun``; the last one may be shorter. ``validation_data`` are used
        in the last epoch and, going back from it, in every ``validation_freq``-th. So a resumed
        training uses them in the same epochs. An optimizer that averages the weights (``use_ema``)
        replaces them by the averages at the end, unless ``last`` is False.

        Args:
          stop: the step at which the training ends.
          callbacks, validation_data, validation_freq: as Keras' ``fit`` takes them. A ``Course``
            among the callbacks is told of the whole training.
          last: False if the training goes on afterwards.
          begun: the step at which the training began, if this is the rest of one; default: it
            begins here.
          which: the training, in messages: "of round 3".

        Raises:
          UsageError: for labels that are not classes of the model.
          Diverged: if weights are NaN or infinite at the end of an epoch.
        """
        begun = self.position if begun is None else begun
        guard = Guard(which, (self.position - begun) // self.steps_per_epoch)
        parts = _parts(begun, self.position, stop, self.steps_per_epoch)
        total = sum(count for count, _ in parts)
        for course in (each for each in callbacks if isinstance(each, Course)):
            course.training_begins(begun, self.position, stop, self.steps_per_epoch)
        for count, steps in parts:
            total -= count  # epochs after this part
            looks = [n for n in range(1, count + 1) if (count + total - n) % validation_freq == 0]
            put_in = last and not total
            optimizer = self.model.optimizer
            averages = contextlib.nullcontext() if put_in else without_averages(optimizer)
            batches = _Batches()
            with averages, step_checks(), self._early_end_as_mistake(batches, count * steps):
                stream = self.stream(self.position)
                if is_keras3(self.model):  # its executions have as many steps as there is data
                    stream = stream.take(count * steps)
                self._by_xla_or_not(
                    self.model.fit,
                    stream,
                    epochs=count,
                    steps_per_epoch=steps,
                    callbacks=[*callbacks, guard, batches],
                    validation_data=validation_data if looks else None,
                    validation_freq=looks or 1,
                    shuffle=False,  # the stream is shuffled already
                    verbose=0,
                )
            self.position += count * steps
        if last and not parts:
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)

    @contextlib.contextmanager
    def _early_end_as_mistake(self, batches: "_Batches", steps: int) -> Iterator[None]:
        """Raises UsageError if the data end before so many ``steps``, which ``batches`` counts."""
        first, empty = self.step, None
        try:
            yield
        except ValueError as error:  # tf_keras raises it for an epoch without a batch
            if "metric has not yet been built" in str(error):  # Keras 3's
                raise UsageError(
                    f"Expected a train_step that updates the compiled metrics; that of "
                    f"{type(self.model).__name__} does not: give metrics=None, or update "
                    "self.metrics there."
                ) from error
            if "Empty logs" not in str(error):
                raise
            empty = error
        done = batches.count
        # With a scaled loss, steps on which it overflows are not counted.
        if not optimizers.scales_loss(self.model.optimizer):
            done = min(done, self.step - first)
        if done < steps and not self.model.stop_training:
            raise UsageError(
                f"Expected training data for {first + steps} steps; they ended after "
                f"{first + done}: give endless data, or as many batches as an epoch has."
            ) from empty

    def evaluate(self, data: tf.data.Dataset) -> dict[str, float]:
        """Loss and accuracy of the present model."""
        return self._by_xla_or_not(evaluate, self.model, data)

    def _by_xla_or_not(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls ``run``; once more without XLA if the first step fails and XLA was our choice.

        Whether XLA can compile gradients, losses and metrics shows only when they are compiled."""
        before = self.step
        try:
            return run(*args, **kwargs)
        except tf.errors.OpError as error:
            if not self._may_drop_xla or self.step != before:
                raise
            failed = error
        self.model.jit_compile = self._may_drop_xla = False
        self.model.train_function = self.model.test_function = None  # Keras 3 would reuse them
        found = run(*args, **kwargs)  # raises a clearer error if XLA was not the cause
        _tell(self.model, reason(failed))
        return found


class _Batches(Callback):
    """A callback that counts the batches of a fit.

    Where the data end, the optimizer counts one more, as TensorFlow does not wait for the batch.
    Of an execution that the end cuts short, Keras 3 counts all steps here, but the optimizer does
    not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._supports_tf_logs = True  # or tf_keras would read the metrics after each execution
        self.count = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._before = self.count

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.count = self._before + min(batch + 1, self.params["steps"])


def _tell(model: keras.Model, what: str) -> None:
    short = shorten(what, 160, placeholder=" …")
    log.info("%s: trained without XLA, which cannot compile all of it: %s", model.name, short)


def in_training(recipe: Recipe, precision: str) -> Recipe:
    """``recipe`` with a precision and with BatchNorm over all devices, as a run trains with it."""
    return Recipe([*recipe.tweaks, Precision(precision), SharedStatistics()])


def make_trainer(
    ticket: Ticket,
    recipe: Recipe,
    stream: Callable[[int], tf.data.Dataset],
    steps_per_epoch: int,
    optimizer: keras.optimizers.Optimizer,
    loss: Any = None,
    data: tf.data.Dataset | None = None,
    **options: Any,
) -> Trainer:
    """The trainer of a ticket's model with a recipe on it.

    Args:
      ticket: the ticket to train.
      recipe: the tweaks to put on; it makes the loss.
      stream, steps_per_epoch, optimizer: as ``Trainer`` takes them.
      loss: the loss to start from, as ``Recipe.loss`` takes it; ``NO_LOSS`` for only the model's
        own losses (``add_loss``).
      data: training batches for tweaks that need them.
      **options: the other arguments of ``Trainer``.

    Raises:
      UsageError: as ``Recipe.prepare``, ``Recipe.loss`` and ``Trainer``.
    """
    given = None if loss is NO_LOSS else loss
    model = recipe.prepare(ticket.build(), data, given, options.get("loss_weights"))
    loss = None if loss is NO_LOSS else recipe.loss(loss)
    return Trainer(model, stream, steps_per_epoch, optimizer, loss, **options)


def _by_output(model: keras.Model, loss: Any, loss_weights: Any) -> dict[str, Any]:
    """Losses and their weights as ``compile`` takes them.

    Keras 3 sorts dictionaries of losses by their keys, but weights in another order. So there each
    output gets its own loss and weight.
    """
    names, by_key = keys_of_outputs(model), isinstance(ends_of(model)[1], dict)
    if loss is None or len(names) == 1 or not is_keras3(model):
        return {"loss": loss, "loss_weights": loss_weights}
    try:
        losses = of_outputs("losses", loss, names)
        weights = of_outputs("loss_weights", loss_weights, names)
    except ValueError as error:
        raise UsageError(f"Expected losses and loss_weights for the outputs: {error}") from None
    weights = [1.0 if each is None else float(each) for each in weights]
    each = [dict(zip(names, some, strict=True)) if by_key else some for some in (losses, weights)]
    return {"loss": each[0], "loss_weights": None if loss_weights is None else each[1]}


def _for_each_output(model: keras.Model, metrics: Any) -> Any:
    """``metrics`` as ``compile`` takes them; tf_keras itself applies a list to each output."""
    if not metrics:
        return None  # of an empty list Keras 3 asks for labels of every output
    names = keys_of_outputs(model)
    if isinstance(metrics, Mapping):
        return dict(metrics)
    flat = all(not isinstance(each, list | tuple | Mapping) for each in metrics)
    if not (is_keras3(model) and flat and len(names) > 1):
        return list(metrics)

    def new(metric: Any) -> Any:  # each output needs its own object, as it counts
        kept = isinstance(metric, str) or not hasattr(metric, "get_config")
        return metric if kept else type(metric).from_config(metric.get_config())

    each = [[new(metric) for metric in metrics] for _ in names]
    by_key = isinstance(ends_of(model)[1], dict)
    return dict(zip(names, each, strict=True)) if by_key else each


def _parts(begun: int, now: int, stop: int, steps_per_epoch: int) -> list[tuple[int, int]]:
    """The rest of a training as pairs (number of epochs, steps of each).

    They are the rest of an interrupted epoch, whole epochs, and a shorter last one.

    >>> _parts(begun=5, now=12, stop=40, steps_per_epoch=10)
    [(1, 3), (2, 10), (1, 5)]
    """
    left = max(stop - now, 0)
    cut = min(-(now - begun) % steps_per_epoch, left)
    epochs, rest = divmod(left - cut, steps_per_epoch)
    return [part for part in ((1, cut), (epochs, steps_per_epoch), (1, rest)) if all(part)]


def _steps_that_fit(model: keras.Model, steps_per_execution: int, steps_per_epoch: int) -> int:
    """The number of steps of an execution that lets an epoch end at the right step.

    tf_keras makes the last execution of an epoch shorter. Keras 3 would go on into the next
    epoch's batches; so there it is the largest number that divides the epoch.
    """
    most = min(steps_per_execution, steps_per_epoch)
    if backend_of(model) == "torch":
        return 1  # torch accepts no other number
    if is_keras3(model):
        return max(n for n in range(1, most + 1) if steps_per_epoch % n == 0)
    return most


def _compile(model: keras.Model, **arguments: Any) -> None:
    """``model.compile``; UsageError if a user's own class takes other arguments."""
    try:
        inspect.signature(model.compile).bind(**arguments)
    except TypeError as error:
        raise UsageError(
            f"Expected a model with a compile that takes the arguments of keras.Model's; that of "
            f"{type(model).__name__} does not ({error}): give its other arguments defaults."
        ) from None
    model.compile(**arguments)


def evaluate(model: keras.Model, data: tf.data.Dataset) -> dict[str, float]:
    """The compiled model's loss and metrics on ``data``: ``loss``, ``accuracy``."""
    with step_checks(), warnings.catch_warnings():
        # So Keras 3 says at the end of data whose length it does not know, as if it were too early.
        warnings.filterwarnings("ignore", "Your input ran out of data")
        results = model.evaluate(data, verbose=0, return_dict=True)
    return {name: float(np.asarray(value)) for name, value in results.items()}


def _has_no_convolution(model: keras.Model) -> bool:
    """On CPUs XLA doubles the speed of fully connected models, and halves that of small ResNets."""
    parts = (part for layer in named_layers(model).values() for part in parts_of(layer))
    return not any("Conv" in type(part).__name__ for part in parts)
