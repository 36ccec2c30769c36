"""What command lines are read by, without TensorFlow, names what there is, and nothing else."""

import ast
import dataclasses
import typing
from pathlib import Path

import pytest

import lottery_tf as lt
from lottery_tf.common.settings import settings_of
from lottery_tf.data.readers import FOLDERS, READERS
from lottery_tf.exporting import formats
from lottery_tf.exporting.settings import FORMATS
from lottery_tf.graph.compat import keras
from lottery_tf.masks.prunable import kernel_attributes
from lottery_tf.masks.settings import KINDS
from lottery_tf.tweaks.settings import PARAMETERS, RECIPES
from lottery_tf.tweaks.table import TWEAKS
from lottery_tf.tweaks.tweak import Tweak


def test_a_tweak_is_its_parameters_and_no_more_fields():
    assert list(PARAMETERS) == list(TWEAKS)
    for parameters in PARAMETERS.values():  # two recipes may have the same ones
        with pytest.raises(dataclasses.FrozenInstanceError):
            parameters().epsilon = 0
    for name, kind in TWEAKS.items():
        assert issubclass(kind, PARAMETERS[name]) and issubclass(kind, Tweak)
        names = [field.name for field in dataclasses.fields(PARAMETERS[name])]
        assert [field.name for field in settings_of(kind)] == names
    assert {part for parts in RECIPES.values() for part in parts} <= TWEAKS.keys()


def test_formats_kinds_and_data_sets():
    assert tuple(formats.FORMATS) == FORMATS
    layers = {"conv": keras.layers.Conv2D(1, 1), "dense": keras.layers.Dense(1)}
    layers["depthwise"] = keras.layers.DepthwiseConv2D(1)
    layers |= {"recurrent": keras.layers.LSTM(1), "embedding": keras.layers.Embedding(2, 1)}
    layers["attention"] = keras.layers.MultiHeadAttention(1, 1)
    assert layers.keys() == set(KINDS)
    for kind, layer in layers.items():
        x = keras.backend.ones((1, 2, 1) if kind == "recurrent" else (1, 2, 2, 1))
        _ = layer(x, x) if kind == "attention" else layer(x)
        assert kernel_attributes(layer, (kind,)), kind
    assert FOLDERS.keys() <= READERS.keys()


def test_type_checkers_are_told_of_the_same_names():
    tree = ast.parse(Path(lt.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in block.body
        for alias in node.names
        if alias.asname == alias.name
    }
    where = {n: m if m == n else f"{m}.{n}" for n, m in lt._WHERE.items()}
    assert told == {name: f"lottery_tf.{place}" for name, place in where.items()}


def test_every_public_name_is_there_and_another_is_none():
    for name in lt.__all__:
        assert getattr(lt, name) is not None
    assert dir(lt) == sorted(lt.__all__)
    assert typing.get_type_hints(lt.prune)
    try:
        lt.no_such  # noqa: B018
    except AttributeError as error:
        assert str(error) == "module 'lottery_tf' has no attribute 'no_such'"
    else:
        raise AssertionError("lt.no_such was there")
