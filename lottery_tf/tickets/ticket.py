"""Tickets: a mask, the weights to rewind to, and the model they belong to."""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import sha256, sum_of, whole_folder, write_record
from lottery_tf.common.log import log, some
from lottery_tf.common.ownership import Kind, has_keys
from lottery_tf.common.settings import one_of
from lottery_tf.common.summary import Summarised, Summary, in_short, percent
from lottery_tf.graph import architecture
from lottery_tf.graph.compat import (
    KERASES,
    is_adapted,
    is_model,
    keras,
    keras_of,
    layer_classes,
    parts_of,
)
from lottery_tf.graph.conversion import converted
from lottery_tf.graph.copies import copy_with_paths
from lottery_tf.graph.layers import (
    assign,
    check_graph,
    layer_paths,
    named_layers,
    named_variables,
    own_variables,
    trainable_names,
    values,
)
from lottery_tf.graph.matching import same_layers, variable_in
from lottery_tf.masks.dense_norms import dense_norms_of, norms_before, remember
from lottery_tf.masks.masks import Masks, read_arrays
from lottery_tf.masks.wrapper import check_masks, log_left_dense, strip, wrap
from lottery_tf.tickets.from_model import masks_of, warn_of_same
from lottery_tf.tickets.matched import log_matched, values_for
from lottery_tf.tickets.origin import summary_of
from lottery_tf.tickets.record import check_record, check_sizes, null_names, text_of, tickets_below

FORMAT_VERSION = 1
_PARTS = ("masks.npz", "weights.npz", "model.json")


def _has_its_sum(part: Path) -> bool:
    record = json.loads(part.with_name("ticket.json").read_text())
    return sha256(part) == record["sha256"][part.name]


TICKET = Kind(
    "a ticket",
    {
        "ticket.json": has_keys("format_version", "sparsity", "sha256"),
        **dict.fromkeys(_PARTS, _has_its_sum),
    },
    marker="ticket.json",
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Ticket(Summarised):
    """A sparse subnetwork that is ready to be trained: (θ_k ⊙ m, m) and its architecture.

    Args:
      masks: a mask for each prunable weight.
      weights: name → value of every variable of the model, BatchNorm's moving statistics too, as
        they were at the rewind step. What the masks prune is made 0.
      architecture: the plain model as JSON, as Keras writes it; None where the configs of its
        layers are no JSON: such a ticket is built in the process that made it, and not saved.
      info: where the ticket comes from, as JSON knows it: ``method``, ``round``,
        ``rewind_step``, ``model``, ``dataset``, ``seed``, ``settings`` of the run or
        ``found_with`` of a program, …. ``trainable_parameters`` is the number of them in the dense
        model, of frozen layers too; default: they are counted. ``dense_norms`` has ‖w‖₂ of each
        prunable weight before it was pruned, where that is known.

    Raises:
      UsageError: for a mask without a weight of its name and shape.
    """

    masks: Masks
    weights: Mapping[str, np.ndarray]
    architecture: str | None
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # Layers that JSON cannot describe (Lambda) can still be built in the process that made them.
    _template: keras.Model | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", _masked(self.weights, self.masks))

    @classmethod
    def of(
        cls, model: keras.Model, masks: Masks, info: Mapping[str, Any] | None = None
    ) -> "Ticket":
        """The ticket of ``model``'s present weights under ``masks``.

        Args:
          model: a Sequential or functional model, wrapped or not; it is copied.
          masks: a mask for each weight of it to prune.
          info: what is written about its origin.
        """
        plain = strip(model)
        check_masks(plain, masks)
        weights = values(plain)
        norms = dense_norms_of(model, weights, masks)
        count = _trainable_parameters(plain, weights, masks)
        info = {**(info or {}), "trainable_parameters": count, "dense_norms": norms}
        described = None
        with contextlib.suppress(UsageError):  # said when the ticket is saved
            described = architecture.to_json(plain)
        return cls(masks, weights, described, info, plain)

    @classmethod
    def from_pruned(cls, model: keras.Model, rewind_to: keras.Model | None = None) -> "Ticket":
        """A ticket from the zeros of any model.

        The masks cover the weights that are prunable by default, and any other kernel with zeros.
        An Embedding is masked only if a row has both zeros and other values. If any layer of the
        model is wrapped, the masks are those of the wrappers alone. A line is logged that names
        what stays dense.

        Args:
          model: a trained model with zeros in its kernels, wrapped or not.
          rewind_to: the same architecture with the weights to rewind to. Default: ``model``. One
            line warns if they are those of ``model``: tfmot's ``prune_low_magnitude`` trains the
            layers of the model that it was given, so give a copy from before the training.

        Raises:
          UsageError: if there is no zero in the prunable weights, or ``rewind_to`` has other
            variables than ``model``.
        """
        check_graph(model)
        masks = masks_of(model)
        if masks.kept == masks.total:
            raise UsageError(
                f"Expected zeros in the kernels of the model '{model.name}'; none of its "
                f"{masks.total:,} prunable weights is 0: prune it first."
            )
        log_left_dense(model, masks)
        ticket = cls.of(model, masks, {"method": "from_model", "model": model.name})
        if rewind_to is None:
            log.info(
                "%s: the ticket keeps the trained weights, to be trained on from there; give "
                "rewind_to=… for those of before the training.",
                model.name,
            )
            return ticket
        rewound = ticket.with_weights(values_for(model, rewind_to), rewound_to=rewind_to.name)
        warn_of_same(model, [(rewound.weights[name], ticket.weights[name]) for name in masks])
        return rewound

    def __repr__(self) -> str:
        told = [in_short(self.info[n]) for n in ("model", "method") if self.info.get(n)]
        told += [f"round {self.info['round']}"] if "round" in self.info else []
        return f"Ticket({', '.join([*told, f'{percent(self.sparsity)} pruned'])})"

    def summary(self) -> Summary:
        """What ``print`` and notebooks show: the weights with masks, and where it comes from."""
        return summary_of(self.masks, self.sparsity_total, self.info)

    @functools.cached_property  # to count them builds the model
    def trainable_parameters(self) -> int:
        """The number of them in the dense model, of frozen layers too."""
        if "trainable_parameters" not in self.info:  # made by hand
            return _trainable_parameters(self._plain(), self.weights, self.masks)
        return int(self.info["trainable_parameters"])

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that are pruned."""
        return self.masks.sparsity

    @property
    def sparsity_total(self) -> float:
        """Share of all trainable parameters that are pruned, those of frozen layers among them."""
        # Tickets written before these were counted may have fewer than they have masked weights.
        return self.masks.sparsity_total(max(self.trainable_parameters, self.masks.total))

    def with_masks(self, masks: Masks, **info: Any) -> "Ticket":
        """The ticket of the same weights under masks nested in these, with more ``info``."""
        if not masks.nested_in(self.masks):
            raise UsageError("Expected masks nested in the ticket's; its pruned weights are gone.")
        return dataclasses.replace(self, masks=masks, info={**self.info, **info})

    def with_weights(self, weights: Mapping[str, np.ndarray], **info: Any) -> "Ticket":
        """The same masks over other weights of the same model, with more ``info``."""
        norms = norms_before(weights, self.masks)
        info = {**self.info, "dense_norms": norms, **info}
        return dataclasses.replace(self, weights=weights, info=info)

    @property
    def its_keras(self) -> ModuleType:
        """The Keras that its architecture is of: the module, ``tf_keras`` or ``keras``."""
        if self._template is not None:
            return keras_of(self._template)
        return architecture.keras_of_json(self._described())

    def build(
        self,
        model: keras.Model | None = None,
        custom_objects: Mapping[str, type] | None = None,
    ) -> keras.Model:
        """The wrapped model with the ticket's masks and weights, not compiled.

        Args:
          model: a model of this architecture to build upon; it is copied. Its layers go by their
            names. Where the same code has made it again, and Keras has numbered the names on, they
            go by their order, and a line is logged. Default: the ticket's own architecture.
          custom_objects: class name → class, for layers of the user's own in that architecture.

        Raises:
          UsageError: if the ticket belongs to another model than ``model``.
        """
        if model is None:
            ticket, model = self, self._plain(custom_objects)
        else:
            ticket = self._named_as(model, custom_objects)
        wrapped = wrap(model, ticket.masks)
        assign(wrapped, ticket.weights)
        remember(wrapped, ticket.info.get("dense_norms", {}))
        return wrapped

    def _plain(self, custom_objects: Mapping[str, type] | None = None) -> keras.Model:
        """The model of its architecture, with whatever weights."""
        return self._template or architecture.from_json(self._described(), custom_objects)

    def _described(self) -> str:
        """Its architecture; a UsageError where that is no JSON."""
        if self.architecture is None:  # then there is a template
            return architecture.to_json(cast(keras.Model, self._template))
        return self.architecture

    def _named_as(self, model: keras.Model, custom_objects: Mapping[str, type] | None) -> "Ticket":
        """The same ticket by the names of ``model``, if that is the same with numbered names."""
        check_graph(model)
        if keras_of(model) is not self.its_keras:
            stacks = layer_classes("StackedRNNCells")
            for path, layer in named_layers(model).items():
                if any(isinstance(part, stacks) for part in parts_of(layer)):
                    raise UsageError(
                        f"Expected a model of {self.its_keras.__name__}, as the ticket is; the "
                        f"cells that '{path}' stacks are named from the first on in tf_keras, "
                        "and from the last on in Keras 3."
                    )
        if named_variables(model).keys() == self.weights.keys():
            return self
        with contextlib.suppress(UsageError):  # no file to read it from: names alone count
            if layers := same_layers(self._plain(custom_objects), model):
                log_matched(layers, model)
                new = {name: variable_in(name, layers) for name in self.weights}
                norms = self.info.get("dense_norms", {})
                return Ticket(
                    Masks({new[name]: mask for name, mask in self.masks.items()}),
                    {new[name]: value for name, value in self.weights.items()},
                    self.architecture,
                    {**self.info, "dense_norms": {new[n]: each for n, each in norms.items()}},
                    self._template,
                )
        return self

    def in_keras(self, name: str) -> "Ticket":
        """The same masks and weights on the same layers of another Keras.

        Args:
          name: "tf_keras", or "keras" for Keras 3.

        Raises:
          UsageError: if that Keras has not all of the layers, or computes something else by them.
        """
        if name not in KERASES:
            raise UsageError(f"Expected the name of a Keras, {one_of(KERASES)}, not '{name}'.")
        if self.its_keras is KERASES[name]:
            return self
        plain = self._plain()
        assign(plain := copy_with_paths(plain, layer_paths(plain)), self.weights)
        model = converted(plain, KERASES[name])
        return dataclasses.replace(self, architecture=architecture.to_json(model), _template=None)

    def reinitialised(self, seed: int) -> "Ticket":
        """The control experiment: the same mask over new initial weights.

        Args:
          seed: of the new weights. They are drawn from a stream of their own, so that they are
            new also where the ticket's own were drawn with this seed.
        """
        plain = self._plain()
        drawn = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
        keras_of(plain).utils.set_random_seed(drawn)
        fresh = copy_with_paths(plain, layer_paths(plain), new_seeds=True)
        weights = values(fresh)
        # What a layer was adapted to is no initial weight.
        for path, layer in named_layers(plain).items():
            if is_adapted(layer):
                weights |= {(n := f"{path}/{own}"): self.weights[n] for own in own_variables(layer)}
        return self.with_weights(weights, reinitialised_with_seed=seed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the ticket's folder, whole or not at all; an older ticket there is replaced.

        Raises:
          UsageError: if ``path`` holds anything else than a ticket, which is never deleted, or the
            model cannot be described in JSON.
        """
        described = self._described()
        with whole_folder(path, TICKET) as folder:
            self.masks.save(folder / "masks.npz")
            weights: Mapping[str, Any] = self.weights  # or mypy takes one for allow_pickle
            np.savez_compressed(folder / "weights.npz", **weights)
            (folder / "model.json").write_text(described, encoding="utf-8")
            record = {
                "format_version": FORMAT_VERSION,
                "sparsity": self.masks.sparsity,
                "sparsity_total": self.sparsity_total,
                "numbers": sum(value.size for value in self.weights.values()),
                "trainable_parameters": self.trainable_parameters,
                **self.info,
                "sha256": {part: sha256(folder / part) for part in _PARTS},
            }
            check_record(record)
            write_record(folder / "ticket.json", record)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Ticket":
        """Reads a ticket's folder. Nothing in it is run.

        Raises:
          UsageError: if it is no ticket, is of a newer format, or was damaged or changed.
        """
        path = Path(path)
        if not (path / "ticket.json").is_file():
            raise UsageError(
                f"Expected a ticket's folder (with ticket.json) at {path}; there is none. "
                f"{tickets_below(path)}"
            )
        try:
            record = json.loads((path / "ticket.json").read_text(encoding="utf-8"))
            version = record["format_version"]
            if version == FORMAT_VERSION:
                sums, _ = dict(record["sha256"]), record["trainable_parameters"]
                check_record(record)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            told = error if isinstance(error, UsageError) else repr(error)
            raise UsageError(
                f"Expected a ticket in {path / 'ticket.json'}; it is damaged ({told}). Copy it "
                "again or find it anew."
            ) from None
        if version != FORMAT_VERSION:
            raise UsageError(
                f"Expected a ticket of format {FORMAT_VERSION} in {path}, got {version}: read it "
                "with the release of lottery_tf that wrote it."
            )
        damaged = [
            part
            for part in _PARTS
            if not (path / part).is_file() or sha256(path / part) != sums.get(part)
        ]
        own = sums.get("ticket.json")  # which older releases did not write
        if own is not None and own != sum_of(record, "ticket.json"):
            damaged.insert(0, "ticket.json")
        if damaged:
            raise UsageError(
                f"Expected {path / damaged[0]} to have the checksum that ticket.json gives; it is "
                "missing, damaged or changed. Copy the ticket again or find it anew."
            )
        # Older releases did not write how many numbers there are.
        most = record.get("numbers", 2 * record["trainable_parameters"] + 2**26)
        check_sizes(path, most)
        computed = {"format_version", "sparsity", "sparsity_total", "numbers", "sha256"}
        computed |= null_names(record)
        return cls(
            Masks.load(path / "masks.npz"),
            read_arrays(path / "weights.npz"),
            text_of(path / "model.json"),
            {key: value for key, value in record.items() if key not in computed},
        )


def ticket_of(given: Any) -> Ticket:
    """A ticket as it is, or that of a pruned model.

    Raises:
      UsageError: for a model without zeros, and for what is neither ticket nor model.
    """
    if isinstance(given, Ticket):
        return given
    if not is_model(given):
        raise UsageError(f"Expected a ticket or a pruned Keras model, got {in_short(repr(given))}.")
    return Ticket.from_pruned(given)


def _trainable_parameters(
    plain: keras.Model, weights: Mapping[str, np.ndarray], masks: Masks
) -> int:
    trainable = trainable_names(plain)
    # The variables of a frozen layer still say that they are trainable.
    return sum(value.size for name, value in weights.items() if name in trainable or name in masks)


def _masked(weights: Mapping[str, np.ndarray], masks: Masks) -> dict[str, np.ndarray]:
    odd = [n for n, m in masks.items() if n not in weights or weights[n].shape != m.shape]
    if odd:
        raise UsageError(
            f"Expected masks for weights of the ticket, each of its weight's shape; {some(odd)} "
            "is not: make the masks for this model."
        )
    return {
        name: np.where(masks[name], value, 0).astype(value.dtype) if name in masks else value
        for name, value in weights.items()
    }
