"""The page of a report, as a browser shows it, and the figures beside it."""

import html
import json
import re
import shutil
import subprocess

import pytest
from report_runs import write_run, write_study, write_ticket

from lottery_tf.reporting import report, write
from lottery_tf.reporting.charts import Chart, side_by_side
from lottery_tf.reporting.drawing import draw, style
from lottery_tf.reporting.figures import Figures

CHROMIUM = shutil.which("chromium")

# What is put at the end of the page: it does what a reader does, and notes what comes of it.
READER = """
<script>
const seen = {}, each = (where, what) => [...document.querySelectorAll(where)].map(what);
const click = (where, root = document) =>
  root.querySelector(where).dispatchEvent(new MouseEvent("click", {bubbles: true}));
const beyond = () => each("body *", found => found)
  .filter(found => !found.closest("svg") && found.getBoundingClientRect().right > innerWidth + 1)
  .map(found => `${found.tagName} ${found.className}`);
async function read() {
  seen.width = innerWidth;
  seen.verdict = each(".verdict p", sentence => sentence.textContent);
  seen.map = each(".map td", cell => [cell.textContent, cell.className.split(" ")[0]]);
  seen.open = each(".kind", kind => kind.open);
  seen.best = each(".kind .best .recipe", cell => cell.textContent);
  const badge = cell => getComputedStyle(cell, "::after").content.replaceAll('"', "");
  seen.badges = each(".kind td.recipe", cell => [cell.textContent, badge(cell)])
    .filter(found => found[1] !== "none");
  const look = getComputedStyle(document.querySelector(".kind tr:has([data-standing])").cells[1]);
  seen.look = [look.fontWeight, look.backgroundColor];
  seen.gains = each(".kind .gain", cell => [cell.textContent, cell.parentElement.classList[0]]);
  seen.cards = each(".kind[open] .table", table => table.classList.contains("cards"));
  seen.beyond = beyond();
  each("details", details => { details.open = true; });
  await new Promise(done => setTimeout(done, 100));
  seen.beyond.push(...beyond());
  seen.drawn = each(".chart", chart => chart.querySelectorAll(".trace, .hm").length);
  seen.labels = each("#chart1 .legendtext", entry => entry.textContent);
  const chart = document.getElementById("chart1");
  const entry = chart.querySelectorAll(".legendtoggle")[1];
  const shown = new Promise(done => chart.on("plotly_restyle", done));
  for (const kind of ["mousedown", "mouseup"]) entry.dispatchEvent(new MouseEvent(kind));
  await shown;
  seen.hidden = chart.data.filter(trace => trace.visible === "legendonly").map(trace => trace.name);
  const select = document.querySelector("select");
  if (select) {
    select.selectedIndex = 1;
    select.dispatchEvent(new Event("change"));
    seen.figure = document.getElementById(select.dataset.chart).dataset.figure;
  }
  const table = document.querySelector(".kind table");
  const column = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent);
  click("th:nth-child(2) button", table);
  seen.ascending = column();
  click("th:nth-child(2) button", table);
  seen.descending = column();
  const background = () => getComputedStyle(document.body).backgroundColor;
  seen.themes = [background()];
  click("#theme");
  seen.themes.push(background(), chart.layout.paper_bgcolor);
  seen.buttons = each("#chart1 .modebar-btn", button => button.dataset.title);
  seen.wide = document.documentElement.scrollWidth > innerWidth;
}
read().catch(error => { seen.error = String(error); }).then(() => {
  parent.postMessage(JSON.stringify(seen), "*");
});
</script>
"""
# Chromium has no window that is as narrow as a telephone, but a frame may be.
FRAME = """
<iframe src="read.html" style="border: 0; width: {width}px; height: 900px"></iframe>
<script>onmessage = message => {{ document.body.dataset.seen = message.data; }};</script>
"""


def opened(page, width=1300, *flags):
    """What the reader has seen in a page of that width; the browser has nothing to complain of."""
    told, frame = page.with_name("read.html"), page.with_name("frame.html")
    told.write_text(page.read_text() + READER)
    frame.write_text(FRAME.format(width=width))
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    words += ["--window-size=1400,1000", "--virtual-time-budget=20000", *flags]
    words += ["--dump-dom", frame.as_uri()]
    found = subprocess.run(words, capture_output=True, text=True, timeout=120)
    (seen,) = re.findall(r'data-seen="([^"]*)"', found.stdout)
    console = [line for line in found.stderr.splitlines() if "CONSOLE" in line]
    seen = json.loads(html.unescape(seen))
    assert not console and "error" not in seen
    return seen


@pytest.fixture
def undrawn(monkeypatch):
    """No figures beside the page, which take most of the time."""
    monkeypatch.setattr("lottery_tf.reporting.reports.draw", lambda figure, title: {})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of two recipes at two sparsities."""
    folder = tmp_path_factory.mktemp("report")
    found = report([write_study(folder / "runs", (0.75, 0.9))])
    count = write(found, folder / "out" / "page.html", flops=False)
    return folder / "out", count


def test_every_figure_is_a_png_and_an_svg(written):
    folder, count = written
    names = {file.name for file in (folder / "page").iterdir()}
    assert len(names) == count
    figures = ["accuracy_method_imp", "gain_method_imp", "layers_method_imp", "seconds_method_imp"]
    figures += [f"training_method_imp_{share}_pruned" for share in ("75.00", "90.00")]
    wanted = {"runs.csv", "table.csv", "table.md", "pooled.csv", "pooled.md"}
    assert names == wanted | {f + suffix for f in figures for suffix in (".png", ".svg")}
    assert (folder / "page" / "gain_method_imp.png").read_bytes().startswith(b"\x89PNG")
    # Beside the outlines of each text matplotlib writes it into a comment.
    drawn = (folder / "page" / "training_method_imp_75.00_pruned.svg").read_text()
    for words in (
        "vanilla",
        "tost",
        "dev accuracy, %",
        "β of soft activations",
        "α of ghost skips",
        "epoch",
    ):
        assert f"<!-- {words} -->" in drawn, words
    assert "<!-- first -->" in (folder / "page" / "layers_method_imp.svg").read_text()


def test_the_page_asks_no_network(written):
    text = (written[0] / "page.html").read_text()
    own = re.sub(r"<script>/\*\*.*?</script>", "", text, flags=re.DOTALL)
    assert len(own) < 100_000 and "://" not in own


@pytest.mark.e2e
@pytest.mark.skipif(not CHROMIUM, reason="no chromium here (.ci/run installs it)")
@pytest.mark.parametrize("width", [1300, 400])
def test_a_reader_in_a_browser(written, width):
    seen = opened(written[0] / "page.html", width)
    assert seen["width"] == width and not seen["wide"] and not seen["beyond"]
    (sentence,) = seen["verdict"]
    assert sentence.startswith("tost is ahead of vanilla at both sparsities, by 2.00 points;")
    assert seen["map"] == [["(+2.00)", "pale"]] * 2
    assert seen["open"] == [True] * 2 and seen["best"] == []
    assert seen["badges"] == [["tost", "highest mean"]] * 2
    assert seen["look"] == ["400", "rgba(0, 0, 0, 0)"]
    assert seen["gains"] == [["", None], ["(+2.00 ± 0.58)", "pale"]] * 2
    assert seen["cards"] == [width == 400] * 2
    # Accuracy: for each of two recipes a line and two bounds; gains: one; four curves, one of β and
    # one of α; a heat map; a point for each recipe.
    assert seen["drawn"] == [6, 1, 6, 1, 2]
    assert seen["labels"] == ["vanilla", "tost"]
    assert seen["hidden"] == ["tost"] * 3
    assert seen["figure"] == "3"
    assert [float(cell.split()[0]) for cell in seen["ascending"]] == [82.0, 84.0]
    assert [float(cell.split()[0]) for cell in seen["descending"]] == [84.0, 82.0]
    light, dark, chart = seen["themes"]
    assert (light, dark, chart) == ("rgb(255, 255, 255)", "rgb(20, 22, 26)", "#14161a")
    assert "Zoom" in seen["buttons"] and "Share chart..." not in seen["buttons"]


@pytest.mark.e2e
@pytest.mark.skipif(not CHROMIUM, reason="no chromium here (.ci/run installs it)")
def test_a_reader_who_prefers_dark(written):
    seen = opened(written[0] / "page.html", 1300, "--blink-settings=preferredColorScheme=0")
    assert seen["themes"][:2] == ["rgb(20, 22, 26)", "rgb(255, 255, 255)"]


def test_words_of_runs_are_no_html(undrawn, tmp_path):
    ticket = write_ticket(tmp_path / "runs" / "ticket", 0)
    write_run(tmp_path / "runs" / "a", ticket, "</script><b>")
    write(report([tmp_path / "runs"]), tmp_path / "page.html", flops=False)
    text = (tmp_path / "page.html").read_text()
    assert "</script><b>" not in text and "&lt;/script&gt;&lt;b&gt;" in text


def test_files_that_are_missing_are_in_no_figure(undrawn, tmp_path, lines):
    runs = write_study(tmp_path / "runs")
    (runs / "seed_0" / "0_tost" / "metrics.jsonl").write_text("{")
    (runs / "seed_1" / "find" / "tickets" / "round_00" / "masks.npz").unlink()
    write(report([runs]), tmp_path / "page.html", flops=False)
    for words in ("1 folder without metrics.jsonl, or with", "1 folder without masks.npz, or with"):
        assert words in " ".join(lines) and words in (tmp_path / "page.html").read_text()


def test_epochs_that_did_not_look_at_dev_images_are_no_gaps(tmp_path):
    folder = write_run(tmp_path / "runs" / "run", write_ticket(tmp_path / "runs" / "ticket", 0))
    rows = [{"epoch": epoch, "accuracy": epoch / 10} for epoch in range(1, 5)]
    for row in rows[1::2]:
        row["dev_accuracy"] = row["accuracy"] / 2
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sections = Figures(report([tmp_path / "runs"]), {}).sections()
    (training,) = (figure for s in sections for figure in s.figures if "training" in figure.name)
    dev, train = (panel.series[0] for panel in training.panels)
    assert (dev.x, dev.y) == ([2, 4], pytest.approx([10, 20]))
    assert (train.x, train.y) == ([1, 2, 3, 4], pytest.approx([10, 20, 30, 40]))


@pytest.fixture
def two_rates(tmp_path):
    """Vanilla breaks down at the third rate; only tost has a share."""
    ticket = write_ticket(tmp_path / "runs" / "ticket", 0)
    for rate, dev in ((0.1, 0.8), (0.2, 0.9), (0.4, 0.1)):
        folder = tmp_path / "runs" / f"vanilla_{rate}"
        write_run(folder, ticket, learning_rate=rate, dev_accuracy=dev)
        for share in (0.0, 0.5):
            more = {"tweaks": {"soft_activation": {"share": share}}}
            more["dev_accuracy"] = dev + share / 10
            folder = tmp_path / "runs" / f"tost_{rate}_{share}"
            write_run(folder, ticket, "tost", learning_rate=rate, **more)
    return tmp_path / "runs"


def test_what_was_tried_is_shown(tmp_path, two_rates):
    found = report([two_rates], ("learning_rate", "soft_activation_share"))
    by_rate, by_share = next(
        s.figures for s in Figures(found, {}).sections() if s.title == "Tuning"
    )
    assert by_rate.title.endswith("75.00 % pruned, learning_rate")
    assert not by_rate.falling and list(by_rate.some_ticks.values()) == ["0.1", "0.2", "0.4"]
    (panel,) = by_rate.panels
    points = [(s.label, s.x, s.y) for s in panel.series]
    assert points == [
        ("vanilla", [0.1, 0.2, 0.4], pytest.approx([80, 90, 10])),
        ("tost", [0.1, 0.2, 0.4], pytest.approx([85, 95, 15])),  # with the chosen share
    ]
    assert panel.window == pytest.approx((85, 95.5))  # 5 below 90, and a twentieth above 95
    (panel,) = by_share.panels
    assert not by_share.ticks and panel.window is None
    assert [(s.label, s.x, s.y) for s in panel.series] == [
        ("tost", [0.0, 0.5], pytest.approx([90, 95]))
    ]
    write(
        report([two_rates / "vanilla_0.1", two_rates / "vanilla_0.4"]),
        tmp_path / "page.html",
        False,
    )
    assert (tmp_path / "page" / "tuning_75.00_pruned.svg").exists()


@pytest.mark.e2e
@pytest.mark.skipif(not CHROMIUM, reason="no chromium here (.ci/run installs it)")
def test_what_was_tried_in_a_browser(undrawn, tmp_path, two_rates):
    found = report([two_rates], ("learning_rate", "soft_activation_share"))
    write(found, tmp_path / "page.html", flops=False)
    seen = opened(tmp_path / "page.html")
    # Accuracy, gain, then a line for each recipe.
    assert seen["drawn"][:3] == [2, 1, 2]


def test_one_recipe_of_several_methods_is_compared_by_method(tmp_path):
    for method in ("imp", "snip"):
        ticket = write_ticket(tmp_path / "runs" / method, 0, method=method)
        write_run(tmp_path / "runs" / f"run_{method}", ticket)
    write(report([tmp_path / "runs"]), tmp_path / "page.html", flops=False)
    drawn = (tmp_path / "page" / "accuracy.svg").read_text()
    assert "<!-- imp -->" in drawn and "<!-- snip -->" in drawn
    assert not (tmp_path / "page" / "gain.svg").exists()


@pytest.fixture
def two_methods(tmp_path):
    """Three seeds of IMP and SNIP; tost gains 4, 5, 6 points and -3, 1, 2, soft units -0.04."""
    for seed in range(3):
        for method, gains in {"imp": (4, 5, 6), "snip": (-3, 1, 2)}.items():
            folder = tmp_path / "runs" / f"{method}_{seed}"
            ticket = write_ticket(folder / "ticket", seed, method=method)
            write_run(folder / "vanilla", ticket, seed=seed)
            write_run(folder / "tost", ticket, "tost", 0.8 + gains[seed] / 100, seed=seed)
            if method == "imp":
                write_run(folder / "soft", ticket, "soft_activation", 0.7996, seed=seed)
    return report([tmp_path / "runs"])


def test_titles_have_what_tells_figures_apart(tmp_path):
    for number, dataset in enumerate(("digits", "idx")):
        for model in ("lenet", "conv4")[: number + 1]:
            # Images and their number go together.
            more = {"dataset": dataset, "train_examples": 100 * (number + 1), "model": model}
            folder = tmp_path / "runs" / f"{dataset}_{model}"
            write_run(folder / "run", write_ticket(folder / "ticket", 0), **more)
    sections = Figures(report([tmp_path / "runs"]), {}).sections()
    titles = [figure.title for figure in sections[0].figures]
    assert titles == [
        "dataset digits, model lenet",
        "dataset idx, model conv4",
        "dataset idx, model lenet",
    ]


def test_gains_of_several_recipes_are_a_map(tmp_path, two_methods, monkeypatch):
    (heat,) = next(
        s.figures for s in Figures(two_methods, {}).sections() if s.title == "Where it gains"
    )
    assert (heat.rows, heat.columns) == (
        ["75 % (imp)", "75 % (snip)"],
        ["soft_activation", "tost"],
    )
    # Where all differences are one there is no test; there is no -0.0.
    assert heat.texts == [["(+0.0)", "+5.0"], ["", "(+0.0)"]]
    assert heat.pale == [[True, False], [False, True]]
    assert heat.cells == [[pytest.approx(-0.04), pytest.approx(5)], [None, pytest.approx(0)]]
    alone = {heat.name: draw(heat, "")}  # the others, too, take their time
    monkeypatch.setattr(
        "lottery_tf.reporting.reports.draw", lambda figure, title: alone.get(figure.name, {})
    )
    write(two_methods, tmp_path / "page.html", flops=False)
    assert "<!-- +5.0 -->" in (tmp_path / "page" / "gain_map.svg").read_text()


@pytest.mark.e2e
@pytest.mark.skipif(not CHROMIUM, reason="no chromium here (.ci/run installs it)")
@pytest.mark.parametrize("width", [1300, 400])
def test_gains_in_a_browser(undrawn, tmp_path, two_methods, width):
    """What is not established is pale and in brackets, on the map and in the tables."""
    write(two_methods, tmp_path / "page.html", flops=False)
    seen = opened(tmp_path / "page.html", width)
    assert not seen["wide"] and not seen["beyond"]
    assert seen["map"] == [["(-0.04)", "pale"], ["+5.00", "ahead"], ["", ""], ["(+0.00)", "pale"]]
    assert seen["best"] == ["tost"]
    assert seen["badges"] == [["tost", "best"], ["vanilla", "tie"], ["tost", "tie"]]
    assert [text for text, _ in seen["gains"]] == [
        *("", "(-0.04 ± 0.00)", "+5.00 ± 0.58"),
        *("", "(+0.00 ± 1.53)"),
    ]


@pytest.fixture
def wide(tmp_path):
    """Fourteen recipes with names that are long, six settings, and a ticket a method."""
    for method in ("imp", "a_method_that_has_a_very_long_name_indeed"):
        for seed in range(2):
            folder = tmp_path / "runs" / f"{method}_{seed}"
            ticket = write_ticket(folder / "ticket", seed, method=method)
            write_run(folder / "vanilla", ticket, seed=seed)
            for number in range(14):
                more = {f"setting_{n}": number % (n + 2) for n in range(6)}
                names = ",".join(["soft_activation", "ghost_skips", "rescaled_init"][: number % 4])
                write_run(
                    *(folder / f"{number}", ticket, f"recipe_{number},{names}".strip(",")),
                    *(0.8 + number * (seed + 1) / 1000, seed, {f"tweak_{number}": more}),
                )
    return report([tmp_path / "runs"])


@pytest.mark.e2e
@pytest.mark.skipif(not CHROMIUM, reason="no chromium here (.ci/run installs it)")
@pytest.mark.parametrize("width", [1300, 400])
def test_nothing_of_a_large_report_is_off_the_screen(undrawn, tmp_path, wide, width):
    write(wide, tmp_path / "page.html", flops=False)
    seen = opened(tmp_path / "page.html", width)
    assert not seen["wide"] and not seen["beyond"]


def test_vanilla_has_its_colour_alone():
    looks = [style(number) for number in range(1 + 3 * 7)]
    assert looks[0].colour not in {look.colour for look in looks[1:]}
    assert len({(look.colour, look.marker) for look in looks}) == len(looks)
    assert len({(look.colour, look.symbol) for look in looks}) == len(looks)


def test_many_sparsities_have_room():
    shares = [100 * 0.8**number for number in range(19)]
    chart = Chart("a", "", "left", [], shares)
    assert list(chart.some_ticks) == shares[::3] and chart.some_ticks[100] == "100"
    factors = side_by_side(8, shares)
    # Neighbours are 1.25 apart, all points of one sparsity together less.
    assert max(factors) / min(factors) < 1.25 and sum(factors) == pytest.approx(8, abs=0.02)
