"""The public functions, classes and methods take what others' programs give them.

Who means to change that changes signatures.json too: ``python tests/test_signatures.py`` writes it.
"""

import inspect
import json
from pathlib import Path

import lottery_tf as lt

FILE = Path(__file__).with_name("signatures.json")
SIMPLE = bool | int | float | str | tuple | None


def parameters(function):
    """As in a ``def``, without annotations; a default of another kind is left out."""
    found = inspect.signature(function)
    bare = [
        each.replace(
            annotation=inspect.Parameter.empty,
            default=each.default
            if each.default is each.empty or isinstance(each.default, SIMPLE)
            else "…",
        )
        for each in found.parameters.values()
    ]
    return str(inspect.Signature(bare))


def signatures():
    """Public name → its parameters; of a class those of its own public methods too."""
    found = {}
    for name in sorted(lt.__all__):
        thing = getattr(lt, name)
        if callable(thing) and thing is not lt.UsageError:
            found[name] = parameters(thing)
        for own in dir(thing) if isinstance(thing, type) else ():
            method = getattr(thing, own)
            ours = str(getattr(method, "__module__", "")).startswith("lottery_tf")
            if own[0] != "_" and ours and inspect.isroutine(method):
                found[f"{name}.{own}"] = parameters(method)
    return found


def test_they_take_what_is_relied_on():
    assert signatures() == json.loads(FILE.read_text())


if __name__ == "__main__":
    FILE.write_text(json.dumps(signatures(), indent=1, sort_keys=True) + "\n")
