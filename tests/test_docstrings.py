"""The examples in docstrings do what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import lottery_tf

ROOT = Path(lottery_tf.__file__).parent
MODULES = [
    ".".join(("lottery_tf", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    )
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples(name):
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted and not done.failed
