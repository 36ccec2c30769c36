"""Recipes: lists of tweaks that say how a ticket is retrained."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import log
from lottery_tf.common.settings import defaults, describe, one_of, restore
from lottery_tf.common.summary import Summarised, Summary, in_short
from lottery_tf.graph.compat import is_keras3, keras
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.graph.layers import check_of_its_keras
from lottery_tf.losses.from_keras import as_cross_entropy, default_loss
from lottery_tf.masks.wrapper import strip
from lottery_tf.tweaks.fade import NoOther, check_no_other
from lottery_tf.tweaks.settings import (
    PARAMETERS,
    RECIPE_DEFAULTS,
    RECIPES,
    as_read,
    check_parameters,
    defaults_of,
    parameters_of,
    recipes_in,
    tweak_names,
    tweak_names_in,
    with_older_defaults,
)
from lottery_tf.tweaks.table import TWEAKS
from lottery_tf.tweaks.tweak import Tweak, put_on, taken_off


class Recipe(Summarised):
    """Tweaks that are put on together, and taken off again.

    >>> Recipe("label_smoothing").describe()
    {'label_smoothing': {'epsilon': 0.1}}
    >>> Recipe("vanilla").tweaks
    ()
    >>> Recipe("soft_activation+label_smoothing").name
    'soft_activation,label_smoothing'

    Args:
      tweaks: a name of RECIPES or TWEAKS, several names joined by ``+`` or commas, or a list of
        tweaks.
      settings: parameters of tweaks that are given by name, with the names of their flags as keys
        (``label_smoothing_epsilon``). Those of tweaks that are not in the recipe are ignored. They
        override the parameters that a recipe such as ``tost_reference`` has of its own.

    Raises:
      UsageError: for an unknown name or parameter, or a tweak given twice.
    """

    def __init__(self, tweaks: str | Sequence[Tweak], settings: Mapping[str, Any] | None = None):
        if settings:
            check_parameters(settings)
        self._said: list[str] | None = None  # the names of recipes it was made from
        if isinstance(tweaks, str):
            self._said, given = recipes_in(tweaks), {**defaults_of(tweaks), **(settings or {})}
            tweaks = [_create(name, given) for name in tweak_names_in(tweaks)]
        tweaks = list(tweaks) if isinstance(tweaks, Iterable) else [tweaks]
        for tweak in tweaks:
            if not isinstance(tweak, Tweak):
                raise UsageError(
                    f"Expected tweaks such as lt.LabelSmoothing() in a recipe's list, or their "
                    f"names in one text separated by commas, not {tweak!r}."
                )
        kinds = [type(tweak) for tweak in tweaks]
        twice = sorted({kind.__name__ for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise UsageError(f"Expected each tweak once in a recipe; {one_of(twice)} came twice.")
        self.tweaks: tuple[Tweak, ...] = tuple(tweaks)
        self._model: keras.Model | None = None  # the model given to prepare
        self._loss: Any = None  # the loss given to prepare

    @property
    def name(self) -> str:
        """The names of the tweaks separated by commas, with ``tost`` for its five tweaks.

        It is ``vanilla`` without tweaks. A recipe that was made by a recipe's name has that name,
        whatever its parameters. One that was made of tweaks with exactly the parameters of
        ``tost_reference`` has that name.
        """
        names, found = list(self.describe()), []
        for recipe in self._candidates():
            parts = RECIPES[recipe]
            if parts and tuple(name for name in names if name in parts) == parts:
                found.append(recipe)
                names = [name for name in names if name not in parts]
        return ",".join([*found, *names]) or "vanilla"

    def _candidates(self) -> list[str]:
        """The names of recipes that it may have, certain ones first."""
        first = self._said
        if first is None:
            first = [name for name in RECIPE_DEFAULTS if self._has_defaults_of(name)]
        others = [name for name in RECIPES if name not in RECIPE_DEFAULTS]
        return list(dict.fromkeys([*(name for name in RECIPES if name in first), *others]))

    def _has_defaults_of(self, recipe: str) -> bool:
        tweaks = {_name_of(tweak): tweak for tweak in self.tweaks}
        return all(
            name in tweaks and getattr(tweaks[name], parameter) == value
            for name in RECIPES[recipe]
            for parameter, value in parameters_of(name, RECIPE_DEFAULTS[recipe]).items()
        )

    def __repr__(self) -> str:
        names = {_name_of(tweak) for tweak in self.tweaks}
        if not names <= TWEAKS.keys():  # a tweak of the user's own without a name
            return in_short(f"Recipe({list(self.tweaks)!r})", 200)
        other = {key: value for each in self._changed_parameters().values() for key, value in each}
        return in_short(f"Recipe({self.name!r}{f', {other!r}' if other else ''})", 200)

    def summary(self) -> Summary:
        """What ``print`` and notebooks show: a row a tweak, with the parameters that are others
        than the recipe of this name has."""
        other = self._changed_parameters()
        rows = [
            [name, ", ".join(f"{key.removeprefix(f'{name}_')}={v!r}" for key, v in other[name])]
            for name in self.describe()
        ]
        notes = ["recipe.describe() has all parameters."] if rows else ["No tweaks."]
        return Summary(f"Recipe {as_read(self.name)}", ["tweak", "changed parameters"], rows, notes)

    def _changed_parameters(self) -> dict[str, list[tuple[str, Any]]]:
        """Name of each tweak → (setting, value) of those that the recipe of this name has
        otherwise."""
        usual = defaults_of(",".join(name for name in self.name.split(",") if name in RECIPES))
        found = {}
        for name, values in self.describe().items():
            default = defaults(PARAMETERS[name]) if name in PARAMETERS else {}
            default |= _plain(parameters_of(name, usual)) if name in PARAMETERS else {}
            found[name] = [
                (f"{name}_{key}", value)
                for key, value in values.items()
                if key not in default or default[key] != value
            ]
        return found

    def with_tweaks(self, tweaks: Sequence[Tweak]) -> "Recipe":
        """The recipe of the same name with other parameters for its tweaks."""
        recipe = Recipe(tweaks)
        recipe._said = self._said
        return recipe

    def for_training_by(self, optimizer: str) -> "Recipe":
        """The recipe with what its tweaks need to know of the optimizer that trains.

        Args:
          optimizer: its name in lower case, such as ``sgd``.
        """
        return self.with_tweaks([tweak.for_training_by(optimizer) for tweak in self.tweaks])

    def describe(self) -> dict[str, dict[str, Any]]:
        """Name of each tweak → its parameters, as JSON values; ``restore`` reads it."""
        return {_name_of(tweak): describe(tweak) for tweak in self.tweaks}

    @classmethod
    def restore(cls, description: Mapping[str, Mapping[str, Any]]) -> "Recipe":
        """The recipe that ``describe`` described, in this or an older release.

        Raises:
          UsageError: for a tweak that has no name here.
        """
        for name in description:
            tweak_names(name)
        names = [name for name in description if name not in RECIPES]
        found = {name: with_older_defaults(name, description[name]) for name in names}
        return cls([restore(TWEAKS[name], values) for name, values in found.items()])

    def prepare(
        self, model: keras.Model, data: Any = None, loss: Any = None, loss_weights: Any = None
    ) -> keras.Model:
        """The model to compile and train: ``model`` with every tweak on.

        Args:
          model: a Sequential or functional model of tf_keras or Keras 3, masked or dense, not
            compiled. An unbuilt Sequential is built for ``data``.
          data: training data in a form that ``fit`` takes (batches, arrays, …, as in
            ``graph.fit_data.batches``), for tweaks that need them.
          loss, loss_weights: the loss of the training, as ``compile`` takes it, for tweaks that
            need it, and for ``loss()``. Default: the cross-entropy; for data without labels the
            model's own losses (``add_loss``).

        Raises:
          UsageError: for a model of another kind, or with layers that cannot be copied, or that
            does not fit one of the tweaks.
        """
        check_of_its_keras(model, loss=loss)
        prepared = put_on([each.for_loss(loss, loss_weights) for each in self.tweaks], model, data)
        self._model, self._loss = model, loss
        return prepared

    def learned(self, model: keras.Model) -> dict[str, dict[str, Any]]:
        """Name of a tweak → what it has learned when ``model`` was prepared, as JSON values.

        Tweaks that learn nothing are left out."""
        return {_name_of(tweak): found for tweak in self.tweaks if (found := tweak.learned(model))}

    def loss(self, loss: Any = None) -> Any:
        """The training loss.

        Args:
          loss: the loss to start from, or a list or dictionary of one for each output, as
            ``compile`` takes it. Default: the one given to ``prepare``, else a cross-entropy for
            integer or one-hot labels, on logits or probabilities as the model gives them. It is
            binary if the model ends in sigmoids.

        Returns:
          the loss as the tweaks have changed it. In a list or dictionary each loss is changed,
          except None, and losses that a tweak cannot change while it changes others; then a line
          is logged.

        Raises:
          UsageError: without ``loss`` before ``prepare``, or if some outputs are logits and others
            probabilities. Also for a loss that a tweak cannot change, or of another Keras than the
            model given to ``prepare``.
        """
        loss = self._loss if loss is None else loss
        if loss is None:
            if self._model is None:
                raise UsageError(
                    "Expected recipe.prepare(model) before recipe.loss(): whether the model "
                    "gives logits decides the loss. Or pass the loss to start from."
                )
            loss = default_loss(self._model)
        if self._model is not None:
            check_of_its_keras(self._model, loss=loss)
        changed = tf.nest.flatten(loss)  # None for an output that is not trained
        if self.tweaks and is_keras3(self._model):  # tweaks look names up in tf_keras
            changed = [_named(each) if isinstance(each, str) else each for each in changed]
        for tweak in self.tweaks:
            changed = self._changed(changed, tweak)
        return tf.nest.pack_sequence_as(loss, changed)

    def _changed(self, losses: list[Any], tweak: Tweak) -> list[Any]:
        """The outputs' losses as one tweak changes them."""
        found, errors = list(losses), []
        for place, loss in enumerate(losses):
            if loss is not None:
                try:
                    found[place] = tweak.loss(loss) or loss
                except UsageError as error:
                    errors.append(error)
        trained = sum(loss is not None for loss in losses)
        if errors and len(errors) == trained:
            others = [_name_of(each) for each in self.tweaks if type(each).loss is Tweak.loss]
            rest = f" The others take any loss: {','.join(others)}." if others else ""
            raise UsageError(f"{errors[0]}{rest}") from errors[0]
        if errors:
            log.warning(
                "%s has no effect on %s of %s losses: %s",
                *(_name_of(tweak), len(errors), trained, errors[0]),
            )
        return found

    def callbacks(self, steps: int | None = None) -> list[keras.callbacks.Callback]:
        """The callbacks that ``fit`` needs; put them before those that log or save.

        Args:
          steps: the steps of the whole training; tweaks fade over a share of it. Default: the
            epochs of ``fit`` times its steps of an epoch.

        Raises:
          UsageError: when training begins, if the model is within a fade of tweaks that are not in
            this recipe, and no other recipe's callbacks take it on.
        """
        found = [callback for tweak in self.tweaks for callback in tweak.callbacks(steps)]
        return [*found, NoOther(self.tweaks)] if found else []

    def progress(self, model: keras.Model) -> float:
        """How far the tweaks have faded, from 0 to 1; at 1 none has an effect any more.

        Raises:
          UsageError: if the model is within a fade of tweaks that are not in this recipe.
        """
        check_no_other(model, self.tweaks)
        return min((tweak.progress(model) for tweak in self.tweaks), default=1.0)

    def finish(self, model: keras.Model) -> keras.Model:
        """The trained model in its original architecture: plain Keras layers, exact zeros.

        It is a copy, not compiled.

        Raises:
          UsageError: if a tweak still has an effect, or if the model has fading layers of tweaks
            that are not in this recipe.
        """
        return strip(taken_off(self.tweaks, model))


def _named(loss: str) -> Any:
    """Keras 3's cross-entropy of that name; any other name as it is."""
    return as_cross_entropy(loss, keras3) or loss


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as ``describe`` has them."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def _name_of(tweak: Tweak) -> str:
    names = {kind: name for name, kind in TWEAKS.items()}
    return names.get(type(tweak), type(tweak).__name__)


def _create(name: str, settings: Mapping[str, Any]) -> Tweak:
    return TWEAKS[name](**parameters_of(name, settings))
