"""lt.load_model: checkpoints with our layers and losses, of either Keras, go on where they were."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
from networks import assert_zeros, chain, each_batch, examples, random_masks, values

import lottery_tf as lt
from lottery_tf.common.errors import UsageError
from lottery_tf.graph.compat import keras, keras_of
from lottery_tf.graph.keras3 import keras as keras3
from lottery_tf.training.optimizers import SGD, SGD3

FORMS = [
    *(("tf_keras", ".keras"), ("tf_keras", ".h5"), ("keras", ".keras")),
    pytest.param("tf_keras", "", marks=pytest.mark.e2e),  # Keras traces each layer
]
KERASES = {"tf_keras": keras, "keras": keras3}
RECIPE = "soft_activation,ghost_skips,label_smoothing"


@pytest.mark.parametrize("of", KERASES.values(), ids=KERASES)
def test_names_of_classes_in_files_stay(of):
    """Saved models name them so; another name, or none, would leave those files unread."""
    for module in (
        *("graph.schedules", "training.optimizers", "tweaks.soft_activation", "tweaks.ghost_skip"),
        *("losses.cross_entropy", "losses.binary_cross_entropy", "masks.wrapper"),
    ):
        importlib.import_module(f"lottery_tf.{module}")
    names = [name for name in of.saving.get_custom_objects() if name.startswith("lottery_tf>")]
    expected = {"From", "SGD", "Adam", "WarmUp", "SoftReLU", "GhostSkip", "CrossEntropy"}
    expected |= {"BinaryCrossEntropy", "PruneByMask"}
    assert {name.partition(">")[2] for name in names} == expected


def network(of):
    layers = of.layers
    return chain(
        *(layers.Dense(4, name="first"), layers.ReLU(name="relu1"), layers.Dense(4, name="second")),
        *(layers.ReLU(name="relu2"), layers.Dense(3, name="head")),
    )


def compiled(of, momentum=0.9):
    """A model in the middle of its training: wrapped, with all tweaks on, a step gone."""
    dense = network(of)
    ticket = lt.Ticket.of(dense, random_masks(dense))
    recipe = lt.Recipe(RECIPE)
    model = recipe.prepare(ticket.build(), examples())
    ours = SGD if of is keras else SGD3
    model.compile(ours(0.1, momentum=momentum, l2=1e-3), loss=recipe.loss(), metrics=["accuracy"])
    return ticket, recipe, model


def is_compiled(model):
    return model._is_compiled if keras_of(model) is keras else model.compiled


@pytest.mark.long
@pytest.mark.parametrize(("of", "form"), FORMS)
def test_a_checkpoint_goes_on(of, form, tmp_path, eager, lines):
    """After half of the steps a loaded model is the one that was saved: weights, optimizer, fade.
    A SavedModel of Keras keeps no momentum, and it is said."""
    of = KERASES[of]
    ticket, recipe, model = compiled(of, momentum=0.9 * bool(form))
    model.run_eagerly = eager
    x, y = examples(16)
    saving = each_batch(lambda trained: trained.save(tmp_path / f"half{form}"), of)
    callbacks = [*recipe.callbacks(4), saving]
    model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0, callbacks=callbacks)
    loaded = lt.load_model(tmp_path / f"half{form}")
    assert ("keeps nothing of what the optimizer remembers" in str(lines)) is not bool(form)
    assert type(loaded.loss).__name__ == type(model.loss).__name__
    assert recipe.progress(loaded) == recipe.progress(model) > 0
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
    loaded.run_eagerly = eager
    for each in (model, loaded):
        how = {"batch_size": 8, "shuffle": False, "verbose": 0}
        each.fit(x, y, epochs=1, callbacks=recipe.callbacks(4), **how)
    final, other = recipe.finish(model), recipe.finish(loaded)
    assert_zeros(other, ticket.masks)
    for name, value in values(final).items():
        np.testing.assert_allclose(value, values(other)[name], atol=1e-5, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize(("of", "form"), FORMS)
def test_without_compile_it_is_not_compiled(of, form, tmp_path, recwarn):
    *_, model = compiled(KERASES[of])
    model.save(tmp_path / f"m{form}")
    assert not is_compiled(lt.load_model(tmp_path / f"m{form}", compile=False))


def test_an_export_and_a_plain_file_are_not_compiled(of, tmp_path, caplog):
    model, x = network(of), examples()[0]
    lt.export(model, tmp_path / "export")
    lt.export(model, tmp_path / "model.keras")
    for name in ("export", "model.keras"):
        loaded = lt.load_model(tmp_path / name)
        np.testing.assert_allclose(loaded(x), model(x), atol=1e-6)
        assert not is_compiled(loaded)
    assert "training configuration" not in caplog.text


def test_a_model_that_tfmot_prunes(tmp_path):
    prune = tfmot.sparsity.keras
    model = prune.prune_low_magnitude(network(keras), prune.ConstantSparsity(0.5, 0))
    model.save(tmp_path / "pruned.keras")
    loaded = lt.load_model(tmp_path / "pruned.keras")
    assert sum(type(each).__name__ == "PruneLowMagnitude" for each in loaded.layers) == 5


@pytest.mark.long
@pytest.mark.parametrize("loss", ["mse", "function", "class"])
def test_losses_of_keras_itself(loss, of, tmp_path):
    model = network(of)
    given = {"mse": "mse", "function": of.losses.mean_squared_error, "class": of.losses.Huber()}
    model.compile("adam", loss=given[loss], metrics=["mae", of.metrics.MeanSquaredError()])
    model.save(tmp_path / "m.keras")
    x = examples()[0]
    loaded = lt.load_model(tmp_path / "m.keras")
    loaded.evaluate(x, model(x), verbose=0)


def odd(y, z):
    return tf.reduce_mean(z)


def test_what_is_not_registered_is_refused_or_given(of, tmp_path):
    model = network(of)
    model.compile("adam", loss=odd)
    model.save(tmp_path / "m.keras")
    with pytest.raises(UsageError, match=r"it has 'odd' of .*not registered: give another, or"):
        lt.load_model(tmp_path / "m.keras")
    assert not is_compiled(lt.load_model(tmp_path / "m.keras", compile=False))
    assert lt.load_model(tmp_path / "m.keras", custom_objects={"odd": odd}).loss is not None


def test_code_runs_with_leave_alone(of, tmp_path):
    model = chain(of.layers.Dense(3), of.layers.Lambda(lambda x: 2 * x))
    model.save(tmp_path / "m.keras")
    with pytest.raises(UsageError, match="Lambda"):
        lt.load_model(tmp_path / "m.keras")
    assert lt.load_model(tmp_path / "m.keras", allow_code=True).count_params() == 15


def test_what_is_no_model_is_one_sentence(of, tmp_path):
    model = network(of)
    lt.Ticket.of(model, random_masks(model)).save(tmp_path / "ticket")
    model.save_weights(tmp_path / "m.weights.h5")
    (tmp_path / "broken.keras").write_bytes(b"PK and no more")
    for name, words in {
        "ticket": "it is a ticket: lt.Ticket.load reads it",
        "nothing": "there is none at",
        "m.weights.h5": "weights alone|Keras 3",
        "broken.keras": "that Keras loads",
    }.items():
        with pytest.raises(UsageError, match=words) as caught:
            lt.load_model(tmp_path / name)
    assert caught.value.__cause__ is not None  # Keras' own


@pytest.mark.e2e  # another process imports TensorFlow
@pytest.mark.parametrize("of", KERASES)
def test_a_fresh_process_knows_all_of_it(of, tmp_path):
    compiled(KERASES[of])[2].save(tmp_path / "m.keras")
    code = f"import lottery_tf as lt; lt.load_model({str(tmp_path / 'm.keras')!r}).summary()"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
