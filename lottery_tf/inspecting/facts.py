"""A ticket's weights in numbers: what is kept, which outputs are dead, what it costs."""

import dataclasses

import numpy as np

from lottery_tf.common.errors import UsageError
from lottery_tf.common.log import counted
from lottery_tf.common.summary import UNKNOWN, Summarised, Summary, percent
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import check_graph, named_layers, unwrapped, variable_names
from lottery_tf.graph.parts import at, holder_of
from lottery_tf.masks.flops import count_flops
from lottery_tf.masks.kernel_axes import axes_of
from lottery_tf.masks.masks import Masks
from lottery_tf.masks.overlap import overlap
from lottery_tf.masks.prunable import kernel_attributes, left_dense
from lottery_tf.tickets.ticket import Ticket, ticket_of


@dataclasses.dataclass(frozen=True)
class WeightFacts:
    """What is left of one prunable weight.

    Attributes:
      name: ``layer/variable``, as in the ticket's masks.
      shape: of the weight.
      kept: number of surviving weights; the layer is collapsed where there is none.
      sparsity: share that is pruned, in [0, 1].
      outputs: the layer's output channels that this kernel makes; None where it is unknown. Of
        Dense they are the units. Of a depthwise kernel in a separable convolution they are the
        channels between its two kernels. Of EinsumDense they are all that the equation lets the
        kernel tell apart.
      dead_outputs: those whose incoming weights in this kernel are all pruned.
      flops_dense: the kernel's FLOPs for one example as ``count_flops`` counts them, nothing
        pruned; None where they are unknown.
      flops_sparse: those of the kept weights.
      other_sparsity: the other ticket's sparsity here; None without one, and where it has no mask.
      jaccard: what both tickets keep as a share of what either keeps; None where neither keeps
        anything.
      random: the same of two random masks of these two sparsities (``overlap.Overlap``).
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    sparsity: float
    outputs: int | None = None
    dead_outputs: int | None = None
    flops_dense: int | None = None
    flops_sparse: int | None = None
    other_sparsity: float | None = None
    jaccard: float | None = None
    random: float | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class TicketFacts(Summarised):
    """What is left of a ticket's network.

    Attributes:
      weights: a row a prunable weight, in the order of the ticket's masks.
      kept: number of surviving weights among the prunable ones.
      prunable: number of prunable weights.
      sparsity: share of the prunable weights that is pruned.
      trainable_parameters: number of all trainable parameters, prunable or not.
      sparsity_total: share of all trainable parameters that is pruned.
      flops_dense: FLOPs of all counted kernels for one example, also of those that are left
        dense; nothing pruned. None where they are unknown.
      flops_sparse: the same without those of the pruned weights, as if a zero cost nothing.
      not_counted: trainable weights of rank 2 and more whose layers are of kinds that
        ``count_flops`` leaves out.
      unknown: why FLOPs, and outputs if they are missing too, are None; None if they are not.
      other_sparsity, jaccard, random: as in ``WeightFacts``, of all weights together that both
        tickets have masks of.
      compared_sparsity: the ticket's own sparsity of these; None without another ticket.
      not_compared: the weights that one of the two has a mask of and the other has not.
    """

    weights: list[WeightFacts]
    kept: int
    prunable: int
    sparsity: float
    trainable_parameters: int
    sparsity_total: float
    flops_dense: int | None = None
    flops_sparse: int | None = None
    not_counted: list[str] = dataclasses.field(default_factory=list)
    unknown: str | None = None
    other_sparsity: float | None = None
    jaccard: float | None = None
    random: float | None = None
    compared_sparsity: float | None = None
    not_compared: list[str] = dataclasses.field(default_factory=list)

    def __repr__(self) -> str:
        return (
            f"TicketFacts({counted(len(self.weights), 'weight')}, {self.kept:,} of "
            f"{self.prunable:,} kept, {percent(self.sparsity)} pruned)"
        )

    def summary(self) -> Summary:
        """What ``print`` and notebooks show: a row a weight, and the totals."""
        compared = self.other_sparsity is not None
        head = ["weight", "shape", "kept", "pruned", "dead outputs", "FLOPs dense", "FLOPs left"]
        rows = [
            [
                *(each.name, "×".join(map(str, each.shape)), f"{each.kept:,}"),
                *(percent(each.sparsity), _of(each.dead_outputs, each.outputs)),
                *(_number(each.flops_dense), _number(each.flops_sparse)),
                *([_jaccard(each.jaccard)] if compared else []),
            ]
            for each in self.weights
        ]
        flops = _number(self.flops_dense), _number(self.flops_sparse)
        total = ["total", "", f"{self.kept:,}", percent(self.sparsity), "", *flops]
        rows.append([*total, *([_jaccard(self.jaccard)] if compared else [])])
        notes = [f"{percent(self.sparsity_total)} of all trainable parameters are pruned."]
        if self.flops_dense is not None:
            notes.append("FLOPs are those of one example, in total those of dense layers too.")
        if self.unknown:
            notes.append(f"FLOPs are not known: {self.unknown}")
        if compared and self.random is not None:
            notes.append(
                f"In common with the other ticket: {_jaccard(self.jaccard)} of what either keeps; "
                f"two random masks would have {self.random:.3f}."
            )
        head = [*head, "in common"] if compared else head
        return Summary("What is left of the ticket's network", head, rows, notes)


def _of(part: int | None, whole: int | None) -> str:
    return UNKNOWN if part is None or whole is None else f"{part:,} of {whole:,}"


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _jaccard(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.3f}"


def inspect(
    ticket: Ticket | keras.Model,
    other: Ticket | None = None,
    model: keras.Model | None = None,
) -> TicketFacts:
    """What is left of a ticket's network, weight by weight and in total.

    Args:
      ticket: the ticket; or a pruned model, of which one is made (``Ticket.from_pruned``).
      other: a ticket of the same network, to compare the masks with; of the weights that both
        have masks of.
      model: a model of the ticket's architecture, where that cannot be read from its file: with
        a Lambda layer or layers of the user's own. Without it FLOPs and outputs are None there.

    Raises:
      UsageError: if ``other`` has no masks of the same weights, or ``model`` is of another
        architecture. For a model without zeros, and for what is neither ticket nor model.
    """
    ticket, other = ticket_of(ticket), other and ticket_of(other)
    masks = ticket.masks
    mine, theirs = _in_both(masks, other.masks) if other else (Masks({}), Masks({}))
    by_name, together = overlap(mine, theirs)
    network, unknown = _network(ticket, model)
    outputs, dense, sparse, not_counted = {}, {}, {}, []
    if network is not None:
        outputs = _outputs(network, masks)
        try:
            dense = count_flops(network)
            kept = {n: (int(np.count_nonzero(m)), m.size) for n, m in masks.items() if n in dense}
            # What a kernel costs goes with its weights.
            sparse = dense | {n: dense[n] // size * count for n, (count, size) in kept.items()}
            not_counted = left_dense(network, set(dense))
        except UsageError as error:
            unknown = str(error)
    rows = []
    for name, mask in masks.items():
        one = Masks({name: mask})
        made, dead = outputs.get(name, (None, None))
        compared = by_name[name]._asdict() if name in by_name else {}
        rows.append(
            WeightFacts(
                name=name,
                shape=mask.shape,
                kept=one.kept,
                sparsity=one.sparsity,
                outputs=made,
                dead_outputs=dead,
                flops_dense=dense.get(name),
                flops_sparse=sparse.get(name),
                other_sparsity=Masks({name: theirs[name]}).sparsity if compared else None,
                **compared,
            )
        )
    return TicketFacts(
        weights=rows,
        kept=masks.kept,
        prunable=masks.total,
        sparsity=masks.sparsity,
        trainable_parameters=ticket.trainable_parameters,
        sparsity_total=ticket.sparsity_total,
        flops_dense=None if unknown else sum(dense.values()),
        flops_sparse=None if unknown else sum(sparse.values()),
        not_counted=not_counted,
        unknown=unknown,
        other_sparsity=theirs.sparsity if other else None,
        **together._asdict(),
        compared_sparsity=mine.sparsity if other else None,
        not_compared=sorted(masks.keys() ^ other.masks.keys()) if other else [],
    )


def _in_both(one: Masks, other: Masks) -> tuple[Masks, Masks]:
    """The masks of the weights that both have masks of; all, not to be compared, if of none."""
    names = [name for name in one if name in other]
    if not names:
        return one, other
    return Masks({name: one[name] for name in names}), Masks({name: other[name] for name in names})


def _network(ticket: Ticket, model: keras.Model | None) -> tuple[keras.Model | None, str | None]:
    """The ticket's model, or None and why its file does not give one."""
    try:
        network = ticket.build(model)
        check_graph(network)
        return network, None
    except UsageError as error:
        if model is not None:
            raise
        return None, str(error)


def _outputs(network: keras.Model, masks: Masks) -> dict[str, tuple[int, int]]:
    """Name of a kernel → its number of outputs, and how many of them are dead."""
    names = variable_names(network)
    found = {}
    for layer in map(unwrapped, named_layers(network).values()):
        for attribute in kernel_attributes(layer):
            name = names[id(at(layer, attribute))]
            part, own = holder_of(layer, attribute), attribute.rpartition("/")[2]
            # A list of the weights that there are does not say whose outputs they make.
            if name in masks and (axes := axes_of(part, own, masks[name].ndim)):
                rest = (axis for axis in range(masks[name].ndim) if axis not in axes.outputs)
                alive = masks[name].any(axis=tuple(rest))
                found[name] = alive.size, int(np.count_nonzero(~alive))
    return found
