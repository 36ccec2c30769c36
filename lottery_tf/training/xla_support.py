"""Parts of a model that XLA cannot compile: lookups, texts, ragged tensors, Python code and others.

TensorFlow itself tells for which types an operation has a kernel. A model of Keras' own layers that
only compute need not be traced.
"""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from lottery_tf.graph.compat import (
    function_of,
    functions_of,
    is_layer,
    keras,
    packed,
    parts_of,
    spec_of,
    xla_types,
)
from lottery_tf.graph.layers import calls, unwrapped

# Keras' modules of layers that call TensorFlow's functions on texts, tables and images, or a user's
# functions.
_NOT_PLAIN = ("preprocessing", "lambda", "tf_op_layer")
# Nodes in a function's graph that are not operations any more when it is compiled.
_AROUND = ("Placeholder", "PlaceholderWithDefault")


def without_kernel(model: keras.Model) -> str | None:
    """A part of the model's computation that XLA cannot compile, as words for a sentence, or None.

    Gradients, the loss and the metrics are not checked.

    Args:
      model: a Sequential or functional model of tf_keras, or of Keras 3 on TensorFlow.
    """
    specs = [spec_of(each) for each in model.inputs]
    for tensor, spec in zip(model.inputs, specs, strict=True):
        # In Keras 3's specs they are dense, and an attribute says that they are ragged.
        if isinstance(spec, tf.RaggedTensorSpec) or getattr(tensor, "ragged", False):
            return "ragged inputs"
        if isinstance(spec, tf.SparseTensorSpec) or getattr(tensor, "sparse", False):
            return "sparse inputs"
        if spec.dtype == tf.string:
            return "texts as inputs"
    if all(_is_plain(call.layer) for call in calls(model)[0]):
        return None
    open_specs = [tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) for spec in specs]

    @tf.function
    def compute(flat: list[tf.Tensor]) -> Any:
        return model(packed(model, flat), training=True)

    try:
        graph = compute.get_concrete_function(open_specs).graph
    except Exception:  # errors of the user's own code are raised again in fit
        return None
    device = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    for node in _nodes(graph.as_graph_def()):
        if node.op not in _AROUND and not _compiles(node, device):
            return node.op
    return None


def _is_plain(layer: Any) -> bool:
    """Whether a layer is known to use only operations that XLA has: a layer of Keras' own code."""
    if not is_layer(layer) or function_of(layer) is not None:
        return False
    layer = unwrapped(layer)
    ours = ("tf_keras.", "keras.", "lottery_tf.")
    modules = [type(part).__module__ for part in parts_of(layer)]
    given = [each.__module__ or "" for each in functions_of(layer)]
    return all(each.startswith(ours) for each in (*modules, *given)) and not any(
        word in each for each in modules for word in _NOT_PLAIN
    )


def _nodes(graph: Any) -> Iterator[Any]:
    """The operations of a graph and of functions that it calls, without the calls themselves."""
    functions = graph.library.function
    names = {each.signature.name for each in functions}
    for nodes in (graph.node, *(each.node_def for each in functions)):
        yield from (node for node in nodes if node.op not in names)


def _compiles(node: Any, device: str) -> bool:
    types = xla_types(node.op, device)
    if types is None:
        return False
    for name, allowed in types.items():
        value = node.attr[name]
        given = {value.type} if value.type else set(value.list.type)
        if allowed and not given <= allowed:
            return False
    return True
