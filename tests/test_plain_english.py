"""Sentences in README and docs are short: 30 words at most."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 30
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "tests/README.md")),
    *(ROOT / "benchmarks" / name for name in ("README.md", "mutation/README.md")),
    *sorted(
        path
        for path in (ROOT / "docs").rglob("*.md")
        if "results" not in path.parts or path.name == "README.md"
    ),
]
# Not ends of sentences.
_SHORT = re.compile(r"\b(e\.g|i\.e|et al|vs|cf|No|Fig|Eq)\.", re.IGNORECASE)


def sentences(text):
    """The sentences of a page in Markdown: without code, tables, pictures and addresses.

    A link counts as its text, code in a sentence as a word. A paragraph, a heading and an entry of
    a list end a sentence; of the signs full stop, question mark and exclamation mark do.
    """
    text = re.sub(r"^(```+).*?^\1", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "Code", text)
    text = _SHORT.sub(r"\1", text)
    lines = text.splitlines()
    paragraphs, now = [], []
    for before, line in zip(["", *lines], lines, strict=False):
        plain = line.strip()
        code = line.startswith("    ") and not (now or before.strip().startswith(("-", "*")))
        if not plain or code or plain.startswith(("|", "#", ":::")):
            paragraphs, now = [*paragraphs, now], []
        elif re.match(r"([-*]|\d+\.) ", plain):
            paragraphs, now = [*paragraphs, now], [re.sub(r"^([-*]|\d+\.) ", "", plain)]
        else:
            now.append(plain)
    for paragraph in [*paragraphs, now]:
        for sentence in re.split(r"(?<=[.!?])[*_)\"”]*\s+(?=[^a-z])", " ".join(paragraph)):
            if sentence.strip():
                yield sentence.strip()


def words(sentence):
    """How many words: what has a letter or a digit, between spaces."""
    return sum(bool(re.search(r"\w", each)) for each in sentence.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_sentence_is_long(page):
    long = [(words(each), each) for each in sentences(page.read_text()) if words(each) > MOST]
    assert not long, "\n".join(f"{count} words: {each}" for count, each in long)


def test_what_counts():
    text = """# A heading of words

One two `three four` [five six](https://a.b/c). Seven
eight **nine.** A number 0.5 is one.

- An entry
  of two lines
- another

| a | table |
|---|---|

```sh
code
```

    indented code
"""
    found = list(sentences(text))
    assert found == [
        "One two Code five six.",
        "Seven eight **nine.",
        "A number 0.5 is one.",
        "An entry of two lines",
        "another",
    ]
    assert [words(each) for each in found] == [5, 3, 5, 5, 1]
