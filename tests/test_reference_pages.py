"""docs/reference has every public name, and mkdocs.yml every page."""

import re
from pathlib import Path

import lottery_tf as lt

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
SHOWN = [
    name
    for page in PAGES
    for name in re.findall(r"^::: lottery_tf\.(\S+)$", page.read_text(), re.MULTILINE)
]


def test_every_public_name_is_shown_once():
    modules = {"models": "models.create", "data": "data.loading.load"}
    names = [modules.get(name, name) for name in lt.__all__]
    assert sorted(name for name in SHOWN if name != "tweaks.tweak.Tweak") == sorted(names)


def test_the_first_page_names_them():
    text = (ROOT / "docs" / "reference" / "README.md").read_text()
    for name in lt.__all__:
        assert re.search(rf"`(lt\.)?{name}[`.]", text), name


def test_the_site_has_every_page():
    """Which mkdocs itself looks at; here without it. Tables of results are linked to alone."""
    listed = set(re.findall(r"[\w/]+\.(?:md|ipynb)\b", (ROOT / "mkdocs.yml").read_text()))
    docs = ROOT / "docs"
    there = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    there |= {path.relative_to(docs).as_posix() for path in docs.rglob("*.ipynb")}
    missing = there - listed
    assert {name for name in missing if not name.startswith("results/")} == set()
    assert not {name for name in missing if name.endswith("README.md")}
