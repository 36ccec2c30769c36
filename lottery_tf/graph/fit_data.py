"""Data in the forms that ``fit`` takes, as a ``tf.data.Dataset`` of batches.

Arrays come in batches of 32 and floating-point arrays in Keras' floatx, as in ``fit``. The order of
each epoch depends on the seed and the epoch's number alone, so that a training may begin at any
step.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from lottery_tf.common.errors import UsageError
from lottery_tf.common.settings import check_number
from lottery_tf.graph.compat import is_graph_network, is_model, keras, spec_of
from lottery_tf.graph.fit_shapes import make_ready
from lottery_tf.graph.layers import input_names

BATCH_SIZE = 32
_TENSORS = (tf.Tensor, tf.RaggedTensor, tf.SparseTensor)


def batches(data: Any, model: keras.Model, what: str, seed: int | None = None) -> tf.data.Dataset:
    """``data`` from the beginning on, once; endless data stay endless.

    Args:
      data: one of four forms. A ``tf.data.Dataset`` of batches, which is returned as it is. Arrays:
        a tuple (inputs, labels) or (inputs, labels, weights of the examples), or inputs alone. Each
        part is an array or, for several inputs or outputs, a list or dictionary of arrays. A
        Sequence of tf_keras, a PyDataset of Keras 3, or anything else that gives batches and has a
        length. A generator of batches, which is read on from its current place.
      model: the model that takes them. An unbuilt Sequential is built for them, as in ``fit``.
      what: the argument's name, for errors.
      seed: seed of the order of arrays and of the batches of a Sequence; default: not shuffled.

    Raises:
      UsageError: for data in another form, and as ``fit_shapes.make_ready``.
    """
    found = _source(data, model, what).one_pass(seed)
    make_ready(model, found, what)
    return found


class Stream:
    """Endless data to train on, from any step on.

    Args:
      data: as ``batches`` takes them. They may be endless, or of unknown length, if
        ``steps_per_epoch`` is given.
      model, what: as in ``batches``.
      steps_per_epoch: batches of an epoch; default: all of the data.
      seed: seed of the order of arrays and of the batches of a Sequence, which differs from epoch
        to epoch. A ``tf.data.Dataset`` has its own order. A generator is read on from its current
        place, whatever the step.

    Attributes:
      steps_per_epoch: batches of an epoch.
      element_spec: of the batches, as in ``tf.data.Dataset``.

    Raises:
      UsageError: as ``batches``, and if the length of an epoch is not known.
    """

    def __init__(
        self,
        data: Any,
        model: keras.Model,
        what: str,
        steps_per_epoch: int | None = None,
        seed: int = 0,
    ):
        source = _source(data, model, what)
        once = source.one_pass(seed)
        make_ready(model, once, what)
        if steps_per_epoch is not None:
            check_number(steps_per_epoch, "steps_per_epoch", whole=True)
        elif source.count < 0:
            raise UsageError(
                f"Expected {what} of a known number of batches; they are endless, or their "
                "cardinality is not known: give steps_per_epoch, the batches of an epoch."
            )
        else:
            steps_per_epoch = source.count
        if steps_per_epoch < 1 or not source.count:
            raise UsageError(f"Expected {what} and epochs of at least one batch, got none.")
        self.steps_per_epoch, self.element_spec = steps_per_epoch, once.element_spec
        self._from = lambda start: source.stream(start, seed)
        self._once = once if isinstance(data, tf.data.Dataset) else None

    def mapped(self, change: Callable[[tf.data.Dataset], tf.data.Dataset]) -> "Stream":
        """The same stream with ``change`` applied to its dataset of batches."""
        new = object.__new__(Stream)
        vars(new).update(vars(self))
        if self._once is None:
            new._from = lambda start: change(self._from(start))
        else:  # traced once for all trainings
            new._once = changed = change(self._once)
            new._from = lambda start: _OfDataset(changed).stream(start, 0)
        return new

    def __call__(self, start: int) -> tf.data.Dataset:
        """The batches from step ``start`` on."""
        return self._from(start)


class _Source(Protocol):
    """A source of batches.

    Attributes:
      count: their number; below 0 if they are endless or it is not known.
    """

    count: int

    def one_pass(self, seed: int | None) -> tf.data.Dataset:
        """All batches, in the order of the first epoch with that seed; None: not shuffled."""

    def stream(self, start: int, seed: int) -> tf.data.Dataset:
        """The batches from step ``start`` on, epoch after epoch."""


def _source(data: Any, model: keras.Model, what: str) -> _Source:
    if isinstance(data, tf.data.Dataset):
        return _OfDataset(data)
    if inspect.isgenerator(data):
        return _OfGenerator(data, model, what)
    container = isinstance(data, list | tuple | Mapping | str | bytes) or hasattr(data, "shape")
    sized = hasattr(data, "__len__") or hasattr(data, "num_batches")
    if not container and sized and (hasattr(data, "__getitem__") or hasattr(data, "__iter__")):
        if not hasattr(data, "__getitem__") and iter(data) is iter(data):  # readable only once
            return _OfGenerator(iter(data), model, what, _number_of_batches(data))
        return _OfBatches(data, model, what)
    return _OfArrays(data, what)


class _OfDataset:
    def __init__(self, data: tf.data.Dataset):
        self.data, self.count = data, int(data.cardinality())

    def one_pass(self, seed: int | None) -> tf.data.Dataset:
        return self.data

    def stream(self, start: int, seed: int) -> tf.data.Dataset:
        endless = self.count == tf.data.INFINITE_CARDINALITY
        return (self.data if endless else self.data.repeat()).skip(start)


class _OfArrays:
    def __init__(self, data: Any, what: str):
        parts = _given_parts(data)
        if not 1 <= len(parts) <= 3 or any(part is None for part in parts):
            raise UsageError(
                f"Expected {what} as a tf.data.Dataset of batches, a tuple of arrays (inputs, "
                "labels), or a keras.utils.Sequence or PyDataset; got "
                f"{_described(data)}."
            )
        with tf.device("/CPU:0"):  # datasets read them there
            arrays = [_as_arrays(part, what) for part in parts]
        leaves = tf.nest.flatten(arrays)
        if any(isinstance(each, tf.SparseTensor) for each in leaves):
            raise UsageError(
                f"Expected {what} of dense or ragged arrays; one is sparse: give "
                "tf.data.Dataset.from_tensor_slices(…).batch(n)."
            )
        lengths = {int(each.shape[0]) if each.shape.rank else -1 for each in leaves}
        if len(lengths) > 1 or -1 in lengths:
            raise UsageError(
                f"Expected {what} of arrays with equal numbers of rows (examples); got shapes "
                f"{', '.join(str(tuple(each.shape)) for each in leaves)}."
            )
        # A batch of several inputs alone is ((a, b),), as (a, b) would be inputs and labels.
        alone = not isinstance(data, tuple) and not isinstance(arrays[0], tuple)
        self.arrays = arrays[0] if alone else tuple(arrays)
        self.examples = lengths.pop()
        self.count = (self.examples + BATCH_SIZE - 1) // BATCH_SIZE

    def one_pass(self, seed: int | None) -> tf.data.Dataset:
        return self._gathered(tf.data.Dataset.range(1), seed)

    def stream(self, start: int, seed: int) -> tf.data.Dataset:
        first, skipped = divmod(start, self.count)
        epochs = tf.data.Dataset.range(first, np.iinfo(np.int64).max)
        return self._gathered(epochs, seed, skipped)

    def _gathered(
        self, epochs: tf.data.Dataset, seed: int | None, skipped: int = 0
    ) -> tf.data.Dataset:
        def rows(epoch: tf.Tensor) -> tf.data.Dataset:
            order = tf.range(self.examples, dtype=tf.int64)
            if seed is not None:
                key = tf.stack([tf.constant(seed, tf.int64), epoch])
                order = tf.random.experimental.stateless_shuffle(order, key)
            return tf.data.Dataset.from_tensor_slices(order).batch(BATCH_SIZE)

        def batch(row: tf.Tensor) -> Any:
            return tf.nest.map_structure(lambda each: tf.gather(each, row), self.arrays)

        return epochs.flat_map(rows).skip(skipped).map(batch).prefetch(2)


class _OfBatches:
    """A Sequence, a PyDataset, or another iterable with a length."""

    def __init__(self, data: Any, model: keras.Model, what: str):
        self.data = data
        self.count = _number_of_batches(data)
        indexed = hasattr(data, "__getitem__")
        first = (data[0] if indexed else next(iter(data))) if self.count else None
        self.signature = _signature(_as_batch(first, what), model) if self.count else None
        self.indexed, self.what = indexed, what

    def one_pass(self, seed: int | None) -> tf.data.Dataset:
        if not self.count:
            raise UsageError(f"Expected {self.what} with at least one batch, got none.")
        return self._read(lambda: self._epoch(seed, 0))

    def stream(self, start: int, seed: int) -> tf.data.Dataset:
        first, skipped = divmod(start, self.count) if self.count > 0 else (0, start)

        def epochs() -> Iterator[Any]:
            for epoch in itertools.count(first):
                batch = None
                for batch in self._epoch(seed, epoch):
                    yield batch
                if batch is None:  # the data could be read only once
                    return

        return self._read(lambda: itertools.islice(epochs(), skipped, None))

    def _epoch(self, seed: int | None, number: int) -> Iterator[Any]:
        getattr(self.data, "on_epoch_begin", lambda: None)()
        if not self.indexed:
            yield from self.data
            return
        order: Any = itertools.count() if self.count < 0 else range(self.count)
        if seed is not None and self.count > 0:
            order = np.random.default_rng([seed, number]).permutation(self.count)
        for place in order:
            yield self.data[int(place)]
        getattr(self.data, "on_epoch_end", lambda: None)()

    def _read(self, epochs: Callable[[], Iterator[Any]]) -> tf.data.Dataset:
        return tf.data.Dataset.from_generator(
            lambda: (_as_batch(each, self.what) for each in epochs()),
            output_signature=self.signature,
        )


def _number_of_batches(data: Any) -> int:
    """The number of batches; -1 if it is not known."""
    try:
        count = data.num_batches if hasattr(data, "num_batches") else len(data)
    except TypeError:  # some data, such as torch's DataLoader, have a length only at times
        count = None
    return -1 if count is None else int(count)


class _OfGenerator:
    def __init__(self, data: Iterator[Any], model: keras.Model, what: str, count: int = -1):
        self.count = count
        first = next(data, None)
        if first is None:
            raise UsageError(
                f"Expected {what} with at least one batch; the generator is at its end."
            )
        self.rest = (_as_batch(each, what) for each in itertools.chain([first], data))
        self.signature = _signature(_as_batch(first, what), model)

    def one_pass(self, seed: int | None) -> tf.data.Dataset:
        found = tf.data.Dataset.from_generator(lambda: self.rest, output_signature=self.signature)
        options = tf.data.Options()
        options.autotune.enabled = False  # else batches are read ahead, and lost at the end
        return found.with_options(options)

    def stream(self, start: int, seed: int) -> tf.data.Dataset:
        return self.one_pass(seed)


def _given_parts(data: Any) -> tuple[Any, ...]:
    """Inputs, labels and weights of examples, without Nones at the end."""
    parts = data if isinstance(data, tuple) else (data,)
    while len(parts) > 1 and parts[-1] is None:
        parts = parts[:-1]
    return parts


def _as_batch(batch: Any, what: str) -> Any:
    """A batch in a structure of tf.data, which has no lists."""
    if isinstance(batch, list):  # some generators give [inputs, labels]
        batch = tuple(batch)
    parts = _given_parts(batch)
    if any(part is None for part in parts):
        raise UsageError(
            f"Expected {what} of batches (inputs, labels), not with None for the labels and "
            "weights of examples behind it: leave both out."
        )
    found = tuple(_as_arrays(part, what, np.asarray) for part in parts)
    return found if isinstance(batch, tuple) else found[0]


def _as_arrays(part: Any, what: str, convert: Callable[[Any], Any] = tf.constant) -> Any:
    """Inputs, or labels, with tuples instead of lists, and floating-point arrays in floatx."""
    if isinstance(part, Mapping):
        return {name: _as_arrays(each, what, convert) for name, each in part.items()}
    if isinstance(part, list | tuple) and any(hasattr(each, "shape") for each in part):
        return tuple(_as_arrays(each, what, convert) for each in part)
    if isinstance(part, _TENSORS):
        return part
    array = np.asarray(part)
    numbers = array.dtype.kind in "biufc"
    texts = array.dtype.kind in "US" or (
        array.dtype == object and all(isinstance(each, str | bytes) for each in array.ravel())
    )
    if not (numbers or texts) or not array.ndim:
        raise UsageError(f"Expected {what} of arrays of numbers or texts; got {_described(part)}.")
    if array.dtype.kind == "f":
        array = array.astype(keras.backend.floatx(), copy=False)
    return convert(array if numbers else array.astype(object))


def _described(data: Any) -> str:
    if data is None:
        return "None"
    if isinstance(data, tuple):
        return f"a tuple of {len(data)}"
    return f"a {type(data).__name__}"


def _signature(batch: Any, model: keras.Model) -> Any:
    """The spec of all batches from one of them; sizes come from the model's inputs and outputs."""
    known = is_model(model) and is_graph_network(model)
    parts = batch if isinstance(batch, tuple) else (batch,)
    sides = (model.inputs, model.outputs) if known else ([], [])
    inputs, outputs = ([spec_of(each) for each in side] for side in sides)
    named = dict(zip(input_names(model), inputs, strict=True)) if known else {}

    def ends_of_part(part: Any, ends: list[Any]) -> list[Any]:
        if isinstance(part, Mapping):
            return [named.get(name) for name in sorted(part)]
        leaves = tf.nest.flatten(part)
        return list(ends) if len(ends) == len(leaves) else [None] * len(leaves)

    specs = [
        tf.nest.pack_sequence_as(
            part,
            [
                _spec(leaf, end)
                for leaf, end in zip(tf.nest.flatten(part), ends_of_part(part, ends), strict=True)
            ],
        )
        for part, ends in zip(parts, (inputs, outputs, []), strict=False)
    ]
    return tuple(specs) if isinstance(batch, tuple) else specs[0]


def _spec(leaf: Any, end: Any) -> Any:
    if isinstance(leaf, tf.RaggedTensor):
        open_shape = [None] * leaf.shape.rank
        return tf.RaggedTensorSpec(open_shape, leaf.dtype, leaf.ragged_rank)
    if isinstance(leaf, tf.SparseTensor):
        return tf.SparseTensorSpec([None] * leaf.shape.rank, leaf.dtype)
    dtype = tf.string if leaf.dtype == object else tf.as_dtype(leaf.dtype)
    rank, sizes = len(leaf.shape), list(leaf.shape[1:])
    if end is not None and end.shape.rank == rank + 1:  # class numbers for one-hot outputs
        end = tf.TensorSpec(end.shape[:-1])
    if end is not None and end.shape.rank == rank:
        # An axis of size 1, as class numbers may have, need not match the output's.
        pairs = zip(sizes, end.shape[1:], strict=True)
        sizes = [size if size in (1, known) else None for size, known in pairs]
    else:
        sizes = [None] * len(sizes[:-1]) + sizes[-1:]
    return tf.TensorSpec([None, *sizes][:rank], dtype)
