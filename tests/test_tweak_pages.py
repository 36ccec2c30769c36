"""The tweaks' pages: their examples run as they stand, their tables say what the code says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lottery_tf.common.settings import one_of, settings_of
from lottery_tf.tweaks.table import TWEAKS

PAGES = Path(__file__).parents[1] / "docs" / "tweaks"
BLOCKS = {
    f"{page.name} {number}": code
    for page in sorted(PAGES.glob("*.md"))
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
}


def parameters(name):
    """The lines of a tweak's table: | flag | default | help (choices) |."""
    lines = ["| flag | default | |", "|---|---|---|"]
    for field in settings_of(TWEAKS[name]):
        default, choices = field.default, field.metadata["choices"]
        if isinstance(default, tuple):
            default = ",".join(default)
        text = field.metadata["help"] + (f" ({one_of(choices)})" if choices else "")
        cells = [f"`--{name}_{field.name}`", "none" if default is None else str(default), text]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


@pytest.mark.parametrize("name", TWEAKS)
def test_the_table_of_parameters_is_that_of_the_code(name):
    page = PAGES / f"{name}.md"
    begin, end = "<!-- parameters -->\n", "\n<!-- /parameters -->"
    block = f"{begin}\n{parameters(name)}\n{end}"
    found = re.findall(f"{begin}.*?{end}", page.read_text(), re.DOTALL)
    assert found == [block], f"Expected in {page} once:\n\n{block}"


def test_every_page_has_an_example():
    assert {name.partition(" ")[0] for name in BLOCKS} == {
        "README.md",
        *(f"{name}.md" for name in TWEAKS),
    }


@pytest.mark.parametrize("name", TWEAKS)
def test_every_page_shows_its_picture(name):
    assert re.findall(r"!\[.+\]\((.*)\)", (PAGES / f"{name}.md").read_text()) == [f"{name}.svg"]
    assert (PAGES / f"{name}.svg").is_file()


@pytest.mark.e2e
@pytest.mark.parametrize("name", BLOCKS)
def test_the_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, *others = BLOCKS[name].split("# In another program:\n")
    exec(compile(program, name, "exec"), {})
    imports_and_data = program.partition("model = ")[0]
    for other in others:
        subprocess.run(
            [sys.executable, "-c", imports_and_data + other],
            env={**os.environ, "PYTHONPATH": str(PAGES.parents[1])},
            check=True,
        )
