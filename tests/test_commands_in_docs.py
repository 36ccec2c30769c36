"""Every command line in README and docs is one that lottery-tf takes, and those of the page on
commands run one after the other. README's are run by .ci/run, the notebooks by their own test."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from idx_files import write_idx

from lottery_tf.cli.flags import help_text, parse
from lottery_tf.cli.main import COMMANDS, main
from lottery_tf.cli.quickstart import markdown
from lottery_tf.common.files import read_json

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


def test_the_table_of_the_quickstart_is_that_of_its_committed_numbers():
    shown = re.findall(r"^│ +(.*?) +│$", (ROOT / "docs/commands.md").read_text(), re.MULTILINE)
    rows = markdown(read_json(ROOT / "benchmarks/results/quickstart.json")).splitlines()[2:]
    assert [re.split(r" +│ +", row) for row in shown] == [
        row.strip("| ").split(" | ") for row in rows
    ]


# What makes them short: four steps a training, one seed, few rounds.
STEPS, SEARCH = ["--train_for=4it", "--nojit_compile"], "--rescaled_init_iterations=2"
SHORT = {
    "find": [*STEPS, "--rounds=8"],
    "retrain": [SEARCH],
    "sweep": [*STEPS, SEARCH, "--seeds=0", "--sparsities=0.2"],
}


@pytest.mark.e2e
def test_the_commands_of_the_page_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    train, t10k = (
        (random.integers(0, 256, (count, 28, 28)), np.arange(count) % 10) for count in (300, 60)
    )
    write_idx(tmp_path, train=train, t10k=t10k)
    (block,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/commands.md").read_text(), re.DOTALL)
    ran = []
    for line in lines_of(block):
        words = line.replace("=DIR", f"={tmp_path}").replace("=flags/", f"={ROOT}/flags/").split()
        assert main([*words[1:], *SHORT.get(words[1], [])]) == 0, line
        ran.append(words[1])
    assert ran == ["find", "inspect", "retrain", "sweep", "report", "export", "evaluate"]
    assert (tmp_path / "runs/round_08.png").is_file()
    assert "tost" in (tmp_path / "runs/sweep/report.html").read_text()
    assert {file.name for file in (tmp_path / "runs/export").iterdir()} >= {
        *("saved_model", "model.tflite", "model.onnx", "export.json", "README.md")
    }
