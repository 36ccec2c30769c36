"""Docstrings, the help of flags, errors and lines of the log are in short sentences."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "lottery_tf"
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
MOST = 30  # words
# A sentence ends at a full stop before a capital, at the end of a paragraph, and before the next
# item of a list or entry of Args.
_PARTS = re.compile(r"\n\s*\n|\n\s*(?=- )|\n\s*(?=[\w`*., ]+: )|::?\s*\n")
_ENDS = re.compile(r"(?<=[.!?])[\"')]?\s+(?=[A-Z`\"'(])")


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text, without examples for doctest and formulas."""
    text = re.sub(r"^\s*>>> .*(\n(?!\s*\n).*)*", "\n", text, flags=re.MULTILINE)
    for part in _PARTS.split(text):
        yield from _ENDS.split(" ".join(part.split()))


def words(sentence: str) -> int:
    return sum(any(map(str.isalpha, word)) for word in sentence.split())


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each string of a module, with … for what is filled in."""
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        yield tree.lineno, tree.value
    elif isinstance(tree, ast.JoinedStr):
        parts = [v.value if isinstance(v, ast.Constant) else "…" for v in tree.values]
        yield tree.lineno, "".join(map(str, parts))
    else:
        for child in ast.iter_child_nodes(tree):
            yield from texts(child)


def too_long(source: str) -> list[tuple[int, str]]:
    """Line and sentence of those with more than ``MOST`` words."""
    return [
        (line, sentence)
        for line, text in texts(ast.parse(source))
        for sentence in sentences(text)
        if words(sentence) > MOST
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_sentences_are_short(package):
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    found = [
        f"{path.relative_to(ROOT)}:{line}: {sentence}"
        for path in paths
        for line, sentence in too_long(path.read_text(encoding="utf-8"))
    ]
    assert not found, f"Expected sentences of at most {MOST} words:\n" + "\n".join(found)


def test_what_a_sentence_is():
    half = " ".join(["word"] * 16)
    assert not too_long(f'"""{half}. Then {half}.\n\n    {half}\n\n    {half}\n"""')
    assert not too_long(f'"""Short.\n\n    Args:\n      one: {half}\n      two: {half}\n"""')
    assert not too_long(
        f'"""Short.\n\n    - {half}\n    - {half}\n\n    >>> {half} {half}\n    1\n"""'
    )
    assert too_long(f'"""{half}\n    {half}."""') == [(1, f"{half} {half}.")]
    assert too_long(f'x = f"{half} {{y}} " "{half}"') == [(1, f"{half} … {half}")]
