"""The tweaks' pages: their examples run as they stand, their tables say what the code says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from settings_tables import check_table, settings, table_of

from lottery_tf.tweaks.table import TWEAKS

PAGES = Path(__file__).parents[1] / "docs" / "tweaks"
BLOCKS = {
    f"{page.name} {number}": code
    for page in sorted(PAGES.glob("*.md"))
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
}


@pytest.mark.parametrize("name", TWEAKS)
def test_the_table_of_parameters_is_that_of_the_code(name):
    table = table_of(settings(TWEAKS[name]), "flag", lambda field: f"--{name}_{field}")
    check_table(PAGES / f"{name}.md", table)


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
