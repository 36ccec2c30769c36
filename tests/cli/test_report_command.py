"""lottery-tf report as its user runs it."""

import csv
import re
import shutil
import sys

import pytest
from report_runs import write_run, write_study, write_ticket
from rich.console import Console

import lottery_tf
from lottery_tf.cli.main import main
from lottery_tf.cli.settings import ReportSettings


def test_the_table_is_shown_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lottery_tf.reporting.reports.draw", lambda figure, title: {})
    runs = write_study(tmp_path / "runs")
    assert main(["report", str(runs), "--noflops", f"--out={tmp_path / 'out' / 'a.html'}"]) == 0
    out = capsys.readouterr().out
    assert "82.00 ± 1.15" in out and "+2.00 ± 0.58" in out and "-0.48 to +4.48" in out
    told = out.partition("┘\n")[2]  # the first line below the table
    assert told.startswith("tost is ahead of vanilla, by 2.00 points; with three seeds not estab")
    with open(tmp_path / "out" / "a" / "table.csv") as file:
        first, second = csv.DictReader(file)
    assert (first["recipe"], second["recipe"]) == ("vanilla", "tost")
    assert float(second["gain"]) == pytest.approx(0.02)
    assert "| tost | 3 |" in (tmp_path / "out" / "a" / "table.md").read_text()
    with open(tmp_path / "out" / "a" / "runs.csv") as file:
        assert len(list(csv.DictReader(file))) == 6


def test_names_are_shown_as_they_are(tmp_path, capsys):
    """Those that rich, matplotlib, a browser, Markdown or a spreadsheet would read otherwise, and
    a terminal would obey: here a folder and a recipe."""
    name = "=1+a[/b]$\\foo$<!--<script>|`:bomb:\x1b[2J"
    for seed in range(2):
        folder = tmp_path / f"seed_{seed}"
        ticket = write_ticket(folder / "find" / "tickets" / "round_01", seed)
        write_run(folder / "vanilla", ticket, test=0.8 + 0.01 * seed, seed=seed)
        tweaks = {"soft_activation": {"share": 0.5}}
        write_run(folder / "other", ticket, name, 0.82 + 0.013 * seed, seed, tweaks)
    page = tmp_path / "o[/x]" / "r.html"
    assert main(["report", str(tmp_path), f"--out={page}", "--noflops"]) == 0
    said = capsys.readouterr().out
    assert f"Written: {page}" in said and "\x1b" not in said
    assert r"=1+a[/b]$\foo$<!--<script>|`:bomb:\x1b[2J" in said
    runs, table = ((page.with_suffix("") / name).read_text() for name in ("runs.csv", "table.md"))
    assert f",'{name}," in runs and ",vanilla," in runs
    assert r"| =1+a\[/b\]$\\foo$\<!--\<script>\|\`:bomb:" in table
    block = page.read_text().partition('id="figures">')[2].partition("</script>")[0]
    # For Plotly, which reads tags itself.
    assert "<" not in block and "&lt;!--&lt;script&gt;" in block


def test_a_narrow_terminal_has_a_table_a_kind_of_tickets(tmp_path, monkeypatch, capsys):
    """All of a row is in 80 columns, in one line; the verdict is the first line below."""
    screen = Console(force_terminal=True, width=80, no_color=True, highlight=False)
    monkeypatch.setattr("lottery_tf.cli.report.console", screen)
    runs = write_study(tmp_path / "runs", (0.75, 0.9))
    write_run(runs / "rate", runs / "seed_0" / "find" / "tickets" / "round_00", learning_rate=0.2)
    assert main(["report", str(runs)]) == 0
    out = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    tables, _, told = out.partition("A wider terminal, a file or --out shows all columns.")
    assert max(map(len, tables.splitlines())) <= 80 and "…" not in tables
    assert sum(line.startswith("│") for line in tables.splitlines()) == 4
    assert "75 % pruned" in tables and "90 % pruned" in tables
    assert "(+2.00 ± 0.58)" in tables and "95 % interval" not in tables
    assert told.strip().startswith("tost is ahead of vanilla at both sparsities")


def test_without_out_nothing_is_written(tmp_path, capsys):
    runs = write_study(tmp_path / "runs")
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", str(runs), "--tune="]) == 0
    assert "+2.00 ± 0.58" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_of_this_release(found, retrained, tmp_path, capsys):
    vanilla = tmp_path / "vanilla"
    shutil.copytree(retrained, tmp_path / "label_smoothing")
    write_run(vanilla, found / "tickets" / "round_02")
    assert main(["report", str(tmp_path), f"--out={tmp_path / 'out'}"]) == 0
    out = capsys.readouterr().out
    # What was written by hand has not the settings of a run: they count as their defaults.
    assert "label_smoothing" in out and "imp" in out and "one run" in out
    assert (tmp_path / "out" / "report.html").is_file()
    assert len(list((tmp_path / "out" / "report").glob("flops_*.png"))) == 2


def test_the_libraries_are_an_extra(tmp_path, monkeypatch, capfd):
    monkeypatch.delattr(lottery_tf, "reporting", raising=False)
    for name in [name for name in sys.modules if name.startswith("lottery_tf.reporting")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "statsmodels.stats.multitest", None)
    assert main(["report", str(tmp_path)]) == 2
    assert "install lottery_tf with its extra [report]" in capfd.readouterr().err


def test_mistakes(tmp_path, capfd):
    assert main(["report"]) == 2
    assert main(["report", str(tmp_path / "no")]) == 2
    assert main(["report", str(write_study(tmp_path / "runs")), "--tune=rate"]) == 2
    first, second, third = capfd.readouterr().err.strip().splitlines()
    assert first == (
        "lottery-tf report: Expected a folder with retrain runs below it; it was not given."
    )
    assert "got " in second and "'rate'" in third


@pytest.mark.parametrize("name", ["r.pdf", "r.PNG", "r.md", "r.json", "r.htm", "r.htlm", "a/r.csv"])
def test_the_ending_of_another_file_is_refused_before_anything_is_read(tmp_path, capfd, name):
    page = tmp_path / name
    assert main(["report", str(tmp_path / "no_runs"), f"--out={page}"]) == 2
    assert capfd.readouterr().err == (
        "lottery-tf report: Expected --out to be a file that ends in .html, or a folder without "
        f"the ending of a file, got {page}: a report's page is HTML.\n"
    )
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("out", "page"),
    [
        *(("r.html", "r.html"), ("R.HTML", "R.HTML"), ("r", "r/report.html")),
        *(("runs.v1.2", "runs.v1.2/report.html"), ("2026.11.30", "2026.11.30/report.html")),
        *((".", "report.html"), ("..", "../report.html"), (".pdf", ".pdf/report.html")),
    ],
)
def test_where_the_page_is(out, page):
    assert str(ReportSettings(out=out).page) == page
