"""Links in README and docs lead somewhere, in the repository and in the site."""

import importlib.util
import posixpath
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location(
    "site_pages", ROOT / "docs" / "site_assets" / "site_pages.py"
)
site_pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site_pages)

PAGES = subprocess.check_output(["git", "ls-files", "*.md", "*.ipynb"], cwd=ROOT, text=True).split()
_CODE = re.compile(r"^```.*?^```|<!--.*?-->", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\((?!\w+:)([^)\s#]*)(?:#([^)\s]*))?\)")


def anchors(text):
    """What GitHub, and mkdocs as mkdocs.yml has it, call the headings of a page."""
    for heading in re.findall(r"^#+ (.*)$", _CODE.sub("", text), re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        yield re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith((".md", ".ipynb"))])
def test_each_link_leads_somewhere(page):
    text = re.sub(r"`[^`\n]+`", "code", _CODE.sub("", (ROOT / page).read_text()))
    for target, anchor in _LINK.findall(text):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
        path = page if not target else path
        assert (ROOT / path).exists(), f"{page} links to {target}, which is not there"
        if anchor:
            found = list(anchors((ROOT / path).read_text()))
            assert anchor in found, f"{page} links to {target}#{anchor}; there are {found}"


def test_links_in_the_site():
    text = (
        "[a](../flags/standing.yaml) ![b](method.svg) [c](masks.md#structures) `[d](../README.md)`"
    )
    assert site_pages.rewritten(text, "docs/glossary.md") == (
        "[a](project/flags/standing.yaml.md) ![b](method.svg) [c](masks.md#structures) "
        "`[d](../README.md)`"
    )
    text = "[a](docs/masks.md#structures) [b](CHANGELOG.md) [c](https://a.b) [d](nowhere.md)"
    assert site_pages.rewritten(text, "README.md") == (
        "[a](masks.md#structures) [b](project/CHANGELOG.md) [c](https://a.b) [d](nowhere.md)"
    )
    assert site_pages.links(text, "README.md") == {"docs/masks.md", "CHANGELOG.md"}
    back = site_pages.rewritten("[a](docs/keras.md)", "CHANGELOG.md")
    assert back == "[a](../keras.md)"


def test_other_files_are_shown_as_code():
    text = site_pages.text_in_site("flags/standing.yaml")
    assert text.startswith("# flags/standing.yaml\n\n````yaml\n") and text.endswith("\n````\n")


def test_examples_are_shown_as_code():
    text = "Adds.\n\n>>> 1 + 1\n2\n>>> 3\n3\n\nMore."
    assert site_pages.with_examples(text) == (
        "Adds.\n\n```pycon\n>>> 1 + 1\n2\n>>> 3\n3\n```\n\nMore."
    )
