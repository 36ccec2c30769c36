"""A model of each kind in Keras' public examples, from finding to an export, in both Kerases."""

import numpy as np
import pytest
import tensorflow as tf
from networks import both_kerases, values

import lottery_tf as lt

pytestmark = pytest.mark.e2e  # whole ways of five models, in graphs

RNG = np.random.default_rng(0)
CLASSES = 3
NUMBERS = RNG.integers(0, CLASSES, 24)


def cnn(of):
    """As "Simple MNIST convnet"."""
    k, inputs = of.layers, of.Input((12, 12, 1))
    x = k.MaxPooling2D()(k.Conv2D(8, 3, activation="relu")(inputs))
    x = k.MaxPooling2D()(k.Conv2D(12, 3, activation="relu")(x))
    outputs = k.Dense(CLASSES, activation="softmax")(k.Dropout(0.5)(k.Flatten()(x)))
    return of.Model(inputs, outputs), RNG.normal(size=(24, 12, 12, 1)).astype("f"), NUMBERS


def unet(of):
    """As "Image segmentation with a U-Net-like architecture"."""
    k, inputs = of.layers, of.Input((8, 8, 3))
    x = k.Activation("relu")(k.BatchNormalization()(k.Conv2D(6, 3, padding="same")(inputs)))
    before = x
    x = k.SeparableConv2D(8, 3, padding="same")(k.Activation("relu")(x))
    x = k.MaxPooling2D(3, 2, "same")(k.BatchNormalization()(x))
    x = k.add([x, k.Conv2D(8, 1, strides=2, padding="same")(before)])
    x = k.UpSampling2D()(k.BatchNormalization()(k.Conv2DTranspose(6, 3, padding="same")(x)))
    x = k.concatenate([x, before])
    outputs = k.Conv2D(CLASSES, 3, activation="softmax", padding="same")(x)
    labels = RNG.integers(0, CLASSES, (24, 8, 8))
    return of.Model(inputs, outputs), RNG.normal(size=(24, 8, 8, 3)).astype("f"), labels


def transformer(of):
    """As "Text classification with Transformer", of Keras' own layers."""
    k, inputs = of.layers, of.Input((6,), dtype="int32")
    x = k.Embedding(20, 8)(inputs)
    x = k.LayerNormalization()(k.Add()([x, k.MultiHeadAttention(2, 4)(x, x)]))
    feed = k.Dense(8)(k.Dense(16, activation="relu")(x))
    x = k.GlobalAveragePooling1D()(k.LayerNormalization()(k.Add()([x, feed])))
    outputs = k.Dense(CLASSES, activation="softmax")(k.Dense(10, activation="relu")(x))
    return of.Model(inputs, outputs), RNG.integers(0, 20, (24, 6)).astype("int32"), NUMBERS


def lstm(of):
    """As "Bidirectional LSTM on IMDB", with one sigmoid."""
    k, inputs = of.layers, of.Input((6,), dtype="int32")
    x = k.Bidirectional(k.LSTM(5))(k.Embedding(20, 8)(inputs))
    outputs = k.Dense(1, activation="sigmoid")(x)
    return of.Model(inputs, outputs), RNG.integers(0, 20, (24, 6)).astype("int32"), NUMBERS > 1


def mixed(of):
    """As "Structured data classification": numbers and categories side by side."""
    k = of.layers
    inputs = {"age": of.Input((1,), name="age"), "kind": of.Input((1,), name="kind", dtype="int64")}
    category = k.IntegerLookup(vocabulary=[1, 2, 3], output_mode="one_hot")(inputs["kind"])
    age = RNG.normal(40, 9, (24, 1)).astype("f")
    numbers = k.Normalization(mean=40.0, variance=81.0)(inputs["age"])
    x = k.concatenate([numbers, category])
    outputs = k.Dense(CLASSES)(k.Dropout(0.5)(k.Dense(16, activation="relu", name="hidden")(x)))
    return of.Model(inputs, outputs), {"age": age, "kind": RNG.integers(0, 5, (24, 1))}, NUMBERS


@both_kerases
@pytest.mark.parametrize("make", [cnn, unet, transformer, lstm, mixed])
def test_the_whole_way(make, its_keras, tmp_path):
    its_keras.utils.set_random_seed(0)
    model, x, y = make(its_keras)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    loss = None
    if make is mixed:
        loss = its_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ticket = lt.find_ticket(
        *(model, data),
        **{"optimizer": its_keras.optimizers.Adam(), "loss": loss, "epochs": 1, "sparsity": 0.5},
        **{"method": "imp", "prune_fraction": 0.5, "jit_compile": False},
    )
    assert ticket.masks.kept == ticket.masks.total - round(0.5 * ticket.masks.total)
    assert lt.prune(model, "snip", 0.5, data, loss=loss).sparsity == pytest.approx(0.5, abs=0.01)
    recipe = lt.Recipe("tost", {"rescaled_init_iterations": 1, "rescaled_init_optimizer": "adam"})
    prepared = recipe.prepare(ticket.build(), data, loss)
    prepared.compile(its_keras.optimizers.Adam(), recipe.loss(), metrics=["accuracy"])
    prepared.fit(data, epochs=2, verbose=0, callbacks=recipe.callbacks())
    finished = recipe.finish(prepared)
    assert [type(each) for each in finished.layers] == [type(each) for each in model.layers]
    for name, mask in ticket.masks.items():
        assert not np.any(values(finished)[name][~mask])
    facts = lt.export(finished, tmp_path / "model.keras")
    assert facts["nonzero_parameters"] < facts["parameters"]
    again = its_keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), finished.predict(x, verbose=0), 1e-6)
    total = {
        which: sum(lt.count_flops(model, m).values())
        for which, m in (("dense", None), ("sparse", ticket.masks))
    }
    assert 0 < total["sparse"] < total["dense"]
    ticket.save(tmp_path / "ticket")
    assert lt.Ticket.load(tmp_path / "ticket").build().count_params() == (
        ticket.build().count_params()
    )
