"""Architectures as JSON, read without running what the file names."""

import json
import sys

import pytest
from layer_cases import CASES
from networks import chain, layers

from lottery_tf.common.errors import UsageError
from lottery_tf.graph.architecture import from_json, objects, to_json
from lottery_tf.graph.compat import keras
from lottery_tf.graph.layers import layer_paths, named_layers, named_variables
from lottery_tf.masks.prune_by_mask import PruneByMask

REGISTERED = keras.saving.get_registered_name(PruneByMask)


@pytest.mark.parametrize("name", CASES)
def test_any_model_comes_back(name):
    """With names that a layer's config does not hold, and layers shared across nested models."""
    case = CASES[name]
    model = case.build()
    read = from_json(to_json(model))
    assert layer_paths(read) == layer_paths(model)
    assert len(read.variables) == len(model.variables)
    assert [type(layer) for layer in named_layers(read).values()] == [
        type(layer) for layer in named_layers(model).values()
    ]
    assert [(name, v.shape) for name, v in named_variables(read).items()] == [
        (name, v.shape) for name, v in named_variables(model).items()
    ]


def test_keras_reads_it_too():
    model = CASES["images"].build()
    assert keras.models.model_from_json(to_json(model)).count_params() == model.count_params()


def test_mixed_precision_and_activations_come_back():
    model = chain(
        layers.Dense(3, activation="mish", dtype="mixed_bfloat16", kernel_regularizer="l2"),
        layers.Dense(2, activation=keras.activations.gelu, dtype="float32", name="head"),
    )
    read = from_json(to_json(model))
    assert [layer.compute_dtype for layer in read.layers[1:]] == ["bfloat16", "float32"]
    assert [layer.activation for layer in read.layers[1:]] == [
        keras.activations.mish,
        keras.activations.gelu,
    ]


class Scale(layers.Layer):
    """Not registered with Keras."""

    def call(self, x):
        return 2 * x


def twice(x):
    return 2 * x


@pytest.mark.parametrize(
    ("stack", "name", "objects"),
    [
        (lambda: [Scale()], "Scale", {"Scale": Scale}),
        (lambda: [layers.Dense(2, activation=twice)], "twice", {"twice": twice}),
    ],
)
def test_what_is_not_registered_must_be_given(stack, name, objects):
    text = to_json(chain(*stack()))
    with pytest.raises(UsageError, match=rf"custom_objects=\{{'{name}': {name}\}}"):
        from_json(text)
    read = from_json(text, objects)
    assert read.count_params() in (0, 10)


# What must not run


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A module on sys.path that leaves a file behind when it is imported; the file."""
    track = tmp_path / "it_was_imported"
    (tmp_path / "planted_module.py").write_text(
        f"open({str(track)!r}, 'w').close()\n"
        "from tf_keras.layers import Layer as Evil\ndef evil(x, *args, **kwargs): return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield track
    sys.modules.pop("planted_module", None)


def described():
    """A model 4 → 2 as a description, and that of its Dense layer within."""
    description = json.loads(to_json(chain(layers.Dense(2, name="d"))))
    return description, description["config"]["layers"][1]


FUNCTION = {"class_name": "function", "module": "planted_module", "config": "evil"}
FOREIGN = {
    "a class": {"class_name": "Evil", "registered_name": None},
    "a class without a registered name": {"class_name": REGISTERED, "registered_name": None},
    "a class with one that is not": {"class_name": REGISTERED, "registered_name": "Evil"},
    "an activation": {**FUNCTION, "registered_name": "evil"},
    "an activation said to be registered": {**FUNCTION, "registered_name": REGISTERED},
    "a type": {"class_name": "__typespec__", "spec_name": "Evil", "registered_name": None},
}


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """Its config has layers that are no list of them."""

    def __init__(self, layers, **kwargs):
        super().__init__(**kwargs)
        self.count = layers

    def get_config(self):
        return {**super().get_config(), "layers": self.count}


@pytest.mark.parametrize("count", [2, [64, 64], [{"size": 3}]])
def test_layers_in_the_config_of_a_users_own_are_its_own_matter(count):
    model = keras.Sequential([keras.Input((2,)), Block(count), layers.Dense(3)])
    assert from_json(to_json(model)).layers[0].count == count


@pytest.mark.parametrize("how", FOREIGN)
def test_a_module_that_the_file_names_is_not_imported(planted, how):
    description, dense = described()
    part = {"config": {}, "module": "planted_module", **FOREIGN[how]}
    if part["class_name"] == "function":
        dense["config"]["activation"] = part
    elif part["class_name"] == "__typespec__":
        dense["config"]["kernel_initializer"] = part
    else:
        dense.update(part)
        dense["config"] = {"name": "d"}
    with pytest.raises(UsageError, match="planted_module: import the module that registers it"):
        from_json(json.dumps(description))
    assert not planted.exists() and "planted_module" not in sys.modules


def test_the_planted_module_would_be_imported(planted):
    """The test above can fail: this is what Keras does with such a file."""
    description, dense = described()
    dense.update(module="planted_module", **FOREIGN["a class with one that is not"])
    with pytest.raises(TypeError, match="class .Layer."):
        keras.models.model_from_json(json.dumps(description))
    assert planted.exists()


def called(function, *args, **kwargs):
    """A model whose one layer calls a function that TensorFlow exports."""
    description, _ = described()
    source = description["config"]["layers"][0]["name"]
    inbound = [["_CONSTANT_VALUE", -1, arg, kwargs] for arg in args] or [[source, 0, 0, kwargs]]
    description["config"]["layers"][1] = {
        "module": "tf_keras.src.layers.core.tf_op_layer",
        "class_name": "TFOpLambda",
        "registered_name": "TFOpLambda",
        "name": "op",
        "config": {"name": "op", "function": function},
        "inbound_nodes": inbound,
    }
    description["config"]["output_layers"] = [["op", 0, 0]]
    description.pop("layer_paths")
    return json.dumps(description)


@pytest.mark.parametrize(
    "function",
    [
        *("io.write_file", "io.read_file", "io.gfile.rmtree", "raw_ops.WriteFile", "print"),
        *("py_function", "numpy_function", "compat.v1.py_func", "load_op_library", "load_library"),
        *(
            "import_graph_def",
            "saved_model.load",
            "keras.models.load_model",
            "keras.utils.get_file",
        ),
        *("keras.__internal__.enable_unsafe_deserialization", "compat.v1.read_file", "no.such"),
        *("summary.create_file_writer", "data.experimental.save", "xla_custom_call", "function"),
    ],
)
def test_functions_beyond_mathematics_are_not_called(function):
    with pytest.raises(UsageError, match=rf"layers and mathematics; it calls tf.{function},"):
        from_json(called(function))


def test_a_function_with_constants_is_not_called(tmp_path):
    """tf.keras.utils.get_file copies and unpacks; Keras would call it while it reads the model."""
    text = called(
        "keras.utils.get_file", "it_was_run", origin=f"file://{__file__}", cache_dir=str(tmp_path)
    )
    with pytest.raises(UsageError, match="it calls tf.keras.utils.get_file"):
        from_json(text)
    assert not list(tmp_path.rglob("it_was_run"))
    with pytest.raises(AttributeError):  # Keras does call it
        keras.models.model_from_json(text)
    assert list(tmp_path.rglob("it_was_run"))


@pytest.mark.parametrize("function", ["nn.relu", "math.exp", "reshape", "compat.v1.gather"])
def test_mathematics_may_be_called(function):
    kwargs = {"reshape": {"shape": [-1, 2, 2]}, "compat.v1.gather": {"indices": [0], "axis": 1}}
    assert from_json(called(function, **kwargs.get(function, {}))).layers[-1].name == "op"


@pytest.mark.parametrize(
    "part",
    [
        {"class_name": "TensorFlowOpLayer", "config": {"node_def": "", "name": "d"}},
        {"class_name": "ResidualWrapper", "config": {"residual_fn": "", "name": "d"}},
        {"class_name": "ClassMethod", "config": {"cls_symbol": "io.gfile.GFile", "name": "d"}},
        {"class_name": "InstanceMethod", "config": {"attr_name": "eval", "name": "d"}},
        {"class_name": "utils.get_file", "module": "keras"},
        {"class_name": "get_file", "module": "keras.utils"},
        {"class_name": "os", "module": "tf_keras.src.utils.data_utils"},
    ],
)
def test_layers_that_carry_code_are_not_made(part):
    description, dense = described()
    for key in ("module", "registered_name"):
        dense.pop(key)
    dense.update(part)
    with pytest.raises(UsageError, match=f"layers of Keras .* has '{part['class_name']}'"):
        from_json(json.dumps(description))


@pytest.mark.parametrize("kind", ["StringLookup", "IntegerLookup", "TextVectorization"])
def test_no_vocabulary_is_read_from_a_file(kind, of, tmp_path):
    """Keras reads the file that a description names, whatever it is."""
    secret = tmp_path / "secret.txt"
    secret.write_text("1\n2\n")
    words = [1, 2] if kind == "IntegerLookup" else ["a", "b"]
    dtype = "int64" if kind == "IntegerLookup" else "string"
    inputs = of.Input((1,), dtype=dtype)
    look = getattr(of.layers, kind)(vocabulary=words, output_mode="multi_hot", name="look")
    description = json.loads(to_json(of.Model(inputs, of.layers.Dense(2)(look(inputs)))))
    from_json(json.dumps(description))
    (layer,) = (each for each in objects(description) if each["class_name"] == kind)
    layer["config"]["vocabulary"] = str(secret)
    with pytest.raises(UsageError, match="vocabulary that is read from the file"):
        from_json(json.dumps(description))


@pytest.mark.parametrize("taken", ["b", "c"], ids=["two in a circle", "one of itself"])
def test_layers_that_wait_for_one_another_are_told(taken, of):
    """tf_keras would look for the next one to call without end."""
    inputs = of.Input((4,), name="x")
    first = of.layers.Dense(4, name="a")(inputs)
    outputs = of.layers.Add(name="c")([first, of.layers.Dense(4, name="b")(first)])
    description = json.loads(to_json(of.Model(inputs, outputs)))
    names = {"b": ("a", "x"), "c": ("c", "b")}
    name, source = names[taken]
    (layer,) = (each for each in description["config"]["layers"] if each["name"] == name)
    nodes = json.dumps(layer["inbound_nodes"])
    assert f'["{source}", 0' in nodes
    layer["inbound_nodes"] = json.loads(nodes.replace(f'["{source}", 0', f'["{taken}", 0'))
    with pytest.raises(UsageError, match="wait for one another|has loops or disconnected nodes"):
        from_json(json.dumps(description))


def test_a_call_that_is_not_described_is_told():
    """Likewise: the second call of a layer that is called once."""
    description, dense = described()
    dense["inbound_nodes"][0][0][1] = 0  # an input has one call, whatever the number
    assert from_json(json.dumps(description))
    head = {**dense, "name": "head", "config": {**dense["config"], "name": "head"}}
    head["inbound_nodes"] = [[["d", 1, 0, {}]]]
    description["config"]["layers"].append(head)
    with pytest.raises(UsageError, match="head would wait"):
        from_json(json.dumps(description))


def test_a_registered_name_opens_no_way_for_another_class():
    """A wrapper's from_config makes what it wraps by the class name alone."""
    text = to_json(chain(layers.Reshape((2, 2)), layers.TimeDistributed(layers.Dense(2))))
    description = json.loads(text)
    (each,) = (p for p in description["config"]["layers"] if p["class_name"] == "TimeDistributed")
    each["config"]["layer"] = {
        **{"class_name": "TensorFlowOpLayer", "module": "x", "registered_name": "Custom>Adam"},
        "config": {"node_def": "", "name": "d"},
    }
    with pytest.raises(UsageError, match="layers of Keras or registered ones; the model has"):
        from_json(json.dumps(description))


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_lambdas_are_refused_in_any_place():
    outer = chain(keras.Sequential([layers.Lambda(lambda x: x)]))
    each = chain(layers.Reshape((2, 2)), layers.TimeDistributed(layers.Lambda(lambda x: x)))
    for model in (outer, each):
        with pytest.raises(UsageError, match="Lambda layer or .* pass the model itself"):
            from_json(to_json(model))
    text = to_json(chain(layers.Dense(2, activation=lambda x: x)))
    with pytest.raises(UsageError, match="a Lambda layer or a lambda function, and code"):
        from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", '{"class_name": 3}', '{"class_name": "Functional", "config": {}}'),
        *('{"class_name": ["Dense"]}', "[" * 100_000),
        '{"class_name": "TFOpLambda", "config": 1}',
    ],
)
def test_damaged_text(text):
    with pytest.raises(UsageError, match="Expected a model description|Expected layers"):
        from_json(text)


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


class OwnInit(OwnStep):
    def __init__(self, *args, factor=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.factor = factor


def with_factor(kind):
    inputs = keras.Input((4,))
    model = kind(inputs, layers.Dense(2)(inputs), name="own")
    model.factor = 0.5
    return model


@pytest.mark.parametrize("kind", [OwnStep, OwnInit, keras.Model])
def test_what_no_description_holds_of_a_model_is_not_lost_without_a_word(kind):
    model = with_factor(kind)
    for each in (model, keras.Sequential([keras.Input((4,)), model])):
        text, custom = to_json(each), {kind.__name__: kind}
        assert isinstance(model, kind)
        if kind is keras.Model:
            from_json(text, custom)  # a mere note
            continue
        with pytest.raises(UsageError, match=rf"'own' is a {kind.__name__} with factor.*model=…"):
            from_json(text, custom)


def test_a_class_of_the_users_own_with_nothing_set_on_it_comes_back():
    inputs = keras.Input((4,))
    model = OwnStep(inputs, layers.Dense(2)(inputs))
    assert type(from_json(to_json(model), {"OwnStep": OwnStep})) is OwnStep
