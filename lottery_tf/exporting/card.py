"""The model card of an export: ``README.md``, for a colleague who gets the folder and nothing else.

Names come from files and users: they are escaped, so that Markdown shows them as they are.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lottery_tf.common.log import one_line

NAME = "README.md"
# Punctuation that Markdown, or what finds links in it, could read. \x60 is a backquote.
_MARKED = re.compile(r"[\\\x60*_{}\[\]()<>|~&#!$@:./\"+=^-]")
_MARK = "<!-- A model card of lottery_tf, SHA-256 of what follows: {} -->\n"
_FIRST = re.compile(_MARK.format("([0-9a-f]{64})"))
_CLASSES = 50  # that are shown
_NUMBERS = 8  # of one value that are shown
_FREE = 32  # in the place of a length that is free, in the examples


def is_card(file: Path) -> bool:
    """Whether a file is a card as it was written; an edited one is somebody's own work."""
    text = file.read_text(encoding="utf-8")
    first = _FIRST.match(text)
    return first is not None and first[1] == _sum(text[first.end() :])


def card(
    name: str,
    its_keras: str,
    facts: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, str],
) -> str:
    """The card in Markdown.

    Args:
      name: of the model.
      its_keras: the Keras that it is of, "tf_keras" or "keras".
      facts: what ``export.json`` has.
      about: what is known of it besides: what → text.
    """
    first = next(iter(facts.values()))
    kept, total = first["nonzero_parameters"], first["parameters"]
    share = f" ({100 * (1 - kept / total):.2f} % are 0)" if total else ""
    rows = {
        **{escaped(what): escaped(text) for what, text in about.items()},
        "Parameters": f"{total:,}, of which {kept:,} are not 0{share}",
        **_measured(first),
        "Input": "; ".join(_input(first, each) for each in first["inputs"]),
        "Preprocessing": _preprocessing(first["preprocessing"]),
        "Output": "; ".join(
            f"{escaped(n)}, shape {_shape(s)}" for n, s in first["outputs"].items()
        ),
        **_probabilities(facts),
        **({"Classes": _classes(first["class_names"])} if first["class_names"] else {}),
    }
    files = [
        f"| {each['file']} | {each['bytes']:,} | {each['bytes_gzip']:,} | "
        f"{_difference(each['max_abs_difference'])} |"
        for each in facts.values()
    ]
    parts = [
        f"# {escaped(name)}",
        "A Keras model, pruned and exported by lottery_tf. Pruned weights are exactly 0.",
        "\n".join(["| | |", "|---|---|", *(f"| {what} | {text} |" for what, text in rows.items())]),
        "\n".join(
            [
                "| file | bytes | gzip'd | largest difference to the trained model's outputs |",
                *("|---|---:|---:|---:|", *files),
            ]
        ),
        "export.json has the same facts for programs."
        + (" The names of the classes are only there and here." if first["class_names"] else ""),
        "## How to load it",
        *(f"~~~python\n{_code(form, each, its_keras)}\n~~~" for form, each in facts.items()),
        *_picture(facts),
    ]
    text = "\n\n".join(parts) + "\n"
    return _MARK.format(_sum(text)) + text


def escaped(text: Any) -> str:
    """``text`` on one line, as Markdown shows it, be it a tag, a link or the end of a cell.

    >>> escaped("a|b <i>")
    'a\\\\|b \\\\<i\\\\>'
    """
    return _MARKED.sub(r"\\\g<0>", one_line(str(text)))


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def _measured(facts: Mapping[str, Any]) -> dict[str, str]:
    if facts["test_accuracy"] is None:
        return {}
    return {
        "Test accuracy": f"{100 * facts['test_accuracy']:.2f} % of {facts['images']:,} examples"
    }


def _input(facts: Mapping[str, Any], name: str) -> str:
    shape, found = _shape(facts["inputs"][name]), facts["input_ranges"].get(name)
    told = f", {_short(found[0])} to {_short(found[1])} in the test data" if found else ""
    return f"{escaped(name)}, {facts['input_dtypes'][name]}, shape {shape}{told}"


def _shape(shape: list[int | None]) -> str:
    rest = ("any" if length is None else str(length) for length in shape[1:])
    return f"({', '.join(['N', *rest])})"


def _preprocessing(told: Mapping[str, Any]) -> str:
    if not told:
        return "not said: give it what it was trained on"
    if inside := told.get("in_model"):
        numbers = (
            f"(x − mean) / std with mean {_short(inside['mean'])}, std {_short(inside['std'])}"
        )
        return f"none: give raw pixels; the model computes {numbers} itself"
    return "; ".join(f"{escaped(what)}: {_short(value)}" for what, value in told.items())


def _short(value: Any) -> str:
    """A value of JSON for a cell, numbers to six digits."""
    if isinstance(value, list | tuple):
        if len(value) > _NUMBERS:
            return f"{len(value)} values, in export.json"
        return ", ".join(map(_short, value))
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    return escaped(value)


def _probabilities(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """How the SavedModel's second signature makes probabilities, if it has one."""
    of_each: list[dict[str, str]] = [each.get("probabilities") or {} for each in facts.values()]
    ways = next(filter(None, of_each), {})
    told = {"softmax": "softmax of {}", "sigmoid": "sigmoid of {}", "none": "{} as it is"}
    made = "; ".join(told[way].format(escaped(name)) for name, way in ways.items())
    return {"Probabilities": f"signature predict of saved\\_model: {made}"} if made else {}


def _classes(names: list[str]) -> str:
    shown = ", ".join(f"{number}: {escaped(name)}" for number, name in enumerate(names[:_CLASSES]))
    rest = len(names) - _CLASSES
    return f"{shown} and {rest} more, in export.json" if rest > 0 else shown


def _difference(number: float | None) -> str:
    return "not measured" if number is None else f"{number:.1e}"


def _code(form: str, facts: Mapping[str, Any], its_keras: str) -> str:
    """How a format is loaded and run, in five lines. Names are Python's literals in ASCII."""
    names = list(facts["inputs"])
    arrays = ", ".join(_array(facts, name) for name in names)
    inputs = f"inputs = {{{arrays}}}  # yours"
    signature = "predict" if facts.get("probabilities") else "serving_default"
    given = f"inputs[{names[0]!a}]" if len(names) == 1 else "list(inputs.values())"
    of = {
        "saved_model": [
            "import numpy as np, tensorflow as tf",
            f'model = tf.saved_model.load("{facts["file"]}")',
            inputs,
            "tensors = {name: tf.constant(array) for name, array in inputs.items()}",
            f'outputs = model.signatures["{signature}"](**tensors)',
        ],
        "keras": [
            "import numpy as np",
            f"import {its_keras}",
            f'model = {its_keras}.models.load_model("{facts["file"]}", compile=False)',
            inputs,
            f"outputs = model.predict({given})",
        ],
        "tflite": [
            "import numpy as np, tensorflow as tf",
            f'interpreter = tf.lite.Interpreter("{facts["file"]}")',
            'run = interpreter.get_signature_runner("serving_default")',
            inputs,
            "outputs = run(**inputs)",
        ],
        "onnx": [
            "import numpy as np, onnxruntime",
            f'session = onnxruntime.InferenceSession("{facts["file"]}")',
            inputs,
            "names = [output.name for output in session.get_outputs()]",
            "outputs = dict(zip(names, session.run(names, inputs)))",
        ],
    }
    return "\n".join(of[form])


def _picture(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How a file with a picture becomes a class, where the SavedModel does all but read it."""
    found = facts.get("saved_model", {})
    inputs, names = found.get("inputs", {}), found.get("class_names")
    inside = (found.get("preprocessing") or {}).get("in_model")
    if not (inside and names and len(inputs) == 1 and len(found.get("probabilities") or {}) == 1):
        return []
    ((name, shape),) = inputs.items()
    most = found["input_ranges"].get(name, [0, 0])[1]  # pixels are bytes, or bytes / 255
    is_picture = len(shape) == 4 and None not in shape[1:] and shape[3] in (1, 3)
    if not is_picture or not (0 < most <= 1 or 16 < most <= 255):
        return []
    height, width, channels = shape[1:]
    data = found.get("source", {}).get("data", {})
    cropped = data.get("image_resize") == "center_crop"
    bring = "ImageOps.fit(picture, " if cropped else "picture.resize("
    known = "as in training" if data.get("image_size") else "or as it was done for the training"
    as_bytes = "" if most > 1 else " / 255"
    lines = [
        "import json, numpy as np, tensorflow as tf",
        "from PIL import Image, ImageOps",
        f'model = tf.saved_model.load("{found["file"]}")',
        'names = json.load(open("export.json"))["saved_model"]["class_names"]',
        'picture = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGB")  # yours',
        *(['picture = picture.convert("L")'] if channels == 1 else []),
        f"picture = {bring}({width}, {height}), Image.Resampling.BILINEAR)  # {known}",
        f"pixels = np.asarray(picture, np.float32).reshape({(1, *shape[1:])}){as_bytes}",
        f'outputs = model.signatures["predict"](**{{{name!a}: tf.constant(pixels)}})',
        'found = outputs["probabilities"][0].numpy()',
        "print(names[found.argmax()], found.max())",
    ]
    return ["## From a picture to a class", "~~~python\n" + "\n".join(lines) + "\n~~~"]


def _array(facts: Mapping[str, Any], name: str) -> str:
    shape = tuple(
        1 if not i else _FREE if n is None else n for i, n in enumerate(facts["inputs"][name])
    )
    dtype = facts["input_dtypes"][name]
    made = f'np.full({shape}, "text")' if dtype == "string" else f"np.zeros({shape}, np.{dtype})"
    return f"{name!a}: {made}"
