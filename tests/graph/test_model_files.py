"""No code of a model's file runs without leave, whichever way the file comes in."""

import io
import json
import os
import shutil
import sys
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tf_keras.protobuf import saved_metadata_pb2

import lottery_tf as lt
from lottery_tf.cli import evaluate
from lottery_tf.cli.main import main
from lottery_tf.common.device_settings import DeviceSettings
from lottery_tf.common.errors import UsageError
from lottery_tf.common.files import sha256, write_json, write_json_lines
from lottery_tf.data import DataSettings
from lottery_tf.finding.settings import FindingSettings
from lottery_tf.graph.compat import keras
from lottery_tf.graph.model_files import check_code, load_model
from lottery_tf.models import ModelSettings
from lottery_tf.runs import export as export_stage
from lottery_tf.runs import retrain as retrain_stage
from lottery_tf.runs.experiment import create_model, load_data
from lottery_tf.runs.folder import load_pruned
from lottery_tf.runs.settings import Experiment, HowToRun
from lottery_tf.sweeping.attempt import attempt
from lottery_tf.sweeping.trials import FindTrial, RetrainTrial
from lottery_tf.training.settings import TrainingSettings
from lottery_tf.tweaks.recipe import Recipe

layers = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore")
EXPERIMENT = Experiment(DataSettings(), ModelSettings(), TrainingSettings(train_for="1ep"))


@keras.saving.register_keras_serializable("tests")
class Writing(layers.Layer):
    """Its graph writes a file when it is called."""

    def call(self, inputs):
        with tf.control_dependencies([tf.io.write_file(os.environ["MARK"], "ran")]):
            return tf.identity(inputs)


def runs(inputs):
    """Of a Lambda layer, whose bytecode a file holds."""
    import os

    import tensorflow

    open(os.environ["MARK"], "w").close()
    return tensorflow.identity(inputs)


def network(*between):
    """Images of digits → 10 classes, half of the kernel zeros."""
    images = keras.Input((8, 8, 1), name="image")
    x = layers.Flatten(name="flat")(images)
    for layer in between:
        x = layer(x)
    model = keras.Model(images, layers.Dense(10, name="head")(x))
    kernel = model.get_layer("head").kernel
    kernel.assign(kernel * (np.arange(10) % 2))
    return model


# A class of a module that the file names; with the name of a registered one Keras imports it.
EVIL = {
    **{"module": "planted_module", "class_name": "lottery_tf>PruneByMask"},
    **{"registered_name": "Evil", "config": {"name": "head"}},
}


def planted(described):
    """The head is of that class."""
    for each in described["config"]["layers"]:
        if each["class_name"] == "Dense":
            each.update(EVIL)
    return described


def plant_keras(path):
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["config.json"] = json.dumps(planted(json.loads(parts["config.json"]))).encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    path.write_bytes(content.getvalue())


def plant_h5(path):
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps(planted(json.loads(file.attrs["model_config"])))


def plant_saved_model(path, file="keras_metadata.pb"):
    metadata = saved_metadata_pb2.SavedMetadata.FromString((path / file).read_bytes())
    for node in metadata.nodes:
        described = json.loads(node.metadata)
        if described["class_name"] == "Dense":
            described |= {"class_name": "TimeDistributed", "config": {"layer": EVIL}}
            node.metadata = " " + json.dumps(described)
    (path / file).write_bytes(metadata.SerializeToString())


FORMS = {"keras": ".keras", "h5": ".h5", "saved_model": "", "export": "_exported"}
PLANT = {"keras": plant_keras, "h5": plant_h5, "saved_model": plant_saved_model}


class Served(tf.Module):
    """What another program exports: a function with a signature."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        spec = tf.TensorSpec((None, 8, 8, 1), tf.float32, "image")
        self.serve = tf.function(lambda image: {"o": model(image)}, input_signature=[spec])

    def save(self, path):
        tf.saved_model.save(self, str(path), signatures={"serving_default": self.serve})


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folder of the models: CODE_FORM, once for all tests."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARK", str(folder / "code_ran"))  # which the graph keeps
        made = {"lambda": network(layers.Lambda(runs)), "module": network(), "none": network()}
        for code, model in made.items():
            for form in ("keras", "h5", "saved_model"):
                path = folder / f"{code}{FORMS[form]}"
                options = {"save_traces": False} if form == "saved_model" else {}
                model.save(path, **options)
                if code == "module":
                    PLANT[form](path)
        writing = network(Writing())
        writing.save(folder / "operation")
        # Keras is not to find the class: it takes the graph.
        content = (folder / "operation" / "keras_metadata.pb").read_bytes()
        (folder / "operation" / "keras_metadata.pb").write_bytes(
            content.replace(b"tests>Writing", b"tests>Unknown")
        )
        Served(writing).save(folder / "operation_served")
        Served(made["none"]).save(folder / "none_served")
    return folder


CODES = [
    *((code, form) for code in ("lambda", "module") for form in ("keras", "h5", "saved_model")),
    ("operation", "saved_model"),
]


@pytest.fixture
def mark(models, tmp_path, monkeypatch):
    """The file that any of the code leaves when it runs."""
    file = models / "code_ran"
    monkeypatch.setenv("MARK", str(file))
    (tmp_path / "planted_module.py").write_text(
        f"open({str(file)!r}, 'w').close()\nfrom tf_keras.layers import Layer as Evil\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield file
    sys.modules.pop("planted_module", None)


def path_of(models, code, form):
    return models / f"{code}{FORMS.get(form, '_served')}"


@pytest.fixture(scope="module")
def ticket(tmp_path_factory):
    """Of the experiment's own network, in a run's folder without a dense model."""
    path = tmp_path_factory.mktemp("find") / "tickets" / "round_01"
    model = create_model(EXPERIMENT, load_data(EXPERIMENT))
    info = {"settings": EXPERIMENT.describe(), "rewind_step": 0, "method": "imp", "round": 1}
    lt.Ticket.of(model, lt.Masks({}), info).save(path)
    return path


class Reached(Exception):
    """The file has been loaded, and the model has computed."""


def computes(model):
    model(np.ones((1, 8, 8, 1), np.float32))
    raise Reached


def taught(ticket, recipe, *_, **__):
    recipe.prepare(ticket.build())
    (tweak,) = recipe.tweaks
    tweak._load().logits(tf.ones((1, 8, 8, 1)))
    raise Reached


def teacher(path, tmp_path, ticket, *flags):
    words = [f"--ticket={ticket}", "--recipe=distillation", f"--distillation_teacher={path}"]
    return ["retrain", *words, f"--out={tmp_path / 'out'}", *flags]


def default_teacher(path, tmp_path, ticket, *flags):
    run = tmp_path / "stranger"
    shutil.copytree(ticket, run / "tickets" / "round_01")
    shutil.copytree(path, run / "dense_model")
    row = {"round": 0, "sparsity": 0, "dense_model_sha256": sha256(run / "dense_model")}
    write_json_lines(run / "metrics.jsonl", [row])
    words = [f"--ticket={run / 'tickets' / 'round_01'}", "--recipe=distillation"]
    return ["retrain", *words, f"--out={tmp_path / 'out'}", *flags]


def model_path(path, tmp_path, ticket, *flags):
    words = ["--method=from_model", f"--model_path={path}", f"--out={tmp_path / 'out'}"]
    return ["find", *words, "--train_for=1ep", *flags]


def rewind_path(path, tmp_path, ticket, *flags):
    words = model_path(path.parent / "none.keras", tmp_path, ticket)
    return [*words, f"--rewind_path={path}", *flags]


def evaluate_model(path, tmp_path, ticket, *flags):
    return ["evaluate", f"--model={path}", *flags]


def run_of(path, tmp_path, ticket, **result):
    out = tmp_path / "run"
    retrain_stage.retrain_run(out, ticket, Recipe("vanilla"), EXPERIMENT).begin()
    shutil.copytree(path, out / "model")
    write_json(out / "result.json", {"recipe": "vanilla", "sparsity": 0, "seconds": 1, **result})
    return out


def evaluate_run(path, tmp_path, ticket, *flags):
    return ["evaluate", f"--run={run_of(path, tmp_path, ticket)}", *flags]


def export_run(path, tmp_path, ticket, *flags):
    run = run_of(path, tmp_path, ticket)
    return ["export", f"--run={run}", f"--out={tmp_path / 'export'}", *flags]


def finished_run(path, tmp_path, ticket, *flags):
    """One that is measured on the test images later."""
    out = run_of(path, tmp_path, ticket)
    return ["retrain", f"--ticket={ticket}", f"--out={out}", *flags]


ANY = (teacher, model_path, rewind_path)
SAVED_MODELS = (default_teacher, evaluate_model, evaluate_run, export_run, finished_run)
WAYS = [
    *((way, code, form) for way in ANY for code, form in CODES),
    *((way, code, form) for way in SAVED_MODELS for code, form in CODES if form == "saved_model"),
    (teacher, "operation", "served"),
]


@pytest.fixture
def short(monkeypatch):
    """Each command ends when the model that was loaded has computed."""
    monkeypatch.setattr(retrain_stage, "retrain", taught)
    monkeypatch.setattr(retrain_stage, "read_arrays", lambda _: {})
    monkeypatch.setattr(retrain_stage, "measured_on_test", lambda model, *_: computes(model))
    pruned = "lottery_tf.runs.find.Ticket.from_pruned"
    monkeypatch.setattr(pruned, lambda *given: computes(given[-1] or given[0]))
    monkeypatch.setattr(export_stage, "write_exports", lambda model, *_, **__: computes(model))
    monkeypatch.setattr(evaluate, "evaluate", lambda model, _: computes(model))


@pytest.mark.parametrize(("way", "code", "form"), WAYS)
def test_no_code_runs_without_leave(way, code, form, models, ticket, mark, tmp_path, short, capfd):
    words = way(path_of(models, code, form), tmp_path, ticket)
    capfd.readouterr()
    mark.unlink(missing_ok=True)
    assert main(words) == 2
    (told,) = capfd.readouterr().err.strip().splitlines()
    assert "that holds no code; it has " in told and "--allow_code" in told
    assert not mark.exists() and not (tmp_path / "out").exists()


# From .h5 files and SavedModels Keras imports no module.
RUNS = [case for case in WAYS if case[1] != "module" or case[2] == "keras"]
# Each way, and each code in each form, once.
FEW = [case for case in RUNS if case[0] is teacher or case[1:] == ("lambda", "saved_model")]


@pytest.mark.parametrize(
    ("way", "code", "form"),
    [pytest.param(*case, marks=() if case in FEW else pytest.mark.e2e) for case in RUNS],
)
def test_with_leave_it_runs(way, code, form, models, ticket, mark, tmp_path, short, capfd):
    words = way(path_of(models, code, form), tmp_path, ticket, "--allow_code")
    mark.unlink(missing_ok=True)
    ended = main(words), "Reached" in capfd.readouterr().err
    assert mark.exists()
    assert ended == (1, True) or code == "module"  # which is no layer


@pytest.mark.parametrize(
    ("way", "form"),
    [
        *((way, form) for way in ANY for form in ("keras", "h5", "saved_model")),
        *((way, "saved_model") for way in SAVED_MODELS),
        (teacher, "served"),
    ],
)
def test_a_file_without_code_needs_no_leave(way, form, models, ticket, tmp_path, short, capfd):
    assert main(way(path_of(models, "none", form), tmp_path, ticket)) == 1
    assert "Reached" in capfd.readouterr().err


# The dense model beside a ticket


def changed(run):
    with open(run / "dense_model" / "keras_metadata.pb", "ab") as file:
        file.write(b"\0")


def of_an_older_release(run):
    write_json_lines(run / "metrics.jsonl", [{"round": 0, "sparsity": 0}])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (changed, "to have the sum that metrics.jsonl beside it gives; it is damaged or changed"),
        (of_an_older_release, r"it has none. If .* name it: `distillation_teacher=.*dense_mod"),
        (lambda run: (run / "metrics.jsonl").unlink(), "it has none. If it is the right teacher"),
        (lambda run: (run / "metrics.jsonl").write_text("3\n"), "holds something else"),
    ],
)
def test_it_is_taken_by_itself_by_its_sum_alone(change, told, models, ticket, tmp_path, short):
    default_teacher(models / "none", tmp_path, ticket)
    run = tmp_path / "stranger"
    change(run)
    at = run / "tickets" / "round_01"
    with pytest.raises(UsageError, match=told):
        retrain_stage.retrain_ticket(tmp_path / "out", at, Recipe("distillation"))
    assert not (tmp_path / "out").exists()
    if change is of_an_older_release:
        named = Recipe([lt.Distillation(run / "dense_model")])
        with pytest.raises(Reached):
            retrain_stage.retrain_ticket(tmp_path / "out", at, named)


def test_a_finished_run_of_an_older_release_asks_for_no_sum(models, ticket, tmp_path):
    default_teacher(models / "none", tmp_path, ticket)
    of_an_older_release(tmp_path / "stranger")
    at = tmp_path / "stranger" / "tickets" / "round_01"
    recipe = retrain_stage.complete_recipe(Recipe("distillation"), at, EXPERIMENT)
    retrain_stage.retrain_run(tmp_path / "out", at, recipe, EXPERIMENT).begin()
    result = {"recipe": "distillation", "sparsity": 0, "test_accuracy": 1}
    write_json(tmp_path / "out" / "result.json", result)
    found = retrain_stage.retrain_ticket(tmp_path / "out", at, Recipe("distillation"), EXPERIMENT)
    assert found == result


# In a program


def test_leave_is_no_part_of_a_distillation(models, mark):
    path = models / "lambda.keras"
    tweak, allowed = lt.Distillation(path), lt.Distillation(path, allow_code=True)
    assert tweak == allowed and "allow_code" not in Recipe([allowed]).describe()["distillation"]
    mark.unlink(missing_ok=True)
    with pytest.raises(UsageError, match="holds no code; it has a Lambda layer"):
        tweak.prepare(network())
    assert not mark.exists()
    allowed.prepare(network())
    assert mark.exists()


@keras.saving.register_keras_serializable("tests")
class Twice(layers.Layer):
    def call(self, inputs):
        return 2 * inputs


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.twice, self.head = Twice(), layers.Dense(3)

    def call(self, inputs):
        return self.head(self.twice(inputs))


def compiled(model):
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def adapted():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(size=(10, 4)))
    return layer


@pytest.mark.parametrize(
    ("form", "recurrent"),
    [(".keras", True), (".h5", True), ("", False), pytest.param("", True, marks=pytest.mark.e2e)],
)
def test_what_may_be_in_a_file(form, recurrent, tmp_path):
    """A model that was trained, with one in it that was, and layers with more in their graphs."""
    inner = compiled(keras.Sequential([keras.Input((4,)), layers.Dense(4, "gelu")]))
    steps = (
        layers.Reshape((2, 2)),
        layers.LSTM(3) if recurrent else layers.Flatten(),  # a SavedModel of it takes seconds
        layers.BatchNormalization(),
        layers.Dropout(0.5),
    )
    model = keras.Sequential([keras.Input((4,)), adapted(), inner, *steps, layers.Dense(3)])
    path = tmp_path / f"model{form}"
    compiled(model).save(path)
    np.testing.assert_allclose(load_model(path)(np.ones((2, 4))), model(np.ones((2, 4))), atol=1e-6)


def test_a_subclassed_model_is_revived_from_its_graph(tmp_path):
    model = Subclassed()
    outputs = model(np.ones((2, 4), np.float32))
    model.save(tmp_path / "model")
    np.testing.assert_allclose(load_model(tmp_path / "model")(np.ones((2, 4), np.float32)), outputs)


# The find of such a SavedModel is in cli/test_methods.py.
@pytest.mark.parametrize("form", [pytest.param("", marks=pytest.mark.e2e), ".h5", ".keras"])
def test_a_model_that_tfmot_prunes(form, tmp_path):
    import tensorflow_model_optimization as tfmot

    prune, schedule = tfmot.sparsity.keras.prune_low_magnitude, tfmot.sparsity.keras
    for each in (schedule.ConstantSparsity(0.5, 0), schedule.PolynomialDecay(0.0, 0.5, 0, 10)):
        model = prune(keras.Sequential([keras.Input((4,)), layers.Dense(3)]), each)
        model.save(tmp_path / f"model{form}")
        load_pruned(tmp_path / f"model{form}")


# Graphs


def edited(folder, tmp_path, edit):
    path = shutil.copytree(folder, tmp_path / "edited")
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    edit(saved.meta_graphs[0])
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())
    return path


@pytest.mark.parametrize(
    "operation",
    [
        *("WriteFile", "ReadFile", "MatchingFiles", "SaveV2", "RestoreV2", "MergeV2Checkpoints"),
        *("PyFunc", "PyFuncStateless", "EagerPyFunc", "XlaCustomCall", "XlaCustomCallV2"),
        *("ImmutableConst", "LMDBReader", "TextLineReaderV2", "RecordInput", "PrintV2", "Print"),
        *("TFRecordDataset", "TextLineDataset", "CacheDataset", "SaveDatasetV2", "DebugIdentityV2"),
        *("InitializeTableFromTextFileV2", "CreateSummaryFileWriter", "RemoteCall", "RpcClient"),
        *("DecodeProtoV2", "FileSystemSetConfiguration", "Send", "_Send", "NoSuchOperation"),
    ],
)
@pytest.mark.parametrize("where", ["graph", "function"])
def test_operations_that_do_more_than_compute(operation, where, models, tmp_path):
    def plant(graph):
        nodes = graph.graph_def.node if where == "graph" else functions(graph)[1].node_def
        nodes.add(name="evil", op=operation)

    path = edited(models / "none_served", tmp_path, plant)
    with pytest.raises(UsageError, match=f"it has the operation {operation} in its graph, which"):
        check_code(path)


def functions(graph):
    """The name of the function that saves, and a function of the model."""
    library = graph.graph_def.library.function
    (saver,) = (f.signature.name for f in library if "_traced_save" in f.signature.name)
    return saver, next(f for f in library if "_traced_" not in f.signature.name)


def call_saver(graph):
    saver, other = functions(graph)
    call = other.node_def.add(name="evil", op="StatefulPartitionedCall")
    call.attr["f"].func.name = saver


def name_saver(graph):
    saver, other = functions(graph)
    other.node_def.add(name="evil", op=saver)


def implement(graph):
    """TensorFlow may take the saver for another function of the same interface."""
    for function in graph.graph_def.library.function:
        function.attr["api_implements"].s = b"same"


def as_gradient(graph):
    saver, other = functions(graph)
    gradient = {"function_name": other.signature.name, "gradient_func": saver}
    graph.graph_def.library.gradient.add(**gradient)


@pytest.mark.parametrize("edit", [call_saver, name_saver, implement, as_gradient])
def test_what_saves_is_the_savers_alone(edit, models, tmp_path):
    check_code(models / "none_served")
    with pytest.raises(UsageError, match="it has the operation [SMR].* in its graph"):
        check_code(edited(models / "none_served", tmp_path, edit))


def test_what_older_releases_of_keras_describe_in_the_graph(models, mark, tmp_path):
    metadata = saved_metadata_pb2.SavedMetadata.FromString(
        (models / "lambda" / "keras_metadata.pb").read_bytes()
    )

    def move(graph):
        for node in metadata.nodes:
            graph.object_graph_def.nodes[node.node_id].user_object.metadata = node.metadata

    path = edited(models / "lambda", tmp_path, move)
    (path / "keras_metadata.pb").unlink()
    mark.unlink(missing_ok=True)
    with pytest.raises(UsageError, match="it has a Lambda layer"):
        load_model(path)
    assert not mark.exists()
    load_model(path, allow_code=True)
    assert mark.exists()


@pytest.mark.parametrize("identifier", ["", "evil", "_tf_keras_metric", "_tf_keras_model"])
def test_what_keras_takes_for_layers_under_another_name(identifier, models, tmp_path):
    path = shutil.copytree(models / "lambda", tmp_path / "edited")
    file = path / "keras_metadata.pb"
    metadata = saved_metadata_pb2.SavedMetadata.FromString(file.read_bytes())
    for node in metadata.nodes:
        node.identifier = identifier
    del metadata.nodes[0]  # the network, which names its layers too
    file.write_bytes(metadata.SerializeToString())
    with pytest.raises(UsageError, match="it has a Lambda layer"):
        check_code(path)


def test_a_sweep_hands_the_leave_on(monkeypatch, tmp_path):
    given = []
    found = FindTrial(EXPERIMENT, FindingSettings(rounds=1))
    retrained = RetrainTrial(found, 1, "vanilla", {}, EXPERIMENT)
    for name, result in (("find", [{}]), ("retrain_ticket", {})):

        def stage(*_, result=result, **options):
            given.append(options["how"].allow_code)
            return result

        module = "find" if name == "find" else "retrain"
        monkeypatch.setattr(f"lottery_tf.runs.{module}.{name}", stage)
    for trial in (found, retrained):
        for leave in (False, True):
            assert (
                attempt(trial, tmp_path, DeviceSettings(), HowToRun(allow_code=leave)).error is None
            )
    assert given == [False, True, False, True]
