"""What is known of outputs, and what is not guessed."""

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from networks import both_kerases, chain, functions, random_masks

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras
from lottery_tf.losses.outputs import Outputs, outputs_of


class Of:
    """What the models here are made of, in one Keras.

    Attributes:
      layers: its layers.
      f: the functions for its graphs.
    """

    def __init__(self, its_keras):
        self.keras, self.layers, self.f = its_keras, its_keras.layers, functions(its_keras)

    def softmax(self):
        return self.layers.Dense(3, "softmax")

    def sequential(self, layer):
        return self.keras.Sequential([layer])

    def behind(self, function, *, head=None, shape=(4,)):
        """The model of a function of what ``head`` gives, and of its inputs."""
        inputs = self.keras.Input(shape)
        hidden = (head or self.layers.Dense(3))(inputs)
        return self.keras.Model(inputs, function(hidden, inputs))


def backend(its_keras):
    """Where a Keras has the functions of its backend."""
    return its_keras.ops if its_keras is keras3 else its_keras.backend


class OwnDense(keras.layers.Dense):
    def call(self, x):
        return tf.nn.softmax(super().call(x))


class OwnDense3(keras3.layers.Dense):
    def call(self, x):
        return tf.nn.softmax(super().call(x))


PROBABILITIES = {
    "fused": lambda k: chain(k.softmax()),
    "TensorFlow's": lambda k: chain(k.layers.Dense(3, tf.nn.softmax)),
    "the backend's": lambda k: chain(k.layers.Dense(3, backend(k.keras).softmax)),
    "a layer fused": lambda k: chain(k.layers.Dense(3, k.layers.Softmax())),
    "Activation": lambda k: chain(
        k.layers.Dense(3), k.layers.Activation("softmax", dtype="float32")
    ),
    "Softmax": lambda k: chain(k.layers.Dense(3), k.layers.Softmax()),
    "function": lambda k: k.behind(lambda z, _: k.f.softmax(z)),
    "then float32": lambda k: chain(k.softmax(), k.layers.Activation("linear", dtype="float32")),
    "cast": lambda k: k.behind(lambda p, _: k.f.cast(p, "float64"), head=k.softmax()),
    "clipped": lambda k: k.behind(lambda p, _: k.f.clip(p, 1e-6, 1.0), head=k.softmax()),
    "a mean": lambda k: k.behind(
        lambda p, x: k.layers.Average()([p, k.softmax()(x)]), head=k.softmax()
    ),
    "of places": lambda k: chain(k.softmax(), k.layers.GlobalAveragePooling1D(), shape=(5, 4)),
    "nested": lambda k: chain(k.sequential(k.softmax())),
    "over time": lambda k: chain(k.layers.TimeDistributed(k.softmax()), shape=(2, 4)),
    "spectral": lambda k: chain(k.layers.SpectralNormalization(k.softmax())),
    "reshaped": lambda k: chain(k.softmax(), k.layers.Reshape((1, 3)), shape=(4,)),
    "one place": lambda k: k.behind(lambda p, _: p[:, 0], head=k.softmax(), shape=(2, 4)),
    "a model over time": lambda k: chain(
        k.layers.TimeDistributed(k.sequential(k.softmax())), shape=(2, 4)
    ),
}
LOGITS = {
    "linear": lambda k: chain(k.layers.Dense(3)),
    "by name": lambda k: chain(k.layers.Dense(3, "linear")),
    "then float32": lambda k: chain(
        k.layers.Dense(3), k.layers.Activation("linear", dtype="float32")
    ),
    "softmax inside": lambda k: chain(k.softmax(), k.layers.Dense(3)),
    "BatchNorm": lambda k: chain(k.softmax(), k.layers.BatchNormalization()),
    "pooled": lambda k: chain(
        k.layers.Conv1D(3, 1), k.layers.GlobalAveragePooling1D(), shape=(5, 4)
    ),
    "flat": lambda k: chain(k.layers.Conv1D(3, 5), k.layers.Flatten(), shape=(5, 4)),
    "scaled": lambda k: k.behind(lambda z, _: z / 2.0 + 1.0),
    "a sum": lambda k: k.behind(lambda z, x: k.layers.Add()([z, k.layers.Dense(3, "relu")(x)])),
    "joined": lambda k: k.behind(lambda z, x: k.layers.Concatenate()([z, k.layers.Dense(2)(x)])),
    "log-softmax": lambda k: k.behind(lambda z, _: k.f.log_softmax(z)),
    "log-softmax fused": lambda k: chain(k.layers.Dense(3, tf.nn.log_softmax)),
    "a product": lambda k: k.behind(lambda z, _: k.f.matmul(z, k.f.ones((3, 5)))),
    "dropped": lambda k: chain(k.layers.Dense(3), k.layers.Dropout(0.5)),
    "noisy": lambda k: chain(k.layers.Dense(3), k.layers.GaussianNoise(0.5)),
    "rescaled": lambda k: chain(k.layers.Dense(3), k.layers.Rescaling(0.5)),
    "highest": lambda k: chain(k.layers.Conv1D(3, 1), k.layers.GlobalMaxPooling1D(), shape=(5, 4)),
    "one place": lambda k: k.behind(lambda z, _: z[:, 0], shape=(2, 4)),
    "mean": lambda k: k.behind(lambda z, _: k.f.mean(z, 1), shape=(2, 4)),
    "transposed": lambda k: k.behind(lambda z, _: k.f.transpose(z, (0, 2, 1)), shape=(2, 4)),
    "a model over time": lambda k: chain(
        k.layers.TimeDistributed(k.sequential(k.layers.Dense(3))), shape=(2, 4)
    ),
    "clipped": lambda k: k.behind(lambda z, _: k.f.clip(z, -9.0, 9.0)),
    "gated": lambda k: k.behind(
        lambda z, x: k.layers.Multiply()([z, k.layers.Dense(3, "sigmoid")(x)])
    ),
}
SIGMOIDS = {
    "sigmoid": lambda k: chain(k.layers.Dense(3, "sigmoid")),
    "hard sigmoid": lambda k: chain(k.layers.Dense(3, "hard_sigmoid")),
    "Activation": lambda k: chain(k.layers.Dense(3), k.layers.Activation("sigmoid")),
    "function": lambda k: k.behind(lambda z, _: k.f.sigmoid(z)),
    "dropped": lambda k: chain(k.layers.Dense(3, tf.sigmoid), k.layers.Dropout(0.5)),
}
UNKNOWN = {
    "tanh": lambda k: chain(k.layers.Dense(3, "tanh")),
    "ReLU": lambda k: chain(k.layers.Dense(3), k.layers.ReLU()),
    "softplus": lambda k: chain(k.layers.Dense(3, "softplus")),
    "logarithm": lambda k: k.behind(lambda p, _: k.f.log(p), head=k.softmax()),
    "Lambda": lambda k: chain(k.layers.Dense(3), k.layers.Lambda(tf.nn.softmax)),
    "own layer": lambda k: chain((OwnDense3 if k.keras is keras3 else OwnDense)(3)),
    "recurrent": lambda k: chain(k.layers.LSTM(3), shape=(2, 4)),
    "experts": lambda k: k.behind(
        lambda gate, x: k.f.einsum(
            "be,bec->bc", gate, k.f.stack([k.layers.Dense(5, "softmax")(x) for _ in range(3)], 1)
        ),
        head=k.softmax(),
    ),
    "gated": lambda k: k.behind(
        lambda p, x: k.layers.Multiply()([p, k.layers.Dense(3)(x)]), head=k.softmax()
    ),
    "clipped": lambda k: k.behind(lambda z, _: k.f.clip(z, 0.0, 1.0)),
    "function of another axis": lambda k: k.behind(
        lambda z, _: k.f.softmax(z, axis=1), shape=(3, 4)
    ),
    "mapped": lambda k: k.behind(lambda p, _: k.f.matmul(p, k.f.eye(3)), head=k.softmax()),
    "part": lambda k: k.behind(lambda p, _: p[:, :2], head=k.softmax()),
    "the inputs": lambda k: chain(k.layers.Activation("linear")),
    "another axis": lambda k: chain(k.layers.Dense(3), k.layers.Softmax(axis=1), shape=(2, 4)),
    "split": lambda k: chain(k.layers.Dense(6, "softmax"), k.layers.Reshape((2, 3))),
    "scaled": lambda k: k.behind(lambda p, _: 2 * p, head=k.softmax()),
    "joined": lambda k: k.behind(
        lambda p, x: k.layers.Concatenate()([p, k.softmax()(x)]), head=k.softmax()
    ),
    "mixed": lambda k: k.behind(
        lambda p, x: k.layers.Average()([p, k.layers.Dense(3)(x)]), head=k.softmax()
    ),
}
KNOWN = {
    **{Outputs.LOGITS: LOGITS, Outputs.PROBABILITIES: PROBABILITIES},
    **{Outputs.SIGMOIDS: SIGMOIDS, Outputs.UNKNOWN: UNKNOWN},
}


@both_kerases
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, builds in KNOWN.items() for name in builds],
    ids=lambda each: getattr(each, "name", each),
)
def test_what_outputs_are(kind, name, its_keras):
    model = KNOWN[kind][name](Of(its_keras))
    masks = random_masks(model)
    for each in (model, lt.wrap(model, masks)) if masks else (model,):
        assert set(outputs_of(each).values()) == {kind}
    if kind is Outputs.PROBABILITIES:
        x = np.random.default_rng(0).standard_normal((6, *model.input_shape[1:]))
        np.testing.assert_allclose(tf.reduce_sum(model(x), -1), 1, rtol=1e-5)


@both_kerases
def test_of_several_outputs_each(its_keras):
    inputs = its_keras.Input((4,))
    heads = [its_keras.layers.Dense(3, name)(inputs) for name in ("softmax", None, "tanh")]
    model = its_keras.Model(inputs, heads)
    assert list(outputs_of(model).values()) == [
        *(Outputs.PROBABILITIES, Outputs.LOGITS, Outputs.UNKNOWN)
    ]


class Softmax(keras3.Operation):
    """A function of the user's own, named as one of Keras' is."""

    def call(self, x):
        return 2 * x

    def compute_output_spec(self, x):
        return keras3.KerasTensor(x.shape, x.dtype)


def test_a_function_of_ones_own_is_not_known_by_its_name():
    model = Of(keras3).behind(lambda z, _: Softmax()(z))
    assert list(outputs_of(model).values()) == [Outputs.UNKNOWN]


@pytest.mark.parametrize("name", ["Lambda", "own layer"])
def test_no_search_and_no_score_guesses_a_loss(name):
    inputs = keras.Input((4,))
    build = UNKNOWN[name]
    k = Of(keras)
    model = keras.Model(inputs, build(k)(k.layers.Dense(4)(inputs)))
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
