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
from lottery_tf.graph.step_checks import step_checks
from lottery_tf.losses.derivatives import reason
from lottery_tf.losses.objective import of_outputs
from lottery_tf.tickets.ticket import Ticket
from lottery_tf.training.batch_norm import SharedStatistics
from lottery_tf.training.precision import Precision
from lottery_tf.training.trouble import Guard
from lottery_tf.training.xla_loop import steps_in_one_loop
from lottery_tf.training.xla_support import without_kernel
from lottery_tf.tweaks.recipe import Recipe

NO_LOSS = object()


def make_deterministic() -> None:
    """This process computes the same bits as every other on as many threads of such a processor.

    To be called before anything is computed.
    """
    tf.config.experimental.enable_op_determinism()
    add_gradients_in_order()


class Trainer:
    """A compiled model that can be trained again and again without being compiled again.

    Masks, weights and optimizer state are variables: to start over, assign the model's and call
    ``reset``.

    Args:
      model: the model to train, masked or not.
      stream: start step → an infinite ``tf.data.Dataset`` of the batches from that step on.
      steps_per_epoch: steps after which an epoch ends.
      optimizer: a new Keras optimizer; its schedule is that from step 0 on.
      loss: the training loss.
      jit_compile: whether XLA compiles the step; None: if the model has no convolution, there is
        one device, and XLA can compile it, of which a line is logged where it cannot.
      steps_per_execution: steps a call of the compiled function runs at most.
      metrics: what is measured besides the loss.
      loss_weights: a factor of each output's loss, as ``compile`` takes it.

    Raises:
      UsageError: if XLA is to compile for several devices, or optimizer, loss or metrics are not
        of the model's Keras.
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
                f"Expected no `jit_compile=True` with {replicas} devices, over which XLA's steps "
                "cannot reach: leave it out, or train on one."
            )
        self._without_xla = False  # whether to go on without it where it fails
        if jit_compile is None and not by_tensorflow:
            jit_compile = "auto"
        elif jit_compile is None:
            jit_compile = replicas == 1 and _has_no_convolution(model)
            if jit_compile and (what := without_kernel(model)):
                _tell(model, f"{what}, for which it has no kernel")
                jit_compile = False
            self._without_xla = jit_compile
        half = any(layer.compute_dtype == "float16" for layer in named_layers(model).values())
        with scope_of(model):
            if half and not optimizers.scales_loss(optimizer):
                optimizer = optimizers.scaling_loss(optimizer)
            self._first = optimizers.first_step(optimizer)
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
        """What the optimizer remembers, copied, and the step at which it began."""
        return {path: np.array(each.numpy()) for path, each in self._state().items()}

    def set_optimizer_state(self, values: Mapping[str, np.ndarray]) -> None:
        """The optimizer as it was when ``optimizer_state`` has returned ``values``."""
        variables = self._state()
        for path in variables.keys() | values.keys():
            variables[path].assign(values[path])

    def _state(self) -> dict[str, tf.Variable]:
        return {
            "first_step": self._first,
            **optimizers.state(self.model.optimizer, self.model),
        }

    def reset(self, step: int = 0) -> None:
        """A new optimizer for the model's present weights, its learning rate that of ``step``.

        Raises:
          UsageError: if the optimizer cannot begin anew, or at that step.
        """
        if step:
            optimizers.check_schedules(self.model.optimizer)
        self._first.assign(step)
        if not on_tensorflow(self.model):
            self.model.train_function = None  # JAX has compiled the former k into it
        optimizers.begin_anew(self.model.optimizer, self.model, self._new_optimizer)
        self.position = step

    @property
    def step(self) -> int:
        """The step at which training stands: that of the last ``reset`` and those since then.

        It lags behind ``position``, the number of the next batch, where the loss is scaled: batches
        on which it overflows are no steps.
        """
        return int(self._first.numpy()) + steps_counted(self.model.optimizer)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        schedule = optimizers.schedule_of(self.model.optimizer)
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

        Epochs are counted from ``begun``; the last one is shorter where the rest of the steps does
        not fill it. ``validation_data`` are looked at in the last epoch and, going back
        from it, in every ``validation_freq``-th, so that a resumed training looks where it would
        have looked. An optimizer that averages the weights (``use_ema``) puts the averages in their
        place at the end; with ``last=False``, where the training is to go on, it does not yet.

        Args:
          stop: where the training ends.
          callbacks, validation_data, validation_freq: as Keras' ``fit`` takes them.
          last: whether nothing follows.
          begun: the step at which a training began of which this is the rest; default: none, it
            begins here.
          which: the training, in messages: "of round 3".

        Raises:
          UsageError: for labels that are no classes of the model.
          Diverged: if weights are NaN or infinite at the end of an epoch.
        """
        begun = self.position if begun is None else begun
        guard = Guard(which, (self.position - begun) // self.steps_per_epoch)
        parts = _parts(begun, self.position, stop, self.steps_per_epoch)
        total = sum(count for count, _ in parts)
        for count, steps in parts:
            total -= count  # epochs that come after this part
            looks = [n for n in range(1, count + 1) if (count + total - n) % validation_freq == 0]
            put_in = last and not total
            optimizer = self.model.optimizer
            averages = contextlib.nullcontext() if put_in else without_averages(optimizer)
            end = self.step + count * steps
            with averages, step_checks(), self._told_of_an_end(end):
                stream = self.stream(self.position)
                if is_keras3(self.model):  # its executions are of as many steps as there is data
                    stream = stream.take(count * steps)
                self._by_xla_or_not(
                    self.model.fit,
                    stream,
                    epochs=count,
                    steps_per_epoch=steps,
                    callbacks=[*callbacks, guard],
                    validation_data=validation_data if looks else None,
                    validation_freq=looks or 1,
                    shuffle=False,  # what is in the stream is
                    verbose=0,
                )
            self.position += count * steps
        if last and not parts:
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)

    @contextlib.contextmanager
    def _told_of_an_end(self, end: int) -> Iterator[None]:
        """Raises UsageError where data end before the step ``end``."""
        empty = None
        try:
            yield
        except ValueError as error:  # of tf_keras, for an epoch without a batch
            if "metric has not yet been built" in str(error):  # of Keras 3
                raise UsageError(
                    f"Expected a train_step that updates the metrics that it is compiled with; "
                    f"that of {type(self.model).__name__} leaves them: give metrics=None, or "
                    "update self.metrics there."
                ) from error
            if "Empty logs" not in str(error):
                raise
            empty = error
        # Where the loss is scaled, steps of which it overflows are not counted.
        short = self.step < end and not optimizers.scales_loss(self.model.optimizer)
        if empty or (short and not self.model.stop_training):
            raise UsageError(
                f"Expected training data for {end} steps; they were at their end after "
                f"{self.step}: give data without end, or as many as an epoch has."
            ) from empty

    def evaluate(self, data: tf.data.Dataset) -> dict[str, float]:
        """Loss and accuracy of the model as it stands."""
        return self._by_xla_or_not(evaluate, self.model, data)

    def _by_xla_or_not(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """``run``; once more without XLA where that was not asked for and the first step fails:
        what gradients, losses and metrics come to is known only when they are compiled."""
        before = self.step
        try:
            return run(*args, **kwargs)
        except tf.errors.OpError as error:
            if not self._without_xla or self.step != before:
                raise
            failed = error
        self.model.jit_compile = self._without_xla = False
        self.model.train_function = self.model.test_function = None  # Keras 3 would keep them
        found = run(*args, **kwargs)  # whose own error tells more, if it is another matter
        _tell(self.model, reason(failed))
        return found


def _tell(model: keras.Model, what: str) -> None:
    short = shorten(what, 160, placeholder=" …")
    log.info("%s: the steps run without XLA, which cannot compile all: %s", model.name, short)


def in_training(recipe: Recipe, precision: str) -> Recipe:
    """``recipe`` as a run trains by it: in a precision, with BatchNorm over all devices."""
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
      ticket: what is trained.
      recipe: its tweaks are put on; it gives the loss.
      stream, steps_per_epoch, optimizer: as ``Trainer`` takes them.
      loss: the loss to start from, as ``Recipe.loss`` takes it; ``NO_LOSS`` for the model's own
        alone (``add_loss``).
      data: training batches for tweaks that look at them.
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

    Keras 3 puts dictionaries in the order of their keys, and weights beside them in another: there
    each output is given its own of both.
    """
    names, by_key = keys_of_outputs(model), isinstance(ends_of(model)[1], dict)
    if loss is None or len(names) == 1 or not is_keras3(model):
        return {"loss": loss, "loss_weights": loss_weights}
    try:
        losses = of_outputs("losses", loss, names)
        weights = of_outputs("loss_weights", loss_weights, names)
    except ValueError as error:
        raise UsageError(f"Expected losses and loss_weights of the outputs: {error}") from None
    weights = [1.0 if each is None else float(each) for each in weights]
    each = [dict(zip(names, some, strict=True)) if by_key else some for some in (losses, weights)]
    return {"loss": each[0], "loss_weights": None if loss_weights is None else each[1]}


def _for_each_output(model: keras.Model, metrics: Any) -> Any:
    """``metrics`` as ``compile`` takes them; tf_keras itself gives a list to each output."""
    names = keys_of_outputs(model)
    if isinstance(metrics, Mapping):
        return dict(metrics)
    flat = all(not isinstance(each, list | tuple | Mapping) for each in metrics)
    if not (is_keras3(model) and flat and len(names) > 1):
        return list(metrics)

    def new(metric: Any) -> Any:  # each output's own, as it counts
        kept = isinstance(metric, str) or not hasattr(metric, "get_config")
        return metric if kept else type(metric).from_config(metric.get_config())

    each = [[new(metric) for metric in metrics] for _ in names]
    by_key = isinstance(ends_of(model)[1], dict)
    return dict(zip(names, each, strict=True)) if by_key else each


def _parts(begun: int, now: int, stop: int, steps_per_epoch: int) -> list[tuple[int, int]]:
    """What is left of a training, as numbers of epochs and the steps of each: the rest of one that
    was cut, whole ones, a shorter last one.

    >>> _parts(begun=5, now=12, stop=40, steps_per_epoch=10)
    [(1, 3), (2, 10), (1, 5)]
    """
    left = max(stop - now, 0)
    cut = min(-(now - begun) % steps_per_epoch, left)
    epochs, rest = divmod(left - cut, steps_per_epoch)
    return [part for part in ((1, cut), (epochs, steps_per_epoch), (1, rest)) if all(part)]


def _steps_that_fit(model: keras.Model, steps_per_execution: int, steps_per_epoch: int) -> int:
    """How many steps an execution may have for an epoch to end where it should.

    tf_keras makes the last execution of an epoch shorter. Keras 3 goes on into the next epoch's
    batches: there it is the largest number that divides the epoch.
    """
    most = min(steps_per_execution, steps_per_epoch)
    if backend_of(model) == "torch":
        return 1  # it takes no others
    if is_keras3(model):
        return max(n for n in range(1, most + 1) if steps_per_epoch % n == 0)
    return most


def _compile(model: keras.Model, **arguments: Any) -> None:
    """``model.compile``; a UsageError if that of the user's own class takes others."""
    try:
        inspect.signature(model.compile).bind(**arguments)
    except TypeError as error:
        raise UsageError(
            f"Expected a model whose compile takes what keras.Model's takes; that of "
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
    """On CPUs XLA doubles the speed of fully connected models and halves that of small ResNets."""
    parts = (part for layer in named_layers(model).values() for part in parts_of(layer))
    return not any("Conv" in type(part).__name__ for part in parts)
