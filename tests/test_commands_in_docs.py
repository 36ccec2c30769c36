"""Every command line in README and docs is one that lottery-tf takes: flags are parsed, not run."""

import re
import shlex
from pathlib import Path

import pytest

from lottery_tf.cli.flags import help_text, parse
from lottery_tf.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")),
    *((ROOT / folder / "README.md") for folder in ("benchmarks", "tests")),
]
# To the end of a line that no backslash continues, or of code in a sentence.
_LINE = re.compile(r"lottery-tf (?=[a-z])(?:[^`\n\\|]|\\\n)*")


def lines_of(text):
    """The command lines in a page, as they would be typed."""
    for found in _LINE.findall(text):
        line = found.replace("\\\n", " ").split(" && ")[0].split(" #")[0].split("; ")[0]
        if line.split()[1] in COMMANDS:
            yield line.strip()


LINES = sorted(
    {
        (page.relative_to(ROOT).as_posix(), line)
        for page in PAGES
        for line in lines_of(page.read_text())
    }
)


def parsed(line):
    """The flags of a command line; ``…`` stands for whatever one gives, a capital for a number."""
    _, name, *words = shlex.split(line)
    command = COMMANDS[name]
    given = [_filled(word) for word in words if word not in ("…", "...")]
    if re.fullmatch(r"lottery-tf \w+ --\w+", line):  # a flag is talked of
        text = help_text(name, command.summary, command.settings, command.positional)
        assert re.search(rf"--(\[no\])?{words[0][2:]}\b", text), f"no flag {words[0]} of {name}"
        return None
    return parse(given, command.settings, command.positional)


def _filled(word):
    flag, _, value = word.partition("=")
    if flag == "--flagfile":
        return (
            f"{flag}={ROOT}/flags/digits_chain12.cfg" if "…" in value else f"{flag}={ROOT / value}"
        )
    filled = {"--method=…": "--method=snip", "--keras=…": "--keras=keras"}
    return filled.get(word, re.sub("=[A-Z]$", "=1", word))


@pytest.mark.parametrize(("page", "line"), LINES)
def test_its_flags_are_flags(page, line):
    parsed(line)


def test_lines_are_found_and_a_wrong_one_is_refused():
    text = (
        "```\nlottery-tf find --rounds=2 \\\n    --out=a && ls\n```\n`lottery-tf export --run=b` is"
    )
    assert list(lines_of(text)) == [
        "lottery-tf find --rounds=2      --out=a",
        "lottery-tf export --run=b",
    ]
    assert {page for page, _ in LINES} >= {"README.md", "docs/commands.md", "docs/sweeps.md"}
    with pytest.raises(Exception, match="epochs"):
        parsed("lottery-tf find --epochs=3 --out=a")
