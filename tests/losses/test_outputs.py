"""What is known of outputs, and what is not guessed."""

import numpy as np
import pytest
import tensorflow as tf
from networks import chain, layers, random_masks

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.losses.outputs import Outputs, outputs_of


def behind(function, *, head=None, shape=(4,)):
    """The model of a function of what ``head`` gives, and of its inputs."""
    inputs = keras.Input(shape)
    hidden = (head or layers.Dense(3))(inputs)
    return keras.Model(inputs, function(hidden, inputs))


def softmax():
    return layers.Dense(3, "softmax")


class OwnDense(layers.Dense):
    def call(self, x):
        return tf.nn.softmax(super().call(x))


PROBABILITIES = {
    "fused": lambda: chain(softmax()),
    "TensorFlow's": lambda: chain(layers.Dense(3, tf.nn.softmax)),
    "the backend's": lambda: chain(layers.Dense(3, keras.backend.softmax)),
    "a layer fused": lambda: chain(layers.Dense(3, layers.Softmax())),
    "Activation": lambda: chain(layers.Dense(3), layers.Activation("softmax", dtype="float32")),
    "Softmax": lambda: chain(layers.Dense(3), layers.Softmax()),
    "function": lambda: behind(lambda z, _: tf.nn.softmax(z)),
    "then float32": lambda: chain(softmax(), layers.Activation("linear", dtype="float32")),
    "cast": lambda: behind(lambda p, _: tf.cast(p, tf.float64), head=softmax()),
    "clipped": lambda: behind(lambda p, _: tf.clip_by_value(p, 1e-6, 1.0), head=softmax()),
    "a mean": lambda: behind(lambda p, x: layers.Average()([p, softmax()(x)]), head=softmax()),
    "of places": lambda: chain(softmax(), layers.GlobalAveragePooling1D(), shape=(5, 4)),
    "nested": lambda: chain(keras.Sequential([softmax()])),
    "over time": lambda: chain(layers.TimeDistributed(softmax()), shape=(2, 4)),
    "spectral": lambda: chain(layers.SpectralNormalization(softmax())),
    "reshaped": lambda: chain(softmax(), layers.Reshape((1, 3)), shape=(4,)),
    "one place": lambda: behind(lambda p, _: p[:, 0], head=softmax(), shape=(2, 4)),
    "a model over time": lambda: chain(
        layers.TimeDistributed(keras.Sequential([softmax()])), shape=(2, 4)
    ),
}
LOGITS = {
    "linear": lambda: chain(layers.Dense(3)),
    "by name": lambda: chain(layers.Dense(3, "linear")),
    "then float32": lambda: chain(layers.Dense(3), layers.Activation("linear", dtype="float32")),
    "softmax inside": lambda: chain(softmax(), layers.Dense(3)),
    "BatchNorm": lambda: chain(softmax(), layers.BatchNormalization()),
    "pooled": lambda: chain(layers.Conv1D(3, 1), layers.GlobalAveragePooling1D(), shape=(5, 4)),
    "flat": lambda: chain(layers.Conv1D(3, 5), layers.Flatten(), shape=(5, 4)),
    "scaled": lambda: behind(lambda z, _: z / 2.0 + 1.0),
    "a sum": lambda: behind(lambda z, x: layers.Add()([z, layers.Dense(3, "relu")(x)])),
    "joined": lambda: behind(lambda z, x: layers.Concatenate()([z, layers.Dense(2)(x)])),
    "log-softmax": lambda: behind(lambda z, _: tf.nn.log_softmax(z)),
    "log-softmax fused": lambda: chain(layers.Dense(3, tf.nn.log_softmax)),
    "a product": lambda: behind(lambda z, _: tf.matmul(z, tf.ones((3, 5)))),
    "dropped": lambda: chain(layers.Dense(3), layers.Dropout(0.5)),
    "noisy": lambda: chain(layers.Dense(3), layers.GaussianNoise(0.5)),
    "rescaled": lambda: chain(layers.Dense(3), layers.Rescaling(0.5)),
    "highest": lambda: chain(layers.Conv1D(3, 1), layers.GlobalMaxPooling1D(), shape=(5, 4)),
    "one place": lambda: behind(lambda z, _: z[:, 0], shape=(2, 4)),
    "mean": lambda: behind(lambda z, _: tf.reduce_mean(z, 1), shape=(2, 4)),
    "transposed": lambda: behind(lambda z, _: tf.transpose(z, (0, 2, 1)), shape=(2, 4)),
    "a model over time": lambda: chain(
        layers.TimeDistributed(keras.Sequential([layers.Dense(3)])), shape=(2, 4)
    ),
    "clipped": lambda: behind(lambda z, _: tf.clip_by_value(z, -9.0, 9.0)),
    "gated": lambda: behind(lambda z, x: layers.Multiply()([z, layers.Dense(3, "sigmoid")(x)])),
}
SIGMOIDS = {
    "sigmoid": lambda: chain(layers.Dense(3, "sigmoid")),
    "hard sigmoid": lambda: chain(layers.Dense(3, "hard_sigmoid")),
    "Activation": lambda: chain(layers.Dense(3), layers.Activation("sigmoid")),
    "function": lambda: behind(lambda z, _: tf.sigmoid(z)),
    "dropped": lambda: chain(layers.Dense(3, tf.sigmoid), layers.Dropout(0.5)),
}
UNKNOWN = {
    "tanh": lambda: chain(layers.Dense(3, "tanh")),
    "ReLU": lambda: chain(layers.Dense(3), layers.ReLU()),
    "softplus": lambda: chain(layers.Dense(3, "softplus")),
    "logarithm": lambda: behind(lambda p, _: tf.math.log(p), head=softmax()),
    "Lambda": lambda: chain(layers.Dense(3), layers.Lambda(tf.nn.softmax)),
    "own layer": lambda: chain(OwnDense(3)),
    "recurrent": lambda: chain(layers.LSTM(3), shape=(2, 4)),
    "experts": lambda: behind(
        lambda gate, x: tf.einsum(
            "be,bec->bc", gate, tf.stack([layers.Dense(5, "softmax")(x) for _ in range(3)], 1)
        ),
        head=softmax(),
    ),
    "gated": lambda: behind(
        lambda p, x: layers.Multiply()([p, layers.Dense(3)(x)]), head=softmax()
    ),
    "clipped": lambda: behind(lambda z, _: tf.clip_by_value(z, 0.0, 1.0)),
    "function of another axis": lambda: behind(lambda z, _: tf.nn.softmax(z, axis=1), shape=(3, 4)),
    "mapped": lambda: behind(lambda p, _: tf.matmul(p, tf.eye(3)), head=softmax()),
    "part": lambda: behind(lambda p, _: p[:, :2], head=softmax()),
    "the inputs": lambda: chain(layers.Activation("linear")),
    "another axis": lambda: chain(layers.Dense(3), layers.Softmax(axis=1), shape=(2, 4)),
    "split": lambda: chain(layers.Dense(6, "softmax"), layers.Reshape((2, 3))),
    "scaled": lambda: behind(lambda p, _: 2 * p, head=softmax()),
    "joined": lambda: behind(lambda p, x: layers.Concatenate()([p, softmax()(x)]), head=softmax()),
    "mixed": lambda: behind(lambda p, x: layers.Average()([p, layers.Dense(3)(x)]), head=softmax()),
}
KNOWN = {
    **{Outputs.LOGITS: LOGITS, Outputs.PROBABILITIES: PROBABILITIES},
    **{Outputs.SIGMOIDS: SIGMOIDS, Outputs.UNKNOWN: UNKNOWN},
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, builds in KNOWN.items() for name in builds],
    ids=lambda each: getattr(each, "name", each),
)
def test_what_outputs_are(kind, name):
    model = KNOWN[kind][name]()
    masks = random_masks(model)
    for each in (model, lt.wrap(model, masks)) if masks else (model,):
        assert set(outputs_of(each).values()) == {kind}
    if kind is Outputs.PROBABILITIES:
        x = np.random.default_rng(0).standard_normal((6, *model.input_shape[1:]))
        np.testing.assert_allclose(tf.reduce_sum(model(x), -1), 1, rtol=1e-5)


def test_of_several_outputs_each():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [layers.Dense(3, n)(inputs) for n in ("softmax", None, "tanh")])
    assert list(outputs_of(model).values()) == [
        *(Outputs.PROBABILITIES, Outputs.LOGITS, Outputs.UNKNOWN)
    ]


@pytest.mark.parametrize("name", ["sigmoid", "Lambda", "own layer"])
def test_no_search_and_no_score_guesses_a_loss(name):
    inputs = keras.Input((4,))
    build = {**SIGMOIDS, **UNKNOWN}[name]
    model = keras.Model(inputs, build()(layers.Dense(4)(inputs)))
    data = tf.data.Dataset.from_tensors((np.ones((6, 4), np.float32), np.arange(6) % 3))
    for run in (
        lambda: lt.prune(model, "snip", 0.5, data),
        lambda: lt.RescaledInit(iterations=1).prepare(model, data),
        lambda: lt.find_ticket(
            *(model, data), optimizer=keras.optimizers.SGD(), epochs=1, rounds=0
        ),
    ):
        with pytest.raises(UsageError, match=r"logits or come from a softmax; .* pass the loss"):
            run()
