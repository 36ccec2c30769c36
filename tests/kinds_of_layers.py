"""Small networks with layers that hold other layers, or whose kernels are of a kind of their own.

Each is of either Keras; beside it stands what is known of its weights, worked out by hand.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from networks import KERASES


@dataclasses.dataclass(frozen=True)
class Kind:
    """A layer of one kind, and what is known of it.

    Attributes:
      call: the Keras, and the symbolic inputs → what the layer gives.
      shapes: of the inputs, without the batch.
      flops: name of a prunable weight → how often each of its weights takes part · their number.
      kind: as in ``prune_layers``.
      by_default: whether it is pruned by default.
      alone: the name of the Keras that alone has the layer.
      backwards: whether Keras 3 lists the layers within it from the last to the first, so that
        names are others: ``kernel`` is the last cell's.
    """

    call: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    flops: dict[str, int]
    kind: str = "recurrent"
    by_default: bool = True
    alone: str | None = None
    backwards: bool = False

    def build(self, k: Any) -> Any:
        """The layer, named "it", in front of a Dense layer, named "head"."""
        whole = self.kind == "embedding"
        inputs = [k.Input(shape, dtype="int32" if whole else "float32") for shape in self.shapes]
        outputs = self.call(k, *inputs)
        first = outputs[0] if isinstance(outputs, list | tuple) else outputs
        flat = k.layers.Flatten()(first) if len(first.shape) > 2 else first
        inputs = inputs if len(inputs) > 1 else inputs[0]
        return k.Model(inputs, k.layers.Dense(3, name="head")(flat))

    def flops_in(self, its_keras: str) -> dict[str, int]:
        """``flops`` by the names that the weights have in a Keras."""
        if not self.backwards or its_keras == "tf_keras":
            return self.flops
        half = len(self.flops) // 2
        names = list(self.flops)
        return dict(zip([*names[half:], *names[:half]], self.flops.values(), strict=True))

    def inputs(self, size: int = 4) -> Any:
        """An array, or a list of arrays where there are several inputs."""
        random = np.random.default_rng(0)
        shapes = [(size, *shape) for shape in self.shapes]
        if self.kind == "embedding":
            found = [random.integers(0, 7, shape) for shape in shapes]
        else:
            found = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
        return found if len(found) > 1 else found[0]


def cells(k: Any, x: Any) -> Any:
    layers = k.layers
    stack = [layers.LSTMCell(2), layers.GRUCell(3)]
    return layers.RNN(stack, name="it")(x)


def decoder(k: Any, x: Any, h: Any, c: Any) -> Any:
    layer = k.layers.LSTM(2, return_sequences=True, return_state=True, unroll=True, name="it")
    return layer(x, initial_state=[h, c])


def shared(k: Any, x: Any, y: Any) -> Any:
    """One LSTM at two places."""
    layer = k.layers.LSTM(2, unroll=True, name="it")
    return k.layers.Concatenate()([layer(x), layer(y)])


def attention(k: Any, x: Any, y: Any) -> Any:
    """Queries of 5 steps of 4 numbers, values of 3 steps of 6."""
    return k.layers.MultiHeadAttention(2, 3, name="it")(x, y)


def attention_of_three(k: Any, x: Any, y: Any, z: Any) -> Any:
    layer = k.layers.MultiHeadAttention(2, 3, value_dim=1, name="it")
    return layer(query=x, value=y, key=z, return_attention_scores=True)


def grouped(k: Any, x: Any, y: Any) -> Any:
    """Four heads of queries, of which two have keys and values in common."""
    return k.layers.GroupQueryAttention(3, 4, 2, name="it")(x, y)


def of(make: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda k, x: make(k.layers)(x)


LSTM = {"it/kernel": 5 * 4 * 8, "it/recurrent_kernel": 5 * 2 * 8}
GRU = {"it/kernel": 5 * 4 * 6, "it/recurrent_kernel": 5 * 2 * 6}
SIMPLE = {"it/kernel": 5 * 4 * 2, "it/recurrent_kernel": 5 * 2 * 2}
TWICE = {f"{name}{end}": count for end in ("", "_1") for name, count in LSTM.items()}
STEPS = ((5, 4),)

# "LSTM", "GRU" and "Bidirectional" compute as they do for users. Elsewhere the loop is unrolled,
# where it is not the subject: a fused LSTM of tf_keras traces two functions whenever it is called.
KINDS = {
    "LSTM": Kind(of(lambda its: its.LSTM(2, name="it")), STEPS, LSTM),
    "LSTM unrolled": Kind(of(lambda its: its.LSTM(2, unroll=True, name="it")), STEPS, LSTM),
    "LSTM with dropout": Kind(
        of(lambda its: its.LSTM(2, dropout=0.1, recurrent_dropout=0.1, name="it")), STEPS, LSTM
    ),
    "LSTM backwards": Kind(
        of(lambda its: its.LSTM(2, go_backwards=True, unroll=True, name="it")), STEPS, LSTM
    ),
    "LSTM with a state": Kind(decoder, ((5, 4), (2,), (2,)), LSTM),
    "LSTM shared": Kind(shared, ((5, 4), (3, 4)), {n: 8 * each // 5 for n, each in LSTM.items()}),
    "GRU": Kind(of(lambda its: its.GRU(2, name="it")), STEPS, GRU),
    "GRU reset before": Kind(of(lambda its: its.GRU(2, reset_after=False, name="it")), STEPS, GRU),
    "SimpleRNN": Kind(of(lambda its: its.SimpleRNN(2, name="it")), STEPS, SIMPLE),
    "RNN of a cell": Kind(of(lambda its: its.RNN(its.LSTMCell(2), name="it")), STEPS, LSTM),
    "RNN of cells": Kind(
        cells,
        STEPS,
        {
            **{"it/kernel": 5 * 4 * 8, "it/recurrent_kernel": 5 * 2 * 8},
            **{"it/kernel_1": 5 * 2 * 9, "it/recurrent_kernel_1": 5 * 3 * 9},
        },
        backwards=True,
    ),
    "Bidirectional": Kind(of(lambda its: its.Bidirectional(its.LSTM(2), name="it")), STEPS, TWICE),
    "Bidirectional of two": Kind(
        of(
            lambda its: its.Bidirectional(
                its.LSTM(2, unroll=True),
                backward_layer=its.GRU(2, go_backwards=True, unroll=True),
                name="it",
            )
        ),
        STEPS,
        LSTM | {f"{name}_1": count for name, count in GRU.items()},
    ),
    "TimeDistributed": Kind(
        of(lambda its: its.TimeDistributed(its.Dense(3), name="it")),
        STEPS,
        {"it/kernel": 5 * 12},
        "dense",
    ),
    "TimeDistributed of images": Kind(
        of(lambda its: its.TimeDistributed(its.Conv2D(2, 3), name="it")),
        ((2, 5, 6, 1),),
        {"it/kernel": 2 * 12 * 18},
        "conv",
    ),
    "TimeDistributed twice": Kind(
        of(lambda its: its.TimeDistributed(its.TimeDistributed(its.Dense(3)), name="it")),
        ((2, 5, 4),),
        {"it/kernel": 2 * 5 * 12},
        "dense",
    ),
    "TimeDistributed LSTM": Kind(
        of(lambda its: its.TimeDistributed(its.LSTM(2, unroll=True), name="it")),
        ((3, 5, 4),),
        {name: 3 * count for name, count in LSTM.items()},
    ),
    "ConvLSTM1D": Kind(
        of(lambda its: its.ConvLSTM1D(2, 3, name="it")),
        ((3, 6, 1),),
        {"it/kernel": 3 * 4 * 24, "it/recurrent_kernel": 3 * 4 * 48},
    ),
    "ConvLSTM2D": Kind(
        of(lambda its: its.ConvLSTM2D(2, 3, padding="same", return_sequences=True, name="it")),
        ((3, 4, 5, 1),),
        {"it/kernel": 3 * 20 * 72, "it/recurrent_kernel": 3 * 20 * 144},
    ),
    "ConvLSTM3D": Kind(
        of(lambda its: its.ConvLSTM3D(1, 2, name="it")),
        ((2, 3, 3, 3, 1),),
        {"it/kernel": 2 * 8 * 32, "it/recurrent_kernel": 2 * 8 * 32},
    ),
    "attention": Kind(
        attention,
        ((5, 4), (3, 6)),
        {
            **{"it/kernel": 5 * 4 * 6, "it/kernel_1": 3 * 6 * 6},
            **{"it/kernel_2": 3 * 6 * 6, "it/kernel_3": 5 * 6 * 4},
        },
        "attention",
    ),
    "attention of three": Kind(
        attention_of_three,
        ((5, 4), (3, 6), (3, 2)),
        {
            **{"it/kernel": 5 * 4 * 6, "it/kernel_1": 3 * 2 * 6},
            **{"it/kernel_2": 3 * 6 * 2, "it/kernel_3": 5 * 2 * 4},
        },
        "attention",
    ),
    "attention in groups": Kind(
        grouped,
        ((5, 4), (3, 4)),
        {
            **{"it/kernel": 5 * 4 * 12, "it/kernel_1": 3 * 4 * 6},
            **{"it/kernel_2": 3 * 4 * 6, "it/kernel_3": 5 * 12 * 4},
        },
        "attention",
        alone="keras",
    ),
    "Embedding": Kind(
        of(lambda its: its.Embedding(7, 3, name="it")),
        ((5,),),
        {"it/embeddings": 0},
        "embedding",
        by_default=False,
    ),
    "LocallyConnected1D": Kind(
        of(lambda its: its.LocallyConnected1D(3, 2, name="it")),
        ((5, 4),),
        {"it/kernel": 4 * 8 * 3},
        "conv",
        alone="tf_keras",
    ),
    "LocallyConnected2D": Kind(
        of(lambda its: its.LocallyConnected2D(3, 2, name="it")),
        ((4, 3, 2),),
        {"it/kernel": 6 * 8 * 3},
        "conv",
        alone="tf_keras",
    ),
    "LocallyConnected as a matrix": Kind(
        of(lambda its: its.LocallyConnected1D(3, 2, implementation=2, name="it")),
        ((5, 4),),
        {"it/kernel": 20 * 12},
        "conv",
        alone="tf_keras",
    ),
    "LocallyConnected as a list": Kind(
        of(lambda its: its.LocallyConnected1D(3, 2, implementation=3, name="it")),
        ((5, 4),),
        {"it/kernel": 4 * 8 * 3},
        "conv",
        alone="tf_keras",
    ),
}


@functools.cache
def built(name: str, its_keras: str) -> Any:
    """The model of a kind, which all tests of a process share: none may change it."""
    return KINDS[name].build(KERASES[its_keras])


def in_each() -> list[tuple[str, str]]:
    """(kind, name of a Keras) of each Keras that has the layer."""
    return [
        (name, of)
        for name, kind in KINDS.items()
        for of in ("tf_keras", "keras")
        if kind.alone in (None, of)
    ]
