"""docs/transfer.md: its program runs, on a small network in MobileNet's place."""

import re
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import lottery_tf as lt
from lottery_tf.graph.layers import named_variables

PAGE = (Path(__file__).parents[1] / "docs" / "transfer.md").read_text()


def backbone(of, input_shape):
    layers, inputs = of.layers, of.Input(input_shape)
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(4, 3, name="second")(x)
    return of.Model(inputs, layers.GlobalAveragePooling2D()(x), name="backbone")


@pytest.mark.e2e
def test_the_program_runs(of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code = re.sub(r"epochs=\d+", "epochs=2", code.replace("96, 96", "8, 8"))
    code = code.replace("import keras  #", "#").replace(
        'method="gmp"', 'method="gmp", gmp_frequency="1it"'
    )
    small = types.SimpleNamespace(MobileNetV2=lambda input_shape, **_: backbone(of, input_shape))
    its_keras = types.SimpleNamespace(
        **{n: getattr(of, n) for n in ("Input", "Model", "layers", "losses", "optimizers")},
        applications=small,
    )
    random = np.random.default_rng(0)
    x, y = random.integers(0, 256, (24, 8, 8, 3)), random.integers(0, 5, 24)
    data = tf.data.Dataset.from_tensor_slices((x.astype(np.uint8), y)).batch(8)
    names = {"keras": its_keras, "train_ds": data, "dev_ds": data}
    exec(code, names)
    final, ticket = names["final"], names["ticket"]
    assert ticket.sparsity == pytest.approx(0.8, abs=0.01)
    kernels = {name: each.numpy() for name, each in named_variables(final).items()}
    for name, mask in ticket.masks.items():
        assert (kernels[name][~mask] == 0).all()
    assert set(ticket.masks) == {"backbone/conv/kernel", "backbone/second/kernel"}
    norm = {n: each for n, each in kernels.items() if "norm/moving" in n}
    assert [set(each.ravel()) for each in norm.values()] == [{0.0}, {1.0}]  # in inference all along
    assert lt.Ticket.load("ticket").build().get_layer("backbone").trainable


def test_what_is_thawed_on_a_built_ticket_trains(of):
    part, inputs = backbone(of, (8, 8, 3)), of.Input((8, 8, 3))
    part.trainable = False
    ticket = lt.prune(of.Model(inputs, of.layers.Dense(5, name="head")(part(inputs))), "omp", 0.5)
    model = ticket.build()
    assert len(model.trainable_weights) == 2
    model.get_layer("backbone").trainable = True
    assert len(model.trainable_weights) == 7
